"""``/work/``: work requirements and tasks (contract, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydog.emulator import encode
from raydog.emulator.entities import REQUIREMENT_FINISHED, Task, WorkRequirement
from raydog.emulator.problems import invalid
from raydog.emulator.requests import as_list
from raydog.emulator.rest.call import Call, Updates
from raydog.emulator.rest.routes import Route

Filters = list[Callable[[Any], bool]]


def _requirement(call: Call, one: WorkRequirement) -> Any:
    return encode.work_requirement(one, call.now)


def add_requirement(call: Call) -> Any:
    return _requirement(call, call.platform.work.add(call.body))


def update_requirement(call: Call) -> Any:
    return _requirement(call, call.platform.work.update(call.body))


def get_requirement(call: Call) -> Any:
    return _requirement(call, call.platform.work.find(call.path["id"]))


def get_requirement_by_name(call: Call) -> Any:
    return _requirement(call, call.platform.work.find_by_name(call.path["namespace"], call.path["name"]))


def transition(call: Call) -> Any:
    work = call.platform.work
    one = work.find(call.path["id"])
    return _requirement(call, work.transition(one, call.path["status"], call.flag("abort") or False))


def requirement_updates(call: Call) -> Any:
    one, clock = call.platform.work.find(call.path["id"]), call.platform.clock
    return Updates(
        one.id, lambda: encode.work_requirement(one, clock.now()), lambda: one.status in REQUIREMENT_FINISHED
    )


def common_filters(call: Call) -> Filters:
    """Namespace exact; name and tag partial; status; times."""
    filters: Filters = []
    namespaces = call.texts("namespace", "namespaces")
    if namespaces:
        filters.append(lambda one: one.namespace in namespaces)
    name = call.text("name")
    if name is not None:
        filters.append(lambda one: name in one.name)
    tag = call.text("tag")
    if tag is not None:
        filters.append(lambda one: tag in (one.tag or ""))
    statuses = call.texts("statuses")
    if statuses:
        filters.append(lambda one: one.status in statuses)
    created, changed = call.instants("createdTime"), call.instants("statusChangedTime")
    if created is not None:
        filters.append(lambda one: created(one.created))
    if changed is not None:
        filters.append(lambda one: changed(one.status_changed))
    return filters


SORTS: dict[str, Callable[[Any], Any]] = {
    "name": lambda one: one.name,
    "namespace": lambda one: one.namespace,
    "status": lambda one: one.status,
    "createdTime": lambda one: one.created,
    "statusChangedTime": lambda one: one.status_changed,
}


def search_requirements(call: Call) -> Any:
    filters = common_filters(call)
    healthy = call.flag("isHealthy")
    if healthy is not None:
        filters.append(lambda one: encode.is_healthy(one) is healthy)
    items = list(call.platform.state.requirements.values())
    if call.flag("sliced"):
        return call.page(items, filters, encode.work_requirement_summary, SORTS)
    return [encode.work_requirement_summary(one) for one in items if all(keep(one) for keep in filters)]


def _add_tasks(call: Call, group: Any) -> Any:
    added = call.platform.tasks.add(group, as_list(call.body, "the tasks"))
    return [encode.task(one) for one in added]


def add_tasks(call: Call) -> Any:
    return _add_tasks(call, call.platform.tasks.find_group(call.path["id"]))


def add_tasks_by_name(call: Call) -> Any:
    requirement = call.platform.work.find_by_name(call.path["namespace"], call.path["requirement"])
    for group in requirement.groups:
        if group.name == call.path["group"]:
            return _add_tasks(call, group)
    raise invalid(f"work requirement {requirement.name} has no task group {call.path['group']}")


def get_task(call: Call) -> Any:
    return encode.task(call.platform.tasks.find(call.path["id"]))


def cancel_task(call: Call) -> Any:
    tasks = call.platform.tasks
    return encode.task(tasks.cancel(tasks.find(call.path["id"]), call.flag("abort") or False))


_TASK_SORTS: dict[str, Callable[[Any], Any]] = {
    "name": lambda one: one.name or "",
    "status": lambda one: one.status,
    "startedTime": lambda one: one.started or 0.0,
    "finishedTime": lambda one: one.finished or 0.0,
}


def _task_filters(call: Call) -> Filters:
    filters: Filters = [lambda one: not one.deleted]
    statuses, name = call.texts("statuses"), call.text("name")
    if statuses:
        filters.append(lambda one: one.status in statuses)
    if name is not None:
        filters.append(lambda one: name in (one.name or ""))
    tag, prefix = call.text("tag"), call.text("tagStartsWith")
    if tag is not None:
        filters.append(lambda one: tag in (one.request.get("tag") or ""))
    if prefix is not None:
        filters.append(lambda one: (one.request.get("tag") or "").startswith(prefix))
    started, finished = call.instants("startedTime"), call.instants("finishedTime")
    if started is not None:
        filters.append(lambda one: started(one.started))
    if finished is not None:
        filters.append(lambda one: finished(one.finished))
    has_errors = call.flag("hasErrors")
    if has_errors is not None:
        filters.append(lambda one: bool(one.errors) is has_errors)
    for key, field in (("hasInputs", "inputs"), ("hasOutputs", "outputs")):
        wanted = call.flag(key)
        if wanted is not None:
            filters.append(
                lambda one, field=field, wanted=wanted: (  # type: ignore[misc]
                    bool((one.request.get("data") or {}).get(field)) is wanted
                )
            )
    return filters


def search_tasks(call: Call) -> Any:
    state = call.platform.state
    filters = _task_filters(call)
    group_id, requirement_id = call.text("taskGroupId"), call.text("workRequirementId")
    items: list[Task]
    if group_id is not None:
        group = state.groups.get(group_id)
        items = group.tasks if group is not None else []
        if requirement_id is not None:
            filters.append(lambda one: one.group.requirement.id == requirement_id)
    elif requirement_id is not None:
        requirement = state.requirements.get(requirement_id)
        items = requirement.tasks if requirement is not None else []
    else:
        items = list(state.tasks.values())
    return call.page(items, filters, encode.task, _TASK_SORTS)


_BY_NAME = "/work/namespaces/{namespace}/requirements"

ROUTES = (
    Route("POST", "/work/requirements", "add_work_requirement", add_requirement),
    Route("PUT", "/work/requirements", "update_work_requirement", update_requirement),
    Route("GET", "/work/requirements", "get_work_requirements", search_requirements),
    Route("GET", "/work/requirements/{id}", "get_work_requirement_by_id", get_requirement),
    Route("PUT", "/work/requirements/{id}/transition/{status}", "transition_work_requirement", transition),
    Route("GET", _BY_NAME + "/{name}", "get_work_requirement_by_name", get_requirement_by_name),
    Route("POST", "/work/taskGroups/{id}/tasks", "add_tasks_to_task_group", add_tasks),
    Route(
        "POST",
        _BY_NAME + "/{requirement}/taskGroups/{group}/tasks",
        "add_tasks_to_task_group_by_name",
        add_tasks_by_name,
    ),
    Route("GET", "/work/tasks", "get_tasks", search_tasks),
    Route("GET", "/work/tasks/{id}", "get_task_by_id", get_task),
    Route("PUT", "/work/tasks/{id}/cancel", "cancel_task", cancel_task),
    Route("GET", "/work/requirements/{id}/updates", "get_work_requirement_updates", requirement_updates),
)
