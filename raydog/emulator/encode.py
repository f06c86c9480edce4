"""Entities as the platform's JSON (contract, section 2). Plain dictionaries: lists of thousands must be fast."""

from __future__ import annotations

from raydog.emulator.entities import (
    NODE_GONE,
    TASK_FINISHED,
    ComputeRequirement,
    Instance,
    Json,
    Node,
    Pool,
    Task,
    TaskGroup,
    WorkRequirement,
)
from raydog.emulator.fleet import PROVIDER, REGION
from raydog.emulator.ids import ydid
from raydog.emulator.requests import SUPPORTED_TASK_TYPES
from raydog.emulator.templates import Template
from raydog.emulator.wire import format_duration, format_instant

MODEL = "co.yellowdog.platform.model."
AGENT_VERSION = "17.0.0"
_TASK_REQUEST_FIELDS = ("name", "tag", "taskType", "arguments", "taskData", "environment", "timeout", "data")
_GROUP_REQUEST_FIELDS = ("runSpecification", "dependentOn", "dependencies", "completedTaskTtl", "taskTemplate")


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else format_instant(seconds)


def task(one: Task) -> Json:
    request = one.request
    body: Json = {field: request[field] for field in _TASK_REQUEST_FIELDS if field in request}
    body["id"] = one.id
    body["status"] = one.status
    body["taskGroupId"] = one.group.id
    body["retryCount"] = one.retry_count
    if one.worker_id is not None:
        body["workerId"] = one.worker_id
        body["nodeId"] = one.node_id
    if one.started is not None:
        body["startedTime"] = format_instant(one.started)
    if one.finished is not None:
        body["finishedTime"] = format_instant(one.finished)
        if one.started is not None:
            body["workingTime"] = {"executing": format_duration(one.finished - one.started)}
    if one.resubmitted_to is not None:
        body["resubmittedToTaskId"] = one.resubmitted_to
    if one.resubmitted_from is not None:
        body["resubmittedFromTaskId"] = one.resubmitted_from
    if one.abort_requested is not None:
        body["abortRequestedTime"] = format_instant(one.abort_requested)
    if one.errors:
        body["errors"] = one.errors
    return body


def task_group(one: TaskGroup, now: float) -> Json:
    body: Json = {field: one.request[field] for field in _GROUP_REQUEST_FIELDS if field in one.request}
    return body | {
        "id": one.id,
        "name": one.name,
        "tag": one.tag,
        "priority": one.priority,
        "status": one.status,
        "statusChangedTime": format_instant(one.status_changed),
        "starved": starved(one),
        "waitingOnDependency": one.waiting_on_dependency,
        "finishIfAllTasksFinished": one.finish_if_all_finished,
        "finishIfAnyTaskFailed": one.finish_if_any_failed,
        "taskSummary": {
            "statusCounts": dict(one.counts),
            "taskCount": sum(one.counts.values()),
            "lastUpdatedTime": format_instant(now),
        },
    }


def starved(one: TaskGroup) -> bool:
    """READY tasks, and not one worker that works for the group."""
    return bool(one.ready) and not one.in_progress and one.status in {"PENDING", "RUNNING", "FINISHING"}


def work_requirement(one: WorkRequirement, now: float) -> Json:
    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name,
        "tag": one.tag,
        "priority": one.priority,
        "status": one.status,
        "createdTime": format_instant(one.created),
        "statusChangedTime": format_instant(one.status_changed),
        "taskGroups": [task_group(group, now) for group in one.groups],
    }


def is_healthy(one: WorkRequirement) -> bool:
    return not any(group.counts.get("FAILED") or starved(group) for group in one.groups)


def work_requirement_summary(one: WorkRequirement) -> Json:
    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name,
        "tag": one.tag,
        "priority": one.priority,
        "status": one.status,
        "createdTime": format_instant(one.created),
        "statusChangedTime": format_instant(one.status_changed),
        "completedTaskCount": sum(
            count for group in one.groups for status, count in group.counts.items() if status in TASK_FINISHED
        ),
        "totalTaskCount": sum(sum(group.counts.values()) for group in one.groups),
        "healthy": is_healthy(one),
    }


def worker_pool(one: Pool, now: float) -> Json:
    updated = format_instant(now)
    return {
        "type": MODEL + "ProvisionedWorkerPool",
        "id": one.id,
        "name": one.name,
        "namespace": one.namespace,
        "createdTime": format_instant(one.created),
        "status": one.status,
        "statusChangedTime": format_instant(one.status_changed),
        "expectedNodeCount": one.compute.target,
        "awaitingNodes": one.awaiting_nodes,
        "workerSummary": {
            "statusCounts": dict(one.worker_counts),
            "claimedWorkerCount": one.claimed,
            "lastClaimedTime": _instant(one.last_claimed),
            "lastReleasedTime": _instant(one.last_released),
            "lastUpdatedTime": updated,
        },
        "nodeSummary": {
            "statusCounts": dict(one.node_counts),
            "actionQueueStatuses": {},
            "lastUpdatedTime": updated,
        },
        "properties": one.properties,
        "computeRequirementId": one.compute.id,
    }


def pool_is_healthy(one: Pool) -> bool:
    return one.compute.error is None and not one.node_counts.get("LOST")


def worker_pool_summary(one: Pool) -> Json:
    return {
        "id": one.id,
        "name": one.name,
        "namespace": one.namespace,
        "type": MODEL + "ProvisionedWorkerPool",
        "registeredNodeCount": sum(count for status, count in one.node_counts.items() if status not in NODE_GONE),
        "registeredWorkerCount": sum(
            count for status, count in one.worker_counts.items() if status not in {"LOST", "SHUTDOWN"}
        ),
        "claimedWorkerCount": one.claimed,
        "workingWorkerCount": one.claimed,
        "status": one.status,
        "createdTime": format_instant(one.created),
        "statusChangedTime": format_instant(one.status_changed),
        "healthy": pool_is_healthy(one),
    }


def node(one: Node) -> Json:
    template = one.pool.compute.template
    queues = {worker.task.group.id: {"workerUtilisation": 1} for worker in one.workers if worker.task}
    return {
        "id": one.id,
        "workerPoolId": one.pool.id,
        "details": {
            "instanceId": one.instance.id,
            "provider": PROVIDER,
            "region": REGION,
            "sourceName": template.short_name,
            "sourceNumber": 1,
            "instanceType": template.instance_type,
            "hostname": one.instance.hostname,
            "privateIpAddress": one.instance.private_ip,
            # The platform has left publicIpAddress of a node empty since 2025: the Instance has it.
            "vcpus": template.cpus,
            "ram": template.ram_gb,
            "supportedTaskTypes": sorted(SUPPORTED_TASK_TYPES),
            "workerTag": one.pool.worker_tag,
            "spot": template.spot,
        },
        "status": one.status,
        "statusChangedTime": format_instant(one.status_changed),
        "registeredTime": format_instant(one.registered),
        "deregisteredTime": _instant(one.deregistered),
        "preemptionWarningTime": _instant(one.preemption_warning),
        "workers": [
            {"id": worker.id, "status": worker.status, "registeredTime": format_instant(worker.registered)}
            for worker in one.workers
        ],
        "actionQueueStatus": "EMPTY",
        "agentVersion": AGENT_VERSION,
        "taskGroupTaskQueues": queues,
    }


def image_of(one: Instance) -> str:
    return one.compute.usage.get("imagesId") or "local"


def instance(one: Instance) -> Json:
    template = one.compute.template
    return {
        "type": MODEL + "SimulatorInstance",
        "id": {"sourceId": one.source_id, "instanceId": one.id},
        "createdTime": format_instant(one.created),
        "provider": PROVIDER,
        "instanceType": template.instance_type,
        "region": REGION,
        "imageId": image_of(one),
        "hostname": one.hostname,
        "privateIpAddress": one.private_ip,
        "publicIpAddress": one.public_ip,
        "spot": template.spot,
        "status": one.status,
        "statusChangedTime": format_instant(one.status_changed),
    }


def _source(one: ComputeRequirement, now: float) -> Json:
    if one.error is not None:
        status = "ERRORED"
    else:
        status = "UPDATING" if one.counts.get("PENDING") else "ACTIVE" if one.alive else "INACTIVE"
    return {
        "type": MODEL + "SimulatorComputeSource",
        "id": ydid("compsrc", one.uuid, 1),
        "name": one.template.short_name,
        "provider": PROVIDER,
        "region": REGION,
        "instanceType": one.template.instance_type,
        "imageId": one.usage.get("imagesId") or "local",
        "userData": one.usage.get("userData"),
        "instanceTags": one.usage.get("instanceTags"),
        "status": status,
        "statusMessage": one.error,
        "instanceSummary": {
            "aliveCount": one.alive,
            "statusCounts": dict(one.counts),
            "requestedCount": one.shortfall,
            "expectedCount": one.target,
            "totalCount": len(one.instances),
            "lastUpdatedTime": format_instant(now),
        },
    }


def compute_requirement(one: ComputeRequirement, now: float) -> Json:
    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name,
        "tag": one.tag,
        "createdTime": format_instant(one.created),
        "createdFromId": one.template.id,
        "status": one.status,
        "statusChangedTime": format_instant(one.status_changed),
        "targetInstanceCount": one.target,
        "expectedInstanceCount": one.target,
        "maintainInstanceCount": False,
        "supportedOperations": {"canStopStart": False, "canScaleOut": False, "canReprovision": False},
        "provisionStrategy": {
            "type": MODEL + "SingleSourceProvisionStrategy",
            "sources": [_source(one, now)],
        },
    }


def compute_requirement_summary(one: ComputeRequirement) -> Json:
    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name,
        "tag": one.tag,
        "targetInstanceCount": one.target,
        "expectedInstanceCount": one.target,
        "aliveInstanceCount": one.alive,
        "createdTime": format_instant(one.created),
        "statusChangedTime": format_instant(one.status_changed),
        "status": one.status,
        "healthy": one.error is None,
    }


def template_summary(one: Template) -> Json:
    return {
        "id": one.id,
        "name": one.short_name,
        "namespace": one.namespace,
        "description": f"{one.cpus:g} CPUs, {one.gpus} GPUs, {one.ram_gb:g} GB",
        "strategyType": MODEL + "SingleSourceProvisionStrategy",
        "type": MODEL + "ComputeRequirementStaticTemplate",
    }


def template(one: Template) -> Json:
    return template_summary(one) | {
        "sources": [{"sourceTemplateId": one.source_id, "instanceType": one.instance_type}],
    }


def source_template_summary(one: Template) -> Json:
    return {
        "id": one.source_id,
        "name": one.short_name,
        "namespace": one.namespace,
        "sourceType": MODEL + "SimulatorComputeSource",
        "provider": PROVIDER,
    }


def source_template(one: Template) -> Json:
    source = {"type": MODEL + "SimulatorComputeSource", "name": one.short_name, "provider": PROVIDER}
    return {"id": one.source_id, "namespace": one.namespace, "source": source}
