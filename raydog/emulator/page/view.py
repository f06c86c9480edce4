"""What a page looks at, and what there is to see of it: bounded, however much there is.

A list shows a window of at most `LARGEST_WINDOW` rows and how many there are in all. Everything else comes from
counts that the platform keeps anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from raydog.emulator.entities import (
    POOL_FINISHED,
    REQUIREMENT_FINISHED,
    TASK_FINISHED,
    TASK_IN_PROGRESS,
    Instance,
    Json,
    Pool,
    Task,
    TaskGroup,
    WorkRequirement,
)
from raydog.emulator.events import Event
from raydog.emulator.page.load import Load
from raydog.emulator.platform import Platform
from raydog.emulator.problems import invalid
from raydog.emulator.requests import as_count, as_flag, as_object, as_text

T = TypeVar("T")

SECTIONS = ("work", "pools", "instances", "events")
LARGEST_WINDOW = 200
LARGEST_FILTER = 200
GROUPS_SHOWN = 100
TASKS_OF_A_NODE = 8


@dataclass(frozen=True)
class View:
    """What a page shows: a section, perhaps one thing of it, a window of its list, perhaps one task's details."""

    section: str
    id: str | None
    words: tuple[str, ...]
    """Rows have all of these in them; lower case."""
    live: bool
    """Only what has not ended."""
    offset: int
    limit: int
    task: str | None

    @classmethod
    def parse(cls, body: object) -> View:
        """From a page's request. Raises `Problem` for anything that is not one."""
        request = as_object(body, "the view")
        section = as_text(request.get("section"), "section") or SECTIONS[0]
        if section not in SECTIONS:
            raise invalid(f"section is one of {', '.join(SECTIONS)}, not {section!r}")
        words = as_text(request.get("filter"), "filter") or ""
        return cls(
            section=section,
            id=as_text(request.get("id"), "id"),
            words=tuple(words[:LARGEST_FILTER].lower().split()),
            live=as_flag(request.get("live"), "live", False),
            offset=as_count(request.get("offset"), "offset", 0),
            limit=min(as_count(request.get("limit"), "limit", 100), LARGEST_WINDOW),
            task=as_text(request.get("task"), "task"),
        )

    def fits(self, *texts: str | None) -> bool:
        haystack = " ".join(text for text in texts if text).lower()
        return all(word in haystack for word in self.words)


def snapshot(platform: Platform, view: View, loads: Mapping[str, Load]) -> Json:
    """All that the page shows at this moment, by parts; a part that is equal to the last one need not be sent."""
    state = platform.state
    parts: Json = {"counts": _counts(platform), "head": None, "groups": None}
    if view.section == "work" and view.id is not None:
        requirement = state.requirements.get(view.id)
        if requirement is not None:
            parts["head"] = _requirement(requirement)
            parts["groups"] = [_group(one) for one in requirement.groups[:GROUPS_SHOWN]]
        tasks = requirement.tasks if requirement is not None else []
        parts["list"] = _window(view, tasks, _task_fits(view), lambda one: _task(platform, one))
    elif view.section == "work":
        latest = _latest(state.requirements.values(), REQUIREMENT_FINISHED)
        parts["list"] = _window(
            view,
            latest,
            _fits(view, lambda one: (one.name, one.namespace, one.status, one.tag), REQUIREMENT_FINISHED),
            _requirement,
        )
    elif view.section == "pools" and view.id is not None:
        pool = state.pools.get(view.id)
        parts["head"] = _pool(pool) if pool is not None else None
        instances = list(pool.compute.instances.values()) if pool is not None else []
        parts["list"] = _window(view, instances, _instance_fits(view), lambda one: _instance(one, loads))
    elif view.section == "pools":
        latest_pools = _latest(state.pools.values(), POOL_FINISHED)
        parts["list"] = _window(
            view,
            latest_pools,
            _fits(view, lambda one: (one.name, one.namespace, one.status, one.worker_tag), frozenset({"TERMINATED"})),
            _pool,
        )
    elif view.section == "instances":
        everything = list(state.instances.values())
        parts["list"] = _window(view, everything, _instance_fits(view), lambda one: _instance(one, loads))
    else:
        events = list(reversed(state.events.recent))
        parts["list"] = _window(view, events, _event_fits(view), _event)
    task = state.tasks.get(view.task) if view.task is not None else None
    parts["task"] = _task(platform, task) | _task_details(task) if task is not None else None
    return parts


# Windows


def _window(
    view: View, items: Sequence[T], fits: Callable[[T], bool] | None, encode: Callable[[T], Json]
) -> dict[str, Any]:
    kept = items if fits is None else [one for one in items if fits(one)]
    offset = min(view.offset, max(len(kept) - 1, 0) // max(view.limit, 1) * view.limit)
    return {
        "total": len(items),
        "matched": len(kept),
        "offset": offset,
        "rows": [encode(one) for one in kept[offset : offset + view.limit]],
    }


def _latest(items: Iterable[T], finished: frozenset[str]) -> list[T]:
    """What still goes on first; then the newest first."""
    newest = list(items)
    newest.reverse()
    newest.sort(key=lambda one: one.status in finished)  # type: ignore[attr-defined]
    return newest


def _fits(
    view: View, texts: Callable[[Any], tuple[str | None, ...]], finished: frozenset[str]
) -> Callable[[Any], bool] | None:
    if not view.words:
        return (lambda one: one.status not in finished) if view.live else None
    return lambda one: (not view.live or one.status not in finished) and view.fits(*texts(one))


def _task_fits(view: View) -> Callable[[Task], bool] | None:
    return _fits(view, lambda one: (one.name, one.id, one.status, one.group.name), TASK_FINISHED)


def _instance_fits(view: View) -> Callable[[Instance], bool] | None:
    if not view.words:
        return (lambda one: one.status != "TERMINATED") if view.live else None

    def fits(one: Instance) -> bool:
        if view.live and one.status == "TERMINATED":
            return False
        pool, node = one.compute.pool, one.node
        tasks = [worker.task.name for worker in node.workers if worker.task] if node else []
        return view.fits(
            one.hostname,
            one.id,
            one.status,
            node.status if node else None,
            one.private_ip,
            one.public_ip,
            pool.name if pool else None,
            *tasks,
        )

    return fits


def _event_fits(view: View) -> Callable[[Event], bool] | None:
    if not view.words:
        return None
    return lambda one: view.fits(one.kind, one.name, one.status, one.detail)


# What there is of each thing to see


def _merge(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for status, count in one.items():
            total[status] = total.get(status, 0) + count
    return total


def _counts(platform: Platform) -> Json:
    """How many of each kind, by status. Costs as much as there are pools and task groups."""
    state = platform.state
    return {
        "kind": "real" if getattr(platform.driver, "gateway_ip", "") else "simulated",
        "work": _merge({one.status: 1} for one in state.requirements.values()),
        "tasks": _merge(one.counts for one in state.groups.values()),
        "pools": _merge({one.status: 1} for one in state.pools.values()),
        "nodes": _merge(one.node_counts for one in state.pools.values()),
        "instances": _merge(one.counts for one in state.computes.values()),
        "events": state.events.count,
    }


def _requirement(one: WorkRequirement) -> Json:
    return {
        "id": one.id,
        "name": one.name,
        "namespace": one.namespace,
        "status": one.status,
        "since": one.status_changed,
        "created": one.created,
        "groups": len(one.groups),
        "tasks": _merge(group.counts for group in one.groups),
        "starved": any(_starved(group) for group in one.groups),
    }


def _starved(one: TaskGroup) -> bool:
    return bool(one.ready) and not one.in_progress and one.status in {"PENDING", "RUNNING", "FINISHING"}


def _group(one: TaskGroup) -> Json:
    return {
        "id": one.id,
        "name": one.name,
        "status": one.status,
        "since": one.status_changed,
        "tags": list(one.spec.worker_tags),
        "tasks": dict(one.counts),
        "starved": _starved(one),
    }


def _task(platform: Platform, one: Task) -> Json:
    node = platform.state.nodes.get(one.node_id or "")
    return {
        "id": one.id,
        "name": _task_name(one),
        "group": one.group.name,
        "status": one.status,
        "started": one.started,
        "finished": one.finished,
        "aborting": one.abort_requested is not None and one.status in TASK_IN_PROGRESS,
        "node": node.instance.hostname if node else None,
        "address": node.instance.private_ip if node else None,
        "pool": node.pool.id if node else None,
        "error": one.errors[-1]["error"] if one.errors else None,
        "retries": one.retry_count,
    }


def _task_name(one: Task) -> str:
    """Tasks need no name; then the numbers of group and task say which it is."""
    return one.name or "task " + ".".join(one.id.split(":")[-2:])


def _task_details(one: Task) -> Json:
    """Without its environment and data, which may hold secrets."""
    return {
        "type": one.request.get("taskType") or (one.group.request.get("taskTemplate") or {}).get("taskType"),
        "requirement": one.group.requirement.name,
        "requirementId": one.group.requirement.id,
        "errors": [
            {"time": error["timestamp"], "type": error["errorType"], "error": error["error"]}
            for error in one.errors[-20:]
        ],
    }


def _pool(one: Pool) -> Json:
    template = one.compute.template
    return {
        "id": one.id,
        "name": one.name,
        "namespace": one.namespace,
        "status": one.status,
        "since": one.status_changed,
        "created": one.created,
        "template": template.name,
        "spot": template.spot,
        "tag": one.worker_tag,
        "nodes": dict(one.node_counts),
        "booting": one.booting,
        "expected": one.compute.target,
        "minimum": one.min_nodes,
        "maximum": one.max_nodes,
        "claimed": one.claimed,
        "idle": len(one.idle),
        "error": one.compute.error,
    }


def _instance(one: Instance, loads: Mapping[str, Load]) -> Json:
    pool, node, load = one.compute.pool, one.node, loads.get(one.id)
    tasks = [worker.task for worker in node.workers if worker.task] if node else []
    return {
        "id": one.id,
        "name": one.hostname,
        "status": one.status,
        "node": node.status if node else None,
        "nodeId": node.id if node else None,
        "address": one.private_ip,
        "public": one.public_ip,
        "type": one.compute.template.instance_type,
        "spot": one.compute.template.spot,
        "pool": pool.name if pool else None,
        "poolId": pool.id if pool else None,
        "since": one.status_changed,
        "created": one.created,
        "warned": node.preemption_warning if node else None,
        "draining": bool(node and node.draining),
        "workers": len(node.workers) if node else 0,
        "claimed": node.claimed if node else 0,
        "tasks": [
            {
                "id": task.id,
                "name": task.name or task.id,
                "status": task.status,
                "requirement": task.group.requirement.id,
            }
            for task in tasks[:TASKS_OF_A_NODE]
        ],
        "cpu": None if load is None else round(load.cpu_percent),
        "processes": None if load is None else load.processes,
    }


def _event(one: Event) -> Json:
    return {
        "id": one.number,
        "time": one.time,
        "kind": one.kind,
        "of": one.id,
        "name": one.name,
        "owner": one.owner,
        "status": one.status,
        "detail": one.detail,
    }
