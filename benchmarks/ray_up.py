"""``ray up`` on the emulator, against its floor: the same command with a head that is booted by hand beforehand and a
provider that only answers (`raydog.demo.floor`). Five runs of each, in turn; medians."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raydog.demo.run import EXAMPLES, KEY, YAML, make_key, measure_floor
from raydog.demo.scene import Scene
from raydog.emulator import daemon
from raydog.emulator.daemon import Running, Settings
from raydog.emulator.record import StateDir
from raydog.progress import Progress

RUNS = 5
GOAL = 1.2
_SECONDS = 180.0


def run() -> list[dict[str, Any]]:
    """Measure; see `benchmarks.__main__` for the rows."""
    folder = Path(tempfile.mkdtemp(prefix="raydog-bench-"))
    state = StateDir(folder / "emulator")
    try:
        emulator = daemon.start(state, Settings(), lambda _text: None)
        make_key(folder / KEY)
        shutil.copy(EXAMPLES / YAML, folder / YAML)
        ours, floor = _interleaved(folder, emulator)
    finally:
        daemon.stop(state)
        shutil.rmtree(folder)
    seconds = {"ours": statistics.median(ours), "floor": statistics.median(floor)}
    ratio = seconds["ours"] / seconds["floor"]
    return [
        {"name": "ray up on the emulator", "unit": "s", **seconds, "peer": None, "goal": None, "met": None},
        {
            "name": "ray up, times its floor",
            "unit": "x",
            "ours": ratio,
            "peer": None,
            "floor": 1.0,
            "goal": GOAL,
            "met": ratio <= GOAL,
        },
    ]


def _interleaved(folder: Path, emulator: Running) -> tuple[list[float], list[float]]:
    environment = {**emulator.environment, "RAY_UP_enable_autoscaler_v2": "1"}
    scene = Scene(folder, environment, total=1)
    ray = str(Path(sys.executable).with_name("ray"))
    quiet = Progress()
    ours, floor = [], []
    for _ in range(RUNS):
        started = time.monotonic()
        scene.run([ray, "up", "-y", YAML], str, quiet, _SECONDS)
        ours.append(time.monotonic() - started)
        scene.run([ray, "down", "-y", YAML], str, quiet, _SECONDS)
        floor.append(measure_floor(scene, emulator, quiet))
    return ours, floor
