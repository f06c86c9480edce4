"""Forward local ports to addresses that a node can reach, by ``sshtunnel``."""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from paramiko import PKey, SSHException, Transport
from sshtunnel import BaseSSHTunnelForwarderError, SSHTunnelForwarder

from raydog.errors import ConfigError, ProvisioningError, RayDogError, StateError
from raydog.ssh.connection import Connection
from raydog.ssh.local_ports import check_free, ipv4_address
from raydog.ssh.login import login
from raydog.ssh.target import SshTarget, load_private_key

_KEEPALIVE = 15.0
"""Seconds between keep-alive messages: below the idle limits of common firewalls and NAT gateways (60 s)."""

_STOP_POLL = 0.02
"""Seconds between looks whether to stop: closing waits for the next one (sshtunnel's own value is 0.1)."""

_CLOSE_SECONDS = 1.0
"""How long closing waits for a login that was being made to have failed."""

_log = logging.getLogger("raydog.ssh.sshtunnel")
_log.setLevel(logging.CRITICAL)
"""Failures are raised here; a client that finds nothing behind the tunnel sees its connection closed."""

# sshtunnel leaves paramiko's log channel as it is; without any handler Python would print to the terminal.
logging.getLogger("paramiko.transport").addHandler(logging.NullHandler())

_START_ERRORS = (BaseSSHTunnelForwarderError, SSHException, OSError, EOFError, ValueError, IndexError)
"""What ``start`` was seen to let out. ValueError: no key at all; IndexError: it reads ``args[0]`` of bare errors."""


@dataclass(frozen=True)
class Forward:
    """A local port (0: any free one) and the address, as seen from the node, that it leads to."""

    local_host: str
    local_port: int
    remote_host: str
    remote_port: int

    def __str__(self) -> str:
        return f"{self.local_host}:{self.local_port} -> {self.remote_host}:{self.remote_port}"


class PortForwarding:
    """Local ports that lead somewhere through one SSH login. All methods may be called from several threads.

    Used once: after `close` it cannot be opened again. All threads are daemons. Clients must read their answer before
    they shut down their sending side: ``sshtunnel`` then closes both.
    """

    def __init__(self, target: SshTarget, forwards: Sequence[Forward], *, same_host: bool = False) -> None:
        self.target = target
        self.forwards = tuple(forwards)
        """After `open` with the ports that were chosen where any was asked for."""
        self._same_host = same_host
        self._host_key: PKey | None = None
        self._connecting = threading.Lock()
        self._lock = threading.Lock()
        self._forwarder: _Forwarder | None = None
        self._connection: Connection | None = None
        self._closed = False

    @property
    def is_alive(self) -> bool:
        """Whether it is open and its SSH connection stands, as far as this side knows."""
        forwarder = self._forwarder
        return forwarder is not None and bool(forwarder.is_alive and forwarder.is_active)

    @property
    def transport(self) -> Transport | None:
        """The login that the ports lead through, alive or lost; None before `open` and after `close`."""
        forwarder = self._forwarder
        return None if forwarder is None else forwarder.transport

    @property
    def _expected_key(self) -> PKey | None:
        """Addresses are used again: what a lost login led to may be another's machine by now."""
        return self._host_key if self._same_host else None

    def open(self) -> PortForwarding:
        """Log in and listen on all ports: all or nothing.

        Raises `ConfigError` if a local port cannot be opened, before any login; and what `raydog.ssh.login` raises.
        """
        try:
            # sshtunnel listens after the login only. A port that is taken in between is found then (`_cause`).
            check_free((forward.local_host, forward.local_port) for forward in self.forwards)
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def connect(self) -> None:
        """Log in and listen again, on the same ports, if the login is lost. Until then the ports are closed.

        Raises what `raydog.ssh.login` raises. Its `ProvisioningError` may pass by itself, and so is one for a port that
        another program has now. `StateError` after `close`, also when that came during the login, and when
        ``same_host`` is not kept.
        """
        with self._connecting:
            if self.is_alive:
                return
            self._hang_up()
            forwarder = self._started()
            with self._lock:
                if not self._closed:
                    self._forwarder, self._connection = forwarder, None
                    ports = zip(self.forwards, forwarder.ports, strict=True)
                    self.forwards = tuple(replace(forward, local_port=port) for forward, port in ports)
                    return
            forwarder.end()
            raise self._was_closed()

    def close(self) -> None:
        """Close the ports, the connections through them and the login. Harmless when closed.

        A login that is being made fails, which is waited for; one that is stuck does so by itself, some seconds later.
        """
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self._hang_up()
        if self._connecting.acquire(timeout=_CLOSE_SECONDS):
            self._connecting.release()

    def _hang_up(self) -> None:
        with self._lock:
            forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            forwarder.end()

    def _started(self) -> _Forwarder:
        """A forwarder that is logged in and listens on all ports."""
        key = load_private_key(self.target)
        binds = [(ipv4_address(forward.local_host), forward.local_port) for forward in self.forwards]
        connection = Connection(self.target)
        with self._lock:  # where `close` finds it
            if self._closed:
                raise self._was_closed()
            self._connection = connection
        forwarder: _Forwarder | None = None
        try:
            forwarder = _Forwarder(
                connection,
                self.target,
                ssh_pkey=key,
                ssh_host_key=self._expected_key,
                local_bind_addresses=binds,
                remote_bind_addresses=[(forward.remote_host, forward.remote_port) for forward in self.forwards],
            )
            forwarder.start()
            if len(forwarder.ports) == len(self.forwards):
                self._host_key = forwarder.transport.get_remote_server_key()
                return forwarder
            failure: Exception = OSError("some ports were not opened")
        except _START_ERRORS as error:
            failure = error
        except BaseException:
            _end(forwarder, connection)
            raise
        _end(forwarder, connection)
        raise self._cause(failure) from failure

    def _cause(self, failure: Exception) -> RayDogError:
        """Why it did not start, which ``sshtunnel`` does not say: a port that is taken, or what a login says."""
        if self._closed:
            return self._was_closed()
        try:
            check_free((forward.local_host, forward.local_port) for forward in self.forwards)
        except ConfigError as taken:
            return taken if self._host_key is None else ProvisioningError(str(taken), "SSH")
        login(self.target, self._expected_key).close()
        return ProvisioningError(
            f"the {self} did not start ({failure}), but a login right after did. Try again.", "SSH"
        )

    def _was_closed(self) -> StateError:
        return StateError(f"the {self} were closed")

    def __str__(self) -> str:
        return f"tunnels through {self.target}"


class Tunnel:
    """A local port, on loopback, that leads to ``remote_host:remote_port`` as seen from the node.

    It has an SSH login of its own. All methods may be called from several threads; all threads are daemons.
    Clients must read their answer before they shut down their sending side: ``sshtunnel`` then closes both.
    """

    def __init__(self, target: SshTarget, remote_host: str, remote_port: int, local_port: int = 0) -> None:
        self.target = target
        self.remote = (remote_host, remote_port)
        self._wanted = Forward("127.0.0.1", local_port, remote_host, remote_port)
        self._lock = threading.RLock()
        self._forwarding: PortForwarding | None = None

    @property
    def local_port(self) -> int:
        """The local port. Raises `StateError` before `start` and after `stop`."""
        return self._started().forwards[0].local_port

    @property
    def is_alive(self) -> bool:
        """Whether it is started and its SSH connection stands, as far as this side knows."""
        with self._lock:
            return self._forwarding is not None and self._forwarding.is_alive

    def start(self) -> Tunnel:
        """Log in and listen. Harmless when started.

        Raises `ConfigError` if the local port is taken, and what `raydog.ssh.login` raises.
        """
        with self._lock:
            if self._forwarding is None:
                self._forwarding = PortForwarding(self.target, [self._wanted]).open()
            else:
                self.ensure()
        return self

    def ensure(self) -> None:
        """Log in again if the SSH connection was lost; the local port stays the same.

        Raises `StateError` if the tunnel is not started, and what `start` raises.
        """
        with self._lock:
            self._started().connect()

    def stop(self) -> None:
        """Close the port, the connections through it and the SSH login. Harmless when stopped."""
        with self._lock:
            forwarding, self._forwarding = self._forwarding, None
        if forwarding is not None:
            forwarding.close()

    def _started(self) -> PortForwarding:
        with self._lock:
            if self._forwarding is None:
                raise StateError(f"the tunnel to {self.remote[0]}:{self.remote[1]} is not started")
            return self._forwarding

    def __enter__(self) -> Tunnel:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Forwarder(SSHTunnelForwarder):  # type: ignore[misc]  # it has no annotations
    """``sshtunnel``'s forwarder with our connection, and an end that does not wait for ever."""

    _server_list: list[socketserver.TCPServer]
    _transport: Transport

    def __init__(self, connection: Connection, target: SshTarget, *, ssh_pkey: PKey | None, **options: Any) -> None:
        own_keys = ssh_pkey is None and target.password is None
        self._connection = connection
        super().__init__(
            (target.host, target.port),
            ssh_config_file=None,
            ssh_username=target.user,
            ssh_pkey=ssh_pkey,
            ssh_password=target.password,
            ssh_proxy=connection,
            allow_agent=own_keys,
            host_pkey_directories=None if own_keys else [],
            set_keepalive=_KEEPALIVE,
            compression=False,
            logger=_log,
            **options,
        )

    @property
    def transport(self) -> Transport:
        """The login, once it is made."""
        return self._transport

    @property
    def ports(self) -> list[int]:
        """The local ports, in order; fewer than asked for if some could not be opened, which is no error to it."""
        return [int(server.server_address[1]) for server in self._server_list]

    def start(self) -> None:
        """Log in and listen.

        ``stop`` of 0.5 waits for ever for a port that is open but not served yet: so it is when the login was refused,
        because ``start`` then opens the port all the same before it gives up.
        """
        try:
            super().start()
        except BaseException:
            for server in list(self._server_list):
                if not self.tunnel_is_up[server.server_address]:
                    server.server_close()
                    self._server_list.remove(server)
            raise

    def end(self) -> None:
        """Close the ports, the connections through them, and the login."""
        self.stop(force=True)
        self._connection.abandon()  # a handshake that failed may have left it open
        if "_transport" in vars(self):
            self._transport.packetizer.complete_handshake()  # ends paramiko's timer for one, which would stay for 15 s

    def _serve_forever_wrapper(self, server: socketserver.TCPServer, poll_interval: float = _STOP_POLL) -> None:
        super()._serve_forever_wrapper(server, poll_interval)


def _end(forwarder: _Forwarder | None, connection: Connection) -> None:
    if forwarder is not None:
        forwarder.end()
    connection.abandon()
