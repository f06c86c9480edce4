"""RayDog's wrapper around a node's script, run for real by bash, with a home folder and a ``ray`` of the test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from raydog.autoscaler import head, scripts
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.head_files import with_credentials
from raydog.autoscaler.last_words import Answer, LastWords, Listener
from raydog.errors import ProvisioningError, StateError
from raydog.ssh import RemoteFile
from raydog.ssh.session import Completed
from raydog.waiting import Pending, Ready, wait_until
from raydog.yellowdog.credentials import Credentials

ABORTED = 143
CREDENTIALS = Credentials("http://127.0.0.1:1", "the-key's-id", "s'ec\"ret$")


def eventually(condition: Any, what: str) -> None:
    wait_until(lambda: Ready(None) if condition() else Pending(f"not yet: {what}"), 20, interval=0.02)


class Node:
    """A machine: a home folder, and programs ``ray``, ``python3`` and ``redis-server`` that only note that they ran."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.directory = self.home / ".raydog"
        self.directory.mkdir(parents=True)
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self.program("ray", 'env > "$HOME/environment"')
        # Ray's start as it is on a head, where Python has loaded it before it is wanted
        await_go = 'until [ -e "$RAYDOG_DIR/go" ]; do sleep 0.02; done'
        self.program("python3", f'[ "$3" = start ] || exit 0; {await_go}; shift 2; exec ray "$@"')
        self.program("redis-server", 'echo $$ > "$HOME/redis.pid"; exec sleep 600')

    def program(self, name: str, script: str) -> None:
        file = self._programs / name
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.directory / name.replace("_env", ".env").replace("_log", ".log")).write_text(text)

    def start(self, task: str, node_id: str = "node-1", **environment: str) -> subprocess.Popen[str]:
        settings = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "RAY_CLOUD_INSTANCE_ID": node_id,
            "RAY_HEAD_IP": "127.0.0.1",
            "RAYDOG_HOLD_SECONDS": "0",
            **environment,
        }
        process = subprocess.Popen(
            ["bash", "-c", task], env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output. Whatever the task left running would hold its output open, and fail this."""
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """A port of loopback on which nothing can come to listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield str(sock.getsockname()[1])


# A worker and its head


@pytest.mark.parametrize("awaiting_go", [True, False], ids=["waits for its updater", "runs Ray"])
def test_worker_that_comes_after_its_head_has_gone_ends_and_is_not_held(
    node: Node, closed_port: str, awaiting_go: bool
) -> None:
    node.program("ray", "exec sleep 600")
    environment = {"RAYDOG_AWAIT_GO": "1"} if awaiting_go else {}
    process = node.start(
        scripts.worker_task(None),
        RAYDOG_GCS_PORT=closed_port,
        RAYDOG_HEAD_FIRST_CONTACT_SECONDS="1",
        RAYDOG_HOLD_SECONDS="600",
        **environment,
    )
    status, output = finished(process)
    assert status == ABORTED
    assert "ending this worker" in output
    assert "held" not in output


def test_worker_whose_head_falls_silent_ends_after_the_shorter_limit(node: Node) -> None:
    node.program("ray", "exec sleep 600")
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = node.start(
            scripts.worker_task(None),
            RAYDOG_GCS_PORT=str(server.getsockname()[1]),
            RAYDOG_HEAD_SILENCE_SECONDS="1",
            RAYDOG_HEAD_FIRST_CONTACT_SECONDS="600",
        )
        server.settimeout(20)
        server.accept()[0].close()
    assert finished(process)[0] == ABORTED


def test_own_script_may_use_another_port_as_long_as_the_heads_machine_lives(node: Node, closed_port: str) -> None:
    limits = {"RAYDOG_HEAD_FIRST_CONTACT_SECONDS": "1"}
    refused = node.start(scripts.worker_task("sleep 600"), RAYDOG_GCS_PORT=closed_port, **limits)
    other = Node(node.home)
    try:
        for _ in range(2):  # each takes as long as the first would have
            unreachable = other.start(scripts.worker_task("sleep 600"), RAYDOG_GCS_PORT="no-port", **limits)
            assert finished(unreachable)[0] == ABORTED
    finally:
        other.close()
    assert refused.poll() is None
    refused.terminate()
    assert finished(refused)[0] == ABORTED


def test_failed_worker_is_held_no_longer_than_its_head_lives(node: Node, closed_port: str) -> None:
    node.program("ray", "exit 7")
    process = node.start(
        scripts.worker_task(None),
        RAYDOG_GCS_PORT=closed_port,
        RAYDOG_HEAD_FIRST_CONTACT_SECONDS="1",
        RAYDOG_HOLD_SECONDS="600",
    )
    status, output = finished(process)
    assert status == 7
    assert "held" in output


# What a failed worker tells its head


class LastWordsHead:
    """Takes what workers say, after answering as told first."""

    def __init__(self, *answers: Answer) -> None:
        self.heard: list[LastWords] = []
        self._answers = list(answers)
        self._listener = Listener(0, self._take)
        self._listener.start()

    def _take(self, words: LastWords, address: str) -> Answer:
        self.heard.append(words)
        return self._answers.pop(0) if self._answers else "ok"

    def __enter__(self) -> dict[str, str]:
        return {"RAYDOG_LAST_WORDS_PORT": str(self._listener.port)}

    def __exit__(self, *_: object) -> None:
        self._listener.close()


@pytest.mark.parametrize("answers", [(), ("again",)], ids=["at once", "when the head knows it"])
def test_failed_worker_tells_its_head_what_it_printed_last(node: Node, answers: tuple[Answer, ...]) -> None:
    node.program("ray", "seq 200; echo 'no space left'; seq 90 | sed 's/^/[state-dump] /'; exit 7")
    head = LastWordsHead(*answers)
    with head as environment:
        status, output = finished(node.start(scripts.worker_task(None), **environment))
    assert status == 7
    assert "no space left" in output
    assert len(head.heard) == 1 + len(answers)
    words = head.heard[-1]
    assert (words.node, words.exit_status) == ("node-1", 7)
    assert len(words.output) == 50
    assert words.output[-2] == "no space left"
    assert "failed with exit status 7" in words.output[-1]
    assert words.output[-3] == "200"


def test_worker_that_is_ended_or_ends_well_tells_nothing(node: Node) -> None:
    head = LastWordsHead()
    with head as environment:
        assert finished(node.start(scripts.worker_task(None), **environment))[0] == 0
        node.program("ray", "touch $HOME/started; exec sleep 600")
        process = node.start(scripts.worker_task(None), **environment)
        eventually((node.home / "started").exists, "Ray runs")
        process.terminate()
        assert finished(process)[0] == ABORTED
    assert head.heard == []


def test_abort_of_a_failed_worker_ends_it_though_its_head_does_not_listen(node: Node, closed_port: str) -> None:
    node.program("ray", "exit 7")
    process = node.start(scripts.worker_task(None), RAYDOG_LAST_WORDS_PORT=closed_port, RAYDOG_HOLD_SECONDS="600")
    eventually((node.directory / "last_words").exists, "it tries to tell")
    process.terminate()
    assert finished(process)[0] == 7


# A machine that has been used before


def test_what_another_task_left_does_not_steer_this_one(node: Node) -> None:
    node.write(task="node-0", ready="", go="", own_script="", exit_status="1", credentials_env="export A=1")
    (node.directory / "redis").mkdir()
    status, output = finished(node.start(scripts.head_task(None), RAYDOG_BUILD_TIMEOUT="1"))
    assert status == 1
    assert "nobody brought the credentials" in output
    left = {path.name for path in node.directory.iterdir()}
    assert not left & {"ready", "go", "own_script", "credentials.env"}
    assert (node.directory / "task").read_text().strip() == "node-1"


def test_a_folder_without_a_tasks_name_counts_as_anothers(node: Node) -> None:
    node.write(ready="", credentials_env="export A=1")
    assert finished(node.start(scripts.head_task(None), RAYDOG_BUILD_TIMEOUT="1"))[0] == 1


def test_what_was_brought_for_this_task_stays_when_it_runs_again(node: Node) -> None:
    node.write(task="node-1\n", ready="", go="", exit_status="1", credentials_env="")
    assert finished(node.start(scripts.head_task(None)))[0] == 0
    assert (node.home / "environment").exists()


class _Machine:
    """A login to a `Node`, without the network."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def run(self, command: str, timeout: float) -> Completed:
        done = subprocess.run(
            ["sh", "-c", command], cwd=self._node.home, capture_output=True, text=True, check=False, timeout=timeout
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def write_files(self, files: list[RemoteFile], timeout: float) -> None:
        for file in files:
            (self._node.home / file.path).write_bytes(file.data)


def bring(node: Node, node_id: str) -> None:
    config = ClusterConfig(cluster_name="demo", namespace="tests")
    head.bring(cast(Any, _Machine(node)), config, CREDENTIALS, node_id, 60)


def test_nothing_is_brought_to_what_another_task_left(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_TASK_APPEARS_SECONDS", 1)
    node.write(task="node-0\n", task_log="", ready="", exit_status="1")
    with pytest.raises(ProvisioningError) as failed:
        bring(node, "node-1")
    assert failed.value.category == "WrongSshUser"


def test_head_on_a_used_machine_gets_its_credentials(node: Node) -> None:
    node.write(task="node-0\n", exit_status="1", go="")
    bringing = threading.Thread(target=bring, args=(node, "node-1"))
    bringing.start()
    try:
        process = node.start(scripts.head_task(None))
        eventually((node.directory / "ready").exists, "all has been brought")
    finally:
        bringing.join()
    node.write(go="")
    assert finished(process)[0] == 0


# What a head's processes see, and leave


def test_rays_processes_on_the_head_do_not_get_the_platforms_key(node: Node) -> None:
    node.write(task="node-1\n")
    bring(node, "node-1")
    node.write(go="")
    assert finished(node.start(scripts.head_task(None)))[0] == 0
    environment = (node.home / "environment").read_text()
    assert "RAY_CLOUD_INSTANCE_ID" in environment
    assert "YD_API" not in environment


def test_own_head_scripts_get_the_platforms_key_as_before(node: Node) -> None:
    node.write(task="node-1\n")
    bring(node, "node-1")
    assert finished(node.start(scripts.head_task("ray start --head")))[0] == 0
    assert f"YD_API_KEY_SECRET={CREDENTIALS.key_secret}\n" in (node.home / "environment").read_text()


@pytest.mark.parametrize("script", [None, "ray start --head"])
@pytest.mark.parametrize(("settings", "seen"), [({}, "0"), ({"GRPC_ENABLE_FORK_SUPPORT": "1"}, "1")])
def test_grpc_keeps_off_the_forks_of_rays_client_server(
    node: Node, script: str | None, settings: dict[str, str], seen: str
) -> None:
    node.write(task="node-1\n")
    bring(node, "node-1")
    node.write(go="")
    assert finished(node.start(scripts.head_task(script), **settings))[0] == 0
    assert f"GRPC_ENABLE_FORK_SUPPORT={seen}\n" in (node.home / "environment").read_text()


def test_autoscaler_reads_the_key_as_it_was_brought(node: Node) -> None:
    node.write(task="node-1\n")
    bring(node, "node-1")
    file = node.directory / "credentials.env"
    environ = {"HOME": "/", "YD_API_URL": "http://elsewhere"}
    assert with_credentials(environ, file) == {"HOME": "/", **CREDENTIALS.as_environment()}


def test_key_in_the_environment_wins_and_a_missing_file_is_no_error(tmp_path: Path) -> None:
    environ: Mapping[str, str] = {"YD_API_KEY_ID": "a", "YD_API_KEY_SECRET": "b"}
    file = tmp_path / "credentials.env"
    file.write_text("export YD_API_KEY_ID='c'\nexport YD_API_KEY_SECRET='d'\n")
    assert with_credentials(environ, file) == environ
    assert with_credentials({"A": "1"}, tmp_path / "none") == {"A": "1"}


def test_broken_file_is_named_and_its_text_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "credentials.env"
    file.write_text("export YD_API_KEY_SECRET='swordfish\n")
    with pytest.raises(StateError, match=r"credentials\.env") as failed:
        with_credentials({}, file)
    assert "swordfish" not in str(failed.value)


@pytest.mark.parametrize("aborted", [True, False], ids=["aborted", "timed out"])
def test_head_that_waits_in_vain_leaves_no_tag_server(node: Node, aborted: bool) -> None:
    process = node.start(scripts.head_task(None), RAYDOG_BUILD_TIMEOUT="600" if aborted else "1")
    eventually((node.home / "redis.pid").exists, "the tag server runs")
    if aborted:
        process.terminate()
    assert finished(process)[0] == (ABORTED if aborted else 1)
    pid = (node.home / "redis.pid").read_text().strip()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the tag server has ended")
