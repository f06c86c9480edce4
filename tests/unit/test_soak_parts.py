"""What a soak decides by itself: its plan, what a job must print, and whether a process is steady."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

from benchmarks.soak import job, report
from benchmarks.soak.steady import Sample, below, compare, measure
from benchmarks.soak.trouble import plan
from benchmarks.soak.waves import result_of
from raydog.emulator.clock import VirtualClock
from raydog.emulator.faults import Faults

HALF_AN_HOUR = 1800.0


def samples(growth: float = 0.0, leaked: float = 0.0) -> list[Sample]:
    """Half an hour of a process of 100 MB that is busy at first; growth in MB, leaks in descriptors, a minute."""
    dice = random.Random(1)  # noqa: S311
    warm = [
        Sample(at, 100 + dice.uniform(-1, 1) + growth * at / 60, int(40 + leaked * at / 60)) for at in range(0, 1800, 3)
    ]
    return [one._replace(memory=60 + one.at / 3) if one.at < 100 else one for one in warm]


def test_plan_is_the_same_for_the_same_seed_and_no_other() -> None:
    assert plan(7, HALF_AN_HOUR) == plan(7, HALF_AN_HOUR)
    assert plan(7, HALF_AN_HOUR) != plan(8, HALF_AN_HOUR)


def test_short_soak_has_the_troubles_that_a_long_one_begins_with() -> None:
    short = [one for one in plan(7, 300) if one.at < 300]
    assert short == [one for one in plan(7, HALF_AN_HOUR) if one.at < 300]


def test_half_an_hour_has_troubles_of_every_kind_and_capacity_comes_back() -> None:
    for seed in range(20):
        found = plan(seed, HALF_AN_HOUR)
        kinds = [one.kind for one in found]
        assert set(kinds) == {
            "error", "drop", "delay", "outage", "preempt", "warn", "vanish", "tag server", "no capacity", "capacity",
        }  # fmt: skip
        assert kinds.count("capacity") == kinds.count("no capacity")
        assert [one.at for one in found] == sorted(one.at for one in found)


def test_emulator_takes_every_fault_of_a_plan() -> None:
    faults = Faults(VirtualClock())
    for trouble in plan(3, HALF_AN_HOUR):
        if trouble.kind in {"error", "drop", "delay", "outage"}:
            faults.add({"operation": "*", **trouble.settings}, frozenset())


def test_result_is_what_the_job_makes_of_its_blocks() -> None:
    blocks = [job.make_block(5, number, 0) for number in range(3)]
    pairs = [(0, 1), (1, 2), (2, 0)]
    digests = [hashlib.sha256(blocks[left] + blocks[right]).hexdigest() for left, right in pairs]
    assert result_of(5, 3) == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert result_of(5, 3) != result_of(6, 3)


def test_process_that_stays_as_it_is_is_steady_whatever_its_warm_up() -> None:
    assert compare(samples()).steady is True


def test_process_that_leaks_memory_or_descriptors_is_not() -> None:
    assert compare(samples(growth=1)).steady is False
    assert compare(samples(leaked=0.5)).steady is False


def test_too_few_samples_say_nothing() -> None:
    assert compare(samples()[:2]).steady is None


def test_measures_a_process_and_those_below_it() -> None:
    found = measure(os.getpid())
    assert found is not None
    memory, descriptors = found
    assert 5 < memory < 5000
    with Path(os.devnull).open():
        more = measure(os.getpid())
    assert more is not None
    assert more[1] == descriptors + 1
    assert os.getpid() in below(os.getpid())
    assert measure(2**22 + 1) is None


def test_report_says_what_failed_and_goes_between_the_marks_of_its_page(tmp_path: Path) -> None:
    result: dict[str, Any] = {
        "minutes": 5.0,
        "seed": 3,
        "passed": False,
        "problems": ["wave 2: a wrong result"],
        "waves": [{"problem": None, "submits": 3}, {"problem": "a wrong result", "submits": 1}],
        "troubles": {"error": 2, "vanish": 1},
        "processes": {"emulator": {"memory_mb": (60.0, 90.0), "descriptors": (40, 41), "steady": False}},
    }
    assert "1 of 2 jobs right, 2 sent again, 3 troubles (2 error, 1 vanish)" in report.text(result)
    assert "PROBLEM: wave 2: a wrong result" in report.text(result)
    assert "FAILED" in report.text(result)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- soak: written by make soak -->\nold\n<!-- end of soak -->\nafter\n")
    report.write(result, page)
    report.write(result, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of soak -->\nafter\n")
    assert "old" not in text
    assert text.count("| emulator | 60.0 | 90.0 | 40 | 41 | NOT STEADY |") == 1
    assert "**It failed.**" in text
