"""The emulator and the real SDK on it, for tests: short ways to make requirements, pools and tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock

import requests
from yellowdog_client import PlatformClient
from yellowdog_client.model import (
    ApiKey,
    AutoShutdown,
    ComputeRequirement,
    ComputeRequirementTemplateUsage,
    ComputeSource,
    NodeWorkerTarget,
    ProvisionedWorkerPool,
    ProvisionedWorkerPoolProperties,
    RetryProperties,
    RunSpecification,
    ServicesSchema,
    Task,
    TaskGroup,
    TaskSearch,
    WorkRequirement,
)

from raydog.emulator import Emulator

NAMESPACE = "tests"
ZERO = AutoShutdown(enabled=True, timeout=timedelta(0))
NEVER = AutoShutdown(enabled=False)


@dataclass
class Yellowdog:
    """An emulator with a client of the real SDK, which repeats failed calls without long waits."""

    emulator: Emulator
    client: PlatformClient

    def requirement(self, name: str = "work", *wanted: TaskGroup) -> WorkRequirement:
        request = WorkRequirement(namespace=NAMESPACE, name=name, taskGroups=list(wanted or [task_group()]))
        return self.client.work_client.add_work_requirement(request)

    def read(self, requirement: WorkRequirement) -> WorkRequirement:
        return self.client.work_client.get_work_requirement_by_id(str(requirement.id))

    def pool(
        self,
        name: str = "pool",
        *,
        target: int = 0,
        template: str = "local/worker",
        idle_node: AutoShutdown | None = ZERO,
        idle_pool: AutoShutdown | None = NEVER,
        **properties: Any,
    ) -> ProvisionedWorkerPool:
        settings: dict[str, Any] = {"createNodeWorkers": NodeWorkerTarget.per_node(1), "workerTag": "ray"}
        settings |= {"minNodes": 0, "maxNodes": 100, "idleNodeShutdown": idle_node, "idlePoolShutdown": idle_pool}
        return self.client.worker_pool_client.provision_worker_pool(
            ComputeRequirementTemplateUsage(
                templateId=template,
                requirementNamespace=NAMESPACE,
                requirementName=name,
                targetInstanceCount=target,
            ),
            ProvisionedWorkerPoolProperties(**(settings | properties)),
        )

    def pool_status(self, pool: ProvisionedWorkerPool) -> str:
        return str(self.client.worker_pool_client.get_worker_pool_by_id(str(pool.id)).status)

    def add(self, requirement: WorkRequirement, count: int = 1, group: int = 0, **fields: Any) -> list[Task]:
        """Add ``count`` tasks, named after those that the group has."""
        group_id = str(groups(self.read(requirement))[group].id)
        there = len(self.client.work_client.find_tasks(TaskSearch(taskGroupId=group_id)))
        tasks = [
            Task(name=f"task-{there + number}", taskType="bash", arguments=["taskdata.txt"], taskData="true", **fields)
            for number in range(1, count + 1)
        ]
        return list(self.client.work_client.add_tasks_to_task_group_by_id(group_id, tasks))

    def task(self, task: Task) -> Task:
        return self.client.work_client.get_task_by_id(str(task.id))

    def status_of(self, task: Task) -> str:
        return str(self.task(task).status)

    def abort(self, task: Task) -> Task:
        return self.client.work_client.cancel_task_by_id(str(task.id), True)

    def http(self, method: str, path: str, **options: Any) -> requests.Response:
        """A bare call with the key, for what the SDK does not send."""
        headers = {"Authorization": f"yd-key {self.emulator.key_id}:{self.emulator.key_secret}"}
        headers |= options.pop("headers", {})
        return requests.request(method, self.emulator.url + path, headers=headers, timeout=10, **options)


def task_group(name: str = "group", **fields: Any) -> TaskGroup:
    """A group of bash tasks for workers with the tag ``ray``; fields of its run specification go by their names."""
    of_group = {"finishIfAllTasksFinished", "finishIfAnyTaskFailed", "dependencies", "priority", "tag", "id"}
    specification = {key: value for key, value in fields.items() if key not in of_group}
    specification = {"taskTypes": ["bash"], "workerTags": ["ray"], **specification}
    return TaskGroup(
        name=name,
        runSpecification=RunSpecification(**specification),
        **{key: value for key, value in fields.items() if key in of_group and key != "id"},
    )


def groups(requirement: WorkRequirement) -> list[TaskGroup]:
    """Its task groups, which the SDK's type allows to be absent."""
    assert requirement.taskGroups is not None
    return requirement.taskGroups


def sources(compute: ComputeRequirement) -> list[ComputeSource]:
    found = compute.provisionStrategy.sources
    assert found is not None
    return found


def http_status(error: requests.HTTPError) -> int:
    assert error.response is not None
    return error.response.status_code


@contextmanager
def yellowdog(emulator: Emulator | None = None, **settings: Any) -> Iterator[Yellowdog]:
    """A running emulator (simulated instances unless ``settings`` say otherwise) and its client."""
    schema_retry = RetryProperties(
        maxAttempts=3, initialInterval=timedelta(milliseconds=1), maxInterval=timedelta(milliseconds=5)
    )
    with mock.patch.dict(os.environ, {"NO_PROXY": "*"}), emulator or Emulator(**settings) as running:
        schema = ServicesSchema(defaultUrl=running.url, retry=schema_retry)
        client = PlatformClient.create(schema, ApiKey(running.key_id, running.key_secret))
        try:
            yield Yellowdog(running, client)
        finally:
            client.close()
