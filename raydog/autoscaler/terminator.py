"""Ending nodes without making Ray's loop wait: a node is gone for Ray at once, its task is aborted beside."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from raydog.errors import RayDogError
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord

logger = logging.getLogger(__name__)

_PARALLEL_ABORTS = 16
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_REPEAT_SECONDS = 20.0


class Terminator:
    """Aborts tasks until the platform no longer lists them. Thread-safe.

    An abort that the platform refuses or loses is repeated for as long as this process lives, so nothing that Ray has
    ended costs money for ever; after a restart the node shows again and Ray ends it again.
    """

    def __init__(self, gateway: Gateway, nodes: Callable[[], Mapping[str, NodeRecord]]) -> None:
        self._gateway = gateway
        self._nodes = nodes
        self._wake = threading.Condition()
        self._told: dict[str, float] = {}  # when an abort was last accepted; 0 if never
        self._thread: threading.Thread | None = None

    def end(self, names: Iterable[str]) -> None:
        """Begin to end nodes. Returns at once; ended and unknown ones are fine."""
        with self._wake:
            for name in names:
                self._told.setdefault(name, 0.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="raydog-terminator", daemon=True)
                self._thread.start()
            self._wake.notify()

    def ending(self) -> Collection[str]:
        """Names of the nodes that are told to end and may still be listed."""
        with self._wake:
            return frozenset(self._told)

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        with ThreadPoolExecutor(_PARALLEL_ABORTS, thread_name_prefix="raydog-abort") as executor:
            while True:
                due = self._due()
                if not due:
                    pause = _FIRST_PAUSE
                    with self._wake:
                        self._wake.wait(timeout=1.0 if self._told else None)
                    continue
                outcomes = list(executor.map(self._abort, due))
                if all(outcomes):
                    pause = _FIRST_PAUSE
                else:
                    with self._wake:
                        self._wake.wait(timeout=pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)

    def _due(self) -> list[NodeRecord]:
        nodes, now = self._nodes(), time.monotonic()
        with self._wake:
            for name in [name for name in self._told if name not in nodes]:
                del self._told[name]
            return [
                nodes[name]
                for name, told in self._told.items()
                if nodes[name].task_id and (told == 0.0 or now - told > _REPEAT_SECONDS)
            ]

    def _abort(self, node: NodeRecord) -> bool:
        try:
            self._gateway.abort_node(node.task_id)
        except RayDogError as error:
            logger.warning("ending node %s will be tried again: %s", node.name, error)
            return False
        with self._wake:
            if node.name in self._told:
                self._told[node.name] = time.monotonic()
        return True
