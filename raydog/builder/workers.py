"""Waiting for workers: their tasks as the platform counts them, or the nodes that Ray's dashboard shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

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
    """One call of the platform for each look, however many workers there are."""

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
        possible = sum(pool.node_count for pool in self._pools.values()) - lost
        if possible < self._wanted:
            raise ProvisioningError(
                f"only {possible} of the {self._wanted} workers can still come: {self._reasons(ended)}", "WorkersFailed"
            )
        self._report.count("workers are there", there, self._wanted, note)
        return Pending(f"only {there} of {self._wanted} workers were there{note}")

    def _alive_in_ray(self) -> tuple[int, str]:
        try:
            return alive_workers(str(self._dashboard)), " in Ray"
        except (OSError, ValueError) as error:
            return 0, f" (Ray's dashboard does not answer: {error})"

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
