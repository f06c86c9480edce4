"""``raydog tunnel``: finds the cluster on the platform, and keeps its ports open until it is told to end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from raydog.autoscaler.reach import Reach, find_reach
from raydog.autoscaler.status import load_config
from raydog.cli import main
from raydog.cli.tunnel import tunnel_specs
from raydog.emulator import Emulator
from raydog.errors import StateError
from raydog.ssh import SshTarget
from raydog.tunnels import SSHTunnelSpec
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.records import GroupRequest, NodeRequest, PoolRequest
from tests.support.head_room import NAMESPACE, HeadRoom
from tests.support.servers import EchoServer, SshServer, eventually, free_port, relay_command

RAYDOG = str(Path(sys.executable).parent / "raydog")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, server: SshServer, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The YAML of cluster ``demo``. Whatever its head's address is, the way there leads to the test's sshd."""
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    way = relay_command(tmp_path).replace("%h %p", f"127.0.0.1 {server.port}")
    document = {
        "cluster_name": "demo",
        "provider": {"type": "external", "module": "raydog.autoscaler.RayDogNodeProvider"}
        | {"cluster_namespace": NAMESPACE},
        "auth": {"ssh_user": server.user, "ssh_private_key": str(server.key), "ssh_proxy_command": way},
    }
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def add_observability_node(room: HeadRoom) -> None:
    kind = clusters.OBSERVABILITY_GROUP
    tag = room.name.worker_tag(room.cluster.cluster_id, kind)
    cluster = room.gateway.add_group(room.cluster, GroupRequest(kind, tag, tag, 3600))
    group = cluster.group(kind)
    assert group is not None
    name = naming.node_name("demo", cluster.cluster_id, kind, naming.new_suffix())
    node = room.gateway.add_nodes(group.group_id, [NodeRequest(name, "sleep inf", {}, 3600)])[0]
    pool = naming.pool_name("demo", cluster.cluster_id, kind)
    room.gateway.add_pool(NAMESPACE, PoolRequest(pool, "local/worker", tag, initial_nodes=1, max_nodes=1))
    eventually(lambda: room.gateway.get_node(node.task_id).status == "EXECUTING", what="the observability node runs")


class Command:
    """``raydog tunnel`` in a process of its own."""

    def __init__(self, config: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [RAYDOG, "tunnel", str(config), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that select sees what has not been read
            env=dict(os.environ),
            start_new_session=True,
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "it prints nothing"
        text = self.process.stdout.readline().decode()
        if not text:
            raise AssertionError(f"it ended: {self.errors()}")
        return text

    def errors(self) -> str:
        """What it said on standard error, when it has ended."""
        return self.process.communicate(timeout=30)[1].decode()

    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.line())
        return found

    def end(self, number: int) -> tuple[int, str]:
        """Its exit code and what it said on standard error."""
        self.process.send_signal(number)
        errors = self.errors()
        return self.process.returncode, errors

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def exchange(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"hello")
        return sock.recv(100)


def works(port: int) -> bool:
    try:
        return exchange(port) == b"hello"
    except ConnectionError:
        return False  # closed, until the login is back


def refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def in_process(config: Path, *options: str) -> Result:
    done = CliRunner().invoke(main, ["tunnel", str(config), *options])
    assert isinstance(done.exception, SystemExit), done.exception
    return done


def anywhere(*places: str) -> list[str]:
    """Options for tunnels to these from any free port: the usual ones may be taken on this machine."""
    return [word for place in places for word in ("--port", f"0:{place}")]


def test_usual_tunnels_are_rays_and_those_to_the_observability_node() -> None:
    alone = Reach("demo", SshTarget("10.0.0.1", "me"))
    assert [str(spec) for spec in tunnel_specs(alone, [], False)] == [
        "localhost:10001 -> localhost:10001", "localhost:8265 -> localhost:8265",
    ]  # fmt: skip
    watched = Reach("demo", alone.head, "10.0.0.5")
    moved = SSHTunnelSpec.parse("18265:8265")
    assert [str(spec) for spec in tunnel_specs(watched, [moved], False)] == [
        "localhost:10001 -> localhost:10001", "localhost:3000 -> 10.0.0.5:3000",
        "localhost:9090 -> 10.0.0.5:9090", "localhost:18265 -> localhost:8265",
    ]  # fmt: skip
    assert tunnel_specs(watched, [moved], True) == [moved]


def test_ports_are_open_until_the_command_is_told_to_end(config: Path, room: HeadRoom, server: SshServer) -> None:
    add_observability_node(room)
    reach = find_reach(load_config(config))
    beside = reach.observability_ip
    places = ["10001", "8265", f"{beside}:3000", f"{beside}:9090"]
    with EchoServer() as echo, Command(config, *anywhere(*places, str(echo.port)), "--json") as command:
        told = command.ready()
        ports = {(one["remote_host"], one["remote_port"]): one["local_port"] for one in told["tunnels"]}
        assert exchange(ports["localhost", echo.port]) == b"hello"
        assert told["cluster"] == "demo"
        assert told["head"] == reach.head.host
        assert told["ray_client"] == f"ray://localhost:{ports['localhost', 10001]}"
        assert told["dashboard"] == f"http://localhost:{ports['localhost', 8265]}"
        assert told["grafana"] == f"http://localhost:{ports[beside, 3000]}"
        assert told["prometheus"] == f"http://localhost:{ports[beside, 9090]}"
        assert len(told["tunnels"]) == 5  # those from the start were moved
        server.drop_connections()
        eventually(lambda: works(ports["localhost", echo.port]), what="the login comes back")
        code, errors = command.end(signal.SIGTERM)
    assert code == 0
    assert "is lost" in errors
    assert "connected again" in errors
    assert refused(ports["localhost", echo.port])


def test_people_are_told_what_leads_where(config: Path, room: HeadRoom) -> None:
    client, dashboard, other = free_port(), free_port(), free_port()
    moved = ("-p", f"{client}:10001", "-p", f"{dashboard}:127.0.0.1:8265", "-p", f"{other}:10.0.0.9:80")
    with Command(config, *moved) as command:
        lines = [command.line().rstrip("\n") for _ in range(5)]
        code, errors = command.end(signal.SIGINT)
    assert (code, errors) == (0, "")
    assert lines[0].startswith("Cluster demo, through ")
    assert [line.split()[0] for line in lines[1:4]] == [
        f"ray://localhost:{client}", f"http://localhost:{dashboard}", f"localhost:{other}",
    ]  # fmt: skip
    assert lines[3].endswith("10.0.0.9:80, from the head")
    assert lines[4] == "Ctrl+C closes them."
    assert max(map(len, lines)) <= 80


def test_command_ends_with_1_when_the_tunnels_cannot_be_kept(config: Path, room: HeadRoom, server: SshServer) -> None:
    with Command(config, "--only", "-p", "0:8265", "--json") as command:
        command.ready()
        server.authorized.write_text("")
        server.drop_connections()
        errors = command.errors()
        assert command.process.returncode == 1
    assert "Error: SSH login to" in errors


def test_busy_port_is_an_error_with_the_option_that_helps(config: Path, room: HeadRoom) -> None:
    with EchoServer() as busy:
        done = in_process(config, "--only", "--port", f"{busy.port}:8265")
    assert done.exit_code == 1
    assert f"local port {busy.port} on localhost cannot be opened" in done.output
    assert f"(process {os.getpid()}) uses it" in done.output
    assert ":8265" in done.output.rpartition("For example: --port ")[2]


def test_cluster_that_is_not_there_or_not_ready_is_said(
    config: Path, emulator: Emulator, make_room: Callable[..., HeadRoom]
) -> None:
    done = in_process(config)
    assert done.exit_code == 1
    assert "there is no cluster demo in namespace tests" in done.output
    room = make_room()
    assert find_reach(load_config(config)).observability_ip is None
    room.gateway.abort_node(room.head.task_id)
    eventually(lambda: room.gateway.get_node(room.head.task_id).finished is not None, what="the head has ended")
    with pytest.raises(StateError, match=r"no live head|there is no cluster"):
        find_reach(load_config(config))


@pytest.mark.parametrize("options", [("--port", "nonsense"), ("--port", "1:2:3:4"), ("--only",)])
def test_arguments_that_cannot_be_understood(config: Path, options: tuple[str, ...]) -> None:
    assert in_process(config, *options).exit_code == 2
