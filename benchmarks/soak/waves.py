"""Waves of jobs, one after the other, each sent with ``ray submit`` as people do, each with a checked result."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ray_cli import Command, RayCluster

JOB = Path(__file__).with_name("job.py")
BLOCK_BYTES = 300_000
LONGEST_SECONDS = 360.0
"""A wave that takes longer has hung: its work is half a minute's, and no trouble lasts longer than that."""
_MOST_SUBMITS = 10


@dataclass
class Wave:
    """A job and what became of it. ``seconds`` is how long it took, ``submits`` how often it had to be sent."""

    number: int
    seed: int
    tasks: int
    task_seconds: float
    pause: float
    submits: int = 0
    seconds: float = 0.0
    nodes: int = 0
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def result_of(seed: int, tasks: int) -> str:
    """What a wave's job must print: computed here, without Ray."""
    blocks = [hashlib.shake_256(f"{seed}:{number}".encode()).digest(BLOCK_BYTES) for number in range(tasks)]
    digests = [hashlib.sha256(blocks[at] + blocks[(at + 1) % tasks]).hexdigest() for at in range(tasks)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass
class Waves:
    """Sends waves until it is told to stop. `step` is to be called often; it never waits."""

    cluster: RayCluster
    seed: int
    most_tasks: int
    say: Callable[[str, str], None]
    finished: list[Wave] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(f"waves {self.seed}")  # noqa: S311 - the same waves for the same seed
        self._wave: Wave | None = None
        self._command: Command | None = None
        self._began = time.monotonic()
        self._next = time.monotonic()

    @property
    def under_way(self) -> bool:
        return self._wave is not None

    def step(self, more: bool) -> None:
        """Look after the wave that is under way; begin the next one when it is time and ``more`` are wanted."""
        if self._wave is None:
            if more and time.monotonic() >= self._next:
                self._wave = self._throw()
                self._began = time.monotonic()
                self._submit(self._wave)
            return
        assert self._command is not None
        code = self._command.process.poll()
        waited = time.monotonic() - self._began
        if code is None:
            if waited > LONGEST_SECONDS:
                self._command.kill()
                self._end(self._wave, f"not finished after {waited:.0f} s")
        elif code != 0 and "WAVE BEGAN" not in self._command.output and self._wave.submits < _MOST_SUBMITS:
            self.say("refused", f"wave {self._wave.number}: {_last_line(self._command.output)}")
            self._submit(self._wave)
        else:
            self._end(self._wave, self._fault(self._wave, code))

    def _throw(self) -> Wave:
        dice = self._dice
        return Wave(
            number=len(self.finished) + 1,
            seed=dice.randrange(10**6),
            tasks=dice.randint(1, self.most_tasks),
            task_seconds=round(dice.uniform(0.5, 5), 1),
            # Some come while workers are there, some when they have gone for want of work.
            pause=dice.choice((0.0, 2.0, 5.0, 30.0)),
        )

    def _submit(self, wave: Wave) -> None:
        wave.submits += 1
        numbers = {"seed": wave.seed, "tasks": wave.tasks, "seconds": wave.task_seconds}
        arguments = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
        self._command = self.cluster.start_ray("submit", str(JOB), *arguments)

    def _fault(self, wave: Wave, code: int) -> str | None:
        assert self._command is not None
        output = self._command.output
        found = re.search(r"^WAVE RESULT ([0-9a-f]{64}) (\d+)", output, re.MULTILINE)
        if code != 0 or found is None:
            return f"ray submit exited with {code}: {output[-3000:]}"
        wave.nodes = int(found[2])
        return None if found[1] == result_of(wave.seed, wave.tasks) else f"a wrong result: {found[1]}"

    def _end(self, wave: Wave, problem: str | None) -> None:
        wave.problem = problem
        wave.seconds = round(time.monotonic() - self._began, 1)
        outcome = problem or f"right, {wave.tasks} tasks on {wave.nodes} nodes"
        self.say("wave", f"{wave.number}: {outcome}, {wave.seconds:.0f} s")
        self.finished.append(wave)
        self._wave = self._command = None
        self._next = time.monotonic() + wave.pause


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
