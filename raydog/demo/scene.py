"""Running Ray's commands for the demo: each with its output in a log, a live line meanwhile, and an honest end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from raydog.errors import RayDogError
from raydog.progress import Progress

_POLL_SECONDS = 0.2
_END_SECONDS = 60.0
_SHOWN_OF_A_FAILURE = 25


@dataclass
class Phase:
    """One step of the demo and how long it took."""

    title: str
    seconds: float = 0.0


@dataclass
class Scene:
    """Where the demo happens: its folder, the environment of its commands, and what has been done so far."""

    folder: Path
    environment: Mapping[str, str]
    total: int
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, title: str) -> Iterator[Progress]:
        """A step: its title, a live line on a terminal, and its time."""
        phase = Phase(title)
        number = len(self.phases) + 1
        click.echo(f"[{number}/{self.total}] {title}")
        progress = Progress(sys.stdout, prefix="      ")
        started = time.monotonic()
        try:
            yield progress
        finally:
            progress.close()
        phase.seconds = time.monotonic() - started
        self.phases.append(phase)
        click.echo(f"      done in {phase.seconds:.1f} s")

    def run(self, command: Sequence[str], waiting_for: Callable[[], str], progress: Progress, timeout: float) -> str:
        """Run a command to its end and return its output. It ends, too, when this is interrupted.

        Raises `RayDogError` with the last lines of its output if it fails or takes longer than ``timeout`` seconds.
        """
        log = self.folder / f"{len(self.phases) + 1}-{Path(command[0]).name}-{command[1]}.log"
        started = time.monotonic()
        with log.open("wb") as output:
            # A session of its own: Ctrl+C on this terminal reaches it through us, once.
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    waited = time.monotonic() - started
                    if waited > timeout:
                        raise RayDogError(f"{' '.join(command[:2])} took longer than {timeout:.0f} s{_tail(log)}")
                    progress.update(waiting_for(), waited)
                    time.sleep(_POLL_SECONDS)
            finally:
                _end(process)
        if process.returncode != 0:
            raise RayDogError(f"{' '.join(command)} failed with exit status {process.returncode}{_tail(log)}")
        return log.read_text(errors="replace")


@contextmanager
def undisturbed() -> Iterator[None]:
    """While this lasts, another Ctrl+C does not stop the cleaning up half-way."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    with undisturbed():
        os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_SHOWN_OF_A_FAILURE:]
    return "; its last words:\n" + "\n".join(f"  {line}" for line in lines)
