"""What the provider costs Ray's autoscaler, on a simulated platform: a tick's reads, launches, terminations, memory.

Each provider lives in a process of its own behind Ray's adapter (`benchmarks.loop`) and is asked in turn with the
others. Peer: yellowdog-ray 2.0.0, unmodified, in an environment of its own. Floor: the same adapter on a provider
that has everything in memory.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import heads
from benchmarks.heads import Monitor
from raydog.emulator import daemon
from raydog.emulator.daemon import Running, Settings
from raydog.emulator.record import StateDir
from raydog.waiting import Pending, Ready, wait_until

SIZES = (100, 1_000, 5_000, 10_000)
CLOSELY = (1_000, 10_000)
TICK_GOALS = {1_000: 20.0, 10_000: 150.0}  # ms
CALL_GOALS = {1_000: 3.0}
AHEAD_GOAL = 4.0
TICK_SECONDS = 5.0
"""Ray's own default for the pause between two ticks."""
CALL_TICKS = 6
"""Over so many ticks the platform's calls are counted: the time from one full sweep to the next."""
SETTLING_TICKS = 3
"""Before that, so many for the provider to see that nothing happens any more."""
ROUNDS = 5
COUNT = 1_000
LAUNCH_GOAL, LAUNCH_CALLS, END_GOAL, MEMORY_GOAL = 2.0, 10, 3.0, 150.0
AWAY_SECONDS = 0.03
"""An answer's way back from a platform that is not on this machine."""
_Make = Callable[[Path, str], AbstractContextManager[Monitor]]


def run() -> list[dict[str, Any]]:
    """Measure; see `benchmarks.__main__` for the rows."""
    with tempfile.TemporaryDirectory(prefix="raydog-bench-") as name, mock.patch.dict(os.environ, NO_PROXY="*"):
        folder = Path(name)
        state = StateDir(folder / "emulator")
        try:
            emulator = daemon.start(state, Settings(instances="simulated"), lambda _text: None)
            makes: dict[str, _Make] = {"ours": partial(heads.ours, emulator)}
            peer = heads.peer_environment()
            if peer is not None:
                makes["peer"] = partial(heads.peers, emulator, peer)
            return [*_series(emulator, folder, makes), *_demands(emulator, folder, makes)]
        finally:
            daemon.stop(state)


# Clusters that grow side by side


def _series(emulator: Running, folder: Path, makes: dict[str, _Make]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        monitors = {name: stack.enter_context(make(folder / name, name)) for name, make in makes.items()}
        monitors["floor"] = stack.enter_context(heads.floors(folder / "floor"))
        there = 0
        for size in SIZES:
            for monitor in monitors.values():
                _grow(monitor, there, size)
            there = size
            rows += _tick_rows(emulator, monitors, size)
        memory = {name: monitor.do("memory")["megabytes"] for name, monitor in monitors.items()}
    own = {name: megabytes - memory["floor"] for name, megabytes in memory.items()}
    return [*rows, _row("memory at 10,000 nodes, over Ray's", "MB", own, MEMORY_GOAL)]


def _grow(monitor: Monitor, there: int, size: int) -> None:
    for start in range(there, size, COUNT):
        monitor.do("launch", count=min(COUNT, size - start))
    _await_running(monitor, size + 1)


def _await_running(monitor: Monitor, nodes: int) -> None:
    def all_run() -> Ready[None] | Pending:
        seen = monitor.do("ticks", times=1)
        return Ready(None) if seen["running"] == seen["nodes"] == nodes else Pending(f"{seen['running']} of {nodes}")

    wait_until(all_run, 120.0, interval=0.2)


def _tick_rows(emulator: Running, monitors: dict[str, Monitor], size: int) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in monitors}
    for _ in range(ROUNDS):
        for name, monitor in monitors.items():
            seconds[name] += monitor.do("ticks", times=1 if name == "peer" else 3)["seconds"]
    ticks = {name: statistics.median(times) * 1000 for name, times in seconds.items()}
    rows = [{**_row(f"tick at {size:,} nodes", "ms", ticks, TICK_GOALS.get(size)), "nodes": size}]
    if size in CLOSELY:
        if "peer" in ticks:
            times = {"ours": ticks["peer"] / ticks["ours"], "peer": 1.0}
            rows.append(_row(f"tick at {size:,} nodes, times faster", "x", times, AHEAD_GOAL, more=True))
        calls = {"ours": _calls_a_tick(emulator, monitors["ours"])}
        rows.append(_row(f"tick at {size:,} nodes, platform calls", "", calls, CALL_GOALS.get(size)))
    return rows


def _calls_a_tick(emulator: Running, monitor: Monitor) -> float:
    """Platform calls in the time of a tick, the sweeps' included, while Ray looks as often as it does."""
    before = 0
    deadline = time.monotonic()
    for tick in range(SETTLING_TICKS + CALL_TICKS):
        if tick == SETTLING_TICKS:
            before = _calls(emulator)
        monitor.do("ticks", times=1)
        deadline += TICK_SECONDS
        time.sleep(max(deadline - time.monotonic(), 0.0))  # the pace of Ray's loop is what is measured
    return (_calls(emulator) - before) / CALL_TICKS


def _calls(emulator: Running) -> int:
    calls = emulator.get("/emulator/calls")
    return int(calls[-1]["number"]) if calls else 0


# In each round new clusters, which launch a thousand nodes and end them


def _demands(emulator: Running, folder: Path, makes: dict[str, _Make]) -> list[dict[str, Any]]:
    launch: dict[str, list[float]] = {name: [] for name in makes}
    end: dict[str, list[float]] = {name: [] for name in makes}
    calls: list[float] = []
    for number in range(ROUNDS):
        for name, make in makes.items():
            namespace = f"{name}-{number}"
            with make(folder / namespace, namespace) as monitor:
                _await_running(monitor, 1)
                before = _calls(emulator)
                launch[name].append(monitor.do("launch", count=COUNT)["seconds"])
                if name == "ours":
                    calls.append(_calls(emulator) - before)
                _await_running(monitor, COUNT + 1)
                end[name].append(_seconds_to_end(emulator, monitor, namespace))
    made, ended = ({name: statistics.median(times[name]) for name in times} for times in (launch, end))
    far = {name: _seconds_to_end_far_away(emulator, folder, name, make) for name, make in makes.items()}
    return [
        _row("launch of 1,000 nodes", "s", made, LAUNCH_GOAL),
        _row("launch of 1,000 nodes, platform calls", "", {"ours": statistics.median(calls)}, LAUNCH_CALLS),
        _row("end of 1,000 nodes", "s", ended, min(END_GOAL, ended.get("peer", END_GOAL))),
        _row("end of 1,000 nodes, platform 30 ms away", "s", far, min(END_GOAL, far.get("peer", END_GOAL))),
    ]


def _seconds_to_end(emulator: Running, monitor: Monitor, namespace: str) -> float:
    """From the demand until the platform has ended the last of them."""
    started = time.perf_counter()
    assert monitor.do("terminate", count=COUNT)["ended"] == COUNT

    def ended() -> Ready[None] | Pending:
        left = _unfinished(emulator, namespace)
        return Pending(f"{left} tasks") if left > 1 else Ready(None)

    wait_until(ended, 300.0, interval=0.02, max_interval=0.02)
    return time.perf_counter() - started


def _seconds_to_end_far_away(emulator: Running, folder: Path, name: str, make: _Make) -> float:
    namespace = f"{name}-far"
    with make(folder / namespace, namespace) as monitor:
        _await_running(monitor, 1)
        monitor.do("launch", count=COUNT)
        _await_running(monitor, COUNT + 1)
        late = {"operation": "cancel_task", "action": "delay", "seconds": AWAY_SECONDS, "for_seconds": 600}
        emulator.call("POST", "/emulator/faults", late)
        try:
            return _seconds_to_end(emulator, monitor, namespace)
        finally:
            emulator.call("DELETE", "/emulator/faults")


def _unfinished(emulator: Running, namespace: str) -> int:
    """Unfinished tasks of the namespace's one cluster, its head's among them."""
    (one,) = emulator.get(f"/work/requirements?namespaces={namespace}&sliced=true")["items"]
    return int(one["totalTaskCount"]) - int(one["completedTaskCount"])


def _row(name: str, unit: str, figures: dict[str, float], goal: float | None, *, more: bool = False) -> dict[str, Any]:
    """``more``: the goal is the least, and not the most."""
    ours = figures["ours"]
    met = None if goal is None else ours >= goal if more else ours <= goal
    others = {"peer": figures.get("peer"), "floor": figures.get("floor")}
    return {"name": name, "unit": unit, "ours": ours, **others, "goal": goal, "met": met}
