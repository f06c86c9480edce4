"""The registries and indexes of the platform, and the small status changes that keep them true.

Everything that a scheduling step needs is kept up to date as things change (READY tasks of each group, unclaimed
workers of each pool, both by worker tag), so that a step costs what has changed, not what exists.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

from raydog.emulator.clock import Clock, Timer
from raydog.emulator.entities import (
    GROUP_ALLOCATES,
    POOL_FINISHED,
    TASK_FINISHED,
    TASK_IN_PROGRESS,
    ComputeRequirement,
    Instance,
    Node,
    Pool,
    Task,
    TaskGroup,
    Worker,
    WorkRequirement,
)
from raydog.emulator.events import Events
from raydog.emulator.watching import Watchers

log = logging.getLogger(__name__)
_TASK_PASSES = frozenset({"PENDING", "ALLOCATED", "DOWNLOADING", "UPLOADING"})
"""Statuses that a task has for a moment only: no events."""


def _shift(counts: dict[str, int], old: str | None, new: str | None) -> None:
    if old is not None:
        left = counts[old] - 1
        if left:
            counts[old] = left
        else:
            del counts[old]
    if new is not None:
        counts[new] = counts.get(new, 0) + 1


class State:
    """All entities, finished ones too. Runs on one thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.requirements: dict[str, WorkRequirement] = {}
        self.requirement_names: dict[tuple[str, str], WorkRequirement] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.tasks: dict[str, Task] = {}
        self.pools: dict[str, Pool] = {}
        self.pool_names: dict[tuple[str, str], Pool] = {}
        self.nodes: dict[str, Node] = {}
        self.workers: dict[str, Worker] = {}
        self.computes: dict[str, ComputeRequirement] = {}
        self.compute_names: dict[tuple[str, str], ComputeRequirement] = {}
        self.instances: dict[str, Instance] = {}
        self.events = Events()
        self.watchers = Watchers()
        self.namespaces: dict[str, str] = {}
        """Namespace to its id, in the order of first use."""
        self._hungry: dict[str | None, dict[TaskGroup, None]] = {}
        self._live_pools: dict[str | None, dict[Pool, None]] = {}
        self.dirty_pools: dict[Pool, None] = {}
        self.outbox: deque[Callable[[], None]] = deque()
        """Calls to the driver that wait until the state is consistent: they may answer at once."""
        self.settle: Callable[[], None] = lambda: None
        """Run scheduling until nothing is left to do; the platform puts its own here."""

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run ``action`` later, then settle."""

        def fire() -> None:
            action()
            self.settle()

        return self.clock.call_later(seconds, fire)

    # Statuses

    def set_task_status(self, task: Task, status: str) -> None:
        group = task.group
        old = task.status
        _shift(group.counts, old, status)
        group.unfinished += (old in TASK_FINISHED) - (status in TASK_FINISHED)
        group.in_progress += (status in TASK_IN_PROGRESS) - (old in TASK_IN_PROGRESS)
        if status == "READY":
            group.ready[task] = None
        elif old == "READY":
            group.ready.pop(task, None)
        task.status = status
        self.watchers.changed(group.requirement.id)
        log.info("task %s: %s", task.name or task.id, status)
        if status in _TASK_PASSES or (status == "READY" and not task.retry_count):
            self.events.revision += 1
        else:
            detail = task.errors[-1]["error"] if task.errors and status in {"FAILED", "READY"} else ""
            if status == "READY":
                detail += f"; retry {task.retry_count}"
            owner = group.requirement.id
            self.events.note(self.clock.now(), "task", task.id, task.name or task.id, owner, status, detail)

    def set_requirement_status(self, requirement: WorkRequirement, status: str) -> None:
        if requirement.status != status:
            requirement.status = status
            requirement.status_changed = self.clock.now()
            log.info("work requirement %s: %s", requirement.name, status)
            self.watchers.changed(requirement.id)
            self.note_requirement(requirement)

    def note_requirement(self, requirement: WorkRequirement) -> None:
        one = requirement
        self.events.note(self.clock.now(), "work requirement", one.id, one.name, one.id, one.status)

    def set_group_status(self, group: TaskGroup, status: str) -> None:
        if group.status != status:
            group.status = status
            group.status_changed = self.clock.now()
            self.watchers.changed(group.requirement.id)
            self.events.revision += 1

    def set_node_status(self, node: Node, status: str, reason: str = "") -> None:
        _shift(node.pool.node_counts, node.status, status)
        node.status = status
        node.status_changed = self.clock.now()
        self.watchers.changed(node.pool.id)
        log.info("node on %s: %s", node.instance.hostname, status)
        self.note_node(node, status, reason)

    def note_node(self, node: Node, what: str, detail: str = "") -> None:
        """``what`` is its status, or the name of something that happened to it."""
        name = node.instance.hostname
        self.events.note(self.clock.now(), "node", node.id, name, node.pool.id, what, detail)

    def set_worker_status(self, worker: Worker, status: str) -> None:
        _shift(worker.node.pool.worker_counts, worker.status, status)
        worker.status = status
        self.watchers.changed(worker.node.pool.id)
        self.events.revision += 1

    def set_instance_status(self, instance: Instance, status: str) -> None:
        _shift(instance.compute.counts, instance.status, status)
        instance.status = status
        instance.status_changed = self.clock.now()
        self.watchers.changed(instance.compute.id)
        log.info("instance %s of %s: %s", instance.hostname, instance.compute.name, status)
        self.note_instance(instance, status)

    def note_instance(self, instance: Instance, what: str, detail: str = "") -> None:
        pool = instance.compute.pool
        owner = pool.id if pool is not None else instance.compute.id
        self.events.note(self.clock.now(), "instance", instance.id, instance.hostname, owner, what, detail)

    def set_pool_status(self, pool: Pool, status: str) -> None:
        if pool.status != status:
            pool.status = status
            pool.status_changed = self.clock.now()
            self.watchers.changed(pool.id)
            log.info("worker pool %s: %s", pool.name, status)
            self.note_pool(pool, status)

    def note_pool(self, pool: Pool, what: str, detail: str = "") -> None:
        self.events.note(self.clock.now(), "worker pool", pool.id, pool.name, pool.id, what, detail)

    def set_compute_status(self, compute: ComputeRequirement, status: str) -> None:
        if compute.status != status:
            compute.status = status
            compute.status_changed = self.clock.now()
            self.watchers.changed(compute.id)
            self.events.revision += 1

    # Counting new things

    def count_task(self, task: Task) -> None:
        _shift(task.group.counts, None, task.status)
        task.group.unfinished += 1
        self.watchers.changed(task.group.requirement.id)
        self.events.revision += 1
        if task.status == "READY":
            task.group.ready[task] = None

    def uncount_task(self, task: Task) -> None:
        """It is deleted."""
        _shift(task.group.counts, task.status, None)
        self.watchers.changed(task.group.requirement.id)
        self.events.revision += 1

    def count_node(self, node: Node) -> None:
        _shift(node.pool.node_counts, None, node.status)
        self.watchers.changed(node.pool.id)
        self.note_node(node, node.status, "registered")

    def count_worker(self, worker: Worker) -> None:
        _shift(worker.node.pool.worker_counts, None, worker.status)

    def count_instance(self, instance: Instance) -> None:
        _shift(instance.compute.counts, None, instance.status)
        self.events.revision += 1

    # Who waits for whom

    def refresh_hunger(self, group: TaskGroup) -> None:
        """To be called whenever the group's READY tasks or its right to run them changed."""
        hungry = (
            bool(group.ready)
            and group.status in GROUP_ALLOCATES
            and group.requirement.status in {"RUNNING", "FINISHING"}
            and not group.waiting_on_dependency
        )
        for tag in group.spec.worker_tags or (None,):
            if hungry:
                self._hungry.setdefault(tag, {})[group] = None
            else:
                self._hungry.get(tag, {}).pop(group, None)
        for pool in self.pools_for(group):
            self.dirty_pools[pool] = None

    def hungry_for(self, pool: Pool) -> Iterator[TaskGroup]:
        """Groups with READY tasks whose tags fit the pool."""
        yield from self._hungry.get(None, {})
        if pool.worker_tag is not None:
            yield from self._hungry.get(pool.worker_tag, {})

    def pools_for(self, group: TaskGroup) -> list[Pool]:
        """Live pools whose tag fits the group."""
        if not group.spec.worker_tags:
            return [pool for pools in self._live_pools.values() for pool in pools]
        return [pool for tag in dict.fromkeys(group.spec.worker_tags) for pool in self._live_pools.get(tag, {})]

    def pools_with_tag(self, tag: str | None) -> int:
        return len(self._live_pools.get(tag, {}))

    def add_live_pool(self, pool: Pool) -> None:
        self._live_pools.setdefault(pool.worker_tag, {})[pool] = None
        self.dirty_pools[pool] = None
        self.note_pool(pool, pool.status, "provisioned")

    def drop_live_pool(self, pool: Pool) -> None:
        pools = self._live_pools.get(pool.worker_tag, {})
        pools.pop(pool, None)
        if not pools:
            self._live_pools.pop(pool.worker_tag, None)

    def touch(self, pool: Pool) -> None:
        """The pool's workers or instances changed: look at it in the next step."""
        if pool.status not in POOL_FINISHED:
            self.dirty_pools[pool] = None

    # Workers

    def free_worker(self, worker: Worker) -> None:
        """The worker's task ended: it can take another, or its node becomes idle."""
        node, pool = worker.node, worker.node.pool
        worker.task = None
        node.claimed -= 1
        pool.claimed -= 1
        pool.last_released = self.clock.now()
        if worker.status in {"STARTING", "RUNNING"}:
            self.set_worker_status(worker, "STOPPED")
            if not node.draining:
                pool.idle[worker] = None
        if not node.claimed:
            pool.newly_idle[node] = None
        self.dirty_pools[pool] = None

    def namespace_id(self, namespace: str, make: Callable[[], str]) -> str:
        if namespace not in self.namespaces:
            self.namespaces[namespace] = make()
        return self.namespaces[namespace]
