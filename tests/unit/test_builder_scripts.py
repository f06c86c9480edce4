"""The builder's example scripts, run for real by bash; ``ray``, ``docker`` and other programs are the test's own."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydog.observability import head_part, node_script
from raydog.waiting import Pending, Ready, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = EXAMPLES / "builder" / "scripts"
ABORTED = 143
HEADS = ("head-node-task-script.sh", "head-node-task-script-docker.sh")
WORKERS = ("worker-node-task-script.sh", "worker-node-task-script-docker.sh")


class Machine:
    """A folder for programs that note how they were called, and what the scripts that ran there have left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self.program("ray", 'if [ "$1" = start ]; then env > "$NOTES/environment"; exec sleep 600; fi')
        # A container ends when it is told to: the client then ends with it, as Docker's does.
        stops = 'if [ "$1" = stop ]; then kill "$(cat "$NOTES/container")"; exit 0; fi'
        runs = 'echo $$ > "$NOTES/container"; env > "$NOTES/environment"; exec sleep 600'
        self.program("docker", f"{stops}\n{runs}")

    def program(self, name: str, script: str) -> None:
        file = self._programs / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> "$NOTES/calls"\n{script}\n')
        file.chmod(0o755)

    def start(self, text: str, **environment: str) -> subprocess.Popen[str]:
        settings = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "NOTES": str(self.folder),
            "RAY_VENV": str(self.folder / "no-venv"),
            **environment,
        }
        process = subprocess.Popen(
            ["bash", "-c", text], env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    @property
    def calls(self) -> list[str]:
        """The programs' calls so far, with their arguments."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def called(self, start: str) -> str:
        """The first call that begins so; waits for it."""

        def look() -> Ready[str] | Pending:
            found = next((call for call in self.calls if call.startswith(start)), None)
            return Ready(found) if found else Pending(f"calls: {self.calls}")

        return wait_until(look, 20, interval=0.02)

    def environment(self) -> dict[str, str]:
        """What Ray's start command finds in its environment; waits for it."""
        file = self.folder / "environment"

        def look() -> Ready[dict[str, str]] | Pending:
            lines = file.read_text().splitlines() if file.exists() else []
            ready = any(line.startswith("_=") for line in lines)  # bash's last one
            return Ready(dict(line.split("=", 1) for line in lines if "=" in line)) if ready else Pending(str(lines))

        return wait_until(look, 20, interval=0.02)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output. Whatever the script left running would hold its output open, and fail this."""
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def text(name: str) -> str:
    return (SCRIPTS / name).read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


@pytest.fixture
def head_port() -> Iterator[str]:
    """A port that answers, as a head's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.fixture
def closed_port() -> Iterator[str]:
    """A port on which nothing can come to listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield str(sock.getsockname()[1])


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.sh")), ids=lambda path: path.name)
def test_bash_understands_each_script(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text().startswith("#!")


# Metrics: one text, in the package and in the examples


def test_observability_script_is_the_packages_own() -> None:
    assert text("observability-node-task-script.sh") == node_script(), (
        "renew it: python -m raydog.observability node > examples/builder/scripts/observability-node-task-script.sh"
    )


@pytest.mark.parametrize("name", HEADS)
def test_head_script_has_the_packages_part_before_ray_starts(name: str) -> None:
    before, part, after = text(name).partition(head_part())
    assert part, "renew what stands between the marks: python -m raydog.observability head"
    assert "ray start --head" not in before
    assert "ray start --head" in after


@pytest.mark.parametrize("name", HEADS)
def test_head_with_an_observability_node_tells_ray_where_it_is(machine: Machine, name: str) -> None:
    process = machine.start(text(name), OBSERVABILITY_HOST="127.0.0.9", RAYDOG_RECEIVER_PORT="1")
    seen = machine.environment()
    assert seen["RAY_PROMETHEUS_HOST"] == "http://127.0.0.9:9090"
    assert seen["RAY_GRAFANA_HOST"] == "http://127.0.0.9:3000"
    if "docker" in name:
        options = machine.called("docker run").split(" ray start ")[0]
        assert all(f"--env {setting}" in options for setting in ("RAY_PROMETHEUS_HOST", "RAY_GRAFANA_HOST"))
    process.terminate()
    assert finished(process)[0] == ABORTED  # and the process that brings Ray's files there has ended too


# The head


@pytest.mark.parametrize("name", HEADS)
def test_head_serves_clients_and_keeps_its_dashboard_to_itself(machine: Machine, name: str) -> None:
    machine.start(text(name))
    call = machine.called("docker run" if "docker" in name else "ray start")
    assert "--head --block" in call
    assert "--ray-client-server-port=10001" in call
    assert "--dashboard-host=127.0.0.1 --dashboard-port=8265" in call
    assert not any(setting.startswith("RAY_PROMETHEUS") for setting in machine.environment())
    assert machine.environment()["GRPC_ENABLE_FORK_SUPPORT"] == "0", "or gRPC kills some clients' servers"
    if "docker" in name:
        assert "--env GRPC_ENABLE_FORK_SUPPORT" in call.split(" ray start ")[0]


# Workers


@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.parametrize("variable", ["RAY_HEAD_IP", "RAY_HEAD_NODE_PRIVATE_IP"])
def test_worker_joins_the_head_under_either_name_of_its_address(
    machine: Machine, head_port: str, name: str, variable: str
) -> None:
    machine.start(text(name), **{variable: "127.0.0.1"}, RAY_PORT=head_port)
    call = machine.called("docker run" if "docker" in name else "ray start")
    assert f"--address=127.0.0.1:{head_port}" in call
    assert "--block" in call


@pytest.mark.parametrize("name", WORKERS)
def test_worker_without_an_address_says_so(machine: Machine, name: str) -> None:
    status, output = finished(machine.start(text(name)))
    assert status != 0
    assert "no address of the head node" in output
    assert machine.calls == []


@pytest.mark.parametrize("name", WORKERS)
def test_worker_has_labels_that_ray_allows(machine: Machine, head_port: str, name: str) -> None:
    environment = {"RAY_HEAD_IP": "127.0.0.1", "RAY_PORT": head_port, "RAY_LABELS": "worker-pool=a"}
    machine.start(text(name), YD_INSTANCE_TYPE="Standard D2/v5", **environment)
    call = machine.called("docker run" if "docker" in name else "ray start")
    assert "--labels=instance-type=Standard-D2-v5,worker-pool=a" in call


@pytest.mark.parametrize("name", WORKERS)
def test_worker_whose_head_never_answers_gives_up(machine: Machine, closed_port: str, name: str) -> None:
    environment = {"RAY_HEAD_IP": "127.0.0.1", "RAY_PORT": closed_port, "RAY_HEAD_SECONDS": "1"}
    status, output = finished(machine.start(text(name), **environment))
    assert status == 1
    assert f"127.0.0.1:{closed_port}" in output
    assert not any("start" in call or "run" in call for call in machine.calls)


@pytest.mark.parametrize("name", WORKERS)
def test_worker_that_waits_for_its_head_hears_an_abort(machine: Machine, closed_port: str, name: str) -> None:
    machine.program("timeout", "exit 124")
    machine.program("ray", "exit 1")  # what waits is ended all the same
    process = machine.start(text(name), RAY_HEAD_IP="127.0.0.1", RAY_PORT=closed_port)
    machine.called("timeout")  # it looks for the head
    process.terminate()
    assert finished(process)[0] == ABORTED


# Ending


@pytest.mark.parametrize("name", [HEADS[0], WORKERS[0]])
def test_abort_stops_ray_and_leaves_nothing(machine: Machine, head_port: str, name: str) -> None:
    process = machine.start(text(name), RAY_HEAD_IP="127.0.0.1", RAY_PORT=head_port)
    machine.called("ray start")
    process.terminate()
    status, output = finished(process)
    assert status == ABORTED
    assert "Ray stopped" in output
    assert machine.calls[-1] == "ray stop"


@pytest.mark.parametrize("name", [HEADS[1], WORKERS[1]])
def test_abort_stops_the_container_that_was_started(machine: Machine, head_port: str, name: str) -> None:
    process = machine.start(text(name), RAY_HEAD_IP="127.0.0.1", RAY_PORT=head_port)
    container = machine.called("docker run").partition("--name ")[2].split()[0]
    machine.environment()
    process.terminate()
    assert finished(process)[0] == ABORTED
    assert machine.calls[-1] == f"docker stop --time 15 {container}"


@pytest.mark.parametrize("name", [*HEADS, *WORKERS])
def test_task_ends_as_ray_ended(machine: Machine, head_port: str, name: str) -> None:
    machine.program("ray", '[ "$1" = stop ] || exit 7')
    machine.program("docker", '[ "$1" = stop ] || exit 7')
    assert finished(machine.start(text(name), RAY_HEAD_IP="127.0.0.1", RAY_PORT=head_port))[0] == 7
    assert "stop" in machine.calls[-1]


# Setting a node up


@pytest.fixture
def node(machine: Machine) -> Machine:
    """A machine with an agent, SSH and the right Ray, on which nothing can be fetched."""
    for name in ("curl", "apt-get"):
        machine.program(name, "exit 1")
    machine.program("getent", "exit 0")
    machine.program("sshd", "exit 0")
    machine.program("ufw", "exit 0")
    machine.program("uv", "exit 0")
    machine.program("runuser", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    machine.program("prometheus", "exit 0")
    venv = machine.folder / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(machine.folder / "bin" / "venv-python")
    machine.program("venv-python", "echo 1.2.3")
    return machine


def set_up(node: Machine, **environment: str) -> tuple[int, str]:
    script = text("node-setup-userdata.sh")
    for path, here in (("AGENT_HOME=/opt/yellowdog/agent", node.folder), ("/usr/sbin/sshd", node.folder / "bin/sshd")):
        assert path in script
        script = script.replace(path, f"{path.partition('=')[0]}={here}" if "=" in path else str(here))
    return finished(node.start(script, RAY_VERSION="1.2.3", **environment))


def test_node_that_has_all_fetches_nothing(node: Machine) -> None:
    status, output = set_up(node)
    assert status == 0, output
    assert not any(call.startswith(("curl", "apt-get", "uv")) for call in node.calls)


def test_node_with_another_ray_gets_the_one_that_is_wanted(node: Machine) -> None:
    node.program("venv-python", "echo 1.2.2")
    (node.folder / ".local" / "bin").mkdir(parents=True)
    (node.folder / ".local" / "bin" / "uv").symlink_to(node.folder / "bin" / "uv")
    status, output = set_up(node, PYTHON_VERSION="3.10")
    assert status == 0, output
    assert any(call.startswith("uv venv") and "--python 3.10" in call for call in node.calls)
    assert any(call.startswith("uv pip install") and call.endswith("ray[default]==1.2.3") for call in node.calls)


def test_node_without_a_way_out_does_without_grafana(node: Machine) -> None:
    status, output = set_up(node, INSTALL_OBSERVABILITY="yes")
    assert status == 0, output
    assert "there is no Grafana on this node" in output
    assert "there is no Prometheus" not in output


def test_set_up_that_cannot_get_ray_fails(node: Machine) -> None:
    node.program("venv-python", "exit 1")
    assert set_up(node)[0] != 0


# The examples, as far as they go without a platform


def run_example(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ours = ("YD_", "RAYDOG_", "RAY_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "builder" / name), *arguments],
        cwd=folder,
        env={**environment, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["usage-example.py", "scale-example.py"])
def test_example_explains_itself_and_says_what_is_missing(tmp_path: Path, name: str) -> None:
    helped = run_example(name, tmp_path, "--help")
    assert helped.returncode == 0, helped.stderr
    assert all(option in helped.stdout for option in ("--local", "--keep", "--head-template"))

    refused = run_example(name, tmp_path, "--namespace", "tests")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{name}: --head-template, --worker-templates: ")

    templates = ("--head-template", "local/head", "--worker-templates", "local/worker,local/head")
    unknown = run_example(name, tmp_path, "--namespace", "tests", *templates)
    assert unknown.returncode == 1
    assert "YD_API_KEY_ID" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failures", [2, 3])
def test_client_is_connected_again_when_the_head_could_not_serve_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failures: int
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "builder"))
    setting = importlib.import_module("setting")
    context = object()
    answers: list[Any] = [ConnectionAbortedError("first line\nno server")] * failures + [context]

    def init(address: str) -> object:
        assert address == "ray://localhost:1234"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(setting.ray, "init", init)
    if failures == 3:
        with pytest.raises(ConnectionAbortedError):
            setting.connect(1234)
    else:
        assert setting.connect(1234) is context
    assert capsys.readouterr().out.count("(no server); once more") == 2
