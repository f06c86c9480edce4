"""``raydog status``: what people see of a cluster, whatever of it cannot be asked."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner, Result

from raydog.autoscaler import remembered
from raydog.autoscaler import status as status_module
from raydog.autoscaler.failures import FailureLog, PlatformLog
from raydog.autoscaler.remembered import RememberedHead
from raydog.cli import main
from raydog.emulator import Emulator
from raydog.emulator.simulated import SimulatedDriver
from raydog.errors import ProvisioningError
from raydog.ssh import SshTarget
from raydog.ssh.session import Completed
from raydog.yellowdog.records import NodeAddress
from tests.support.head_room import NAMESPACE, HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
ALWAYS = 1_000_000
RAY_STATUS = "======== Autoscaler status ========\n 1 head\n"


class HeadMachine:
    """The head as it is seen over SSH: its ``~/.raydog``, and ``ray status``."""

    def __init__(self, home: Path, node_id: str) -> None:
        self.directory = home / ".raydog"
        self.directory.mkdir(exist_ok=True)
        (self.directory / "task").write_text(node_id + "\n")
        self.targets: list[SshTarget] = []
        self.alive = True
        self.ray = Completed(0, RAY_STATUS, "")

    def log_in(self, target: SshTarget, timeout: float) -> HeadMachine:
        self.targets.append(target)
        if not self.alive:
            raise ProvisioningError("no SSH login: refused", "SSH")
        return self

    def __enter__(self) -> HeadMachine:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to hang up."""

    def read_file(self, path: str) -> bytes | None:
        file = self.directory.parent / path
        return file.read_bytes() if file.exists() else None

    def run(self, command: str, timeout: float) -> Completed:
        assert command.endswith("ray status")
        return self.ray


class Desk:
    """Where somebody types ``raydog status``."""

    def __init__(self, room: HeadRoom, folder: Path, machine: HeadMachine) -> None:
        self.room = room
        self.machine = machine
        self.yaml = folder / "cluster.yaml"
        self.write()

    def write(self, **provider: Any) -> None:
        section = {
            "type": "external",
            "module": "raydog.autoscaler.RayDogNodeProvider",
            "cluster_namespace": NAMESPACE,
        }
        document = {
            "cluster_name": self.room.name.cluster,
            "provider": {**section, **provider},
            "auth": {"ssh_user": "yd-agent", "ssh_private_key": "key"},
        }
        self.yaml.write_text(yaml.safe_dump(document))

    def type(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["status", str(self.yaml), *arguments])

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        result = self.type("--json", *arguments)
        assert result.exit_code == code, result.output
        return cast(dict[str, Any], json.loads(result.stdout))


@pytest.fixture
def desk(room: HeadRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    machine = HeadMachine(tmp_path, room.head.name)
    monkeypatch.setattr(status_module, "wait_for_login", machine.log_in)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for key, value in room.emulator.environment.items():
        monkeypatch.setenv(key, value)
    return Desk(room, tmp_path, machine)


def test_nodes_come_with_type_state_address_and_age(desk: Desk) -> None:
    room = desk.room
    room.emulator.template("local/worker", capacity=1)
    provider = room.provider()
    nodes = room.launch(provider, 2)
    eventually(lambda: any(map(provider.is_running, nodes)), what="one worker runs")
    found = desk.json()
    head, *workers = found["nodes"]
    assert (head["node_id"], head["kind"], head["state"]) == (room.head.name, "head", "running")
    assert {node["node_id"] for node in workers} == set(nodes)
    assert {node["node_type"] for node in workers} == {"worker"}
    ran = next(node for node in workers if node["state"] == "running")
    waits = next(node for node in workers if node is not ran)
    assert ran["private_ip"] == provider.internal_ip(ran["node_id"])
    assert 0 <= ran["age_seconds"] < 60
    assert (waits["state"], waits["private_ip"], waits["age_seconds"]) == ("waiting", None, None)
    assert (found["platform"]["answers"], found["platform"]["error"]) == (True, None)
    assert found["platform"]["from_head"]["error"] is None
    assert found["requirement"] == room.cluster.name
    assert found["problems"] == []
    assert found["ray_status"] == RAY_STATUS


def test_node_that_was_told_to_end_shows_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    room = desk.room
    monkeypatch.setattr(SimulatedDriver, "abort_task", lambda *_: None)  # it takes its time
    provider = room.provider()
    (node,) = room.launch(provider)
    running(provider, [node])
    provider.terminate_node(node)
    eventually(lambda: room.task(node).abort_requested, what="the abort has arrived")
    assert {one["node_id"]: one["state"] for one in desk.json()["nodes"]}[node] == "ending"


def test_node_that_has_failed_and_is_held_shows_so(desk: Desk) -> None:
    provider = desk.room.provider()
    nodes = desk.room.launch(provider, 2)
    running(provider, nodes)
    FailureLog(desk.machine.directory / "failures.json").add("worker", "NodeFailed", "exit 1", node=nodes[0])
    states = {one["node_id"]: one["state"] for one in desk.json()["nodes"]}
    assert (states[nodes[0]], states[nodes[1]]) == ("failed", "running")


def test_lifetime_that_is_left_is_what_the_cluster_was_started_with(desk: Desk) -> None:
    desk.write(cluster_lifetime_hours=50)
    assert 3500 < desk.json()["lifetime_left_seconds"] <= 3600


def test_failures_come_with_their_reason_and_the_output_of_the_latest(desk: Desk) -> None:
    log = FailureLog(desk.machine.directory / "failures.json")
    earlier = datetime.now(timezone.utc) - timedelta(days=3)
    log.add("gpu", "TemplateRefused", "no such template: local/gpu " + "very long " * 20, earlier)
    log.add("worker", "NodeFailed", "demo-1: exit status 1", node="demo-1", output=["older output"])
    log.add("worker", "NodeFailed", "demo-2: exit status 2", node="demo-2", output=["no space left on device", "", "x"])
    result = desk.type()
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "TemplateRefused" in result.stdout
    assert str(earlier.astimezone().date()) in result.stdout
    assert "    | no space left on device\n    |\n    | x\n" in result.stdout
    assert "older output" not in result.stdout
    assert [failure["output"] for failure in desk.json()["failures"]] == [
        [], ["older output"], ["no space left on device", "", "x"],
    ]  # fmt: skip


def test_text_fits_a_terminal_and_keeps_quiet_where_nothing_is_wrong(desk: Desk) -> None:
    provider = desk.room.provider()
    running(provider, desk.room.launch(provider, 3))
    result = desk.type()
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "Nodes: 4 running" in result.stdout
    assert "Ray's own status" in result.stdout
    for word in ("NAME", "TYPE", "STATE", "ADDRESS", "AGE"):
        assert word in result.stdout


def test_on_a_terminal_no_line_is_longer_than_it_is_wide(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True)
    monkeypatch.setenv("COLUMNS", "80")
    log = FailureLog(desk.machine.directory / "failures.json")
    log.add("worker", "NodeFailed", "demo-1: exit status 1", node="demo-1", output=["long " * 40 + "end"])
    assert max(map(len, desk.type().stdout.splitlines())) <= 80
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: False)
    assert f"    | {'long ' * 40}end\n" in desk.type().stdout, "a file gets all of it"


def test_many_nodes_are_counted_and_not_all_listed(desk: Desk) -> None:
    provider = desk.room.provider()
    running(provider, desk.room.launch(provider, 60))
    lines = desk.type("--no-head").stdout.splitlines()
    assert "Nodes: 61 running" in lines
    assert "  and 21 more (--json shows all)" in lines
    assert len(desk.json("--no-head")["nodes"]) == 61


def test_no_such_cluster(desk: Desk) -> None:
    result = desk.type("--cluster-name", "nobody", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["requirement"] is None
    assert "No cluster nobody" in desk.type("--cluster-name", "nobody").stdout
    assert desk.machine.targets == []


def test_head_that_has_ended_is_named_with_what_became_of_it(desk: Desk) -> None:
    room = desk.room
    provider = room.provider()
    running(provider, room.launch(provider))
    room.gateway.abort_node(room.head.task_id)
    eventually(lambda: room.task(room.head.name).status == "ABORTED", what="the head has ended")
    found = desk.type()
    assert found.exit_code == 2
    assert "no live head (ABORTED" in found.stderr
    assert "Nodes: 1 running" in found.stdout
    assert desk.machine.targets == []


# When something does not answer


@pytest.mark.parametrize(
    "fault", [{"action": "drop_before"}, {"action": "status", "status": 503}, {"action": "status", "status": 429}]
)
def test_platform_that_does_not_answer_is_said_and_the_head_shows_what_it_knows(
    desk: Desk, fault: dict[str, Any]
) -> None:
    desk.json()  # from here on this machine knows where the head is
    FailureLog(desk.machine.directory / "failures.json").add("worker", "PlatformUnavailable", "no answer")
    PlatformLog(desk.machine.directory / "platform.json").note("YellowDog did not answer the head")
    desk.room.emulator.fault("*", **{**fault, "times": ALWAYS})
    found = desk.json(code=2)
    assert found["platform"]["answers"] is False
    assert "list" in found["platform"]["error"] or "search" in found["platform"]["error"]
    assert found["platform"]["from_head"]["error"] == "YellowDog did not answer the head"
    assert found["ray_status"] == RAY_STATUS
    assert [failure["category"] for failure in found["failures"]] == ["PlatformUnavailable"]
    result = desk.type()
    assert result.exit_code == 2
    assert "the platform does not answer" in result.stdout
    assert "has not seen the platform since" in result.stderr
    assert "No cluster" not in result.stdout
    desk.room.emulator.clear_faults()
    assert desk.json(code=2)["platform"]["answers"] is True


def test_platform_that_does_not_answer_is_told_in_time_without_a_head_to_ask(desk: Desk) -> None:
    desk.room.emulator.fault("*", "drop_before", times=ALWAYS)
    start = time.monotonic()
    found = desk.json(code=2)
    assert time.monotonic() - start < 5
    assert found["platform"]["answers"] is False
    assert any("not known on this machine" in problem for problem in found["problems"])
    assert desk.machine.targets == []


def test_platform_that_goes_away_in_between_leaves_what_was_seen(desk: Desk) -> None:
    desk.room.emulator.fault("get_worker_pools", "drop_before", times=ALWAYS)
    found = desk.json(code=2)
    assert found["platform"]["answers"] is False
    assert [node["kind"] for node in found["nodes"]] == ["head"]
    assert found["requirement"] == desk.room.cluster.name
    assert found["ray_status"] == RAY_STATUS


def test_another_machine_at_the_remembered_address_is_not_taken_for_the_head(desk: Desk) -> None:
    desk.json()
    (desk.machine.directory / "task").write_text("somebody-else\n")
    FailureLog(desk.machine.directory / "failures.json").add("worker", "NodeFailed", "not ours")
    desk.room.emulator.fault("*", "drop_before", times=ALWAYS)
    found = desk.json(code=2)
    assert found["failures"] == []
    assert found["ray_status"] is None
    assert any("not the cluster's head" in problem for problem in found["problems"])


def test_head_that_does_not_answer_is_a_problem_and_the_platforms_part_is_shown(desk: Desk) -> None:
    desk.machine.alive = False
    result = desk.type()
    assert result.exit_code == 2
    assert "refused" in result.stderr
    assert desk.room.cluster.name in result.stdout
    assert desk.type("--no-head").exit_code == 0


def test_ray_that_does_not_answer_on_the_head_is_a_problem(desk: Desk) -> None:
    desk.machine.ray = Completed(1, "", "Could not connect to GCS")
    FailureLog(desk.machine.directory / "failures.json").add("worker", "NodeFailed", "still shown")
    found = desk.json(code=2)
    assert any("Could not connect to GCS" in problem for problem in found["problems"])
    assert [failure["message"] for failure in found["failures"]] == ["still shown"]


def test_refused_key_is_an_error_and_no_missing_cluster(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YD_API_KEY_SECRET", "wrong-secret")
    result = desk.type()
    assert result.exit_code == 1
    assert "YD_API_KEY" in result.output
    assert "wrong-secret" not in result.output
    assert "No cluster" not in result.output


def test_remembered_heads_are_kept_apart_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydog.yellowdog.cluster import ClusterName

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    demo, other = ClusterName("tests", "demo"), ClusterName("tests", "Demo")
    head = RememberedHead("demo-1", "10.0.0.1")
    remembered.remember("http://a", demo, head)
    assert remembered.recall("http://a", demo) == head
    assert remembered.recall("http://b", demo) is None
    assert remembered.recall("http://a", other) is None
    remembered.forget("http://a", demo)
    remembered.forget("http://a", demo)
    assert remembered.recall("http://a", demo) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# A failed worker's output, on its way to the failures


def quiet_port() -> int:
    """A port whose neighbour is free too, where no outgoing connection gets its own port from."""
    for port in range(20_001, 30_000, 2):
        with contextlib.suppress(OSError), socket.create_server(("", port)), socket.create_server(("", port + 1)):
            return port
    pytest.fail("no free ports")


def tell(room: HeadRoom, node: str) -> str:
    """Say a failed worker's last words, from this machine's address."""
    with socket.create_connection(("127.0.0.1", room.last_words_port), timeout=10) as caller:
        caller.sendall(f"raydog-output {node} 7 6\nbroken".encode())
        return caller.recv(10).decode().strip()


def test_last_words_of_a_worker_are_kept_with_its_failure(make_room: MakeRoom) -> None:
    room = make_room(tag_port=quiet_port())
    provider = room.provider()
    (node,) = room.launch(provider)
    running(provider, [node])
    view = cast(Any, provider)._side._view
    assert tell(room, node) == "no", "it speaks from another address than the node's"
    view.know_address(node, NodeAddress("127.0.0.1"))
    assert tell(room, "demo-unknown") == "again"
    assert tell(room, node) == "ok"
    (failure,) = room.failures()
    assert (failure.category, failure.node, failure.output) == ("NodeFailed", node, ("broken",))
    assert "exit status 7" in failure.message


def test_head_notes_that_the_platform_went_away_and_came_back(room: HeadRoom, emulator: Emulator) -> None:
    file = room.home / ".raydog" / "platform.json"
    provider = room.provider()
    provider.non_terminated_nodes({})
    eventually(file.exists, what="the platform is seen")
    assert json.loads(file.read_text())["error"] is None
    emulator.fault("*", "drop_before", times=ALWAYS)
    eventually(lambda: json.loads(file.read_text())["error"] is not None, what="its absence is noted")
    emulator.clear_faults()
    eventually(lambda: json.loads(file.read_text())["error"] is None, what="its return is noted")
