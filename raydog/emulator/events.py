"""What happened lately, for people: a bounded list, and a number that grows with every change of the state."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

REMEMBERED_EVENTS = 2_000


class Event(NamedTuple):
    """Something got a status. ``time`` is in seconds since 1970, ``owner`` the id of what it belongs to."""

    number: int
    """Counts from 1 over the platform's life: a gap to the last one seen means that older ones were dropped."""
    time: float
    kind: str
    """``work requirement``, ``task``, ``worker pool``, ``node`` or ``instance``."""
    id: str
    name: str
    owner: str
    """The work requirement's id for a task, the worker pool's for a node or instance, else its own."""
    status: str
    detail: str
    """Why, where that is known; else empty."""


class Events:
    """The last `REMEMBERED_EVENTS` events, oldest first. Costs the same however many there were."""

    def __init__(self) -> None:
        self.recent: deque[Event] = deque(maxlen=REMEMBERED_EVENTS)
        self.count = 0
        self.revision = 0
        """Whoever shows the state looks again when this has changed."""

    def note(
        self, time: float, kind: str, entity_id: str, name: str, owner: str, status: str, detail: str = ""
    ) -> None:
        """Remember an event; it counts as a change."""
        self.revision += 1
        self.count += 1
        self.recent.append(Event(self.count, time, kind, entity_id, name, owner, status, detail))
