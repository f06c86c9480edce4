"""One local port that leads to an address that a node can reach."""

from __future__ import annotations

import threading
from types import TracebackType

from raydog.errors import StateError
from raydog.ssh.forwarding import Forward, PortForwarding
from raydog.ssh.target import SshTarget


class Tunnel:
    """A local port, on loopback, that leads to ``remote_host:remote_port`` as seen from the node.

    It has an SSH login of its own. All methods may be called from several threads; all threads are daemons.
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
        """Listen and log in. Harmless when started.

        Raises `ConfigError` if the local port is taken, and what `raydog.ssh.login` raises.
        """
        with self._lock:
            if self._forwarding is None:
                self._forwarding = PortForwarding(self.target, [self._wanted]).open()
            else:
                self.ensure()
        return self

    def ensure(self) -> None:
        """Log in again if the SSH connection was lost; the local port stays open meanwhile.

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
