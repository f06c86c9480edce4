"""`RayTunnels` and what it is made of, through a real sshd."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raydog.errors import ConfigError, CredentialsError, ProvisioningError, StateError
from raydog.ssh import SshTarget
from raydog.ssh.local_ports import check_free
from raydog.tunnels import RayTunnels, SSHTunnelSpec, keeping
from tests.support.servers import EchoServer, SshServer, eventually, free_port, make_key, relay_command
from tests.support.ssh_password import PasswordSshServer
from tests.support.ssh_relay import Relay


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path) as running:
        yield running


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test all threads have ended and all descriptors are closed that it did not find."""
    for needed in ("server", "echo"):
        if needed in request.fixturenames:
            request.getfixturevalue(needed)

    def ours() -> set[threading.Thread]:
        return {
            t
            for t in threading.enumerate()
            if "_echo" not in t.name and "relay" not in t.name and t.name != "password-sshd"
        }

    before, descriptors = ours(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    eventually(lambda: ours() <= before, what="all threads of the tunnels have ended")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, what="all sockets are closed")  # noqa: PTH208


class Tunnels(RayTunnels):
    """Tunnels to the test's sshd that note what they report."""

    def __init__(
        self, server: SshServer, *specs: SSHTunnelSpec, ssh_port: int = 0, key: Path | None = None, **options: Any
    ) -> None:
        self.reports: list[str] = []
        super().__init__(
            "127.0.0.1",
            server.user,
            private_key_file=str(key or server.key),
            ray_tunnel_specs=list(specs),
            ssh_port=ssh_port or server.port,
            on_change=self.reports.append,
            **options,
        )

    def reported(self, text: str) -> bool:
        return any(text in report for report in self.reports)


def to(port: int, local: int | None = None) -> SSHTunnelSpec:
    return SSHTunnelSpec.of(remote_port=port, local_port=free_port() if local is None else local)


def exchange(port: int, data: bytes = b"hello", host: str = "127.0.0.1") -> bytes:
    """Send, and read as much as was sent (less if the connection ends)."""
    with socket.create_connection((host, port), timeout=20) as sock:
        sock.sendall(data)
        answer = b""
        while len(answer) < len(data) and (part := sock.recv(65536)):
            answer += part
        return answer


def take_away(server: SshServer) -> None:
    """End sshd and the logins that it serves, with no moment in between to log in again."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    server.drop_connections()
    server.kill()


def open_port(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def works(port: int) -> bool:
    """Whether a connection reaches the echo; while the login is lost the port is closed, or leads nowhere."""
    try:
        return exchange(port) == b"hello"
    except ConnectionError:
        return False


def test_several_tunnels_share_one_login(server: SshServer, echo: EchoServer) -> None:
    with EchoServer() as other, Relay(server.port) as relay:
        specs = [to(echo.port), to(other.port), SSHTunnelSpec.of(remote_port=echo.port, local_port=0)]
        with Tunnels(server, *specs, ssh_port=relay.port) as tunnels:
            assert [exchange(spec.local_port, b"x" * 300_000) for spec in tunnels.specs] == [b"x" * 300_000] * 3
            assert tunnels.specs[2].local_port not in (0, *(spec.local_port for spec in specs))
            assert tunnels.is_alive
            assert relay.connections == 1
        assert tunnels.wait(0)
        assert not any(open_port(spec.local_port) for spec in specs[:2])


def test_start_and_stop_may_be_called_again(server: SshServer, echo: EchoServer) -> None:
    tunnels = Tunnels(server, to(echo.port))
    tunnels.stop_tunnels()
    for _ in range(2):
        tunnels.start_tunnels()
        tunnels.start_tunnels()
        assert exchange(tunnels.specs[0].local_port) == b"hello"
        tunnels.stop_tunnels()
        tunnels.stop_tunnels(ignore_errors=False)
        assert tunnels.wait(0)


def test_many_threads_start_and_stop_at_once(server: SshServer, echo: EchoServer) -> None:
    tunnels = Tunnels(server, to(echo.port))
    surprises: list[BaseException] = []

    def work(number: int) -> None:
        try:
            tunnels.start_tunnels() if number % 3 else tunnels.stop_tunnels()
        except StateError:
            pass  # stopped by another thread while it started
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            surprises.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tunnels.start_tunnels()
    assert exchange(tunnels.specs[0].local_port) == b"hello"
    tunnels.stop_tunnels()
    assert surprises == []


def test_busy_port_is_reported_before_any_login_and_opens_nothing(server: SshServer, echo: EchoServer) -> None:
    first = to(echo.port)
    with Relay(server.port) as relay:
        tunnels = Tunnels(server, first, to(echo.port, local=echo.port), ssh_port=relay.port)
        with pytest.raises(ConfigError) as raised:
            tunnels.start_tunnels()
        assert relay.connections == 0
    message = str(raised.value)
    assert f"local port {echo.port} on localhost cannot be opened" in message
    assert f"(process {os.getpid()}) uses it" in message
    assert "SSHTunnelSpec.of(local_port=" in message
    assert not open_port(first.local_port)


def test_failed_login_opens_nothing_and_may_be_repeated(server: SshServer, echo: EchoServer, tmp_path: Path) -> None:
    spec = to(echo.port)
    stranger = Tunnels(server, spec, key=make_key(tmp_path / "stranger"))
    with pytest.raises(CredentialsError, match="refused for user"):
        stranger.start_tunnels()
    assert not open_port(spec.local_port)
    tunnels = Tunnels(server, spec)
    server.kill()
    with pytest.raises(ProvisioningError, match="connection refused"):
        tunnels.start_tunnels()
    server.start()
    with tunnels:
        assert exchange(spec.local_port) == b"hello"


def test_unknown_host_is_named(server: SshServer) -> None:
    tunnels = RayTunnels("no-such-host.invalid", "me", private_key_file=str(server.key), ray_tunnel_specs=[to(1)])
    with pytest.raises(ProvisioningError, match=r"me@no-such-host\.invalid"):
        tunnels.start_tunnels()


def test_encrypted_key_needs_its_passphrase(server: SshServer, echo: EchoServer, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    with server.authorized.open("a") as file:
        file.write(locked.with_suffix(".pub").read_text())
    with pytest.raises(CredentialsError, match=r"is encrypted.*private_key_password"):
        Tunnels(server, to(echo.port), key=locked).start_tunnels()
    either: tuple[dict[str, Any], ...] = ({"private_key_password": "open sesame"}, {"password": "open sesame"})
    for options in either:  # as in the older program
        with Tunnels(server, to(echo.port), key=locked, **options) as tunnels:
            assert exchange(tunnels.specs[0].local_port) == b"hello"
    with Tunnels(server, to(echo.port), private_key_password="not needed") as tunnels:
        assert exchange(tunnels.specs[0].local_port) == b"hello"


def test_dropped_connection_comes_back_by_itself(server: SshServer, echo: EchoServer) -> None:
    with Tunnels(server, to(echo.port), to(echo.port), to(echo.port, local=0)) as tunnels:
        ports = [spec.local_port for spec in tunnels.specs]
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=10) as before:
            before.sendall(b"x")
            assert before.recv(1) == b"x"
            server.drop_connections()
            assert before.recv(1) == b""
        for port in ports:  # the same ones, also where any was asked for
            eventually(lambda port=port: works(port), what="the tunnel is back")  # type: ignore[misc]
        eventually(lambda: tunnels.reported("connected again"), what="the report")
        assert "is lost (closed by the other side)" in tunnels.reports[0]


def test_server_that_is_away_for_a_while_is_waited_for(
    server: SshServer, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LONGEST_PAUSE_SECONDS", 0.2)
    with Tunnels(server, to(echo.port)) as tunnels:
        port = tunnels.specs[0].local_port
        take_away(server)
        eventually(lambda: tunnels.reported("not yet"), what="an attempt has failed")
        assert not tunnels.is_alive
        assert not open_port(port)
        server.start()
        eventually(lambda: works(port), what="the tunnel is back")
        assert tunnels.fault is None


def test_port_that_another_program_took_meanwhile_is_waited_for(
    server: SshServer, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LONGEST_PAUSE_SECONDS", 0.2)
    with Tunnels(server, to(echo.port), to(echo.port)) as tunnels:
        first, port = (spec.local_port for spec in tunnels.specs)
        take_away(server)
        eventually(lambda: tunnels.reported("not yet"), what="an attempt has failed")
        with socket.create_server(("127.0.0.1", port)):
            server.start()
            eventually(lambda: tunnels.reported(f"local port {port} on localhost cannot be opened"), what="the report")
            assert not tunnels.is_alive
        eventually(lambda: works(port) and works(first), what="the tunnels are back")


def test_port_that_is_taken_during_the_login_opens_nothing(
    server: SshServer, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = to(echo.port), to(echo.port)
    with ExitStack() as stack:

        def check_and_lose(places: Iterable[tuple[str, int]]) -> None:
            check_free(places)
            monkeypatch.undo()
            stack.enter_context(socket.create_server(("127.0.0.1", second.local_port)))

        monkeypatch.setattr("raydog.ssh.tunnel.check_free", check_and_lose)
        with pytest.raises(ConfigError, match=f"local port {second.local_port} on localhost cannot be opened"):
            Tunnels(server, first, second).start_tunnels()
        assert not open_port(first.local_port)


def test_stop_while_connecting_again_ends_at_once(server: SshServer, echo: EchoServer) -> None:
    with Tunnels(server, to(echo.port)) as tunnels:
        take_away(server)
        eventually(lambda: tunnels.reported("not yet"), what="an attempt has failed")
    assert not open_port(tunnels.specs[0].local_port)
    assert tunnels.fault is None


def test_stop_ends_a_login_to_a_server_that_says_nothing(server: SshServer) -> None:
    raised: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tunnels = Tunnels(server, to(1), ssh_port=silent.getsockname()[1])

        def start() -> None:
            with pytest.raises(StateError, match="were closed") as seen:
                tunnels.start_tunnels()
            raised.append(seen.value)

        thread = threading.Thread(target=start)
        thread.start()
        with silent.accept()[0]:
            tunnels.stop_tunnels()
            thread.join(5)
            assert len(raised) == 1
    assert not open_port(tunnels.specs[0].local_port)


def test_connection_that_says_nothing_any_more_is_noticed(
    server: SshServer, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(keeping, "PROBE_TIMEOUT_SECONDS", 0.5)
    with Relay(server.port) as relay, Tunnels(server, to(echo.port), ssh_port=relay.port) as tunnels:
        port = tunnels.specs[0].local_port
        assert exchange(port) == b"hello"
        relay.freeze()  # both sides stay connected, and nothing passes
        eventually(lambda: tunnels.reported("no answer for 0.5 s"), what="silence is noticed")
        eventually(lambda: works(port), what="the tunnel is back")
        assert relay.connections == 2


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_another_machine_at_the_address_is_not_connected_to(
    server: SshServer, echo: EchoServer, tmp_path: Path, kind: str
) -> None:
    tunnels = Tunnels(server, to(echo.port))
    tunnels.start_tunnels()
    take_away(server)
    (tmp_path / "host_key").unlink()
    make_key(tmp_path / "host_key", kind=kind)
    server.start()
    assert tunnels.wait(20)
    assert not open_port(tunnels.specs[0].local_port)
    assert isinstance(tunnels.fault, StateError)
    with pytest.raises(StateError, match="another machine answers"):
        tunnels.stop_tunnels(ignore_errors=False)


def test_password_is_not_shown_to_another_machine(echo: EchoServer) -> None:
    with PasswordSshServer("me", "sesame") as first, PasswordSshServer("me", "sesame") as other:
        with Relay(first.port) as relay:
            tunnels = RayTunnels("127.0.0.1", "me", "sesame", ray_tunnel_specs=[to(echo.port)], ssh_port=relay.port)
            tunnels.start_tunnels()
            relay.lead_to(other.port)
            assert tunnels.wait(20)
        assert isinstance(tunnels.fault, StateError)
        assert (first.seen, other.seen) == (["sesame"], [])


def test_login_that_is_refused_later_ends_the_tunnels(server: SshServer, echo: EchoServer) -> None:
    with Tunnels(server, to(echo.port)) as tunnels:
        server.authorized.write_text("")
        server.drop_connections()
        assert tunnels.wait(20)
        assert isinstance(tunnels.fault, CredentialsError)
        assert tunnels.reported("the tunnels are closed")
        server.authorized.write_text(server.key.with_suffix(".pub").read_text())
        tunnels.start_tunnels()
        assert exchange(tunnels.specs[0].local_port) == b"hello"


def test_other_local_addresses(server: SshServer, echo: EchoServer) -> None:
    port = free_port()
    with Tunnels(server, SSHTunnelSpec("127.0.0.2", port, "localhost", echo.port)):
        assert exchange(port, host="127.0.0.2") == b"hello"
        assert not open_port(port)
    with pytest.raises(ConfigError, match="no address of this machine"):
        Tunnels(server, SSHTunnelSpec("192.0.2.1", port, "localhost", 1)).start_tunnels()
    with pytest.raises(ConfigError, match="not known"):
        Tunnels(server, SSHTunnelSpec("no-such-host.invalid", port, "localhost", 1)).start_tunnels()


def test_tunnels_through_a_proxy_command(server: SshServer, echo: EchoServer, tmp_path: Path) -> None:
    with Tunnels(server, to(echo.port), ssh_proxy_command=relay_command(tmp_path)) as tunnels:
        assert exchange(tunnels.specs[0].local_port) == b"hello"
        server.drop_connections()
        eventually(lambda: tunnels.reported("connected again"), what="the report")
        assert exchange(tunnels.specs[0].local_port) == b"hello"


def test_password_lets_in_where_the_server_takes_one(echo: EchoServer) -> None:
    spec = to(echo.port)
    with PasswordSshServer("me", "open sesame") as server:

        def tunnels(password: str) -> RayTunnels:
            return RayTunnels("127.0.0.1", "me", password, ray_tunnel_specs=[spec], ssh_port=server.port)

        with pytest.raises(CredentialsError, match="with the password given") as raised:
            tunnels("wrong one").start_tunnels()
        assert "wrong one" not in str(raised.value)
        with tunnels("open sesame"):
            assert exchange(spec.local_port, b"x" * 300_000) == b"x" * 300_000


def test_tunnels_to_a_target(server: SshServer, echo: EchoServer) -> None:
    target = SshTarget("127.0.0.1", server.user, server.key, server.port)
    with RayTunnels.to(target, [to(echo.port)]) as tunnels:
        assert exchange(tunnels.specs[0].local_port) == b"hello"
