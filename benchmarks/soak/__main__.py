"""Run a soak: waves of jobs on real instances, with random troubles, and at the end a look at what has been left.

Exits with 0 if every job finished with the right result, memory and file descriptors stayed steady and nothing is
left; with 1 if not; with 130 after Ctrl+C. The same seed throws the same waves and troubles. Standard output has a line
for each thing that happens: seconds, what, and details, with tabs between them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.soak import report
from benchmarks.soak.course import Course
from raydog.demo.proof import NOTHING, footprint, left_of
from raydog.demo.scene import undisturbed
from raydog.emulator import daemon
from raydog.emulator.record import StateDir
from raydog.errors import RayDogError
from raydog.waiting import WaitTimeout
from tests.support.daemon import EmulatorDaemon, links_of
from tests.support.ray_cli import RayCluster
from tests.support.real import missing_for_real_instances

RESULTS = Path(__file__).parents[1] / "results" / "soak.json"
_FAULTS = (RayDogError, WaitTimeout, AssertionError, OSError, subprocess.SubprocessError)
"""What a soak that goes wrong raises; requests' errors are OSErrors."""


def main() -> int:
    """Soak, print, write; the exit status."""
    options = _options()
    reason = missing_for_real_instances()
    if reason is not None:
        print(f"a soak needs real instances: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    signal.signal(signal.SIGTERM, _terminated)
    folder = Path(tempfile.mkdtemp(prefix="raydog-soak-"))
    try:
        result = _soak(folder, options)
    except KeyboardInterrupt:
        left = _clean_up(folder)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"interrupted; left: {', '.join(left) or 'nothing'}", file=sys.stderr)
        return 130
    except BaseException:
        _clean_up(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{report.text(result)}; written to {options.json}")
    if options.json.resolve() == RESULTS.resolve():
        report.write(result)
    if result["passed"]:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    print(f"logs: {folder}", file=sys.stderr)
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="how long there are waves and troubles (30)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of waves and troubles (any)")  # noqa: S311
    parser.add_argument("--workers", type=int, default=3, help="the most workers at a time (3)")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where the result is written")
    options = parser.parse_args()
    if options.minutes <= 0 or options.workers < 1:
        parser.error("a soak lasts some minutes and needs a worker")
    return options


def _soak(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The whole of it, from an emulator of its own to the proof that nothing is left."""
    seconds = options.minutes * 60
    problems: list[str] = []
    platform = EmulatorDaemon(folder / "emulator", "[]\n")
    cluster = RayCluster(folder / "cluster", "soak", platform.environment)
    course = Course(platform, cluster, seed=options.seed, seconds=seconds, workers=options.workers)
    course.say("begin", f"seed {options.seed}, {options.minutes:g} minutes, {options.workers} workers at most")
    try:
        course.run()
    except _FAULTS as error:
        problems.append(f"{type(error).__name__}: {error}")
        course.save_evidence()
    finally:
        with undisturbed():
            course.close()
    problems += course.problems()
    try:
        for step, end in (("ray down", cluster.down), ("the platform", platform.nothing_left), ("stop", platform.stop)):
            try:
                end()
            except _FAULTS as error:
                problems.append(f"{step}: {error}")
    finally:
        cluster.close()
    problems += [f"left: {one}" for one in _clean_up(folder)]
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "workers": options.workers,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "passed": not problems,
        "problems": problems,
        **course.as_json(),
    }


def _clean_up(folder: Path) -> list[str]:
    """End the emulator with all that it runs, if it still does. Returns what of it is left all the same."""
    state = StateDir(folder / "emulator")
    with undisturbed():
        emulator = daemon.running(state)
        seen = NOTHING if emulator is None else footprint(emulator.record.pid)
        links: frozenset[str] = frozenset() if emulator is None else links_of(emulator.url)
        daemon.stop(state)
        daemon.clean(state)
        return left_of(seen, folder, links)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
