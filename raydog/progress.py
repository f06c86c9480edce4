"""Progress for people: on a terminal, what is being waited for and for how long; otherwise silence."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Reports stages of a long wait. On a terminal the current one is a line that is rewritten with its seconds."""

    def __init__(self, stream: TextIO | None = None, prefix: str = "RayDog: ") -> None:
        self._stream = sys.stderr if stream is None else stream
        self._prefix = prefix
        self._live = self._stream.isatty()
        self._open = False
        self._started = time.monotonic()

    def update(self, text: str, waited: float | None = None) -> None:
        """Show what is being waited for now."""
        if not self._live:
            return
        seconds = time.monotonic() - self._started if waited is None else waited
        line = f"{self._prefix}{text} ({seconds:.0f} s)"
        self._stream.write(f"\r\x1b[K{line[:79]}")
        self._stream.flush()
        self._open = True

    def done(self, text: str) -> None:
        """Replace the live line by a lasting one."""
        if not self._live:
            return
        self._stream.write(f"\r\x1b[K{self._prefix}{text}\n")
        self._stream.flush()
        self._open = False

    def close(self) -> None:
        """Take the live line away."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False


def bar(done: int, total: int, width: int = 20) -> str:
    """How much is done, drawn: ``[#####---------------]``."""
    filled = width if total <= 0 else min(width * max(done, 0) // total, width)
    return f"[{'#' * filled}{'-' * (width - filled)}]"
