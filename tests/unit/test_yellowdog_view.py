"""The view of a cluster's nodes: sweeps against additions, endings and stale answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from raydog.errors import CredentialsError, NotFoundError, PlatformError, PlatformUnavailableError
from raydog.yellowdog import view as module
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, GroupRecord, NodeAddress, NodeRecord, NodeState
from raydog.yellowdog.view import ClusterView

CREATED = datetime(2030, 1, 1, tzinfo=timezone.utc)
GROUP = GroupRecord("group-1", "workers-worker", "raydog-abcdefgh-worker", "RUNNING")
CLUSTER = ClusterRecord("requirement", "demo-abcdefgh", "abcdefgh", "tests", "RUNNING", CREATED, (GROUP,))


def node(name: str, status: str = "PENDING", **fields: Any) -> NodeRecord:
    return NodeRecord(name, f"task-{name}", GROUP.group_id, status, **fields)


class Platform:
    """Answers what a test says; ``meanwhile`` happens while an answer is on its way."""

    def __init__(self) -> None:
        self.nodes: list[NodeRecord] = []
        self.changed: list[NodeRecord] = []
        self.since: list[datetime] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.lookups: list[str] = []
        self.pages: list[str] = []
        self.tasks: dict[str, NodeRecord] = {}
        self.asked: list[str] = []
        self.broken: dict[str, Exception] = {}

    def list_nodes(self, requirement_id: str, **search: Any) -> Sequence[NodeRecord]:
        assert requirement_id == CLUSTER.requirement_id
        since = search.get("started_since") or search.get("finished_since")
        if since is not None:
            self.since.append(since)
        answer = list(self.changed if since is not None else self.nodes)
        self.meanwhile()
        return answer

    def get_node(self, task_id: str) -> NodeRecord:
        self.asked.append(task_id)
        if task_id in self.broken:
            raise self.broken[task_id]
        if task_id not in self.tasks:
            raise NotFoundError(f"unknown: {task_id}", 404)
        return self.tasks[task_id]

    def has(self, *nodes: NodeRecord) -> None:
        """What it answers when asked for these singly."""
        self.tasks.update({one.task_id: one for one in nodes})

    def node_address(self, one: NodeRecord) -> NodeAddress | None:
        self.lookups.append(one.name)
        if one.name in self.broken:
            raise self.broken[one.name]
        return NodeAddress("10.0.0.1", "1.2.3.4")

    def private_addresses(self, tag: str) -> dict[str, str]:
        self.pages.append(tag)
        if tag in self.broken:
            raise self.broken[tag]
        return {f"machine-{number}": f"10.0.0.{number}" for number in range(10)}


@pytest.fixture
def platform() -> Platform:
    return Platform()


class Clock:
    """Time that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(platform: Platform, clock: Clock) -> ClusterView:
    return ClusterView(cast(Gateway, platform), CLUSTER, clock=clock)


def test_added_node_shows_at_once_and_a_sweep_begun_before_cannot_hide_it(
    platform: Platform, view: ClusterView
) -> None:
    platform.meanwhile = lambda: view.add([node("new")])
    view.sweep()
    assert set(view.nodes()) == {"new"}


def test_node_missing_from_a_sweep_begun_after_it_was_added_has_ended(platform: Platform, view: ClusterView) -> None:
    view.add([node("a"), node("b")])
    platform.nodes = [node("b")]
    platform.has(node("a", "ABORTED"))
    view.sweep()
    assert set(view.nodes()) == {"b"}
    assert [ended.name for ended in view.take_endings()] == ["a"]
    assert view.take_endings() == []


@pytest.mark.parametrize("status", ["EXECUTING", "UNKNOWN"])
def test_live_node_that_a_sweep_did_not_list_stays(platform: Platform, view: ClusterView, status: str) -> None:
    view.add([node("a", "EXECUTING")])
    platform.has(node("a", status))
    view.sweep()
    assert set(view.nodes()) == {"a"}
    assert view.take_endings() == []


def test_missing_node_that_nobody_can_ask_for_stays(platform: Platform, view: ClusterView) -> None:
    view.add([node("a"), node("b")])
    platform.broken = {"task-a": PlatformUnavailableError("away"), "task-b": PlatformError("odd")}
    view.sweep()
    assert set(view.nodes()) == {"a", "b"}
    assert platform.asked == ["task-a"]  # who does not answer is not asked for each


def test_node_that_was_missed_is_back_when_a_later_sweep_lists_it(platform: Platform, view: ClusterView) -> None:
    view.add([node("a", "EXECUTING")])
    view.sweep()  # neither listed nor known
    assert dict(view.nodes()) == {}
    platform.nodes = [node("a", "EXECUTING")]
    view.sweep()
    assert set(view.nodes()) == {"a"}
    assert view.take_endings() == []


def test_node_that_is_unknown_twice_is_given_up_but_may_come_back(platform: Platform, view: ClusterView) -> None:
    view.add([node("a")])
    for _ in range(3):
        view.sweep()
    assert [one.name for one in view.take_endings()] == ["a"]
    assert platform.asked == ["task-a"] * 2
    platform.changed = [node("a", "EXECUTING")]
    view.sweep_changes()
    assert set(view.nodes()) == {"a"}


def test_of_many_missing_nodes_some_are_asked_for_in_each_sweep(platform: Platform, view: ClusterView) -> None:
    many = [node(str(number)) for number in range(50)]
    view.add(many)
    platform.has(*many[:45], *(replace(one, status="COMPLETED") for one in many[45:]))
    view.sweep()
    assert (len(platform.asked), len(view.nodes())) == (20, 20)
    platform.nodes = many[:30]  # the list is right again, but for some
    view.sweep()
    assert set(view.nodes()) == {one.name for one in many[:45]}
    assert [one.name for one in view.take_endings()] == [one.name for one in many[45:]]
    assert len(platform.asked) == 40


def test_node_that_ended_is_never_revived(
    platform: Platform, view: ClusterView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_ENDINGS", 2)
    view.add([node(str(number)) for number in range(5)])
    platform.changed = [node(str(number), "ABORTED") for number in range(5)]
    view.sweep_changes()
    assert dict(view.nodes()) == {}
    assert len(view.ended()) == 2
    platform.nodes = [node(str(number), "EXECUTING") for number in range(5)]  # a stale answer
    view.sweep()
    view.add([node("0")])
    assert dict(view.nodes()) == {}


def test_memory_of_ended_nodes_is_bounded(
    platform: Platform, view: ClusterView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_NAMES", 10)
    for number in range(50):
        platform.changed = [node(str(number), "COMPLETED")]
        view.sweep_changes()
    assert len(view._ended_names) == 10
    assert "49" in view._ended_names


def test_ending_is_told_once_with_its_reason(platform: Platform, view: ClusterView) -> None:
    view.add([node("a", "EXECUTING")])
    view.sweep()  # it is missed
    assert view.take_endings() == []
    platform.changed = [node("a", "FAILED", reason="exit 3")]
    view.sweep_changes()
    view.sweep_changes()
    assert [(ended.status, ended.reason) for ended in view.take_endings()] == [("FAILED", "exit 3")]
    view.sweep()
    assert view.ended()["a"].reason == "exit 3"


def test_changes_are_asked_for_since_the_platforms_own_latest_time(platform: Platform, view: ClusterView) -> None:
    view.sweep_changes()
    started = CREATED + timedelta(minutes=5)
    platform.changed = [node("a", "EXECUTING", started=started)]
    view.sweep_changes()
    platform.changed = [node("b", "EXECUTING", started=started - timedelta(minutes=1))]
    view.sweep_changes()
    view.sweep_changes()
    overlap = timedelta(seconds=10)
    assert platform.since == [CREATED - overlap] * 4 + [started - overlap] * 4


def test_after_a_quiet_time_only_what_is_new_is_asked_for(platform: Platform, view: ClusterView, clock: Clock) -> None:
    """Else a thousand nodes that started together would be listed again in every sweep until another one starts."""
    started = CREATED + timedelta(minutes=5)
    platform.changed = [node("a", "EXECUTING", started=started)]
    view.sweep_changes()
    clock.now += 60
    view.sweep_changes()
    platform.since.clear()
    view.sweep_changes()
    assert platform.since == [started + timedelta(seconds=60 - 10)] * 2


def test_time_that_an_answer_takes_is_not_passed_over(platform: Platform, view: ClusterView, clock: Clock) -> None:
    """What ends after the platform has put its answer together is asked for the next time, however late it comes."""
    platform.meanwhile = lambda: clock.sleep(30)
    started = CREATED + timedelta(minutes=5)
    platform.changed = [node("a", "EXECUTING", started=started)]
    view.sweep_changes()
    platform.since.clear()
    view.sweep_changes()
    assert platform.since == [started - timedelta(seconds=60 + 10)] * 2


def test_full_sweep_does_not_let_endings_be_passed_over(platform: Platform, view: ClusterView, clock: Clock) -> None:
    platform.nodes = [node("a", "EXECUTING", started=CREATED + timedelta(hours=1))]
    view.sweep()
    clock.now += 60
    view.sweep()
    view.sweep_changes()
    started, finished = platform.since
    assert started == CREATED + timedelta(hours=1, seconds=60 - 10)
    assert finished == CREATED - timedelta(seconds=10)


@pytest.mark.parametrize(("status", "questions"), [("PENDING", 2), ("EXECUTING", 1)])
def test_starts_are_asked_for_only_while_somebody_waits_to_start(
    platform: Platform, view: ClusterView, status: str, questions: int
) -> None:
    view.add([node("a", status)])
    view.sweep_changes(strangers=False)
    assert len(platform.since) == questions


def test_starts_are_asked_for_while_a_node_is_missing(platform: Platform, view: ClusterView) -> None:
    view.add([node("a", "EXECUTING")])
    platform.broken["task-a"] = NotFoundError("unknown", 404)
    view.sweep()
    view.sweep_changes(strangers=False)
    assert len(platform.since) == 2


def test_snapshot_is_the_same_object_until_something_changes(platform: Platform, view: ClusterView) -> None:
    """What readers have made of it need not be made again."""
    platform.nodes = [node("a", "EXECUTING")]
    view.sweep()
    before = view.nodes()
    platform.nodes = [node("a", "EXECUTING")]
    view.sweep()
    view.sweep_changes()
    assert view.nodes() is before
    platform.nodes = [node("a", "EXECUTING", abort_requested=True)]
    view.sweep()
    assert view.nodes() is not before


def test_single_answer_about_a_missing_node_does_not_let_other_changes_be_passed_over(
    platform: Platform, view: ClusterView
) -> None:
    view.add([node("a")])
    platform.has(node("a", "COMPLETED", finished=CREATED + timedelta(minutes=5)))
    view.sweep()
    assert [one.name for one in view.take_endings()] == ["a"]
    view.sweep_changes()
    assert platform.since == [CREATED - timedelta(seconds=10)] * 2


def test_sweep_that_fails_leaves_what_was_known(platform: Platform, view: ClusterView) -> None:
    view.add([node("a")])
    before = view.nodes()

    def fail() -> None:
        raise PlatformUnavailableError("away")

    platform.meanwhile = fail
    for sweep in (view.sweep, view.sweep_changes):
        with pytest.raises(PlatformUnavailableError):
            sweep()
    assert view.nodes() is before


def test_snapshots_never_change(platform: Platform, view: ClusterView) -> None:
    view.add([node("a")])
    before = view.nodes()
    view.add([node("b")])
    assert set(before) == {"a"}
    with pytest.raises(TypeError):
        before["c"] = node("c")  # type: ignore[index]


def test_addresses_of_few_nodes_are_looked_up_singly_and_of_many_by_page(platform: Platform, view: ClusterView) -> None:
    machines = [node(str(n), "EXECUTING", platform_node_id=f"machine-{n}") for n in range(6)]
    platform.nodes = machines[:2]
    view.sweep()
    assert (platform.lookups, platform.pages) == (["0", "1"], [])
    platform.nodes = machines
    view.sweep()
    assert platform.pages == [GROUP.tag]
    assert view.address("5") == NodeAddress("10.0.0.5")
    view.sweep()
    assert (platform.lookups, platform.pages) == (["0", "1"], [GROUP.tag])


def test_address_goes_with_the_node(platform: Platform, view: ClusterView) -> None:
    platform.nodes = [node("a", "EXECUTING", platform_node_id="machine-1")]
    view.sweep()
    assert view.address("a") is not None
    platform.nodes = []
    platform.has(node("a", "COMPLETED"))
    view.sweep()
    assert view.address("a") is None


@pytest.mark.parametrize("error", [NotFoundError("gone"), PlatformUnavailableError("away"), CredentialsError("no")])
def test_address_that_cannot_be_had_holds_nothing_up_and_is_tried_again_later(
    platform: Platform, view: ClusterView, clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    platform.nodes = [node(name, "EXECUTING", platform_node_id=f"machine-{name}") for name in ("a", "b")]
    platform.broken = {"a": error}
    for _ in range(10):
        view.sweep()
        view.sweep_changes()
    assert view.address("b") is not None
    assert platform.lookups == ["a", "b"]
    for _ in range(1000):
        clock.sleep(2)
        view.sweep_changes()
    assert 15 <= platform.lookups.count("a") <= 25  # ever less often, but at least every two minutes
    assert caplog.text.count("looking up the address of a") == 1
    platform.broken = {}
    clock.sleep(121)
    view.sweep_changes()
    assert view.address("a") is not None


def test_page_of_addresses_that_cannot_be_had_is_tried_again_later(
    platform: Platform, view: ClusterView, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    platform.nodes = [node(str(n), "EXECUTING", platform_node_id=f"machine-{n}") for n in range(5)]
    platform.broken = {GROUP.tag: PlatformError("odd")}
    view.sweep()
    view.sweep_changes()
    assert platform.pages == [GROUP.tag]
    assert caplog.text.count("looking up the address of") == 1
    platform.broken = {}
    clock.sleep(3)
    view.sweep_changes()
    assert view.address("4") == NodeAddress("10.0.0.4")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING", NodeState.PENDING), ("READY", NodeState.PENDING), ("ALLOCATED", NodeState.PENDING),
        ("DOWNLOADING", NodeState.PENDING), ("EXECUTING", NodeState.RUNNING), ("UPLOADING", NodeState.ENDED),
        ("COMPLETED", NodeState.ENDED), ("FAILED", NodeState.ENDED), ("ABORTED", NodeState.ENDED),
        ("CANCELLED", NodeState.ENDED), ("DISCARDED", NodeState.ENDED), ("RESUBMITTED", NodeState.ENDED),
        ("SOMETHING_NEW", NodeState.PENDING), ("UNKNOWN", NodeState.PENDING),
    ],
)  # fmt: skip
def test_states(status: str, state: NodeState) -> None:
    assert replace(node("a"), status=status).state is state
