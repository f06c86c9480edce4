"""The SDK's models out of our requests, and our records out of the SDK's models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from yellowdog_client import model as yd

from raydog.yellowdog.records import (
    ClusterRecord,
    GroupRecord,
    GroupRequest,
    NodeRecord,
    NodeRequest,
    PoolRecord,
    PoolRequest,
)

_TASK_TYPE = "bash"
_SCRIPT_FILE = "taskdata.txt"  # where the agent puts a task's data (platform contract, 4.1)


def group_for(group: GroupRequest, namespace: str) -> yd.TaskGroup:
    """A task group whose tasks run on workers with the request's tag only."""
    return yd.TaskGroup(
        name=group.name,
        tag=group.tag,
        runSpecification=yd.RunSpecification(
            taskTypes=[_TASK_TYPE],
            taskTimeout=_seconds(group.task_timeout_seconds),
            workerTags=[group.worker_tag],
            namespaces=[namespace],
            maximumTaskRetries=0,
            # A task that waits on a busy node's queue would be a Ray node that never starts.
            disablePreallocation=True,
        ),
        finishIfAllTasksFinished=group.finish_if_all_tasks_finished,
        finishIfAnyTaskFailed=group.finish_if_any_task_failed,
    )


def task_for(node: NodeRequest) -> yd.Task:
    """A task that runs the node's script."""
    return yd.Task(
        name=node.name,
        tag=node.tag,
        taskType=_TASK_TYPE,
        arguments=[_SCRIPT_FILE],
        taskData=node.script,
        environment=dict(node.environment),
        timeout=_seconds(node.timeout_seconds),
    )


def pool_for(
    namespace: str, request: PoolRequest
) -> tuple[yd.ComputeRequirementTemplateUsage, yd.ProvisionedWorkerPoolProperties]:
    """The two halves of a call that provisions a worker pool."""
    usage = yd.ComputeRequirementTemplateUsage(
        templateId=request.template,
        requirementName=request.name,
        requirementNamespace=namespace,
        requirementTag=request.tag or None,
        targetInstanceCount=request.initial_nodes,
        imagesId=request.images_id,
        userData=request.user_data,
        instanceTags=dict(request.instance_tags) if request.instance_tags else None,
    )
    properties = yd.ProvisionedWorkerPoolProperties(
        createNodeWorkers=yd.NodeWorkerTarget.per_node(1),
        minNodes=0,
        maxNodes=request.max_nodes,
        workerTag=request.worker_tag,
        metricsEnabled=request.metrics_enabled,
        nodeBootTimeout=_seconds(request.boot_timeout_seconds),
        idleNodeShutdown=yd.AutoShutdown(enabled=True, timeout=timedelta(seconds=request.idle_node_seconds)),
        idlePoolShutdown=yd.AutoShutdown(enabled=True, timeout=timedelta(seconds=request.idle_pool_seconds)),
    )
    return usage, properties


def node_from(task: yd.Task) -> NodeRecord:
    """A node, from its task."""
    machine = task.nodeId
    if machine is None and task.workerId:
        # a worker's id is its node's with a slot number behind it (contract, 3.9)
        machine = task.workerId.replace(":wrkr:", ":node:", 1).rsplit(":", 1)[0]
    environment: Mapping[str, str] = task.environment or {}
    return NodeRecord(
        name=task.name or "",
        task_id=task.id or "",
        group_id=task.taskGroupId or "",
        status=task.status.name if task.status else "UNKNOWN",
        platform_node_id=machine,
        environment=environment,
        started=task.startedTime,
        finished=task.finishedTime,
        abort_requested=task.abortRequestedTime is not None,
        reason=_reason(task.errors or ()),
    )


def _reason(errors: Iterable[Any]) -> str | None:
    said = [
        " ".join(
            filter(
                None,
                (error.errorType, error.error, error.processExitCode and f"(exit {error.processExitCode})"),
            )
        )
        for error in errors
    ]
    return said[-1] if said else None


def cluster_from(requirement: yd.WorkRequirement, cluster_id: str) -> ClusterRecord:
    """A cluster, from its work requirement."""
    return ClusterRecord(
        requirement_id=requirement.id or "",
        name=requirement.name,
        cluster_id=cluster_id,
        namespace=requirement.namespace,
        status=requirement.status.name if requirement.status else "UNKNOWN",
        created=requirement.createdTime or datetime.now(timezone.utc),
        groups=tuple(
            GroupRecord(
                g.id or "", g.name, g.tag or "", g.status.name if g.status else "UNKNOWN", _counts(g.taskSummary)
            )
            for g in requirement.taskGroups or []
        ),
    )


def _counts(summary: yd.TaskSummary | None) -> dict[str, int]:
    counts = summary.statusCounts if summary is not None else None
    return {status.name: count for status, count in (counts or {}).items() if count}


def _seconds(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def pool_from(pool: yd.WorkerPool) -> PoolRecord:
    """A worker pool."""
    properties = pool.properties if isinstance(pool, yd.ProvisionedWorkerPool) else None
    return PoolRecord(
        pool_id=pool.id or "",
        name=pool.name or "",
        status=pool.status.name if pool.status else "UNKNOWN",
        worker_tag=(properties.workerTag if properties else None) or "",
        compute_requirement_id=pool.computeRequirementId if isinstance(pool, yd.ProvisionedWorkerPool) else None,
    )
