"""What a look of Ray's at all nodes costs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from raydog.autoscaler.tags import Tags, TagStore
from tests.support.head_room import HeadRoom
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
