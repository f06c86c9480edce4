"""What ``ray down`` looks at while Ray pauses."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from raydog.autoscaler.watching import TeardownWatch
from raydog.errors import PlatformUnavailableError, TeardownError
from raydog.waiting import Clock
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.teardown import Teardown


@pytest.mark.parametrize(
    ("outcome", "gone"),
    [
        ([], True),
        (["compute of worker pool p TERMINATING"], False),
        (TeardownError("left", ["p"]), False),
        (PlatformUnavailableError("away"), False),
    ],
    ids=["nothing left", "still ending", "stuck", "nobody could look"],
)
def test_gone_means_that_nothing_was_seen_to_be_left(monkeypatch: pytest.MonkeyPatch, outcome: Any, gone: bool) -> None:
    def looked(*_arguments: object, **_options: object) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(teardown, "await_teardown", looked)
    before = set(threading.enumerate())
    watch = TeardownWatch(cast(Gateway, None), ClusterName("tests", "demo"), Teardown(), 1.0)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert watch.gone is gone


def test_until_the_looks_are_over_nothing_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def looks(*_arguments: object, **_options: object) -> list[str]:
        over.wait(10)
        return []

    monkeypatch.setattr(teardown, "await_teardown", looks)
    watch = TeardownWatch(cast(Gateway, None), ClusterName("tests", "demo"), Teardown(), 1.0)
    assert not watch.gone
    over.set()


def test_stopped_watch_looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    paused = threading.Event()

    def looks(*_arguments: object, clock: Clock) -> list[str]:
        paused.set()
        clock.sleep(60)
        return []

    monkeypatch.setattr(teardown, "await_teardown", looks)
    watch = TeardownWatch(cast(Gateway, None), ClusterName("tests", "demo"), Teardown(), 1.0)
    assert paused.wait(10)
    before = time.monotonic()
    watch.stop()
    assert time.monotonic() - before < 30
    assert not watch.gone
    assert "raydog-teardown-watch" not in {thread.name for thread in threading.enumerate()}
