"""Looking whether a cluster has gone while Ray pauses: ``ray down`` waits five seconds whatever has happened."""

from __future__ import annotations

import threading

from raydog.errors import RayDogError
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.teardown import Teardown


class TeardownWatch:
    """Waits in a thread of its own until nothing is left of what was begun. The thread ends with the process."""

    def __init__(self, gateway: Gateway, name: ClusterName, begun: Teardown, seconds: float) -> None:
        self._gateway = gateway
        self._name = name
        self._begun = begun
        self._seconds = seconds
        self._gone = threading.Event()
        threading.Thread(target=self._watch, name="raydog-teardown-watch", daemon=True).start()

    @property
    def gone(self) -> bool:
        """Whether it has been seen, in two looks, that nothing is left. False also if nobody could look."""
        return self._gone.is_set()

    def _watch(self) -> None:
        try:
            if not teardown.await_teardown(self._gateway, self._name, self._begun, self._seconds):
                self._gone.set()
        except RayDogError:
            return  # whoever asks for `gone` looks again, and says what is wrong
