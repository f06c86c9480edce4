"""When a worker pool gives no machines: how that is known, and which template is tried next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raydog.yellowdog.records import Supply


@dataclass(frozen=True)
class Patience:
    """How long work waits for machines before its pool counts as short of them, in seconds."""

    confirm: float = 4.0
    """A shortage must be seen again so much later: what is read in several calls may not fit together."""
    silent: float = 90.0
    """Where the platform says nothing at all. A machine that boots is no shortage, however long it takes."""
    unused: float = 5.0
    """A pool whose node type has no nodes any more may still be asking for machines, and is ended after so long."""
    rest: float = 120.0
    """A template that had no machines is not tried again for so long."""


PATIENCE = Patience()


def shortage(supply: Supply, registered: int, waited: float, patience: Patience) -> str | None:
    """Why work that has waited for ``waited`` seconds gets no machine from a compute requirement, or None if it will.

    ``registered`` of its machines are nodes already. Any other that is alive is booting, and worth waiting for: it
    would be lost with its pool.
    """
    if supply.alive is not None and supply.alive > registered:
        return None
    said = "; ".join(supply.messages)
    if supply.failed or waited >= patience.silent:
        return said or f"no machine came within {waited:.0f} s, and the platform does not say why"
    return None


class Shortages:
    """Remembers which templates had no machines, and since when a pool has been short. Not thread-safe."""

    def __init__(self, patience: Patience, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._monotonic = monotonic
        self._exhausted: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def confirmed(self, pool_id: str, reason: str | None) -> bool:
        """Whether a pool has been short for long enough. To be told of every look; ``reason`` is None if it is not."""
        if reason is None:
            self._since.pop(pool_id, None)
            return False
        since = self._since.setdefault(pool_id, self._monotonic())
        return self._monotonic() - since >= self._patience.confirm

    def note(self, template: str) -> None:
        """The template gave no machines just now."""
        self._exhausted[template] = self._monotonic()

    def fresh(self, templates: Sequence[str]) -> list[str]:
        """Those that have not lacked machines lately, in their order."""
        return [template for template in templates if not self._rests(template)]

    def order(self, templates: Sequence[str]) -> list[str]:
        """All of them in the order in which they are worth trying."""
        tired = [template for template in templates if self._rests(template)]
        return [*self.fresh(templates), *sorted(tired, key=lambda template: self._exhausted[template])]

    def _rests(self, template: str) -> bool:
        since = self._exhausted.get(template)
        return since is not None and self._monotonic() - since < self._patience.rest
