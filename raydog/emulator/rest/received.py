"""The record of the platform calls received, for tests that count them. Bounded: the oldest are dropped."""

from __future__ import annotations

from collections import deque
from typing import Any

from aiohttp import web

REMEMBERED_CALLS = 20_000
_LONGEST_TEXT = 500


class ReceivedCalls:
    """The last `REMEMBERED_CALLS` calls, oldest first. A call's ``number`` counts from 1 over the emulator's life."""

    def __init__(self) -> None:
        self._calls: deque[dict[str, Any]] = deque(maxlen=REMEMBERED_CALLS)
        self._count = 0

    def add(
        self, time: float, operation: str, request: web.Request, body_bytes: int, fault: str | None
    ) -> dict[str, Any]:
        """The new record; whoever answers the call sets its ``status`` (None: no answer was sent)."""
        self._count += 1
        record = {
            "number": self._count,
            "time": time,
            "operation": operation,
            "method": request.method,
            "path": request.path[:_LONGEST_TEXT],
            "query": request.query_string[:_LONGEST_TEXT],
            "bodyBytes": body_bytes,
            "fault": fault,
            "status": None,
        }
        self._calls.append(record)
        return record

    def find(self, operation: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """Copies of those of the operation, if it is named, with a number over ``after``."""
        return [
            dict(one)
            for one in self._calls
            if one["number"] > after and (operation is None or one["operation"] == operation)
        ]

    def clear(self) -> None:
        self._calls.clear()
