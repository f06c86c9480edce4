"""Forward a local port to an address that a node can reach, by ``sshtunnel``."""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType

from paramiko import SSHException
from sshtunnel import BaseSSHTunnelForwarderError, HandlerSSHTunnelForwarderError, SSHTunnelForwarder

from raydog.errors import ConfigError, ProvisioningError, RayDogError, StateError
from raydog.ssh.login import PromptSocket, login
from raydog.ssh.proxy import ProxyConnection
from raydog.ssh.target import SshTarget, load_private_key

_KEEPALIVE = 15.0
"""Seconds between keep-alive messages: below the idle limits of common firewalls and NAT gateways (60 s)."""

_STOP_POLL = 0.02
"""Seconds between looks whether to stop: `Tunnel.stop` waits for the next one (sshtunnel's own value is 0.1)."""

_log = logging.getLogger("raydog.ssh.sshtunnel")
_log.setLevel(logging.CRITICAL)
"""Failures are raised here; a client that finds nothing behind the tunnel sees its connection closed."""

# sshtunnel leaves paramiko's log channel as it is; without any handler Python would print to the terminal.
logging.getLogger("paramiko.transport").addHandler(logging.NullHandler())

_START_ERRORS = (BaseSSHTunnelForwarderError, SSHException, OSError, EOFError, ValueError, IndexError)
"""What ``start`` was seen to let out. ValueError: no key at all; IndexError: it reads ``args[0]`` of bare errors."""


class Tunnel:
    """A local port, on loopback, that leads to ``remote_host:remote_port`` as seen from the node.

    It has an SSH login of its own. All methods may be called from several threads; all threads are daemons.
    Clients must read their answer before they shut down their sending side: ``sshtunnel`` then closes both.
    """

    def __init__(self, target: SshTarget, remote_host: str, remote_port: int, local_port: int = 0) -> None:
        self.target = target
        self.remote = (remote_host, remote_port)
        self._wanted_port = local_port
        self._port: int | None = None
        self._lock = threading.RLock()
        self._forwarder: _Forwarder | None = None
        self._connection: _Connection | None = None

    @property
    def local_port(self) -> int:
        """The local port. Raises `StateError` before `start` and after `stop`."""
        with self._lock:
            if self._port is None:
                raise StateError(f"the tunnel to {self.remote[0]}:{self.remote[1]} is not started")
            return self._port

    @property
    def is_alive(self) -> bool:
        """Whether it is started and its SSH connection stands, as far as this side knows."""
        with self._lock:
            forwarder = self._forwarder
            return forwarder is not None and bool(forwarder.is_alive and forwarder.is_active)

    def start(self) -> Tunnel:
        """Log in and listen. Harmless when started.

        Raises `ConfigError` if the local port is taken, and what `raydog.ssh.login` raises.
        """
        with self._lock:
            if self._port is None:
                self._port = self._open(self._wanted_port)
            else:
                self.ensure()
        return self

    def ensure(self) -> None:
        """Log in again if the SSH connection was lost; the local port stays the same.

        Raises `StateError` if the tunnel is not started, and what `start` raises.
        """
        with self._lock:
            port = self.local_port
            if not self.is_alive:
                self._close()
                self._open(port)

    def stop(self) -> None:
        """Close the port, the connections through it and the SSH login. Harmless when stopped."""
        with self._lock:
            self._port = None
            self._close()

    def __enter__(self) -> Tunnel:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self, port: int) -> int:
        """Log in and listen on ``port`` (0: any); the port."""
        key = load_private_key(self.target)
        own_keys = key is None and self.target.password is None
        self._connection = _Connection(self.target)
        try:
            self._forwarder = _Forwarder(
                (self.target.host, self.target.port),
                ssh_config_file=None,
                ssh_username=self.target.user,
                ssh_pkey=key,
                ssh_password=self.target.password,
                ssh_proxy=self._connection,
                allow_agent=own_keys,
                host_pkey_directories=None if own_keys else [],
                remote_bind_address=self.remote,
                local_bind_address=("127.0.0.1", port),
                set_keepalive=_KEEPALIVE,
                compression=False,
                logger=_log,
            )
            self._forwarder.start()
            return int(self._forwarder.local_bind_port)
        except RayDogError:
            self._close()
            raise
        except _START_ERRORS as error:
            # It says nothing of the reason, but raises this one only after the login.
            listening_failed = isinstance(error, HandlerSSHTunnelForwarderError)
            self._close()
            raise self._cause(error, port, listening_failed) from error
        except BaseException:
            self._close()
            raise

    def _cause(self, error: Exception, port: int, listening_failed: bool) -> RayDogError:
        """Why it did not start: a login that tells its reasons says so (it raises), or it is something else."""
        what = f"the tunnel to {self.remote[0]}:{self.remote[1]} on {self.target}"
        if listening_failed:
            return ConfigError(
                f"local port {port} for {what} cannot be opened; something else uses it. Choose another local port."
            )
        login(self.target).close()
        return ProvisioningError(f"{what} did not start ({error}), but a login right after did. Try again.", "SSH")

    def _close(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        connection, self._connection = self._connection, None
        if forwarder is not None:
            forwarder.stop(force=True)
        if connection is not None:
            connection.close()  # a handshake that failed may have left it open


class _Forwarder(SSHTunnelForwarder):  # type: ignore[misc]  # it has no annotations
    """``stop`` of 0.4 and 0.5 waits for ever for a port that is open but not served yet: so it is when the login was
    refused, because ``start`` then opens the port all the same before it gives up."""

    _server_list: list[socketserver.TCPServer]

    def start(self) -> None:
        try:
            super().start()
        except HandlerSSHTunnelForwarderError:
            raise  # all that it opened is served
        except BaseException:
            for server in self._server_list:
                server.server_close()
            self._server_list = []
            raise

    def _serve_forever_wrapper(self, server: socketserver.TCPServer, poll_interval: float = _STOP_POLL) -> None:
        super()._serve_forever_wrapper(server, poll_interval)


class _Connection:
    """The connection below SSH, direct or through the proxy command, as an object that ``sshtunnel`` takes as its
    ``ssh_proxy``.

    Not a socket: it would connect a socket again, and by itself it connects without a time limit. paramiko begins by
    setting the time-out, so that is when this connects; ``sshtunnel`` takes it anew for each key that it tries.
    """

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._sock: socket.socket | None = None
        self._proxy: ProxyConnection | None = None

    def settimeout(self, seconds: float) -> None:
        if self._sock is None:
            self._sock = self._connect()
        self._sock.settimeout(seconds)

    def _connect(self) -> socket.socket:
        if self._target.proxy_command:
            self._proxy = ProxyConnection(self._target)
            return self._proxy.sock
        address = (self._target.host, self._target.port)
        return PromptSocket.take(socket.create_connection(address, timeout=self._target.connect_timeout))

    def send(self, data: bytes) -> int:
        return self._open_socket().send(data)

    def recv(self, size: int) -> bytes:
        return self._open_socket().recv(size)

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            # With a number: paramiko's thread fails on an OSError that has none.
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed")
        return self._sock

    @property
    def _closed(self) -> bool:
        """paramiko's `Transport.stop_thread` asks its sock for this, as Python's own sockets have it."""
        return self._sock is None

    def close(self) -> None:
        """Harmless when closed; what waits in `recv` wakes up."""
        sock, self._sock = self._sock, None
        proxy, self._proxy = self._proxy, None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        if proxy is not None:
            proxy.close()
