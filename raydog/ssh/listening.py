"""Local ports, all opened before anything else happens; one that is taken is an error that says by whom."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raydog.errors import ConfigError

_BACKLOG = 128
_TRIES_FOR_ANY_PORT = 8
_Address = tuple[socket.AddressFamily, tuple[Any, ...]]
_LISTEN = "0A"
"""Linux' name for the state, in /proc/net/tcp."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on one port of every address that ``host`` stands for; port 0 is any port, the same on all of them.

    ``localhost`` is 127.0.0.1 and ::1 where the machine has both, as for OpenSSH: programs try either first. An
    empty ``host`` or ``*`` is every address. Raises `ConfigError` with the remedy.
    """
    addresses = _addresses(host, port)
    for _ in range(_TRIES_FOR_ANY_PORT):
        try:
            return _listen(addresses, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port == 0:
                continue  # the port that one address gave is taken on another
            raise _fault(error, host, port) from error
    raise ConfigError(f"no local port is free on all addresses of {host or '*'}. Name one address instead.")


def _addresses(host: str, port: int) -> list[_Address]:
    try:
        found = socket.getaddrinfo(
            None if host in ("", "*") else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"local address {host!r}: not known ({error}). Use 'localhost', or an address of this machine."
        ) from error
    kinds = dict.fromkeys((family, tuple(address)) for family, _, _, _, address in found)
    # IPv4 first: where there is only one of the two it is this one
    return sorted(kinds, key=lambda kind: kind[0] != socket.AF_INET)


def _listen(addresses: Sequence[_Address], host: str, port: int) -> list[socket.socket]:
    """Raises the last `OSError` if an address is taken, or if none exists here."""
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                listener = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # the kernel was built without IPv6
                missing = error
                continue
            listeners.append(listener)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if os.name == "posix":  # a port that was closed a moment ago is free; elsewhere it would share a taken one
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                missing = error  # a name for ::1 where the machine has none
                listeners.pop().close()
                continue
            listener.listen(_BACKLOG)
            port = int(listener.getsockname()[1])
    except BaseException:
        close_all(listeners)
        raise
    if not listeners:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"no address for {host!r}")
    return listeners


def close_all(listeners: Sequence[socket.socket]) -> None:
    """Close sockets, whatever became of them."""
    for listener in listeners:
        with suppress(OSError):
            listener.close()


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
