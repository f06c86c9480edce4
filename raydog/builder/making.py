"""The steps of making a cluster and of adding to one. Who calls them ends what they leave when they fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from raydog.builder.arguments import NodeSpec, WorkerPool
from raydog.builder.parallel import Calls
from raydog.builder.reporting import Reporter
from raydog.errors import NotFoundError, PlatformError, ProvisioningError, StateError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import launching, naming, ownership, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.launching import Patience
from raydog.yellowdog.records import (
    UNFINISHED_TASK_STATUSES,
    ClusterRecord,
    GroupRecord,
    GroupRequest,
    NodeAddress,
    NodeRecord,
    NodeRequest,
    PoolRecord,
    PoolRequest,
)

HEAD = "head"
OBSERVABILITY = "observability"
OBSERVABILITY_GROUP = "observability-node"

_IDLE_SECONDS = 180.0
_LONGEST_IDLE_NODE_SECONDS = 900.0
"""A machine that waits for the head longer goes, and its pool, which costs nothing, gets another when work comes."""
_BUILD_SECONDS = 1800.0
"""How long a head is given to boot where build() has no time-out: so long machines of workers wait for it."""
_SHORTEST_BOOT_SECONDS = 60.0
_LONGEST_SECONDS = 10 * 365 * 86400.0
"""Who gives a longest time there is, such as timedelta.max, means that there is no limit."""
_ENDED_POOL_SECONDS = 120.0


@dataclass(frozen=True)
class RunningNode:
    """A node whose task executes."""

    node: NodeRecord
    pool: PoolRecord
    address: NodeAddress


@dataclass(frozen=True)
class Made:
    """A cluster that is there."""

    cluster: ClusterRecord
    head: RunningNode
    observability: RunningNode | None


class Maker:
    """Makes one cluster, under an id that nobody else has."""

    def __init__(
        self,
        gateway: Gateway,
        name: ClusterName,
        tag: str | None,
        lifetime: timedelta | None,
        report: Reporter,
        calls: Calls,
    ) -> None:
        self.cluster_id = naming.new_cluster_id()
        self.pool_names: set[str] = set()
        """Of the pools that there may be; written before each is asked for, since its answer may be lost."""
        self.check: Callable[[], None] = lambda: None
        """Called while something is waited for; what it raises ends the waiting."""
        self._gateway = gateway
        self._name = name
        self._tag = tag
        self._lifetime = None if lifetime is None else min(lifetime, timedelta(seconds=_LONGEST_SECONDS))
        self._report = report
        self._calls = calls
        self._started = time.monotonic()
        self._idle_seconds = _IDLE_SECONDS

    # Before anything is made

    def clear_the_way(self) -> None:
        """End what an earlier cluster of this name has left. Raises `StateError` if one lives or is being made."""
        if not clusters.ever_existed(self._gateway, self._name):
            return
        lingering = []
        for cluster in clusters.find_clusters(self._gateway, self._name):
            if self._is_busy(cluster):
                raise StateError(
                    f"a cluster {self._name.cluster} is there already (work requirement {cluster.name}): end it with "
                    "RayDogClusterProxy, or with shut_down() of a RayDogCluster of the same name that was not built; "
                    "or choose another name"
                )
            lingering.append(cluster)
        ended = teardown.end_leftovers(self._gateway, self._name, lingering, self._report.update)
        if ended:
            self._report.done(f"ended what an earlier cluster had left: {', '.join(ended)}")

    def _is_busy(self, cluster: ClusterRecord) -> bool:
        """Whether a cluster lives, or somebody is making it: its observability node comes before its head."""
        head = clusters.find_head(self._gateway, cluster)
        observability = cluster.group(OBSERVABILITY_GROUP)
        if head is None:
            if observability is not None and any(map(observability.tasks.get, UNFINISHED_TASK_STATUSES)):
                return True
            head = launching.await_settled_head(self._gateway, cluster, self._report.update)
        return head is not None and not clusters.has_ended(head)

    # Making

    def make(
        self,
        head: NodeSpec,
        observability: NodeSpec | None,
        pools: Sequence[WorkerPool],
        timeout: timedelta | None,
    ) -> Made:
        """Make the cluster; return when its head's task executes and the workers' tasks are submitted.

        Raises `StateError` if somebody else makes one of the same name at this moment, `ProvisioningError`,
        `ProvisioningTimeoutError` (``timeout`` counts from here), `PlatformError`.
        """
        self._started = time.monotonic()
        patience = self._patience(timeout)
        boot = _BUILD_SECONDS if timeout is None else min(max(timeout.total_seconds(), 0.0), _LONGEST_SECONDS)
        self._idle_seconds = boot + _IDLE_SECONDS
        self._report.update("making the work requirement")
        cluster = self._calls.one(lambda: self._add_requirement(observability is not None, pools))
        self._yield_to_older(cluster)

        # The first node's task goes out beside its pool, and before all others: a work requirement without one for long
        # looks to other programs as if nobody were making it any more.
        singles = {HEAD: head} if observability is None else {OBSERVABILITY: observability, HEAD: head}
        first, first_spec = next(iter(singles.items()))
        provisioned = [
            *(partial(self._provision_single, name, spec, boot) for name, spec in singles.items()),
            *(partial(self._provision, pool) for pool in pools),
        ]
        first_task = partial(self._submit_single, cluster, first, first_spec, {})
        calls: list[Callable[[], PoolRecord | NodeRecord]] = [first_task, *provisioned]
        answers = self._calls.run(calls, partial(self._count_pools, len(provisioned)))
        records = [one for one in answers if isinstance(one, PoolRecord)]
        node = next(one for one in answers if isinstance(one, NodeRecord))
        for pool, record in zip(pools, records[len(singles) :], strict=True):
            pool.record = record

        watched: RunningNode | None = None
        environment: dict[str, str] = {}
        if observability is not None:
            watched = self._await(node, records[0], patience, "observability")
            environment = self._environment_of(watched)
            submit = partial(self._submit_single, cluster, HEAD, head, environment)
            node = self._calls.one(submit)
        running = self._await(node, records[len(singles) - 1], patience, "head")
        result = Made(cluster, running, watched)
        self._report.update("submitting the workers' tasks")
        self._calls.run([partial(self._submit_workers, result, pool) for pool in pools])
        return result

    def add(self, made: Made, pool: WorkerPool) -> None:
        """Add a worker pool to a cluster that is there. The call that fails most often, for want of a template or of
        capacity, comes first."""
        self._idle_seconds = _IDLE_SECONDS
        self._report.update(f"adding worker pool {pool.internal_name}")
        self._remaining_lifetime()
        pool.record = self._calls.one(partial(self._provision, pool))
        cluster = self._calls.one(lambda: self._gateway.add_group(made.cluster, self._worker_group(pool)))
        self._calls.one(partial(self._submit_workers, Made(cluster, made.head, made.observability), pool))

    def _add_requirement(self, observability: bool, pools: Sequence[WorkerPool]) -> ClusterRecord:
        seconds = self._remaining_lifetime()
        more = []
        if observability:
            tag = self._name.worker_tag(self.cluster_id, OBSERVABILITY)
            more.append(GroupRequest(OBSERVABILITY_GROUP, tag, tag, seconds, finish_if_all_tasks_finished=True))
        more += [self._worker_group(pool) for pool in pools]
        return clusters.add_cluster(self._gateway, self._name, self._tag, HEAD, self._lifetime, self.cluster_id, more)

    def _worker_group(self, pool: WorkerPool) -> GroupRequest:
        """It finishes with its tasks: nothing is added to it later, and so a cluster ends when its lifetime is over."""
        tag = self._name.worker_tag(self.cluster_id, pool.label)
        name = ownership.group_name(pool.label)
        return GroupRequest(name, tag, tag, self._remaining_lifetime(), finish_if_all_tasks_finished=True)

    def _yield_to_older(self, cluster: ClusterRecord) -> None:
        older = clusters.older_than(self._gateway, self._name, cluster)
        if older is not None:
            raise StateError(
                f"a cluster {self._name.cluster} is being made by another program at this very moment "
                f"(work requirement {older.name}); this one withdraws"
            )

    def _count_pools(self, pools: int, done: int) -> None:
        self._report.count("worker pools provisioned", min(done, pools), pools)

    def _provision_single(self, label: str, spec: NodeSpec, boot: float) -> PoolRecord:
        return self._provision_machines(label, spec, 1, max(boot, _SHORTEST_BOOT_SECONDS))

    def _provision(self, pool: WorkerPool) -> PoolRecord:
        return self._provision_machines(pool.label, pool.spec, pool.node_count, None)

    def _provision_machines(self, label: str, spec: NodeSpec, count: int, boot: float | None) -> PoolRecord:
        request = PoolRequest(
            name=naming.pool_name(self._name.cluster, self.cluster_id, label),
            template=spec.template,
            worker_tag=self._name.worker_tag(self.cluster_id, label),
            initial_nodes=count,
            max_nodes=count,
            tag=self._tag,
            images_id=spec.images_id,
            user_data=spec.user_data,
            instance_tags=spec.instance_tags,
            metrics_enabled=spec.metrics_enabled,
            boot_timeout_seconds=boot,
            idle_node_seconds=min(self._idle_seconds, _LONGEST_IDLE_NODE_SECONDS),
            idle_pool_seconds=self._idle_seconds,
        )
        self.pool_names.add(request.name)
        return launching.provision(self._gateway, self._name.namespace, request, (spec.template,))

    def _submit_single(
        self, cluster: ClusterRecord, label: str, spec: NodeSpec, environment: dict[str, str]
    ) -> NodeRecord:
        group = _group(cluster, clusters.HEAD_GROUP if label == HEAD else OBSERVABILITY_GROUP)
        return self._gateway.add_nodes(group.group_id, [self._task(label, spec, environment)])[0]

    def _submit_workers(self, made: Made, pool: WorkerPool) -> None:
        group = _group(made.cluster, ownership.group_name(pool.label))
        environment = {
            "RAY_HEAD_IP": made.head.address.private_ip,
            "RAY_HEAD_NODE_PRIVATE_IP": made.head.address.private_ip,
            **(self._environment_of(made.observability) if made.observability is not None else {}),
        }
        tasks = [self._task(pool.label, pool.spec, environment) for _ in range(pool.node_count)]
        self._gateway.add_nodes(group.group_id, tasks)
        pool.group_id = group.group_id

    def _task(self, label: str, spec: NodeSpec, environment: dict[str, str]) -> NodeRequest:
        """A task that runs the script exactly as given."""
        name = naming.node_name(self._name.cluster, self.cluster_id, label, naming.new_suffix())
        return NodeRequest(name, spec.script, environment, self._remaining_lifetime(), self._tag)

    @staticmethod
    def _environment_of(observability: RunningNode) -> dict[str, str]:
        return {"OBSERVABILITY_HOST": observability.address.private_ip}

    # Waiting

    def _await(self, node: NodeRecord, pool: PoolRecord, patience: Patience, what: str) -> RunningNode:
        node = launching.await_executing(self._gateway, node, pool, patience, what=what)
        address = launching.await_address(self._gateway, node, pool, patience, what=what, alone=True)
        self._report.done(f"the {what} node runs at {address.public_ip or address.private_ip}")
        return RunningNode(node, pool, address)

    def _patience(self, timeout: timedelta | None) -> Patience:
        seconds = float("inf") if timeout is None else timeout.total_seconds()
        limit = f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"

        def report(text: str, waited: float) -> None:
            self.check()
            self._report.update(text, waited)

        return Patience(
            lambda: max(self._started + seconds - time.monotonic(), 0.0),
            limit,
            "give build() a longer head_node_build_timeout",
            report,
        )

    def _remaining_lifetime(self) -> float | None:
        if self._lifetime is None:
            return None
        remaining = self._lifetime.total_seconds() - (time.monotonic() - self._started)
        if remaining <= 0:
            raise ProvisioningError(f"the cluster's lifetime ({self._lifetime}) is over", "LifetimeOver")
        return remaining

    # Ending

    def end_pool(self, pool: WorkerPool, cluster: ClusterRecord) -> None:
        """Shut a worker pool down and terminate its machines at once; then see that no task of it waits for ever."""
        if pool.record is not None:
            record = pool.record
            if record.compute_requirement_id is None:  # perhaps not known yet when the pool was provisioned
                record = self._gateway.get_pool(record.pool_id)
            teardown.end_pool(self._gateway, record, self._name.maker)
            self.pool_names.discard(record.name)
        if pool.group_id is not None:
            self._abort(cluster, pool.group_id)

    def undo(self, pool: WorkerPool, made: Made) -> None:
        """End whatever there is of a worker pool that could not be added, and wait until its machines are gone.

        It is looked up by its name, since an answer may have been lost.
        """
        pool_name = naming.pool_name(self._name.cluster, self.cluster_id, pool.label)
        try:
            pool.record = self._gateway.pool_named(self._name.namespace, pool_name)
        except NotFoundError:
            pool.record = None
        cluster = self._gateway.get_cluster(made.cluster.requirement_id, self.cluster_id)
        group = cluster.group(ownership.group_name(pool.label))
        pool.group_id = group.group_id if group is not None else None
        self.end_pool(pool, cluster)
        if pool.record is not None:
            begun = teardown.Teardown((pool.record,))
            teardown.await_teardown(self._gateway, None, begun, _ENDED_POOL_SECONDS, report=self._report.unstoppable)

    def _abort(self, cluster: ClusterRecord, group_id: str) -> None:
        waiting = self._gateway.list_nodes(cluster.requirement_id, group_id=group_id, statuses=UNFINISHED_TASK_STATUSES)
        aborts: list[Callable[[], NodeRecord]] = [partial(self._gateway.abort_node, node.task_id) for node in waiting]
        self._calls.run(aborts)


def _group(cluster: ClusterRecord, name: str) -> GroupRecord:
    group = cluster.group(name)
    if group is None:
        raise PlatformError(f"work requirement {cluster.name} came back without its task group {name}")
    return group
