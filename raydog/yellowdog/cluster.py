"""Making, finding and ending the work requirement, pools and tasks that are one cluster.

A cluster's things carry its exact name and an id of its own (`naming`), and its groups and pools carry a tag made of
that id. Both must fit before anything is touched: a prefix is never enough, and neither is a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from raydog.errors import NotFoundError, PlatformError, TeardownError
from raydog.waiting import Clock, Pending, Ready, SystemClock, WaitTimeout, wait_until
from raydog.yellowdog import naming, ownership
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import (
    FINISHED_TASK_STATUSES,
    UNFINISHED_TASK_STATUSES,
    ClusterRecord,
    GroupRequest,
    NodeRecord,
    PoolRecord,
)

HEAD_GROUP = "head-node"
HEADLESS_GRACE_SECONDS = 30.0
"""How long a work requirement without a head task may be one that somebody is just starting."""
LOOKS_APART_SECONDS = 1.0
"""Between the two looks that must find nothing of a cluster that was torn down."""

_LIVE = ("RUNNING", "HELD", "FINISHING")
_UNFINISHED = (*_LIVE, "CANCELLING")
_FINISHED = ("COMPLETED", "FAILED", "CANCELLED")
_SURELY_OLD = timedelta(minutes=10)
_PARALLEL_CALLS = 8  # a session keeps ten connections


@dataclass(frozen=True)
class ClusterName:
    """The user's name for a cluster, and the platform namespace it lives in."""

    namespace: str
    cluster: str


def add_cluster(
    gateway: Gateway,
    name: ClusterName,
    tag: str | None,
    head_type: str,
    lifetime: timedelta,
    cluster_id: str | None = None,
) -> ClusterRecord:
    """Add the work requirement of a new cluster, with the head's task group. Workers' groups come when needed.

    Who may be interrupted meanwhile chooses the ``cluster_id`` (`naming.new_cluster_id`), to look for it afterwards.
    """
    cluster_id = cluster_id or naming.new_cluster_id()
    head_tag = naming.worker_tag(cluster_id, head_type)
    group = GroupRequest(
        name=HEAD_GROUP,
        tag=head_tag,
        worker_tag=head_tag,
        task_timeout_seconds=lifetime.total_seconds(),
        finish_if_any_task_failed=True,
        finish_if_all_tasks_finished=True,
    )
    requirement = naming.requirement_name(name.cluster, cluster_id)
    return gateway.add_cluster(name.namespace, requirement, cluster_id, tag, [group])


def worker_group(cluster_id: str, node_type: str, timeout_seconds: float) -> GroupRequest:
    """The task group of a type of worker. It outlives its tasks: a cluster that shrank to nothing can grow again."""
    return GroupRequest(
        name=ownership.group_name(node_type),
        tag=naming.worker_tag(cluster_id, node_type),
        worker_tag=naming.worker_tag(cluster_id, node_type),
        task_timeout_seconds=timeout_seconds,
    )


def find_clusters(gateway: Gateway, name: ClusterName, statuses: Sequence[str] = _LIVE) -> list[ClusterRecord]:
    """The clusters of exactly this name, the oldest first. More than one only while two are being made at once."""
    part = ownership.requirement_prefix(name.cluster)
    found = []
    for requirement_id, requirement_name in gateway.find_requirements(name.namespace, part, statuses):
        cluster_id = ownership.cluster_id_of(requirement_name, name.cluster)
        if cluster_id is None:
            continue
        cluster = gateway.get_cluster(requirement_id, cluster_id)
        if _is_ours(cluster):
            found.append(cluster)
    return sorted(found, key=lambda cluster: (cluster.created, cluster.name))


def _is_ours(cluster: ClusterRecord) -> bool:
    head = cluster.group(HEAD_GROUP)
    return head is not None and ownership.tag_belongs(head.tag, cluster.cluster_id)


def find_head(gateway: Gateway, cluster: ClusterRecord) -> NodeRecord | None:
    """The cluster's head, alive or not; None if nobody has submitted it."""
    group = cluster.group(HEAD_GROUP)
    if group is None:
        return None
    heads = gateway.list_nodes(cluster.requirement_id, group_id=group.group_id)
    return heads[-1] if heads else None


def unfinished_nodes(gateway: Gateway, cluster: ClusterRecord) -> list[NodeRecord]:
    """The cluster's nodes that have not ended."""
    return gateway.list_nodes(cluster.requirement_id, statuses=UNFINISHED_TASK_STATUSES)


def find_pools(gateway: Gateway, name: ClusterName, cluster_id: str | None = None) -> Iterator[PoolRecord]:
    """The pools of the clusters of exactly this name (or of one of them) whose compute may still be alive."""
    part = naming.requirement_name(name.cluster, cluster_id or "")
    for pool_id, pool_name, status in gateway.find_pools(name.namespace, part):
        if status == "TERMINATED" or not pool_name.startswith(part):
            continue
        pool = gateway.get_pool(pool_id)
        if ownership.pool_belongs(pool.name, pool.worker_tag, name.cluster) and (
            cluster_id is None or ownership.tag_belongs(pool.worker_tag, cluster_id)
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


def end_leftovers(
    gateway: Gateway, name: ClusterName, lingering: Sequence[ClusterRecord], report: Callable[[str], None]
) -> list[str]:
    """End work requirements that linger, and pools without a living one; return the names of what was ended.

    A cluster's work requirement comes before its pools. So pools are listed first: those of a cluster that somebody
    makes at this very moment then find their work requirement among the living. Raises `TeardownError`.
    """
    ended = []
    for cluster in lingering:
        request_teardown(gateway, name, cluster_id=cluster.cluster_id, report=report)
        ended.append(cluster.name)
    pools = list(find_pools(gateway, name))
    living = {cluster.cluster_id for cluster in find_clusters(gateway, name)}
    failures: list[str] = []
    for pool in pools:
        if ownership.cluster_id_of_tag(pool.worker_tag) in living:
            continue
        if pool.live:
            ended.append(pool.name)
        _end_pool(gateway, pool, failures)
    _raise_if(failures)
    return ended


@dataclass(frozen=True)
class Teardown:
    """What a teardown has found and begun to end."""

    pools: tuple[PoolRecord, ...] = ()
    clusters: tuple[ClusterRecord, ...] = ()


def request_teardown(
    gateway: Gateway, name: ClusterName, *, cluster_id: str | None = None, report: Callable[[str], None] | None = None
) -> Teardown:
    """Begin to end a cluster (or, without an id, all of exactly this name); return what there was.

    First the work requirements, so that no task can start any more; then the pools; then their compute, which ends the
    machines at once. What is over already is success. Raises `TeardownError` after trying everything.
    """
    say = report or (lambda _text: None)
    failures: list[str] = []
    found = _unfinished(gateway, name, cluster_id)
    for cluster in found:
        say(f"cancelling work requirement {cluster.name}")
        _end_cluster(gateway, cluster, failures)
    pools = list(find_pools(gateway, name, cluster_id))
    for pool in pools:
        say(f"shutting down worker pool {pool.name}")
    with ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix="raydog-teardown") as executor:
        list(executor.map(lambda pool: _end_pool(gateway, pool, failures), pools))
    _raise_if(failures)
    return Teardown(tuple(pools), tuple(found))


def _unfinished(gateway: Gateway, name: ClusterName, cluster_id: str | None) -> list[ClusterRecord]:
    """The clusters of this name, or the one with this id, that are not over."""
    found = find_clusters(gateway, name, _UNFINISHED)
    if cluster_id is None:
        return found
    found = [cluster for cluster in found if cluster.cluster_id == cluster_id]
    if not found:  # a search may show a new one late
        requirement = naming.requirement_name(name.cluster, cluster_id)
        try:
            cluster = gateway.cluster_named(name.namespace, requirement, cluster_id)
        except NotFoundError:
            return []
        if _is_ours(cluster) and cluster.status not in _FINISHED:
            return [cluster]
    return found


def _raise_if(failures: Sequence[str]) -> None:
    if failures:
        raise TeardownError(
            "could not end everything, so it may still cost money:\n  "
            + "\n  ".join(failures)
            + "\nRun ray down again, or end these in the YellowDog Portal.",
            failures,
        )


def _end_cluster(gateway: Gateway, cluster: ClusterRecord, failures: list[str]) -> None:
    _attempt(failures, cluster.name, lambda: gateway.cancel_cluster(cluster.requirement_id))


def _end_pool(gateway: Gateway, pool: PoolRecord, failures: list[str]) -> None:
    if pool.live:
        _attempt(failures, pool.name, lambda: gateway.shut_down_pool(pool.pool_id))
    if pool.compute_requirement_id is not None:
        compute_id = pool.compute_requirement_id
        _attempt(failures, pool.name, lambda: gateway.terminate_compute(compute_id))


def _attempt(failures: list[str], name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except PlatformError as error:
        failures.append(f"{name}: {error}")


def await_teardown(
    gateway: Gateway,
    name: ClusterName,
    begun: Teardown,
    timeout: float,
    *,
    cluster_id: str | None = None,
    report: Callable[[str, float], None] | None = None,
    clock: Clock | None = None,
) -> list[str]:
    """Wait until nothing of the cluster is left. Returns what is still terminating by itself after ``timeout`` seconds.

    Two looks, `LOOKS_APART_SECONDS` apart, must find nothing: a search may show late what was made just before. What
    turns up meanwhile is ended too. Raises `TeardownError` if something is alive that nothing is ending.
    """
    clock = clock or SystemClock()
    remains = _Remains(gateway, name, cluster_id, begun)
    left: list[str] = []

    def look() -> Ready[list[str]] | Pending:
        nonlocal left
        left = remains.look()
        if not left:
            clock.sleep(LOOKS_APART_SECONDS)
            left = remains.look()
        return Pending("; ".join(left)) if left else Ready([])

    try:
        return wait_until(look, timeout, interval=0.1, max_interval=1.0, on_pending=report, clock=clock)
    except WaitTimeout:
        stuck = [text for text in left if not text.endswith((" TERMINATING", " CANCELLING"))]
        if stuck:
            raise TeardownError(
                "left after the teardown, and perhaps costing money:\n  "
                + "\n  ".join(stuck)
                + "\nRun ray down again, or end these in the YellowDog Portal.",
                stuck,
            ) from None
        return left


class _Remains:
    """What is left of what a teardown ends. The ids that are known are asked for, whatever a search shows."""

    def __init__(self, gateway: Gateway, name: ClusterName, cluster_id: str | None, begun: Teardown) -> None:
        self._gateway = gateway
        self._name = name
        self._cluster_id = cluster_id
        self._clusters = {cluster.requirement_id: cluster for cluster in begun.clusters}
        self._pools = {pool.pool_id: pool for pool in begun.pools}
        self._over: set[str] = set()

    def look(self) -> list[str]:
        """What is left, each with its status; what has turned up since the last look is being ended."""
        left: list[str] = []
        for cluster in _unfinished(self._gateway, self._name, self._cluster_id):
            if cluster.requirement_id not in self._clusters:
                failures: list[str] = []
                _end_cluster(self._gateway, cluster, failures)
                left += failures
                if not failures:
                    self._clusters[cluster.requirement_id] = cluster
        for pool in find_pools(self._gateway, self._name, self._cluster_id):
            left += self._end_if_new(pool)
        left += [text for cluster in self._clusters.values() if (text := self._left_of_cluster(cluster))]
        left += [text for pool in list(self._pools.values()) if (text := self._left_of_pool(pool))]
        return left

    def _end_if_new(self, pool: PoolRecord) -> list[str]:
        known = self._pools.get(pool.pool_id)
        if known is not None and known.compute_requirement_id == pool.compute_requirement_id:
            return []
        failures: list[str] = []
        _end_pool(self._gateway, pool, failures)
        if not failures:
            self._pools[pool.pool_id] = pool
        return failures

    def _left_of_cluster(self, cluster: ClusterRecord) -> str | None:
        if cluster.requirement_id in self._over:
            return None
        try:
            status = self._gateway.get_cluster(cluster.requirement_id, cluster.cluster_id).status
        except NotFoundError:
            return None
        if status in _FINISHED:
            self._over.add(cluster.requirement_id)
            return None
        return f"work requirement {cluster.name} {status}"

    def _left_of_pool(self, pool: PoolRecord) -> str | None:
        if pool.pool_id in self._over:
            return None
        compute_id = pool.compute_requirement_id
        status = self._gateway.compute_status(compute_id) if compute_id is not None else None
        if status not in (None, "TERMINATED"):
            return f"compute of worker pool {pool.name} {status}"
        try:
            now = self._gateway.get_pool(pool.pool_id)
        except NotFoundError:
            return None
        if now.live:
            return f"worker pool {pool.name} {now.status}"
        if now.compute_requirement_id != compute_id:
            return "; ".join(self._end_if_new(now)) or f"compute of worker pool {pool.name} TERMINATING"
        if status == "TERMINATED":
            self._over.add(pool.pool_id)
        return None
