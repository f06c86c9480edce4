"""The connection below SSH, as ``sshtunnel`` takes it."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from raydog.ssh.login import connect
from raydog.ssh.proxy import ProxyConnection
from raydog.ssh.target import SshTarget


class Connection:
    """The connection below SSH, direct or through the proxy command, for ``sshtunnel``'s ``ssh_proxy``.

    Not a socket: it would connect a socket again, and by itself it connects without a time limit. paramiko begins by
    setting the time-out, so that is when this connects; ``sshtunnel`` takes it anew for each key that it tries.
    """

    def __init__(self, target: SshTarget) -> None:
        self._target = target
        self._sock: socket.socket | None = None
        self._proxy: ProxyConnection | None = None
        self._abandoned = False

    def settimeout(self, seconds: float) -> None:
        """Connect, if it is not connected. Raises what `raydog.ssh.login.connect` raises, `OSError` if abandoned."""
        if self._sock is None and not self._abandoned:
            self._connect()
        if self._abandoned:  # also meanwhile
            self.close()
        self._open_socket().settimeout(seconds)

    def _connect(self) -> None:
        if self._target.proxy_command:
            self._proxy = ProxyConnection(self._target)
            self._sock = self._proxy.sock
        else:
            self._sock = connect(self._target)

    def send(self, data: bytes) -> int:
        return self._open_socket().send(data)

    def recv(self, size: int) -> bytes:
        return self._open_socket().recv(size)

    def _open_socket(self) -> socket.socket:
        sock = self._sock
        if sock is None:
            # With a number: paramiko's thread fails on an OSError that has none.
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed")
        return sock

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

    def abandon(self) -> None:
        """Close it, from any thread, and never connect again: a login that is being made fails soon."""
        self._abandoned = True
        self.close()
