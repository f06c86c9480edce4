"""What the head sees to after each sweep: reasons of lost nodes, tags of ended ones, work that gets no machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import launch_tags
from raydog.autoscaler.failures import FailureLog
from raydog.autoscaler.pools import WorkerPools
from raydog.autoscaler.side import ray_tags
from raydog.autoscaler.tags import TagStore
from raydog.errors import ProvisioningError, RayDogError, StateError
from raydog.yellowdog.records import ClusterRecord, NodeRecord, NodeState
from raydog.yellowdog.view import ClusterView

logger = logging.getLogger(__name__)


class Upkeep:
    """Called by the one thread that sweeps; `note_failure` and `take_timed_out` by any.

    ``terminate`` ends nodes by name. ``gives_up``: whether nodes that wait for longer than the configuration's
    ``node_launch_timeout`` are ended here; ``waiting_limit``: after how many seconds a waiting node's pool is checked.
    """

    def __init__(
        self,
        config: ClusterConfig,
        failures: FailureLog,
        tags: TagStore,
        terminate: Callable[[Sequence[str]], None],
        *,
        head_name: str,
        gives_up: bool,
        waiting_limit: float,
    ) -> None:
        self._config = config
        self._failures = failures
        self._tags = tags
        self._terminate = terminate
        self._head_name = head_name
        self._gives_up = gives_up
        self._waiting_limit = waiting_limit
        self._waiting_since: dict[str, float] = {}
        self._timed_out: dict[str, str] = {}
        self._thread: threading.Thread | None = None

    def look_after(self, view: ClusterView, pools: WorkerPools, shown: Mapping[str, NodeRecord]) -> None:
        """``shown`` are the view's nodes without those that are being ended."""
        self._see_to_ended(view.take_endings())
        if self._tags.data_lost:
            self._tags.rebuild({node.name: self._tags_of(node) for node in view.nodes().values()})
        now = time.monotonic()
        waiting = [node for node in shown.values() if node.state is NodeState.PENDING]
        self._waiting_since = {node.name: self._waiting_since.get(node.name, now) for node in waiting}
        overdue = [node for node in waiting if now - self._waiting_since[node.name] > self._waiting_limit]
        if overdue:
            self._see_to_pools(view.cluster, pools, overdue)
        timeout = self._config.node_launch_timeout
        if timeout is not None and self._gives_up:
            limit = timeout.total_seconds()
            self._give_up([node for node in waiting if now - self._waiting_since[node.name] > limit])

    def take_timed_out(self, node_type: str) -> str | None:
        """Why nodes of this type were given up since this was last asked; None if none was."""
        return self._timed_out.pop(node_type, None)

    def note_failure(self, node_type: str, category: str, message: str, when: datetime | None = None) -> None:
        """Keep the reason of a failure for ``raydog status``."""
        try:
            self._failures.add(node_type, category, message, when)
        except StateError as error:
            logger.warning("%s; the failure was: %s: %s", error, category, message)

    def close(self) -> None:
        """Wait until nothing is under way any more."""
        if self._thread is not None:
            self._thread.join()

    def _tags_of(self, node: NodeRecord) -> dict[str, str]:
        is_head = node.name == self._head_name
        return ray_tags(node, {}, is_head=is_head, updaters=self._config.node_updaters)

    def _see_to_ended(self, ended: Sequence[NodeRecord]) -> None:
        for node in ended:
            if node.status == "FAILED":
                text = f"{node.name}: {node.reason or 'no reason given'}"
                self.note_failure(node_type_of(node), "NodeFailed", text, node.finished)
        if ended:
            self._tags.remove([node.name for node in ended])

    def _give_up(self, nodes: Sequence[NodeRecord]) -> None:
        """End nodes that have waited too long for a machine; the next launch of their type says why it fails."""
        for node in nodes:
            message = (
                f"{node.name} got no machine within {self._config.node_launch_timeout} (node_launch_timeout_minutes)"
            )
            self.note_failure(node_type_of(node), "AllocationTimeout", message)
            self._timed_out[node_type_of(node)] = message
        self._terminate([node.name for node in nodes])

    def _see_to_pools(self, cluster: ClusterRecord, pools: WorkerPools, nodes: Sequence[NodeRecord]) -> None:
        """Make pools that have gone again, beside the sweeps: it may take a while."""
        if self._thread is not None and self._thread.is_alive():
            return
        tags = {group.group_id: group.tag for group in cluster.groups}
        waiting: dict[tuple[str, str], list[str]] = {}
        for node in nodes:
            if node.group_id in tags:
                waiting.setdefault((node_type_of(node), tags[node.group_id]), []).append(node.name)

        def ensure() -> None:
            for (node_type, tag), names in waiting.items():
                try:
                    if not pools.ensure_for_waiting(cluster, node_type, tag, len(names)):
                        self._end_lost(node_type, names)
                except RayDogError as error:
                    self.note_failure(node_type, category_of(error), str(error))

        self._thread = threading.Thread(target=ensure, name="raydog-pools", daemon=True)
        self._thread.start()

    def _end_lost(self, node_type: str, names: Sequence[str]) -> None:
        message = (
            f"the worker pool of {', '.join(names)} has gone, and the cluster's YAML does not say any more how to make "
            "it: ended, for Ray to launch others"
        )
        self.note_failure(node_type, "PoolLost", message)
        self._terminate(names)


def node_type_of(node: NodeRecord) -> str:
    """The node type that a node was launched as; empty if nobody has noted it."""
    return launch_tags(node).get(TAG_RAY_USER_NODE_TYPE, "")


def category_of(error: RayDogError) -> str:
    """An error as a category for Ray, under 20 characters long."""
    category = error.category if isinstance(error, ProvisioningError) else type(error).__name__.removesuffix("Error")
    return category[:19]
