"""Every documented filter and every page size, through the real SDK (contract, sections 1.4 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from yellowdog_client.model import (
    CloudProvider,
    ComputeRequirementTemplateSearch,
    ComputeSourceTemplateSearch,
    DoubleRange,
    InstanceSearch,
    InstanceStatus,
    InstantRange,
    NamespaceSearch,
    NodeSearch,
    NodeStatus,
    SliceReference,
    SortDirection,
    Task,
    TaskSearch,
    TaskStatus,
    WorkerPoolSearch,
    WorkerStatus,
    WorkRequirementSearch,
)
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import VirtualClock
from tests.support.emulator import NAMESPACE, Yellowdog, groups, task_group, yellowdog

START = datetime.fromtimestamp(VirtualClock().now(), timezone.utc)
BEFORE, SOON = START - timedelta(seconds=1), START + timedelta(seconds=1)


@pytest.fixture(scope="module")
def yd() -> Iterator[Yellowdog]:
    """Two pools with a node each; three tasks run or wait, one failed; the clock stands at the start plus 10 s."""
    with yellowdog(clock=VirtualClock()) as running:
        running.pool("one", workerTag="one")
        running.pool("two", workerTag="two", template="local/head")
        work = running.requirement("work", task_group("one", workerTags=["one"]), task_group("two", workerTags=["two"]))
        ids = [str(group.id) for group in groups(work)]
        add = running.client.work_client.add_tasks_to_task_group_by_id
        add(ids[0], [Task(name="runs", tag="a-1", taskType="bash")])
        fails = {"SIMULATED_RUN_SECONDS": "2", "SIMULATED_EXIT_CODE": "1"}
        add(ids[1], [Task(name="fails", tag="b-1", taskType="bash", environment=fails)])
        running.emulator.advance(10)
        yield running


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["runs", "fails"]),
        ({"name": "fail"}, ["fails"]),
        ({"name": ""}, ["runs", "fails"]),
        ({"tag": "-1"}, ["runs", "fails"]),
        ({"tagStartsWith": "b"}, ["fails"]),
        ({"statuses": [TaskStatus.FAILED, TaskStatus.READY]}, ["fails"]),
        ({"hasErrors": True}, ["fails"]),
        ({"hasErrors": False}, ["runs"]),
        ({"hasInputs": False}, ["runs", "fails"]),
        ({"hasOutputs": True}, []),
        ({"startedTime": InstantRange(min=BEFORE, max=SOON)}, ["runs", "fails"]),
        ({"startedTime": InstantRange(min=SOON)}, []),
        ({"finishedTime": InstantRange(min=SOON)}, ["fails"]),
        ({"finishedTime": InstantRange(max=SOON)}, []),
        ({"sortField": "name"}, ["fails", "runs"]),
        ({"sortField": "name", "sortDirection": SortDirection.DESCENDING}, ["runs", "fails"]),
    ],
)
def test_tasks(yd: Yellowdog, filters: dict[str, Any], names: list[str]) -> None:
    found = yd.client.work_client.find_tasks(TaskSearch(**filters))
    assert [task.name for task in found] == names


@pytest.mark.parametrize(
    ("filters", "tags"),
    [
        ({}, ["one", "two"]),
        ({"workerTag": "two"}, ["two"]),
        ({"statuses": [NodeStatus.RUNNING]}, ["one"]),
        ({"statuses": [NodeStatus.TERMINATED]}, ["two"]),
        ({"providers": [CloudProvider.ON_PREMISE]}, ["one", "two"]),
        ({"providers": [CloudProvider.AWS]}, []),
        ({"region": "local"}, ["one", "two"]),
        ({"instanceType": "local.head"}, ["two"]),
        ({"vcpus": DoubleRange(min=2.0)}, ["two"]),
        ({"vcpus": DoubleRange(max=1.0)}, ["one"]),
        ({"ram": DoubleRange(min=2.0, max=4.0)}, ["one", "two"]),
        ({"ram": DoubleRange(max=1.0)}, []),
        ({"workerStatuses": [WorkerStatus.RUNNING]}, ["one"]),
        ({"registeredTime": InstantRange(max=SOON)}, ["one", "two"]),
        ({"workerRegisteredTime": InstantRange(min=SOON)}, []),
        ({"deregisteredTime": InstantRange(min=SOON)}, ["two"]),
        ({"preemptionWarningTime": InstantRange(min=BEFORE)}, []),
        ({"sortField": "registeredTime"}, ["one", "two"]),
    ],
)
def test_nodes(yd: Yellowdog, filters: dict[str, Any], tags: list[str]) -> None:
    found = yd.client.worker_pool_client.find_nodes(NodeSearch(**filters))
    assert [node.details.workerTag for node in found if node.details] == tags


def test_nodes_of_a_pool_of_an_instance_and_of_a_group(yd: Yellowdog) -> None:
    pools = yd.client.worker_pool_client
    (node,) = pools.find_nodes(NodeSearch(statuses=[NodeStatus.RUNNING]))
    assert node.details is not None
    group_id = yd.client.work_client.find_tasks(TaskSearch(name="runs"))[0].taskGroupId
    for search in (
        NodeSearch(workerPoolId=node.workerPoolId),
        NodeSearch(instanceId=node.details.instanceId),
        NodeSearch(workerTaskGroupId=group_id),
    ):
        assert [one.id for one in pools.find_nodes(search)] == [node.id]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 2),
        ({"statuses": [InstanceStatus.RUNNING]}, 1),
        ({"providers": [CloudProvider.ON_PREMISE]}, 2),
        ({"providers": [CloudProvider.AWS]}, 0),
        ({"regions": ["local", "other"]}, 2),
        ({"regions": ["other"]}, 0),
        ({"imageIds": ["local"]}, 2),
        ({"imageIds": ["ami-1"]}, 0),
        ({"privateIpAddress": "10.0.0.1"}, 1),
        ({"publicIpAddress": "10.0.0.1"}, 0),
        ({"computeRequirementId": "ydid:compreq:none"}, 0),
    ],
)
def test_instances(yd: Yellowdog, filters: dict[str, Any], count: int) -> None:
    assert len(yd.client.compute_client.get_instances(InstanceSearch(**filters)).list_all()) == count


def test_instances_of_a_source_and_by_host_name(yd: Yellowdog) -> None:
    get = yd.client.compute_client.get_instances
    one = get(InstanceSearch()).list_all()[0]
    assert one.id is not None
    for search in (InstanceSearch(hostname=one.hostname), InstanceSearch(computeSourceId=one.id.sourceId)):
        assert [found.id for found in get(search).list_all()] == [one.id]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["one", "two"]),
        ({"name": "tw"}, ["two"]),
        ({"namespaces": [NAMESPACE, "x"]}, ["one", "two"]),
        ({"namespace": "x"}, []),
        ({"type": "co.yellowdog.platform.model.ConfiguredWorkerPool"}, []),
        ({"isHealthy": True}, ["one", "two"]),
        ({"createdTime": InstantRange(min=SOON)}, []),
        ({"sortField": "name", "sortDirection": SortDirection.DESCENDING}, ["two", "one"]),
    ],
)
def test_pools(yd: Yellowdog, filters: dict[str, Any], names: list[str]) -> None:
    found = yd.client.worker_pool_client.get_worker_pools(WorkerPoolSearch(**filters)).list_all()
    assert [pool.name for pool in found] == names


def test_requirements_by_health_and_times(yd: Yellowdog) -> None:
    get = yd.client.work_client.get_work_requirements
    for search, count in (
        (WorkRequirementSearch(isHealthy=False), 1),
        (WorkRequirementSearch(isHealthy=True), 0),
        (WorkRequirementSearch(createdTime=InstantRange(max=SOON)), 1),
        (WorkRequirementSearch(statusChangedTime=InstantRange(min=SOON)), 0),
    ):
        assert len(get(search).list_all()) == count


def test_templates_and_their_sources(yd: Yellowdog) -> None:
    compute = yd.client.compute_client
    requirement = compute.get_compute_requirement_templates
    static = "co.yellowdog.platform.model.ComputeRequirementStaticTemplate"
    for search, names in (
        (ComputeRequirementTemplateSearch(), ["head", "worker"]),
        (ComputeRequirementTemplateSearch(name="work", namespaces=["local"]), ["worker"]),
        (ComputeRequirementTemplateSearch(namespaces=["other"]), []),
        (ComputeRequirementTemplateSearch(type=[static]), ["head", "worker"]),
        (ComputeRequirementTemplateSearch(strategyType=["other"]), []),
    ):
        assert [one.name for one in requirement(search).list_all()] == names
    assert [one.name for one in compute.find_all_compute_requirement_templates()] == ["head", "worker"]
    (source,) = compute.get_compute_source_templates(ComputeSourceTemplateSearch(name="worker")).list_all()
    assert compute.get_compute_source_template(str(source.id)).source.name == "worker"
    assert compute.get_compute_source_template_by_name("local", "worker").id == source.id
    template = compute.get_compute_requirement_template_by_name("local", "worker")
    assert template.sources[0].sourceTemplateId == source.id  # type: ignore[attr-defined]


def test_namespaces(yd: Yellowdog) -> None:
    get = yd.client.namespaces_client.get_namespaces
    for search, names in (
        (NamespaceSearch(namespaceContains="est"), [NAMESPACE]),
        (NamespaceSearch(namespaces=["est"]), []),
        (NamespaceSearch(namespace=NAMESPACE), [NAMESPACE]),
        (NamespaceSearch(deletable=True), []),
        (NamespaceSearch(deletable=False), [NAMESPACE]),
    ):
        assert [one.namespace for one in get(search).list_all()] == names


@pytest.mark.parametrize("size", [1, 3, 25, 249, 250, 1000])
def test_pages_of_any_size_miss_and_repeat_none(size: int, many: tuple[Yellowdog, str, list[str]]) -> None:
    yd, group_id, ids = many
    wanted = ids[: 40 * size]  # forty pages of one tell as much as 250
    seen: list[str] = []
    reference = SliceReference(size=size)
    while len(seen) < len(wanted):
        page = yd.client.work_client.find_tasks_slice(TaskSearch(taskGroupId=group_id), reference)
        assert page.items is not None
        assert 1 <= len(page.items) <= size
        seen += [str(task.id) for task in page.items]
        reference = SliceReference(sliceId=page.nextSliceId, size=size)
    assert seen == wanted
    assert (reference.sliceId is None) == (wanted == ids)


@pytest.fixture(scope="module")
def many() -> Iterator[tuple[Yellowdog, str, list[str]]]:
    """A group of 250 waiting tasks: the emulator, the group's id, and the tasks' ids in order."""
    with yellowdog(clock=VirtualClock()) as yd:
        group_id = str(groups(yd.requirement())[0].id)
        tasks = [Task(taskType="bash") for _ in range(250)]
        added = yd.client.work_client.add_tasks_to_task_group_by_id(group_id, tasks)
        yield yd, group_id, [str(task.id) for task in added]


@pytest.mark.parametrize("size", [-1, 1001])
def test_other_page_sizes_are_refused(yd: Yellowdog, size: int) -> None:
    answer = yd.http("GET", f"/work/tasks?size={size}")
    assert answer.status_code == 400


def test_wrong_names_of_sort_fields_are_refused_with_the_known_ones(yd: Yellowdog) -> None:
    with pytest.raises(InvalidRequestException, match="known here: finishedTime, name, startedTime, status"):
        yd.client.work_client.find_tasks(TaskSearch(sortField="colour"))
