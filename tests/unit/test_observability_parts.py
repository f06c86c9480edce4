"""The observability node's parts: what the receiver takes, what the head sends, and the task that runs it all."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydog.observability import __main__ as command
from raydog.observability import head_part, node_script, pusher, receiver
from raydog.waiting import Pending, Ready, wait_until

TARGETS = receiver.TARGETS
GOOD = b'[{"labels": {"job": "ray"}, "targets": ["10.0.0.1:8080", "[fd00::1]:80", "head.local:1"]}]'
DASHBOARD = b'{"title": "Default", "panels": []}'


def eventually(condition: Any, what: str) -> None:
    wait_until(lambda: Ready(None) if condition() else Pending(f"not yet: {what}"), 20, interval=0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A receiver on a thread of this process."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self._server = receiver.serve(folder, port, "127.0.0.1")
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()

    def put(self, name: str, body: bytes) -> int:
        return self.request("PUT", f"/files/{name}", body)[0]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def running(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Running]:
    one = Running(tmp_path / "node")
    yield one
    one.stop()


# What is taken


def test_what_ray_writes_is_taken_and_can_be_compared(running: Running) -> None:
    assert running.put(TARGETS, GOOD) == 200
    assert running.put("default_grafana_dashboard.json", DASHBOARD) == 200
    assert (running.folder / "targets" / TARGETS).read_bytes() == GOOD
    assert running.request("GET", "/files") == (
        200,
        {
            TARGETS: hashlib.sha256(GOOD).hexdigest(),
            "default_grafana_dashboard.json": hashlib.sha256(DASHBOARD).hexdigest(),
        },
    )


@pytest.mark.parametrize(
    "targets",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b"[7]",
        b'[{"targets": "10.0.0.1:80"}]',
        b'[{"targets": ["10.0.0.1"]}]',
        b'[{"targets": ["10.0.0.1:80/path"]}]',
        b'[{"targets": ["http://10.0.0.1:80"]}]',
        b'[{"targets": ["user@10.0.0.1:80"]}]',
        b'[{"targets": ["10.0.0.1:0"]}]',
        b'[{"targets": ["10.0.0.1:65536"]}]',
        b'[{"targets": ["10.0.0.1:80\\n"]}]',
        b'[{"targets": [80]}]',
        b'[{"targets": [], "labels": {"__metrics_path__": "/secret"}}]',
        b'[{"targets": [], "labels": {"__address__": "10.0.0.1:1"}}]',
        b'[{"targets": [], "labels": {"job": 7}}]',
        b'[{"targets": [], "labels": []}]',
        b'[{"targets": [], "more": 1}]',
    ],
)
def test_targets_of_another_kind_are_refused_and_nothing_changes(running: Running, targets: bytes) -> None:
    assert running.put(TARGETS, GOOD) == 200
    assert running.put(TARGETS, targets) == 400
    assert (running.folder / "targets" / TARGETS).read_bytes() == GOOD


@pytest.mark.parametrize("dashboard", [b"[]", b"{}", b'{"panels": []}', b'{"title": "x", "panels": {}}', b"nul"])
def test_what_is_no_dashboard_is_refused(running: Running, dashboard: bytes) -> None:
    assert running.put("a_grafana_dashboard.json", dashboard) == 400
    assert list((running.folder / "dashboards").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["", "x.json", "../prometheus.yml", "..%2fprometheus.yml", "a/b_grafana_dashboard.json", "_grafana_dashboard.json"],
)
def test_no_other_file_can_be_written(running: Running, name: str) -> None:
    before = sorted(running.folder.rglob("*"))
    assert running.put(name, DASHBOARD) == 404
    assert sorted(running.folder.rglob("*")) == before


def test_size_and_number_are_limited(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "MAX_BYTES", 100)
    monkeypatch.setattr(receiver, "MAX_DASHBOARDS", 2)
    assert running.put(TARGETS, b"[" + b" " * 99 + b"]") == 413
    assert [running.put(f"{name}_grafana_dashboard.json", DASHBOARD) for name in "abab"] == [200] * 4
    assert running.put("c_grafana_dashboard.json", DASHBOARD) == 413
    assert running.request("PUT", f"/files/{TARGETS}", None, **{"Content-Length": "many"})[0] == 411


def test_other_methods_and_paths_are_answered(running: Running) -> None:
    assert running.request("GET", "/etc/passwd")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    connection.request("DELETE", f"/files/{TARGETS}")
    assert connection.getresponse().status == 501
    connection.close()


def test_who_hangs_up_or_talks_nonsense_does_no_harm(running: Running) -> None:
    assert running.put(TARGETS, GOOD) == 200
    head = f"PUT /files/{TARGETS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[".encode()
    for said in (head, b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", running.port)) as one:
            one.sendall(said)
    assert running.put("a_grafana_dashboard.json", DASHBOARD) == 200
    assert (running.folder / "targets" / TARGETS).read_bytes() == GOOD


def test_only_a_look_of_the_head_counts_as_contact(running: Running) -> None:
    running.put(TARGETS, GOOD)
    assert not (running.folder / "contact").exists()
    running.request("GET", "/files")
    assert (running.folder / "contact").exists()


# What the head sends


def test_head_sends_what_differs_and_only_that(running: Running) -> None:
    files = {TARGETS: GOOD, "a_grafana_dashboard.json": DASHBOARD}
    assert sorted(pusher.push("127.0.0.1", running.port, files)) == [
        "a_grafana_dashboard.json has arrived",
        f"{TARGETS} has arrived",
    ]
    assert pusher.push("127.0.0.1", running.port, files) == []
    changed = files | {TARGETS: b"[]"}
    assert pusher.push("127.0.0.1", running.port, changed) == []
    assert (running.folder / "targets" / TARGETS).read_bytes() == b"[]"


def test_half_written_dashboard_is_refused_and_the_rest_arrives(running: Running) -> None:
    files = {"a_grafana_dashboard.json": b'{"title": ', TARGETS: GOOD}
    notes = pusher.push("127.0.0.1", running.port, files)
    assert [note.split(":")[0] for note in notes] == [
        "a_grafana_dashboard.json was refused",
        f"{TARGETS} has arrived",
    ]


def test_what_ray_has_written_is_found(tmp_path: Path) -> None:
    environ = {"RAY_TMPDIR": str(tmp_path)}
    assert pusher.files_of_ray(environ) == {}
    session = tmp_path / "ray" / "session_1"
    dashboards = session / "metrics" / "grafana" / "dashboards"
    dashboards.mkdir(parents=True)
    (tmp_path / "ray" / "session_latest").symlink_to(session)
    (session / TARGETS).write_bytes(GOOD)
    (tmp_path / "ray" / TARGETS).symlink_to(session / TARGETS)
    (dashboards / "a_grafana_dashboard.json").write_bytes(DASHBOARD)
    (dashboards / "notes.json").write_bytes(b"{}")
    assert pusher.files_of_ray(environ) == {TARGETS: GOOD, "a_grafana_dashboard.json": DASHBOARD}
    elsewhere = {**environ, "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(tmp_path)}
    assert pusher.files_of_ray(elsewhere) == {TARGETS: GOOD}


class HeadMachine:
    """A head's script with RayDog's part in it, and a folder in which a test writes what Ray would."""

    def __init__(self, folder: Path, port: int) -> None:
        self.ray = folder / "tmp" / "ray"
        self.ray.mkdir(parents=True)
        self.output = folder / "head.log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"{head_part()}\nenv\necho pusher=$pusher\nexec sleep 600"],
                env={
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "OBSERVABILITY_HOST": "127.0.0.1",
                    "RAYDOG_RECEIVER_PORT": str(port),
                    "RAY_TMPDIR": str(folder / "tmp"),
                    "RAY_GRAFANA_IFRAME_HOST": "https://grafana.example",
                    "RAYDOG_PUSH_SECONDS": "0.1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def pusher(self) -> int:
        eventually(lambda: "pusher=" in self.output.read_text(), "the head's script runs")
        return int(self.output.read_text().split("pusher=")[1].split()[0])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def test_pushing_goes_on_over_restarts_of_the_other_side_and_ends_with_the_head(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    head = HeadMachine(tmp_path, port)
    try:
        (head.ray / TARGETS).write_bytes(GOOD)
        eventually(
            lambda: "metrics are not passed on: ConnectionRefused" in head.output.read_text(), "nobody is there yet"
        )
        for folder in ("first", "second"):  # the second one knows nothing of what the first had
            node = Running(tmp_path / folder, port)
            arrived = tmp_path / folder / "targets" / TARGETS
            eventually(arrived.exists, "the targets have arrived")
            node.stop()
        number = head.pusher()
    finally:
        head.end()
    eventually(lambda: not Path(f"/proc/{number}").exists(), "the pusher has ended with its parent")


def test_ray_is_told_where_prometheus_and_grafana_are_and_own_settings_win(tmp_path: Path) -> None:
    head = HeadMachine(tmp_path, free_port())
    try:
        number = head.pusher()
        said = head.output.read_text().splitlines()
    finally:
        head.end()
    eventually(lambda: not Path(f"/proc/{number}").exists(), "the pusher has ended with its parent")
    assert {
        "RAY_PROMETHEUS_HOST=http://127.0.0.1:9090",
        "RAY_PROMETHEUS_NAME=Prometheus",
        "RAY_GRAFANA_HOST=http://127.0.0.1:3000",
        "RAY_GRAFANA_IFRAME_HOST=https://grafana.example",
    } <= set(said)


def test_head_without_an_observability_node_is_left_as_it_is() -> None:
    script = f'set -eu\n{head_part()}\necho "pusher=<$pusher>"; env'
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pusher=<>\n")
    assert "RAY_" not in done.stdout


# The node's task


class NodeTask:
    """The observability node's task, on this machine, with programs of the test's own."""

    def __init__(self, folder: Path, **programs: str) -> None:
        self.folder = folder / "observability"
        self.receiver_port, self.prometheus_port = free_port(), free_port()
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name, script in programs.items():
            file = self._programs / name.replace("_", "-")
            file.write_text(f"#!/bin/bash\n{script}\n")
            file.chmod(0o755)
        self._process: subprocess.Popen[str] | None = None

    def start(self, **environment: str) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            ["bash", "-c", node_script()],
            env={
                "PATH": f"{self._programs}:/usr/bin:/bin:{Path(sys.executable).parent}",
                "HOME": str(self.folder.parent),
                "RAYDOG_RECEIVER_PORT": str(self.receiver_port),
                "RAYDOG_PROMETHEUS_PORT": str(self.prometheus_port),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self._process

    def said(self) -> str:
        log = self.folder / "task.log"
        return log.read_text() if log.exists() else ""

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=30)


PROMETHEUS = 'echo "$@" > "$HOME/arguments"; echo $$ >> "$HOME/pids"; exec sleep 600'
GRAFANA = 'echo "$@" > "$HOME/grafana"; exec sleep 600'


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output. Whatever the task left running would hold its output open, and fail this."""
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_task_runs_all_three_and_leaves_nothing_when_it_is_aborted(home: Path) -> None:
    task = NodeTask(home, prometheus=PROMETHEUS, grafana_server=GRAFANA)
    process = task.start()
    try:
        eventually((home / "grafana").exists, "Grafana runs")
        eventually((home / "arguments").exists, "Prometheus runs")
        eventually(lambda: answers(task.receiver_port), "the receiver answers")
    finally:
        task.close()
    assert process.returncode == 0
    assert f"--web.listen-address=0.0.0.0:{task.prometheus_port}" in (home / "arguments").read_text()
    assert f"--config={task.folder}/grafana/grafana.ini" in (home / "grafana").read_text()
    assert not answers(task.receiver_port)
    pid = int((home / "pids").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_what_ends_is_started_again(home: Path) -> None:
    task = NodeTask(home, prometheus=PROMETHEUS)
    task.start()
    try:
        eventually((home / "pids").exists, "Prometheus runs")
        os.kill(int((home / "pids").read_text()), signal.SIGKILL)
        eventually(lambda: len((home / "pids").read_text().split()) == 2, "Prometheus runs again")
    finally:
        task.close()
    assert "prometheus has ended with exit status 137 and is started again" in task.said()


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({}, "prometheus is not installed on this observability node"),
        ({"prometheus": "echo bad flag; exit 2", "sleep": "exit 0"}, "prometheus ends as soon as it is started"),
    ],
    ids=["not installed", "does not start"],
)
def test_task_that_cannot_do_its_work_fails_and_says_why(home: Path, programs: dict[str, str], expected: str) -> None:
    status, output = finished(NodeTask(home, **programs).start())
    assert status == 1
    assert expected in output
    assert "bad flag" in output or not programs


def test_without_grafana_it_says_so_and_goes_on(home: Path) -> None:
    task = NodeTask(home, prometheus=PROMETHEUS)
    task.start()
    try:
        eventually(lambda: "grafana is not installed on this node" in task.said(), "it says so")
        eventually((home / "pids").exists, "Prometheus runs")
    finally:
        task.close()


def test_what_an_earlier_cluster_left_is_gone(home: Path) -> None:
    task = NodeTask(home, prometheus=PROMETHEUS)
    for name in ("targets/old.json", "dashboards/old.json", "prometheus/wal", "contact"):
        path = task.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    task.start()
    try:
        eventually((home / "pids").exists, "Prometheus runs")
        assert [path.name for path in task.folder.rglob("*") if path.is_file() and path.read_text() == "old"] == []
    finally:
        task.close()


def test_node_ends_when_the_head_was_there_and_is_silent(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = NodeTask(home, prometheus=PROMETHEUS)
    process = task.start(RAYDOG_HEAD_SILENCE_SECONDS="0", RAYDOG_HEAD_FIRST_CONTACT_SECONDS="600")
    try:
        eventually(lambda: answers(task.receiver_port), "the receiver answers")
        assert process.poll() is None, "a head that has not come up yet has its time"
        pusher.push("127.0.0.1", task.receiver_port, {})
        status, output = finished(process)
    finally:
        task.close()
    assert status == 0
    assert "the cluster's head is silent: ending this node" in output


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


# The scripts as text


@pytest.mark.parametrize(("word", "text"), [("node", node_script()), ("head", head_part())])
def test_scripts_are_printed_and_are_bash(word: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([word]) == 0
    assert capsys.readouterr().out == text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert not [line for line in text.splitlines() if line.startswith("@") and line.endswith("@") and line != "@"]


def test_other_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["both"]) == 2
    assert "usage" in capsys.readouterr().err
