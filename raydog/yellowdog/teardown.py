"""Ending a cluster, and the proof that nothing of it is left.

What is found by name and tag is ended (`cluster`), or what is known by its ids. "Already over" is success, and what
turns up while it is waited for is ended too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from raydog.errors import NotFoundError, PlatformError, TeardownError
from raydog.waiting import Clock, Pending, Ready, SystemClock, WaitTimeout, wait_until
from raydog.yellowdog import naming, ownership
from raydog.yellowdog.cluster import (
    FINISHED,
    UNFINISHED,
    ClusterName,
    find_clusters,
    find_pools,
    is_live,
    is_ours,
)
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.naming import Maker
from raydog.yellowdog.parallel import for_each
from raydog.yellowdog.records import ClusterRecord, PoolRecord

LOOKS_APART_SECONDS = 1.0
"""Between the two looks that must find nothing of a cluster that was torn down."""

UNKNOWN = "is unknown to the platform"
_AGAIN = {Maker.AUTOSCALER: "Run ray down again", Maker.BUILDER: "Call shut_down() again"}


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
    if not pools:
        return ended
    living = {cluster.cluster_id: True for cluster in find_clusters(gateway, name)}
    failures: list[str] = []
    for pool in pools:
        cluster_id = ownership.cluster_id_of_tag(pool.worker_tag, name.maker)
        if cluster_id is not None and cluster_id not in living:
            living[cluster_id] = is_live(gateway, name, cluster_id)
        if cluster_id is None or living[cluster_id]:
            continue
        if pool.live:
            ended.append(pool.name)
        _end_pool(gateway, pool, failures)
    _raise_if(failures, name.maker)
    return ended


@dataclass(frozen=True)
class Teardown:
    """What a teardown has found and begun to end."""

    pools: tuple[PoolRecord, ...] = ()
    clusters: tuple[ClusterRecord, ...] = ()


def request_teardown(
    gateway: Gateway,
    name: ClusterName,
    *,
    cluster_id: str | None = None,
    pool_names: Iterable[str] = (),
    report: Callable[[str], None] | None = None,
) -> Teardown:
    """Begin to end a cluster (or, without an id, all of exactly this name); return what there was.

    First the work requirements, so that no task can start any more; then the pools; then their compute, which ends the
    machines at once. What is over already is success. Who has just made pools gives their ``pool_names``: one that a
    search does not show yet is asked for by its name. Raises `TeardownError` after trying everything.
    """
    say = report or (lambda _text: None)
    failures: list[str] = []
    found = _unfinished(gateway, name, cluster_id)
    for cluster in found:
        say(f"cancelling work requirement {cluster.name}")
        _end_cluster(gateway, cluster, failures)
    pools = list(find_pools(gateway, name, cluster_id))
    shown = {pool.name for pool in pools}
    pools += _pools_named(gateway, name, [one for one in pool_names if one not in shown])
    for pool in pools:
        say(f"shutting down worker pool {pool.name}")
    for_each(lambda pool: _end_pool(gateway, pool, failures), pools)
    _raise_if(failures, name.maker)
    return Teardown(tuple(pools), tuple(found))


def _pools_named(gateway: Gateway, name: ClusterName, pool_names: Sequence[str]) -> list[PoolRecord]:
    """Those of these pools that there are and that may still have compute."""

    def look(pool_name: str) -> PoolRecord | None:
        try:
            return gateway.pool_named(name.namespace, pool_name)
        except NotFoundError:
            return None

    found = [pool for pool in for_each(look, pool_names) if pool is not None and pool.status != "TERMINATED"]
    return [p for p in found if ownership.pool_belongs(p.name, p.worker_tag, name.cluster, name.maker)]


def request_teardown_by_ids(
    gateway: Gateway, requirement_id: str, pool_ids: Sequence[str], *, report: Callable[[str], None] | None = None
) -> tuple[Teardown, list[str]]:
    """Begin to end what has these ids, in the order of `request_teardown`.

    Returns what is being ended, and in words what was gone already: unknown to the platform, or over. Raises
    `TeardownError` after trying everything.
    """
    say = report or (lambda _text: None)
    failures: list[str] = []
    gone: list[str] = []
    found: list[ClusterRecord] = []
    try:
        cluster = gateway.get_cluster(requirement_id, "")
        if cluster.status in FINISHED:
            gone.append(f"work requirement {cluster.name} ({requirement_id}) was {cluster.status}")
        else:
            say(f"cancelling work requirement {cluster.name}")
            _end_cluster(gateway, cluster, failures)
            found.append(cluster)
    except NotFoundError:
        gone.append(f"work requirement {requirement_id} {UNKNOWN}")
    except PlatformError as error:
        failures.append(f"{requirement_id}: {error}")

    def end(pool_id: str) -> PoolRecord | str | None:
        try:
            pool = gateway.get_pool(pool_id)
            if not pool.live and _compute_is_over(gateway, pool):
                return f"worker pool {pool.name} ({pool_id}) was {pool.status}"
        except NotFoundError:
            return f"worker pool {pool_id} {UNKNOWN}"
        except PlatformError as error:
            failures.append(f"{pool_id}: {error}")
            return None
        say(f"shutting down worker pool {pool.name}")
        _end_pool(gateway, pool, failures)
        return pool

    ended = for_each(end, pool_ids)
    _raise_if(failures, Maker.BUILDER)
    gone += [one for one in ended if isinstance(one, str)]
    return Teardown(tuple(one for one in ended if isinstance(one, PoolRecord)), tuple(found)), gone


def _compute_is_over(gateway: Gateway, pool: PoolRecord) -> bool:
    compute_id = pool.compute_requirement_id
    return compute_id is None or gateway.compute_status(compute_id) in (None, "TERMINATED")


def end_pool(gateway: Gateway, pool: PoolRecord, maker: Maker) -> None:
    """Shut one pool down and terminate its compute at once. Raises `TeardownError` after trying both."""
    failures: list[str] = []
    _end_pool(gateway, pool, failures)
    _raise_if(failures, maker)


def _unfinished(gateway: Gateway, name: ClusterName, cluster_id: str | None) -> list[ClusterRecord]:
    """The clusters of this name, or the one with this id, that are not over."""
    found = find_clusters(gateway, name, UNFINISHED)
    if cluster_id is None:
        return found
    found = [cluster for cluster in found if cluster.cluster_id == cluster_id]
    if not found:  # a search may show a new one late
        requirement = naming.requirement_name(name.cluster, cluster_id)
        try:
            cluster = gateway.cluster_named(name.namespace, requirement, cluster_id)
        except NotFoundError:
            return []
        if is_ours(cluster, name) and cluster.status not in FINISHED:
            return [cluster]
    return found


def _raise_if(failures: Sequence[str], maker: Maker) -> None:
    if failures:
        raise TeardownError(
            "could not end everything, so it may still cost money:\n  "
            + "\n  ".join(failures)
            + f"\n{_AGAIN[maker]}, or end these in the YellowDog Portal.",
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
    name: ClusterName | None,
    begun: Teardown,
    timeout: float,
    *,
    cluster_id: str | None = None,
    report: Callable[[str, float], None] | None = None,
    clock: Clock | None = None,
) -> list[str]:
    """Wait until nothing of the cluster is left. Returns what is still terminating by itself after ``timeout`` seconds.

    Two looks, `LOOKS_APART_SECONDS` apart, must find nothing: a search may show late what was made just before. What
    turns up meanwhile is ended too. Without a name only what has begun to end is looked at, by its ids. Raises
    `TeardownError` if something is alive that nothing is ending.
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
                + f"\n{_AGAIN[name.maker if name else Maker.BUILDER]}, or end these in the YellowDog Portal.",
                stuck,
            ) from None
        return left


class _Remains:
    """What is left of what a teardown ends. The ids that are known are asked for, whatever a search shows."""

    def __init__(self, gateway: Gateway, name: ClusterName | None, cluster_id: str | None, begun: Teardown) -> None:
        self._gateway = gateway
        self._name = name
        self._cluster_id = cluster_id
        self._clusters = {cluster.requirement_id: cluster for cluster in begun.clusters}
        self._pools = {pool.pool_id: pool for pool in begun.pools}
        self._over: set[str] = set()

    def look(self) -> list[str]:
        """What is left, each with its status; what has turned up since the last look is being ended."""
        left: list[str] = []
        if self._name is not None:
            left += self._end_new(self._name)
        left += [text for cluster in self._clusters.values() if (text := self._left_of_cluster(cluster))]
        left += filter(None, for_each(self._left_of_pool, self._pools.values()))
        return left

    def _end_new(self, name: ClusterName) -> list[str]:
        left: list[str] = []
        for cluster in _unfinished(self._gateway, name, self._cluster_id):
            if cluster.requirement_id not in self._clusters:
                failures: list[str] = []
                _end_cluster(self._gateway, cluster, failures)
                left += failures
                if not failures:
                    self._clusters[cluster.requirement_id] = cluster
        for pool in find_pools(self._gateway, name, self._cluster_id):
            left += self._end_if_new(pool)
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
        if status in FINISHED:
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
