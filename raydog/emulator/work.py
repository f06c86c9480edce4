"""Work requirements and task groups: their state machines (contract, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import Any

from raydog.emulator.entities import (
    GROUP_TERMINATED,
    GROUP_TERMINATING,
    REQUIREMENT_FINISHED,
    TASK_IN_PROGRESS,
    TASK_WAITING,
    Json,
    TaskGroup,
    WorkRequirement,
)
from raydog.emulator.ids import new_uuid, ydid
from raydog.emulator.problems import bad_transition, invalid, not_found
from raydog.emulator.requests import (
    as_flag,
    as_list,
    as_number,
    as_object,
    as_texts,
    check_task_template,
    run_specification,
)
from raydog.emulator.state import State
from raydog.emulator.tasks import Tasks
from raydog.emulator.wire import check_name, check_tag, parse_duration

MAX_TASK_GROUPS = 1000
_TRANSITIONS = {
    "HELD": frozenset({"RUNNING"}),
    "RUNNING": frozenset({"HELD"}),
    "FINISHING": frozenset({"RUNNING", "HELD"}),
    "CANCELLING": frozenset({"RUNNING", "HELD", "FINISHING"}),
}


class Work:
    """Adds, changes and ends work requirements and their groups."""

    def __init__(self, state: State, tasks: Tasks) -> None:
        self._state = state
        self._tasks = tasks
        tasks.group_changed = self.review_group

    def find(self, requirement_id: str) -> WorkRequirement:
        found = self._state.requirements.get(requirement_id)
        if found is None:
            raise not_found("work requirement", requirement_id)
        return found

    def find_by_name(self, namespace: str, name: str) -> WorkRequirement:
        found = self._state.requirement_names.get((namespace, name))
        if found is None:
            raise not_found("work requirement", f"{namespace}/{name}")
        return found

    def add(self, body: object) -> WorkRequirement:
        """A new requirement; it is RUNNING at once, long before any worker exists."""
        request = as_object(body, "the work requirement")
        namespace = check_name(request.get("namespace"), "namespace")
        name = check_name(request.get("name"), "work requirement name")
        key = (namespace, name)
        taken = self._state.requirement_names.get(key)
        if taken is not None and taken.status not in REQUIREMENT_FINISHED:
            raise invalid(f"A work requirement named {name} already exists in namespace {namespace}")
        now = self._state.clock.now()
        uuid = new_uuid()
        requirement = WorkRequirement(
            id=ydid("workreq", uuid),
            uuid=uuid,
            namespace=namespace,
            name=name,
            tag=check_tag(request.get("tag"), name),
            priority=as_number(request.get("priority"), "priority", 0),
            created=now,
            status="RUNNING",
            status_changed=now,
        )
        groups = self._parse_groups(requirement, as_list(request.get("taskGroups"), "taskGroups"))
        self._state.requirements[requirement.id] = requirement
        self._state.requirement_names[key] = requirement
        self._state.note_requirement(requirement)
        self._state.namespace_id(namespace, lambda: ydid("namespace", new_uuid()))
        self._append(requirement, groups)
        return requirement

    def update(self, body: object) -> WorkRequirement:
        """``PUT``: existing groups by id (in any order, all of them), new ones without id, appended in order.

        Priority, tags and the two finish flags of a group may change; a run specification may not.
        """
        request = as_object(body, "the work requirement")
        requirement = self.find(str(request.get("id")))
        if requirement.status in REQUIREMENT_FINISHED or requirement.status == "CANCELLING":
            raise bad_transition(f"work requirement {requirement.name} is {requirement.status} and cannot be updated")
        sent = [as_object(item, "a task group") for item in as_list(request.get("taskGroups"), "taskGroups")]
        known = {str(item["id"]): item for item in sent if item.get("id") is not None}
        unknown = set(known) - {group.id for group in requirement.groups}
        missing = [group.name for group in requirement.groups if group.id not in known]
        if unknown:
            raise invalid(f"task group {min(unknown)} is not one of work requirement {requirement.name}")
        if missing:
            raise invalid(f"task groups cannot be removed, but the update lacks: {', '.join(missing)}")
        added = [item for item in sent if item.get("id") is None]
        if added and requirement.status == "FINISHING":
            raise bad_transition(f"work requirement {requirement.name} is FINISHING and takes no task groups")
        groups = self._parse_groups(requirement, added)
        changes = [(group, self._changes(known[group.id])) for group in requirement.groups]
        priority = as_number(request.get("priority"), "priority", requirement.priority)
        tag = check_tag(request.get("tag"), requirement.name)
        requirement.priority, requirement.tag = priority, tag  # all is checked: from here on nothing is refused
        for group, change in changes:
            group.priority, group.tag, group.finish_if_all_finished, group.finish_if_any_failed = change
        self._append(requirement, groups)
        self._state.watchers.changed(requirement.id)
        for group in list(requirement.groups):
            self.review_group(group)
        return requirement

    @staticmethod
    def _changes(item: Json) -> tuple[float, str | None, bool, bool]:
        name = str(item.get("name"))
        return (
            as_number(item.get("priority"), f"{name}.priority", 0),
            check_tag(item.get("tag"), name),
            as_flag(item.get("finishIfAllTasksFinished"), f"{name}.finishIfAllTasksFinished", True),
            as_flag(item.get("finishIfAnyTaskFailed"), f"{name}.finishIfAnyTaskFailed", False),
        )

    def _parse_groups(self, requirement: WorkRequirement, items: list[Any]) -> list[TaskGroup]:
        groups: list[TaskGroup] = []
        names = {group.name for group in requirement.groups}
        if len(names) + len(items) > MAX_TASK_GROUPS:
            raise invalid(f"a work requirement has at most {MAX_TASK_GROUPS} task groups")
        for number, raw in enumerate(items, start=len(requirement.groups) + 1):
            item = as_object(raw, "a task group")
            name = check_name(item.get("name"), "task group name")
            if name in names:
                raise invalid(f"Task group names must be unique within work requirement: {name}")
            names.add(name)
            priority, tag, if_all, if_any = self._changes(item)
            check_task_template(item.get("taskTemplate"), f"{name}.taskTemplate")
            dependencies = as_texts(item.get("dependencies"), f"{name}.dependencies")
            old_style, ttl = item.get("dependentOn"), item.get("completedTaskTtl")
            groups.append(
                TaskGroup(
                    id=ydid("taskgrp", requirement.uuid, number),
                    number=number,
                    requirement=requirement,
                    name=name,
                    tag=tag,
                    priority=priority,
                    request=item,
                    spec=run_specification(item.get("runSpecification"), f"task group {name}"),
                    finish_if_all_finished=if_all,
                    finish_if_any_failed=if_any,
                    dependencies=(*dependencies, str(old_style)) if old_style else dependencies,
                    completed_ttl=None if ttl is None else parse_duration(ttl, f"{name}.completedTaskTtl"),
                    status="PENDING",
                    status_changed=self._state.clock.now(),
                )
            )
        for group in groups:
            unknown = [name for name in group.dependencies if name not in names or name == group.name]
            if unknown:
                raise invalid(f"task group {group.name} depends on unknown groups: {', '.join(unknown)}")
            elsewhere = [name for name, _ in group.spec.resubmissions if name not in names or name == group.name]
            if elsewhere:
                raise invalid(f"task group {group.name} resubmits to unknown groups: {', '.join(elsewhere)}")
        return groups

    def _append(self, requirement: WorkRequirement, groups: list[TaskGroup]) -> None:
        for group in groups:
            requirement.groups.append(group)
            self._state.groups[group.id] = group
            group.waiting_on_dependency = bool(group.dependencies)
            if requirement.status == "HELD":
                group.held_from = "PENDING"
                self._state.set_group_status(group, "HELD")
        for group in groups:
            self._review_dependencies(group)

    def transition(self, requirement: WorkRequirement, target: str, abort: bool) -> WorkRequirement:
        """A user's transition. Illegal ones are refused with InvalidWorkRequirementStatusException."""
        again = target == "CANCELLING" and requirement.status == "CANCELLING" and abort
        if requirement.status not in _TRANSITIONS.get(target, frozenset()) and not again:
            raise bad_transition(f"work requirement {requirement.name} cannot go from {requirement.status} to {target}")
        self._state.set_requirement_status(requirement, target)
        for group in list(requirement.groups):
            if group.status not in GROUP_TERMINATED:
                self._move_group(group, target, abort)
        self._review_requirement(requirement)
        return requirement

    def _move_group(self, group: TaskGroup, target: str, abort: bool) -> None:
        state = self._state
        if target == "HELD" and group.status not in GROUP_TERMINATING:
            group.held_from = group.status
            state.set_group_status(group, "HELD")
        elif target == "RUNNING" and group.status == "HELD":
            state.set_group_status(group, group.held_from or "PENDING")
        elif target == "FINISHING" and group.status not in GROUP_TERMINATING:
            state.set_group_status(group, "FINISHING")
        elif target == "CANCELLING":
            state.set_group_status(group, "CANCELLING")
            self._tasks.end_waiting(group, "CANCELLED")
            if abort:
                for task in group.tasks:
                    if task.status in TASK_IN_PROGRESS:
                        self._tasks.abort(task)
        state.refresh_hunger(group)
        self.review_group(group)

    def review_group(self, group: TaskGroup) -> None:
        """Let the group go on where its tasks allow it. To be called after any of them ended."""
        state = self._state
        if group.status in GROUP_TERMINATED:
            return
        failed = group.counts.get("FAILED", 0) > 0
        if failed and group.finish_if_any_failed and group.status not in GROUP_TERMINATING:
            state.set_group_status(group, "FAILING")
            self._tasks.end_waiting(group, "DISCARDED")
            state.refresh_hunger(group)
        ended: str | None = None
        if group.status in GROUP_TERMINATING:
            if not group.in_progress:
                ended = "FAILED" if group.status == "FAILING" else "CANCELLED"
        elif not group.unfinished and group.status != "HELD":
            all_done = bool(group.tasks) and group.finish_if_all_finished
            if all_done or group.status == "FINISHING":
                ended = "FAILED" if failed else "COMPLETED"
        if ended is None:
            return
        state.set_group_status(group, ended)
        state.refresh_hunger(group)
        for other in group.requirement.groups:
            if group.name in other.dependencies:
                self._review_dependencies(other)
        self._review_requirement(group.requirement)

    def _review_dependencies(self, group: TaskGroup) -> None:
        """Release the group once all that it depends on completed; give it up if one cannot any more."""
        if not group.waiting_on_dependency or group.status in GROUP_TERMINATED:
            return
        by_name = {other.name: other.status for other in group.requirement.groups}
        statuses = {by_name[name] for name in group.dependencies}
        if statuses & {"FAILED", "CANCELLED"} and group.status not in GROUP_TERMINATING:
            self._state.set_group_status(group, "FAILING")
            self._tasks.end_waiting(group, "DISCARDED")
            self.review_group(group)
        elif statuses == {"COMPLETED"}:
            group.waiting_on_dependency = False
            for task in group.tasks:
                if task.status in TASK_WAITING:
                    self._state.set_task_status(task, "READY")
            self._state.refresh_hunger(group)

    def _review_requirement(self, requirement: WorkRequirement) -> None:
        if requirement.status in REQUIREMENT_FINISHED or requirement.status == "HELD":
            return
        if any(group.status not in GROUP_TERMINATED for group in requirement.groups):
            return
        ending = requirement.status in {"FINISHING", "CANCELLING"}
        if not requirement.groups and not ending:
            return
        if requirement.status == "CANCELLING":
            status = "CANCELLED"
        else:
            failed = any(group.status == "FAILED" for group in requirement.groups)
            status = "FAILED" if failed else "COMPLETED"
        self._state.set_requirement_status(requirement, status)
