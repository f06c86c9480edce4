"""The only code that calls the platform: yellowdog-sdk in, our records and errors out.

Two manners. A *patient* gateway repeats calls that the platform could not answer; it is for commands and
launches, which run beside Ray's loop. A *swift* one asks once, with short time-outs; it is for sweeps, which
must never hold anything up.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import requests
from yellowdog_client import PlatformClient
from yellowdog_client import model as yd
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.errors import StateError
from raydog.yellowdog.calling import REFUSALS, calling, even_if_late, is_duplicate, is_unknown, unless_over
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.models import (
    cluster_from,
    group_for,
    node_from,
    pool_for,
    pool_from,
    supply_from,
    task_for,
    warning_from,
)
from raydog.yellowdog.records import (
    ClusterRecord,
    GroupRequest,
    MachineWarning,
    NodeAddress,
    NodeRecord,
    NodeRequest,
    PoolRecord,
    PoolRequest,
    Supply,
)

T = TypeVar("T")
TASKS_PER_CALL = 1000
_PAGE = 1000
_ALIVE = ("PENDING", "RUNNING", "STOPPING", "STOPPED")
_THREADS_PER_CLIENT = 8  # the SDK's session keeps ten connections, and makes and drops any more for each call


class Gateway:
    """YellowDog's calls that RayDog needs. Thread-safe; ``threads``: how many use it at once at most, or about so."""

    def __init__(self, credentials: Credentials, *, swift: bool = False, threads: int = _THREADS_PER_CLIENT) -> None:
        self._credentials = credentials
        self._swift = swift
        self._opening = threading.RLock()  # a signal's handler may come in between and use the gateway
        self._opened: dict[int, PlatformClient] = {}
        self._lanes = -(-threads // _THREADS_PER_CLIENT)
        self._turns = itertools.count()
        self._thread = threading.local()

    @property
    def _client(self) -> PlatformClient:
        """This thread's client; others may have the same."""
        with self._opening:
            lane: int | None = getattr(self._thread, "lane", None)
            if lane is None:
                lane = self._thread.lane = next(self._turns) % self._lanes
            if lane not in self._opened:
                self._opened[lane] = self._open()
            return self._opened[lane]

    def _open(self) -> PlatformClient:
        retry = yd.RetryProperties(
            maxAttempts=0 if self._swift else 3,
            initialInterval=timedelta(seconds=1),
            maxInterval=timedelta(seconds=8),
        )
        schema = yd.ServicesSchema(
            retry=retry,
            defaultUrl=self._credentials.api_url,
            connectionTimeout=timedelta(seconds=3 if self._swift else 10),
            readTimeout=timedelta(seconds=10 if self._swift else 60),
        )
        return PlatformClient.create(schema, yd.ApiKey(self._credentials.key_id, self._credentials.key_secret))

    @property
    def client(self) -> PlatformClient:
        """The SDK's client behind this gateway, for callers of the SDK itself. It is opened at its first use."""
        return self._client

    @property
    def api_url(self) -> str:
        return self._credentials.api_url

    def close(self) -> None:
        """Close the connections. The gateway opens new ones if it is used again."""
        with self._opening:
            clients, self._opened = self._opened, {}
        for client in clients.values():
            client.close()

    # Clusters

    def add_cluster(
        self, namespace: str, name: str, cluster_id: str, tag: str | None, groups: Sequence[GroupRequest]
    ) -> ClusterRecord:
        """Add a work requirement. A repeated add whose first copy was applied returns that one."""
        requirement = yd.WorkRequirement(
            namespace, name, [group_for(group, namespace) for group in groups], tag=tag or None
        )
        with calling(f"add work requirement {name}"):
            try:
                added = even_if_late(lambda: self._client.work_client.add_work_requirement(requirement))
            except InvalidRequestException as error:
                if not is_duplicate(error):
                    raise
                added = self._client.work_client.get_work_requirement_by_name(namespace, name)
        return cluster_from(added, cluster_id)

    def get_cluster(self, requirement_id: str, cluster_id: str) -> ClusterRecord:
        with calling(f"get work requirement {requirement_id}"):
            return cluster_from(self._client.work_client.get_work_requirement_by_id(requirement_id), cluster_id)

    def cluster_named(self, namespace: str, name: str, cluster_id: str) -> ClusterRecord:
        """The work requirement of exactly this name; a search may show a new one late. Raises `NotFoundError`."""
        with calling(f"get work requirement {name}"):
            return cluster_from(self._client.work_client.get_work_requirement_by_name(namespace, name), cluster_id)

    def find_requirements(self, namespace: str, name_part: str, statuses: Sequence[str]) -> list[tuple[str, str]]:
        """``(id, name)`` of the namespace's work requirements whose name contains ``name_part``."""
        search = yd.WorkRequirementSearch(
            namespaces=[namespace], name=name_part, statuses=[yd.WorkRequirementStatus[s] for s in statuses]
        )
        with calling("search work requirements"):
            found = self._client.work_client.get_work_requirements(search).list_all()
        return [(item.id, item.name) for item in found if item.id and item.name and item.namespace == namespace]

    def add_group(self, cluster: ClusterRecord, group: GroupRequest) -> ClusterRecord:
        """Append a task group. One that is there already is left as it is."""
        with calling(f"add task group {group.name} to {cluster.name}"):
            work = self._client.work_client
            requirement = work.get_work_requirement_by_id(cluster.requirement_id)
            if all(existing.name != group.name for existing in requirement.taskGroups or []):
                requirement.taskGroups = [*(requirement.taskGroups or []), group_for(group, cluster.namespace)]
                try:
                    requirement = work.update_work_requirement(requirement)
                except InvalidRequestException:
                    # perhaps of a second copy, after the answer to the first was lost: how that is refused is not
                    # documented, so the group's being there decides
                    requirement = work.get_work_requirement_by_id(cluster.requirement_id)
                    if all(existing.name != group.name for existing in requirement.taskGroups or []):
                        raise
        return cluster_from(requirement, cluster.cluster_id)

    def cancel_cluster(self, requirement_id: str) -> str:
        """Cancel a work requirement and abort its tasks; returns its status. Already over is success."""
        with calling(f"cancel work requirement {requirement_id}"):
            try:
                cancelled = self._client.work_client.cancel_work_requirement_by_id(requirement_id, abort=True)
            except REFUSALS:
                cancelled = self._client.work_client.get_work_requirement_by_id(requirement_id)
                if not (cancelled.status and (cancelled.status.finished or cancelled.status.name == "CANCELLING")):
                    raise
        return str(cancelled.status)

    # Nodes

    def add_nodes(self, group_id: str, nodes: Sequence[NodeRequest]) -> list[NodeRecord]:
        """Add tasks, a thousand a call. Those that a repeated call finds there already count as added."""
        added: list[NodeRecord] = []
        for start in range(0, len(nodes), TASKS_PER_CALL):
            batch = nodes[start : start + TASKS_PER_CALL]
            with calling(f"add {len(batch)} tasks"):
                try:
                    tasks = even_if_late(functools.partial(self._add_tasks, group_id, batch))
                except InvalidRequestException as error:
                    if not is_duplicate(error):
                        raise
                    tasks = self._tasks_named(group_id, {node.name for node in batch}, error)
            added.extend(node_from(task) for task in tasks)
        return added

    def _add_tasks(self, group_id: str, nodes: Sequence[NodeRequest]) -> list[yd.Task]:
        return self._client.work_client.add_tasks_to_task_group_by_id(group_id, [task_for(node) for node in nodes])

    def _tasks_named(self, group_id: str, names: set[str], error: Exception) -> list[yd.Task]:
        # Names are ours and random, so a duplicate is our own first copy, whose answer was lost.
        tasks = [t for t in self._pages_of_tasks(yd.TaskSearch(taskGroupId=group_id)) if t.name in names]
        if len(tasks) != len(names):
            raise error
        return tasks

    def list_nodes(
        self,
        requirement_id: str,
        *,
        group_id: str | None = None,
        statuses: Sequence[str] | None = None,
        started_since: datetime | None = None,
        finished_since: datetime | None = None,
    ) -> list[NodeRecord]:
        """The cluster's nodes, page by page; ``statuses`` and times narrow the search."""
        search = yd.TaskSearch(
            workRequirementId=requirement_id,
            taskGroupId=group_id,
            statuses=None if statuses is None else [yd.TaskStatus[s] for s in statuses],
            startedTime=None if started_since is None else yd.InstantRange(min=started_since),
            finishedTime=None if finished_since is None else yd.InstantRange(min=finished_since),
        )
        with calling("list tasks"):
            return [node_from(task) for task in self._pages_of_tasks(search)]

    def _pages_of_tasks(self, search: yd.TaskSearch) -> Iterator[yd.Task]:
        return _pages(lambda page: self._client.work_client.find_tasks_slice(search, page))

    def get_node(self, task_id: str) -> NodeRecord:
        with calling(f"get task {task_id}"):
            return node_from(self._client.work_client.get_task_by_id(task_id))

    def abort_node(self, task_id: str) -> NodeRecord:
        """Abort a task. Already over is success."""
        with calling(f"abort task {task_id}"):
            try:
                return node_from(self._client.work_client.cancel_task_by_id(task_id, abort=True))
            except REFUSALS:
                task = self._client.work_client.get_task_by_id(task_id)
                if not (task.status and task.status.finished):
                    raise
                return node_from(task)

    def node_address(
        self, node: NodeRecord, pool: PoolRecord | None = None, *, alone: bool = False
    ) -> NodeAddress | None:
        """The addresses of the machine that runs a node, or None if they are not known yet.

        The platform leaves the public one empty on its node, so it is read from the instance (contract, 2.2).
        ``alone``: the pool has this one node, so a single live instance of it is the machine: one call instead of two.
        """
        if node.platform_node_id is None:
            return None
        with calling(f"look up the address of {node.name}"):
            if alone and pool is not None and pool.compute_requirement_id is not None:
                live = [one for one in self._instances(pool.compute_requirement_id, _ALIVE) if one.privateIpAddress]
                if len(live) == 1 and live[0].privateIpAddress:
                    return NodeAddress(live[0].privateIpAddress, live[0].publicIpAddress or None)
            machine = self._client.worker_pool_client.get_node_by_id(node.platform_node_id)
            details = machine.details
            if details is None or not details.privateIpAddress:
                return None
            compute_id = pool.compute_requirement_id if pool else self._compute_of_pool(machine.workerPoolId)
            public = details.publicIpAddress
            if not public and compute_id and details.instanceId:
                public = self._public_addresses(compute_id).get(details.instanceId)
        return NodeAddress(details.privateIpAddress, public or None)

    def _compute_of_pool(self, pool_id: str | None) -> str | None:
        if pool_id is None:
            return None
        pool = self._client.worker_pool_client.get_worker_pool_by_id(pool_id)
        return pool.computeRequirementId if isinstance(pool, yd.ProvisionedWorkerPool) else None

    def _public_addresses(self, compute_id: str) -> dict[str, str]:
        found = self._instances(compute_id)
        return {i.id.instanceId: i.publicIpAddress for i in found if i.id and i.publicIpAddress}

    def _instances(self, compute_id: str, statuses: Sequence[str] | None = None) -> Sequence[yd.Instance]:
        wanted = None if statuses is None else [yd.InstanceStatus[s] for s in statuses]
        search = yd.InstanceSearch(computeRequirementId=compute_id, statuses=wanted)
        return self._client.compute_client.get_instances(search).list_all()

    def shut_down_machine(self, platform_node_id: str) -> None:
        """Tell a node's machine to take no more work and go. Already over, or unknown, is success."""
        pools = self._client.worker_pool_client

        def is_over() -> bool:
            status = pools.get_node_by_id(platform_node_id).status
            return status is not None and status.gone

        with calling(f"shut down node {platform_node_id}"):
            unless_over(lambda: pools.shutdown_node_by_id(platform_node_id), is_over)

    def terminate_machine(self, platform_node_id: str) -> None:
        """Terminate the instance that is a node's machine, and no other.

        Raises `StateError` if the platform does not say which instance that is.
        """
        compute = self._client.compute_client
        with calling(f"terminate the instance of node {platform_node_id}"):
            machine = self._client.worker_pool_client.get_node_by_id(platform_node_id)
            compute_id = self._compute_of_pool(machine.workerPoolId)
            wanted = machine.details.instanceId if machine.details else None
            found = []
            if compute_id is not None and wanted:
                found = [i for i in self._instances(compute_id) if i.id and i.id.instanceId == wanted]
            if compute_id is None or len(found) != 1 or found[0].id is None:
                raise StateError(f"the platform does not say which instance node {platform_node_id} is")
            if found[0].status not in (yd.InstanceStatus.TERMINATING, yd.InstanceStatus.TERMINATED):
                requirement = compute.get_compute_requirement_by_id(compute_id)
                compute.terminate_instances_by_id(requirement, [found[0].id])

    def private_addresses(self, worker_tag: str, registered_since: datetime | None = None) -> dict[str, str]:
        """Private address by platform node id, of the nodes whose workers have ``worker_tag``."""
        search = yd.NodeSearch(
            workerTag=worker_tag,
            registeredTime=None if registered_since is None else yd.InstantRange(min=registered_since),
        )
        with calling("list nodes"):
            return {
                node.id: node.details.privateIpAddress
                for node in self._pages_of_machines(search)
                if node.id and node.details and node.details.privateIpAddress
            }

    def lost_machines(self, registered_since: datetime) -> list[str]:
        """Platform node ids of the machines that the platform has lost, of all that have registered since then."""
        search = yd.NodeSearch(statuses=[yd.NodeStatus.LOST], registeredTime=yd.InstantRange(min=registered_since))
        with calling("list lost nodes"):
            return [node.id for node in self._pages_of_machines(search) if node.id]

    def warned_machines(self, since: datetime) -> list[MachineWarning]:
        """The machines that were warned since then, lost ones among them."""
        search = yd.NodeSearch(preemptionWarningTime=yd.InstantRange(min=since))
        with calling("list nodes with a preemption warning"):
            return [warning_from(node) for node in self._pages_of_machines(search)]

    def _pages_of_machines(self, search: yd.NodeSearch) -> Iterator[yd.Node]:
        return _pages(lambda page: self._client.worker_pool_client.find_nodes_slice(search, page))

    # Pools

    def add_pool(self, namespace: str, request: PoolRequest) -> PoolRecord:
        """Provision a worker pool. A repeated call whose first copy was applied returns that one."""
        usage, properties = pool_for(namespace, request)
        with calling(f"provision worker pool {request.name} from {request.template}"):
            pools = self._client.worker_pool_client
            try:
                pool = pool_from(even_if_late(lambda: pools.provision_worker_pool(usage, properties)))
            except InvalidRequestException as error:
                if not is_duplicate(error):
                    raise
                pool = pool_from(pools.get_worker_pool_by_name(namespace, request.name))
        return replace(pool, template=request.template)

    def get_pool(self, pool_id: str) -> PoolRecord:
        with calling(f"get worker pool {pool_id}"):
            return pool_from(self._client.worker_pool_client.get_worker_pool_by_id(pool_id))

    def pool_named(self, namespace: str, name: str) -> PoolRecord:
        """The pool of exactly this name; a search may show a new one late. Raises `NotFoundError`."""
        with calling(f"get worker pool {name}"):
            return pool_from(self._client.worker_pool_client.get_worker_pool_by_name(namespace, name))

    def find_pools(self, namespace: str, name_part: str) -> list[tuple[str, str, str]]:
        """``(id, name, status)`` of the namespace's worker pools whose name contains ``name_part``."""
        search = yd.WorkerPoolSearch(namespaces=[namespace], name=name_part)
        with calling("search worker pools"):
            found = self._client.worker_pool_client.get_worker_pools(search).list_all()
        return [
            (item.id, item.name, str(item.status))
            for item in found
            if item.id and item.name and item.namespace == namespace
        ]

    def shut_down_pool(self, pool_id: str) -> None:
        """Tell a pool to take no more work and end its nodes. Already over, or unknown, is success."""
        pools = self._client.worker_pool_client
        with calling(f"shut down worker pool {pool_id}"):
            unless_over(
                lambda: pools.shutdown_worker_pool_by_id(pool_id),
                lambda: not pool_from(pools.get_worker_pool_by_id(pool_id)).live,
            )

    # Compute

    def find_compute(self, namespace: str, name_part: str) -> list[tuple[str, str, str]]:
        """``(id, name, status)`` of the namespace's compute requirements whose name contains ``name_part``."""
        search = yd.ComputeRequirementSummarySearch(namespaces=[namespace], name=name_part)
        with calling("search compute requirements"):
            found = self._client.compute_client.get_compute_requirement_summaries(search).list_all()
        return [
            (item.id, item.name, str(item.status))
            for item in found
            if item.id and item.name and item.namespace == namespace
        ]

    def compute_status(self, compute_id: str) -> str | None:
        """The status of a compute requirement, or None if the platform does not know it."""
        with calling(f"get compute requirement {compute_id}"):
            try:
                return str(self._client.compute_client.get_compute_requirement_by_id(compute_id).status)
            except requests.HTTPError as error:
                if not is_unknown(error):
                    raise
                return None

    def compute_messages(self, compute_id: str) -> list[str]:
        """What the compute sources say of trouble (no capacity, refused credentials), if anything."""
        return list(self.supply(compute_id).messages)

    def supply(self, compute_id: str) -> Supply:
        """What a compute requirement has got of the machines that it was asked for."""
        with calling(f"get compute requirement {compute_id}"):
            return supply_from(self._client.compute_client.get_compute_requirement_by_id(compute_id))

    def terminate_compute(self, compute_id: str) -> None:
        """Terminate all instances of a compute requirement. Already over, or unknown, is success."""
        with calling(f"terminate compute requirement {compute_id}"):
            unless_over(
                lambda: self._client.compute_client.terminate_compute_requirement_by_id(compute_id),
                lambda: self.compute_status(compute_id) in (None, "TERMINATING", "TERMINATED"),
            )

    def live_instances(self, compute_id: str) -> list[str]:
        """Ids of the instances that still cost money."""
        with calling("search instances"):
            return [str(i.id.instanceId) for i in self._instances(compute_id, (*_ALIVE, "TERMINATING")) if i.id]


def _pages(fetch: Callable[[yd.SliceReference], yd.Slice[T]]) -> Iterator[T]:
    reference: yd.SliceReference | None = yd.SliceReference(size=_PAGE)
    while reference is not None:
        page = fetch(reference)
        yield from page.items or []
        reference = yd.SliceReference(sliceId=page.nextSliceId, size=_PAGE) if page.nextSliceId else None
