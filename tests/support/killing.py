"""Programs that are killed at a platform call of the test's choosing, and a way to go through all such calls.

A program is a function at the top of a module that takes a `Stage`. It runs in a process of its own, forked from one
that has imported everything, so that a run costs tens of milliseconds. It calls the simulated platform of the test's
process, which kills it with SIGKILL when the chosen call has arrived: before it is applied, or when it is applied and
its answer would be sent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from raydog.emulator import Emulator
from raydog.waiting import Pending, Ready, wait_until

IMPORTED = [
    "pytest",
    "yellowdog_client.model",
    "tests.support.builder_programs",
    "tests.support.killing",
    "tests.support.provider_programs",
]
"""What the process that programs are forked from has imported: it must not have to be imported once for each run."""

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")
_ACTIONS = {"before": "drop_before", "after": "drop_after"}
_CHANGES = ("add", "provision", "update", "cancel", "shutdown", "terminate", "transition")
"""What the names of operations begin with that change something (the SDK's methods)."""
_SECONDS = 60.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


@dataclass(frozen=True)
class Stage:
    """What a program gets: the settings of the platform (``YD_API_*``, set in its process too) and a folder."""

    environment: dict[str, str]
    folder: Path
    _pipe: Connection

    def begin(self) -> None:
        """What the program does from here on is under test: only these calls count. To be called once."""
        self._pipe.send("begin")
        self._pipe.recv()


Program = Callable[[Stage], None]


@dataclass(frozen=True)
class Death:
    """Where a program is to be killed: at the ``number``-th call of ``operation``, counted from 1."""

    operation: str
    number: int
    moment: Moment

    @property
    def certain(self) -> bool:
        """Whether every run comes there: how often a program reads depends on how long it has to wait."""
        return self.number == 1 or _changes(self.operation)

    def __str__(self) -> str:
        return f"{self.moment} {self.operation} {self.number}"


def _changes(operation: str) -> bool:
    return operation.startswith(_CHANGES)


@dataclass(frozen=True)
class Run:
    """A run of a program that is over. ``operations`` are the calls it made after `Stage.begin`."""

    death: Death | None
    killed: bool
    operations: tuple[str, ...]

    def __str__(self) -> str:
        return f"killed {self.death}" if self.killed else f"not killed ({self.death})"


class Killing:
    """Runs programs against ``emulator``, whose instances must be simulated. Programs write into ``folder``."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self._emulator = emulator
        self._folder = folder

    def runs(self, program: Program) -> Iterator[Run]:
        """A run that is not disturbed, then for each of its calls one that is killed before it and one after it.

        Of calls that only read there is no "after": to die then is to die before the next call. Calls that are made
        in parallel come in any order, so a call is known by its operation and its number among the calls of that
        operation. Whoever iterates cleans up between two runs.
        """
        whole = self.run(program)
        yield whole
        assert whole.operations, "the program calls nothing after Stage.begin"
        for operation, count in Counter(whole.operations).items():
            for number in range(1, count + 1):
                for moment in MOMENTS if _changes(operation) else MOMENTS[:1]:
                    death = Death(operation, number, moment)
                    run = self.run(program, death)
                    assert run.killed or not death.certain, f"the program was not killed {death}: {run.operations}"
                    yield run

    def run(self, program: Program, death: Death | None = None) -> Run:
        """Run a program to its death or, without one, to its end, which must be a good one.

        When this returns, the platform has done all that the program asked for while it lived.
        """
        held = self._emulator.connections()
        ours, its = _context.Pipe()
        log = self._folder / "program.log"
        stage = Stage({**self._emulator.environment, "NO_PROXY": "*"}, self._folder, its)
        process = _context.Process(target=_perform, args=(program, stage, log))
        process.start()
        its.close()
        try:
            if not ours.poll(_SECONDS):
                raise AssertionError(f"the program does not begin:\n{log.read_text()}")
            try:
                ours.recv()
            except EOFError:
                raise AssertionError(f"the program ended before it began:\n{log.read_text()}") from None
            self._emulator.forget_calls()
            if death is not None:
                self._arm(death, process.pid)
            ours.send("go on")
            process.join(_SECONDS)
            code = process.exitcode
            assert code is not None, f"the program does not end:\n{log.read_text()}"
        finally:
            ours.close()
            process.kill()
            process.join()
            process.close()
            self._emulator.clear_faults()
        killed = death is not None and code == -signal.SIGKILL
        assert killed or code == 0, f"the program ended with {code}:\n{log.read_text()}"
        self._await_last_calls(held)
        return Run(death, killed, tuple(call["operation"] for call in self._emulator.calls()))

    def _arm(self, death: Death, pid: int | None) -> None:
        assert pid is not None
        victim = pid
        self._emulator.fault(
            death.operation,
            _ACTIONS[death.moment],
            skip=death.number - 1,
            on_hit=lambda: os.kill(victim, signal.SIGKILL),
        )

    def _await_last_calls(self, held: int) -> None:
        """The platform may still be reading what the program sent from other threads just before it died."""

        def closed() -> Ready[None] | Pending:
            count = self._emulator.connections()
            return Ready(None) if count <= held else Pending(f"{count} connections, {held} before")

        wait_until(closed, 10.0, interval=0.005)
        self._emulator.status()  # a turn of the platform's loop later, what had arrived is done


def _perform(program: Program, stage: Stage, log: Path) -> None:
    """In the program's own process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(stage.environment)
    program(stage)
