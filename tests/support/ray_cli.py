"""Ray's own command line as a subprocess, on a cluster YAML in a folder of its own."""

from __future__ import annotations

import copy
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from raydog.waiting import Pending, Ready, wait_until
from tests.support.real import make_key

T = TypeVar("T")
WAIT = 240.0
"""Seconds after which something that has not happened fails a test: machines may be busy."""

EXAMPLES = Path(__file__).parents[2] / "examples" / "autoscaler"
SCRIPTS = Path(sys.executable).parent
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Finished:
    """A command that has ended, with what it printed on both streams together."""

    arguments: tuple[str, ...]
    code: int
    output: str
    seconds: float

    @property
    def flat(self) -> str:
        """The output with every line break as one space, since Ray and click break lines where they like."""
        return " ".join(self.output.split())


class Command:
    """A command that runs, in a session of its own as a shell starts it, with its output in a file."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.arguments = arguments
        self._log = log
        self._began = time.monotonic()
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                arguments,
                cwd=folder,
                env=dict(environment),
                stdin=stdin,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return _COLOURS.sub("", self._log.read_text(errors="replace"))

    def printed(self, text: str) -> None:
        """Wait until it has printed ``text``. Fails if it ends before."""

        def look() -> Ready[None] | Pending:
            ended = self.process.poll() is not None
            output = self.output
            if text in output:
                return Ready(None)
            assert not ended, f"{self.arguments} ended without printing {text!r}:\n{output}"
            return Pending(output[-500:])

        wait_until(look, WAIT)

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """A signal to it alone, or (as a terminal does for Ctrl+C) to all that it has started as well."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self, timeout: float = WAIT) -> Finished:
        """Its result. Ends it, and fails, if it takes longer."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} did not end in {timeout:.0f} s:\n{self.output}") from None
        return Finished(self.arguments, code, self.output, time.monotonic() - self._began)

    def kill(self) -> None:
        """SIGKILL to it and to all that it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class RayCluster:
    """A YAML with its key in a folder, and the commands that a person types there."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str], *, v2: bool = True) -> None:
        self.folder = folder
        self.name = name
        self.yaml = folder / "cluster.yaml"
        folder.mkdir(parents=True)
        self.key, _public = make_key(folder)
        temporary = folder / "tmp"
        temporary.mkdir()
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "RAYDOG_", "YD_"))},
            "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
            "TMPDIR": str(temporary),  # where Ray caches configurations
            "XDG_STATE_HOME": str(folder / "state"),  # where RayDog remembers heads
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_UP_enable_autoscaler_v2": "1" if v2 else "0",
            "NO_PROXY": "*",
            "no_proxy": "*",
            **environment,
        }
        self._commands: list[Command] = []
        self.document: dict[str, Any] = yaml.safe_load((EXAMPLES / "raydog-local.yaml").read_text())
        self.document["cluster_name"] = name
        self.document["auth"]["ssh_private_key"] = self.key.name
        self.write()

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def write(self, change: Callable[[dict[str, Any]], object] | None = None) -> None:
        """Write the YAML, after ``change`` has been applied to it for good."""
        if change is not None:
            change(self.document)
        self.yaml.write_text(yaml.safe_dump(self.document, sort_keys=False))

    @contextmanager
    def changed(self, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
        """The YAML with ``change`` for a while."""
        before = copy.deepcopy(self.document)
        self.write(change)
        try:
            yield
        finally:
            self.document = before
            self.write()

    # Commands

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
        """Start a program, in the YAML's folder."""
        log = self.folder / f"command-{len(self._commands)}.log"
        command = Command(arguments, self.folder, {**self.environment, **(environment or {})}, log)
        self._commands.append(command)
        return command

    def ray(self, command: str, *arguments: str, code: int = 0, timeout: float = WAIT) -> Finished:
        """``ray COMMAND cluster.yaml ARGUMENTS``; fails if it does not exit with ``code``."""
        finished = self.start_ray(command, *arguments).wait(timeout)
        assert finished.code == code, f"{finished.arguments} exited with {finished.code}:\n{finished.output}"
        return finished

    def start_ray(self, command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
        return self.start("ray", command, self.yaml.name, *arguments, environment=environment)

    def up(self, *, code: int = 0) -> Finished:
        return self.ray("up", "-y", code=code)

    def down(self, *, code: int = 0) -> Finished:
        return self.ray("down", "-y", code=code)

    def exec(self, shell: str) -> str:
        """What a shell command on the head prints, through ``ray exec``."""
        marked = f"echo BEGIN-OF-OUTPUT; {{ {shell}\n}}; code=$?; echo; echo END-OF-OUTPUT; exit $code"
        output = self.ray("exec", marked).output
        # Ray prints the command too; the marks stand alone in a line only where the shell printed them.
        found = re.search(r"^BEGIN-OF-OUTPUT\s*?$(.*?)^END-OF-OUTPUT\s*?$", output, re.DOTALL | re.MULTILINE)
        assert found is not None, output
        return found[1].replace("\r", "").strip()

    def submit(self, script: Path, *arguments: str) -> Finished:
        return self.ray("submit", str(script), *arguments)

    def shows_its_head(self) -> bool:
        """Whether ``ray status`` knows the head. The autoscaler has a status only after its first look."""
        return eventually(lambda: "1 head" in self.exec("ray status"), "a status with the head in it", 60)

    def runs_a_task(self) -> bool:
        """Whether a worker comes up and runs something."""
        done = self.submit(EXAMPLES / "ray-sleep-job.py", "--tasks", "1", "--seconds", "0")
        return "1 tasks on 1 nodes" in done.output

    def write_script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def raydog(self, *arguments: str, code: int = 0) -> str:
        """Standard output and errors of ``raydog ARGUMENTS``."""
        finished = self.start("raydog", *arguments).wait()
        assert finished.code == code, finished.output
        return finished.output

    def close(self) -> None:
        """End the commands that still run."""
        for command in self._commands:
            command.kill()


def eventually(condition: Callable[[], T | Literal[False] | None], what: str, timeout: float = WAIT) -> T:
    """The first result of ``condition`` that is neither None nor False."""

    def look() -> Ready[T] | Pending:
        value = condition()
        return Pending(f"not yet: {what}") if value is None or value is False else Ready(value)

    return wait_until(look, timeout, interval=0.1, max_interval=0.5)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def no_traceback(finished: Finished) -> None:
    assert "Traceback (most recent call last)" not in finished.output, finished.output
