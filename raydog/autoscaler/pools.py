"""The worker pools that the head makes: one for each node type, made when first needed and again when it has gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.provisioning import provision, user_data
from raydog.errors import NotFoundError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, PoolRecord, PoolRequest

MAX_NODES = 10_000  # the platform's own limit (contract, 5.1)
_IDLE_POOL_SECONDS = 300.0
_TRUSTED_SECONDS = 5.0


class WorkerPools:
    """Makes sure that a node type has a live pool. Thread-safe: two launches that find none make one."""

    def __init__(self, gateway: Gateway, config: ClusterConfig) -> None:
        self._gateway = gateway
        self._config = config
        self._locks: dict[str, threading.Lock] = {}
        self._pools: dict[str, PoolRecord] = {}
        self._checked: dict[str, float] = {}
        self._types: dict[str, NodeType] = {}

    def ensure(self, cluster: ClusterRecord, node_type: NodeType, nodes: int) -> PoolRecord:
        """The node type's pool, provisioned for ``nodes`` at first. It grows by itself from then on.

        Raises `ProvisioningError` if no template can be used, `PlatformUnavailableError`.
        """
        self._types[node_type.name] = node_type
        # setdefault is one step for all threads; a defaultdict's look and store are two
        with self._locks.setdefault(node_type.name, threading.Lock()):
            known = self._pools.get(node_type.name)
            if known is not None and not self._still_live(node_type.name, known):
                known = None
            if known is None:
                known = self._adopt(cluster, node_type) or self._provision(cluster, node_type, nodes)
                self._pools[node_type.name] = known
                self._checked[node_type.name] = time.monotonic()
            return known

    def ensure_for_waiting(self, cluster: ClusterRecord, waiting: Mapping[str, int]) -> None:
        """Make pools again for node types whose tasks wait though their pool has gone. ``waiting``: tasks by type."""
        for name, count in waiting.items():
            if name in self._types:
                self.ensure(cluster, self._types[name], count)

    def _still_live(self, name: str, pool: PoolRecord) -> bool:
        if time.monotonic() - self._checked.get(name, 0.0) < _TRUSTED_SECONDS:
            return True
        try:
            live = self._gateway.get_pool(pool.pool_id).live
        except NotFoundError:
            live = False
        self._checked[name] = time.monotonic()
        return live

    def _adopt(self, cluster: ClusterRecord, node_type: NodeType) -> PoolRecord | None:
        """A live pool that an earlier autoscaler of this head has made."""
        tag = naming.worker_tag(cluster.cluster_id, node_type.name)
        name = ClusterName(self._config.namespace, self._config.cluster_name)
        pools = clusters.find_pools(self._gateway, name, cluster.cluster_id)
        return next((pool for pool in pools if pool.live and pool.worker_tag == tag), None)

    def _provision(self, cluster: ClusterRecord, node_type: NodeType, nodes: int) -> PoolRecord:
        if node_type.name not in self._pools:
            pool = self._provision_as(cluster, node_type, nodes, "")
            if pool.live:
                return pool
        # Whether the name of a pool that has ended is free again is not documented, so it is not used twice. (The pool
        # just seen was one: an earlier autoscaler of this head had made it.)
        return self._provision_as(cluster, node_type, nodes, f"-{naming.new_suffix()[:4]}")

    def _provision_as(self, cluster: ClusterRecord, node_type: NodeType, nodes: int, attempt: str) -> PoolRecord:
        config = self._config
        request = PoolRequest(
            name=naming.pool_name(config.cluster_name, cluster.cluster_id, node_type.name + attempt),
            template="",
            worker_tag=naming.worker_tag(cluster.cluster_id, node_type.name),
            initial_nodes=min(nodes, MAX_NODES),
            max_nodes=MAX_NODES,
            tag=config.tag,
            images_id=node_type.images_id,
            user_data=user_data(config, node_type),
            instance_tags=node_type.instance_tags,
            metrics_enabled=node_type.metrics_enabled,
            idle_pool_seconds=_IDLE_POOL_SECONDS,
        )
        return provision(self._gateway, config.namespace, request, node_type.templates)
