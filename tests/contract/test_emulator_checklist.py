"""The checklist of the platform's contract (its section 7), line by line, driven by the real SDK over HTTP."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from yellowdog_client.model import (
    InstanceSearch,
    NodeSearch,
    NodeStatus,
    NodeWorkerTarget,
    Task,
    TaskGroupStatus,
    WorkerPoolSearch,
    WorkerPoolStatus,
    WorkRequirementSearch,
    WorkRequirementStatus,
)
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import Emulator, VirtualClock
from raydog.emulator.platform import IDLE_GRACE_SECONDS
from tests.support.emulator import NAMESPACE, NEVER, ZERO, Yellowdog, groups, http_status, task_group, yellowdog
from tests.support.real import needs_real_instances
from tests.support.sdk_waiting import Waiting

SECONDS = 30.0
STAYS: dict[str, Any] = {"finishIfAllTasksFinished": False}


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock()) as running:
        yield running


def live_nodes(yd: Yellowdog) -> int:
    return len(yd.client.worker_pool_client.find_nodes(NodeSearch(statuses=[NodeStatus.RUNNING])))


def test_1_every_success_is_200_slices_are_objects_and_errors_have_a_detail_list(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    body = {"namespace": NAMESPACE, "name": "again", "taskGroups": []}
    cases = [("POST", "/work/requirements", body), ("GET", f"/work/requirements/{requirement.id}", None)]
    cases += [("PUT", f"/work/requirements/{requirement.id}/transition/HELD?abort=False", None)]
    assert [yd.http(method, path, json=sent).status_code for method, path, sent in cases] == [200, 200, 200]
    for path in ("/work/requirements?sliced=true", "/work/tasks", "/workerPools/?sliced=true", "/workerPools/nodes"):
        assert isinstance(yd.http("GET", path).json()["items"], list)
    for path in ("/compute/instances", "/compute/requirements?summaries=true", "/namespaces/", "/allowances/"):
        assert isinstance(yd.http("GET", path).json()["items"], list)
    refused = yd.http("POST", "/work/requirements", json=body)
    assert refused.json() == {
        "errorType": "InvalidRequestException",
        "message": refused.json()["message"],
        "detail": [],
    }
    with pytest.raises(InvalidRequestException):  # a null detail would make it a plain HTTPError
        yd.requirement("again")


def test_2_odd_but_legal_requests_are_accepted(yd: Yellowdog) -> None:
    requirement, work = yd.requirement(), yd.client.work_client
    group_id = str(groups(requirement)[0].id)
    task = {"taskType": "bash", "exclusiveWorkers": True, "outputs": []}
    packed = gzip.compress(json.dumps([task]).encode())
    path = f"/work/taskGroups/{group_id}/tasks"
    assert yd.http("POST", path, data=packed, headers={"Content-Encoding": "gzip"}).status_code == 200
    assert work.add_tasks_to_task_group_by_id(group_id, []) == []  # the SDK drops the empty body
    assert len(work.add_tasks_to_task_group_by_id(group_id, [Task(taskType="bash", taskData="#" * 4096)])) == 1
    assert yd.http("GET", f"//work//requirements/{requirement.id}").status_code == 200  # raw colons, double slashes
    assert ":" in str(requirement.id)
    for spelling in ("True", "true", "False", "false"):
        assert yd.http("GET", f"/work/requirements?sliced=true&isHealthy={spelling}").status_code == 200
    assert len(work.get_work_requirements(WorkRequirementSearch(name="", tag="", namespace="")).list_all()) == 1
    namespaces = yd.client.namespaces_client
    assert yd.http("POST", "/namespaces/", json={"namespace": "extra"}).text.startswith("ydid:namespace:")
    extra = yd.http("GET", "/namespaces/?namespaceContains=extra").json()["items"][0]["id"]
    namespaces.delete_namespace(extra)  # sends DELETE /namespaces//<id>


def test_3_ids_follow_the_scheme_and_finished_entities_stay_readable(yd: Yellowdog) -> None:
    requirement, pool = yd.requirement("work", task_group("a"), task_group("b")), yd.pool()
    (task,) = yd.add(requirement, 1, group=1)
    (node,) = yd.client.worker_pool_client.find_nodes(NodeSearch())
    ran = yd.task(task)
    _, _, account, uuid = str(requirement.id).split(":")
    assert re.fullmatch(r"[0-9A-F]{6}", account)
    assert re.fullmatch(r"[0-9a-f-]{36}", uuid)
    assert groups(requirement)[1].id == f"ydid:taskgrp:{account}:{uuid}:2"
    assert task.id == f"ydid:task:{account}:{uuid}:2:1"
    assert ran.workerId == str(node.id).replace("node", "wrkr") + ":1"
    yd.client.work_client.cancel_work_requirement(requirement, True)
    yd.client.worker_pool_client.shutdown_worker_pool(pool)
    yd.emulator.advance(86400)
    assert yd.read(requirement).status is WorkRequirementStatus.CANCELLED
    assert yd.status_of(task) == "ABORTED"
    assert yd.pool_status(pool) == "TERMINATED"
    compute = yd.client.compute_client.get_compute_requirement_by_id(str(pool.computeRequirementId))
    assert compute.id == pool.computeRequirementId
    assert yd.client.worker_pool_client.get_node_by_id(str(node.id)).status is NodeStatus.TERMINATED


def test_4_requirement_runs_at_once_its_group_is_pending_until_a_claim_and_empty_ones_never_end(yd: Yellowdog) -> None:
    requirement = yd.requirement("work", task_group("used", **STAYS), task_group("empty"))
    assert requirement.status is WorkRequirementStatus.RUNNING
    yd.add(requirement, 1)
    assert [group.status for group in groups(yd.read(requirement))] == [TaskGroupStatus.PENDING] * 2
    yd.pool()
    statuses = [group.status for group in groups(yd.read(requirement))]
    assert statuses == [TaskGroupStatus.RUNNING, TaskGroupStatus.PENDING]
    yd.emulator.advance(30 * 86400)
    assert groups(yd.read(requirement))[1].status is TaskGroupStatus.PENDING


def test_5_pools_scale_up_for_ready_tasks_and_down_when_idle(yd: Yellowdog) -> None:
    fresh = yd.pool("fresh", target=1, workerTag="other", idle_node=ZERO, idle_pool=ZERO)
    yd.emulator.advance(IDLE_GRACE_SECONDS - 1)
    assert yd.pool_status(fresh) == "IDLE", "a time-out of zero has grace until the first claim"
    yd.emulator.advance(1)
    assert yd.pool_status(fresh) == "TERMINATED"
    requirement = yd.requirement("work", task_group(**STAYS))
    yd.pool("kept", idle_pool=NEVER, minNodes=1)
    tasks = yd.add(requirement, 3)
    assert live_nodes(yd) == 3
    for task in tasks:
        yd.abort(task)
    assert live_nodes(yd) == 1, "never below minNodes"


def test_6_nodes_and_instances_have_addresses_and_share_an_id(yd: Yellowdog) -> None:
    yd.pool(target=3)
    nodes = yd.client.worker_pool_client.find_nodes(NodeSearch())
    instances = yd.client.compute_client.get_instances(InstanceSearch()).list_all()
    assert {one.id.instanceId for one in instances if one.id} == {
        node.details.instanceId for node in nodes if node.details
    }
    private = {one.privateIpAddress for one in instances}
    public = {one.publicIpAddress for one in instances}
    assert (len(private), len(public), None in private | public) == (3, 3, False)
    for node in nodes:
        assert node.details is not None
        assert node.details.privateIpAddress in private
        assert node.details.publicIpAddress is None


@pytest.mark.root
@needs_real_instances
def test_7_tasks_run_as_on_an_agents_machine_each_node_with_its_own_processes(tmp_path: Path) -> None:
    from raydog.emulator.real import RealDriver

    script = """
    echo "user=$USER logname=$LOGNAME home=$HOME pwd=$PWD id=$(id -un)"
    echo "processes=$(ls /proc | grep -c '^[0-9]')" "task=$YD_TASK_ID"
    sleep 3600 & wait
    """
    tmp_path.chmod(0o700)
    with yellowdog(Emulator(RealDriver(tmp_path))) as yd:
        requirement = yd.requirement("work", task_group(**STAYS))
        yd.pool(createNodeWorkers=NodeWorkerTarget.per_node(1))
        group_id = str(groups(requirement)[0].id)
        tasks = [Task(taskType="bash", arguments=["taskdata.txt"], taskData=script) for _ in range(2)]
        added = yd.client.work_client.add_tasks_to_task_group_by_id(group_id, tasks)
        for task in added:
            eventually(lambda task=task: "task=" in (yd.emulator.task_output(str(task.id)) or ""))  # type: ignore[misc]
            output = yd.emulator.task_output(str(task.id)) or ""
            folder = "/var/opt/yellowdog/agent/data/workers/" + str(task.id).replace(":", "_")
            home = "/opt/yellowdog/agent"
            assert f"user=yd-agent logname=yd-agent home={home} pwd={folder} id=yd-agent" in output
            assert f"task={task.id}" in output
            processes = int(output.split("processes=")[1].split()[0])
            assert processes < 20, "a node sees its own processes only"


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_8_abort_ends_the_task_frees_its_worker_and_the_idle_node_goes(yd: Yellowdog) -> None:
    requirement = yd.requirement("work", task_group(**STAYS))
    pool = yd.pool(idle_node=ZERO, idle_pool=NEVER)
    (task,) = yd.add(requirement, 1)
    assert live_nodes(yd) == 1
    yd.abort(task)
    aborted = yd.task(task)
    assert str(aborted.status) == "ABORTED"
    assert aborted.abortRequestedTime is not None
    assert live_nodes(yd) == 0
    assert yd.pool_status(pool) == str(WorkerPoolStatus.EMPTY)


def test_9_event_streams_begin_with_the_state_and_end_with_the_entity(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    cancelled = Waiting(yd.emulator, "work", requirement.id, "CANCELLED")
    with yd.http("GET", f"/work/requirements/{requirement.id}/updates", stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        first = [next(lines).decode() for _ in range(3)]
        assert first[1] == "event:entity_updated"
        assert json.loads(first[2].removeprefix("data:"))["status"] == "RUNNING"
        yd.client.work_client.cancel_work_requirement(requirement)
        rest = [line.decode() for line in lines]  # ends: the server closes the stream
    assert '"status":"CANCELLED"' in rest[-2]
    assert cancelled.result() == "CANCELLED"


def test_10_errors_have_the_texts_that_clients_match(yd: Yellowdog) -> None:
    requirement, work = yd.requirement(), yd.client.work_client
    yd.pool("taken")
    with pytest.raises(InvalidRequestException, match="already exists"):
        yd.pool("taken")
    with pytest.raises(InvalidRequestException, match="Task names must be unique within task group"):
        work.add_tasks_to_task_group_by_id(str(groups(requirement)[0].id), [Task(name="a", taskType="bash")] * 2)
    work.cancel_work_requirement(requirement)
    with pytest.raises(requests.HTTPError, match="InvalidWorkRequirementStatusException") as refused:
        work.start_work_requirement(requirement)
    assert http_status(refused.value) == 403
    yd.emulator.template("local/worker", boot_seconds=60)
    waiting = yd.pool("waiting", target=2)
    with pytest.raises(InvalidRequestException, match="awaiting nodes"):
        yd.client.worker_pool_client.resize_worker_pool(waiting, 3)
    yd.emulator.advance(60)
    assert yd.client.worker_pool_client.resize_worker_pool(waiting, 3).expectedNodeCount == 3
    found = yd.client.worker_pool_client.get_worker_pools(WorkerPoolSearch(name="waiting")).list_all()
    assert [pool.status for pool in found] == [WorkerPoolStatus.IDLE]
