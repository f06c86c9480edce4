"""When the platform is asked next: often while nodes come or go, else once a tick, shortly before Ray looks.

So in steady state a node that has died is gone when Ray looks the next time, at the cost of one sweep a tick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_ONE_TICK = 1.0
"""Looks that are closer together belong to one tick: v1 looks several times in each."""
_LONGEST_TICK = 30.0
_LEAD = 0.5
"""Seconds from the start of a sweep to Ray's look: what it takes, and what Ray's pace varies by."""


class Rhythm:
    """Learns Ray's pace from its looks. Thread-safe. ``often``: seconds between sweeps while nodes come or go."""

    def __init__(self, often: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._often = often
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._looked: float | None = None
        self._tick: float | None = None
        self._hurried = False
        self._stopped = False

    def ray_looks(self) -> None:
        """Ray reads all nodes now."""
        with self._changed:
            now = self._monotonic()
            since = None if self._looked is None else now - self._looked
            if since is not None and since < _ONE_TICK:
                return
            self._looked = now
            self._tick = since if since is not None and self._often <= since <= _LONGEST_TICK else None

    def pause(self, *, busy: bool, took: float) -> float:
        """Seconds until the next sweep. ``busy``: nodes come or go; ``took``: the seconds that the last sweep took."""
        with self._changed:
            if busy or self._looked is None or self._tick is None:
                return self._often
            until = self._looked + self._tick - max(_LEAD, 2 * took) - self._monotonic()
            while until < self._tick / 2:  # the sweep that has just ended was for that look
                until += self._tick
            return until

    def hurry(self) -> None:
        """Nodes come or go from now on."""
        with self._changed:
            self._hurried = True
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Let that much time pass, less if `hurry` is called meanwhile, none after `stop`."""
        with self._changed:
            end = self._monotonic() + seconds
            while not self._stopped:
                if self._hurried:
                    self._hurried, end = False, min(end, self._monotonic() + self._often)
                left = end - self._monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
