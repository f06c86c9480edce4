"""Why nodes could not be had: kept on the head for ``raydog status``, since Ray's own status drops the reasons."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from raydog.errors import RayDogError, StateError

_KEPT = 50


@dataclass(frozen=True)
class Failure:
    """A launch that failed, or a node that ended by itself."""

    time: str
    node_type: str
    category: str
    message: str


class FailureLog:
    """The last failures, in a small JSON file that anybody with the SSH key can read."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._entries: deque[Failure] = deque(maxlen=_KEPT)

    def add(self, node_type: str, category: str, message: str) -> None:
        """Note a failure. Raises `StateError` if the file cannot be written."""
        with self._lock:
            self._entries.append(Failure(self._now().isoformat(timespec="seconds"), node_type, category[:20], message))
            temporary = self._path.with_suffix(".new")
            try:
                temporary.write_text(json.dumps([asdict(entry) for entry in self._entries]))
                os.replace(temporary, self._path)  # noqa: PTH105
            except OSError as error:
                raise StateError(f"cannot keep the reason of a failure in {self._path}: {error.strerror}") from error


def read_failures(text: str) -> list[Failure]:
    """The failures in the file's text. Raises `RayDogError` if it is not what `FailureLog` writes."""
    try:
        return [Failure(**entry) for entry in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise RayDogError(f"the head's list of failures cannot be read: {error}") from error
