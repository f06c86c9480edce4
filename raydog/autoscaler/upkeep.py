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
from raydog.autoscaler.losses import WARNED, Drain, Losses
from raydog.autoscaler.pools import WorkerPools
from raydog.autoscaler.side import ray_tags
from raydog.autoscaler.tags import TagStore
from raydog.errors import ProvisioningError, RayDogError, StateError
from raydog.yellowdog.machines import MachineWatch
from raydog.yellowdog.records import ClusterRecord, NodeRecord, NodeState
from raydog.yellowdog.view import ClusterView

logger = logging.getLogger(__name__)


class Upkeep:
    """Called by the one thread that sweeps; `note_failure` and `take_timed_out` by any.

    ``terminate`` ends nodes by name, ``end_if_over`` a cluster whose time is over, ``drain`` has Ray drain a node.
    ``gives_up``: whether nodes that wait for longer than the configuration's ``node_launch_timeout`` are ended here;
    ``waiting_limit``: after how many seconds it is looked why a node still waits.
    """

    def __init__(
        self,
        config: ClusterConfig,
        failures: FailureLog,
        tags: TagStore,
        terminate: Callable[[Sequence[str]], None],
        *,
        head_name: str,
        end_if_over: Callable[[ClusterRecord], None],
        drain: Drain,
        gives_up: bool,
        waiting_limit: float,
    ) -> None:
        self._config = config
        self._failures = failures
        self._tags = tags
        self._terminate = terminate
        self._head_name = head_name
        self._end_if_over = end_if_over
        self._gives_up = gives_up
        self._waiting_limit = waiting_limit
        self._waiting_since: dict[str, float] = {}
        self._timed_out: dict[str, str] = {}
        self._losses = Losses(terminate, drain, self._note_loss)
        self._said: dict[str, str] = {}
        self._looked_at_pools = float("-inf")
        self._thread: threading.Thread | None = None

    def look_after(
        self, view: ClusterView, machines: MachineWatch, pools: WorkerPools, shown: Mapping[str, NodeRecord]
    ) -> None:
        """``shown`` are the view's nodes without those that are being ended."""
        self._end_if_over(view.cluster)
        self._losses.look_after(view, machines)
        self._see_to_ended(view.take_endings())
        if self._tags.data_lost:
            self._tags.rebuild({node.name: self._tags_of(node) for node in view.nodes().values()})
        now = time.monotonic()
        waiting = [node for node in shown.values() if node.state is NodeState.PENDING]
        self._waiting_since = {node.name: self._waiting_since.get(node.name, now) for node in waiting}
        without_machine = [node for node in waiting if node.platform_node_id is None]
        overdue = [node for node in without_machine if now - self._waiting_since[node.name] > self._waiting_limit]
        if now - self._looked_at_pools < self._waiting_limit / 3:
            overdue = []
        unused = pools.unused(tags_in_use(view))
        if overdue or unused:
            self._see_to_pools(view, pools, overdue, unused)
        timeout = self._config.node_launch_timeout
        if timeout is not None and self._gives_up:
            limit = timeout.total_seconds()
            self._give_up([node for node in waiting if now - self._waiting_since[node.name] > limit])

    def take_timed_out(self, node_type: str) -> str | None:
        """Why nodes of this type were given up since this was last asked; None if none was."""
        return self._timed_out.pop(node_type, None)

    def note_failure(
        self,
        node_type: str,
        category: str,
        message: str,
        when: datetime | None = None,
        *,
        node: str = "",
        output: Sequence[str] = (),
    ) -> None:
        """Keep the reason of a failure for ``raydog status``; ``node`` and its ``output`` if it was one node's."""
        try:
            self._failures.add(node_type, category, message, when, node=node, output=output)
        except StateError as error:
            logger.warning("%s; the failure was: %s: %s", error, category, message)

    def close(self) -> None:
        """Wait until nothing is under way any more."""
        if self._thread is not None:
            self._thread.join()

    def _tags_of(self, node: NodeRecord) -> dict[str, str]:
        is_head = node.name == self._head_name
        return ray_tags(node, {}, is_head=is_head, updaters=self._config.node_updaters)

    def _note_loss(self, node: NodeRecord, category: str, message: str) -> None:
        failed = "" if category == WARNED else node.name  # the failure of a node, of which there is one, comes later
        self.note_failure(node_type_of(node), category, f"{node.name}: {message}", node=failed)

    def _see_to_ended(self, ended: Sequence[NodeRecord]) -> None:
        for node in ended:
            if node.status == "FAILED":
                text = f"{node.name}: {node.reason or 'no reason given'}"
                category = "Preempted" if self._losses.was_warned(node.name) else "NodeFailed"
                self.note_failure(node_type_of(node), category, text, node.finished, node=node.name)
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

    def _see_to_pools(
        self, view: ClusterView, pools: WorkerPools, nodes: Sequence[NodeRecord], unused: Sequence[str]
    ) -> None:
        """Make pools that have gone again, and end those that nobody needs, beside the sweeps: it may take a while."""
        if self._thread is not None and self._thread.is_alive():
            return
        cluster = view.cluster
        tags = {group.group_id: group.tag for group in cluster.groups}
        waiting: dict[tuple[str, str], list[str]] = {}
        for node in nodes:
            if node.group_id in tags:
                waiting.setdefault((node_type_of(node), tags[node.group_id]), []).append(node.name)
        now = time.monotonic()
        since = dict(self._waiting_since)
        if waiting:
            self._looked_at_pools = now

        def end_unused() -> None:
            for tag in unused:
                try:
                    pools.end_unused(tag, lambda tag=tag: tag in tags_in_use(view))  # type: ignore[misc]
                except RayDogError as error:
                    logger.warning("ending a worker pool without nodes will be tried again: %s", error)

        def ensure() -> None:
            for (node_type, tag), names in waiting.items():
                try:
                    if not pools.ensure_for_waiting(cluster, node_type, tag, len(names)):
                        self._end_lost(node_type, names)
                        continue
                    waited = max(now - since.get(name, now) for name in names)
                    reason = pools.fall_back(cluster, tag, len(names), waited)
                    if reason is not None:
                        self._note_again(node_type, "NoCapacity", reason)
                except RayDogError as error:
                    self._note_again(node_type, category_of(error), str(error))

        def work() -> None:
            end_unused()
            ensure()

        self._thread = threading.Thread(target=work, name="raydog-pools", daemon=True)
        self._thread.start()

    def _note_again(self, node_type: str, category: str, message: str) -> None:
        """Note what is found again and again for as long as it lasts; it is said once."""
        if self._said.get(node_type) != message:
            self._said[node_type] = message
            logger.warning("nodes of type %s get no machine: %s", node_type, message)
        self.note_failure(node_type, category, message)

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


def tags_in_use(view: ClusterView) -> set[str]:
    """The worker tags of the nodes that have not ended, those that are being ended among them."""
    tags = {group.group_id: group.tag for group in view.cluster.groups}
    return {tags[group_id] for group_id in {node.group_id for node in view.nodes().values()} if group_id in tags}


def category_of(error: RayDogError) -> str:
    """An error as a category for Ray, under 20 characters long."""
    category = error.category if isinstance(error, ProvisioningError) else type(error).__name__.removesuffix("Error")
    return category[:19]
