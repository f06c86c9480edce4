"""The one way to wait, on a clock that does not really wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raydog.waiting import Pending, Ready, WaitTimeout, wait_until


class StepClock:
    """A clock whose sleeping is what lets its time pass."""

    def __init__(self) -> None:
        self.now = 5.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def test_ready_at_once_waits_not_at_all() -> None:
    clock = StepClock()
    assert wait_until(lambda: Ready("value"), 10, clock=clock) == "value"
    assert clock.sleeps == []


def test_pauses_grow_to_the_longest_and_the_last_ends_at_the_deadline() -> None:
    clock = StepClock()
    with pytest.raises(WaitTimeout) as failed:
        wait_until(lambda: Pending("booting"), 10, interval=1, max_interval=2, clock=clock)
    assert clock.sleeps[:4] == [1, 1.25, 1.5625, 1.953125]
    assert max(clock.sleeps) <= 2
    assert clock.now - 5 == pytest.approx(10)
    assert failed.value.observed == "booting"
    assert failed.value.waited == pytest.approx(10)
    assert "booting" in str(failed.value)


def test_condition_is_asked_once_more_at_the_deadline() -> None:
    clock = StepClock()
    assert wait_until(lambda: Ready(1) if clock.now >= 15 else Pending("not yet"), 10, clock=clock) == 1


def test_observations_are_reported_with_the_time_waited() -> None:
    clock = StepClock()
    said: list[tuple[str, float]] = []
    answers: Iterator[Pending | Ready[None]] = iter([Pending("a"), Pending("b"), Ready(None)])
    wait_until(lambda: next(answers), 10, interval=1, clock=clock, on_pending=lambda *seen: said.append(seen))
    assert said == [("a", 0.0), ("b", 1.0)]


def test_exception_of_the_condition_ends_the_wait() -> None:
    def fail() -> Pending:
        raise KeyError("refused")

    with pytest.raises(KeyError, match="refused"):
        wait_until(fail, 10, clock=StepClock())


def test_zero_time_asks_once() -> None:
    clock = StepClock()
    with pytest.raises(WaitTimeout):
        wait_until(lambda: Pending("no"), 0, clock=clock)
    assert clock.sleeps == []
