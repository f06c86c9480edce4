"""The worker pools that the head makes: one for each node type, made when first needed and again when it has gone.

Machines of a pool are all alike, so a node type whose ``node_config`` has changed gets another pool, and a task group
of its own whose work only that pool takes (`variant`). The earlier pool takes no more work and ends when it is idle.

A pool without nodes is ended by the platform within seconds, so that a cluster whose head has died leaves none. It has
no machine that could be used again, so new work gets another pool and never races with the end of that one.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from raydog.autoscaler.capacity import PATIENCE, Patience, Shortages, shortage
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.provisioning import user_data
from raydog.errors import NotFoundError, ProvisioningError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.launching import provision
from raydog.yellowdog.records import ClusterRecord, PoolRecord, PoolRequest

MAX_NODES = 10_000  # the platform's own limit (contract, 5.1)
_IDLE_POOL_SECONDS = 5.0
_TRUSTED_SECONDS = 5.0
_DIGEST_LENGTH = 6


def variant(config: ClusterConfig, node_type: NodeType) -> str:
    """What a node type's pool and task group are called: its name, and a digest of the machines that are asked for.

    It stands in their names and tags, where an autoscaler that was started again finds it.
    """
    asked = (
        node_type.templates,
        node_type.images_id,
        user_data(config, node_type),
        node_type.instance_tags and dict(node_type.instance_tags),
        node_type.metrics_enabled,
    )
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{node_type.name}-{digest}"


class WorkerPools:
    """Makes sure that a node type has a live pool. Thread-safe: two launches that find none make one.

    ``look_up`` gives a node type by its name, for work that an earlier autoscaler of this head has submitted.
    """

    def __init__(
        self,
        gateway: Gateway,
        config: ClusterConfig,
        look_up: Callable[[str], NodeType | None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._gateway = gateway
        self._config = config
        self._look_up = look_up
        self._patience = patience
        self._shortages = Shortages(patience)
        self._locks: dict[str, threading.Lock] = {}
        self._pools: dict[str, PoolRecord] = {}
        self._checked: dict[str, float] = {}
        self._unused_since: dict[str, float] = {}
        self._used: set[str] = set()  # tags for which there has been a pool
        self._types: dict[str, NodeType] = {}

    def retire_empty(self, cluster: ClusterRecord, node_type: NodeType) -> None:
        """End the node type's pool if it has run empty. To be called before work for a type that has no nodes.

        It is about to end anyway, and whether its idle time goes on while new machines boot is not documented.
        """
        tag = self._tag(cluster, node_type)
        with self._locks.setdefault(tag, threading.Lock()):
            pool = self._pools.get(tag)
            if pool is not None and self._refresh(tag, pool).status == "EMPTY":
                self._retire(tag, pool)

    def ensure(self, cluster: ClusterRecord, node_type: NodeType, nodes: int) -> PoolRecord:
        """The node type's pool, provisioned for ``nodes`` at first. It grows by itself from then on.

        Raises `ProvisioningError` if no template can be used, `PlatformUnavailableError`.
        """
        tag = self._tag(cluster, node_type)
        self._types[tag] = node_type
        # setdefault is one step for all threads; a defaultdict's look and store are two
        with self._locks.setdefault(tag, threading.Lock()):
            pool = self._live(cluster, tag)
            if pool is None:
                templates = self._shortages.order(node_type.templates)
                pool = self._know(tag, self._provision(cluster, node_type, tag, nodes, templates))
            return pool

    def ensure_for_waiting(self, cluster: ClusterRecord, type_name: str, tag: str, nodes: int) -> bool:
        """See that tasks that wait for a worker with this tag have a pool, in case it has gone. Raises as `ensure`.

        False if it has gone and nobody knows any more how to make it: such tasks would wait for ever.
        """
        node_type = self._types.get(tag)
        if node_type is None:
            with self._locks.setdefault(tag, threading.Lock()):
                if self._live(cluster, tag) is not None:
                    return True
            node_type = self._look_up(type_name)
            if node_type is None or self._tag(cluster, node_type) != tag:
                return False
        self.ensure(cluster, node_type, nodes)
        return True

    def fall_back(self, cluster: ClusterRecord, tag: str, waiting: int, waited: float) -> str | None:
        """Look why ``waiting`` nodes with this tag have got no machine for ``waited`` seconds; None if one is coming.

        If the node type has another template, their work goes there: the pool takes no more of it and ends with what it
        runs, so that machines which come after all do not come twice. Raises as `ensure`.
        """
        with self._locks.setdefault(tag, threading.Lock()):
            pool = self._pools.get(tag)
            if pool is None or pool.compute_requirement_id is None:
                return None
            supply = self._gateway.supply(pool.compute_requirement_id)
            pool = self._refresh(tag, pool)
            reason = shortage(supply, pool.registered, waited, self._patience) if pool.live else None
            if not self._shortages.confirmed(pool.pool_id, reason) or reason is None:
                return None
            if pool.template is not None:
                self._shortages.note(pool.template)
                reason = f"{pool.template}: {reason}"
            node_type = self._types.get(tag)
            others = self._shortages.fresh(node_type.templates) if node_type is not None else []
            if node_type is None or not others:
                return reason
            self._retire(tag, pool)
            try:
                other = self._know(tag, self._provision(cluster, node_type, tag, waiting, others))
            except ProvisioningError as error:
                for template in others:
                    self._shortages.note(template)
                raise ProvisioningError(f"{reason}; {error}", error.category) from error
            return f"{reason}; {waiting} nodes wait for {other.template} now"

    def unused(self, used: Collection[str]) -> list[str]:
        """The tags whose pools nobody has used for a while; ``used`` are the tags that nodes have now."""
        now = time.monotonic()
        known = [tag for tag in list(self._pools) if tag not in used]
        self._unused_since = {tag: self._unused_since.get(tag, now) for tag in known}
        return [tag for tag in known if now - self._unused_since[tag] >= self._patience.unused]

    def end_unused(self, tag: str, is_used: Callable[[], bool]) -> None:
        """End a pool whose nodes have gone or were given up: machines that it still asks for would come for nothing."""
        with self._locks.setdefault(tag, threading.Lock()):
            pool = self._pools.get(tag)
            if pool is not None and not is_used():  # who launches adds nodes first, and asks for the pool after that
                self._retire(tag, pool)

    def _retire(self, tag: str, pool: PoolRecord) -> None:
        """Let a pool take no more work. What it runs goes on until it ends."""
        self._gateway.shut_down_pool(pool.pool_id)
        self._used.add(tag)
        self._pools.pop(tag, None)

    def _tag(self, cluster: ClusterRecord, node_type: NodeType) -> str:
        return naming.worker_tag(cluster.cluster_id, variant(self._config, node_type))

    def _live(self, cluster: ClusterRecord, tag: str) -> PoolRecord | None:
        known = self._pools.get(tag)
        if known is not None:
            if time.monotonic() - self._checked.get(tag, 0.0) >= _TRUSTED_SECONDS:
                known = self._refresh(tag, known)
            if known.live:
                return known
        if tag in self._used:
            return None  # whatever pool there was, this process has made or seen
        adopted = self._adopt(cluster, tag)
        return None if adopted is None else self._know(tag, adopted)

    def _know(self, tag: str, pool: PoolRecord) -> PoolRecord:
        self._used.add(tag)
        self._pools[tag] = pool
        self._checked[tag] = time.monotonic()
        return pool

    def _refresh(self, tag: str, pool: PoolRecord) -> PoolRecord:
        try:
            now = replace(self._gateway.get_pool(pool.pool_id), template=pool.template)
        except NotFoundError:
            now = replace(pool, status="TERMINATED")
        return self._know(tag, now)

    def _adopt(self, cluster: ClusterRecord, tag: str) -> PoolRecord | None:
        """A live pool that an earlier autoscaler of this head has made."""
        name = ClusterName(self._config.namespace, self._config.cluster_name)
        pools = clusters.find_pools(self._gateway, name, cluster.cluster_id)
        return next((pool for pool in pools if pool.live and pool.worker_tag == tag), None)

    def _provision(
        self, cluster: ClusterRecord, node_type: NodeType, tag: str, nodes: int, templates: Sequence[str]
    ) -> PoolRecord:
        config, called = self._config, variant(self._config, node_type)
        request = PoolRequest(
            name=naming.pool_name(config.cluster_name, cluster.cluster_id, called),
            template="",
            worker_tag=tag,
            initial_nodes=min(nodes, MAX_NODES),
            max_nodes=MAX_NODES,
            tag=config.tag,
            images_id=node_type.images_id,
            user_data=user_data(config, node_type),
            instance_tags=node_type.instance_tags,
            metrics_enabled=node_type.metrics_enabled,
            idle_pool_seconds=_IDLE_POOL_SECONDS,
        )
        if tag not in self._used:
            pool = provision(self._gateway, config.namespace, request, templates)
            if pool.live:
                return pool
        # Whether the name of a pool that has ended is free again is not documented, so it is not used twice. (The pool
        # just seen was one: an earlier autoscaler of this head had made it.)
        other = naming.pool_name(config.cluster_name, cluster.cluster_id, f"{called}-{naming.new_suffix()[:4]}")
        return provision(self._gateway, config.namespace, replace(request, name=other), templates)
