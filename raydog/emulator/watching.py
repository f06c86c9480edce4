"""Who wants to hear of changes of which entity. A change costs one look-up, and one call for each that watches."""

from __future__ import annotations

from collections.abc import Callable


class Watchers:
    """Calls back when an entity changed. Callbacks only note it: they run in the middle of a change."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Callable[[], object], None]] = {}

    def add(self, entity_id: str, wake: Callable[[], object]) -> None:
        self._waiting.setdefault(entity_id, {})[wake] = None

    def remove(self, entity_id: str, wake: Callable[[], object]) -> None:
        waiting = self._waiting.get(entity_id, {})
        waiting.pop(wake, None)
        if not waiting:
            self._waiting.pop(entity_id, None)

    def changed(self, entity_id: str) -> None:
        for wake in self._waiting.get(entity_id, ()):
            wake()

    def __len__(self) -> int:
        """How many watch, over all entities."""
        return sum(map(len, self._waiting.values()))
