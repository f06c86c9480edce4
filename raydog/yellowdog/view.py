"""What is known of one cluster's nodes, kept up to date at the cost of what changed.

Reads are served from memory. A *full* sweep lists all unfinished tasks (a pending task has neither start nor
finish time, so nothing cheaper finds those that somebody else added); a sweep of *changes* asks only for tasks
that started or finished since the last one, in the platform's own time (`_Since`), so clocks need not agree.

Only an answer that says so ends a node for good. A list may lag behind, or shift while it is paged, so who is merely
missing from a full sweep is asked for singly; where that cannot be, it is hidden until an answer shows it again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

from raydog.errors import NotFoundError, PlatformError, RayDogError
from raydog.waiting import Clock, SystemClock
from raydog.yellowdog.cluster import OBSERVABILITY_GROUP
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import (
    UNFINISHED_TASK_STATUSES,
    ClusterRecord,
    NodeAddress,
    NodeRecord,
    NodeState,
)

logger = logging.getLogger(__name__)

_OVERLAP = timedelta(seconds=10)  # nothing promises that the platform shows events in their order (contract, 5.2)
_SINGLE_LOOKUPS = 3  # up to here a call for each node is cheaper than a page of all
_ASKED_FOR = 20  # nodes that are missing, in a sweep
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 120.0  # seconds between look-ups of an address that fail
_REMEMBERED_ENDINGS = 200
_REMEMBERED_NAMES = 100_000  # of ended nodes, some 10 MB; far more than end while an answer can be stale


class _Since:
    """From when on changes are asked for: a time that the platform's clock had surely reached at the last sweep.

    That clock is not ours. It had reached the latest time in any answer, and it runs as fast as ours does, so what is
    asked for does not grow while nothing happens, nor repeats what happened last for ever.
    """

    def __init__(self, reached: datetime) -> None:
        self._reached = reached
        self._at: float | None = None  # in our own monotonic time

    def ask(self) -> datetime:
        return self._reached - _OVERLAP

    def swept(self, began: float, ended: float, nodes: Iterable[NodeRecord]) -> None:
        """A sweep, between these monotonic times, has given these nodes."""
        if self._at is not None:
            self._reached += timedelta(seconds=began - self._at)
        times = [time for node in nodes for time in (node.started, node.finished) if time is not None]
        if times:
            self._reached = max(self._reached, max(times) - timedelta(seconds=ended - began))
        self._at = began


class ClusterView:
    """Ray's nodes of a cluster. Thread-safe; sweeps may run beside reads, additions and each other.

    The observability node is none of them: Ray must neither count nor end it.
    """

    def __init__(self, gateway: Gateway, cluster: ClusterRecord, *, clock: Clock | None = None) -> None:
        self._gateway = gateway
        self._cluster = cluster
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._nodes: dict[str, NodeRecord] = {}
        self._changed = False  # since the snapshot was taken
        self._snapshot: Mapping[str, NodeRecord] = MappingProxyType({})
        self._addresses: dict[str, NodeAddress] = {}
        self._looked_up: set[str] = set()
        self._retries: dict[str, tuple[float, float]] = {}  # after a failed look-up: when again, and the pause
        self._missed: dict[str, NodeRecord] = {}  # those asked for longest ago first
        self._ended: dict[str, NodeRecord] = {}
        self._ended_names: dict[str, None] = {}
        self._endings: deque[NodeRecord] = deque(maxlen=_REMEMBERED_NAMES)
        self._additions: dict[str, int] = {}
        self._sweeps = 0
        self._started, self._finished = _Since(cluster.created), _Since(cluster.created)

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
        """The nodes that have ended since this was last called. What is merely missing is not among them."""
        with self._lock:
            endings = list(self._endings)
            self._endings.clear()
            return endings

    def add(self, nodes: Iterable[NodeRecord]) -> None:
        """Nodes that were just added show at once, and no sweep that had begun before can hide them."""
        with self._lock:
            for node in nodes:
                self._additions[node.name] = self._sweeps
                self._take(node)
            self._publish()

    def sweep(self) -> None:
        """Ask for all unfinished nodes. Raises what the gateway raises; what was known then stays."""
        with self._sweeping:
            with self._lock:
                self._sweeps += 1
                generation = self._sweeps
            began = self._clock.monotonic()
            listed = self._gateway.list_nodes(self._cluster.requirement_id, statuses=UNFINISHED_TASK_STATUSES)
            present = {node.name for node in listed}
            self._started.swept(began, self._clock.monotonic(), listed)
            with self._lock:
                for node in listed:
                    self._take(node)
                # A node added after the listing began may be missing from it.
                missing = [
                    node
                    for name, node in self._nodes.items()
                    if name not in present and self._additions.get(name, -1) < generation
                ]
                for node in missing[_ASKED_FOR:]:
                    self._miss(node)
                self._publish()
                asked = [*missing[:_ASKED_FOR], *self._missed.values()][:_ASKED_FOR]
            self._ask_for(asked)
            self._find_addresses()

    def sweep_changes(self, *, strangers: bool = True) -> None:
        """Ask for the nodes that started or finished lately. Raises what the gateway raises.

        ``strangers``: whether nodes may start that are not known here. If not, and none is waiting to start, only those
        that finished are asked for.
        """
        with self._sweeping:
            requirement_id, began = self._cluster.requirement_id, self._clock.monotonic()
            started: list[NodeRecord] = []
            if strangers or self._may_start():
                started = self._gateway.list_nodes(requirement_id, started_since=self._started.ask())
            finished = self._gateway.list_nodes(requirement_id, finished_since=self._finished.ask())
            ended = self._clock.monotonic()
            for since in (self._started, self._finished):
                since.swept(began, ended, (*started, *finished))
            with self._lock:
                for node in (*started, *finished):
                    self._take(node)
                self._publish()
            self._find_addresses()

    def _may_start(self) -> bool:
        with self._lock:
            return bool(self._missed) or any(node.state is NodeState.PENDING for node in self._nodes.values())

    def _ask_for(self, nodes: Sequence[NodeRecord]) -> None:
        """See what has become of nodes that a full sweep did not list."""
        for node in nodes:
            found: NodeRecord | None = None
            try:
                found = self._gateway.get_node(node.task_id)
            except NotFoundError:
                logger.info("the platform neither lists nor knows node %s", node.name)
            except PlatformError as error:
                logger.warning("what became of nodes that were not listed is not known yet: %s", error)
                return
            with self._lock:
                if found is not None:
                    self._take(found)
                elif node.name not in self._missed:
                    self._miss(node)
                else:  # unknown for the second time: it will hardly come back
                    del self._missed[node.name]
                    self._endings.append(node)
                if node.name in self._missed:
                    self._missed[node.name] = self._missed.pop(node.name)
                self._publish()

    def _miss(self, node: NodeRecord) -> None:
        """Hide a node that may have ended, until an answer says what it is."""
        self._forget(node.name)
        self._missed[node.name] = node

    def _forget(self, name: str) -> None:
        self._changed = self._changed or name in self._nodes
        for known in (self._nodes, self._addresses, self._retries, self._additions, self._missed):
            known.pop(name, None)
        self._looked_up.discard(name)

    def _take(self, node: NodeRecord) -> None:
        beside = self._cluster.group(OBSERVABILITY_GROUP)
        if beside is not None and node.group_id == beside.group_id:
            return
        if node.state is NodeState.ENDED:
            self._end(node)
        elif node.name not in self._ended_names:
            self._missed.pop(node.name, None)
            if self._nodes.get(node.name) != node:
                self._nodes[node.name] = node
                self._changed = True

    def _end(self, node: NodeRecord) -> None:
        # Names are used once, so an ended node never comes back; a stale answer must not revive it.
        self._forget(node.name)
        if node.name in self._ended_names:
            return
        self._endings.append(node)
        self._ended[node.name] = node
        self._ended_names[node.name] = None
        for remembered, most in ((self._ended, _REMEMBERED_ENDINGS), (self._ended_names, _REMEMBERED_NAMES)):
            while len(remembered) > most:
                del remembered[next(iter(remembered))]

    def _publish(self) -> None:
        """Readers keep what they have made of a snapshot while it is the same, so it is new only if need be."""
        if self._changed:
            self._snapshot = MappingProxyType(dict(self._nodes))
            self._changed = False

    def _find_addresses(self) -> None:
        """Look up what addresses are missing. One that cannot be had holds nothing up: it is tried again later."""
        now = self._clock.monotonic()
        missing = [
            node
            for node in self.nodes().values()
            if node.state is NodeState.RUNNING
            and node.name not in self._addresses
            and self._retries.get(node.name, (now, 0.0))[0] <= now
        ]
        if len(missing) <= _SINGLE_LOOKUPS:
            for node in missing:
                self._find_address(node)
            return
        by_tag: dict[str, list[NodeRecord]] = {}
        tags = {group.group_id: group.tag for group in self._cluster.groups}
        for node in missing:
            if node.group_id in tags:
                by_tag.setdefault(tags[node.group_id], []).append(node)
        for tag, nodes in by_tag.items():
            try:
                found = self._gateway.private_addresses(tag)
            except RayDogError as error:
                self._postpone(nodes, error)
                continue
            for node in nodes:
                self._retries.pop(node.name, None)
                if node.platform_node_id is not None and node.platform_node_id in found:
                    self._addresses[node.name] = NodeAddress(found[node.platform_node_id])

    def _find_address(self, node: NodeRecord) -> None:
        try:
            address = self._gateway.node_address(node)
        except RayDogError as error:
            self._postpone([node], error)
            return
        self._retries.pop(node.name, None)
        if address is not None:
            self._addresses[node.name] = address

    def _postpone(self, nodes: Sequence[NodeRecord], error: RayDogError) -> None:
        new = [node.name for node in nodes if node.name not in self._retries]
        if new:
            others = f" and {len(new) - 1} more nodes" if len(new) > 1 else ""
            logger.warning("looking up the address of %s%s will be tried again: %s", new[0], others, error)
        for node in nodes:
            pause = min(self._retries.get(node.name, (0.0, _FIRST_PAUSE / 2))[1] * 2, _LONGEST_PAUSE)
            self._retries[node.name] = (self._clock.monotonic() + pause, pause)
