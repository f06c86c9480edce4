"""Port forwarding through a real sshd."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raydog.errors import ConfigError, CredentialsError, ProvisioningError, StateError
from raydog.ssh import SshTarget, Tunnel
from tests.support.servers import EchoServer, SshServer, eventually, free_port, make_key, relay_command


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path) as running:
        yield running


@pytest.fixture
def target(server: SshServer) -> SshTarget:
    return SshTarget("127.0.0.1", server.user, server.key, server.port)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(server: SshServer, echo: EchoServer) -> Iterator[None]:
    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if "_echo" not in thread.name}

    before = ours()
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    eventually(lambda: ours() <= before, what="all threads of the tunnel have ended")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, what="all sockets are closed")  # noqa: PTH208


def exchange(port: int, data: bytes) -> bytes:
    """Send, and read as much as was sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        return read(sock, len(data))


def read(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, or less if the connection ends."""
    answer = b""
    while len(answer) < size and (part := sock.recv(65536)):
        answer += part
    return answer


def alive(tunnel: Tunnel) -> bool:
    return tunnel.is_alive


def test_tunnel_leads_to_the_server(target: SshTarget, echo: EchoServer) -> None:
    with Tunnel(target, "127.0.0.1", echo.port) as tunnel:
        assert alive(tunnel)
        assert exchange(tunnel.local_port, b"hello") == b"hello"
    assert not alive(tunnel)
    with pytest.raises(StateError, match="not started"):
        _ = tunnel.local_port


def test_many_connections_at_once_and_megabytes_both_ways(target: SshTarget, echo: EchoServer) -> None:
    results: dict[int, bytes] = {}
    data = {worker: bytes([worker]) * 700_000 for worker in range(8)}

    def work(worker: int, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            reader = threading.Thread(target=lambda: results.update({worker: read(sock, 700_000)}))
            reader.start()
            sock.sendall(data[worker])
            reader.join()

    with Tunnel(target, "127.0.0.1", echo.port) as tunnel:
        threads = [threading.Thread(target=work, args=(worker, tunnel.local_port)) for worker in data]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == data


def test_stop_ends_open_connections(target: SshTarget, echo: EchoServer) -> None:
    tunnel = Tunnel(target, "127.0.0.1", echo.port).start()
    with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        tunnel.stop()
        tunnel.stop()
        assert sock.recv(1) == b""


def test_nothing_behind_the_tunnel_closes_the_connection_only(target: SshTarget, echo: EchoServer) -> None:
    with Tunnel(target, "127.0.0.1", free_port()) as tunnel:
        with socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=10) as sock:
            assert sock.recv(1) == b""
        assert alive(tunnel)


def test_taken_local_port_is_named(target: SshTarget, echo: EchoServer) -> None:
    tunnel = Tunnel(target, "127.0.0.1", echo.port, local_port=echo.port)
    with pytest.raises(ConfigError, match=f"local port {echo.port} .*Choose another"):
        tunnel.start()


def test_wanted_local_port_is_used_and_free_again_afterwards(target: SshTarget, echo: EchoServer) -> None:
    port = free_port()
    for _ in range(2):
        with Tunnel(target, "127.0.0.1", echo.port, local_port=port) as tunnel:
            assert tunnel.local_port == port
            assert exchange(port, b"x") == b"x"


def test_no_ssh_server_is_an_error_and_leaves_no_port_open(target: SshTarget, server: SshServer) -> None:
    server.kill()
    port = free_port()
    with pytest.raises(ProvisioningError, match="connection refused"):
        Tunnel(target, "127.0.0.1", 1, local_port=port).start()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def test_tunnel_survives_a_restart_of_sshd(target: SshTarget, server: SshServer, echo: EchoServer) -> None:
    with Tunnel(target, "127.0.0.1", echo.port) as tunnel:
        port = tunnel.local_port
        assert exchange(port, b"1") == b"1"
        server.drop_connections()
        server.kill()
        eventually(lambda: not tunnel.is_alive, what="the tunnel notices")
        with pytest.raises(ProvisioningError, match="connection refused"):
            tunnel.ensure()
        server.start()
        tunnel.ensure()
        tunnel.ensure()
        assert tunnel.local_port == port
        assert exchange(port, b"2") == b"2"


def test_refused_key_and_unusable_proxy_command_are_told_apart(target: SshTarget, tmp_path: Path) -> None:
    stranger = replace(target, private_key=make_key(tmp_path / "stranger"))
    with pytest.raises(CredentialsError, match="refused for user"):
        Tunnel(stranger, "127.0.0.1", 1).start()
    with pytest.raises(ConfigError, match="cannot be run"):
        Tunnel(replace(target, proxy_command="/no/such/program"), "127.0.0.1", 1).start()
    with pytest.raises(ConfigError, match="unknown token"):
        Tunnel(replace(target, proxy_command="relay %q"), "127.0.0.1", 1).start()


def test_ensure_needs_a_started_tunnel(target: SshTarget) -> None:
    with pytest.raises(StateError, match="not started"):
        Tunnel(target, "127.0.0.1", 1).ensure()


def test_tunnel_through_a_proxy_command(target: SshTarget, echo: EchoServer, tmp_path: Path) -> None:
    proxied = SshTarget(target.host, target.user, target.private_key, target.port, relay_command(tmp_path))
    with Tunnel(proxied, "127.0.0.1", echo.port) as tunnel:
        assert exchange(tunnel.local_port, b"x" * 500_000) == b"x" * 500_000
