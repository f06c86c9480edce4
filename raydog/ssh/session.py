"""A login: run commands, read and write files."""

from __future__ import annotations

import select
import shlex
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from paramiko import Channel, SSHClient, SSHException, Transport

from raydog.errors import ProvisioningError, ProvisioningTimeoutError, StateError
from raydog.ssh.proxy import ProxyConnection
from raydog.ssh.target import SshTarget

_CATEGORY = "SSH"
_CHUNK = 1 << 16
_MISSING = 66
"""Exit status (EX_NOINPUT) with which our script says that a file does not exist."""

_WRITE_FILES = """\
set -eu
umask 077
while IFS= read -r path; do
  read -r mode size
  folder=$(dirname -- "$path")
  [ -d "$folder" ] || mkdir -p -- "$folder"
  part=$(mktemp "$folder/.raydog.XXXXXXXX")
  trap 'rm -f -- "$part"' EXIT
  head -c "$size" > "$part"
  got=$(wc -c < "$part")
  [ "$got" -eq "$size" ] || { echo "$path: $got of $size bytes arrived" >&2; exit 1; }
  chmod "$mode" "$part"
  [ -d "$path" ] && { echo "$path: is a directory" >&2; exit 1; }
  mv -f -- "$part" "$path"
  trap - EXIT
done
"""
"""Reads "path, newline, mode and size, newline, bytes" for each file. One command, so one round trip, and the
contents never show in a process list. ``mktemp`` creates with 0600, so nobody else can read a half-way file."""

_READ_FILE = f'[ -e "$1" ] || exit {_MISSING}; exec cat -- "$1"'


@dataclass(frozen=True)
class Completed:
    """A command that has ended. ``exit_status`` is -1 if a signal ended it."""

    exit_status: int
    stdout: str
    stderr: str

    def check(self, what: str) -> Completed:
        """This, if the exit status is 0; else raise `ProvisioningError`: ``what`` failed, with its last words."""
        if self.exit_status == 0:
            return self
        said = (self.stderr.strip() or self.stdout.strip())[-2000:]
        raise ProvisioningError(
            f"{what} failed with status {self.exit_status}" + (f":\n{said}" if said else ""), _CATEGORY
        )


@dataclass(frozen=True)
class RemoteFile:
    """A file to write. A relative ``path`` (and ``~/``) is below the user's home. ``data`` is not in ``repr``."""

    path: str
    data: bytes = field(repr=False)
    mode: int = 0o600


class SshSession:
    """A login to a node. All methods may be called from several threads at once; they share one connection.

    Every method raises `ProvisioningError` (category ``SSH``) when the connection is lost,
    `ProvisioningTimeoutError` when ``timeout`` seconds pass, `StateError` after `close`. sshd allows ten
    commands at once on a connection (``MaxSessions``).
    """

    def __init__(
        self, target: SshTarget, client: SSHClient, transport: Transport, proxy: ProxyConnection | None = None
    ) -> None:
        self.target = target
        self.transport = transport
        self._client = client
        self._proxy = proxy
        self._closed = False

    @property
    def is_alive(self) -> bool:
        """Whether the connection stands, as far as this side knows."""
        return not self._closed and self.transport.is_active()

    def run(self, command: str, timeout: float, input: bytes | str | None = None) -> Completed:  # noqa: A002
        """Run a shell command and wait until it has ended and closed its output, as ``ssh`` does.

        ``input`` becomes its standard input (empty by default). The command itself shows in the node's process
        list and in errors: a secret belongs into ``input``. After a time-out the connection to the command is
        closed; a command that neither reads nor writes goes on.
        """
        data = input.encode() if isinstance(input, str) else input or b""
        status, out, err = self._exchange(command, timeout, data)
        return Completed(status, out.decode(errors="replace"), err.decode(errors="replace"))

    def write_file(self, path: str, data: bytes, mode: int = 0o600, timeout: float = 60) -> None:
        """Write one file; see `write_files`."""
        self.write_files([RemoteFile(path, data, mode)], timeout)

    def write_files(self, files: Iterable[RemoteFile], timeout: float = 60) -> None:
        """Write files in one round trip, each atomically: it is there complete, with its mode, or as before.

        Folders that are missing are made with mode 0700. Nobody but the user can read a file before its mode
        says so. Raises `ProvisioningError` naming the file that could not be written; files after it are not
        written.
        """
        wanted = list(files)
        if not wanted:
            return
        stream = bytearray()
        for file in wanted:
            path = _remote_path(file.path)
            stream += f"{path}\n{file.mode:o} {len(file.data)}\n".encode() + file.data
        command = f"exec sh -c {shlex.quote(_WRITE_FILES)}"
        status, _, err = self._exchange(command, timeout, bytes(stream))
        names = ", ".join(file.path for file in wanted)
        Completed(status, "", err.decode(errors="replace")).check(f"writing {names} on {self.target}")

    def read_file(self, path: str, timeout: float = 60) -> bytes | None:
        """The file's contents, or None if it does not exist."""
        command = f"exec sh -c {shlex.quote(_READ_FILE)} sh {shlex.quote(_remote_path(path))}"
        status, out, err = self._exchange(command, timeout, b"")
        if status == _MISSING:
            return None
        Completed(status, "", err.decode(errors="replace")).check(f"reading {path} on {self.target}")
        return out

    def close(self) -> None:
        """Close the connection, and the tunnels that use it. Harmless when closed already."""
        self._closed = True
        self._client.close()
        if self._proxy is not None:
            self._proxy.close()

    def __enter__(self) -> SshSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, command: str, timeout: float, data: bytes) -> tuple[int, bytes, bytes]:
        if self._closed:
            raise StateError(f"the SSH session with {self.target} is closed")
        deadline = time.monotonic() + timeout
        shown = shlex.quote(command if len(command) <= 80 else command[:77] + "...")
        try:
            channel = self.transport.open_session(timeout=timeout)
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(f"could not start {shown}: {error or type(error).__name__}") from error
        try:
            channel.exec_command(command)
            feeder = _start_feeding(channel, data)
            out, err = _collect(channel, deadline)
            status = _exit_status(channel, deadline)
        except TimeoutError as error:
            if not self.transport.is_active():
                raise self._lost(f"while running {shown}") from error
            raise ProvisioningTimeoutError(
                f"{shown} on {self.target} did not end in {timeout:g} s", _CATEGORY
            ) from error
        except (SSHException, OSError, EOFError) as error:
            raise self._lost(f"while running {shown}: {error or type(error).__name__}") from error
        finally:
            channel.close()
        if feeder is not None:
            feeder.join(max(deadline - time.monotonic(), 0.1))
        if status == -1 and not self.transport.is_active():
            raise self._lost(f"while running {shown}")
        return status, out, err

    def _lost(self, what: str) -> ProvisioningError:
        return ProvisioningError(f"SSH connection to {self.target} lost: {what}", _CATEGORY)


def _start_feeding(channel: Channel, data: bytes) -> threading.Thread | None:
    """Send the input. What does not fit the window goes from a thread, since the command may write meanwhile."""

    def feed() -> None:
        try:
            channel.sendall(data)
            channel.shutdown_write()
        except OSError:
            return  # The command did not want it all; its exit status tells what that means.

    if len(data) <= _CHUNK:
        feed()
        return None
    thread = threading.Thread(target=feed, name="raydog-ssh-input", daemon=True)
    thread.start()
    return thread


def _collect(channel: Channel, deadline: float) -> tuple[bytes, bytes]:
    """Read both outputs as they come, until both have ended: one left unread would stop the other."""
    out, err = bytearray(), bytearray()
    readable = select.poll()
    readable.register(channel.fileno(), select.POLLIN)
    while True:
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_CHUNK)
        if ended:
            return bytes(out), bytes(err)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        readable.poll(left * 1000)


def _exit_status(channel: Channel, deadline: float) -> int:
    if not channel.status_event.wait(max(deadline - time.monotonic(), 0)):
        raise TimeoutError
    return int(channel.exit_status)


def _remote_path(path: str) -> str:
    if not path or "\n" in path or "\0" in path:
        raise StateError(f"not a path: {path!r}")
    if path.startswith("~/"):
        path = path[2:]
    return f"./{path}" if path.startswith("-") else path
