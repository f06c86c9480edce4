"""The last output of workers that fail, brought to the head while their machines are still there.

The platform has no call for what a task printed, and a failed machine is gone in a minute. So the wrapper around a
worker's script (``shell/worker_prologue.sh``) connects to the head and says ``raydog-output <node> <exit status>
<size>``, then the end of its log; the answer is ``ok``, ``again`` (the head does not know the node yet) or ``no``. That
needs neither SSH to the workers nor Ray or Python on them, and no key: a node is believed when it speaks from the
address that the platform gives for it.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

LINES = 50
_MAX_BYTES = 16_384
_HEADER = re.compile(rb"raydog-output (?P<node>[a-z0-9_-]{1,60}) (?P<status>[0-9]{1,3}) (?P<size>[0-9]{1,5})\n")
_LONGEST_HEADER = 100
_SECONDS_A_CALLER = 3.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\S\n ]|[^\x20-\x7e\xa0-\U0010ffff\n]")
"""What may steer a terminal: colours, tabs, everything that does not print."""

Answer = Literal["ok", "again", "no"]


@dataclass(frozen=True)
class LastWords:
    """What a failed worker says of itself."""

    node: str
    exit_status: int
    output: tuple[str, ...]


def port_for(tag_server_port: int) -> int:
    """Where the head listens: beside its tag server, which is the one port of a head that a YAML may move."""
    return tag_server_port + 1 if tag_server_port < 65535 else tag_server_port - 1


class Listener:
    """Takes one caller at a time, in a thread of its own; a slow one is cut off after a few seconds.

    ``take`` gets what was said and the caller's address, and gives the answer. It must not wait.
    """

    def __init__(self, port: int, take: Callable[[LastWords, str], Answer]) -> None:
        self._port = port
        self._take = take
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def port(self) -> int | None:
        """The port that it listens on; None if it does not."""
        return None if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen. A port that is taken costs people only the output of failed workers, so it is but warned about."""
        try:
            self._socket = socket.create_server(("", self._port), backlog=128)
        except OSError as error:
            logger.warning("raydog status cannot show what failed workers print: port %d: %s", self._port, error)
            return
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), name="raydog-last-words", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more. Harmless when it does not."""
        self._closed.set()
        listener, self._socket = self._socket, None
        if listener is not None and self._thread is not None:
            listener.shutdown(socket.SHUT_RDWR)  # ends the accept
            self._thread.join()
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                caller, address = listener.accept()
            except OSError as error:
                if not self._closed.wait(0.1):  # out of file descriptors, perhaps
                    logger.warning("a failed worker could not be heard: %s", error)
                continue
            with caller:
                self._hear(caller, str(address[0]))

    def _hear(self, caller: socket.socket, address: str) -> None:
        try:
            words = read_words(_Reader(caller, time.monotonic() + _SECONDS_A_CALLER))
            answer: Answer = "no" if words is None else self._take(words, address)
            caller.sendall(f"{answer}\n".encode())
        except OSError as error:
            logger.debug("a caller at %s was not understood: %s", address, error)
        except Exception:
            logger.exception("what a failed worker at %s said could not be kept", address)


class _Reader:
    """Reads from a socket, all in all until a deadline."""

    def __init__(self, caller: socket.socket, deadline: float) -> None:
        self._caller = caller
        self._deadline = deadline

    def read(self, most: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._caller.settimeout(left)
        return self._caller.recv(most)


def read_words(stream: _Reader) -> LastWords | None:
    """What a caller says, or None if it is nothing that our wrapper would say. Raises `OSError` if it breaks off."""
    data = b""
    while b"\n" not in data:
        if len(data) > _LONGEST_HEADER:
            return None
        more = stream.read(_LONGEST_HEADER)
        if not more:
            return None
        data += more
    header = _HEADER.match(data)
    if header is None or int(header["size"]) > _MAX_BYTES:
        return None
    data = data[header.end() :]
    while len(data) < int(header["size"]):
        more = stream.read(_MAX_BYTES)
        if not more:
            return None
        data += more
    return LastWords(header["node"].decode(), int(header["status"]), readable(data[: int(header["size"])]))


def readable(output: bytes) -> tuple[str, ...]:
    """The last lines of an output, without what would steer the terminal that they are shown on."""
    text = output.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return tuple(line.rstrip() for line in _CONTROL.sub("", text).rstrip("\n").split("\n")[-LINES:])
