"""The tool with which other tests kill programs: it kills between exactly the two steps that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydog.emulator import Emulator
from tests.support.builder_programs import add_a_cluster
from tests.support.killing import Death, Killing, Run, Stage


@pytest.fixture
def killing(emulator: Emulator, tmp_path: Path) -> Killing:
    return Killing(emulator, tmp_path)


def counts(emulator: Emulator) -> tuple[int, int]:
    status = emulator.status()
    return status["unfinishedWorkRequirements"], status["unfinishedPools"]


def test_program_that_is_not_disturbed_comes_to_its_end(killing: Killing, emulator: Emulator) -> None:
    assert killing.run(add_a_cluster) == Run(None, False, ("add_work_requirement", "provision_worker_pool"))
    assert counts(emulator) == (1, 1)


@pytest.mark.parametrize(
    ("death", "left"),
    [
        (Death("add_work_requirement", 1, "before"), (0, 0)),
        (Death("add_work_requirement", 1, "after"), (1, 0)),
        (Death("provision_worker_pool", 1, "before"), (1, 0)),
        (Death("provision_worker_pool", 1, "after"), (1, 1)),
    ],
    ids=str,
)
def test_program_dies_before_or_after_the_call(
    killing: Killing, emulator: Emulator, death: Death, left: tuple[int, int]
) -> None:
    run = killing.run(add_a_cluster, death)
    assert run.killed
    assert run.operations[-1] == death.operation
    assert counts(emulator) == left


def test_program_that_does_not_come_there_is_not_killed(killing: Killing) -> None:
    assert not killing.run(add_a_cluster, Death("provision_worker_pool", 2, "after")).killed


def fails(stage: Stage) -> None:
    stage.begin()
    raise ValueError("nothing can be done")


def test_program_that_fails_is_a_failure_with_its_output(killing: Killing) -> None:
    with pytest.raises(AssertionError, match=r"ended with 1:[^~]*nothing can be done"):
        killing.run(fails)
