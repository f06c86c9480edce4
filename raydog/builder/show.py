"""What still lives of a cluster whose state was saved. It only looks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from raydog.builder.proxy import name_of
from raydog.builder.state import SavedState
from raydog.errors import NotFoundError
from raydog.yellowdog.cluster import FINISHED, find_pools
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.parallel import for_each
from raydog.yellowdog.records import PoolRecord


@dataclass(frozen=True)
class PoolLife:
    """A worker pool. ``name`` and ``status`` are None if the platform does not know it.

    ``nodes`` is how many of its instances still cost money.
    """

    worker_pool_id: str
    name: str | None = None
    status: str | None = None
    nodes: int = 0

    @property
    def over(self) -> bool:
        """Whether it has no nodes and can give none."""
        return self.nodes == 0 and self.status in (None, "SHUTDOWN", "TERMINATED")


@dataclass(frozen=True)
class ClusterLife:
    """A cluster at one moment. ``work_requirement`` and its status are None if the platform does not know it.

    ``tasks`` holds how many tasks have which status: a node is a task. ``pools`` are those of the saved state in its
    order, then those that were added later.
    """

    cluster: str
    namespace: str
    work_requirement_id: str
    work_requirement: str | None = None
    work_requirement_status: str | None = None
    tasks: dict[str, int] = field(default_factory=dict)
    pools: tuple[PoolLife, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the platform knows the work requirement. If not, the state is of another platform or account."""
        return self.work_requirement_status is not None

    @property
    def over(self) -> bool:
        """Whether nothing of it lives, so that nothing costs money."""
        ended = self.work_requirement_status in (None, *FINISHED)
        return ended and all(pool.over for pool in self.pools)

    def as_json(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return asdict(self)


def look(gateway: Gateway, saved: SavedState) -> ClusterLife:
    """Look at everything that a saved state names, and at the pools that the cluster got later.

    Those are known by the cluster's id, which a state that yellowdog-ray 2.0.0 saved does not have. Raises
    `PlatformError` if the platform does not answer.
    """
    name, status, tasks = _requirement(gateway, saved.work_requirement_id)
    pools = for_each(lambda pool_id: _pool(gateway, pool_id), saved.worker_pool_ids)
    pools += for_each(lambda pool: _life(gateway, pool), _added_later(gateway, saved))
    return ClusterLife(
        saved.cluster_name, saved.cluster_namespace, saved.work_requirement_id, name, status, tasks, tuple(pools)
    )


def _requirement(gateway: Gateway, requirement_id: str) -> tuple[str | None, str | None, dict[str, int]]:
    try:
        found = gateway.get_cluster(requirement_id, "")
    except NotFoundError:
        return None, None, {}
    tasks: dict[str, int] = {}
    for group in found.groups:
        for status, count in group.tasks.items():
            tasks[status] = tasks.get(status, 0) + count
    return found.name, found.status, tasks


def _added_later(gateway: Gateway, saved: SavedState) -> list[PoolRecord]:
    name = name_of(saved)
    if name is None:
        return []
    return [pool for pool in find_pools(gateway, name, saved.cluster_id) if pool.pool_id not in saved.worker_pool_ids]


def _pool(gateway: Gateway, pool_id: str) -> PoolLife:
    try:
        return _life(gateway, gateway.get_pool(pool_id))
    except NotFoundError:
        return PoolLife(pool_id)


def _life(gateway: Gateway, pool: PoolRecord) -> PoolLife:
    compute_id = pool.compute_requirement_id
    nodes = len(gateway.live_instances(compute_id)) if compute_id is not None else 0
    return PoolLife(pool.pool_id, pool.name, pool.status, nodes)
