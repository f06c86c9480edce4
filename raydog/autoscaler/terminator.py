"""Ending nodes without making Ray's loop wait: a node is gone for Ray at once, its task is aborted beside."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from raydog.errors import RayDogError
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord, NodeState

logger = logging.getLogger(__name__)

PARALLEL_ABORTS = 32  # the platform ends one task a call, and is far away
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_REPEAT_SECONDS = 20.0
_LOOK_SECONDS = 1.0
_DOUBT_SECONDS = 180.0
_HEED_SECONDS = 180.0  # from the first accepted abort; a node's own clean-up may take its time
_SHUTDOWN_SECONDS = 60.0  # a machine that is shut down lets its tasks finish, so this alone may not help


class Terminator:
    """Aborts tasks until the platform no longer lists them. Thread-safe.

    An abort that the platform refuses or loses is repeated for as long as this process lives, so nothing that Ray has
    ended costs money for ever; after a restart the node shows again and Ray ends it again. A node that ignores its
    aborts, which Ray does not see any more, loses its machine: that is shut down, and then its instance terminated.
    """

    def __init__(
        self,
        gateway: Callable[[], Gateway | None],
        nodes: Callable[[], Mapping[str, NodeRecord] | None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both give None for as long as the platform has not been seen; orders then wait."""
        self._gateway = gateway
        self._nodes = nodes
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._told: dict[str, float] = {}  # when an abort was last accepted; 0 if never
        self._first_told: dict[str, float] = {}  # when one was first accepted
        self._doubtful: dict[str, float] = {}  # until when a node may yet appear that must not live
        self._ending: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._closed = False

    def end(self, names: Iterable[str]) -> None:
        """Begin to end nodes. Returns at once; ended and unknown ones are fine."""
        with self._wake:
            for name in names:
                self._told.setdefault(name, 0.0)
            self._publish()
            self._start()

    def disown(self, names: Iterable[str]) -> None:
        """Nodes whose making failed without a clear answer: should they appear after all, they end and never show."""
        with self._wake:
            deadline = self._monotonic() + _DOUBT_SECONDS
            self._doubtful.update(dict.fromkeys(names, deadline))
            self._publish()
            self._start()

    def _start(self) -> None:
        if (self._thread is None or not self._thread.is_alive()) and not self._closed:
            self._thread = threading.Thread(target=self._work, name="raydog-terminator", daemon=True)
            self._thread.start()
        self._wake.notify()

    def ending(self) -> frozenset[str]:
        """Names of the nodes that are told to end and may still be listed; the same object until they change."""
        return self._ending

    def in_doubt(self) -> bool:
        """Whether nodes may appear that were disowned."""
        with self._wake:
            return bool(self._doubtful)

    def _publish(self) -> None:
        names = frozenset((*self._told, *self._doubtful))
        if names != self._ending:
            self._ending = names

    def close(self) -> None:
        """Stop the thread. What has not been ended yet stays."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        with ThreadPoolExecutor(PARALLEL_ABORTS, thread_name_prefix="raydog-abort") as executor:
            while not self._closed:
                try:
                    done = self._work_once(executor)
                except Exception:
                    # Whatever it is, the loop must go on: nobody else ends what Ray takes for ended.
                    logger.exception("ending nodes failed and will be tried again")
                    done = False
                if done:
                    pause = _FIRST_PAUSE
                else:
                    with self._wake:
                        self._wake.wait_for(lambda: self._closed, timeout=pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)

    def _work_once(self, executor: ThreadPoolExecutor) -> bool:
        """Abort what is due, or wait until something may be; whether all of it was accepted."""
        due = self._due()
        if due:
            return all(list(executor.map(self._abort, due)))
        with self._wake:
            if not self._closed and not self._has_news():
                self._wake.wait(timeout=_LOOK_SECONDS if self._told or self._doubtful else None)
        return True

    def _has_news(self) -> bool:
        """Whether an order came in after `_due` had looked: nobody would wake this thread for it."""
        nodes = self._nodes()
        return nodes is not None and any(told == 0.0 and name in nodes for name, told in self._told.items())

    def _due(self) -> list[NodeRecord]:
        nodes, now = self._nodes(), self._monotonic()
        if nodes is None:
            return []
        with self._wake:
            for name, until in list(self._doubtful.items()):
                if name in nodes:
                    self._told.setdefault(name, 0.0)
                if name in nodes or now > until:
                    del self._doubtful[name]
            for name in [name for name in self._told if name not in nodes]:
                del self._told[name]
                self._first_told.pop(name, None)
            self._publish()
            return [
                nodes[name]
                for name, told in self._told.items()
                if nodes[name].task_id and (told == 0.0 or now - told > _REPEAT_SECONDS)
            ]

    def _abort(self, node: NodeRecord) -> bool:
        gateway = self._gateway()
        if gateway is None:
            return False
        try:
            answer = gateway.abort_node(node.task_id)
        except RayDogError as error:
            logger.warning("ending node %s will be tried again: %s", node.name, error)
            return False
        except Exception:
            logger.exception("ending node %s failed and will be tried again", node.name)
            return False
        now = self._monotonic()
        with self._wake:
            if node.name not in self._told:
                return True
            self._told[node.name] = now
            first = self._first_told.setdefault(node.name, now)
        if now - first >= _HEED_SECONDS:
            self._end_machine(gateway, answer, now - first)
        return True

    def _end_machine(self, gateway: Gateway, node: NodeRecord, waited: float) -> None:
        """End the machine of a node that ignores its aborts. ``node`` is the platform's answer to the latest one."""
        machine = node.platform_node_id
        if node.state is NodeState.ENDED or machine is None:
            return
        shutdown_helps_no_more = waited >= _HEED_SECONDS + _SHUTDOWN_SECONDS
        step = "terminating its instance" if shutdown_helps_no_more else "shutting down its machine"
        logger.warning("node %s ignores its abort for %.0f s now: %s", node.name, waited, step)
        try:
            if shutdown_helps_no_more:
                gateway.terminate_machine(machine)
            else:
                gateway.shut_down_machine(machine)
        except RayDogError as error:
            logger.warning("%s, on which node %s runs, will be tried again: %s", step, node.name, error)
