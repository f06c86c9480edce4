"""Which call a method and path are. A route without a handler is a call that the platform has and we have not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from raydog.emulator.rest.call import Call

Handler = Callable[[Call], Any]


@dataclass(frozen=True)
class Route:
    """``operation`` is the SDK method's name; it is what faults and the record of calls speak of."""

    method: str
    pattern: str
    operation: str
    handler: Handler | None = None


def _split(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


class Router:
    """Finds routes by method and number of segments; of two that fit, the one with more literal segments wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
        for route in routes:
            segments = _split(route.pattern)
            self._routes.setdefault((route.method, len(segments)), []).append((segments, route))
        for candidates in self._routes.values():
            candidates.sort(key=lambda one: [segment.startswith("{") for segment in one[0]])

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of its ``{names}``. Repeated and trailing slashes mean nothing."""
        segments = _split(path)
        for pattern, route in self._routes.get((method, len(segments)), ()):
            values: dict[str, str] = {}
            for expected, actual in zip(pattern, segments, strict=True):
                if expected.startswith("{"):
                    values[expected[1:-1]] = actual
                elif expected != actual:
                    break
            else:
                return route, values
        return None
