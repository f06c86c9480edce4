"""The one way to wait: poll a condition until it holds, with a deadline and a report of what was seen last."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Monotonic seconds and a way to let them pass; tests inject one that does not really wait."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Pending:
    """A condition's answer "not yet", with what was seen, for progress and for the time-out's message."""

    observed: str


@dataclass(frozen=True)
class Ready(Generic[T]):
    """A condition's answer "yes", with its result."""

    value: T


class WaitTimeout(Exception):  # noqa: N818 - callers turn it into a RayDogError with a remedy
    """The deadline passed. ``observed`` is the last observation, ``waited`` the seconds spent."""

    def __init__(self, observed: str, waited: float) -> None:
        self.observed = observed
        self.waited = waited
        super().__init__(f"after {waited:.0f} s, last seen: {observed}")


def wait_until(
    condition: Callable[[], Ready[T] | Pending],
    timeout: float,
    *,
    interval: float = 0.1,
    max_interval: float = 2.0,
    on_pending: Callable[[str, float], None] | None = None,
    clock: Clock | None = None,
) -> T:
    """Call ``condition`` until it returns `Ready`; return its value.

    The pause between calls starts at ``interval`` seconds and grows by a quarter up to ``max_interval``;
    the last one is cut so that the condition is asked once more at the deadline. ``on_pending`` gets each
    observation and the seconds waited so far. Raises `WaitTimeout` after ``timeout`` seconds. An exception
    of the condition ends the wait.
    """
    clock = clock or SystemClock()
    start = clock.monotonic()
    pause = interval
    while True:
        answer = condition()
        if isinstance(answer, Ready):
            return answer.value
        waited = clock.monotonic() - start
        if waited >= timeout:
            raise WaitTimeout(answer.observed, waited)
        if on_pending is not None:
            on_pending(answer.observed, waited)
        clock.sleep(min(pause, max(timeout - waited, 0.001)))
        pause = min(pause * 1.25, max_interval)
