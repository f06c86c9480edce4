"""Start, stop, ask and clear up the emulator that runs in the background. Each state folder has one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydog.emulator.record import Record, StateDir
from raydog.errors import ConfigError, NotFoundError, PlatformError, StateError
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until

INSTANCES = ("real", "simulated")
STOP_SECONDS = 120.0
CALL_SECONDS = 30.0
FOLLOW_SECONDS = 0.5
LOG_TAIL = 4000
FULL_BYTES = 64 << 10

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
"""Debian's rule for package names (Policy Manual, 5.6.7)."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to start an emulator. ``port`` 0 lets the system choose a free one."""

    instances: str = "real"
    port: int = 0
    templates: Path | None = None
    internet: bool = False
    expose: tuple[Path, ...] = ()
    """Folders of this machine that real instances see as well, read-only, at their own paths."""
    packages: tuple[str, ...] = ()
    """Debian packages whose programs real instances have beside the usual ones."""

    def check(self) -> None:
        if self.instances not in INSTANCES:
            raise ConfigError(f"instances are one of {', '.join(INSTANCES)}, not {self.instances!r}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"the port {self.port} is not between 0 and 65535")
        if self.expose and self.instances != "real":
            raise ConfigError("only real instances have files: exposing folders does not fit simulated ones")
        if self.packages and self.instances != "real":
            raise ConfigError("only real instances have programs: packages do not fit simulated ones")
        for name in self.packages:
            if not _PACKAGE.fullmatch(name):
                raise ConfigError(f"{name!r} is no name of a Debian package")


@dataclass(frozen=True)
class Running:
    """An emulator that answers, and the key that it wants."""

    record: Record
    key_id: str
    key_secret: str

    @property
    def url(self) -> str:
        return self.record.url or ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "YD_API_URL": self.url,
            "YD_API_KEY_ID": self.key_id,
            "YD_API_KEY_SECRET": self.key_secret,
        }

    def exports(self) -> str:
        """Three lines for ``eval "$(raydog emulator start)"``."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.environment.items())

    def page(self) -> str:
        """The address of its page, with the token of this start: for the owner's eyes, not for logs."""
        return str(self.get("/emulator/page/link")["url"])

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A call of ``/emulator/...``, past any proxy of the environment."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(  # noqa: S310 - our own http URL
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"yd-key {self.key_id}:{self.key_secret}"},
            method=method,
        )
        try:
            with opener.open(request, timeout=CALL_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                message = json.load(error).get("message", "")
            if error.code == 404:
                raise NotFoundError(message, error.code) from error
            raise PlatformError(f"the emulator refused {path}: {message}", error.code) from error
        except OSError as error:
            raise PlatformError(
                f"the emulator (process {self.record.pid}) does not answer at {self.url}: {error}"
            ) from error


def running(state: StateDir) -> Running | None:
    """The emulator of the folder, if its process lives and has finished starting."""
    record = state.read()
    if record is None or record.url is None or not record.alive:
        return None
    return Running(record, *state.key())


def require_running(state: StateDir) -> Running:
    found = running(state)
    if found is None:
        raise StateError(f"no emulator runs in {state.path}; start one: raydog emulator start")
    return found


def start(state: StateDir, settings: Settings, progress: Progress, notice: Progress | None = None) -> Running:
    """The emulator of the folder: the one that runs already, or a new one, which answers when this returns.

    ``notice`` gets what matters even where nobody watches the progress: what was left by one that crashed.
    """
    settings.check()
    with state.locked():
        found = _running_after_leftovers(state, notice or progress)
        if found is not None:
            progress(f"an emulator with {found.record.instances} instances runs already (process {found.record.pid})")
            return found
        return _launch(state, settings, progress)


def run_in_foreground(state: StateDir, settings: Settings, notice: Progress, ready: Progress) -> None:
    """Serve in this process until SIGTERM or Ctrl+C. ``ready`` gets the export lines; ``notice`` as in `start`."""
    from raydog.emulator.service import serve  # noqa: PLC0415 - brings the web server
    from raydog.emulator.templates import Templates  # noqa: PLC0415

    settings.check()
    templates = Templates.load(settings.templates)
    with ExitStack() as until_ready:
        until_ready.enter_context(state.locked())
        found = _running_after_leftovers(state, notice)
        if found is not None:
            raise StateError(f"an emulator runs in {state.path} already (process {found.record.pid})")

        def on_ready(_url: str) -> None:
            until_ready.close()
            ready(require_running(state).exports())

        asyncio.run(
            serve(
                state,
                settings.instances,
                settings.port,
                templates,
                settings.internet,
                on_ready,
                settings.expose,
                settings.packages,
            )
        )


def _running_after_leftovers(state: StateDir, notice: Progress) -> Running | None:
    """Wait out one that is just starting or stopping; clear up after one that crashed, and say so."""

    def decided() -> Ready[Running | None] | Pending:
        record = state.read()
        if record is not None and record.alive and record.url is None:
            return Pending(f"process {record.pid} is starting or stopping")
        return Ready(running(state))

    try:
        found = wait_until(decided, STOP_SECONDS)
    except WaitTimeout as timeout:
        raise StateError(f"the emulator in {state.path} is stuck: {timeout}; raydog emulator stop ends it") from timeout
    if found is None and state.read() is not None:
        for one in clean(state):
            notice(f"left by a crash, removed: {one}")
    return found


def _launch(state: StateDir, settings: Settings, progress: Progress) -> Running:
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "raydog.emulator.service"]
    command += ["--state-dir", str(state.path), "--instances", settings.instances, "--port", str(settings.port)]
    command += ["--pipe", str(writer)]
    if settings.templates is not None:
        command += ["--templates", str(settings.templates.absolute())]
    if settings.internet:
        command.append("--internet")
    for folder in settings.expose:
        command += ["--expose", str(folder.absolute())]
    for name in settings.packages:
        command += ["--package", name]
    progress(f"starting the emulator with {settings.instances} instances")
    with os.fdopen(reader, encoding="utf-8") as lines:
        reports = _Reports(lines)
        try:
            try:
                _run_detached(command, state.log, writer)
            finally:
                os.close(writer)
            outcome = reports.outcome(progress)
        except BaseException:  # such as Ctrl+C: nobody would know of a daemon that goes on
            reports.end_daemon()
            raise
    if "error" in outcome:
        raise StateError(f"the emulator did not start: {outcome['error']} (log: {state.log})")
    if "url" not in outcome:
        raise StateError(f"the emulator died while it started; its log {state.log} ends:\n{log_tail(state)}")
    return require_running(state)


def _run_detached(command: list[str], log_file: Path, writer: int) -> None:
    """Returns as soon as the daemon has left this session (see `raydog.emulator.service.main`)."""
    with log_file.open("a", encoding="utf-8") as log:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,), cwd="/", check=True
        )


class _Reports:
    """What a daemon says while it starts, a line of JSON each: its process, progress, then the outcome."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._daemon: Record | None = None

    def _next(self) -> dict[str, Any] | None:
        line = next(self._lines, None)
        report: dict[str, Any] | None = None if line is None else json.loads(line)
        if report is not None and "pid" in report:
            self._daemon = Record(report["pid"], report["started"], "")
        return report

    def outcome(self, progress: Progress) -> dict[str, Any]:
        """``url`` or ``error``; empty if the daemon died without a word."""
        while (report := self._next()) is not None:
            if "progress" in report:
                progress(report["progress"])
            elif "pid" not in report:
                return report
        return {}

    def end_daemon(self) -> None:
        if self._daemon is None:
            self._next()
        if self._daemon is not None:
            end_process(self._daemon)


def end_process(record: Record) -> None:
    """SIGTERM, then wait: the daemon ends its instances first."""
    if record.alive:
        os.kill(record.pid, signal.SIGTERM)

    def gone() -> Ready[None] | Pending:
        return Pending(f"process {record.pid} runs") if record.alive else Ready(None)

    try:
        wait_until(gone, STOP_SECONDS)
    except WaitTimeout as timeout:
        raise StateError(
            f"the emulator did not end: {timeout}. Look at its log; as a last resort: kill -9 {record.pid}, "
            "then raydog emulator clean"
        ) from timeout


def stop(state: StateDir) -> list[str]:
    """End the emulator of the folder and all that it runs. Returns what it ended; nothing if none ran."""
    if not state.path.exists():
        return []
    record = state.read()
    if record is None:
        return []
    if not record.alive:
        with state.locked():
            return [f"the emulator had died; {one}" for one in clean(state)]
    ended = [f"the emulator (process {record.pid})"]
    if record.url is not None:
        ended += _what_runs(Running(record, *state.key()))
    end_process(record)
    return ended


def _what_runs(emulator: Running) -> list[str]:
    try:
        status = emulator.get("/emulator/status")
    except PlatformError as error:
        return [f"what it ran is unknown: {error}"]
    found = [f"work requirement {one['name']} ({one['status']})" for one in status["workRequirements"]]
    found += [f"instance {one['hostname']} {one['privateIpAddress'] or ''}".rstrip() for one in status["instances"]]
    return found


def clean(state: StateDir) -> list[str]:
    """Remove what an emulator that died has left. Returns what that was. One that runs is not touched."""
    record = state.read() if state.path.exists() else None
    if record is not None and record.alive:
        raise StateError(f"an emulator runs in {state.path} (process {record.pid}): raydog emulator stop")
    removed: list[str] = []
    if state.path.exists() and (record is None or record.instances == "real"):
        removed += _clean_real(state, required=record is not None)
    if record is not None:
        state.forget()
        removed.append(f"the record of the dead process {record.pid}")
    return removed


def _clean_real(state: StateDir, required: bool) -> list[str]:
    """Without a record there may still be leftovers, but only root, on Linux, can have made any."""
    if not required and (sys.platform != "linux" or os.geteuid() != 0):
        return []
    from raydog.emulator.real import RealDriver  # noqa: PLC0415 - Linux only

    removed: list[str] = RealDriver.clean(state.path)
    return removed


def status(state: StateDir) -> dict[str, Any]:
    """``running``, and if so the URL, process, kind of instances and counts (`Platform.status`).

    ``diskFull``: the state folder's disk takes no more of the log and of outputs; all else goes on.
    """
    found = running(state)
    if found is None:
        record = state.read() if state.path.exists() else None
        return {
            "running": False,
            "stateDir": str(state.path),
            "crashed": record is not None and not record.alive,
        }
    return {
        "running": True,
        "stateDir": str(state.path),
        "url": found.url,
        "pageUrl": found.page(),
        "pid": found.record.pid,
        "instanceKind": found.record.instances,
        "diskFull": shutil.disk_usage(state.path).free < FULL_BYTES,
        **found.get("/emulator/status"),
    }


def log_tail(state: StateDir) -> str:
    try:
        return state.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    except FileNotFoundError:
        return "(no log)"


def follow_log(state: StateDir, follow: bool) -> Iterator[str]:
    """The emulator's log in pieces; with ``follow`` it goes on until the emulator ends."""
    if not state.log.exists():
        raise StateError(f"no emulator has run in {state.path}")
    with state.log.open(encoding="utf-8", errors="replace") as log:
        while True:
            alive = running(state) is not None
            piece = log.read()
            if piece:
                yield piece
            if not follow or not alive:
                return
            time.sleep(FOLLOW_SECONDS)


def follow_task(state: StateDir, task_id: str, follow: bool) -> Iterator[str]:
    """What a task printed, in pieces; with ``follow`` it goes on until there is no such output any more."""
    path = f"/emulator/tasks/{urllib.parse.quote(task_id, safe=':')}/output"
    seen = require_running(state).get(path)["output"]
    yield seen
    while follow:
        time.sleep(FOLLOW_SECONDS)
        try:
            output = require_running(state).get(path)["output"]
        except (NotFoundError, StateError):
            return
        yield _added(seen, output)
        seen = output


def _added(old: str, new: str) -> str:
    """The end of ``new`` that ``old`` has not; ``new`` may have lost its beginning (the last 1 MiB is kept)."""
    if new.startswith(old):
        return new[len(old) :]
    tail = old[-256:]
    position = new.rfind(tail)
    return new if position < 0 else new[position + len(tail) :]
