"""Request bodies, checked and parsed. What is wrong is refused with the platform's InvalidRequestException."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from raydog.emulator.entities import Json, RunSpecification
from raydog.emulator.problems import invalid
from raydog.emulator.wire import check_name, parse_duration

SUPPORTED_TASK_TYPES = frozenset({"bash"})
ERROR_FIELDS = ("errorTypes", "statusesAtFailure", "processExitCodes")
"""What selectors of task errors look at."""


def as_object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise invalid(f"{what} is not a JSON object")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """A list; absent means empty, since the SDK drops empty ones."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"{what} is not a list")
    return value


def as_number(value: object, what: str, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"{what} is not a number: {value!r}")
    return value


def as_count(value: object, what: str, default: int) -> int:
    number = as_number(value, what, default)
    if number < 0 or number != int(number):
        raise invalid(f"{what} is not a whole number of at least 0: {value!r}")
    return int(number)


def as_flag(value: object, what: str, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(f"{what} is not true or false: {value!r}")
    return value


def as_text(value: object, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise invalid(f"{what} is not a text: {value!r}")
    return value


def as_texts(value: object, what: str) -> tuple[str, ...]:
    items = as_list(value, what)
    if not all(isinstance(item, str) for item in items):
        raise invalid(f"{what} is not a list of texts")
    return tuple(items)


def as_text_map(value: object, what: str) -> dict[str, str]:
    items = as_object({} if value is None else value, what)
    if not all(isinstance(item, str) for item in items.values()):
        raise invalid(f"{what} is not a map of texts")
    return items


def _range(value: object, what: str) -> tuple[float | None, float | None]:
    if value is None:
        return (None, None)
    bounds = as_object(value, what)
    low, high = (
        None if bounds.get(end) is None else as_number(bounds[end], f"{what}.{end}", 0) for end in ("min", "max")
    )
    return (low, high)


def _retries(body: Json, what: str) -> tuple[int, Json | None]:
    policy, matchers = body.get("retryPolicy"), body.get("retryableErrors")
    if policy is None:
        retries = as_count(body.get("maximumTaskRetries"), f"{what}.maximumTaskRetries", 0)
        found = [_matcher(item, f"{what}.retryableErrors") for item in as_list(matchers, f"{what}.retryableErrors")]
        return retries, {"matchers": found} if found else None
    if matchers:
        raise invalid(f"{what}: retryPolicy may not be combined with retryableErrors")
    policy = as_object(policy, f"{what}.retryPolicy")
    return (
        as_count(policy.get("maxRetries"), f"{what}.retryPolicy.maxRetries", 0),
        _error_selection(policy.get("retryErrors"), f"{what}.retryPolicy.retryErrors"),
    )


def _matcher(value: object, what: str) -> Json:
    """A TaskErrorMatcher, checked."""
    matcher = as_object(value, what)
    for field in ERROR_FIELDS:
        as_list(matcher.get(field), f"{what}.{field}")
    return matcher


def _error_selection(value: object, what: str) -> Json | None:
    """A Selection of TaskErrorSelectors, checked; None selects every error."""
    if value is None:
        return None
    selection = as_object(value, what)
    for part in ("includes", "excludes"):
        for item in as_list(selection.get(part), f"{what}.{part}"):
            selector = as_object(item, f"{what}.{part}")
            for field in ERROR_FIELDS:
                inner = as_object(selector.get(field) or {}, f"{what}.{part}.{field}")
                for end in ("includes", "excludes"):
                    as_list(inner.get(end), f"{what}.{part}.{field}.{end}")
    return selection


def _resubmissions(value: object, what: str) -> tuple[tuple[str, Json | None], ...]:
    """The destinations of a failure policy, in order: the group's name, and which errors go there (None: all)."""
    if value is None:
        return ()
    found = []
    for item in as_list(as_object(value, what).get("resubmissionDestinations"), f"{what}.resubmissionDestinations"):
        destination = as_object(item, f"{what}.resubmissionDestinations")
        name = check_name(destination.get("destinationTaskGroup"), f"{what}: destinationTaskGroup")
        found.append((name, _error_selection(destination.get("resubmitErrors"), f"{what}.resubmitErrors")))
    return tuple(found)


def run_specification(value: object, what: str) -> RunSpecification:
    body = as_object(value, f"{what}.runSpecification")
    what = f"{what}.runSpecification"
    task_types = as_texts(body.get("taskTypes"), f"{what}.taskTypes")
    if not task_types:
        raise invalid(f"{what}.taskTypes is empty: name at least one task type, such as 'bash'")

    def names(field: str) -> frozenset[str]:
        return frozenset(as_texts(body.get(field), f"{what}.{field}"))

    def optional(field: str, parse: Callable[[Any, str], Any]) -> Any:
        return None if body.get(field) is None else parse(body[field], f"{what}.{field}")

    def count(value: Any, field: str) -> int:
        return as_count(value, field, 0)

    max_retries, retry_errors = _retries(body, what)
    return RunSpecification(
        task_types=frozenset(task_types),
        worker_tags=as_texts(body.get("workerTags"), f"{what}.workerTags"),
        namespaces=names("namespaces"),
        providers=names("providers"),
        regions=names("regions"),
        instance_types=names("instanceTypes"),
        vcpus=_range(body.get("vcpus"), f"{what}.vcpus"),
        ram=_range(body.get("ram"), f"{what}.ram"),
        min_workers=as_count(body.get("minWorkers"), f"{what}.minWorkers", 0),
        max_workers=optional("maxWorkers", count),
        tasks_per_worker=optional("tasksPerWorker", count) or None,
        task_timeout=optional("taskTimeout", parse_duration),
        max_retries=max_retries,
        retry_errors=retry_errors,
        resubmissions=_resubmissions(body.get("failurePolicy"), f"{what}.failurePolicy"),
    )


def check_task_template(value: object, what: str) -> None:
    """What tasks of a group have unless they say otherwise."""
    template = as_object({} if value is None else value, what)
    as_text(template.get("taskType"), f"{what}.taskType")
    as_text(template.get("taskData"), f"{what}.taskData")
    as_text_map(template.get("environment"), f"{what}.environment")


def shutdown_timeout(value: object, what: str) -> float | None:
    """Seconds of an AutoShutdown, None if it is off. One that is absent is off."""
    if value is None:
        return None
    body = as_object(value, what)
    if not as_flag(body.get("enabled"), f"{what}.enabled", True):
        return None
    timeout = body.get("timeout")
    return 0.0 if timeout is None else parse_duration(timeout, f"{what}.timeout")
