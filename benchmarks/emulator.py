"""The emulator with fleets that nobody can rent: simulated nodes, the real SDK over HTTP, one process.

There is no peer. What a step costs is compared with itself: the same event at 10,000 nodes and at 100.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from yellowdog_client import PlatformClient
from yellowdog_client.model import (
    ApiKey,
    AutoShutdown,
    ComputeRequirementTemplateUsage,
    NodeWorkerTarget,
    ProvisionedWorkerPoolProperties,
    RunSpecification,
    ServicesSchema,
    SliceReference,
    Task,
    TaskGroup,
    TaskSearch,
    WorkRequirement,
)

from raydog.emulator import VirtualClock, daemon
from raydog.emulator.entities import Task as PlatformTask
from raydog.emulator.platform import Platform
from raydog.emulator.record import StateDir
from raydog.emulator.simulated import SimulatedDriver
from raydog.emulator.templates import Templates
from raydog.waiting import Pending, Ready, wait_until

NAMESPACE = "bench"
BATCH = 1_000
NODES = 10_000
FEW, MANY = 100, 9_990
"""Nodes that are there while events are timed; a pool takes 10,000 at most."""
EVENTS = 200
SCRIPT = "echo hello from the task of a node\n" * 60
"""About 2 kB, as RayDog's own scripts."""


def run() -> list[dict[str, Any]]:
    """Measure; see `benchmarks.__main__` for the rows."""
    return [*_fleet(), *_growth()]


# Over HTTP, in a process of its own


def _fleet() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="raydog-bench-") as folder, mock.patch.dict(os.environ, NO_PROXY="*"):
        state = StateDir(Path(folder) / "emulator")
        emulator = daemon.start(state, daemon.Settings(instances="simulated"), lambda _text: None)
        client = PlatformClient.create(
            ServicesSchema(defaultUrl=emulator.url), ApiKey(emulator.key_id, emulator.key_secret)
        )
        try:
            pid = emulator.record.pid
            at_rest = _megabytes(pid)
            group_id = _prepare(client)
            first = _seconds(lambda: _grow(client, group_id, BATCH))
            page = statistics.median(_seconds(lambda: _page(client, group_id)) for _ in range(9))
            bare = statistics.median(_seconds(lambda: _bare_page(emulator, group_id)) for _ in range(9))
            rest = _seconds(lambda: _grow(client, group_id, NODES))
            memory = _megabytes(pid)
        finally:
            client.close()
            daemon.stop(state)
    return [
        _row("1,000 nodes, call to running tasks", "s", first, goal=5.0),
        _row("9,000 more nodes, likewise", "s", rest, goal=None),
        _row("page of 1,000 tasks", "ms", bare * 1000, goal=100.0),
        _row("page of 1,000 tasks, with the SDK", "ms", page * 1000, goal=None, floor=bare * 1000),
        _row("memory at 10,000 nodes", "MB", memory, goal=500.0, floor=at_rest),
    ]


def _prepare(client: PlatformClient) -> str:
    """A pool without nodes and a group without tasks; returns the group's id."""
    client.worker_pool_client.provision_worker_pool(
        ComputeRequirementTemplateUsage(
            templateId="local/worker", requirementNamespace=NAMESPACE, requirementName="pool", targetInstanceCount=0
        ),
        ProvisionedWorkerPoolProperties(
            createNodeWorkers=NodeWorkerTarget.per_node(1),
            minNodes=0,
            maxNodes=NODES,
            workerTag="ray",
            idleNodeShutdown=AutoShutdown(enabled=True, timeout=timedelta(0)),
        ),
    )
    group = TaskGroup(name="group", runSpecification=RunSpecification(taskTypes=["bash"], workerTags=["ray"]))
    added = client.work_client.add_work_requirement(
        WorkRequirement(namespace=NAMESPACE, name="work", taskGroups=[group])
    )
    assert added.taskGroups is not None
    return str(added.taskGroups[0].id)


def _grow(client: PlatformClient, group_id: str, total: int) -> None:
    """Add tasks up to ``total``, a thousand a call, and wait until each runs on a node of its own."""
    work = client.work_client
    there = _executing(client)
    for start in range(there, total, BATCH):
        tasks = [
            Task(name=f"node-{number:05d}", taskType="bash", arguments=["taskdata.txt"], taskData=SCRIPT)
            for number in range(start, min(start + BATCH, total))
        ]
        work.add_tasks_to_task_group_by_id(group_id, tasks)

    def all_run() -> Ready[int] | Pending:
        count = _executing(client)
        return Ready(count) if count >= total else Pending(f"{count} of {total} tasks run")

    wait_until(all_run, 120.0)


def _executing(client: PlatformClient) -> int:
    requirement = client.work_client.get_work_requirement_by_name(NAMESPACE, "work")
    assert requirement.taskGroups is not None
    summary = requirement.taskGroups[0].taskSummary
    assert summary is not None
    assert summary.statusCounts is not None
    counts = {str(status): count for status, count in summary.statusCounts.items()}
    return counts.get("EXECUTING", 0)


def _page(client: PlatformClient, group_id: str) -> None:
    found = client.work_client.find_tasks_slice(TaskSearch(taskGroupId=group_id), SliceReference(size=BATCH))
    assert found.items is not None
    assert len(found.items) == BATCH


def _bare_page(emulator: daemon.Running, group_id: str) -> None:
    page = emulator.get(f"/work/tasks?taskGroupId={group_id}&size={BATCH}")
    assert len(page["items"]) == BATCH


def _megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no VmRSS")


# Growth: the same event at few and at many nodes, without the transport


def _growth() -> list[dict[str, Any]]:
    few, many = _Fleet(FEW), _Fleet(MANY)
    rows = []
    for name, event in (
        ("task gets a node", _Fleet.come),
        ("abort, node leaves", _Fleet.go),
        ("preemption, task fails", _Fleet.preempted),
    ):
        pairs = [(event(few), event(many)) for _ in range(EVENTS)]  # in turn: both see the same load
        at_few, at_many = (statistics.median(times) for times in zip(*pairs, strict=True))
        rows += [
            _row(f"{name}, at 10,000", "µs", at_many * 1e6, goal=None, floor=at_few * 1e6),
            _row(f"{name}, growth", "x", at_many / at_few, goal=1.5, floor=1.0),
        ]
    return rows


class _Fleet:
    """A platform with so many nodes that run a task each; its clock stands still."""

    def __init__(self, nodes: int) -> None:
        clock = VirtualClock()
        driver = SimulatedDriver(clock)
        self._platform = Platform(clock, driver, Templates())
        asyncio.run(driver.start(self._platform))
        specification = {"taskTypes": ["bash"], "workerTags": ["ray"]}
        group = {"name": "group", "runSpecification": specification}
        requirement = self._platform.work.add({"namespace": NAMESPACE, "name": "work", "taskGroups": [group]})
        self._group = requirement.groups[0]
        usage = {"templateId": "local/worker", "requirementNamespace": NAMESPACE, "requirementName": "pool"}
        properties = {"workerTag": "ray", "idleNodeShutdown": {"enabled": True, "timeout": "P0D"}}
        self._platform.pools.provision(
            {"requirementTemplateUsage": {**usage, "targetInstanceCount": 0}, "provisionedProperties": properties}
        )
        self._platform.tasks.add(self._group, [{"taskType": "bash"} for _ in range(nodes)])
        self._platform.settle()
        assert self._group.counts == {"EXECUTING": nodes}

    def come(self) -> float:
        seconds, task = self._come()
        self._end(task)
        return seconds

    def go(self) -> float:
        _, task = self._come()
        return self._end(task)

    def preempted(self) -> float:
        _, task = self._come()
        assert task.worker is not None
        instance = task.worker.node.instance.id
        seconds = _seconds(lambda: self._platform.preempt(instance))
        assert task.status == "FAILED"
        return seconds

    def _come(self) -> tuple[float, PlatformTask]:
        started = time.perf_counter()
        (task,) = self._platform.tasks.add(self._group, [{"taskType": "bash"}])
        self._platform.settle()
        seconds = time.perf_counter() - started
        assert task.status == "EXECUTING"
        return seconds, task

    def _end(self, task: PlatformTask) -> float:
        started = time.perf_counter()
        self._platform.tasks.cancel(task, True)
        self._platform.settle()
        seconds = time.perf_counter() - started
        assert task.status == "ABORTED"
        return seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _row(name: str, unit: str, ours: float, *, goal: float | None, floor: float | None = None) -> dict[str, Any]:
    met = None if goal is None else ours <= goal
    return {"name": name, "unit": unit, "ours": ours, "peer": None, "floor": floor, "goal": goal, "met": met}
