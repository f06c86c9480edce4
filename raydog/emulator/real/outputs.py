"""What programs on an instance print: followed through an open file, kept in bounds on the host."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import deque
from pathlib import Path

LIMIT = 1 << 20
"""Bytes of a program's output that are kept: the last ones."""

KEPT = 100
"""Copies that are kept for one instance: the latest ones."""

_KEPT_WITHOUT_DISK = 16 << 10
"""Bytes of an output that are kept in memory when the disk takes no copy."""

_log = logging.getLogger("raydog.emulator")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def tail(descriptor: int, limit: int = LIMIT) -> bytes:
    """The last ``limit`` bytes of an open file, however its name or folder fared meanwhile."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, limit, max(0, size - limit))


class Outputs:
    """The outputs of one instance: open files of those that still run, copies of the others in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}
        self._copies: deque[Path] = deque()
        self._in_memory: dict[str, bytes] = {}

    def follow(self, name: str, descriptor: int) -> None:
        """Take over the open file into which the program ``name`` prints."""
        self.finish(name)
        self._open[name] = descriptor

    def finish(self, name: str) -> None:
        """The program has ended: keep a copy, readable for this user only, and let go of the file.

        A full disk is no reason to fail: what ends a task or an instance goes on, and the output says what is missing.
        """
        descriptor = self._open.pop(name, None)
        if descriptor is None:
            return
        try:
            content = tail(descriptor)
        finally:
            os.close(descriptor)
        try:
            self._copy(name, content)
        except OSError as error:
            _log.warning("the output of %s cannot be kept in %s: %s", name, self._folder, error.strerror)
            self._path(name).unlink(missing_ok=True)
            end = content[-_KEPT_WITHOUT_DISK:]
            note = f"(only the last {len(end)} of {len(content)} bytes were kept: {error.strerror})\n"
            self._in_memory[name] = note.encode() + end
            while len(self._in_memory) > KEPT:
                del self._in_memory[next(iter(self._in_memory))]
            return
        self._copies.append(self._path(name))
        while len(self._copies) > KEPT:
            self._copies.popleft().unlink(missing_ok=True)

    def _copy(self, name: str, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(copy, "wb") as file:
            file.write(content)

    def finish_all(self) -> None:
        """The instance has ended."""
        for name in list(self._open):
            self.finish(name)

    def forget(self) -> None:
        """Delete the copies."""
        self._in_memory.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, name: str) -> str | None:
        """The last `LIMIT` bytes of what ``name`` printed so far; None if it is not known."""
        descriptor = self._open.get(name)
        if descriptor is not None:
            return tail(descriptor).decode(errors="replace")
        if name in self._in_memory:
            return self._in_memory[name].decode(errors="replace")
        try:
            return self._path(name).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        return self._folder / f"{_UNSAFE.sub('_', name)}.log"
