"""Faults on request: what goes wrong with a call, how, how often, and for how long."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raydog.emulator.clock import Clock
from raydog.emulator.problems import invalid

ACTIONS = ("status", "drop_before", "drop_after", "delay")
EVERY_CALL = "*"


@dataclass
class Fault:
    """Calls of ``operation`` (an SDK method's name; ``*`` is every one) that go wrong.

    ``status``: answered with HTTP ``status``; nothing is applied. ``drop_before``, ``drop_after``: the connection
    is cut before or after the call is applied. ``delay``: the answer comes ``seconds`` late, applied at once.

    The first ``skip`` calls that it would happen to pass unharmed: with ``skip=4`` it is the fifth. It happens
    ``times`` times. Without ``times``: once, but if it has a ``probability`` or ``for_seconds`` as often
    as these say. ``probability``: each call throws dice, the same ones for the same ``seed``. ``for_seconds``: it
    is over after so long, counted from its adding.
    """

    operation: str
    action: str
    status: int = 500
    seconds: float = 0.0
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    for_seconds: float | None = None
    retry_after: int | None = None
    error_type: str = "InternalServerException"
    message: str = "a fault was requested"
    skip: int = 0


_TYPES: dict[str, type | tuple[type, ...]] = {
    "operation": str,
    "action": str,
    "status": int,
    "seconds": (int, float),
    "times": int,
    "probability": (int, float),
    "seed": int,
    "for_seconds": (int, float),
    "retry_after": int,
    "error_type": str,
    "message": str,
    "skip": int,
}


@dataclass(eq=False)
class _Waiting:
    """A fault that may still happen."""

    fault: Fault
    until: float
    left: float
    skip: int
    dice: random.Random = field(repr=False)
    on_hit: Callable[[], None] | None


class Faults:
    """Those that are still to happen, in the order in which they were asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[_Waiting] = []

    def add(
        self, settings: Mapping[str, Any], known: frozenset[str], on_hit: Callable[[], None] | None = None
    ) -> Fault:
        """Add one from its settings; ``known`` holds the operations that there are.

        ``on_hit`` is called whenever it happens, before the call is applied or refused.
        """
        for key, value in settings.items():
            if key not in _TYPES:
                raise invalid(f"a fault has no setting {key!r}; it has {', '.join(_TYPES)}")
            if isinstance(value, bool) or not isinstance(value, _TYPES[key]):
                raise invalid(f"the fault's {key} cannot be {value!r}")
        operation = settings.get("operation")
        if operation != EVERY_CALL and operation not in known:
            similar = difflib.get_close_matches(str(operation), known, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise invalid(f"there is no operation {operation!r} here: they are the SDK's methods{hint}")
        if settings.get("action") not in ACTIONS:
            raise invalid(f"a fault's action is one of {', '.join(ACTIONS)}")
        fault = Fault(**settings)
        _check(fault)
        once = fault.probability == 1.0 and fault.for_seconds is None
        self._waiting.append(
            _Waiting(
                fault,
                until=float("inf") if fault.for_seconds is None else self._clock.now() + fault.for_seconds,
                left=fault.times if fault.times is not None else (1 if once else float("inf")),
                skip=fault.skip,
                dice=random.Random(fault.seed),  # noqa: S311 - the same faults for the same seed
                on_hit=on_hit,
            )
        )
        return fault

    def take(self, operation: str) -> Fault | None:
        """The fault of this call, if it has one; it then has happened once more."""
        self._drop_over()
        for one in self._waiting:
            fault = one.fault
            if fault.operation not in {operation, EVERY_CALL} or one.dice.random() >= fault.probability:
                continue
            if one.skip:
                one.skip -= 1
                continue
            one.left -= 1
            if not one.left:
                self._waiting.remove(one)
            if one.on_hit is not None:
                one.on_hit()
            return fault
        return None

    def clear(self) -> None:
        self._waiting.clear()

    def waiting(self) -> list[dict[str, Any]]:
        """Their settings; ``skip`` and ``times`` are what is left of them; without such a limit ``times`` is None."""
        self._drop_over()
        return [
            asdict(one.fault) | {"skip": one.skip, "times": None if one.left == float("inf") else int(one.left)}
            for one in self._waiting
        ]

    def _drop_over(self) -> None:
        if self._waiting:
            now = self._clock.now()
            self._waiting = [one for one in self._waiting if now < one.until]


def _check(fault: Fault) -> None:
    if fault.action == "status" and not 400 <= fault.status <= 599:
        raise invalid(f"the fault's status {fault.status} is not an HTTP error")
    if fault.times is not None and fault.times < 1:
        raise invalid("a fault happens at least once")
    if fault.skip < 0:
        raise invalid("a fault skips no calls or some")
    if not 0 < fault.probability <= 1:
        raise invalid(f"a fault's probability is more than 0 and at most 1, not {fault.probability}")
    if fault.seconds < 0 or (fault.for_seconds is not None and fault.for_seconds <= 0) or (fault.retry_after or 0) < 0:
        raise invalid("a fault's times cannot be negative")
