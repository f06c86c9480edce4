"""Run all benchmarks: a table and a picture for people, ``benchmarks/results/latest.json`` for everything else.

Each row has ``name``, ``unit``, ``ours``, ``peer``, ``floor``, ``goal`` and ``met``. ``peer`` is the reference
implementation's way of doing the same, ``floor`` the least that is possible, both from the same run; either may be
null. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path
from typing import Any

from benchmarks import plot

SUITES = ("tags", "provider", "builder", "cluster", "emulator")
RESULTS = Path(__file__).with_name("results") / "latest.json"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"some of: {', '.join(SUITES)} (default: all)")
    chosen = parser.parse_args().suites or list(SUITES)
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    kept = [] if chosen == list(SUITES) else _earlier(chosen)
    rows: list[dict[str, Any]] = []
    for name in chosen:
        for row in importlib.import_module(f"benchmarks.{name}").run():
            rows.append({"suite": name, **row, "load": round(os.getloadavg()[0], 1)})
            _print(row)
    RESULTS.parent.mkdir(exist_ok=True)
    every = sorted([*kept, *rows], key=lambda row: SUITES.index(row["suite"]))
    RESULTS.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
    plot.write(every)
    missed = [row["name"] for row in rows if row["met"] is False]
    if missed:
        print(f"\ngoals missed: {', '.join(missed)}")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"\n{cores} cores; load {load:.1f}; written to benchmarks/results/latest.json")
    return 1 if missed else 0


def _earlier(chosen: list[str]) -> list[dict[str, Any]]:
    """The rows of suites that are not run now."""
    if not RESULTS.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return [row for row in rows if row.get("suite") in SUITES and row["suite"] not in chosen]


def _print(row: dict[str, Any]) -> None:
    met = {True: "met", False: "MISSED", None: "-"}[row["met"]]
    numbers = "".join(f"{plot.number(row[key]):>8}" for key in ("ours", "peer", "floor", "goal"))
    if not getattr(_print, "headed", False):
        print(f"{'':<40}{'unit':>5}{'ours':>8}{'peer':>8}{'floor':>8}{'goal':>8}")
        setattr(_print, "headed", True)  # noqa: B010
    print(f"{row['name']:<40.40}{row['unit']:>5}{numbers}  {met}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
