"""Forward a local port to an address that a node can reach."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType

from paramiko import Channel, SSHException

from raydog.errors import ConfigError, StateError
from raydog.ssh.login import login
from raydog.ssh.session import SshSession
from raydog.ssh.target import SshTarget

_log = logging.getLogger(__name__)
_CHUNK = 1 << 16


class Tunnel:
    """A local port, on loopback, that leads to ``remote_host:remote_port`` as seen from the node.

    ``session``, if given, is used while it lives, and is left open by `stop`: this saves a login. Otherwise,
    and after that session was lost, the tunnel logs in by itself. All methods may be called from several
    threads. All threads are daemons.

    Our own forwarder and not ``sshtunnel``: that one hides why a login failed, cannot use a connection that
    is there already, and drops the answer to a client that has finished sending (half-closed connections).
    """

    def __init__(
        self,
        target: SshTarget,
        remote_host: str,
        remote_port: int,
        local_port: int = 0,
        *,
        session: SshSession | None = None,
    ) -> None:
        self.target = target
        self.remote = (remote_host, remote_port)
        self._wanted_port = local_port
        self._lent = session
        self._own: SshSession | None = None
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._waker: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._links: set[_Link] = set()

    @property
    def local_port(self) -> int:
        """The local port. Raises `StateError` before `start` and after `stop`."""
        with self._lock:
            if self._listener is None:
                raise StateError(f"the tunnel to {self.remote[0]}:{self.remote[1]} is not started")
            return int(self._listener.getsockname()[1])

    @property
    def is_alive(self) -> bool:
        """Whether it is started and its SSH connection stands, as far as this side knows."""
        with self._lock:
            return self._listener is not None and self._session() is not None

    def start(self) -> Tunnel:
        """Listen and, where no session was lent, log in. Harmless when started.

        Raises `ConfigError` if the local port is taken, and what `raydog.ssh.login` raises.
        """
        with self._lock:
            if self._listener is None:
                self._listen()
        try:
            self.ensure()
        except BaseException:
            self.stop()
            raise
        return self

    def ensure(self) -> None:
        """Log in again if the SSH connection was lost; the local port stays the same.

        Raises `StateError` if the tunnel is not started, and what `raydog.ssh.login` raises.
        """
        with self._lock:
            if self._listener is None:
                raise StateError(f"the tunnel to {self.remote[0]}:{self.remote[1]} is not started")
            if self._session() is not None:
                return
            if self._own is not None:
                self._own.close()
                self._own = None
            self._own = login(self.target)

    def stop(self) -> None:
        """Close the port, the connections through it and the SSH login of its own. Harmless when stopped."""
        with self._lock:
            listener, self._listener = self._listener, None
            waker, self._waker = self._waker, None
            acceptor, self._acceptor = self._acceptor, None
            own, self._own = self._own, None
            links = list(self._links)
        if waker is not None:
            waker.close()
        if acceptor is not None:
            acceptor.join()
        if listener is not None:
            listener.close()
        for link in links:
            link.close()
        if own is not None:
            own.close()
        for link in links:
            link.join()

    def __enter__(self) -> Tunnel:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _session(self) -> SshSession | None:
        for session in (self._lent, self._own):
            if session is not None and session.is_alive:
                return session
        return None

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._wanted_port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"local port {self._wanted_port} for the tunnel to {self.remote[0]}:{self.remote[1]} on "
                f"{self.target} cannot be opened: {error.strerror}. Choose another local port."
            ) from error
        ours, self._waker = socket.socketpair()
        self._listener = listener
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener, ours), name=f"raydog-tunnel-{self.remote[1]}", daemon=True
        )
        self._acceptor.start()

    def _accept(self, listener: socket.socket, wake: socket.socket) -> None:
        with wake, selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            ready.register(wake, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is wake for key, _ in ready.select()):
                    return
                try:
                    sock, _ = listener.accept()
                except OSError as error:
                    _log.debug("a connection ended before it was accepted: %s", error)
                    continue
                self._open_link(sock)

    def _open_link(self, sock: socket.socket) -> None:
        with self._lock:
            session = self._session()
            if session is None or self._listener is None:
                sock.close()
                return
            link = _Link(self, session, sock)
            self._links.add(link)
        link.start()

    def forget(self, link: _Link) -> None:
        """A connection has ended by itself."""
        with self._lock:
            self._links.discard(link)


class _Link:
    """One forwarded connection: a thread for each direction, so that neither side's writing waits for its
    reading."""

    def __init__(self, tunnel: Tunnel, session: SshSession, sock: socket.socket) -> None:
        self._tunnel = tunnel
        self._session = session
        self._sock = sock
        self._channel: Channel | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="raydog-tunnel-link", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def close(self) -> None:
        """End both directions now; what waits on either socket wakes up."""
        with self._lock:
            self._closed = True
            channel = self._channel
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if channel is not None:
            channel.close()

    def _run(self) -> None:
        try:
            with self._sock:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._forward()
        except (SSHException, OSError, EOFError) as error:
            _log.debug("connection through the tunnel to %s:%d ended: %s", *self._tunnel.remote, error)
        finally:
            self._tunnel.forget(self)

    def _forward(self) -> None:
        session = self._session
        channel = session.transport.open_channel(
            "direct-tcpip",
            self._tunnel.remote,
            self._sock.getpeername(),
            timeout=session.target.connect_timeout,
        )
        with self._lock:
            self._channel = channel
            closed = self._closed
        try:
            if closed:
                return
            upward = threading.Thread(target=self._copy_up, args=(channel,), name="raydog-tunnel-up", daemon=True)
            upward.start()
            try:
                while data := channel.recv(_CHUNK):
                    self._sock.sendall(data)
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_WR)
                if channel.closed:
                    self.close()
            except OSError:
                self.close()
                raise
            finally:
                upward.join()
        finally:
            channel.close()

    def _copy_up(self, channel: Channel) -> None:
        try:
            while data := self._sock.recv(_CHUNK):
                channel.sendall(data)
            channel.shutdown_write()
        except (OSError, SSHException, EOFError) as error:
            _log.debug("sending to %s:%d ended: %s", *self._tunnel.remote, error)
            self.close()
