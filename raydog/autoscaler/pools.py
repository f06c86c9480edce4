"""The worker pools that the head makes: one for each node type, made when first needed and again when it has gone.

Machines of a pool are all alike, so a node type whose ``node_config`` has changed gets another pool, and a task group
of its own whose work only that pool takes (`variant`). The earlier pool takes no more work and ends when it is idle.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.provisioning import user_data
from raydog.errors import NotFoundError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.launching import provision
from raydog.yellowdog.records import ClusterRecord, PoolRecord, PoolRequest

MAX_NODES = 10_000  # the platform's own limit (contract, 5.1)
_IDLE_POOL_SECONDS = 300.0
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

    def __init__(self, gateway: Gateway, config: ClusterConfig, look_up: Callable[[str], NodeType | None]) -> None:
        self._gateway = gateway
        self._config = config
        self._look_up = look_up
        self._locks: dict[str, threading.Lock] = {}
        self._pools: dict[str, PoolRecord] = {}
        self._checked: dict[str, float] = {}
        self._types: dict[str, NodeType] = {}

    def ensure(self, cluster: ClusterRecord, node_type: NodeType, nodes: int) -> PoolRecord:
        """The node type's pool, provisioned for ``nodes`` at first. It grows by itself from then on.

        Raises `ProvisioningError` if no template can be used, `PlatformUnavailableError`.
        """
        tag = self._tag(cluster, node_type)
        self._types[tag] = node_type
        # setdefault is one step for all threads; a defaultdict's look and store are two
        with self._locks.setdefault(tag, threading.Lock()):
            return self._live(cluster, tag) or self._know(tag, self._provision(cluster, node_type, tag, nodes))

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

    def _tag(self, cluster: ClusterRecord, node_type: NodeType) -> str:
        return naming.worker_tag(cluster.cluster_id, variant(self._config, node_type))

    def _live(self, cluster: ClusterRecord, tag: str) -> PoolRecord | None:
        known = self._pools.get(tag)
        if known is not None and self._still_live(tag, known):
            return known
        adopted = self._adopt(cluster, tag)
        return None if adopted is None else self._know(tag, adopted)

    def _know(self, tag: str, pool: PoolRecord) -> PoolRecord:
        self._pools[tag] = pool
        self._checked[tag] = time.monotonic()
        return pool

    def _still_live(self, tag: str, pool: PoolRecord) -> bool:
        if time.monotonic() - self._checked.get(tag, 0.0) < _TRUSTED_SECONDS:
            return True
        try:
            live = self._gateway.get_pool(pool.pool_id).live
        except NotFoundError:
            live = False
        self._checked[tag] = time.monotonic()
        return live

    def _adopt(self, cluster: ClusterRecord, tag: str) -> PoolRecord | None:
        """A live pool that an earlier autoscaler of this head has made."""
        name = ClusterName(self._config.namespace, self._config.cluster_name)
        pools = clusters.find_pools(self._gateway, name, cluster.cluster_id)
        return next((pool for pool in pools if pool.live and pool.worker_tag == tag), None)

    def _provision(self, cluster: ClusterRecord, node_type: NodeType, tag: str, nodes: int) -> PoolRecord:
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
        if tag not in self._pools:
            pool = provision(self._gateway, config.namespace, request, node_type.templates)
            if pool.live:
                return pool
        # Whether the name of a pool that has ended is free again is not documented, so it is not used twice. (The pool
        # just seen was one: an earlier autoscaler of this head had made it.)
        other = naming.pool_name(config.cluster_name, cluster.cluster_id, f"{called}-{naming.new_suffix()[:4]}")
        return provision(self._gateway, config.namespace, replace(request, name=other), node_type.templates)
