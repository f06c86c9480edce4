"""Local ports that tunnels are to listen on: whether they can, and if not, why and because of whom."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from raydog.errors import ConfigError

_LISTEN = "0A"
"""Linux' name for the state, in /proc/net/tcp."""


def ipv4_address(host: str) -> str:
    """The address that ``host`` stands for; an empty one and ``*`` are every address. Raises `ConfigError`."""
    try:
        found = socket.getaddrinfo(
            None if host in ("", "*") else host, 0, socket.AF_INET, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"local address {host!r}: not known ({error}). Use 'localhost', or an IPv4 address of this machine."
        ) from error
    return str(found[0][4][0])


def check_free(places: Iterable[tuple[str, int]]) -> None:
    """Raise `ConfigError` with the remedy unless all of these hosts and ports can be listened on, at the same time.

    That holds for this moment: nothing keeps another program from taking a port before its tunnel does.
    """
    with ExitStack() as stack:
        for host, port in places:
            address = ipv4_address(host)
            sock = stack.enter_context(socket.socket())
            if os.name == "posix":  # a port that was closed a moment ago is free; elsewhere it would share a taken one
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, port))
                sock.listen()
            except OSError as error:
                raise _fault(error, host, port) from error


def _fault(error: OSError, host: str, port: int) -> ConfigError:
    where = f"local port {port} on {host or '*'}"
    if error.errno == errno.EADDRINUSE:
        user = holder(port)
        return ConfigError(
            f"{where} cannot be opened; {user or 'something else'} uses it. Choose another local port, or end that."
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"{where} cannot be opened without more rights. Choose a local port above 1023.")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"{where} cannot be opened: that is no address of this machine. Use 'localhost'.")
    return ConfigError(f"{where} cannot be opened: {(error.strerror or str(error)).lower()}. Choose another.")


def holder(port: int) -> str | None:
    """Who listens on a port of this machine, such as ``ssh (process 4711)``; None where that cannot be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _has_open(process, sockets):
            with suppress(OSError):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # not Linux
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]


def _has_open(process: Path, targets: set[str]) -> bool:
    with suppress(OSError):  # another user's, or it has ended
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) in targets:  # noqa: PTH115 - its target is no path
                    return True
    return False
