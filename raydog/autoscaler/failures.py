"""What went wrong on the platform, kept on the head for ``raydog status``, since Ray's own status drops the reasons."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from raydog.errors import RayDogError, StateError

logger = logging.getLogger(__name__)

_KEPT = 50


@dataclass(frozen=True)
class Failure:
    """A launch that failed, or a node that ended by itself.

    ``node`` is its name, where it was one node; ``output`` the last lines that it printed, as far as the head has them.
    """

    time: str
    node_type: str
    category: str
    message: str
    node: str = ""
    output: tuple[str, ...] = ()


class FailureLog:
    """The last failures, in a small JSON file that anybody with the SSH key can read."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()

    def add(
        self,
        node_type: str,
        category: str,
        message: str,
        when: datetime | None = None,
        *,
        node: str = "",
        output: Sequence[str] = (),
    ) -> None:
        """Note a failure, once: the same again only renews its time. Raises `StateError` if the file cannot be written.

        A node fails once: whoever hears of it first gives the reason, and who has its output adds that. What an earlier
        autoscaler of this head has noted stays.
        """
        time = (when or self._now()).isoformat(timespec="seconds")
        failure = Failure(time, node_type, category[:20], message, node, tuple(output))
        with self._lock:
            kept = []
            for entry in self._earlier():
                if node and entry.node == node:
                    failure = replace(entry, output=entry.output or failure.output)
                elif replace(entry, time=time) != failure:
                    kept.append(entry)
            entries = [*kept, failure][-_KEPT:]
            _write(self._path, json.dumps([asdict(entry) for entry in entries]), "the reason of a failure")

    def _earlier(self) -> Iterable[Failure]:
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
        return [Failure(**{**entry, "output": tuple(entry.get("output", ()))}) for entry in json.loads(text)]
    except (ValueError, TypeError, AttributeError) as error:  # not JSON, or other JSON
        raise RayDogError(f"the head's list of failures cannot be read: {error}") from error


@dataclass(frozen=True)
class PlatformSight:
    """How the head sees the platform: since when it has been so, and why it is not seen, if it is not."""

    since: str
    error: str | None = None


class PlatformLog:
    """Whether the platform answers the head, in a file beside the failures. Written only when that changes."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._path = path
        self._now = now
        self._noted: PlatformSight | None = None

    def note(self, error: str | None) -> None:
        """The platform has answered (None), or has not, and why. For one thread. A file that cannot be written is only
        warned about, once for each change."""
        noted = self._noted
        if noted is not None and noted.error == error:
            return
        unchanged = noted is not None and (noted.error is None) == (error is None)
        since = noted.since if noted is not None and unchanged else self._now().isoformat(timespec="seconds")
        self._noted = PlatformSight(since, error)
        try:
            _write(self._path, json.dumps(asdict(self._noted)), "whether the platform answers")
        except StateError as failed:
            logger.warning("%s", failed)


def read_sight(text: str) -> PlatformSight:
    """What `PlatformLog` has written. Raises `RayDogError` if it is something else."""
    try:
        return PlatformSight(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise RayDogError(f"the head's note on the platform cannot be read: {error}") from error


def _write(path: Path, text: str, what: str) -> None:
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        raise StateError(f"cannot keep {what} in {path}: {error.strerror}") from error
