"""Additions that are applied while nobody hears of it, that come late, or that are made again: all is there once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND
from yellowdog_client import model as yd

from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.emulator import Emulator
from raydog.errors import RayDogError
from raydog.yellowdog import gateway as gateway_module
from tests.support.head_room import HeadRoom, running
from tests.support.provider_programs import CLUSTER, NODES, OBSERVED, at_desk, ray_down, ray_up, tell
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
COUNTS = ("liveInstances", "unfinishedPools", "unfinishedWorkRequirements", "unfinishedTasks")
IN_UP = {"add_work_requirement": 1, "add_tasks_to_task_group": 2, "provision_worker_pool": 2}
IN_LAUNCH = ("update_work_requirement", "add_tasks_to_task_group", "provision_worker_pool")
READ_SECONDS = 0.5
TROUBLES: dict[str, dict[str, Any]] = {
    "answer lost": {"action": "drop_after"},
    "never arrived": {"action": "drop_before"},
    "429": {"action": "status", "status": 429},
    "500": {"action": "status", "status": 500},
    "503": {"action": "status", "status": 503},
    "late": {"action": "delay", "seconds": READ_SECONDS / 2},
    "too late": {"action": "delay", "seconds": READ_SECONDS * 2},
}
FOR_GOOD: dict[str, dict[str, Any]] = {
    "answers lost": {"action": "drop_after", "times": 100},
    "503": {"action": "status", "status": 503, "times": 100},
    "refused": {"action": "status", "status": 400, "error_type": "InvalidRequestException", "times": 100},
}
WORKERS = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}


@pytest.fixture
def emulator(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The platform as seen from here: calls are repeated without pauses, and waited for only for a moment."""
    original = yd.ServicesSchema

    def impatient(**settings: Any) -> yd.ServicesSchema:
        return original(**{**settings, "readTimeout": timedelta(seconds=READ_SECONDS)})

    monkeypatch.setattr(yd, "ServicesSchema", impatient)
    monkeypatch.setattr("random.random", lambda: 0.0)
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    return emulator


def counts(emulator: Emulator) -> dict[str, int]:
    """How much of each kind is not over."""
    status = emulator.status()
    return {count: status[count] for count in COUNTS}


def hit(emulator: Emulator, operation: str) -> bool:
    """Whether the trouble has come."""
    return any(call["fault"] for call in emulator.calls(operation))


def workers(provider: RayDogNodeProvider) -> list[str]:
    return provider.non_terminated_nodes(WORKERS)


# ray up


def test_these_are_the_additions_of_ray_up(emulator: Emulator, tmp_path: Path) -> None:
    with at_desk(tmp_path):
        ray_up(**OBSERVED)
        changes = ("add", "provision", "update")
        made = Counter(call["operation"] for call in emulator.calls() if call["operation"].startswith(changes))
        ray_down()
    assert made == IN_UP


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("operation", "count"), IN_UP.items())
def test_ray_up_makes_one_cluster_whatever_becomes_of_an_answer(
    emulator: Emulator, tmp_path: Path, operation: str, count: int, trouble: str
) -> None:
    with at_desk(tmp_path):
        for number in range(count):
            emulator.forget_calls()
            emulator.fault(operation, skip=number, **TROUBLES[trouble])
            ray_up(**OBSERVED)
            assert hit(emulator, operation)
            assert counts(emulator) == {
                "liveInstances": 2,
                "unfinishedPools": 2,
                "unfinishedWorkRequirements": 1,
                "unfinishedTasks": 2,
            }
            ray_down()
            assert not any(counts(emulator).values())


@pytest.mark.parametrize("trouble", FOR_GOOD)
@pytest.mark.parametrize(("operation", "count"), IN_UP.items())
def test_ray_up_that_cannot_go_on_says_so_and_leaves_nothing(
    emulator: Emulator, tmp_path: Path, operation: str, count: int, trouble: str
) -> None:
    with at_desk(tmp_path):
        for number in range(count):
            emulator.fault(operation, skip=number, **FOR_GOOD[trouble])
            with pytest.raises(RayDogError):
                ray_up(**OBSERVED)
            assert not any(counts(emulator).values())
            emulator.clear_faults()


# Workers


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("operation", IN_LAUNCH)
def test_launch_makes_exactly_the_nodes_whatever_becomes_of_an_answer(
    emulator: Emulator, make_room: MakeRoom, tmp_path: Path, operation: str, trouble: str
) -> None:
    room = make_room(name=CLUSTER)
    tell(room, tmp_path)
    provider = room.provider()
    workers(provider)
    emulator.fault(operation, **TROUBLES[trouble])
    room.launch(provider, NODES)
    assert hit(emulator, operation)
    exactly(room, provider, NODES)
    room.launch(provider, NODES)
    exactly(room, provider, 2 * NODES)
    assert room.failures() == []


@pytest.mark.parametrize("trouble", FOR_GOOD)
@pytest.mark.parametrize("operation", IN_LAUNCH)
def test_launch_that_failed_is_made_again_by_ray_and_leaves_no_node_of_the_first(
    emulator: Emulator, make_room: MakeRoom, tmp_path: Path, operation: str, trouble: str
) -> None:
    room = make_room(name=CLUSTER)
    tell(room, tmp_path)
    provider = room.provider()
    workers(provider)
    emulator.fault(operation, **FOR_GOOD[trouble])
    with pytest.raises(NodeLaunchException):
        room.launch(provider, NODES)
    assert hit(emulator, operation)
    assert workers(provider) == []
    emulator.clear_faults()
    room.launch(provider, NODES)
    exactly(room, provider, NODES)


@pytest.mark.parametrize("trouble", FOR_GOOD)
def test_large_launch_of_which_only_a_part_was_taken_leaves_none_of_it(
    emulator: Emulator, make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str
) -> None:
    monkeypatch.setattr(gateway_module, "TASKS_PER_CALL", NODES)
    room = make_room(name=CLUSTER)
    tell(room, tmp_path)
    provider = room.provider()
    workers(provider)
    emulator.fault("add_tasks_to_task_group", skip=1, **FOR_GOOD[trouble])
    with pytest.raises(NodeLaunchException):
        room.launch(provider, 3 * NODES)
    assert workers(provider) == []
    eventually(lambda: room.tasks() == [], what="what was taken has ended")
    emulator.clear_faults()
    room.launch(provider, 3 * NODES)
    exactly(room, provider, 3 * NODES)


def exactly(room: HeadRoom, provider: RayDogNodeProvider, count: int) -> None:
    """Wait until ``count`` workers run, with their tasks and machines and one pool; and no more of any."""
    assert len(workers(provider)) == count
    running(provider, workers(provider))
    expected = {
        "liveInstances": 1 + count,
        "unfinishedPools": 2,
        "unfinishedWorkRequirements": 1,
        "unfinishedTasks": 1 + count,
    }
    eventually(lambda: counts(room.emulator) == expected, what=f"exactly {expected}")
    assert sum(group.name.startswith("workers-") for group in room.refreshed().groups) == 1
    assert len(room.pools()) == 1
