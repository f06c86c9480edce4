"""Faults on request: what goes wrong with a call, how, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raydog.emulator.problems import invalid

ACTIONS = ("status", "drop_before", "drop_after", "delay")


@dataclass
class Fault:
    """``times`` calls of ``operation`` (an SDK method's name; ``*`` is every one) go wrong.

    ``status``: answered with HTTP ``status``; nothing is applied. ``drop_before``, ``drop_after``: the connection
    is cut before or after the call is applied. ``delay``: the answer comes ``seconds`` late, applied at once.
    """

    operation: str
    action: str
    status: int = 500
    seconds: float = 0.0
    times: int = 1
    retry_after: int | None = None
    error_type: str = "InternalServerException"
    message: str = "a fault was requested"


class Faults:
    """Those that are still to happen, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, settings: Mapping[str, Any], known: frozenset[str]) -> Fault:
        """Add one from its settings; ``known`` holds the operations that there are."""
        types: dict[str, type | tuple[type, ...]] = {
            "operation": str,
            "action": str,
            "status": int,
            "seconds": (int, float),
            "times": int,
            "retry_after": int,
            "error_type": str,
            "message": str,
        }
        for key, value in settings.items():
            if key not in types:
                raise invalid(f"a fault has no setting {key!r}; it has {', '.join(types)}")
            if isinstance(value, bool) or not isinstance(value, types[key]):
                raise invalid(f"the fault's {key} cannot be {value!r}")
        if settings.get("operation") != "*" and settings.get("operation") not in known:
            raise invalid(f"there is no operation {settings.get('operation')!r}; known: {', '.join(sorted(known))}")
        if settings.get("action") not in ACTIONS:
            raise invalid(f"a fault's action is one of {', '.join(ACTIONS)}")
        fault = Fault(**settings)
        if fault.action == "status" and not 400 <= fault.status <= 599:
            raise invalid(f"the fault's status {fault.status} is not an HTTP error")
        if fault.times < 1:
            raise invalid("a fault happens at least once")
        self._waiting.append(fault)
        return fault

    def take(self, operation: str) -> Fault | None:
        """The fault of this call, if it has one; it then has happened once more."""
        for fault in self._waiting:
            if fault.operation in {operation, "*"}:
                fault.times -= 1
                if not fault.times:
                    self._waiting.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        self._waiting.clear()

    def waiting(self) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self._waiting]
