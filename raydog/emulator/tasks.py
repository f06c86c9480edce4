"""Tasks: added, allocated, run, ended, retried (contract, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raydog.emulator.driver import InstanceDriver, TaskSpec
from raydog.emulator.entities import (
    GROUP_TERMINATED,
    GROUP_TERMINATING,
    TASK_FINISHED,
    TASK_IN_PROGRESS,
    TASK_WAITING,
    Json,
    Task,
    TaskGroup,
    Worker,
)
from raydog.emulator.ids import ydid
from raydog.emulator.problems import bad_transition, invalid, not_found
from raydog.emulator.requests import as_list, as_object, as_text, as_text_map, as_texts
from raydog.emulator.retry import may_retry, resubmission_group
from raydog.emulator.state import State
from raydog.emulator.wire import check_name, check_tag, format_instant, parse_duration

ABORT_GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL; the platform's own value is not documented."""


class Tasks:
    """The life of tasks. ``group_changed`` is called after a group's tasks ended."""

    def __init__(self, state: State, driver: InstanceDriver) -> None:
        self._state = state
        self._driver = driver
        self.group_changed: Callable[[TaskGroup], None] = lambda _group: None

    def find(self, task_id: str) -> Task:
        task = self._state.tasks.get(task_id)
        if task is None or task.deleted:
            raise not_found("task", task_id)
        return task

    def find_group(self, group_id: str) -> TaskGroup:
        group = self._state.groups.get(group_id)
        if group is None:
            raise not_found("task group", group_id)
        return group

    def add(self, group: TaskGroup, items: list[object]) -> list[Task]:
        """Add tasks in order: all of them, or, if one is refused, none."""
        requirement = group.requirement
        if requirement.status not in {"RUNNING", "HELD"}:
            raise bad_transition(f"work requirement {requirement.name} is {requirement.status} and takes no more tasks")
        if group.status in GROUP_TERMINATED | GROUP_TERMINATING | {"FINISHING"}:
            raise invalid(f"task group {group.name} is {group.status} and takes no more tasks")
        added = [self._append(group, request) for request in self._check(group, items)]
        self._state.refresh_hunger(group)
        return added

    def _append(self, group: TaskGroup, request: Json) -> Task:
        requirement = group.requirement
        task_id = ydid("task", requirement.uuid, group.number, len(group.tasks) + 1)
        status = "PENDING" if group.waiting_on_dependency else "READY"
        task = Task(task_id, group, request, request.get("name"), status)
        group.tasks.append(task)
        requirement.tasks.append(task)
        self._state.tasks[task_id] = task
        self._state.count_task(task)
        if task.name is not None:
            group.names.add(task.name)
        return task

    @staticmethod
    def _check(group: TaskGroup, items: list[object]) -> list[Json]:
        names: set[str] = set()
        texts: dict[str, str] = {}
        template = group.request.get("taskTemplate") or {}
        requests = []
        for item in items:
            request = as_object(item, "a task")
            name = request.get("name")
            if name is not None:
                check_name(name, "task name")
                if name in group.names or name in names:
                    raise invalid(f"Task names must be unique within task group: {name}")
                names.add(name)
            what = f"task {name or '(unnamed)'}"
            check_tag(request.get("tag"), what)
            task_type = request.get("taskType") or template.get("taskType")
            if task_type not in group.spec.task_types:
                known = ", ".join(sorted(group.spec.task_types))
                raise invalid(f"{what} has the type {task_type!r}, but its task group takes {known}")
            as_texts(request.get("arguments"), f"{what}.arguments")
            as_text_map(request.get("environment"), f"{what}.environment")
            if request.get("timeout") is not None:
                parse_duration(request["timeout"], f"{what}.timeout")
            data = as_text(request.get("taskData"), f"{what}.taskData")
            if data is not None:
                request["taskData"] = texts.setdefault(data, data)  # a thousand equal scripts are kept once
            transfers = as_object(request.get("data") or {}, f"{what}.data")
            as_list(transfers.get("outputs"), f"{what}.data.outputs")
            if as_list(transfers.get("inputs"), f"{what}.data.inputs"):
                raise invalid(f"{what}.data.inputs: the RayDog emulator has no data client")
            requests.append(request)
        return requests

    def cancel(self, task: Task, abort: bool) -> Task:
        """A waiting task is CANCELLED; one in progress goes on, or is aborted (ABORTED a little later)."""
        if task.status in TASK_WAITING:
            self._end(task, "CANCELLED")
        elif task.status in TASK_IN_PROGRESS and abort:
            self.abort(task)
        return task

    def abort(self, task: Task) -> None:
        """SIGTERM, and SIGKILL after the grace. The task ends when the driver says so."""
        if task.abort_requested is None:
            task.abort_requested = self._state.clock.now()
            self._stop_process(task)

    def _stop_process(self, task: Task) -> None:
        if task.worker is not None:
            instance_id = task.worker.node.instance.id
            self._state.outbox.append(partial(self._driver.abort_task, instance_id, task.id, ABORT_GRACE_SECONDS))

    def end_waiting(self, group: TaskGroup, status: str) -> None:
        """End all tasks that wait: CANCELLED with their requirement, DISCARDED with their group."""
        now = self._state.clock.now()
        for task in group.tasks:
            if task.status in TASK_WAITING:
                self._state.set_task_status(task, status)
                task.finished = now
        self._state.refresh_hunger(group)

    def allocate(self, task: Task, worker: Worker) -> None:
        """The scheduler gave the task to the worker: tell the agent."""
        state = self._state
        group = task.group
        state.set_task_status(task, "ALLOCATED")
        task.worker, task.worker_id, task.node_id = worker, worker.id, worker.node.id
        worker.task = task
        state.set_worker_status(worker, "STARTING")
        if group.status == "PENDING":
            state.set_group_status(group, "RUNNING")
        if not group.ready:
            state.refresh_hunger(group)
        state.outbox.append(partial(self._run, task, worker))

    def _run(self, task: Task, worker: Worker) -> None:
        if task.worker is not worker:
            return  # the node went away before the agent heard of the task
        instance = worker.node.instance
        request = task.request
        template = task.group.request.get("taskTemplate") or {}
        environment = {
            **(template.get("environment") or {}),
            **(request.get("environment") or {}),
            "YD_TASK_ID": task.id,
            "YD_TASK_GROUP_ID": task.group.id,
            "YD_WORKER_SLOT": str(worker.slot),
        }
        spec = TaskSpec(
            task_id=task.id,
            task_type=_task_type(task),
            arguments=tuple(request.get("arguments") or ()),
            task_data=request.get("taskData", template.get("taskData")),
            environment=environment,
            worker_slot=worker.slot,
        )
        self._driver.run_task(instance.id, spec)

    # What the driver reports

    def started(self, task: Task) -> None:
        if task.status != "ALLOCATED" or task.worker is None:
            return
        state = self._state
        state.set_task_status(task, "EXECUTING")
        state.set_worker_status(task.worker, "RUNNING")
        task.started = state.clock.now()
        own = task.request.get("timeout")
        limit = parse_duration(own, "timeout") if own is not None else task.group.spec.task_timeout
        if limit is not None:
            task.timer = state.after(limit, partial(self._time_out, task))

    def _time_out(self, task: Task) -> None:
        if task.status in TASK_IN_PROGRESS and task.abort_requested is None:
            task.timed_out = True
            self._stop_process(task)

    def process_ended(self, task: Task, exit_code: int | None, error: str | None) -> None:
        """The task's process ended by itself, by an abort, or could not start."""
        if task.status not in TASK_IN_PROGRESS:
            return
        if task.abort_requested is not None:
            self._end(task, "ABORTED")
        elif task.timed_out:
            self._fail(task, "TIMED_OUT", "The task ran longer than its timeout", None)
        elif exit_code is None:
            self._fail(task, "UNABLE_START_PROCESS", error or "The process could not be started", None)
        elif exit_code != 0:
            self._fail(task, "PROCESS_NON_ZERO_EXIT", f"Process exited with code {exit_code}", exit_code)
        else:
            self._end(task, "COMPLETED")

    def lost(self, task: Task, reason: str) -> None:
        """The task's node is gone."""
        if task.status not in TASK_IN_PROGRESS:
            return
        if task.abort_requested is not None:
            self._end(task, "ABORTED")
        else:
            self._fail(task, "ALLOCATION_LOST", reason, None)

    def _fail(self, task: Task, error_type: str, message: str, exit_code: int | None) -> None:
        error: Json = {
            "timestamp": format_instant(self._state.clock.now()),
            "error": message,
            "errorType": error_type,
            "statusAtFailure": task.status,
            "nodeId": task.node_id,
            "workerId": task.worker_id,
            "processExitCode": exit_code,
        }
        group = task.group
        retry = (
            may_retry(group.spec, task.retry_count, error)
            and group.status not in GROUP_TERMINATING
            and group.requirement.status != "CANCELLING"
        )
        elsewhere = None if retry else self._resubmission_group(task, error)
        error["causedFailure"] = not retry and elsewhere is None
        task.errors.append(error)
        if elsewhere is not None:
            self._resubmit(task, elsewhere)
            return
        if not retry:
            self._end(task, "FAILED")
            return
        task.retry_count += 1
        task.timed_out = False
        task.started = None
        self._leave_worker(task)
        task.worker_id = task.node_id = None
        self._state.set_task_status(task, "READY")
        self._state.refresh_hunger(group)

    def _resubmission_group(self, task: Task, error: Json) -> TaskGroup | None:
        """Where the failure policy sends the task, if that group still takes tasks of its type."""
        requirement = task.group.requirement
        name = resubmission_group(task.group.spec, error)
        if name is None or task.group.status in GROUP_TERMINATING or requirement.status == "CANCELLING":
            return None
        group = next(one for one in requirement.groups if one.name == name)
        if group.status in GROUP_TERMINATED | GROUP_TERMINATING or _task_type(task) not in group.spec.task_types:
            return None
        return group

    def _resubmit(self, task: Task, group: TaskGroup) -> None:
        """A copy in another group, with what this group's template said; unnamed if the name is taken there."""
        template = task.group.request.get("taskTemplate") or {}
        request = {**template, **task.request}
        environment = {**(template.get("environment") or {}), **(task.request.get("environment") or {})}
        if environment:
            request["environment"] = environment
        if request.get("name") in group.names:
            del request["name"]
        copy = self._append(group, request)
        copy.resubmitted_from, task.resubmitted_to = task.id, copy.id
        self._state.refresh_hunger(group)
        self._end(task, "RESUBMITTED")

    def _delete(self, task: Task) -> None:
        """It was COMPLETED for longer than its group's completedTaskTtl: nobody finds it any more."""
        task.deleted = True
        task.request, task.errors = {}, []
        task.timer = None
        self._state.uncount_task(task)
        if task.name is not None:
            task.group.names.discard(task.name)

    def _end(self, task: Task, status: str) -> None:
        if task.status in TASK_FINISHED:
            return
        was_ready = task.status == "READY"
        self._state.set_task_status(task, status)
        task.finished = self._state.clock.now()
        self._leave_worker(task)
        if status == "COMPLETED" and task.group.completed_ttl is not None:
            task.timer = self._state.after(task.group.completed_ttl, partial(self._delete, task))
        if was_ready:
            self._state.refresh_hunger(task.group)
        self.group_changed(task.group)

    def _leave_worker(self, task: Task) -> None:
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        if task.worker is not None:
            worker, task.worker = task.worker, None
            self._state.free_worker(worker)


def _task_type(task: Task) -> str:
    template = task.group.request.get("taskTemplate") or {}
    return str(task.request.get("taskType") or template["taskType"])
