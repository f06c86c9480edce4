"""Faults: how often, how long, for which calls; the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest

from raydog.emulator.clock import VirtualClock
from raydog.emulator.faults import Faults
from raydog.emulator.problems import Problem

KNOWN = frozenset({"get_tasks", "get_nodes"})


def faults(*settings: dict[str, Any], clock: VirtualClock | None = None) -> Faults:
    made = Faults(clock or VirtualClock())
    for one in settings:
        made.add({"operation": "get_tasks", "action": "drop_before", **one}, KNOWN)
    return made


def happened(made: Faults, calls: int, operation: str = "get_tasks") -> list[bool]:
    return [made.take(operation) is not None for _ in range(calls)]


def test_fault_happens_once_unless_told_otherwise() -> None:
    assert happened(faults({}), 3) == [True, False, False]
    assert happened(faults({"times": 2}), 3) == [True, True, False]


def test_fault_is_of_its_operation_and_a_star_of_every_one() -> None:
    assert happened(faults({}), 1, "get_nodes") == [False]
    assert happened(faults({"operation": "*"}), 1, "get_nodes") == [True]


def test_same_seed_hits_the_same_calls_and_another_does_not() -> None:
    first = happened(faults({"probability": 0.3, "seed": 7}), 200)
    assert first == happened(faults({"probability": 0.3, "seed": 7}), 200)
    assert first != happened(faults({"probability": 0.3, "seed": 8}), 200)
    assert 30 < sum(first) < 90


def test_fault_may_let_calls_pass_before() -> None:
    made = faults({"skip": 2, "times": 2})
    assert happened(made, 1, "get_nodes") == [False]
    assert happened(made, 1) == [False]
    assert [(one["skip"], one["times"]) for one in made.waiting()] == [(1, 2)]
    assert happened(made, 4) == [False, True, True, False]


def test_whoever_asked_for_a_fault_hears_of_it_at_that_moment() -> None:
    heard: list[str] = []
    made = Faults(VirtualClock())
    made.add({"operation": "*", "action": "drop_after", "skip": 1}, KNOWN, lambda: heard.append("hit"))
    assert happened(made, 1) == [False]
    assert heard == []
    assert happened(made, 2) == [True, False]
    assert heard == ["hit"]


def test_dice_are_thrown_by_calls_of_the_operation_only() -> None:
    made = faults({"probability": 0.3, "seed": 7})
    mixed = []
    for _ in range(200):
        happened(made, 1, "get_nodes")
        mixed += happened(made, 1)
    assert mixed == happened(faults({"probability": 0.3, "seed": 7}), 200)


def test_probability_may_be_limited_in_number() -> None:
    assert sum(happened(faults({"probability": 0.5, "times": 3}), 200)) == 3


def test_fault_of_a_time_is_over_when_it_has_passed() -> None:
    clock = VirtualClock()
    made = faults({"for_seconds": 10}, clock=clock)
    assert happened(made, 2) == [True, True]
    clock.advance(9.9)
    assert happened(made, 1) == [True]
    clock.advance(0.1)
    assert happened(made, 1) == [False]
    assert made.waiting() == []


def test_what_waits_says_how_often_it_will_still_happen() -> None:
    made = faults({"times": 3}, {"operation": "get_nodes", "for_seconds": 5})
    made.take("get_tasks")
    assert [(one["operation"], one["times"]) for one in made.waiting()] == [("get_tasks", 2), ("get_nodes", None)]
    made.clear()
    assert made.waiting() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"operation": "get_task"},
        {"action": "explode"},
        {"colour": "red"},
        {"times": 0},
        {"skip": -1},
        {"times": True},
        {"probability": 0},
        {"probability": 1.1},
        {"probability": float("nan")},
        {"for_seconds": 0},
        {"seconds": -1},
        {"retry_after": -1},
        {"action": "status", "status": 200},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        faults(wrong)
    assert refused.value.status == 400


def test_unknown_operation_gets_a_suggestion() -> None:
    with pytest.raises(Problem, match="did you mean get_tasks"):
        faults({"operation": "get_taks"})
