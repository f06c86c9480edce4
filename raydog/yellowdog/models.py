"""The SDK's models out of our requests, and our records out of the SDK's models."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from yellowdog_client import model as yd

from raydog.yellowdog.records import (
    ClusterRecord,
    GroupRecord,
    GroupRequest,
    MachineWarning,
    NodeRecord,
    NodeRequest,
    PoolRecord,
    PoolRequest,
    Supply,
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
    # A cluster's nodes share most of these texts, which would be most of what is remembered of a large one.
    environment = {sys.intern(name): sys.intern(value) for name, value in (task.environment or {}).items()}
    return NodeRecord(
        name=sys.intern(task.name or ""),
        task_id=task.id or "",
        group_id=task.taskGroupId or "",
        status=task.status.name if task.status else "UNKNOWN",
        platform_node_id=machine,
        environment=environment,
        started=task.startedTime,
        finished=task.finishedTime,
        timeout_seconds=None if task.timeout is None else task.timeout.total_seconds(),
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
    nodes = (pool.nodeSummary.statusCounts if pool.nodeSummary else None) or {}
    return PoolRecord(
        pool_id=pool.id or "",
        name=pool.name or "",
        status=pool.status.name if pool.status else "UNKNOWN",
        worker_tag=(properties.workerTag if properties else None) or "",
        compute_requirement_id=pool.computeRequirementId if isinstance(pool, yd.ProvisionedWorkerPool) else None,
        registered=sum(count for status, count in nodes.items() if status.active),
    )


def warning_from(machine: yd.Node) -> MachineWarning:
    """A machine that was warned."""
    provider = machine.details.provider if machine.details else None
    return MachineWarning(machine.id or "", str(provider or ""))


def supply_from(requirement: yd.ComputeRequirement) -> Supply:
    """What a compute requirement has got."""
    sources = (requirement.provisionStrategy.sources if requirement.provisionStrategy else None) or []
    summaries = [getattr(source, "instanceSummary", None) for source in sources]
    counts = [summary.aliveCount for summary in summaries if summary is not None and summary.aliveCount is not None]
    return Supply(
        alive=sum(counts) if counts else None,
        failed=any(getattr(source, "status", None) is yd.ComputeSourceStatus.ERRORED for source in sources),
        messages=tuple(message for source in sources if (message := getattr(source, "statusMessage", None))),
    )
