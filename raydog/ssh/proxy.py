"""A connection through a command, as OpenSSH's ``ProxyCommand``."""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from contextlib import suppress
from types import TracebackType

from raydog.errors import ConfigError
from raydog.ssh.target import SshTarget

_EXIT_GRACE = 2.0
"""Seconds that a command gets to end after its connection was closed, before it is killed."""


class ProxyConnection:
    """A running proxy command and our end of its standard input and output.

    ``sock`` is a real socket, so time-outs and closing work as on a direct connection (paramiko's own
    ``ProxyCommand`` uses pipes that it polls, runs no shell, and leaves the process to be reaped by chance).
    """

    def __init__(self, target: SshTarget) -> None:
        self.command = expand_tokens(target.proxy_command or "", target)
        self.sock, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {self.command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
            )
        except OSError:
            self.sock.close()
            self._errors.close()
            raise
        finally:
            theirs.close()

    def failure(self) -> str | None:
        """Why the command ended, or None while it runs. Raises `ConfigError` if it could not be run at all."""
        try:
            # Its end of the socket closes a moment before the process can be reaped.
            status = self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            return None
        said = self._said()
        if status in (126, 127):
            raise ConfigError(
                f"ssh_proxy_command cannot be run (exit status {status}): {self.command}\n{said}".rstrip()
            )
        return f"proxy command ended with status {status}" + (f": {said}" if said else "")

    def close(self) -> None:
        """Close the connection and end the command."""
        self.sock.close()
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_EXIT_GRACE)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read(2000).decode(errors="replace").strip()

    def __enter__(self) -> ProxyConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def expand_tokens(command: str, target: SshTarget) -> str:
    """Replace ``%h``, ``%p``, ``%r`` and ``%%``; raise `ConfigError` on any other ``%`` (ssh_config(5))."""
    values = {"h": target.host, "p": str(target.port), "r": target.user, "%": "%"}

    def value(match: re.Match[str]) -> str:
        token = match.group(1)
        if token not in values:
            raise ConfigError(f"ssh_proxy_command: unknown token %{token}; use %h, %p, %r or %% in {command!r}")
        return values[token]

    return re.sub(r"%(.?)", value, command)
