"""Cleaning up after an interruption: what this process has made goes away again.

While our own code makes something, an interruption is an exception like others, and who made it ends it. After
``create_node`` Ray sets the head up: its main thread only waits for another one, which an interruption does not stop,
and Python ends no process before its threads have ended. So then the handler itself cleans up before it lets the
interruption go on: with the head gone, Ray's thread ends too.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from raydog.errors import RayDogError

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""The last one comes when a terminal is closed, or the connection that it came through is lost."""


class InterruptGuard:
    """Calls ``clean_up`` once if the process is interrupted between `arm` and `disarm`."""

    def __init__(self, clean_up: Callable[[], Sequence[str]]) -> None:
        """``clean_up`` returns what is still ending by itself; it must not need a lock that others may hold."""
        self._clean_up = clean_up
        self._armed = False
        self._making = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self.interrupted = False

    def arm(self) -> None:
        """From now on there is something to end. Signals are seen only in the main thread, where Ray calls us."""
        self._armed = True
        if threading.current_thread() is threading.main_thread() and not self._previous:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    self._previous[number] = signal.signal(number, self._note)

    def disarm(self) -> None:
        """All is well, or somebody else takes care of it."""
        self._armed = False
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._previous.clear()

    @contextmanager
    def making(self) -> Iterator[None]:
        """While this lasts, an interruption only raises; the caller calls `clean_up_now` when it has come through."""
        self._making = True
        try:
            yield
        finally:
            self._making = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """While this lasts, an interruption changes nothing: what runs ends what was made."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def clean_up_now(self) -> None:
        """Take down what is guarded, once."""
        if not self._armed:
            return
        self._armed = False
        try:
            _say("\nRayDog: interrupted; ending what this command has made ...")
            going = self._clean_up()
            outcome = f"still ending by itself: {'; '.join(going)}" if going else "nothing is left of it"
            _say(f"RayDog: {outcome}.")
        except RayDogError as error:
            _say(f"RayDog: {error}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        if self._armed:
            self.interrupted = True
            for one in _SIGNALS:  # a second Ctrl+C must not stop the cleaning up half-way
                signal.signal(one, signal.SIG_IGN)
            if not self._making:
                self.clean_up_now()
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(128 + number)


def _say(text: str) -> None:
    try:
        click.echo(text, err=True)
    except OSError as error:  # the terminal may be gone, which must not stop the cleaning up
        logger.debug("cannot say %r: %s", text, error)
