"""Ray's commands and its autoscaler are killed at each of their platform calls: one ``ray down`` ends all, at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.emulator import Emulator
from raydog.emulator.fleet import Fleet
from tests.support import provider_programs as programs
from tests.support.head_room import HeadRoom, running
from tests.support.killing import Death, Killing, Moment, Program
from tests.support.provider_programs import CLUSTER, NODES, at_desk, ray_down, ray_up, tell
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
COUNTS = ("liveInstances", "unfinishedPools", "unfinishedWorkRequirements", "unfinishedTasks")
TYPES = {"worker": "local/worker", "other": "local/head"}
WORKERS = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}
HOUR = 3600.0


@pytest.fixture
def emulator(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The platform, with its settings in the environment as on somebody's machine."""
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    return emulator


@pytest.fixture
def idle_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody ends stays, whatever idle time a pool was given: nothing is cleaned up by a time-out."""
    monkeypatch.setattr(Fleet, "_idle_delay", lambda *_: HOUR)


@pytest.fixture
def neighbour(make_room: MakeRoom) -> HeadRoom:
    """A cluster with a similar name, which nothing here may touch."""
    room = make_room(name=f"{CLUSTER}-2")
    provider = room.provider()
    running(provider, room.launch(provider, 1))
    provider.close()
    return room


def living(emulator: Emulator) -> dict[str, Any]:
    """How much of each kind is not over, and which instances."""
    status = emulator.status()
    return {**{count: status[count] for count in COUNTS}, "instances": {one["id"] for one in status["instances"]}}


def take_down(folder: Path) -> None:
    with at_desk(folder):
        ray_down()


def nodes_of(provider: RayDogNodeProvider, node_type: str) -> list[str]:
    return provider.non_terminated_nodes({**WORKERS, TAG_RAY_USER_NODE_TYPE: node_type})


def names(program: object) -> str:
    return str(getattr(program, "__name__", program)).replace("_", " ")


@pytest.mark.parametrize(
    "program",
    [
        programs.up,
        programs.up_with_observability,
        programs.up_over_leftovers,
        programs.up_without_pool,
        programs.down_with_observability,
    ],
    ids=names,
)
def test_one_ray_down_ends_what_a_killed_command_leaves(
    emulator: Emulator, neighbour: HeadRoom, idle_for_an_hour: None, tmp_path: Path, program: Program
) -> None:
    before = living(emulator)
    wrong = []
    for run in Killing(emulator, tmp_path).runs(program):
        take_down(tmp_path)
        if (after := living(emulator)) != before:
            wrong.append(f"{run}: {Counter(run.operations)} left {after}")
    assert wrong == []


@pytest.mark.parametrize(
    "program",
    [
        programs.launch,
        programs.launch_more,
        programs.launch_another_type,
        programs.terminate,
        programs.terminate_all,
        programs.down,
    ],
    ids=names,
)
def test_one_ray_down_ends_what_a_killed_autoscaler_leaves(
    emulator: Emulator,
    neighbour: HeadRoom,
    make_room: MakeRoom,
    idle_for_an_hour: None,
    tmp_path: Path,
    program: Program,
) -> None:
    before = living(emulator)

    def next_cluster() -> None:
        room = make_room(name=CLUSTER, templates=TYPES)
        tell(room, tmp_path)
        if program is programs.down:
            provider = room.provider()
            running(provider, [*room.launch(provider, NODES), *room.launch(provider, 1, "other")])
            provider.close()

    wrong = []
    next_cluster()
    for run in Killing(emulator, tmp_path).runs(program):
        take_down(tmp_path)
        if (after := living(emulator)) != before:
            wrong.append(f"{run}: {Counter(run.operations)} left {after}")
        next_cluster()
    take_down(tmp_path)
    assert wrong == []
    assert living(emulator) == before


def test_next_ray_up_makes_one_cluster_wherever_the_one_before_was_killed(
    emulator: Emulator, neighbour: HeadRoom, tmp_path: Path
) -> None:
    before = living(emulator)
    wrong = []
    for run in Killing(emulator, tmp_path).runs(programs.up):
        with at_desk(tmp_path):
            ray_up()
        after = living(emulator)
        if any(after[count] != before[count] + 1 for count in COUNTS):
            wrong.append(f"{run}: {Counter(run.operations)} made {after}")
        take_down(tmp_path)
        assert living(emulator) == before, run
    assert wrong == []


DEATHS: list[tuple[Program, dict[str, int], str, int]] = [
    (programs.launch, {"worker": NODES}, "update_work_requirement", 1),
    (programs.launch, {"worker": NODES}, "add_tasks_to_task_group", 1),
    (programs.launch, {"worker": NODES}, "provision_worker_pool", 1),
    (programs.launch_more, {"worker": 2 * NODES}, "add_tasks_to_task_group", 1),
    (programs.launch_another_type, {"worker": NODES, "other": NODES}, "provision_worker_pool", 1),
    (programs.terminate, {"worker": 1}, "cancel_task", 1),
    (programs.terminate, {"worker": 1}, "cancel_task", NODES),
]
"""Programs with the nodes of each type that they want to have in the end, and the calls at which they die."""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("program", "wanted", "operation", "number"), DEATHS, ids=names)
def test_autoscaler_that_is_started_again_goes_on(
    emulator: Emulator,
    make_room: MakeRoom,
    tmp_path: Path,
    program: Program,
    wanted: dict[str, int],
    operation: str,
    number: int,
    moment: Moment,
) -> None:
    room = make_room(name=CLUSTER, templates=TYPES)
    tell(room, tmp_path)
    run = Killing(emulator, tmp_path).run(program, Death(operation, number, moment))
    assert run.killed

    provider = room.provider()  # as Ray does, it looks what is there, and then makes or ends what it still wants
    for node_type, count in wanted.items():
        there = nodes_of(provider, node_type)
        if len(there) < count:
            room.launch(provider, count - len(there), node_type)
        provider.terminate_nodes(there[count:])
    nodes = [name for node_type in wanted for name in nodes_of(provider, node_type)]
    assert len(nodes) == sum(wanted.values())
    running(provider, nodes)
    eventually(lambda: len(room.tasks()) == len(nodes), what="exactly these tasks")
    eventually(lambda: emulator.status()["liveInstances"] == 1 + len(nodes), what="exactly these machines")
    assert len(room.pools()) == len(wanted)
    assert len({task.group_id for task in room.tasks()}) == len(wanted)
    assert room.failures() == []
    take_down(tmp_path)
    assert not any(living(emulator).values())
