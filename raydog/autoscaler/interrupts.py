"""Cleaning up after an interrupted ``ray up``: what this process made goes away again.

Ray runs parts of ``ray up`` in threads and swallows some exceptions, so an exception handler around our own calls
is not enough. A guard is armed when something has been made; SIGINT and SIGTERM are noted and then take their usual
course; and at the process's end, whatever is still guarded after an interruption is taken down.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from types import FrameType

import click

from raydog.errors import RayDogError


class InterruptGuard:
    """Calls ``clean_up`` once if the process is interrupted while armed, at the latest when it ends."""

    def __init__(self, clean_up: Callable[[], None]) -> None:
        self._clean_up = clean_up
        self._armed = False
        self._interrupted = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def arm(self) -> None:
        """Watch for interruptions. In a thread, where Python cannot, only `clean_up_now` works."""
        self._armed = True
        atexit.register(self._at_exit)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)

    def disarm(self) -> None:
        """All is well, or somebody else takes care of it."""
        self._armed = False
        atexit.unregister(self._at_exit)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._previous.clear()

    def clean_up_now(self) -> None:
        """Take down what is guarded, once; further interruptions do not stop it half-way."""
        if not self._armed:
            return
        self._armed = False
        previous = {}
        if threading.current_thread() is threading.main_thread():
            previous = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            click.echo("\nRayDog: interrupted; ending what this command has made ...", err=True)
            self._clean_up()
            click.echo("RayDog: nothing is left of it.", err=True)
        except RayDogError as error:
            click.echo(f"RayDog: {error}", err=True)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(128 + number)

    def _at_exit(self) -> None:
        if self._interrupted:
            self.clean_up_now()
