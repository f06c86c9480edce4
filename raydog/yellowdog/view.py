"""What is known of one cluster's nodes, kept up to date at the cost of what changed.

Reads are served from memory. A *full* sweep lists all unfinished tasks (a pending task has neither start nor
finish time, so nothing cheaper finds those that somebody else added); a sweep of *changes* asks only for tasks
that started or finished since the latest time that the platform itself has reported, so clocks need not agree.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import (
    UNFINISHED_TASK_STATUSES,
    ClusterRecord,
    NodeAddress,
    NodeRecord,
    NodeState,
)

_OVERLAP = timedelta(seconds=10)  # nothing promises that the platform shows events in their order (contract, 5.2)
_SINGLE_LOOKUPS = 3  # up to here a call for each node is cheaper than a page of all
_REMEMBERED_ENDINGS = 200
_REMEMBERED_NAMES = 100_000  # of ended nodes, some 10 MB; far more than end while an answer can be stale


class ClusterView:
    """The nodes of a cluster. Thread-safe; sweeps may run beside reads, additions and each other."""

    def __init__(self, gateway: Gateway, cluster: ClusterRecord) -> None:
        self._gateway = gateway
        self._cluster = cluster
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._nodes: dict[str, NodeRecord] = {}
        self._snapshot: Mapping[str, NodeRecord] = MappingProxyType({})
        self._addresses: dict[str, NodeAddress] = {}
        self._looked_up: set[str] = set()
        self._ended: dict[str, NodeRecord] = {}
        self._ended_names: dict[str, None] = {}
        self._endings: deque[NodeRecord] = deque(maxlen=_REMEMBERED_NAMES)
        self._additions: dict[str, int] = {}
        self._sweeps = 0
        self._watermark: datetime | None = None

    @property
    def cluster(self) -> ClusterRecord:
        return self._cluster

    def replace_cluster(self, cluster: ClusterRecord) -> ClusterRecord:
        """The work requirement has changed; returns it."""
        self._cluster = cluster
        return cluster

    def nodes(self) -> Mapping[str, NodeRecord]:
        """The nodes that have not ended, by name. An immutable snapshot."""
        return self._snapshot

    def address(self, name: str) -> NodeAddress | None:
        return self._addresses.get(name)

    def know_address(self, name: str, address: NodeAddress) -> None:
        """An address that was found out elsewhere."""
        self._addresses[name] = address

    def full_address(self, name: str) -> NodeAddress | None:
        """The address including the public one, asking the platform if that has not been looked up yet."""
        address, node = self._addresses.get(name), self.nodes().get(name)
        if address is not None and address.public_ip is None and node is not None and name not in self._looked_up:
            address = self._gateway.node_address(node) or address
            self._addresses[name] = address
            self._looked_up.add(name)
        return address

    def ended(self) -> Mapping[str, NodeRecord]:
        """The nodes that ended most recently, the latest last, for people who ask why."""
        with self._lock:
            return dict(self._ended)

    def take_endings(self) -> list[NodeRecord]:
        """The nodes that have ended since this was last called. A node comes twice if at first it was only missed
        and its reason became known later."""
        with self._lock:
            endings = list(self._endings)
            self._endings.clear()
            return endings

    def add(self, nodes: Iterable[NodeRecord]) -> None:
        """Nodes that were just added show at once, and no sweep that had begun before can hide them."""
        with self._lock:
            for node in nodes:
                self._additions[node.name] = self._sweeps
                self._note(node)
            self._publish()

    def sweep(self) -> None:
        """Ask for all unfinished nodes. Raises what the gateway raises; what was known then stays."""
        with self._sweeping:
            with self._lock:
                self._sweeps += 1
                generation = self._sweeps
            listed = self._gateway.list_nodes(self._cluster.requirement_id, statuses=UNFINISHED_TASK_STATUSES)
            present = {node.name for node in listed}
            with self._lock:
                for name in [name for name in self._nodes if name not in present]:
                    # A node added after the listing began may be missing from it.
                    if self._additions.get(name, -1) < generation:
                        self._end(self._nodes[name])
                for node in listed:
                    self._note(node)
                self._publish()
            self._find_addresses()

    def sweep_changes(self) -> None:
        """Ask for the nodes that started or finished lately. Raises what the gateway raises."""
        with self._sweeping:
            since = (self._watermark or self._cluster.created) - _OVERLAP
            started = self._gateway.list_nodes(self._cluster.requirement_id, started_since=since)
            finished = self._gateway.list_nodes(self._cluster.requirement_id, finished_since=since)
            with self._lock:
                for node in (*started, *finished):
                    self._note(node)
                self._publish()
            self._find_addresses()

    def _note(self, node: NodeRecord) -> None:
        times = [time for time in (node.started, node.finished, self._watermark) if time is not None]
        self._watermark = max(times) if times else None
        if node.state is NodeState.ENDED:
            self._end(node)
        elif node.name not in self._ended_names:
            self._nodes[node.name] = node

    def _end(self, node: NodeRecord) -> None:
        # Names are used once, so an ended node never comes back; a stale answer must not revive it.
        self._nodes.pop(node.name, None)
        self._addresses.pop(node.name, None)
        self._looked_up.discard(node.name)
        self._additions.pop(node.name, None)
        earlier = self._ended.pop(node.name, None)
        if node.name not in self._ended_names or (
            earlier is not None and earlier.state is not NodeState.ENDED and node.state is NodeState.ENDED
        ):
            self._endings.append(node)
        if earlier is not None and earlier.state is NodeState.ENDED:
            node = earlier
        self._ended[node.name] = node
        self._ended_names[node.name] = None
        for remembered, most in ((self._ended, _REMEMBERED_ENDINGS), (self._ended_names, _REMEMBERED_NAMES)):
            while len(remembered) > most:
                del remembered[next(iter(remembered))]

    def _publish(self) -> None:
        self._snapshot = MappingProxyType(dict(self._nodes))

    def _find_addresses(self) -> None:
        missing = [
            node
            for node in self.nodes().values()
            if node.state is NodeState.RUNNING and node.name not in self._addresses
        ]
        if len(missing) <= _SINGLE_LOOKUPS:
            for node in missing:
                address = self._gateway.node_address(node)
                if address is not None:
                    self._addresses[node.name] = address
            return
        tags = {group.group_id: group.tag for group in self._cluster.groups}
        for tag in {tags[node.group_id] for node in missing if node.group_id in tags}:
            found = self._gateway.private_addresses(tag)
            for node in missing:
                if node.platform_node_id is not None and node.platform_node_id in found:
                    self._addresses[node.name] = NodeAddress(found[node.platform_node_id])
