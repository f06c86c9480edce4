"""Calls beside each other, where each of them must be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_CALLS = 8  # a session keeps ten connections


def for_each(call: Callable[[T], R], things: Iterable[T]) -> list[R]:
    """Make ``call`` with each of ``things``; return the results in order.

    Where no thread can start, the calls are made one after the other: Python starts none for what ``atexit`` calls,
    and there a cluster may be ended. One thing may then be called with twice. The first failure is raised in the end.
    """
    wanted = list(things)
    if len(wanted) < 2:
        return [call(thing) for thing in wanted]
    futures: list[Future[R]] = []
    with ThreadPoolExecutor(_CALLS, thread_name_prefix="raydog-calls") as executor:
        try:
            for thing in wanted:
                futures.append(executor.submit(call, thing))
        except RuntimeError:
            rest = [call(thing) for thing in wanted[len(futures) :]]
        else:
            rest = []
    return [*(future.result() for future in futures), *rest]
