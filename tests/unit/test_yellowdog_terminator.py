"""Ending nodes beside Ray's loop: nothing stops the thread, and a node that ignores its aborts loses its machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import cast

import pytest

from raydog.autoscaler import terminator as module
from raydog.autoscaler.terminator import Terminator
from raydog.errors import PlatformUnavailableError
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord
from tests.support.servers import eventually


class Platform:
    """Accepts aborts; nodes in ``deaf`` do not heed theirs."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeRecord] = {}
        self.deaf: set[str] = set()
        self.errors: list[BaseException] = []
        self.aborts: list[str] = []
        self.shut_down: list[str] = []
        self.terminated: list[str] = []
        self.seconds = 1000.0
        self.look: Callable[[], object] = lambda: None

    def has(self, *names: str) -> None:
        for name in names:
            self.nodes[name] = NodeRecord(name, name, "group", "EXECUTING", platform_node_id=f"machine-{name}")

    def listed(self) -> Mapping[str, NodeRecord]:
        self.look()
        return dict(self.nodes)

    def abort_node(self, task_id: str) -> NodeRecord:
        self.aborts.append(task_id)
        if self.errors:
            raise self.errors.pop()
        node = self.nodes[task_id]
        if task_id not in self.deaf:
            del self.nodes[task_id]
        return node

    def shut_down_machine(self, platform_node_id: str) -> None:
        self.shut_down.append(platform_node_id)

    def terminate_machine(self, platform_node_id: str) -> None:
        self.terminated.append(platform_node_id)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    return Platform()


@pytest.fixture
def terminator(platform: Platform) -> Iterator[Terminator]:
    made = Terminator(lambda: cast(Gateway, platform), platform.listed, monotonic=lambda: platform.seconds)
    yield made
    made.close()


@pytest.mark.parametrize("error", [PlatformUnavailableError("away"), RuntimeError("odd")])
def test_abort_that_fails_in_whatever_way_is_repeated(
    platform: Platform, terminator: Terminator, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    platform.has("a", "b")
    platform.errors = [error]
    terminator.end(["a", "b"])
    eventually(lambda: not platform.nodes and not terminator.ending(), what="both have ended")
    assert len(platform.aborts) == 3
    assert "will be tried again" in caplog.text


def test_look_that_fails_does_not_end_the_thread(
    platform: Platform, terminator: Terminator, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = [RuntimeError("odd"), RuntimeError("odd")]

    def look() -> None:
        if failures:
            raise failures.pop()

    platform.has("a")
    platform.look = look
    terminator.end(["a"])
    eventually(lambda: not platform.nodes, what="it has ended")
    assert caplog.text.count("ending nodes failed") == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_has_died_is_started_again(platform: Platform, terminator: Terminator) -> None:
    def die() -> None:
        platform.look = lambda: None
        raise SystemExit

    platform.has("a", "b")
    platform.look = die
    terminator.end(["a"])
    thread = terminator._thread
    assert thread is not None
    thread.join(10)
    assert set(platform.nodes) == {"a", "b"}
    terminator.end(["b"])
    eventually(lambda: not platform.nodes, what="both have ended")


def pass_time(platform: Platform, seconds: int) -> None:
    """Seconds go by in steps that are a little longer than the pause between two aborts; each is taken note of."""
    for _ in range(0, seconds, 21):
        before = len(platform.aborts)
        platform.seconds += 21
        eventually(lambda before=before: len(platform.aborts) > before, what="another abort")  # type: ignore[misc]


def test_node_that_ignores_its_aborts_loses_its_machine_and_no_other_does(
    platform: Platform, terminator: Terminator, caplog: pytest.LogCaptureFixture
) -> None:
    platform.has("deaf", "good", "other")
    platform.deaf = {"deaf"}
    terminator.end(["deaf", "good"])
    eventually(lambda: set(platform.nodes) == {"deaf", "other"}, what="the good one has ended")
    eventually(lambda: "deaf" in platform.aborts, what="the first abort")
    pass_time(platform, 160)
    assert (platform.shut_down, platform.terminated) == ([], [])
    pass_time(platform, 21)
    eventually(lambda: platform.shut_down == ["machine-deaf"], what="its machine is shut down")
    assert platform.terminated == []
    pass_time(platform, 63)
    eventually(lambda: bool(platform.terminated), what="its instance is terminated")
    assert set(platform.shut_down + platform.terminated) == {"machine-deaf"}
    assert "node deaf ignores its abort" in caplog.text
    del platform.nodes["deaf"]
    eventually(lambda: not terminator.ending(), what="nothing is left to end")
    assert set(platform.nodes) == {"other"}


def test_refused_aborts_do_not_count_as_ignored(platform: Platform, terminator: Terminator) -> None:
    platform.has("a")
    platform.deaf = {"a"}
    refusals: list[BaseException] = [PlatformUnavailableError("away") for _ in range(3)]
    platform.errors = refusals
    terminator.end(["a"])
    eventually(lambda: len(platform.aborts) >= 3, what="refused aborts")
    platform.seconds += 1000
    eventually(lambda: len(platform.aborts) >= 4, what="an accepted abort")
    pass_time(platform, 42)
    assert platform.shut_down == []


@pytest.mark.parametrize("fields", [{"status": "ABORTED"}, {"platform_node_id": None}])
def test_machine_of_a_node_that_has_ended_or_has_none_stays(
    platform: Platform, terminator: Terminator, fields: dict[str, str]
) -> None:
    platform.has("a")
    platform.deaf = {"a"}
    platform.nodes["a"] = replace(platform.nodes["a"], **fields)  # type: ignore[arg-type]
    terminator.end(["a"])
    eventually(lambda: bool(platform.aborts), what="the first abort")
    pass_time(platform, 300)
    assert (platform.shut_down, platform.terminated) == ([], [])


def test_node_that_comes_back_gets_its_time_again(platform: Platform, terminator: Terminator) -> None:
    """It was told to end, was not listed for a while, and shows again: a list may lag behind."""
    platform.has("a")
    platform.deaf = {"a"}
    terminator.end(["a"])
    eventually(lambda: bool(platform.aborts), what="the first abort")
    missed = platform.nodes.pop("a")
    eventually(lambda: not terminator.ending(), what="nothing is left to end")
    platform.seconds += 1000
    platform.nodes["a"] = missed
    terminator.end(["a"])
    eventually(lambda: len(platform.aborts) == 2, what="another abort")
    pass_time(platform, 42)
    assert (platform.shut_down, platform.terminated) == ([], [])
