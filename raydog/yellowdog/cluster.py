"""Making and finding the work requirement, pools and tasks that are one cluster; `teardown` ends them.

A cluster's things carry its exact name and an id of its own (`naming`), and its groups and pools carry a tag made of
that id. Both must fit before anything is touched: a prefix is never enough, and neither is a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from raydog.errors import NotFoundError
from raydog.yellowdog import naming, ownership
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.naming import Maker
from raydog.yellowdog.parallel import for_each
from raydog.yellowdog.records import (
    FINISHED_TASK_STATUSES,
    UNFINISHED_TASK_STATUSES,
    ClusterRecord,
    GroupRequest,
    NodeRecord,
    PoolRecord,
)

HEAD_GROUP = "head-node"
OBSERVABILITY_GROUP = naming.OBSERVABILITY_TYPE
"""The task group of the node with Prometheus and Grafana, which is no node of Ray's."""
HEADLESS_GRACE_SECONDS = 30.0
"""How long a work requirement without a head task may be one that somebody is just starting."""

LIVE = ("RUNNING", "HELD", "FINISHING")
UNFINISHED = (*LIVE, "CANCELLING")
FINISHED = ("COMPLETED", "FAILED", "CANCELLED")
"""Statuses of work requirements."""
_SURELY_OLD = timedelta(minutes=10)


@dataclass(frozen=True)
class ClusterName:
    """The user's name for a cluster, the platform namespace it lives in, and what makes it.

    Clusters of another maker are never seen under this name, though they may be called the same.
    """

    namespace: str
    cluster: str
    maker: Maker = Maker.AUTOSCALER

    def worker_tag(self, cluster_id: str, node_type: str) -> str:
        """The tag that binds a node type's task group to its worker pool."""
        return naming.worker_tag(cluster_id, node_type, self.maker)


def add_cluster(
    gateway: Gateway,
    name: ClusterName,
    tag: str | None,
    head_type: str,
    lifetime: timedelta | None,
    cluster_id: str | None = None,
    more: Sequence[GroupRequest] = (),
) -> ClusterRecord:
    """Add the work requirement of a new cluster, with the head's task group, and ``more`` behind it.

    Who may be interrupted meanwhile chooses the ``cluster_id`` (`naming.new_cluster_id`), to look for it afterwards.
    """
    cluster_id = cluster_id or naming.new_cluster_id()
    head_tag = name.worker_tag(cluster_id, head_type)
    group = GroupRequest(
        name=HEAD_GROUP,
        tag=head_tag,
        worker_tag=head_tag,
        task_timeout_seconds=None if lifetime is None else lifetime.total_seconds(),
        finish_if_any_task_failed=True,
        finish_if_all_tasks_finished=True,
    )
    requirement = naming.requirement_name(name.cluster, cluster_id)
    return gateway.add_cluster(name.namespace, requirement, cluster_id, tag, [group, *more])


def worker_group(cluster_id: str, node_type: str, timeout_seconds: float) -> GroupRequest:
    """The task group of a type of worker. It outlives its tasks: a cluster that shrank to nothing can grow again."""
    return GroupRequest(
        name=ownership.group_name(node_type),
        tag=naming.worker_tag(cluster_id, node_type),
        worker_tag=naming.worker_tag(cluster_id, node_type),
        task_timeout_seconds=timeout_seconds,
    )


def find_clusters(gateway: Gateway, name: ClusterName, statuses: Sequence[str] = LIVE) -> list[ClusterRecord]:
    """The clusters of exactly this name, the oldest first. More than one only while two are being made at once."""
    part = ownership.requirement_prefix(name.cluster)
    found = []
    for requirement_id, requirement_name in gateway.find_requirements(name.namespace, part, statuses):
        cluster_id = ownership.cluster_id_of(requirement_name, name.cluster)
        if cluster_id is None:
            continue
        cluster = gateway.get_cluster(requirement_id, cluster_id)
        if is_ours(cluster, name) and _still(cluster, statuses):
            found.append(cluster)
    return sorted(found, key=_age)


def _still(cluster: ClusterRecord, statuses: Sequence[str]) -> bool:
    """Whether a cluster has one of these statuses itself: a search may show an old one for a while."""
    return cluster.status in statuses or cluster.status not in (*UNFINISHED, *FINISHED)


def is_live(gateway: Gateway, name: ClusterName, cluster_id: str) -> bool:
    """Whether the cluster with this id lives, asked for by its exact name: a search may show a new one late."""
    try:
        cluster = gateway.cluster_named(name.namespace, naming.requirement_name(name.cluster, cluster_id), cluster_id)
    except NotFoundError:
        return False
    return is_ours(cluster, name) and _still(cluster, LIVE)


def _age(cluster: ClusterRecord) -> tuple[datetime, str]:
    return cluster.created, cluster.name


def is_ours(cluster: ClusterRecord, name: ClusterName) -> bool:
    """Whether a work requirement with a name like ours is a cluster of this name's maker."""
    head = cluster.group(HEAD_GROUP)
    return head is not None and ownership.tag_belongs(head.tag, cluster.cluster_id, name.maker)


def ever_existed(gateway: Gateway, name: ClusterName) -> bool:
    """Whether there may have been a cluster of this name, alive or over; else nothing can be left of one."""
    part = ownership.requirement_prefix(name.cluster)
    found = gateway.find_requirements(name.namespace, part, (*UNFINISHED, *FINISHED))
    return any(ownership.cluster_id_of(requirement_name, name.cluster) for _id, requirement_name in found)


def older_than(gateway: Gateway, name: ClusterName, cluster: ClusterRecord) -> ClusterRecord | None:
    """The oldest live cluster of this name, if that is not ``cluster``.

    Of two that are made at the same moment the older wins; names break a tie, so both see it the same way.
    """
    part = ownership.requirement_prefix(name.cluster)
    others = []
    for requirement_id, requirement_name in gateway.find_requirements(name.namespace, part, LIVE):
        cluster_id = ownership.cluster_id_of(requirement_name, name.cluster)
        if cluster_id is not None and cluster_id != cluster.cluster_id:
            other = gateway.get_cluster(requirement_id, cluster_id)
            if is_ours(other, name) and _still(other, LIVE):
                others.append(other)
    oldest = min(others, key=_age, default=None)
    return oldest if oldest is not None and _age(oldest) < _age(cluster) else None


def find_head(gateway: Gateway, cluster: ClusterRecord) -> NodeRecord | None:
    """The cluster's head, alive or not; None if nobody has submitted it."""
    return _latest_of(gateway, cluster, HEAD_GROUP)


def find_observability_node(gateway: Gateway, cluster: ClusterRecord) -> NodeRecord | None:
    """The cluster's observability node, alive or not; None if it has none."""
    return _latest_of(gateway, cluster, OBSERVABILITY_GROUP)


def _latest_of(gateway: Gateway, cluster: ClusterRecord, group_name: str) -> NodeRecord | None:
    group = cluster.group(group_name)
    if group is None:
        return None
    nodes = gateway.list_nodes(cluster.requirement_id, group_id=group.group_id)
    return nodes[-1] if nodes else None


def unfinished_nodes(gateway: Gateway, cluster: ClusterRecord) -> list[NodeRecord]:
    """The cluster's nodes that have not ended."""
    return gateway.list_nodes(cluster.requirement_id, statuses=UNFINISHED_TASK_STATUSES)


def find_pools(gateway: Gateway, name: ClusterName, cluster_id: str | None = None) -> Iterator[PoolRecord]:
    """The pools of the clusters of exactly this name (or of one of them) whose compute may still be alive."""
    part = naming.requirement_name(name.cluster, cluster_id or "")
    found = gateway.find_pools(name.namespace, part)
    ids = [pool_id for pool_id, pool_name, status in found if status != "TERMINATED" and pool_name.startswith(part)]
    for pool in for_each(gateway.get_pool, ids):
        if ownership.pool_belongs(pool.name, pool.worker_tag, name.cluster, name.maker) and (
            cluster_id is None or ownership.tag_belongs(pool.worker_tag, cluster_id, name.maker)
        ):
            yield pool


def has_ended(head: NodeRecord) -> bool:
    """Whether a head is ending or has ended, so that what is left of its cluster only lingers."""
    return head.abort_requested or head.status in FINISHED_TASK_STATUSES


def is_overdue(cluster: ClusterRecord, watched_seconds: float, now: datetime | None = None) -> bool:
    """Whether nobody can be busy any more with the first steps of making a cluster: its head's task and pool.

    ``watched_seconds`` is how long the caller has seen none of it. The cluster's age counts only when it is large,
    since the platform's clock need not agree with this machine's.
    """
    age = (now or datetime.now(timezone.utc)) - cluster.created
    return watched_seconds >= HEADLESS_GRACE_SECONDS or age > _SURELY_OLD
