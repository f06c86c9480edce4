"""JSON messages, one a line, and open files beside them, over a Unix socket."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from typing import Any

Message = dict[str, Any]

_CHUNK = 65536
_MOST_FILES = 16


class Channel:
    """One end of a connection between driver, keeper and instances.

    A message is a JSON object; files that go with it are counted in its key ``files``. A blocking socket
    makes `send` wait; with a non-blocking one what does not fit is kept until `flush`.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._received = b""
        self._files: deque[int] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, files: tuple[int, ...] = ()) -> None:
        """Send a message with duplicates of open ``files``. BrokenPipeError if the other end is gone."""
        line = json.dumps({**message, "files": len(files)} if files else message).encode() + b"\n"
        self._unsent.append((line, [os.dup(number) for number in files]))
        self.flush()

    def flush(self) -> bool:
        """Send what is left; True if nothing is left after that."""
        while self._unsent:
            data, files = self._unsent[0]
            try:
                sent = socket.send_fds(self._socket, [data], files) if files else self._socket.send(data)
            except BlockingIOError:
                return False
            for number in files:
                os.close(number)
            self._unsent.popleft()
            if sent < len(data):
                self._unsent.appendleft((data[sent:], []))
        return True

    def receive(self) -> list[tuple[Message, list[int]]]:
        """The messages that have arrived, each with its files. EOFError when the other end is gone."""
        try:
            data, files, _flags, _address = socket.recv_fds(self._socket, _CHUNK, _MOST_FILES)
        except BlockingIOError:
            return []
        except ConnectionResetError as error:
            raise EOFError from error
        for number in files:
            os.set_inheritable(number, False)  # recv_fds does not pass on MSG_CMSG_CLOEXEC
        self._files.extend(files)
        if not data:
            raise EOFError
        *lines, self._received = (self._received + data).split(b"\n")
        messages = []
        for line in lines:
            message: Message = json.loads(line)
            messages.append((message, [self._files.popleft() for _ in range(message.get("files", 0))]))
        return messages

    def close(self) -> None:
        for _data, files in self._unsent:
            for number in files:
                os.close(number)
        while self._files:
            os.close(self._files.popleft())
        self._unsent.clear()
        self._socket.close()
