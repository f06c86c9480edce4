"""Waiting for workers: their tasks as the platform counts them, or the nodes that Ray's dashboard shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from http.client import HTTPException
from math import isnan

from raydog.builder.arguments import WorkerPool
from raydog.builder.dashboard import alive_workers, nodes_url
from raydog.builder.reporting import Reporter
from raydog.errors import ConfigError, PlatformUnavailableError, ProvisioningError, ProvisioningTimeoutError
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import launching, ownership
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, GroupRecord, NodeState, state_of

_REASONS = 3
_POOL_LOOK_SECONDS = 10.0
_BEGUN = (NodeState.RUNNING, NodeState.ENDED)


def await_workers(
    gateway: Gateway,
    cluster: ClusterRecord,
    pools: Sequence[WorkerPool],
    count: int | None,
    timeout: timedelta | float | None,
    dashboard_address: str | None,
    *,
    report: Reporter,
) -> int:
    """Wait until ``count`` workers of ``pools`` are there; see `RayDogCluster.wait_for_workers`."""
    asked_for = sum(pool.node_count for pool in pools)
    wanted = asked_for if count is None else count
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 0 <= wanted <= asked_for:
        raise ConfigError(f"count: {count!r} cannot be waited for: the cluster's worker pools have {asked_for} nodes")
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or isnan(seconds)):
        raise ConfigError(f"timeout: {timeout!r} is no timedelta, no number of seconds and not None")
    watch = _Watch(gateway, cluster, pools, wanted, dashboard_address, report)
    try:
        return wait_until(
            watch.look, float("inf") if seconds is None else float(seconds), interval=0.1, max_interval=2.0
        )
    except WaitTimeout as over:
        raise ProvisioningTimeoutError(
            f"{over.observed} within {over.waited:.0f} seconds{watch.trouble()}", "WorkersTimeout"
        ) from over


class _Watch:
    """One call of the platform for each look, however many workers there are; now and then one for each pool."""

    def __init__(
        self,
        gateway: Gateway,
        cluster: ClusterRecord,
        pools: Sequence[WorkerPool],
        wanted: int,
        dashboard_address: str | None,
        report: Reporter,
    ) -> None:
        self._gateway = gateway
        self._cluster = cluster
        self._pools = {ownership.group_name(pool.label): pool for pool in pools}
        self._wanted = wanted
        self._dashboard = None if dashboard_address is None else nodes_url(dashboard_address)
        self._report = report
        self._pools_looked = time.monotonic()
        self._over: dict[str, str] = {}  # task groups whose pool gives no more nodes, and what is to say of it

    def look(self) -> Ready[int] | Pending:
        try:
            now = self._gateway.get_cluster(self._cluster.requirement_id, self._cluster.cluster_id)
        except PlatformUnavailableError as error:
            return Pending(str(error))
        groups = [group for group in now.groups if group.name in self._pools]
        executing = sum(_counted(group, NodeState.RUNNING) for group in groups)
        ended = [group for group in groups if _counted(group, NodeState.ENDED)]
        lost = sum(_counted(group, NodeState.ENDED) for group in ended)
        there, note = executing, ""
        if self._dashboard is not None and executing >= self._wanted:
            there, note = self._alive_in_ray()
        if there >= self._wanted:
            self._report.done(f"{there} of {self._wanted} workers are there")
            return Ready(there)
        self._check_head(now.group(clusters.HEAD_GROUP))
        self._look_at_pools()
        never = sum(
            max(self._pools[group.name].node_count - sum(_counted(group, one) for one in _BEGUN), 0)
            for group in groups
            if group.name in self._over
        )
        possible = sum(pool.node_count for pool in self._pools.values()) - lost - never
        if possible < self._wanted:
            why = "; ".join(filter(None, (self._reasons(ended), *self._over.values())))
            raise ProvisioningError(
                f"only {possible} of the {self._wanted} workers can still come: {why}", "WorkersFailed"
            )
        self._report.count("workers are there", there, self._wanted, note)
        return Pending(f"only {there} of {self._wanted} workers were there{note}")

    def _look_at_pools(self) -> None:
        """Now and then: a pool that has ended runs no task that still waits."""
        if time.monotonic() - self._pools_looked < _POOL_LOOK_SECONDS:
            return
        self._pools_looked = time.monotonic()
        records = {name: pool.record for name, pool in self._pools.items() if pool.record is not None}
        for name, record in records.items():
            try:
                now = self._gateway.get_pool(record.pool_id)
            except PlatformUnavailableError:
                continue  # the next look may show it
            if not now.live:
                self._over[name] = (
                    f"worker pool {self._pools[name].internal_name} is {now.status}"
                    f"{launching.compute_trouble(self._gateway, now)}"
                )

    def _alive_in_ray(self) -> tuple[int, str]:
        try:
            return alive_workers(str(self._dashboard)), " in Ray"
        except (OSError, ValueError, HTTPException) as error:
            return 0, f" in Ray (its dashboard does not answer: {error})"

    def _check_head(self, group: GroupRecord | None) -> None:
        if group is not None and _counted(group, NodeState.ENDED):
            raise ProvisioningError(f"the head has ended: {self._reasons([group])}", "HeadTaskEnded")

    def _reasons(self, groups: Sequence[GroupRecord]) -> str:
        """Why tasks of these groups have ended, the first few."""
        said = []
        for group in groups:
            nodes = self._gateway.list_nodes(self._cluster.requirement_id, group_id=group.group_id)
            pool = self._pools.get(group.name)
            for node in nodes:
                if node.state is NodeState.ENDED:
                    where = f" of worker pool {pool.internal_name}" if pool is not None else ""
                    said.append(f"task {node.name}{where} is {node.status} ({node.reason or 'no reason given'})")
        more = f" and {len(said) - _REASONS} more" if len(said) > _REASONS else ""
        return "; ".join(said[:_REASONS]) + more

    def trouble(self) -> str:
        """What the compute sources of the pools say."""
        said = [
            f"; worker pool {pool.internal_name}:{text}"
            for pool in self._pools.values()
            if pool.record is not None and (text := launching.compute_trouble(self._gateway, pool.record))
        ]
        return "".join(said)


def _counted(group: GroupRecord, state: NodeState) -> int:
    return sum(count for status, count in group.tasks.items() if state_of(status) is state)
