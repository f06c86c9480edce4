"""Forward local ports through one SSH login, to addresses as a node sees them."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from paramiko import Channel, ChannelException, PKey, SSHException

from raydog.errors import StateError
from raydog.ssh.listening import close_all, listen
from raydog.ssh.login import login
from raydog.ssh.session import SshSession
from raydog.ssh.target import SshTarget

_CHUNK = 1 << 16
_OPEN_SECONDS = 30.0
"""How long the node may take to connect to where a port leads."""
_PAUSE_SECONDS = 0.5
"""Before connections are taken again, when this machine had no resources for one."""

_log = logging.getLogger("raydog.ssh.forwarding")


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
    """Local ports that lead somewhere through one login. All methods may be called from several threads.

    The ports stay open when the login is lost, until `close`: nobody else can take them. A connection that comes
    meanwhile waits ``patience`` seconds for `connect` to succeed, and is closed then. Used once: after `close` it
    cannot be opened again. All threads are daemons.
    """

    def __init__(
        self, target: SshTarget, forwards: Sequence[Forward], *, patience: float = 0.0, same_host: bool = False
    ) -> None:
        self.target = target
        self.forwards = tuple(forwards)
        self._patience = patience
        self._same_host = same_host
        self._host_key: PKey | None = None
        self._state = threading.Condition()
        self._connecting = threading.Lock()
        self._session: SshSession | None = None
        self._closed = False
        self._listeners: list[tuple[socket.socket, Forward]] = []
        self._wake: socket.socket | None = None
        self._clients: set[socket.socket] = set()

    def open(self) -> PortForwarding:
        """Open all ports, then log in: all or nothing.

        Raises `ConfigError` if a local port cannot be opened (before any login), and what `raydog.ssh.login` raises.
        """
        if self._closed or self._listeners:
            raise StateError(f"the ports to {self.target} were opened before")
        try:
            for forward in self.forwards:
                opened = listen(forward.local_host, forward.local_port)
                actual = Forward(
                    forward.local_host, int(opened[0].getsockname()[1]), forward.remote_host, forward.remote_port
                )
                self._listeners += [(listener, actual) for listener in opened]
            self.connect()
        except BaseException:
            self.close()
            raise
        with self._state:
            if self.is_closed:
                raise StateError(f"the ports to {self.target} were closed")
            self.forwards = tuple(dict.fromkeys(forward for _, forward in self._listeners))
            self._wake, theirs = socket.socketpair()
            accepting = (theirs, list(self._listeners))
        threading.Thread(target=self._accept, args=accepting, name="raydog-tunnel-ports", daemon=True).start()
        return self

    @property
    def session(self) -> SshSession | None:
        """The login, alive or lost; None before `open` and after `close`."""
        with self._state:
            return self._session

    @property
    def is_alive(self) -> bool:
        """Whether the ports are open and the login stands, as far as this side knows."""
        session = self.session
        return session is not None and session.is_alive

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, or `open` has failed."""
        return self._closed

    def connect(self) -> None:
        """Log in, if there is no login that stands.

        Raises what `raydog.ssh.login` raises (its `ProvisioningError` may pass by itself); `StateError` after `close`,
        also when that came during the login, and when ``same_host`` is not kept.
        """
        with self._connecting:
            if self.is_alive:
                return
            if self._closed:
                raise StateError(f"the ports to {self.target} are closed")
            self._hang_up()
            session = login(self.target)
            try:
                self._know(session)
            except BaseException:
                session.close()
                raise
            with self._state:
                if not self.is_closed:
                    self._session = session
                    self._state.notify_all()
                    return
            session.close()
            raise StateError(f"the ports to {self.target} were closed")

    def _know(self, session: SshSession) -> None:
        """Addresses are used again: what a lost login led to may be another's machine by now."""
        key = session.transport.get_remote_server_key()
        if self._same_host and self._host_key not in (None, key):
            raise StateError(
                f"another machine answers at {self.target} now (its host key is not the one from before). If that is "
                f"what you want to reach, start the tunnels anew."
            )
        self._host_key = key

    def close(self) -> None:
        """Close the ports, the connections through them, and the login. Harmless when closed."""
        with self._state:
            self._closed = True
            wake, self._wake = self._wake, None
            listeners, self._listeners = self._listeners, []
            clients = list(self._clients)
            self._state.notify_all()
        close_all([listener for listener, _ in listeners])
        if wake is not None:
            wake.close()
        self._hang_up()
        for client in clients:
            _shut(client)

    def _hang_up(self) -> None:
        with self._state:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> PortForwarding:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self, stop: socket.socket, listeners: Sequence[tuple[socket.socket, Forward]]) -> None:
        with stop, selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            try:
                for listener, forward in listeners:
                    listener.setblocking(False)  # a client may have gone between the look and the taking
                    selector.register(listener, selectors.EVENT_READ, forward)
                while not self._closed:
                    for key, _ in selector.select():
                        if key.fileobj is stop:
                            return
                        self._take(key.fileobj, key.data)  # type: ignore[arg-type]
            except (OSError, ValueError):
                if not self._closed:  # closing takes the listeners away below our feet
                    raise

    def _take(self, listener: socket.socket, forward: Forward) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            if not self._closed:
                _log.warning("a connection to local port %d cannot be taken now: %s", forward.local_port, error)
                with self._state:
                    self._state.wait_for(lambda: self._closed, _PAUSE_SECONDS)
            return
        client.setblocking(True)
        with self._state:
            if self._closed:
                client.close()
                return
            self._clients.add(client)
        name = f"raydog-tunnel-{forward.local_port}"
        threading.Thread(target=self._serve, args=(client, forward), name=name, daemon=True).start()

    def _serve(self, client: socket.socket, forward: Forward) -> None:
        try:
            with suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = self._channel(client, forward)
            if channel is not None:
                _join(client, channel)
        finally:
            with self._state:
                self._clients.discard(client)
            client.close()

    def _channel(self, client: socket.socket, forward: Forward) -> Channel | None:
        """A way to where the port leads, or None if there is none."""
        deadline = time.monotonic() + self._patience
        while (session := self._live_session(deadline)) is not None:
            try:
                source = client.getpeername()[:2]
                wanted = (forward.remote_host, forward.remote_port)
                return session.transport.open_channel("direct-tcpip", wanted, source, timeout=_OPEN_SECONDS)
            except ChannelException as error:
                _log.info("nothing answers behind %s on %s: %s", forward, self.target, error.text)
                return None
            except (SSHException, OSError, EOFError) as error:
                if session.is_alive:
                    _log.info("no connection behind %s on %s: %s", forward, self.target, error)
                    return None
        return None

    def _live_session(self, deadline: float) -> SshSession | None:
        with self._state:
            self._state.wait_for(lambda: self._closed or self.is_alive, max(deadline - time.monotonic(), 0))
            return self._session if not self._closed and self.is_alive else None


def _join(client: socket.socket, channel: Channel) -> None:
    """Carry bytes both ways until both sides have ended, each passing its end on, or either is broken or closed."""
    lock = threading.Lock()
    directions = 2

    def over() -> None:
        nonlocal directions
        with lock:
            directions -= 1
            last = directions == 0
        if last:
            channel.close()

    def up() -> None:
        try:
            while data := client.recv(_CHUNK):
                channel.sendall(data)
            channel.shutdown_write()
        except (OSError, EOFError, SSHException):
            channel.close()
        finally:
            over()

    sender = threading.Thread(target=up, name=threading.current_thread().name, daemon=True)
    sender.start()
    try:
        while data := channel.recv(_CHUNK):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    except (OSError, EOFError, SSHException):
        channel.close()
    finally:
        over()
        channel.status_event.wait()  # set when it is closed: by the node, by the last direction, or with the login
        _shut(client)
        sender.join()


def _shut(client: socket.socket) -> None:
    """Wake up whoever reads or writes it."""
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
