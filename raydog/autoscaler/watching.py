"""Looking whether a cluster has gone while Ray pauses: ``ray down`` waits five seconds whatever has happened."""

from __future__ import annotations

import threading

from raydog.errors import RayDogError
from raydog.waiting import SystemClock
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.teardown import Teardown


class _Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Nobody wants to know any more."""


class _Pauses(SystemClock):
    """Pauses that end when nobody wants to know any more."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def sleep(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise _Stopped


class TeardownWatch:
    """Waits in a thread of its own until nothing is left of what was begun. The thread ends with the process.

    It ends what turns up meanwhile, so it must be stopped before this process makes a cluster of that name.
    """

    def __init__(self, gateway: Gateway, name: ClusterName, begun: Teardown, seconds: float) -> None:
        self._gateway = gateway
        self._name = name
        self._begun = begun
        self._seconds = seconds
        self._gone = threading.Event()
        self._pauses = _Pauses()
        self._thread = threading.Thread(target=self._watch, name="raydog-teardown-watch", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether it has been seen, in two looks, that nothing is left. False also if nobody could look."""
        return self._gone.is_set()

    def stop(self) -> None:
        """Look no more. Returns when the look that is under way is over."""
        self._pauses.stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            going = teardown.await_teardown(self._gateway, self._name, self._begun, self._seconds, clock=self._pauses)
            if not going:
                self._gone.set()
        except (RayDogError, _Stopped):
            return  # whoever asks for `gone` looks again, and says what is wrong
