"""Node types whose machines the platform has not got: another template, the reason, and never a machine too many."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
TWO = {"worker": ["local/worker", "local/head"]}


def machines(room: HeadRoom, kind: str = "local/worker") -> int:
    """How many live machines of a template there are, the head's own not counted."""
    live = room.emulator.call(
        lambda server: [
            one.compute.template.name
            for one in server.platform.state.instances.values()
            if one.status in ("PENDING", "RUNNING") and one.compute.pool is not None
        ]
    )
    return live.count(kind) - (1 if kind == "local/head" else 0)


def sweeps(room: HeadRoom, times: int = 5) -> None:
    """Wait until the head has looked at the platform again and again."""
    before = len(room.emulator.calls("get_tasks"))
    eventually(lambda: len(room.emulator.calls("get_tasks")) >= before + 2 * times, what="sweeps")


def test_second_template_is_used_when_the_first_has_no_machines_and_none_comes_twice(make_room: MakeRoom) -> None:
    room = make_room(templates=TWO)
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    nodes = room.launch(provider, 3)
    (first,) = room.pools()
    running(provider, nodes)
    assert (machines(room, "local/worker"), machines(room, "local/head")) == (0, 3)
    assert first not in room.pools()
    room.emulator.template("local/worker", capacity=None)  # the machines come after all
    sweeps(room)
    assert (machines(room, "local/worker"), machines(room, "local/head")) == (0, 3)
    assert len(room.tasks()) == 3
    assert len(room.pools()) == 1
    (failure,) = room.failures()
    assert (failure.node_type, failure.category) == ("worker", "NoCapacity")
    assert "local/worker: Insufficient capacity" in failure.message
    assert "local/head" in failure.message


def test_what_the_first_template_still_has_is_used_and_goes_on(make_room: MakeRoom) -> None:
    room = make_room(templates=TWO)
    room.emulator.template("local/worker", capacity=1)
    provider = room.provider()
    nodes = room.launch(provider, 3)
    running(provider, nodes)
    assert (machines(room, "local/worker"), machines(room, "local/head")) == (1, 2)
    started = {node: room.task(node).started for node in nodes}
    room.emulator.template("local/worker", capacity=None)
    running(provider, room.launch(provider, 1))
    sweeps(room)
    assert {node: room.task(node).started for node in nodes} == started
    assert (machines(room, "local/worker"), machines(room, "local/head")) == (1, 3)


def test_machines_that_boot_slowly_are_waited_for(make_room: MakeRoom) -> None:
    room = make_room(templates=TWO)
    room.emulator.template("local/worker", boot_seconds=2)  # twice what a silent platform is given here
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    assert (machines(room, "local/worker"), machines(room, "local/head")) == (2, 0)
    assert len(room.emulator.calls("provision_worker_pool")) == 2  # the head's, and one
    assert room.failures() == []


@pytest.mark.parametrize("has_some", ["local/worker", "local/head"])
def test_templates_are_tried_in_turn_until_one_has_machines(make_room: MakeRoom, has_some: str) -> None:
    room = make_room(templates=TWO)
    for template in TWO["worker"]:
        room.emulator.template(template, capacity=0)
    provider = room.provider()
    nodes = room.launch(provider, 2)

    def both_said() -> bool:
        said = " ".join(failure.message for failure in room.failures())
        return all(f"{template}: Insufficient" in said for template in TWO["worker"])

    eventually(both_said, what="both templates have been tried")
    assert len(room.pools()) <= 1
    assert set(nodes) <= set(provider.non_terminated_nodes({}))
    room.emulator.template(has_some, capacity=10)
    running(provider, nodes)
    assert machines(room, has_some) == 2
    assert len(room.pools()) == 1


def test_without_another_template_the_reason_is_kept_and_said_once_and_the_pool_stays(
    room: HeadRoom, caplog: pytest.LogCaptureFixture
) -> None:
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    with caplog.at_level(logging.WARNING, "raydog.autoscaler"):
        nodes = room.launch(provider, 2)
        eventually(lambda: bool(room.failures()), what="the reason is kept")
        sweeps(room, 20)
    (failure,) = room.failures()
    assert (failure.node_type, failure.category) == ("worker", "NoCapacity")
    assert "local/worker: Insufficient capacity: 0 of 0 instances" in failure.message
    said = [record.getMessage() for record in caplog.records if "Insufficient capacity" in record.getMessage()]
    assert len(said) == 1, said
    assert set(nodes) <= set(provider.non_terminated_nodes({}))
    pools = room.pools()
    room.emulator.template("local/worker", capacity=None)
    running(provider, nodes)
    assert room.pools() == pools


def test_next_template_that_is_refused_leaves_the_first(make_room: MakeRoom) -> None:
    room = make_room(templates={"worker": ["local/worker", "local/unknown"]})
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    nodes = room.launch(provider, 2)
    eventually(lambda: any("local/unknown" in f.message for f in room.failures()), what="both reasons are kept")
    room.emulator.template("local/worker", capacity=None)
    running(provider, nodes)
    assert machines(room) == 2
    assert len(room.pools()) == 1


def test_new_launch_begins_with_a_template_that_had_machines(make_room: MakeRoom) -> None:
    room = make_room(templates=TWO)
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    first = room.launch(provider, 1)
    running(provider, first)
    provider.terminate_nodes(first)
    eventually(lambda: room.tasks() == [], what="the node has ended")
    calls = len(room.emulator.calls("provision_worker_pool"))
    running(provider, room.launch(provider, 1))
    assert len(room.emulator.calls("provision_worker_pool")) - calls <= 1
    assert machines(room, "local/head") == 1


def test_node_that_ray_gives_up_ends_and_another_type_gets_its_machines(make_room: MakeRoom) -> None:
    room = make_room(templates={"worker": "local/worker", "other": "local/head"})
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    adapter = room.adapter(provider)
    (scarce,) = room.launch(provider, 1)
    adapter.terminate([scarce], "allocation timed out")
    other = room.launch(provider, 1, "other")
    running(provider, other)
    eventually(lambda: [node.name for node in room.tasks()] == other, what="only the other is left")
    eventually(lambda: len(room.pools()) == 1, what="the pool that waits for machines has gone")
    room.emulator.template("local/worker", capacity=None)
    sweeps(room)
    assert machines(room) == 0


def test_pool_that_has_run_empty_is_replaced_and_one_with_nodes_is_not(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    (first,) = room.pools()
    running(provider, room.launch(provider, 1))
    assert room.pools() == [first]
    provider.terminate_nodes(list(provider.non_terminated_nodes({})[1:]))
    eventually(lambda: room.emulator.status()["liveInstances"] == 1, what="the machines have gone")
    eventually(lambda: room.tasks() == [], what="the tasks have ended")
    sweeps(room)
    running(provider, room.launch(provider, 1))
    assert len(room.pools()) == 1
    assert room.pools() != [first]
    assert room.emulator.status()["liveInstances"] == 2
