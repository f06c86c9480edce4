"""The state folder of a daemon: its key, its log, and the record of the process that runs or ran there."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from raydog.errors import StateError


def default_state_dir() -> Path:
    """``$RAYDOG_EMULATOR_DIR``, else below ``$XDG_STATE_HOME`` or ``~/.local/state``."""
    named = os.environ.get("RAYDOG_EMULATOR_DIR")
    if named:
        return Path(named).absolute()
    state_home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state_home).expanduser() / "raydog" / "emulator"


def process_start(pid: int) -> str | None:
    """When the process of that id started (opaque), or None if there is none or it only waits to be reaped.

    Together with the id it names one process for ever: ids are used again.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in {"Z", "X"} else fields[19]
    listed = subprocess.run(  # other systems, which run simulated instances
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def write_whole(path: Path, text: str) -> None:
    """Write a file for this user only: all of it or, on a full disk, nothing. StateError if it cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StateError(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True)
class Record:
    """The process that serves a state folder. ``url`` is None while it starts or stops."""

    pid: int
    started: str
    instances: str
    url: str | None = None

    @property
    def alive(self) -> bool:
        return process_start(self.pid) == self.started


@dataclass(frozen=True)
class StateDir:
    """Paths and files of one emulator; others, with other folders, are never touched."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "emulator.log"

    @property
    def _record(self) -> Path:
        return self.path / "emulator.json"

    def make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot make the state folder {self.path}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Two commands at the same moment take turns."""
        self.make()
        path = self.path / "lock"
        try:
            lock = path.open("w", encoding="utf-8")
        except OSError as error:
            raise StateError(f"cannot write {path}: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def key(self) -> tuple[str, str]:
        """The id and secret of this folder's API key, made at the first use. Only its owner can read it."""
        path = self.path / "key.json"
        if not path.exists():  # only an emulator that starts makes one, while its `start` holds the lock
            write_whole(path, json.dumps({"id": secrets.token_hex(12), "secret": secrets.token_urlsafe(24)}))
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["id"], stored["secret"]

    def read(self) -> Record | None:
        """The last record; its process may be dead."""
        try:
            return Record(**json.loads(self._record.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{self._record} is damaged ({error}); remove it and run `raydog emulator clean`"
            ) from error

    def write(self, record: Record) -> None:
        write_whole(self._record, json.dumps(asdict(record)))

    def forget(self) -> None:
        self._record.unlink(missing_ok=True)
