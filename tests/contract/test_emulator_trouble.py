"""Trouble on request: outages, scarce capacity, hanging boots, preemption, and the record of calls; by command too."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from yellowdog_client.model import NodeStatus, TaskSearch
from yellowdog_client.model.exceptions import InternalServerException

from raydog.cli import main
from raydog.emulator import VirtualClock, daemon
from raydog.emulator.record import StateDir
from raydog.emulator.rest.received import REMEMBERED_CALLS, ReceivedCalls
from tests.support.emulator import Yellowdog, yellowdog


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock()) as running:
        yield running


def test_calls_fail_with_a_probability_the_same_ones_for_the_same_seed() -> None:
    patterns = []
    for _ in range(2):
        with yellowdog() as yd:
            yd.emulator.fault("get_tasks", "status", status=500, probability=0.5, seed=3)
            patterns.append([yd.http("GET", "/work/tasks").status_code for _ in range(40)])
    assert patterns[0] == patterns[1]
    assert set(patterns[0]) == {200, 500}


def test_whole_platform_is_out_for_a_while_and_its_controls_are_not(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.emulator.outage(60)
    for method, path in (
        ("GET", "/work/tasks"),
        ("GET", f"/work/requirements/{requirement.id}"),
        ("GET", "/application/"),
    ):
        with pytest.raises(requests.ConnectionError):
            yd.http(method, path)
    assert yd.http("GET", "/emulator/status").status_code == 200
    yd.emulator.advance(59)
    with pytest.raises(requests.ConnectionError):
        yd.read(requirement)
    yd.emulator.advance(1)
    assert yd.read(requirement).id == requirement.id


def test_outage_may_answer_and_goes_on_behind_the_answers(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool()
    (task,) = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "5"})
    yd.emulator.outage(10, status=503)
    with pytest.raises(InternalServerException, match="the platform is out"):
        yd.task(task)
    yd.emulator.advance(10)
    assert yd.status_of(task) == "COMPLETED", "only its answers failed: the platform went on"


def test_retry_after_of_a_429_is_obeyed_by_the_sdk() -> None:
    with yellowdog() as yd:
        yd.emulator.fault("get_tasks", "status", status=429, retry_after=1)
        began = time.monotonic()
        assert yd.client.work_client.find_tasks(TaskSearch()) == []
        assert 1.0 <= time.monotonic() - began < 5
        assert [call["status"] for call in yd.emulator.calls("get_tasks")] == [429, 200]


def test_calls_are_recorded_with_numbers_and_forgotten_on_request(yd: Yellowdog) -> None:
    for _ in range(3):
        yd.http("GET", "/work/tasks?name=x")
    found = yd.http("GET", "/emulator/calls?operation=get_tasks&after=1").json()
    assert [(one["number"], one["query"], one["status"]) for one in found] == [(2, "name=x", 200), (3, "name=x", 200)]
    assert yd.http("DELETE", "/emulator/calls").status_code == 200
    assert yd.emulator.calls() == []
    yd.http("GET", "/work/tasks")
    assert yd.emulator.calls()[0]["number"] == 4


def test_record_of_calls_is_bounded_in_number_and_size() -> None:
    class Request:
        method, path, query_string = "GET", "/" + "p" * 10_000, "q" * 10_000

    calls = ReceivedCalls()
    for _ in range(REMEMBERED_CALLS + 10):
        calls.add(0.0, "get_tasks", Request(), 0, None)  # type: ignore[arg-type]
    kept = calls.find()
    assert (len(kept), kept[0]["number"], kept[-1]["number"]) == (REMEMBERED_CALLS, 11, REMEMBERED_CALLS + 10)
    assert len(json.dumps(kept[0])) < 2000


def test_preemption_of_an_instance_that_boots(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", boot_seconds=60)
    yd.pool(target=1, nodeBootTimeout=None)
    (instance,) = yd.emulator.status()["instances"]
    yd.emulator.preempt(instance["id"], warning_seconds=30)
    yd.emulator.advance(29)
    assert [one["id"] for one in yd.emulator.status()["instances"]] == [instance["id"]]
    yd.emulator.advance(1)
    assert instance["id"] not in [one["id"] for one in yd.emulator.status()["instances"]]


# The commands


class Daemon:
    """An emulator in the background, its commands, and a client of it."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self.running = daemon.start(state, daemon.Settings(instances="simulated"), lambda _text: None)

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = CliRunner().invoke(main, ["emulator", *arguments, "--state-dir", str(self.state.path)])
        assert done.exit_code == expect, done.output
        return done.output

    def http(self, method: str, path: str, body: Any = None) -> requests.Response:
        key = f"yd-key {self.running.key_id}:{self.running.key_secret}"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, self.running.url + path, json=body, headers={"Authorization": key}, timeout=10
            )


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    state = StateDir(tmp_path_factory.mktemp("trouble") / "state")
    try:
        yield Daemon(state)
    finally:
        daemon.stop(state)


def test_fault_commands_add_list_and_clear(emulator: Daemon) -> None:
    emulator("fault", "add", "get_tasks", "status", "--status", "503", "--times", "2", "--retry-after", "0")
    emulator("fault", "add", "*", "delay", "--seconds", "0.01", "--probability", "0.5", "--seed", "1")
    found = json.loads(emulator("fault", "list", "--json"))
    assert [(one["operation"], one["action"], one["times"]) for one in found] == [
        ("get_tasks", "status", 2),
        ("*", "delay", None),
    ]
    assert "get_tasks  status  2 times" in emulator("fault", "list")
    assert [emulator.http("GET", "/work/tasks").status_code for _ in range(3)] == [503, 503, 200]
    emulator("fault", "clear")
    assert emulator("fault", "list") == "none\n"


def test_outage_command(emulator: Daemon) -> None:
    emulator("fault", "outage", "60", "--status", "502")
    assert emulator.http("GET", "/application/").status_code == 502
    emulator("fault", "clear")
    assert emulator.http("GET", "/application/").status_code == 200


def test_calls_command_shows_what_was_asked(emulator: Daemon) -> None:
    emulator("calls", "--forget")
    emulator.http("GET", "/work/tasks?name=x")
    assert "200  GET    /work/tasks?name=x" in emulator("calls", "--operation", "get_tasks")
    (call,) = json.loads(emulator("calls", "--json"))
    assert (call["operation"], call["status"]) == ("get_tasks", 200)
    assert json.loads(emulator("calls", "--json", "--after", str(call["number"]))) == []


def test_template_and_preempt_commands(emulator: Daemon) -> None:
    usage = {"templateId": "local/worker", "requirementNamespace": "tests", "requirementName": "pool"}
    body = {"requirementTemplateUsage": {**usage, "targetInstanceCount": 3}, "provisionedProperties": {}}
    emulator("fault", "template", "local/worker", "--capacity", "1")
    pool = emulator.http("POST", "/workerPools/provisioned/template", body).json()
    nodes = f"/workerPools/nodes?workerPoolId={pool['id']}&statuses={NodeStatus.RUNNING}"

    def live() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = emulator.http("GET", nodes).json()["items"]
        return found

    assert len(live()) == 1
    emulator("fault", "template", "local/worker", "--capacity", "unlimited")
    assert len(live()) == 3
    first, second, third = live()
    (gone,) = json.loads(emulator("preempt", first["id"], "--json"))
    assert gone["nodeId"] == first["id"]
    assert "warned" in emulator("preempt", second["details"]["hostname"], "--warning", "60")
    assert emulator.http("GET", f"/workerPools/nodes/{second['id']}").json()["preemptionWarningTime"]
    assert "preempted" in emulator("preempt", third["details"]["privateIpAddress"])
    assert [one["id"] for one in live()][:1] == [second["id"]]
    emulator.http("DELETE", f"/workerPools/{pool['id']}")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["preempt", "nobody"], 1, "no live instance has the id"),
        (["preempt"], 2, "Missing argument"),
        (["fault", "add", "get_taks", "delay"], 1, "did you mean get_tasks"),
        (["fault", "add", "get_tasks", "explode"], 2, "explode"),
        (["fault", "add", "get_tasks", "status", "--status", "200"], 2, "200"),
        (["fault", "template", "local/nothing", "--capacity", "1"], 1, "local/nothing"),
        (["fault", "template", "local/worker", "--capacity", "many"], 1, "not 'many'"),
        (["fault", "template", "local/worker"], 1, "nothing to change"),
        (["fault", "outage", "0"], 2, "0"),
    ],
)
def test_wrong_commands_say_what_is_wrong(emulator: Daemon, arguments: list[str], status: int, message: str) -> None:
    assert message in emulator(*arguments, expect=status)


def test_commands_without_an_emulator_say_so(tmp_path: Path) -> None:
    for arguments in (["preempt", "x"], ["fault", "list"], ["calls"]):
        done = CliRunner().invoke(main, ["emulator", *arguments, "--state-dir", str(tmp_path)])
        assert (done.exit_code, "no emulator runs" in done.output) == (1, True)
