"""Real servers for tests, on loopback: sshd, redis-server, and a port that echoes.

Each has a folder of its own and ends by its process id. A server can be killed and started again on the same
port.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from raydog.emulator.real.image import cache_folder, find_program, program_environment
from raydog.errors import ProvisioningError
from raydog.waiting import Pending, Ready, wait_until

_RELAY = """
import socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := sys.stdin.buffer.raw.read(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(65536):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
"""
"""A proxy command: our standard input and output are the connection."""

_IMAGES = cache_folder()
"""Of whoever runs the tests: a test may be at home elsewhere, and must not download it all anew."""

Self = TypeVar("Self", bound="_Server")


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program(name: str) -> str:
    """Path of a program; the test is skipped, with the reason, where there is none."""
    try:
        return str(find_program(name, _IMAGES))
    except ProvisioningError as error:
        pytest.skip(f"no {name}: {error}")


def libraries() -> dict[str, str]:
    """Environment variables with which a `program` finds its libraries."""
    return program_environment(_IMAGES)


def answers(port: int) -> bool:
    """Whether something listens on the port of loopback."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def eventually(condition: Callable[[], bool], timeout: float = 10, what: str = "the condition") -> None:
    """Wait until it holds; `WaitTimeout` if it does not."""
    wait_until(lambda: Ready(None) if condition() else Pending(f"not yet: {what}"), timeout, interval=0.01)


class _Server:
    """A process that listens on ``port`` of loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return answers(self.port)

    def start(self: Self) -> Self:
        """Start it and wait until it listens."""
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **libraries()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self.process

        def listening() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended:\n{(self.folder / 'log').read_text()}")
            return self.ready()

        eventually(listening, what=f"{command[0]} listens")
        return self

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """End it by its process id. Harmless when it has ended."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(with_signal)
        process.wait(timeout=10)

    def __enter__(self: Self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class RedisServer(_Server):
    """A redis-server, with a password and an append-only file if wanted."""

    def __init__(self, folder: Path, password: str | None = None, append_only: bool = False) -> None:
        super().__init__(folder)
        self.password = password
        self.append_only = append_only

    def command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "requirepass": self.password or "",
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [program("redis-server"), *flags]

    def ready(self) -> bool:
        """Whether it serves: it listens already while it loads its append-only file."""
        with redis_client(self.port, self.password) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False


def redis_client(port: int, password: str | None = None) -> redis.Redis:
    """A client that tries once: by default one that finds nobody tries again for several seconds."""
    return redis.Redis(port=port, password=password, socket_timeout=5, retry=Retry(NoBackoff(), 0))


class SshServer(_Server):
    """An sshd that lets the user who runs the tests in, with ``key``.

    As root it needs a user and a folder that the machine may lack (``sshd``, ``/run/sshd``); it then gets a
    mount namespace of its own in which both exist.
    """

    def __init__(self, folder: Path, settings: str = "") -> None:
        super().__init__(folder)
        self.user = getpass.getuser()
        self.home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        self.key = make_key(folder / "user_key")
        make_key(folder / "host_key")
        self.authorized = folder / "authorized_keys"
        shutil.copy(folder / "user_key.pub", self.authorized)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.authorized}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\n"
            f"MaxStartups 100\n{settings}\n"
        )

    def command(self) -> list[str]:
        sshd = [program("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if os.getuid() != 0 or (Path("/run/sshd").is_dir() and _user_exists("sshd")):
            return sshd
        accounts = self.folder / "passwd"
        entry = "" if _user_exists("sshd") else "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
        accounts.write_text(Path("/etc/passwd").read_text() + entry)
        prepare = (
            "mount -t tmpfs -o mode=755 raydog-test /run && mkdir -m 755 /run/sshd && "
            'mount --bind "$0" /etc/passwd && exec "$@"'
        )
        unshare = [program("unshare"), "--mount", "--propagation", "private"]
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("sshd as root needs the user sshd and /run/sshd, or the right to make a mount namespace")
        return [*unshare, "sh", "-c", prepare, str(accounts), *sshd]

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """End it; a process that it had just started for a connection may hold the port for a moment longer."""
        super().kill(with_signal)
        eventually(lambda: not answers(self.port), what=f"port {self.port} is closed")

    def drop_connections(self) -> None:
        """End the sshd processes that serve logins, and no others."""
        assert self.process is not None
        for child in _children(self.process.pid):
            os.kill(child, signal.SIGKILL)


class EchoServer:
    """Sends back what it gets, and after the end of its input says ``bye``."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> EchoServer:
        self._threads.append(threading.Thread(target=self._accept, daemon=True))
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
                sock.sendall(b"bye")
            except OSError:
                return


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A new SSH key pair at ``path`` and ``path.pub``."""
    subprocess.run(
        [program("ssh-keygen"), "-q", "-t", kind, "-N", passphrase, "-C", "raydog-test", "-f", str(path)],
        check=True,
        capture_output=True,
    )
    return path


def relay_command(folder: Path) -> str:
    """A proxy command (``%h`` and ``%p`` are filled in later) that needs no program but this Python."""
    script = folder / "relay.py"
    script.write_text(_RELAY)
    return f"{sys.executable} {script} %h %p"


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
