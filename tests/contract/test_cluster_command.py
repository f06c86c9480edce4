"""``raydog cluster show|shut-down``: a builder's cluster from its saved state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raydog.builder import RayDogCluster
from raydog.cli import main
from raydog.emulator import Emulator
from raydog.yellowdog.records import FINISHED_TASK_STATUSES
from tests.support.builder_programs import LARGE, SCRIPT, SMALL, make_cluster, quick_platform

NODES = 1 + SMALL + LARGE


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with quick_platform(monkeypatch) as running:
        yield running


@pytest.fixture
def cluster(emulator: Emulator) -> RayDogCluster:
    made = make_cluster("a-cluster-with-quite-a-long-name")
    made.build()
    return made


@pytest.fixture
def state(cluster: RayDogCluster, tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    cluster.save_state_to_json_file(str(path))
    return path


def raydog_cluster(command: str, state: Path, *options: str) -> Result:
    """Runs the command; no line of it may be too long for a terminal."""
    done = CliRunner().invoke(main, ["cluster", command, str(state), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    if "--json" not in options:
        assert [line for line in done.output.splitlines() if len(line) > 80] == []
    return done


def shown(state: Path) -> dict[str, Any]:
    """What ``show --json`` says."""
    found: dict[str, Any] = json.loads(raydog_cluster("show", state, "--json").stdout)
    return found


def left(emulator: Emulator) -> int:
    status = emulator.status()
    return int(
        status["liveInstances"]
        + status["unfinishedPools"]
        + status["unfinishedWorkRequirements"]
        + status["unfinishedTasks"]
    )


def test_show_tells_what_lives(cluster: RayDogCluster, state: Path) -> None:
    found = shown(state)
    assert found["work_requirement_id"] == cluster.work_requirement_id
    assert found["work_requirement_status"] == "RUNNING"
    assert [(pool["status"], pool["nodes"]) for pool in found["pools"]] == [
        ("RUNNING", SMALL),
        ("RUNNING", LARGE),
        ("RUNNING", 1),
    ]
    assert [pool["worker_pool_id"] for pool in found["pools"][:2]] == cluster.worker_pool_ids
    assert sum(found["tasks"].values()) == NODES
    done = raydog_cluster("show", state)
    assert done.exit_code == 0
    assert found["work_requirement"] in done.stdout
    assert all(pool["name"] in done.stdout for pool in found["pools"])


def test_show_finds_pools_that_were_added_after_the_state_was_saved(cluster: RayDogCluster, state: Path) -> None:
    added = cluster.add_worker_pool("quick/worker", SCRIPT, 2)
    pools = shown(state)["pools"]
    assert pools[-1]["worker_pool_id"] == added
    assert pools[-1]["nodes"] == 2
    assert len(pools) == 4


def test_shut_down_ends_all_of_it_and_is_content(cluster: RayDogCluster, state: Path, emulator: Emulator) -> None:
    cluster.add_worker_pool("quick/worker", SCRIPT, 2)
    done = raydog_cluster("shut-down", state)
    assert left(emulator) == 0
    assert done.exit_code == 0
    assert "Nothing is left" in done.stdout
    assert "gone already" not in done.stdout
    found = shown(state)
    assert found["work_requirement_status"] == "CANCELLED"
    assert {pool["nodes"] for pool in found["pools"]} == {0}
    assert set(found["tasks"]) <= set(FINISHED_TASK_STATUSES)
    assert sum(found["tasks"].values()) == NODES + 2


def test_shut_down_says_what_was_gone_already(cluster: RayDogCluster, state: Path, emulator: Emulator) -> None:
    removed = cluster.worker_pool_ids[0]
    cluster.remove_worker_pool(removed)
    done = raydog_cluster("shut-down", state)
    assert left(emulator) == 0
    assert done.exit_code == 0
    assert done.stdout.count("gone already") == 1
    assert removed in done.stdout
    again = raydog_cluster("shut-down", state)
    assert again.exit_code == 0
    assert again.stdout.count("gone already") == 4


def test_state_that_yellowdog_ray_saved_will_do(state: Path, emulator: Emulator) -> None:
    fields = json.loads(state.read_text())
    del fields["cluster_id"]
    state.write_text(json.dumps(fields))
    assert sum(pool["nodes"] for pool in shown(state)["pools"]) == NODES
    assert raydog_cluster("shut-down", state).exit_code == 0
    assert left(emulator) == 0


def test_platform_that_does_not_know_the_cluster_ends_nothing(
    state: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = left(emulator)
    with Emulator() as other:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        for command in ("show", "shut-down"):
            done = raydog_cluster(command, state)
            assert done.exit_code == 1
            assert "does not know the work requirement" in done.stderr
            assert "Nothing is left" not in done.stdout
    assert left(emulator) == before


def test_wrong_key_is_one_clean_line(state: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left(emulator)
    monkeypatch.setenv("YD_API_KEY_SECRET", "another")
    for command in ("show", "shut-down"):
        done = CliRunner().invoke(main, ["cluster", command, str(state)])
        assert done.exit_code == 1
        assert "Error: " in done.stderr
        assert "Traceback" not in done.output
    assert left(emulator) == before


def test_shut_down_that_cannot_end_something_says_what_is_left(state: Path, emulator: Emulator) -> None:
    refusal: dict[str, Any] = {"status": 403, "error_type": "AccessDenied", "times": 100}
    for operation in ("shutdown_worker_pool", "terminate_compute_requirement"):
        emulator.fault(operation, "status", **refusal)
    done = CliRunner().invoke(main, ["cluster", "shut-down", str(state)])
    assert done.exit_code == 1
    assert "may still cost money" in done.stderr
    assert "a-cluster-with-quite-a-long-name" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"work_requirement_id": 7, "worker_pool_ids": []}'])
def test_file_that_is_no_state_costs_no_call(emulator: Emulator, tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    for command in ("show", "shut-down"):
        done = CliRunner().invoke(main, ["cluster", command, str(path)])
        assert done.exit_code == 1
        assert "Error: " in done.stderr
    assert emulator.calls() == []


def test_file_that_is_not_there_is_named(emulator: Emulator, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["cluster", "show", str(tmp_path / "nowhere.json")])
    assert done.exit_code == 1
    assert "nowhere.json" in done.stderr
