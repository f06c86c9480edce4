"""A program that uses the builder is killed at each of its platform calls: one clean-up ends all, and only that.

And: an addition that is applied while its answer is lost, or that is made again, is there once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raydog.builder import RayDogCluster
from raydog.emulator import Emulator
from raydog.errors import RayDogError, StateError
from tests.support import builder_programs as programs
from tests.support.builder_programs import LARGE, SMALL, STATE_FILE, load_proxy, make_cluster, quick_platform
from tests.support.killing import Killing, Program

ADDITIONS = ("add_work_requirement", "provision_worker_pool", "update_work_requirement", "add_tasks_to_task_group")
COUNTS = ("liveInstances", "unfinishedPools", "unfinishedWorkRequirements", "unfinishedTasks")
LOST: dict[str, dict[str, Any]] = {
    "answer lost": {"action": "drop_after"},
    "429": {"action": "status", "status": 429},
    "500": {"action": "status", "status": 500},
    "503": {"action": "status", "status": 503},
}
REFUSAL: dict[str, Any] = {"action": "status", "status": 400, "error_type": "InvalidRequestException"}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with quick_platform(monkeypatch) as running:
        yield running


def living(emulator: Emulator) -> dict[str, Any]:
    """How much of each kind is not over, and which instances."""
    status = emulator.status()
    return {**{count: status[count] for count in COUNTS}, "instances": {one["id"] for one in status["instances"]}}


def by_name(_state: Path) -> None:
    """The way out of a person who knows the cluster's name only."""
    make_cluster().shut_down()


def by_proxy(state: Path) -> None:
    """The way out of a person who has the saved state. All that it names is there or has been ended by this."""
    load_proxy(state).shut_down()


def by_stale_proxy(state: Path) -> None:
    """Likewise, where the program has ended something before it died: that is said, when all is over."""
    with suppress(StateError):
        by_proxy(state)


@pytest.mark.parametrize(
    ("program", "way_out"),
    [
        pytest.param(programs.build, by_name, id="build"),
        pytest.param(programs.build_with_observability, by_name, id="build with observability"),
        pytest.param(programs.build_over_leftovers, by_name, id="build over leftovers"),
        pytest.param(programs.add_a_pool, by_proxy, id="add_worker_pool"),
        pytest.param(programs.add_a_pool, by_name, id="add_worker_pool, state lost"),
        pytest.param(programs.remove_a_pool, by_stale_proxy, id="remove_worker_pool"),
        pytest.param(programs.remove_a_pool_that_has_not_come, by_stale_proxy, id="remove_worker_pool, not come"),
        pytest.param(programs.remove_a_pool_that_has_not_come, by_name, id="remove_worker_pool, state lost"),
        pytest.param(programs.shut_down, by_stale_proxy, id="shut_down"),
        pytest.param(programs.shut_down_from_elsewhere, by_stale_proxy, id="proxy's shut_down"),
    ],
)
def test_nothing_is_left_wherever_a_program_is_killed(
    emulator: Emulator, tmp_path: Path, program: Program, way_out: Callable[[Path], None]
) -> None:
    neighbour = make_cluster("demo-2")
    neighbour.build()
    before = living(emulator)
    wrong = []
    for run in Killing(emulator, tmp_path).runs(program):
        way_out(tmp_path / STATE_FILE)
        after = living(emulator)
        if after != before:
            wrong.append(f"{run}: {Counter(run.operations)} left {after}")
    assert wrong == []
    neighbour.shut_down()
    assert not any(living(emulator).values())


def additions(emulator: Emulator, make: Callable[[RayDogCluster], object]) -> list[tuple[str, int]]:
    """Each adding call of ``make``: its operation, and its number among the calls of that operation."""
    cluster = make_cluster("measured", observability=True)
    if make is not build:
        cluster.build()
    emulator.forget_calls()
    make(cluster)
    counts = Counter(call["operation"] for call in emulator.calls())
    cluster.shut_down()
    return [(operation, number) for operation in ADDITIONS for number in range(counts[operation])]


def build(cluster: RayDogCluster) -> None:
    cluster.build()


def add_a_pool(cluster: RayDogCluster) -> None:
    cluster.add_worker_pool("quick/worker", "ray start --block", LARGE)


@pytest.mark.parametrize("trouble", LOST)
@pytest.mark.parametrize(
    ("make", "calls", "nodes", "pools"),
    [
        # a work requirement; for the head, the observability node and the two pools: a pool, and tasks
        pytest.param(build, 1 + 4 + 4, 2 + SMALL + LARGE, 4, id="build"),
        pytest.param(add_a_pool, 3, 2 + SMALL + LARGE + LARGE, 5, id="add_worker_pool"),
    ],
)
def test_addition_whose_answer_is_lost_is_made_once(
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[RayDogCluster], object],
    calls: int,
    nodes: int,
    pools: int,
    trouble: str,
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)  # the SDK repeats a call without a pause
    found = additions(emulator, make)
    assert len(found) == calls
    for operation, number in found:
        cluster = make_cluster(observability=True)
        if make is not build:
            cluster.build()
        emulator.forget_calls()
        emulator.fault(operation, skip=number, **LOST[trouble])
        make(cluster)
        assert len([call for call in emulator.calls(operation) if call["fault"]]) == 1
        status = emulator.status()
        assert {count: status[count] for count in COUNTS} == {
            "liveInstances": nodes,
            "unfinishedPools": pools,
            "unfinishedWorkRequirements": 1,
            "unfinishedTasks": nodes,
        }, (operation, number)
        cluster.shut_down()
        assert not any(living(emulator).values())


def test_addition_that_is_refused_ends_the_build_and_leaves_nothing(emulator: Emulator) -> None:
    for operation, number in additions(emulator, build):
        cluster = make_cluster(observability=True)
        emulator.fault(operation, skip=number, **REFUSAL, message="the quota is used up")
        with pytest.raises(RayDogError, match="the quota is used up"):
            cluster.build()
        assert not any(living(emulator).values()), (operation, number)


def test_pool_that_is_refused_leaves_the_cluster_as_it_was(emulator: Emulator) -> None:
    cluster = make_cluster(observability=True)
    cluster.build()
    for operation, number in additions(emulator, add_a_pool):
        before = living(emulator)
        emulator.fault(operation, skip=number, **REFUSAL, message="the quota is used up")
        with pytest.raises(RayDogError, match="the quota is used up"):
            add_a_pool(cluster)
        assert living(emulator) == before, (operation, number)
    cluster.shut_down()
    assert not any(living(emulator).values())
