"""Worker pools, nodes, instances and compute as the real SDK sees them (contract, 2.2, 2.3, 3.4 to 3.7)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import requests
from yellowdog_client.model import (
    AutoShutdown,
    ComputeRequirement,
    ComputeRequirementStatus,
    ComputeRequirementTemplateSearch,
    ComputeRequirementTemplateUsage,
    InstanceSearch,
    InstanceStatus,
    NodeSearch,
    NodeStatus,
    NodeWorkerTarget,
    NodeWorkerTargetType,
    ProvisionedWorkerPool,
    WorkerPoolSearch,
    WorkerPoolStatus,
)
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import VirtualClock
from raydog.emulator.templates import Template
from tests.support.emulator import NAMESPACE, NEVER, ZERO, Yellowdog, http_status, sources, task_group, yellowdog

GRACE = 120.0


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock(), idle_grace=GRACE) as running:
        yield running


def live(yd: Yellowdog) -> int:
    return int(yd.emulator.status()["liveInstances"])


def compute_of(yd: Yellowdog, pool: ProvisionedWorkerPool) -> ComputeRequirement:
    return yd.client.compute_client.get_compute_requirement_by_id(str(pool.computeRequirementId))


def test_pool_provisions_its_target_and_waits_idle(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", boot_seconds=30)
    pool = yd.pool(target=2)
    assert pool.status is WorkerPoolStatus.PENDING
    assert pool.awaitingNodes
    assert compute_of(yd, pool).status is ComputeRequirementStatus.PROVISIONING
    yd.emulator.advance(30)
    read = yd.client.worker_pool_client.get_worker_pool_by_name(NAMESPACE, "pool")
    assert isinstance(read, ProvisionedWorkerPool)
    assert (read.status, read.awaitingNodes, read.expectedNodeCount) == (WorkerPoolStatus.IDLE, False, 2)
    assert compute_of(yd, pool).status is ComputeRequirementStatus.RUNNING


def test_second_pool_of_the_same_name_is_refused_with_the_documented_text(yd: Yellowdog) -> None:
    yd.pool()
    with pytest.raises(InvalidRequestException, match="already exists"):
        yd.pool()


def test_unknown_template_is_refused_and_the_known_ones_are_named(yd: Yellowdog) -> None:
    with pytest.raises(InvalidRequestException, match="local/head, local/worker"):
        yd.pool(template="local/nothing")


def test_template_is_found_by_name_and_by_id(yd: Yellowdog) -> None:
    compute = yd.client.compute_client
    found = compute.get_compute_requirement_templates(ComputeRequirementTemplateSearch(namespaces=["local"]))
    summaries = {one.name: one for one in found.list_all()}
    assert set(summaries) == {"head", "worker"}
    template = compute.get_compute_requirement_template_by_name("local", "worker")
    assert template.id == summaries["worker"].id
    assert yd.pool(template=str(template.id)).status is WorkerPoolStatus.PENDING


def test_pool_grows_by_itself_for_ready_tasks_that_no_worker_serves(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool(maxNodes=3)
    assert live(yd) == 0
    tasks = yd.add(requirement, 2)
    assert [yd.status_of(task) for task in tasks] == ["EXECUTING"] * 2
    assert live(yd) == 2
    more = yd.add(requirement, 2)
    assert [yd.status_of(task) for task in more] == ["EXECUTING", "READY"]
    assert (live(yd), yd.pool_status(pool)) == (3, "RUNNING")


def test_booting_instances_count_as_capacity(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", boot_seconds=60)
    requirement = yd.requirement()
    yd.pool()
    for batch in range(1, 4):
        yd.add(requirement, 2)
        assert live(yd) == 2 * batch
    yd.emulator.advance(30)
    assert live(yd) == 6
    yd.emulator.advance(30)
    assert [one["status"] for one in yd.emulator.status()["instances"]] == ["RUNNING"] * 6


def test_pool_ignores_tasks_for_other_tags_and_namespaces(yd: Yellowdog) -> None:
    other_tag = task_group("tag", workerTags=["other"])
    other_namespace = task_group("namespace", namespaces=["elsewhere"])
    requirement = yd.requirement("demo", other_tag, other_namespace)
    yd.pool()
    for group in (0, 1):
        yd.add(requirement, 1, group=group)
    assert live(yd) == 0


def test_aborted_task_frees_its_node_which_leaves_at_once(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool()
    first, second = yd.add(requirement, 2)
    node_id = str(yd.task(first).nodeId)
    yd.abort(first)
    assert yd.client.worker_pool_client.get_node_by_id(node_id).status is NodeStatus.TERMINATED
    assert yd.status_of(second) == "EXECUTING"
    assert live(yd) == 1
    yd.abort(second)
    assert (live(yd), yd.pool_status(pool)) == (0, "EMPTY")


def test_free_worker_takes_a_waiting_task_before_its_node_is_idle(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool(maxNodes=1)
    first, second = yd.add(requirement, 2)
    node_id = yd.task(first).nodeId
    yd.abort(first)
    assert (yd.status_of(second), yd.task(second).nodeId) == ("EXECUTING", node_id)


def test_idle_time_outs_of_zero_leave_a_new_pool_time_for_its_first_task(yd: Yellowdog) -> None:
    used = yd.pool("used", target=1, idle_pool=ZERO)
    unused = yd.pool("unused", target=1, idle_pool=ZERO, workerTag="unused")
    yd.emulator.advance(GRACE - 1)
    assert live(yd) == 2
    requirement = yd.requirement("demo", task_group("head", finishIfAllTasksFinished=False))
    task = yd.add(requirement, 1)[0]
    assert yd.status_of(task) == "EXECUTING"
    yd.emulator.advance(1)
    assert (yd.pool_status(used), yd.pool_status(unused)) == ("RUNNING", "TERMINATED")
    yd.abort(task)
    assert (yd.pool_status(used), live(yd)) == ("TERMINATED", 0)


def test_idle_nodes_stay_for_their_timeout_and_never_fall_below_the_minimum(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool(minNodes=1, idle_node=AutoShutdown(enabled=True, timeout=timedelta(seconds=60)))
    assert live(yd) == 1
    for task in yd.add(requirement, 3):
        yd.abort(task)
    assert live(yd) == 3
    yd.emulator.advance(59)
    assert live(yd) == 3
    yd.emulator.advance(1)
    assert live(yd) == 1


def test_idle_pool_shuts_down_after_its_timeout_only(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool(idle_node=NEVER, idle_pool=AutoShutdown(enabled=True, timeout=timedelta(minutes=10)))
    yd.abort(yd.add(requirement, 1)[0])
    yd.emulator.advance(599)
    assert yd.pool_status(pool) == "IDLE"
    yd.emulator.advance(1)
    assert (yd.pool_status(pool), live(yd)) == ("TERMINATED", 0)
    assert compute_of(yd, pool).status is ComputeRequirementStatus.TERMINATED


def test_deleted_pool_takes_no_work_and_ends_with_its_last_task(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool()
    executing = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "50"})[0]
    yd.client.worker_pool_client.shutdown_worker_pool_by_id(str(pool.id))
    waiting = yd.add(requirement, 1)[0]
    assert (yd.status_of(executing), yd.status_of(waiting)) == ("EXECUTING", "READY")
    assert (yd.pool_status(pool), live(yd)) == ("SHUTDOWN", 1)
    yd.emulator.advance(50)
    assert (yd.status_of(executing), yd.pool_status(pool), live(yd)) == ("COMPLETED", "TERMINATED", 0)


def test_terminated_compute_fails_its_tasks_and_ends_the_pool_and_both_may_be_repeated(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool()
    task = yd.add(requirement, 1)[0]
    terminate = yd.client.compute_client.terminate_compute_requirement_by_id
    shut_down = yd.client.worker_pool_client.shutdown_worker_pool_by_id
    for _ in range(2):
        terminate(str(pool.computeRequirementId))
        shut_down(str(pool.id))
        assert (yd.pool_status(pool), live(yd)) == ("TERMINATED", 0)
    failed = yd.task(task)
    assert failed.errors is not None
    assert (str(failed.status), failed.errors[0].errorType) == ("FAILED", "ALLOCATION_LOST")
    finished = yd.client.worker_pool_client.get_worker_pool_by_id(str(pool.id))
    assert isinstance(finished, ProvisionedWorkerPool)
    assert finished.computeRequirementId == pool.computeRequirementId


def test_node_and_instance_share_an_id_and_only_the_instance_has_the_public_address(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool()
    tasks = [yd.task(task) for task in yd.add(requirement, 3)]
    search = InstanceSearch(computeRequirementId=pool.computeRequirementId)
    found = yd.client.compute_client.get_instances(search).list_all()
    instances = {one.id.instanceId: one for one in found if one.id is not None}
    addresses: set[str | None] = set()
    for task in tasks:
        node = yd.client.worker_pool_client.get_node_by_worker_id(str(task.workerId))
        assert node.id == task.nodeId
        assert node.details is not None
        assert node.details.publicIpAddress is None
        instance = instances[node.details.instanceId]
        assert instance.privateIpAddress == node.details.privateIpAddress
        addresses |= {instance.privateIpAddress, instance.publicIpAddress}
        assert instance.hostname == node.details.hostname
    assert len(addresses) == 6
    assert None not in addresses


def test_worker_and_node_ids_are_each_others(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool(createNodeWorkers=NodeWorkerTarget.per_node(2))
    first, second = (yd.task(task) for task in yd.add(requirement, 2))
    assert first.nodeId == second.nodeId
    uuid = str(first.nodeId).split(":")[-1]
    assert [str(task.workerId).split(":", 3)[3] for task in (first, second)] == [f"{uuid}:1", f"{uuid}:2"]
    assert live(yd) == 1


def test_workers_per_vcpu_follow_the_template() -> None:
    big = Template("local/big", cpus=8, instance_type="big")
    with yellowdog(clock=VirtualClock(), templates=[big]) as yd:
        per_cpu = NodeWorkerTarget(targetCount=0.5, targetType=NodeWorkerTargetType.PER_VCPU)
        yd.pool(template="local/big", target=1, createNodeWorkers=per_cpu)
        node = yd.client.worker_pool_client.find_nodes(NodeSearch())[0]
        assert node.workers is not None
        assert node.details is not None
        assert (len(node.workers), node.details.vcpus) == (4, 8)


def test_lost_node_fails_its_task_and_is_not_alive_any_more(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool = yd.pool()
    task = yd.task(yd.add(requirement, 1)[0])
    instance = yd.emulator.status()["instances"][0]
    yd.emulator.preempt(instance["id"])
    failed = yd.task(task)
    assert failed.errors is not None
    assert (str(failed.status), failed.errors[0].errorType) == ("FAILED", "ALLOCATION_LOST")
    assert yd.client.worker_pool_client.get_node_by_id(str(task.nodeId)).status is NodeStatus.LOST
    alive = InstanceSearch(
        computeRequirementId=pool.computeRequirementId, statuses=[InstanceStatus.PENDING, InstanceStatus.RUNNING]
    )
    assert yd.client.compute_client.get_instances(alive).list_all() == []


def test_preemption_with_warning_is_seen_on_the_node_before_it_happens(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a", maximumTaskRetries=1))
    yd.pool()
    task = yd.task(yd.add(requirement, 1)[0])
    yd.emulator.preempt(yd.emulator.status()["instances"][0]["id"], warning_seconds=120)
    node = yd.client.worker_pool_client.get_node_by_id(str(task.nodeId))
    assert node.preemptionWarningTime is not None
    assert (node.status, yd.status_of(task)) == (NodeStatus.RUNNING, "EXECUTING")
    yd.emulator.advance(120)
    again = yd.task(task)
    assert (str(again.status), again.retryCount) == ("EXECUTING", 1)
    assert again.nodeId != task.nodeId


def test_instances_beyond_capacity_come_when_others_leave_and_the_source_says_why(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", capacity=1)
    requirement = yd.requirement()
    pool = yd.pool()
    first, second = yd.add(requirement, 2)
    assert [yd.status_of(task) for task in (first, second)] == ["EXECUTING", "READY"]
    source = sources(compute_of(yd, pool))[0]
    assert str(source.status) == "ERRORED"
    assert "Insufficient capacity" in str(source.statusMessage)
    unhealthy = WorkerPoolSearch(isHealthy=False)
    assert [one.name for one in yd.client.worker_pool_client.get_worker_pools(unhealthy).list_all()] == ["pool"]
    yd.emulator.preempt(yd.emulator.status()["instances"][0]["id"])
    assert yd.status_of(second) == "EXECUTING"
    assert sources(compute_of(yd, pool))[0].statusMessage is None


def test_boot_that_never_ends_is_given_up_after_the_boot_timeout_and_tried_again(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", boots=False)
    requirement = yd.requirement()
    pool = yd.pool(nodeBootTimeout=timedelta(minutes=5))
    task = yd.add(requirement, 1)[0]
    stuck = yd.emulator.status()["instances"][0]
    yd.emulator.advance(299)
    assert (stuck["status"], live(yd)) == ("PENDING", 1)
    yd.emulator.advance(1)
    assert live(yd) == 0
    assert "nodeBootTimeout" in str(sources(compute_of(yd, pool))[0].statusMessage)
    yd.emulator.template("local/worker", boots=True)
    yd.emulator.advance(5)
    assert yd.status_of(task) == "EXECUTING"
    assert yd.emulator.status()["instances"][0]["id"] != stuck["id"]


def test_resize_is_refused_while_nodes_are_awaited_and_obeyed_afterwards(yd: Yellowdog) -> None:
    yd.emulator.template("local/worker", boot_seconds=10)
    pool = yd.pool(target=2, idle_node=NEVER)
    resize = yd.client.worker_pool_client.resize_worker_pool_by_id
    with pytest.raises(InvalidRequestException, match="awaiting nodes"):
        resize(str(pool.id), 3)
    yd.emulator.advance(10)
    for size in (4, 1):
        resize(str(pool.id), size)
        yd.emulator.advance(10)
        assert live(yd) == size


def test_shut_down_node_lets_its_task_end(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool()
    task = yd.task(yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "20"})[0])
    node = yd.client.worker_pool_client.shutdown_node_by_id(str(task.nodeId))
    assert node.status is NodeStatus.RUNNING
    yd.emulator.advance(20)
    assert yd.status_of(task) == "COMPLETED"
    assert yd.client.worker_pool_client.get_node_by_id(str(task.nodeId)).status is NodeStatus.TERMINATED


def test_nodes_are_searched_by_pool_status_and_tag(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    pool, _other = yd.pool(), yd.pool("other", target=1, workerTag="other")
    first, _second = yd.add(requirement, 2)
    yd.abort(first)
    find = yd.client.worker_pool_client.find_nodes
    assert len(find(NodeSearch())) == 3
    assert len(find(NodeSearch(workerPoolId=pool.id))) == 2
    assert len(find(NodeSearch(workerPoolId=pool.id, statuses=[NodeStatus.RUNNING]))) == 1
    assert len(find(NodeSearch(workerTag="other"))) == 1


def test_pools_and_computes_are_searched_by_status_and_namespace(yd: Yellowdog) -> None:
    gone, stays = yd.pool("gone"), yd.pool("stays")
    yd.client.worker_pool_client.shutdown_worker_pool_by_id(str(gone.id))
    search = WorkerPoolSearch(namespace=NAMESPACE, statuses=[WorkerPoolStatus.EMPTY, WorkerPoolStatus.PENDING])
    assert [one.id for one in yd.client.worker_pool_client.get_worker_pools(search).list_all()] == [stays.id]
    assert len(yd.client.worker_pool_client.get_worker_pools(WorkerPoolSearch(name="s")).list_all()) == 1


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        ({"requirementName": "Upper"}, "invalid"),
        ({"targetInstanceCount": -1}, "targetInstanceCount"),
        ({"targetInstanceCount": 10_001}, "limit"),
        ({"maintainInstanceCount": True}, "maintainInstanceCount"),
    ],
)
def test_wrong_usages_are_refused(yd: Yellowdog, usage: dict[str, object], message: str) -> None:
    good = {"templateId": "local/worker", "requirementNamespace": NAMESPACE, "requirementName": "pool"}
    settings = {**good, "targetInstanceCount": 1, **usage}
    with pytest.raises(InvalidRequestException, match=message):
        yd.client.worker_pool_client.provision_worker_pool(
            ComputeRequirementTemplateUsage(**settings)  # type: ignore[arg-type]
        )
    assert live(yd) == 0


def test_unknown_ids_are_404(yd: Yellowdog) -> None:
    pools, compute = yd.client.worker_pool_client, yd.client.compute_client
    for call in (
        lambda: pools.get_worker_pool_by_id("ydid:wrkrpool:D06D06:none"),
        lambda: pools.shutdown_worker_pool_by_id("ydid:wrkrpool:D06D06:none"),
        lambda: pools.get_node_by_id("ydid:node:D06D06:none"),
        lambda: pools.get_node_by_worker_id("ydid:wrkr:D06D06:none:1"),
        lambda: compute.get_compute_requirement_by_id("ydid:compreq:D06D06:none"),
    ):
        with pytest.raises(requests.HTTPError) as failed:
            call()
        assert http_status(failed.value) == 404
