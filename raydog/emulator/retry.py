"""Whether and where a failed task runs again: the selection rules of its policies (contract, section 3.3). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydog.emulator.entities import Json, RunSpecification

_FIELDS = {"errorTypes": "errorType", "statusesAtFailure": "statusAtFailure", "processExitCodes": "processExitCode"}


def _selects(selection: Json, matches: Callable[[Any], bool]) -> bool:
    """Includes only: member of; excludes only: not member of; both: includes minus excludes; neither: nothing."""
    includes, excludes = selection.get("includes") or [], selection.get("excludes") or []
    if not includes and not excludes:
        return False
    if includes and not any(matches(item) for item in includes):
        return False
    return not any(matches(item) for item in excludes)


def _selector_matches(selector: Json, error: Json) -> bool:
    """A TaskErrorSelector: every field that it has selects the error's value."""
    for field, key in _FIELDS.items():
        selection = selector.get(field)
        if selection is not None and not _selects(selection, lambda item, key=key: item == error.get(key)):  # type: ignore[misc]
            return False
    return True


def _matcher_matches(matcher: Json, error: Json) -> bool:
    """The deprecated TaskErrorMatcher: plain lists; an absent or empty one constrains nothing."""
    return all(not matcher.get(field) or error.get(key) in matcher[field] for field, key in _FIELDS.items())


def may_retry(spec: RunSpecification, retry_count: int, error: Json) -> bool:
    """Whether a task that failed with ``error`` (the last one) goes back to READY."""
    if retry_count >= spec.max_retries:
        return False
    if spec.retry_errors is not None and "matchers" in spec.retry_errors:
        return any(_matcher_matches(matcher, error) for matcher in spec.retry_errors["matchers"])
    return _chosen(spec.retry_errors, error)


def _chosen(selection: Json | None, error: Json) -> bool:
    return selection is None or _selects(selection, lambda selector: _selector_matches(selector, error))


def resubmission_group(spec: RunSpecification, error: Json) -> str | None:
    """The name of the group that a task which failed with ``error`` goes to: the first destination that matches."""
    return next((name for name, selection in spec.resubmissions if _chosen(selection, error)), None)
