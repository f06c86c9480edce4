"""Progress of a cluster: to the program's own function, or to a terminal, with a bar where things are counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from raydog.progress import Progress, bar

logger = logging.getLogger(__name__)


class Reporter:
    """Without ``on_progress`` a line on a terminal, else each new text is given to it. Thread-safe.

    What ``on_progress`` raises ends what is under way, except that it never stops a cleaning up (`unstoppable`).
    """

    def __init__(self, on_progress: Callable[[str], None] | None) -> None:
        self._on_progress = on_progress
        self._progress: Progress | None = None
        self._last = ""
        self._lock = threading.RLock()

    def update(self, text: str, waited: float | None = None) -> None:
        """What is being waited for now."""
        if self._on_progress is None:
            with self._lock:
                self._line().update(text, waited)
        else:
            self._tell(text)

    def count(self, what: str, done: int, total: int, note: str = "") -> None:
        """How many of ``total`` are done. A line of a terminal has no room for what ``note`` says in brackets."""
        counted = f"{done} of {total} {what}"
        if self._on_progress is not None:
            self.update(f"{counted}{note}")
        else:
            self.update(f"{bar(done, total)} {counted}{note.partition(' (')[0]}")

    def done(self, text: str) -> None:
        """A stage is complete."""
        if self._on_progress is None:
            with self._lock:
                self._line().done(text)
        else:
            self._tell(text)

    def unstoppable(self, text: str, waited: float | None = None) -> None:
        """As `update`, while something is being ended."""
        try:
            self.update(text, waited)
        except Exception as error:  # noqa: BLE001 - the program's function must not keep things alive that cost money
            logger.warning("the function for progress failed: %r", error)

    def close(self) -> None:
        """Take the live line away; seconds count anew from the next one."""
        with self._lock:
            if self._progress is not None:
                self._progress.close()
            self._progress, self._last = None, ""

    def _line(self) -> Progress:
        if self._progress is None:
            self._progress = Progress()
        return self._progress

    def _tell(self, text: str) -> None:
        with self._lock:
            if text == self._last or self._on_progress is None:
                return
            self._last = text
            self._on_progress(text)
