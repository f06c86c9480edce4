"""The view of a cluster's nodes: sweeps against additions, endings and stale answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from raydog.errors import PlatformUnavailableError
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

    def list_nodes(self, requirement_id: str, **search: Any) -> Sequence[NodeRecord]:
        assert requirement_id == CLUSTER.requirement_id
        since = search.get("started_since") or search.get("finished_since")
        if since is not None:
            self.since.append(since)
        answer = list(self.changed if since is not None else self.nodes)
        self.meanwhile()
        return answer

    def node_address(self, one: NodeRecord) -> NodeAddress | None:
        self.lookups.append(one.name)
        return NodeAddress("10.0.0.1", "1.2.3.4")

    def private_addresses(self, tag: str) -> dict[str, str]:
        self.pages.append(tag)
        return {f"machine-{number}": f"10.0.0.{number}" for number in range(10)}


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def view(platform: Platform) -> ClusterView:
    return ClusterView(cast(Gateway, platform), CLUSTER)


def test_added_node_shows_at_once_and_a_sweep_begun_before_cannot_hide_it(
    platform: Platform, view: ClusterView
) -> None:
    platform.meanwhile = lambda: view.add([node("new")])
    view.sweep()
    assert set(view.nodes()) == {"new"}


def test_node_missing_from_a_sweep_begun_after_it_was_added_has_ended(platform: Platform, view: ClusterView) -> None:
    view.add([node("a"), node("b")])
    platform.nodes = [node("b")]
    view.sweep()
    assert set(view.nodes()) == {"b"}
    assert [ended.name for ended in view.take_endings()] == ["a"]
    assert view.take_endings() == []


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


def test_ending_is_told_once_and_again_only_when_its_reason_becomes_known(
    platform: Platform, view: ClusterView
) -> None:
    view.add([node("a", "EXECUTING")])
    view.sweep()  # it is missed
    assert [ended.status for ended in view.take_endings()] == ["EXECUTING"]
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
    view.sweep()
    assert view.address("a") is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING", NodeState.PENDING), ("READY", NodeState.PENDING), ("ALLOCATED", NodeState.PENDING),
        ("DOWNLOADING", NodeState.PENDING), ("EXECUTING", NodeState.RUNNING), ("UPLOADING", NodeState.ENDED),
        ("COMPLETED", NodeState.ENDED), ("FAILED", NodeState.ENDED), ("ABORTED", NodeState.ENDED),
        ("CANCELLED", NodeState.ENDED), ("SOMETHING_NEW", NodeState.ENDED),
    ],
)  # fmt: skip
def test_states(status: str, state: NodeState) -> None:
    assert replace(node("a"), status=status).state is state
