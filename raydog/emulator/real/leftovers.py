"""What an emulator with real instances may leave on the host, written down so that it can be removed.

That is little by design: instances, mounts and networks live in namespaces that end with their processes,
and those end with the emulator. What a crash can leave is a way out to the internet (`internet`) and the
output files of instances; the keeper and its interface only if the kernel has not yet got round to them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from pathlib import Path
from typing import IO, Any

from raydog.emulator.record import write_whole
from raydog.errors import StateError, TeardownError
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until

from .guest.netlink import Netlink
from .internet import close_way_out

_ALONE_SECONDS = 3.0
_END_SECONDS = 20.0


class Record:
    """An emulator's files below its state folder: ``real.lock``, ``real.json``, ``real.log`` and folders."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Claim the folder and remove what a crashed emulator left. StateError if one is running."""
        lock = (self._dir / "real.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise StateError(f"another emulator runs real instances from {self._dir}; stop it first") from error
        self._lock = lock
        remove(self._dir)

    def write(self, keeper: int, interface: str) -> None:
        """Note the keeper's process and the interface on the host."""
        path = self._dir / "real.json"
        known = json.loads(path.read_text()) if path.exists() else {}  # by a keeper before this one
        text = json.dumps({**known, "keeper": keeper, "started": _start_time(keeper), "interface": interface})
        write_whole(path, text + "\n")

    def add(self, key: str, value: dict[str, Any]) -> None:
        """Note one thing more."""
        path = self._dir / "real.json"
        write_whole(path, json.dumps({**json.loads(path.read_text()), key: value}) + "\n")

    def keeper_log(self) -> int:
        """A file for the keeper's errors, for the duration of its start."""
        return os.open(self._dir / "real.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def keeper_said(self) -> str:
        """The end of the keeper's errors."""
        return (self._dir / "real.log").read_text(errors="replace").strip()[-1000:]

    def release(self) -> None:
        """Remove the files and give up the claim."""
        if self._lock is not None:
            remove(self._dir)
            (self._dir / "real.lock").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


def clean(state_dir: Path) -> list[str]:
    """Remove what a crashed emulator left; one line for each thing removed. StateError if it is running."""
    if not (state_dir / "real.json").exists():
        return []
    with (state_dir / "real.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(f"the emulator with the state in {state_dir} is running; stop it first") from error
        removed = remove(state_dir)
        (state_dir / "real.lock").unlink(missing_ok=True)
    return removed


def remove(state_dir: Path) -> list[str]:
    """End the recorded keeper, remove the recorded interface and the files. TeardownError if one stays."""
    removed: list[str] = []
    path = state_dir / "real.json"
    if path.exists():
        record = json.loads(path.read_text())
        if _end_process(record["keeper"], record["started"]):
            removed.append(f"process {record['keeper']} (keeper of the instances)")
        if "internet" in record:
            removed += close_way_out(record["internet"])
        if remove_interface(record["interface"]):
            removed.append(f"network interface {record['interface']}")
        path.unlink()
    if (state_dir / "instances").exists():
        shutil.rmtree(state_dir / "instances")
        removed.append(f"folder {state_dir / 'instances'}")
    (state_dir / "real.log").unlink(missing_ok=True)
    if (state_dir / "namespaces").exists():
        (state_dir / "namespaces").rmdir()
    return removed


def _end_process(process: int, started: str | None) -> bool:
    if started is None or _start_time(process) != started:
        return False  # gone; the number may belong to another process by now

    def ended() -> Ready[None] | Pending:
        return Pending("still running") if _start_time(process) == started else Ready(None)

    try:
        # A keeper without its emulator ends its instances, waits for the last of their processes, and goes.
        wait_until(ended, _ALONE_SECONDS, interval=0.01)
    except WaitTimeout:
        os.kill(process, signal.SIGKILL)
        try:
            wait_until(ended, _END_SECONDS, interval=0.01)
        except WaitTimeout as error:
            raise TeardownError(f"process {process} does not end", [f"process {process}"]) from error
    return True


def _start_time(process: int) -> str | None:
    """When a process started, in the kernel's clock ticks: with its id, its identity. None if it has ended."""
    try:
        text = Path("/proc", str(process), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def remove_interface(name: str) -> bool:
    """Remove a network interface of the host; False if there is none."""
    network = Netlink()
    try:
        network.delete(name)
    except OSError:
        return False  # it went with the keeper
    finally:
        network.close()
    return True
