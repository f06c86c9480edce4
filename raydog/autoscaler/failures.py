"""Why nodes could not be had: kept on the head for ``raydog status``, since Ray's own status drops the reasons."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from raydog.errors import RayDogError, StateError

logger = logging.getLogger(__name__)

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
        self._entries: deque[Failure] | None = None

    def add(self, node_type: str, category: str, message: str, when: datetime | None = None) -> None:
        """Note a failure, once: the same again only renews its time. Raises `StateError` if the file cannot be written.

        What an earlier autoscaler of this head has noted stays.
        """
        time = (when or self._now()).isoformat(timespec="seconds")
        failure = Failure(time, node_type, category[:20], message)
        with self._lock:
            kept = [entry for entry in self._earlier() if replace(entry, time=time) != failure]
            self._entries = deque([*kept, failure], maxlen=_KEPT)
            temporary = self._path.with_suffix(".new")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps([asdict(entry) for entry in self._entries]))
                os.replace(temporary, self._path)  # noqa: PTH105
            except OSError as error:
                raise StateError(f"cannot keep the reason of a failure in {self._path}: {error.strerror}") from error

    def _earlier(self) -> Iterable[Failure]:
        if self._entries is not None:
            return self._entries
        try:
            return read_failures(self._path.read_text())
        except FileNotFoundError:
            return ()
        except (OSError, RayDogError) as error:
            logger.warning("the earlier failures in %s are lost: %s", self._path, error)
            return ()


def read_failures(text: str) -> list[Failure]:
    """The failures in the file's text. Raises `RayDogError` if it is not what `FailureLog` writes."""
    try:
        return [Failure(**entry) for entry in json.loads(text)]
    except (ValueError, TypeError) as error:  # not JSON, or other JSON
        raise RayDogError(f"the head's list of failures cannot be read: {error}") from error
