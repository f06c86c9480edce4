"""An SSH server that takes a password and forwards ports: sshd would want an account's own password."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

from paramiko import Channel, ECDSAKey, ServerInterface, SSHException, Transport
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED


class PasswordSshServer:
    """Serves ``user`` with ``password`` on ``port`` of loopback."""

    def __init__(self, user: str, password: str) -> None:
        self._allowed = (user, password)
        self._key = ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.seen: list[str] = []
        """Passwords that were shown to it."""
        self._transports: list[Transport] = []
        self._threads = [threading.Thread(target=self._accept, name="password-sshd", daemon=True)]

    def __enter__(self) -> PasswordSshServer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for transport in self._transports:
            transport.close()
        for thread in [*self._threads, *self._transports]:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            transport = Transport(sock)
            transport.add_server_key(self._key)
            self._transports.append(transport)
            door = _Door(self._allowed, self.seen)
            with suppress(SSHException, EOFError, OSError):  # also one that has gone by now
                transport.start_server(server=door)
                thread = threading.Thread(target=_serve, args=(transport, door), name="password-sshd", daemon=True)
                self._threads.append(thread)
                thread.start()


class _Door(ServerInterface):
    """Checks the password, and lets forwarded connections in."""

    def __init__(self, allowed: tuple[str, str], seen: list[str]) -> None:
        self._allowed = allowed
        self._seen = seen
        self.destinations: dict[int, tuple[str, int]] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        self._seen.append(password)
        return AUTH_SUCCESSFUL if (username, password) == self._allowed else AUTH_FAILED

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        self.destinations[chanid] = destination
        return OPEN_SUCCEEDED


def _serve(transport: Transport, door: _Door) -> None:
    """One forwarded connection after the other."""
    while transport.is_active():
        channel = transport.accept(0.1)
        if channel is None:
            continue
        with channel, socket.create_connection(door.destinations[channel.get_id()]) as sock:
            up = threading.Thread(target=_copy, args=(channel, sock), name="password-sshd", daemon=True)
            up.start()
            _copy(sock, channel)
            up.join()


def _copy(source: Channel | socket.socket, sink: Channel | socket.socket) -> None:
    with suppress(OSError, EOFError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(1)
