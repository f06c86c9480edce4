"""The builder: `build()` and `shut_down()` of a head and ten pools of a hundred simulated nodes, 50 ms away.

The peer is PyPI's ``yellowdog-ray`` 2.0.0 in an environment of its own. Both run the same program, through the import
path that they share, against the same emulator, in turn. Nodes boot at once, so that the time is the program's own, but
in two rows, where it matters how soon a program sees that its head is up, and how often it asks. `shut_down()` has no
goal: the peer's asks for the end and returns; ours waits, and looks until it has seen twice that nothing is left.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from raydog.emulator import daemon
from raydog.emulator.daemon import Running, Settings
from raydog.emulator.record import StateDir
from raydog.yellowdog import naming
from tests.support.reference import ReferenceMissingError, dialogue, reference_environment

POOLS, NODES = 10, 100
BOOT_SECONDS = 3.0
LATENCY = {"operation": "*", "action": "delay", "seconds": 0.05, "for_seconds": 3600}
"""Answers come as late as from a platform that is elsewhere; without this the emulator's own work would decide."""
RUNS, RUNS_BOOTING = 5, 3
TEMPLATES = f"""
- {{name: bench/at-once, boot_seconds: 0}}
- {{name: bench/booting, boot_seconds: {BOOT_SECONDS}}}
"""
PROGRAM = """
    import os
    import time

    from yellowdog_ray.raydog.builder import RayDogCluster

    script = "echo hello from the task of a node\\n" * 60
    cluster = RayDogCluster(
        os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"], os.environ["BENCH_NAME"], "bench",
        os.environ["BENCH_TEMPLATE"], script, os.environ["YD_API_URL"],
    )
    for _ in range(int(os.environ["BENCH_POOLS"])):
        cluster.add_worker_pool(os.environ["BENCH_TEMPLATE"], script, int(os.environ["BENCH_NODES"]))
    for action in (cluster.build, cluster.shut_down):
        step("ready")
        started = time.perf_counter()
        action()
        step(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Cost:
    """Seconds and platform calls, by operation, of a step."""

    seconds: float
    calls: dict[str, int]

    @property
    def number(self) -> int:
        return sum(self.calls.values())


@dataclass(frozen=True)
class Life:
    """What a cluster's building and its end cost."""

    build: Cost
    shut_down: Cost


Sides = dict[str, list[Life]]
"""Ours and the peer's."""


def run() -> list[dict[str, Any]]:
    """Measure; see `benchmarks.__main__` for the rows."""
    with tempfile.TemporaryDirectory(prefix="raydog-bench-") as name, mock.patch.dict(os.environ, NO_PROXY="*"):
        folder = Path(name)
        templates = folder / "templates.yaml"
        templates.write_text(TEMPLATES, encoding="utf-8")
        state = StateDir(folder / "emulator")
        emulator = daemon.start(state, Settings("simulated", templates=templates), lambda _text: None)
        try:
            emulator.call("POST", "/emulator/faults", LATENCY)
            at_once = _interleaved(emulator, folder, "bench/at-once", RUNS)
            booting = _interleaved(emulator, folder, "bench/booting", RUNS_BOOTING)
        finally:
            daemon.stop(state)
    boot = f"nodes boot in {BOOT_SECONDS:g} s"
    return [
        _row("build() of 1,001 nodes, calls", "", at_once, lambda life: life.build.number),
        _row("build() of 1,001 nodes", "s", at_once, lambda life: life.build.seconds),
        _row(f"likewise, {boot}", "s", booting, lambda life: life.build.seconds, floor=BOOT_SECONDS),
        _row(f"likewise, {boot}, calls", "", booting, lambda life: life.build.number, has_goal=False),
        _row("shut_down() of 1,001 nodes, calls", "", at_once, lambda life: life.shut_down.number, has_goal=False),
        _row("shut_down() of 1,001 nodes", "s", at_once, lambda life: life.shut_down.seconds, has_goal=False),
    ]


def _interleaved(emulator: Running, folder: Path, template: str, runs: int) -> Sides:
    """Ours and the peer's, in turn, so that both see the same load. One run of each goes before and is not counted."""
    sides = {"ours": Path(sys.prefix)}
    try:
        sides["peer"] = reference_environment()
    except ReferenceMissingError as error:
        print(f"no peer: {error}", file=sys.stderr)
    lives: Sides = {side: [] for side in sides}
    for _ in range(runs + 1):
        for side, python in sides.items():
            lives[side].append(_life(python, emulator, folder, f"{side}-{naming.new_suffix()}", template))
    return {side: measured[1:] for side, measured in lives.items()}


def _life(python: Path, emulator: Running, folder: Path, name: str, template: str) -> Life:
    environment = {
        **emulator.environment,
        "BENCH_NAME": name,
        "BENCH_TEMPLATE": template,
        "BENCH_POOLS": str(POOLS),
        "BENCH_NODES": str(NODES),
    }
    costs = []
    with dialogue(python, folder, PROGRAM, environment) as program:
        for _ in range(2):
            assert program.hear() == "ready"
            before = emulator.get("/emulator/calls")
            program.go_on()
            seconds = float(program.hear())
            costs.append(Cost(seconds, _count(emulator, before[-1]["number"] if before else 0)))
            if len(costs) == 1:
                program.go_on()
        program.end()
    status = emulator.get("/emulator/status")
    assert not status["liveInstances"], f"{name} has left something: {json.dumps(status)[:500]}"
    return Life(*costs)


def _count(emulator: Running, after: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for call in emulator.get(f"/emulator/calls?after={after}"):
        counts[call["operation"]] = counts.get(call["operation"], 0) + 1
    return counts


def _row(
    name: str,
    unit: str,
    sides: Sides,
    figure: Callable[[Life], float],
    *,
    floor: float | None = None,
    has_goal: bool = True,
) -> dict[str, Any]:
    """The medians of ours and the peer's, if it is there; the goal is to need less than the peer."""
    medians = {side: statistics.median(figure(life) for life in lives) for side, lives in sides.items()}
    ours, peer = medians["ours"], medians.get("peer")
    goal = peer if has_goal else None
    met = None if goal is None else ours < goal
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "floor": floor, "goal": goal, "met": met}
