"""A cluster's life on real instances: ``ray up``, a first worker, five more, ``ray down``. Medians of five rounds.

In each round three clusters live one after the other, in changing order (`benchmarks.contenders`): ours, the peer's,
and the floor, which is the same Ray with a provider that answers at once and nodes that were booted by hand.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.contenders import MOST_WORKERS, Contender
from benchmarks.heads import peer_environment
from raydog.emulator import daemon
from raydog.emulator.daemon import Running, Settings
from raydog.emulator.record import StateDir

ROUNDS = 5
UP_GOAL, JOIN_GOAL = 1.2, 1.15
TICK_SECONDS = 5.0
STEPS: dict[str, Callable[[Contender], float]] = {
    "ray up": methodcaller("up"),
    "first worker joined": methodcaller("join", 1),
    "five more workers joined": methodcaller("join", MOST_WORKERS),
    "ray down": methodcaller("down"),
}
_Make = Callable[[Path], AbstractContextManager[Contender]]


def run() -> list[dict[str, Any]]:
    """Measure; see `benchmarks.__main__` for the rows."""
    peer = peer_environment()
    with tempfile.TemporaryDirectory(prefix="raydog-bench-") as name:
        folder = Path(name)
        state = StateDir(folder / "emulator")
        try:
            emulator = daemon.start(state, Settings(expose=(peer,) if peer else ()), lambda _text: None)
            seconds = _rounds(folder, _contenders(emulator, peer))
        finally:
            daemon.stop(state)
    return [_row(step, {name: times[step] for name, times in seconds.items()}) for step in STEPS]


def _contenders(emulator: Running, peer: Path | None) -> dict[str, _Make]:
    makes: dict[str, _Make] = {
        "ours": partial(contenders.ours, emulator),
        "floor": partial(contenders.floors, emulator),
    }
    if peer is not None:
        makes["peer"] = partial(contenders.peers, emulator, peer)
    return makes


def _rounds(folder: Path, makes: dict[str, _Make]) -> dict[str, dict[str, list[float]]]:
    seconds: dict[str, dict[str, list[float]]] = {name: {step: [] for step in STEPS} for name in makes}
    order = list(makes)
    for number in range(ROUNDS):
        for name in order:
            with makes[name](folder / f"{name}-{number}") as cluster:
                for step, take in STEPS.items():
                    seconds[name][step].append(take(cluster))
        order = [*order[1:], order[0]]
    return seconds


def _row(step: str, runs: dict[str, list[float]]) -> dict[str, Any]:
    middle = {name: statistics.median(times) for name, times in runs.items()}
    ours, peer, floor = middle["ours"], middle.get("peer"), middle["floor"]
    goal = UP_GOAL * floor if step.startswith("ray") else JOIN_GOAL * floor + TICK_SECONDS
    if peer is not None:
        goal = min(goal, peer)
    figures = {"unit": "s", "ours": ours, "peer": peer, "floor": floor, "goal": goal, "met": ours <= goal}
    return {"name": step, **figures, "runs": runs}
