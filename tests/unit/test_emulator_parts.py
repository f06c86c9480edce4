"""The emulator's small pure parts: time, durations and instants, names, retry rules, templates, routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydog.emulator.clock import VirtualClock
from raydog.emulator.entities import RunSpecification
from raydog.emulator.problems import Problem
from raydog.emulator.rest.call import Call
from raydog.emulator.rest.routes import Route, Router
from raydog.emulator.retry import may_retry
from raydog.emulator.templates import Templates
from raydog.emulator.wire import check_name, format_instant, parse_duration, parse_instant
from raydog.errors import ConfigError, MissingFileError


def test_virtual_timers_run_in_order_each_at_its_own_time() -> None:
    clock = VirtualClock(start=100.0)
    seen: list[tuple[str, float]] = []
    clock.call_later(5, lambda: seen.append(("late", clock.now())))
    clock.call_later(2, lambda: clock.call_later(1, lambda: seen.append(("nested", clock.now()))))
    clock.call_later(4, lambda: seen.append(("cancelled", clock.now()))).cancel()
    clock.advance(4.9)
    assert seen == [("nested", 103.0)]
    clock.advance(0.1)
    assert seen == [("nested", 103.0), ("late", 105.0)]
    assert clock.now() == 105.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("P0D", 0),
        ("PT0S", 0),
        ("PT10M", 600),
        ("PT1H30.5S", 3630.5),
        ("PT1H30M0.5S", 5400.5),
        ("P1DT2H30S", 93630),
        ("P14D", 1209600),
        ("P2W", 1209600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "timeout") == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "10", "PT10", "1H", "-PT5S", "PT5S ", None, 5, "P1Y"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(Problem, match="timeout"):
        parse_duration(text, "timeout")


@pytest.mark.parametrize(
    "text",
    ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.000000123Z", "2023-11-14T23:13:20+01:00"],
)
def test_instants_of_any_precision(text: str) -> None:
    assert parse_instant(text) == 1_700_000_000.0


@pytest.mark.parametrize("milliseconds", [0, 1, 285, 999])
def test_instants_survive_the_way_out_and_back(milliseconds: int) -> None:
    moment = 1_795_226_494 + milliseconds / 1000
    text = format_instant(moment)
    assert text == f"2026-11-21T02:01:34.{milliseconds:03}Z"
    assert parse_instant(text) == moment


def test_what_is_no_instant_is_refused() -> None:
    for text in ("yesterday", "1700000000", ""):
        with pytest.raises(Problem, match="instant"):
            parse_instant(text)


@pytest.mark.parametrize("name", ["a", "demo-1", "a_b", "x" * 60])
def test_good_names(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "1a", "A", "a.b", "x" * 61, "a\n", None, 3])
def test_bad_names(name: object) -> None:
    with pytest.raises(Problem, match="invalid"):
        check_name(name, "name")


def selection(includes: list[str] | None = None, excludes: list[str] | None = None) -> dict[str, Any]:
    return {"includes": includes, "excludes": excludes}


@pytest.mark.parametrize(
    ("types", "retries"),
    [
        (selection(includes=["ALLOCATION_LOST"]), True),
        (selection(includes=["TIMED_OUT"]), False),
        (selection(excludes=["TIMED_OUT"]), True),
        (selection(excludes=["ALLOCATION_LOST"]), False),
        (selection(includes=["ALLOCATION_LOST"], excludes=["ALLOCATION_LOST"]), False),
        (selection(), False),
    ],
)
def test_retry_selections(types: dict[str, Any], retries: bool) -> None:
    errors = {"includes": [{"errorTypes": types}]}
    spec = RunSpecification(task_types=frozenset({"bash"}), max_retries=1, retry_errors=errors)
    error = {"errorType": "ALLOCATION_LOST", "statusAtFailure": "EXECUTING", "processExitCode": None}
    assert may_retry(spec, 0, error) is retries
    assert may_retry(spec, 1, error) is False


def test_no_selection_retries_every_error_and_old_matchers_still_count() -> None:
    types = frozenset({"bash"})
    error = {"errorType": "PROCESS_NON_ZERO_EXIT", "statusAtFailure": "EXECUTING", "processExitCode": 7}
    assert may_retry(RunSpecification(task_types=types, max_retries=1), 0, error)
    for code, retries in ((7, True), (8, False)):
        matchers = {"matchers": [{"processExitCodes": [code], "errorTypes": []}]}
        assert may_retry(RunSpecification(types, max_retries=1, retry_errors=matchers), 0, error) is retries


def test_templates_of_a_file_join_and_replace_the_built_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text("- {name: local/head, cpus: 16}\n- {name: cloud/gpu, gpus: 2, capacity: 3}\n", encoding="utf-8")
    templates = Templates.load(path)
    assert templates.require("local/head").cpus == 16
    gpu = templates.require("cloud/gpu")
    assert (gpu.gpus, gpu.capacity, gpu.instance_type) == (2, 3, "gpu")
    assert templates.require(gpu.id) is gpu
    assert Templates().require("local/head").cpus != 16


def test_all_faults_of_a_templates_file_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(
        "- {name: a/b, cpus: -1, colour: red}\n- text\n- {name: ab}\n- {name: a/c, spot: 1}", encoding="utf-8"
    )
    with pytest.raises(ConfigError) as failed:
        Templates.load(path)
    assert [fault.split(":")[0] for fault in failed.value.faults] == [
        "[0].cpus",
        "[0].colour",
        "[1]",
        "[2].name",
        "[3].spot",
    ]


@pytest.mark.parametrize("text", ["a: [", "a: b", "3"])
def test_templates_file_that_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"templates\.yaml"):
        Templates.load(path)
    with pytest.raises(MissingFileError, match="none"):
        Templates.load(tmp_path / "none")


def test_literal_segments_win_over_names() -> None:
    def handler(_call: Call) -> str:
        return "unused"

    router = Router(
        [
            Route("GET", "/pools/{namespace}/{name}", "by_name", handler),
            Route("GET", "/pools/nodes/{id}", "node", handler),
            Route("GET", "/pools/{id}/updates", "updates"),
        ]
    )
    found = {path: router.find("GET", path) for path in ("/pools/nodes/1", "//pools/a/b/", "/pools/1/updates")}
    assert [match[0].operation for match in found.values() if match] == ["node", "by_name", "updates"]
    assert found["//pools/a/b/"] is not None
    assert found["//pools/a/b/"][1] == {"namespace": "a", "name": "b"}
    assert router.find("PUT", "/pools/nodes/1") is None
    assert router.find("GET", "/pools") is None
