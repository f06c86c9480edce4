"""Resubmission, the life of completed tasks, holding and finishing, as the real SDK sees them (contract, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests
from yellowdog_client.model import (
    FailurePolicy,
    ResubmissionDestination,
    RetryPolicy,
    Selection,
    Task,
    TaskErrorSelector,
    TaskErrorType,
    TaskSearch,
    TaskTemplate,
    WorkRequirementStatus,
)
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import VirtualClock
from tests.support.emulator import Yellowdog, groups, http_status, task_group, yellowdog

FAILS = {"SIMULATED_RUN_SECONDS": "1", "SIMULATED_EXIT_CODE": "137"}
ENDS = {"SIMULATED_RUN_SECONDS": "1"}


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock()) as running:
        yield running


def to(*destinations: ResubmissionDestination) -> FailurePolicy:
    return FailurePolicy(resubmissionDestinations=list(destinations))


def on(error: str, group: str) -> ResubmissionDestination:
    selector = TaskErrorSelector(errorTypes=Selection(includes=[error]))
    return ResubmissionDestination(destinationTaskGroup=group, resubmitErrors=Selection(includes=[selector]))


def in_group(yd: Yellowdog, requirement: Any, number: int) -> list[Task]:
    group_id = str(groups(yd.read(requirement))[number].id)
    return yd.client.work_client.find_tasks(TaskSearch(taskGroupId=group_id))


def test_failed_task_goes_to_the_first_group_that_wants_its_error(yd: Yellowdog) -> None:
    policy = to(on(TaskErrorType.ALLOCATION_LOST, "on-demand"), on(TaskErrorType.PROCESS_NON_ZERO_EXIT, "big"))
    requirement = yd.requirement(
        "work", task_group("small", failurePolicy=policy), task_group("big"), task_group("on-demand")
    )
    yd.pool()
    (task,) = yd.add(requirement, 1, environment=FAILS)
    yd.emulator.advance(1)
    original = yd.task(task)
    (copy,) = in_group(yd, requirement, 1)
    assert str(original.status) == "RESUBMITTED"
    assert original.resubmittedToTaskId == copy.id
    assert original.errors is not None
    assert original.errors[-1].processExitCode == 137
    assert (copy.resubmittedFromTaskId, copy.name, copy.environment) == (task.id, task.name, FAILS)
    assert str(copy.status) == "EXECUTING"
    assert in_group(yd, requirement, 2) == []
    yd.emulator.advance(1)
    assert yd.status_of(copy) == "FAILED"


def test_resubmission_comes_after_the_retries(yd: Yellowdog) -> None:
    anywhere = to(ResubmissionDestination(destinationTaskGroup="other"))
    first = task_group("first", retryPolicy=RetryPolicy(maxRetries=2), failurePolicy=anywhere)
    requirement = yd.requirement("work", first, task_group("other"))
    yd.pool()
    (task,) = yd.add(requirement, 1, environment=FAILS)
    yd.emulator.advance(3)
    assert (yd.status_of(task), yd.task(task).retryCount) == ("RESUBMITTED", 2)


def test_resubmitted_task_keeps_its_template_and_loses_a_taken_name(yd: Yellowdog) -> None:
    first = task_group("first", failurePolicy=to(ResubmissionDestination(destinationTaskGroup="other")))
    first.taskTemplate = TaskTemplate(taskType="bash", taskData="exit 3", environment=FAILS)
    requirement = yd.requirement("work", first, task_group("other", finishIfAllTasksFinished=False))
    add = yd.client.work_client.add_tasks_to_task_group_by_id
    add(str(groups(requirement)[1].id), [Task(name="same", taskType="bash")])
    yd.pool()
    add(str(groups(requirement)[0].id), [Task(name="same", environment={"MORE": "1"})])
    yd.emulator.advance(1)
    copy = in_group(yd, requirement, 1)[1]
    assert (copy.name, copy.taskType, copy.taskData) == (None, "bash", "exit 3")
    assert copy.environment == {**FAILS, "MORE": "1"}


def test_task_that_no_group_takes_any_more_fails(yd: Yellowdog) -> None:
    first = task_group("first", failurePolicy=to(ResubmissionDestination(destinationTaskGroup="other")))
    requirement = yd.requirement("work", first, task_group("other"))
    yd.pool()
    yd.add(requirement, 1, group=1, environment=ENDS)
    yd.emulator.advance(1)
    assert str(groups(yd.read(requirement))[1].status) == "COMPLETED"
    (task,) = yd.add(requirement, 1, environment=FAILS)
    yd.emulator.advance(1)
    assert yd.status_of(task) == "FAILED"
    assert yd.read(requirement).status is WorkRequirementStatus.FAILED


def test_destination_must_be_another_group_of_the_requirement(yd: Yellowdog) -> None:
    for name in ("first", "nowhere"):
        policy = to(ResubmissionDestination(destinationTaskGroup=name))
        with pytest.raises(InvalidRequestException, match=f"unknown groups: {name}"):
            yd.requirement("work", task_group("first", failurePolicy=policy))


@pytest.mark.parametrize(
    "fields",
    [
        {"retryPolicy": {"maxRetries": 1, "retryErrors": {"includes": ["x"]}}},
        {"retryPolicy": {"maxRetries": 1, "retryErrors": {"excludes": [{"errorTypes": "x"}]}}},
        {"retryableErrors": ["x"]},
        {"failurePolicy": {"resubmissionDestinations": [{}]}},
        {"failurePolicy": []},
    ],
)
def test_broken_policies_are_refused_when_they_are_added(yd: Yellowdog, fields: dict[str, Any]) -> None:
    group = {"name": "group", "runSpecification": {"taskTypes": ["bash"], **fields}}
    body = {"namespace": "tests", "name": "work", "taskGroups": [group]}
    answer = yd.http("POST", "/work/requirements", json=body)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "InvalidRequestException")


@pytest.mark.parametrize(
    "template", [[1], "x", {"environment": []}, {"environment": {"A": 1}}, {"taskType": 1}, {"taskData": {}}]
)
def test_broken_task_templates_are_refused_when_they_are_added(yd: Yellowdog, template: Any) -> None:
    group = {"name": "group", "runSpecification": {"taskTypes": ["bash"]}, "taskTemplate": template}
    body = {"namespace": "tests", "name": "work", "taskGroups": [group]}
    answer = yd.http("POST", "/work/requirements", json=body)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "InvalidRequestException")


def test_completed_tasks_are_deleted_after_their_time_to_live(yd: Yellowdog) -> None:
    group = task_group(finishIfAllTasksFinished=False)
    group.completedTaskTtl = timedelta(minutes=5)
    requirement = yd.requirement("work", group)
    yd.pool()
    done, failed = yd.add(requirement, 1, environment=ENDS)[0], yd.add(requirement, 1, environment=FAILS)[0]
    yd.emulator.advance(1 + 299)
    assert yd.status_of(done) == "COMPLETED"
    yd.emulator.advance(1)
    with pytest.raises(requests.HTTPError) as gone:
        yd.task(done)
    assert http_status(gone.value) == 404
    assert [task.id for task in in_group(yd, requirement, 0)] == [failed.id]
    summary = groups(yd.read(requirement))[0].taskSummary
    assert summary is not None
    assert summary.taskCount == 1
    again = yd.client.work_client.add_tasks_to_task_group_by_id(
        str(groups(requirement)[0].id), [Task(name=done.name, taskType="bash")]
    )
    assert str(again[0].id).endswith(":3"), "numbers are not used again"


def test_finished_task_says_how_long_it_worked(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool()
    (task,) = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "83.5"})
    yd.emulator.advance(100)
    worked = yd.task(task).workingTime
    assert worked is not None
    assert worked.executing == timedelta(seconds=83.5)


def test_held_requirement_keeps_what_runs_takes_tasks_and_adds_no_worker(yd: Yellowdog) -> None:
    requirement = yd.requirement("work", task_group(finishIfAllTasksFinished=False))
    pool = yd.pool()
    (running,) = yd.add(requirement, 1)
    yd.client.work_client.hold_work_requirement(requirement)
    (waiting,) = yd.add(requirement, 1)
    yd.emulator.advance(3600)
    assert (yd.status_of(running), yd.status_of(waiting)) == ("EXECUTING", "READY")
    found = yd.client.worker_pool_client.get_worker_pool_by_id(str(pool.id))
    assert found.nodeSummary is not None
    assert sum((found.nodeSummary.statusCounts or {}).values()) == 1
    assert str(groups(yd.read(requirement))[0].status) == "HELD"


def test_held_requirement_may_finish_or_be_cancelled(yd: Yellowdog) -> None:
    work = yd.client.work_client
    finishing, cancelled = yd.requirement("one"), yd.requirement("two")
    for one in (finishing, cancelled):
        work.hold_work_requirement(one)
    assert work.finish_work_requirement(finishing).status is WorkRequirementStatus.COMPLETED
    assert work.cancel_work_requirement(cancelled).status is WorkRequirementStatus.CANCELLED
