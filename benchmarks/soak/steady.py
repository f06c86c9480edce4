"""Memory and file descriptors of processes over time, and whether they stay as they are."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from raydog.demo.proof import footprint

WARM_UP = 0.2
"""This part of the samples is left out: what is loaded and filled once."""
MEMORY_SHARE, MEMORY_MB = 0.05, 4.0
DESCRIPTORS = 6
"""The last third may have so much more than the first: descriptors come and go with nodes and calls under way."""


class Sample(NamedTuple):
    """Seconds since the beginning, resident megabytes, open file descriptors."""

    at: float
    memory: float
    descriptors: int


@dataclass(frozen=True)
class Change:
    """Medians of the first and of the last third after the warm-up. ``steady`` None: too few samples to say."""

    memory: tuple[float, float]
    descriptors: tuple[float, float]
    steady: bool | None

    def as_json(self) -> dict[str, Any]:
        return {"memory_mb": self.memory, "descriptors": self.descriptors, "steady": self.steady}


@dataclass
class Watched:
    """A process, and its samples. ``lost`` says since when it is not there any more."""

    name: str
    process: int
    samples: list[Sample] = field(default_factory=list)
    lost: float | None = None

    def sample(self, at: float) -> None:
        found = measure(self.process)
        if found is None:
            self.lost = at if self.lost is None else self.lost
        else:
            self.samples.append(Sample(at, *found))

    def change(self) -> Change:
        return compare(self.samples)


def compare(samples: Sequence[Sample]) -> Change:
    """How the last third of a process's samples differs from the first, the warm-up left out."""
    kept = samples[int(len(samples) * WARM_UP) :]
    third = len(kept) // 3
    if not third:
        return Change((0.0, 0.0), (0.0, 0.0), None)
    first, last = kept[:third], kept[-third:]
    memory = [statistics.median(one.memory for one in part) for part in (first, last)]
    descriptors = [statistics.median(one.descriptors for one in part) for part in (first, last)]
    steady = memory[1] <= memory[0] * (1 + MEMORY_SHARE) + MEMORY_MB and descriptors[1] <= descriptors[0] + DESCRIPTORS
    return Change((round(memory[0], 1), round(memory[1], 1)), (descriptors[0], descriptors[1]), steady)


def measure(process: int) -> tuple[float, int] | None:
    """Resident megabytes and open descriptors of a process; None if it has ended."""
    folder = Path("/proc", str(process))
    try:
        pages = int((folder / "statm").read_text().split()[1])
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    return (pages * os.sysconf("SC_PAGE_SIZE") / 1e6, descriptors) if pages else None


def below(process: int) -> dict[int, list[str]]:
    """All processes below one, in namespaces or not, and their command lines."""
    found: dict[int, list[str]] = {}
    for one, _start in footprint(process).processes:
        try:
            arguments = Path("/proc", str(one), "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if arguments[0]:
            found[one] = [argument.decode(errors="replace") for argument in arguments]
    return found
