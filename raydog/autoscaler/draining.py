"""Ray's own draining of nodes whose machines are about to be taken away.

Ray then gives a node no more work, what runs there may move, and what is lost with it after its deadline does not count
against retries and restarts (``DrainNode`` in ``src/ray/protobuf/autoscaler.proto``, reason PREEMPTION). Autoscaler v2
launches a replacement as soon as a node drains.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2, gcs_pb2

from raydog.errors import RayDogError

logger = logging.getLogger(__name__)

_NOTICE = {"AWS": timedelta(minutes=2)}
_SHORTEST_NOTICE = timedelta(seconds=30)
"""What clouds promise between a warning and the end; those that are not named promise no more than this."""
_LATE = timedelta(seconds=15)
"""How old a warning may be when it is heard of. Ray counts what is lost after the deadline as preempted, and not before
(``InferDeathInfo`` in ``src/ray/gcs/gcs_node_manager.cc``), so it must not be too late."""
_CALL_SECONDS = 5.0
_PAUSE = 2.0


class DrainError(RayDogError):
    """Ray could not be told, for now."""


class Cluster(Protocol):
    """What draining needs of a Ray cluster."""

    def node_id(self, name: str) -> str | None:
        """Ray's hexadecimal id of the living node that RayDog calls so; None if there is none."""

    def drain(self, node_id: str, message: str, deadline: datetime) -> None:
        """Raises `DrainError` if Ray refuses."""


class RayCluster:
    """The cluster behind a GCS. ``address`` is asked when it is needed: Ray runs by then."""

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address

    def node_id(self, name: str) -> str | None:
        try:
            nodes = self._client().get_all_node_info(timeout=_CALL_SECONDS)
        except Exception as error:  # Ray's client raises errors of many kinds
            raise DrainError(f"Ray does not say which nodes it has: {error}") from error
        alive = gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE
        found = (node_id.hex() for node_id, node in nodes.items() if node.instance_id == name and node.state == alive)
        return next(found, None)

    def drain(self, node_id: str, message: str, deadline: datetime) -> None:
        try:
            accepted, refusal = self._client().drain_node(
                node_id, autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION, message, int(deadline.timestamp() * 1000)
            )
        except Exception as error:
            raise DrainError(f"Ray was not told to drain {node_id}: {error}") from error
        if not accepted:
            raise DrainError(f"Ray does not drain {node_id}: {refusal}")

    def _client(self) -> GcsClient:
        return GcsClient(address=self._address())


def gcs_address() -> str:
    """Where the GCS of the Ray that runs on this machine is. Raises `DrainError` if none does."""
    address: str | None = canonicalize_bootstrap_address("auto")
    if address is None:
        raise DrainError("no Ray runs on this machine")
    return address


@dataclass(frozen=True)
class _Order:
    deadline: datetime
    message: str


class Drainer:
    """Drains nodes beside Ray's loop, until Ray has accepted it or their time is over. Thread-safe."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        pause: float = _PAUSE,
    ) -> None:
        self._cluster = cluster
        self._now = now
        self._pause = pause
        self._wake = threading.Condition()
        self._orders: dict[str, _Order] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def drain(self, name: str, provider: str) -> None:
        """Have Ray drain a node that was warned just now. Returns at once."""
        deadline = self._now() + _NOTICE.get(provider, _SHORTEST_NOTICE) - _LATE
        message = f"the machine of {name} is about to be taken away ({provider or 'unknown provider'})"
        with self._wake:
            if self._closed:
                return
            self._orders[name] = _Order(deadline, message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="raydog-drain", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Stop; what Ray has not been told is not told any more."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or bool(self._orders))
                orders = dict(self._orders)
            for name, order in orders.items():
                if self._closed:
                    return
                if self._done(name, order):
                    with self._wake:
                        del self._orders[name]
            with self._wake:
                if self._orders:
                    self._wake.wait_for(lambda: self._closed, timeout=self._pause)
                if self._closed:
                    return

    def _done(self, name: str, order: _Order) -> bool:
        """Tell Ray; whether nothing is left to do."""
        if self._now() >= order.deadline:
            logger.warning("node %s was not drained before its machine is taken", name)
            return True
        try:
            node_id = self._cluster.node_id(name)
            if node_id is None:  # it has not joined yet, and may
                return False
            self._cluster.drain(node_id, order.message, order.deadline)
        except DrainError as error:
            logger.warning("draining node %s will be tried again: %s", name, error)
            return False
        logger.warning("%s: Ray drains it", order.message)
        return True
