"""What a look of Ray's at all nodes costs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from raydog.autoscaler.tags import Tags, TagStore
from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually


def test_the_tag_server_is_asked_once_a_tick_however_many_nodes_there_are(
    room: HeadRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    read = TagStore.read

    def counting(self: TagStore) -> Mapping[str, Tags]:
        nonlocal asked
        asked += 1
        return read(self)

    monkeypatch.setattr(TagStore, "read", counting)
    adapter = room.adapter(room.provider())
    adapter.launch({"worker": 20}, "request")
    eventually(lambda: len(adapter.get_non_terminated()) == 21, timeout=30, what="all nodes")
    asked = 0
    adapter.get_non_terminated()
    assert asked == 1


def test_thousand_nodes_of_one_demand_are_launched_in_few_calls(room: HeadRoom) -> None:
    provider = room.provider()
    adapter = room.adapter(provider)
    adapter.get_non_terminated()
    before = len(room.emulator.calls())
    adapter.launch({"worker": 1000}, "request")
    eventually(lambda: len(provider.non_terminated_nodes({})) == 1001, timeout=60, what="all nodes")
    eventually(lambda: bool(room.pools()), what="their pool")
    sweeps = {"get_tasks", "get_task", "get_nodes", "get_node", "get_worker_pools", "get_worker_pool"}
    operations = [call["operation"] for call in room.emulator.calls()[before:] if call["operation"] not in sweeps]
    assert len(operations) <= 10
    assert operations.count("add_tasks_to_task_group") == 1


def test_what_ray_is_told_of_a_node_is_made_again_only_when_the_node_changes(room: HeadRoom) -> None:
    provider = room.provider()
    first, second = room.launch(provider, 2)
    running(provider, [first, second])
    eventually(lambda: provider._tags() is provider._tags(), what="nothing changes")
    before = dict(provider._tags())
    provider.terminate_node(first)
    after = provider._tags()
    assert first not in after
    assert after[second] is before[second]
