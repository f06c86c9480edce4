"""Nodes that go away by themselves: gone when Ray looks next, drained before if there is a warning, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from raydog.autoscaler import on_head
from raydog.emulator import Emulator
from raydog.emulator.entities import Task
from raydog.emulator.server import Server
from raydog.yellowdog import naming
from raydog.yellowdog.records import NodeRequest
from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
ALWAYS = 1_000_000


def fail(room: HeadRoom, node: str) -> None:
    task = room.task(node).task_id
    room.emulator.call(lambda server: server.platform.task_finished(task, 1, None))


def preempt(room: HeadRoom, node: str) -> None:
    room.emulator.preempt(room.instance_of(node))


def vanish(room: HeadRoom, node: str) -> None:
    machine = room.instance_of(node)
    room.emulator.call(lambda server: server.platform.instance_lost(machine, "the instance has vanished"))


def terminate_machine(room: HeadRoom, node: str) -> None:
    machine = room.task(node).platform_node_id
    assert machine is not None
    room.gateway.terminate_machine(machine)


def abort(room: HeadRoom, node: str) -> None:
    room.gateway.abort_node(room.task(node).task_id)


def lose(room: HeadRoom, node: str, until_the_task_fails: float = 1.0) -> None:
    """The platform loses the machine, and only after some seconds does its task say so."""
    machine = room.instance_of(node)

    def lost_before_its_task(server: Server) -> None:
        platform = server.platform
        fail_task = platform.tasks.lost

        def later(task: Task, reason: str) -> None:
            def now() -> None:
                fail_task(task, reason)
                platform.settle()

            platform.clock.call_later(until_the_task_fails, now)

        platform.tasks.lost = later  # type: ignore[method-assign]
        try:
            platform.preempt(machine)
        finally:
            platform.tasks.lost = fail_task  # type: ignore[method-assign]

    room.emulator.call(lost_before_its_task)


ENDS = pytest.mark.parametrize("end", [fail, preempt, vanish, terminate_machine, abort, lose], ids=lambda f: f.__name__)


@ENDS
def test_dead_node_is_gone_on_the_next_tick_and_is_replaced(
    room: HeadRoom, end: Callable[[HeadRoom, str], None]
) -> None:
    provider = room.provider()
    adapter = room.adapter(provider)
    dead, alive = room.launch(provider, 2)
    running(provider, [dead, alive])
    end(room, dead)
    eventually(lambda: dead not in adapter.get_non_terminated(), timeout=2, what="it is gone")
    assert alive in adapter.get_non_terminated()
    assert provider.is_terminated(dead)
    assert provider.node_tags(dead) == {}
    new = room.launch(provider, 1)
    running(provider, [alive, *new])
    eventually(lambda: {node.name for node in room.tasks()} == {alive, *new}, what="its task has ended")
    eventually(lambda: room.emulator.status()["liveInstances"] == 3, what="its machine has gone")
    assert dead not in provider.non_terminated_nodes({})
    eventually(lambda: provider.internal_ip(dead) is None, what="its address is forgotten")


def test_node_whose_machine_is_lost_is_gone_though_its_task_executes(room: HeadRoom) -> None:
    provider = room.provider()
    dead, alive = room.launch(provider, 2)
    running(provider, [dead, alive])
    lose(room, dead, until_the_task_fails=3600)
    assert room.task(dead).status == "EXECUTING"
    eventually(lambda: dead not in provider.non_terminated_nodes({}), timeout=2, what="it is gone")
    eventually(lambda: room.task(dead).abort_requested, what="its task is told to end")
    assert room.task(dead).status == "EXECUTING", "there is no agent to hear it"
    assert dead not in provider.non_terminated_nodes({})
    running(provider, [alive, *room.launch(provider, 1)])


@pytest.mark.parametrize(
    ("end", "category", "words"),
    [
        (fail, "NodeFailed", "PROCESS_NON_ZERO_EXIT"),
        (preempt, "NodeFailed", "the instance was preempted"),
        (vanish, "NodeFailed", "the instance has vanished"),
        (lose, "NodeLost", "the platform has lost its machine"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_reason_of_a_nodes_end_is_kept(
    room: HeadRoom, end: Callable[[HeadRoom, str], None], category: str, words: str
) -> None:
    provider = room.provider()
    (dead,) = room.launch(provider)
    running(provider, [dead])
    end(room, dead)
    eventually(lambda: bool(room.failures()), what="the reason is kept")
    failure = room.failures()[0]
    assert (failure.node_type, failure.category) == ("worker", category)
    assert dead in failure.message
    assert words in failure.message


def test_lost_machine_of_somebody_else_ends_nothing_here(make_room: MakeRoom) -> None:
    ours, theirs = make_room(name="demo"), make_room(name="demo-2")
    provider, other = ours.provider(), theirs.provider()
    (node,), (lost,) = ours.launch(provider), theirs.launch(other)
    running(provider, [node])
    running(other, [lost])
    lose(theirs, lost)
    eventually(lambda: lost not in other.non_terminated_nodes({}), what="it is gone there")
    assert node in provider.non_terminated_nodes({})
    assert [task.name for task in ours.tasks()] == [node]


class Ray:
    """Ray's cluster, which accepts every order to drain."""

    def __init__(self) -> None:
        self.drained: list[str] = []

    def node_id(self, name: str) -> str | None:
        return f"id of {name}"

    def drain(self, node_id: str, message: str, deadline: datetime) -> None:
        self.drained.append(node_id)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setattr(on_head, "RayCluster", lambda _address: made)
    return made


def test_warned_node_is_drained_once_and_stays_until_it_goes(room: HeadRoom, ray: Ray) -> None:
    provider = room.provider()
    warned, other = room.launch(provider, 2)
    running(provider, [warned, other])
    machine = room.instance_of(warned)
    room.emulator.preempt(machine, warning_seconds=600)
    eventually(lambda: ray.drained == [f"id of {warned}"], what="Ray drains it")
    assert {warned, other} < set(provider.non_terminated_nodes({}))
    assert room.failures()[0].category == "PreemptionWarning"
    room.emulator.preempt(machine)
    eventually(lambda: warned not in provider.non_terminated_nodes({}), what="it is gone")
    eventually(lambda: [f.category for f in room.failures()] == ["PreemptionWarning", "Preempted"], what="the reasons")
    assert ray.drained == [f"id of {warned}"]
    assert other in provider.non_terminated_nodes({})


def test_warning_of_the_heads_own_machine_is_kept_for_people(room: HeadRoom, ray: Ray) -> None:
    provider = room.provider()
    running(provider, room.launch(provider))
    room.emulator.preempt(room.instance_of(room.head.name), warning_seconds=600)
    eventually(lambda: bool(room.failures()), what="it is noted")
    assert room.head.name in room.failures()[0].message


def test_platform_that_does_not_show_machines_costs_only_the_news_of_them(
    room: HeadRoom, caplog: pytest.LogCaptureFixture
) -> None:
    room.emulator.fault("get_nodes", "status", status=403, times=ALWAYS)
    provider = room.provider()
    nodes = room.launch(provider, 2)
    eventually(lambda: len(room.emulator.calls("get_nodes")) > 5, what="it is asked")
    preempt(room, nodes[0])
    eventually(lambda: nodes[0] not in provider.non_terminated_nodes({}), what="the preempted node has gone")
    assert nodes[1] in provider.non_terminated_nodes({})
    said = [r for r in caplog.records if "preemption warnings are not seen" in r.getMessage()]
    assert len(said) == 1


def test_sweep_asks_for_news_of_machines_once(room: HeadRoom) -> None:
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    room.emulator.forget_calls()
    eventually(lambda: len(room.emulator.calls("get_nodes")) >= 10, what="sweeps")
    asked = len(room.emulator.calls("get_nodes"))
    assert len(room.emulator.calls("get_tasks")) >= asked - 1


def test_task_that_somebody_adds_to_the_cluster_is_no_reason_to_fall_over(room: HeadRoom, emulator: Emulator) -> None:
    provider = room.provider()
    running(provider, room.launch(provider))
    group = next(group for group in room.refreshed().groups if group.name.startswith("workers-"))
    name = naming.node_name("demo", room.cluster.cluster_id, "worker", naming.new_suffix())
    room.gateway.add_nodes(group.group_id, [NodeRequest(name, "sleep inf", {}, 3600)])
    running(provider, [name])
    preempt(room, name)
    eventually(lambda: name not in provider.non_terminated_nodes({}), what="it is gone")
