"""Work requirements, groups and tasks as the real SDK sees them (contract, sections 2.1, 3.1 to 3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
import requests
from yellowdog_client.model import (
    InstantRange,
    RetryPolicy,
    Selection,
    SliceReference,
    Task,
    TaskErrorSelector,
    TaskGroupStatus,
    TaskSearch,
    TaskStatus,
    WorkRequirementSearch,
    WorkRequirementStatus,
)
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import Emulator, VirtualClock
from tests.support.emulator import NAMESPACE, Yellowdog, groups, http_status, task_group, yellowdog


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock()) as running:
        yield running


def test_requirement_is_running_at_once_and_its_empty_group_waits(yd: Yellowdog) -> None:
    added = yd.requirement("demo", task_group("head-node"), task_group("workers"))
    assert added.status is WorkRequirementStatus.RUNNING
    yd.emulator.advance(86400)
    read = yd.read(added)
    assert read.status is WorkRequirementStatus.RUNNING
    assert [group.status for group in groups(read)] == [TaskGroupStatus.PENDING] * 2
    assert [group.name for group in groups(read)] == ["head-node", "workers"]


def test_ids_follow_the_scheme_from_which_clients_compute_parents(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a"), task_group("b"))
    kind, account, uuid = str(requirement.id).split(":")[1:]
    assert kind == "workreq"
    assert str(groups(requirement)[1].id) == f"ydid:taskgrp:{account}:{uuid}:2"
    tasks = yd.add(requirement, 2, group=1)
    assert [task.id for task in tasks] == [f"ydid:task:{account}:{uuid}:2:{number}" for number in (1, 2)]


def test_requirement_is_found_by_id_and_by_name(yd: Yellowdog) -> None:
    added = yd.requirement("demo")
    assert yd.client.work_client.get_work_requirement_by_name(NAMESPACE, "demo").id == added.id
    with pytest.raises(requests.HTTPError) as failed:
        yd.client.work_client.get_work_requirement_by_name(NAMESPACE, "other")
    assert http_status(failed.value) == 404


def test_name_is_taken_until_the_requirement_has_finished(yd: Yellowdog) -> None:
    first = yd.requirement("demo")
    with pytest.raises(InvalidRequestException, match="already exists"):
        yd.requirement("demo")
    yd.client.work_client.cancel_work_requirement_by_id(str(first.id))
    second = yd.requirement("demo")
    assert second.id != first.id
    assert yd.read(first).status is WorkRequirementStatus.CANCELLED


@pytest.mark.parametrize("name", ["Demo", "1demo", "demo-", "d" * 61, "de mo", "dämo", ""])
def test_names_that_the_platform_refuses_are_refused(yd: Yellowdog, name: str) -> None:
    with pytest.raises(InvalidRequestException, match="invalid"):
        yd.requirement(name)


def test_update_appends_groups_in_order(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("head-node"))
    groups(requirement).extend([task_group("workers-1"), task_group("workers-2")])
    updated = yd.client.work_client.update_work_requirement(requirement)
    assert [group.name for group in groups(updated)] == ["head-node", "workers-1", "workers-2"]
    assert str(groups(updated)[2].id).endswith(":3")
    assert groups(updated)[0].id == groups(requirement)[0].id


def test_update_refuses_duplicate_missing_and_foreign_groups(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("head-node"))
    update = yd.client.work_client.update_work_requirement
    stale = yd.read(requirement)
    groups(requirement).append(task_group("head-node"))
    with pytest.raises(InvalidRequestException, match="unique"):
        update(requirement)
    groups(requirement)[1] = task_group("workers")
    update(requirement)
    with pytest.raises(InvalidRequestException, match="workers"):
        update(stale)
    assert len(groups(yd.read(requirement))) == 2


def test_search_filters_namespace_exactly_and_name_and_tag_partly(yd: Yellowdog) -> None:
    for name in ("demo", "demo-gpu", "other"):
        yd.requirement(name)
    search = yd.client.work_client.get_work_requirements

    def names(**filters: object) -> list[str | None]:
        return [one.name for one in search(WorkRequirementSearch(**filters)).list_all()]  # type: ignore[arg-type]

    assert names(namespace=NAMESPACE) == ["demo", "demo-gpu", "other"]
    assert names(namespaces=[NAMESPACE], name="demo") == ["demo", "demo-gpu"]
    assert names(namespace="test") == []
    assert names(name="", tag="") == ["demo", "demo-gpu", "other"]
    assert names(statuses=[WorkRequirementStatus.CANCELLED]) == []


def test_tasks_come_back_in_order_with_ids(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    tasks = [Task(name=f"n-{letter}", taskType="bash") for letter in "cab"]
    added = yd.client.work_client.add_tasks_to_task_group_by_name(NAMESPACE, "work", "group", tasks)
    assert [task.name for task in added] == ["n-c", "n-a", "n-b"]
    assert all(task.taskGroupId == groups(requirement)[0].id for task in added)


def test_duplicate_task_name_is_refused_and_nothing_of_the_call_is_applied(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    group_id = str(groups(requirement)[0].id)
    add = yd.client.work_client.add_tasks_to_task_group_by_id
    add(group_id, [Task(name="one", taskType="bash")])
    with pytest.raises(InvalidRequestException, match="Task names must be unique within task group"):
        add(group_id, [Task(name="two", taskType="bash"), Task(name="one", taskType="bash")])
    assert len(yd.client.work_client.find_tasks(TaskSearch(taskGroupId=group_id))) == 1


def test_unnamed_tasks_and_empty_lists_are_legal(yd: Yellowdog) -> None:
    group_id = str(groups(yd.requirement())[0].id)
    add = yd.client.work_client.add_tasks_to_task_group_by_id
    assert add(group_id, []) == []
    assert len(add(group_id, [Task(taskType="bash"), Task(taskType="bash")])) == 2


def test_task_of_a_type_that_the_group_does_not_take_is_refused(yd: Yellowdog) -> None:
    group_id = str(groups(yd.requirement())[0].id)
    with pytest.raises(InvalidRequestException, match="docker"):
        yd.client.work_client.add_tasks_to_task_group_by_id(group_id, [Task(name="one", taskType="docker")])


def test_large_calls_arrive_compressed(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    group_id = str(groups(requirement)[0].id)
    script = "echo hello\n" * 1000
    tasks = [Task(name=f"t-{number}", taskType="bash", taskData=script) for number in range(1000)]
    added = yd.client.work_client.add_tasks_to_task_group_by_id(group_id, tasks)
    assert len(added) == 1000
    assert yd.task(added[999]).taskData == script


def test_tasks_are_searched_in_slices_that_miss_and_repeat_none(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a"), task_group("b"))
    yd.add(requirement, 25, group=0)
    yd.add(requirement, 5, group=1)
    search = TaskSearch(workRequirementId=requirement.id)
    found: list[str | None] = []
    reference = SliceReference(size=10)
    while True:
        page = yd.client.work_client.find_tasks_slice(search, reference)
        found += [task.id for task in page.items or []]
        if len(found) == 10:
            yd.add(requirement, 1, group=0)  # must not shift what is still to come
        if page.nextSliceId is None:
            break
        reference = SliceReference(sliceId=page.nextSliceId, size=10)
    assert len(found) == len(set(found)) == 31
    assert len(yd.client.work_client.find_tasks(search)) == 31


def test_tasks_are_filtered_by_group_status_and_times(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a"), task_group("b", workerTags=["nobody"]))
    yd.pool()
    first, second = yd.add(requirement, 2, group=0)
    waiting = yd.add(requirement, 1, group=1)[0]
    yd.emulator.advance(10)
    middle = datetime.fromtimestamp(1_700_000_005, timezone.utc)
    yd.abort(first)
    find = yd.client.work_client.find_tasks

    def ids(**filters: object) -> list[str | None]:
        return [task.id for task in find(TaskSearch(workRequirementId=requirement.id, **filters))]  # type: ignore[arg-type]

    assert ids(statuses=[TaskStatus.EXECUTING]) == [second.id]
    assert ids(statuses=[TaskStatus.READY, TaskStatus.ABORTED]) == [first.id, waiting.id]
    assert ids(taskGroupId=groups(requirement)[1].id) == [waiting.id]
    assert ids(finishedTime=InstantRange(min=middle)) == [first.id]
    assert ids(startedTime=InstantRange(max=middle)) == [first.id, second.id]
    assert ids(startedTime=InstantRange(min=middle)) == []


def test_cancel_with_abort_ends_tasks_groups_and_requirement(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a"), task_group("b", workerTags=["nobody"]))
    yd.pool()
    executing, waiting = yd.add(requirement, 1)[0], yd.add(requirement, 1, group=1)[0]
    yd.client.work_client.cancel_work_requirement_by_id(str(requirement.id), True)
    read = yd.read(requirement)
    assert read.status is WorkRequirementStatus.CANCELLED
    assert [group.status for group in groups(read)] == [TaskGroupStatus.CANCELLED] * 2
    assert [yd.status_of(task) for task in (executing, waiting)] == ["ABORTED", "CANCELLED"]
    assert yd.task(executing).abortRequestedTime is not None


def test_cancel_without_abort_lets_executing_tasks_end_and_can_be_sharpened(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool(maxNodes=1)
    executing, waiting = yd.add(requirement, 2)
    yd.client.work_client.cancel_work_requirement_by_id(str(requirement.id))
    assert yd.read(requirement).status is WorkRequirementStatus.CANCELLING
    assert [yd.status_of(task) for task in (executing, waiting)] == ["EXECUTING", "CANCELLED"]
    yd.client.work_client.cancel_work_requirement_by_id(str(requirement.id), True)
    assert yd.read(requirement).status is WorkRequirementStatus.CANCELLED


def test_illegal_transitions_are_403_with_the_platforms_text(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    cancel = yd.client.work_client.cancel_work_requirement_by_id
    cancel(str(requirement.id))
    for _ in range(2):
        with pytest.raises(requests.HTTPError, match="InvalidWorkRequirementStatusException") as failed:
            cancel(str(requirement.id), True)
        assert http_status(failed.value) == 403
    direct = yd.http("PUT", f"/work/requirements/{yd.requirement('other').id}/transition/CANCELLED")
    assert direct.status_code == 403


def test_hold_starts_no_further_task_and_start_goes_on(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool()
    running = yd.add(requirement, 1)[0]
    yd.client.work_client.hold_work_requirement_by_id(str(requirement.id))
    held = yd.add(requirement, 1)[0]
    assert [yd.status_of(running), yd.status_of(held)] == ["EXECUTING", "READY"]
    assert groups(yd.read(requirement))[0].status is TaskGroupStatus.HELD
    yd.client.work_client.start_work_requirement_by_id(str(requirement.id))
    assert yd.status_of(held) == "EXECUTING"
    assert groups(yd.read(requirement))[0].status is TaskGroupStatus.RUNNING


def test_finishing_requirement_takes_no_tasks_and_completes_with_its_last(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a", finishIfAllTasksFinished=False), task_group("empty"))
    yd.pool()
    task = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "30"})[0]
    yd.client.work_client.finish_work_requirement_by_id(str(requirement.id))
    with pytest.raises(requests.HTTPError, match="FINISHING"):
        yd.add(requirement, 1)
    assert yd.read(requirement).status is WorkRequirementStatus.FINISHING
    yd.emulator.advance(30)
    assert yd.status_of(task) == "COMPLETED"
    assert yd.read(requirement).status is WorkRequirementStatus.COMPLETED


def test_group_completes_with_its_last_task_unless_told_otherwise(yd: Yellowdog) -> None:
    stays = task_group("stays", finishIfAllTasksFinished=False)
    requirement = yd.requirement("demo", task_group("ends"), stays)
    yd.pool()
    for group in (0, 1):
        yd.abort(yd.add(requirement, 1, group=group)[0])
    read = yd.read(requirement)
    assert [group.status for group in groups(read)] == [TaskGroupStatus.COMPLETED, TaskGroupStatus.RUNNING]
    assert read.status is WorkRequirementStatus.RUNNING
    with pytest.raises(InvalidRequestException, match="COMPLETED"):
        yd.add(requirement, 1, group=0)
    assert yd.status_of(yd.add(requirement, 1, group=1)[0]) == "EXECUTING"


def test_failed_task_fails_its_group_and_discards_the_rest(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("head", finishIfAnyTaskFailed=True))
    yd.pool(maxNodes=1)
    failing = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "5", "SIMULATED_EXIT_CODE": "3"})[0]
    waiting = yd.add(requirement, 1)[0]
    yd.emulator.advance(5)
    failed = yd.task(failing)
    assert failed.status is TaskStatus.FAILED
    assert failed.errors is not None
    assert (failed.errors[0].errorType, failed.errors[0].processExitCode) == ("PROCESS_NON_ZERO_EXIT", 3)
    assert yd.status_of(waiting) == "DISCARDED"
    read = yd.read(requirement)
    assert (groups(read)[0].status, read.status) == (TaskGroupStatus.FAILED, WorkRequirementStatus.FAILED)


def test_dependent_group_waits_until_the_other_completed(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("first"), task_group("second", dependencies=["first"]))
    yd.pool()
    late = yd.add(requirement, 1, group=1)[0]
    early = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "5"})[0]
    assert groups(yd.read(requirement))[1].waitingOnDependency
    assert [yd.status_of(early), yd.status_of(late)] == ["EXECUTING", "PENDING"]
    yd.emulator.advance(5)
    assert yd.status_of(late) == "EXECUTING"
    assert not groups(yd.read(requirement))[1].waitingOnDependency


def test_dependent_group_is_given_up_when_the_other_failed(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("first"), task_group("second", dependencies=["first"]))
    yd.pool()
    late = yd.add(requirement, 1, group=1)[0]
    yd.add(requirement, 1, environment={"SIMULATED_EXIT_CODE": "1"})
    assert yd.status_of(late) == "DISCARDED"
    assert yd.read(requirement).status is WorkRequirementStatus.FAILED


def test_group_without_workers_is_starved_and_unhealthy(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a", workerTags=["nobody"]))
    yd.add(requirement, 1)
    assert groups(yd.read(requirement))[0].starved
    unhealthy = yd.client.work_client.get_work_requirements(WorkRequirementSearch(isHealthy=False))
    assert [one.name for one in unhealthy.list_all()] == ["demo"]


def test_abort_is_answered_before_it_is_done(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool()
    task = yd.add(requirement, 1)[0]
    answer = yd.abort(task)
    assert answer.status is TaskStatus.EXECUTING
    assert answer.abortRequestedTime is not None
    assert yd.status_of(task) == "ABORTED"


def test_cancel_without_abort_leaves_an_executing_task_alone(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    yd.pool(maxNodes=1)
    executing, waiting = yd.add(requirement, 2)
    for task in (executing, waiting):
        yd.client.work_client.cancel_task_by_id(str(task.id), False)
    assert [yd.status_of(executing), yd.status_of(waiting)] == ["EXECUTING", "CANCELLED"]


@pytest.mark.parametrize(("own", "seconds"), [(None, 60), (timedelta(seconds=20), 20)])
def test_task_that_runs_too_long_fails_as_timed_out(yd: Yellowdog, own: timedelta | None, seconds: int) -> None:
    requirement = yd.requirement("demo", task_group("a", taskTimeout=timedelta(seconds=60)))
    yd.pool()
    task = yd.add(requirement, 1, timeout=own)[0]
    yd.emulator.advance(seconds - 1)
    assert yd.status_of(task) == "EXECUTING"
    yd.emulator.advance(1)
    read = yd.task(task)
    assert read.status is TaskStatus.FAILED
    assert read.errors is not None
    assert read.errors[0].errorType == "TIMED_OUT"


def test_retry_policy_runs_a_task_again_as_often_as_it_says(yd: Yellowdog) -> None:
    exits = Selection(includes=[TaskErrorSelector(errorTypes=Selection(includes=["PROCESS_NON_ZERO_EXIT"]))])
    policy = RetryPolicy(maxRetries=2, retryErrors=exits)
    requirement = yd.requirement("demo", task_group("a", retryPolicy=policy))
    yd.pool()
    task = yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "5", "SIMULATED_EXIT_CODE": "1"})[0]
    for retries in (1, 2):
        yd.emulator.advance(5)
        assert (yd.status_of(task), yd.task(task).retryCount) == ("EXECUTING", retries)
    yd.emulator.advance(5)
    read = yd.task(task)
    assert (read.status, read.retryCount, len(read.errors or [])) == (TaskStatus.FAILED, 2, 3)


def test_lost_answer_of_an_add_is_repeated_by_the_sdk_and_refused_as_duplicate() -> None:
    with yellowdog(Emulator()) as yd:
        requirement = yd.requirement()
        yd.emulator.fault("add_tasks_to_task_group", "drop_after")
        with pytest.raises(InvalidRequestException, match="Task names must be unique"):
            yd.add(requirement, 1)
        found = yd.client.work_client.find_tasks(TaskSearch(workRequirementId=requirement.id))
        assert len(found) == 1
