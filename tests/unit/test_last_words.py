"""What failing workers tell the head: heard, believed only from the right address, and harmless whatever it is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydog.autoscaler import last_words
from raydog.autoscaler.last_words import Answer, LastWords, Listener, port_for, readable


class Head:
    """A listener on a free port, and what it has heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[LastWords, str]] = []
        self.answers: list[Answer] = []
        self.listener = Listener(0, self._take)
        self.listener.start()

    def _take(self, words: LastWords, address: str) -> Answer:
        self.heard.append((words, address))
        return self.answers.pop(0) if self.answers else "ok"

    def call(self, data: bytes, *, hang_up: bool = False) -> bytes:
        assert self.listener.port is not None
        with socket.create_connection(("127.0.0.1", self.listener.port), timeout=10) as caller:
            caller.sendall(data)
            if hang_up:
                caller.shutdown(socket.SHUT_WR)
            answer = b""
            while part := caller.recv(100):
                answer += part
        return answer


@pytest.fixture
def head() -> Iterator[Head]:
    made = Head()
    yield made
    made.listener.close()


def said(node: str, status: int, output: bytes) -> bytes:
    return f"raydog-output {node} {status} {len(output)}\n".encode() + output


def test_what_a_worker_says_arrives_with_its_address(head: Head) -> None:
    assert head.call(said("demo-1", 7, b"first\nlast\n")) == b"ok\n"
    assert head.heard == [(LastWords("demo-1", 7, ("first", "last")), "127.0.0.1")]


@pytest.mark.parametrize("answer", ["again", "no"])
def test_worker_gets_the_heads_answer(head: Head, answer: Answer) -> None:
    head.answers = [answer]
    assert head.call(said("demo-1", 1, b"")) == f"{answer}\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: head\r\n\r\n",
        b"\n",
        b"x" * 100_000,
        b"raydog-output demo-1 7 99999\n",
        b"raydog-output demo-1 7 -1\n",
        b"raydog-output ../demo 7 1\nx",
        b"raydog-output demo-1 7 10\nshort",
        b"raydog-output demo-1",
        b"\xff\xfe\n",
        b"",
    ],
)
def test_what_no_wrapper_would_say_is_not_taken_and_the_next_is_heard(head: Head, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the head hangs up as soon as it has heard enough
        assert head.call(data, hang_up=True) in (b"no\n", b"")
    assert head.heard == []
    assert head.call(said("demo-1", 1, b"x")) == b"ok\n"


def test_caller_that_says_nothing_is_cut_off(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "_SECONDS_A_CALLER", 0.2)
    assert head.call(b"raydog-output ") == b""
    assert head.call(said("demo-1", 1, b"x")) == b"ok\n"


def test_taker_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    head = Head()

    def fail(words: LastWords, address: str) -> Answer:
        raise RuntimeError("disk full")

    monkeypatch.setattr(head.listener, "_take", fail)
    assert head.call(said("demo-1", 1, b"x")) == b""
    assert head.call(said("demo-1", 1, b"x")) == b""
    assert "disk full" in caplog.text
    head.listener.close()


def test_port_that_is_taken_is_warned_about_and_no_error(head: Head, caplog: pytest.LogCaptureFixture) -> None:
    assert head.listener.port is not None
    second = Listener(head.listener.port, lambda _words, _address: "ok")
    second.start()
    assert second.port is None
    assert str(head.listener.port) in caplog.text
    second.close()


def test_lines_are_the_last_and_steer_no_terminal() -> None:
    colours = b"\x1b[31mred\x1b[0m \x1b]0;title\x07 bell\x07\tend  \r\n"
    assert readable(colours)[0] == "red ]0;title bell    end"
    assert readable(b"10 %\r20 %\r\n") == ("10 %", "20 %")
    assert readable("größer \xff\n".encode("latin-1"))[0].startswith("gr")
    assert readable(b"\n".join(str(n).encode() for n in range(80))) == tuple(str(n) for n in range(30, 80))
    assert readable(b"") == ("",)


def test_port_is_beside_the_tag_servers() -> None:
    assert port_for(16667) == 16668
    assert port_for(65535) == 65534


def test_wrapper_and_head_speak_of_the_same_number_of_lines() -> None:
    shell = Path(last_words.__file__).parent / "shell" / "worker_prologue.sh"
    assert f"tail -n {last_words.LINES} " in shell.read_text()
