"""A platform or a tag server that does not answer never holds up or ends Ray's loop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE
from yellowdog_client import model as yd

from raydog.autoscaler import on_head
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.yellowdog.gateway import Gateway
from tests.support import head_room
from tests.support.head_room import HeadRoom, running
from tests.support.servers import RedisServer, eventually, redis_client

MakeRoom = Callable[..., HeadRoom]
PASSWORD = "swordfish"
ALWAYS = 1_000_000


@pytest.fixture
def tag_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A tag server as on the head, its password in the file where the head keeps it."""
    folder = tmp_path / ".raydog"
    folder.mkdir()
    (folder / "redis.password").write_text(PASSWORD)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", PASSWORD) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patient gateway repeats calls for less long, so that a failing launch fails in a moment."""
    original: Any = yd.RetryProperties

    def brief(**settings: object) -> object:
        return original(**{**settings, "maxAttempts": 0})

    monkeypatch.setattr(yd, "RetryProperties", brief)


OUTAGES = pytest.mark.parametrize(
    "fault", [{"action": "drop_before"}, {"action": "status", "status": 503}, {"action": "status", "status": 429}]
)


@OUTAGES
def test_outage_serves_the_last_snapshot_and_launches_fail_then_go_on(
    room: HeadRoom, impatient: None, fault: dict[str, object]
) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    before = {name: provider.node_tags(name) for name in provider.non_terminated_nodes({})}
    room.emulator.forget_calls()
    room.emulator.fault("*", **{**fault, "times": ALWAYS})  # type: ignore[arg-type]
    eventually(lambda: len(room.emulator.calls()) >= 5, what="several sweeps have failed")
    assert {name: provider.node_tags(name) for name in provider.non_terminated_nodes({})} == before
    assert all(map(provider.is_running, nodes))
    with pytest.raises(NodeLaunchException) as failed:
        room.launch(provider)
    assert failed.value.category == "PlatformUnavailable"
    assert len(failed.value.category) < 20
    provider.terminate_node(nodes[0])
    assert set(provider.non_terminated_nodes({})) == {room.head.name, nodes[1]}
    room.emulator.clear_faults()
    running(provider, room.launch(provider, 2))
    eventually(lambda: len(room.tasks()) == 3, what="what was ended in the outage has ended")


def test_hanging_platform_holds_no_read_up(room: HeadRoom) -> None:
    provider = room.provider()
    adapter = room.adapter(provider)
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    room.emulator.forget_calls()
    room.emulator.fault("*", "delay", seconds=2.0, times=ALWAYS)
    eventually(lambda: bool(room.emulator.calls()), what="a sweep hangs")
    sweeper = next(thread for thread in threading.enumerate() if thread.name == "raydog-sweep")
    start = time.monotonic()
    for _ in range(50):
        assert len(adapter.get_non_terminated()) == 3
        assert all(provider.internal_ip(node) for node in nodes)
        provider.set_node_tags(nodes[0], {"mark": "1"})
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == [room.head.name]
    # fifty ticks; one call of the platform alone would have taken longer
    assert time.monotonic() - start < 2.0
    assert sweeper.is_alive()
    room.emulator.clear_faults()


def test_constructor_does_no_io(room: HeadRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    original = socket.socket.connect

    def connect(self: socket.socket, to: Any) -> None:
        made.append(to)
        original(self, to)

    monkeypatch.setattr(socket.socket, "connect", connect)
    room.emulator.forget_calls()
    threads = set(threading.enumerate())
    provider = room.provider()
    assert made == []
    assert room.emulator.calls() == []
    assert set(threading.enumerate()) == threads
    assert provider.non_terminated_nodes({}) == [room.head.name]
    assert made != []


def test_reads_call_the_platform_in_no_thread_of_the_caller(room: HeadRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    callers: set[str] = set()
    original = Gateway.list_nodes

    def noted(*arguments: object, **options: object) -> object:
        callers.add(threading.current_thread().name)
        return original(*arguments, **options)  # type: ignore[arg-type]

    provider = room.provider()
    monkeypatch.setattr(Gateway, "list_nodes", noted)
    for _ in range(20):
        for node in provider.non_terminated_nodes({}):
            provider.is_running(node)
            provider.external_ip(node)
    eventually(lambda: bool(callers), what="a sweep")
    assert callers == {"raydog-sweep"}


def test_answer_that_is_lost_gives_no_second_node(room: HeadRoom) -> None:
    provider = room.provider()
    room.launch(provider, 1)
    room.emulator.fault("add_tasks_to_task_group", "drop_after")
    assert len(room.launch(provider, 2)) == 2
    assert len(room.tasks()) == 3
    assert len(provider.non_terminated_nodes({})) == 4


def test_nodes_of_a_launch_that_seemed_to_fail_are_ended_and_never_show(room: HeadRoom, impatient: None) -> None:
    provider = room.provider()
    first = room.launch(provider, 1)
    room.emulator.fault("add_tasks_to_task_group", "drop_after")
    with pytest.raises(NodeLaunchException):
        room.launch(provider, 2)
    assert len(room.tasks()) == 3
    seen: set[str] = set()

    def ended() -> bool:
        seen.update(provider.non_terminated_nodes({}))
        return len(room.tasks()) == 1

    eventually(ended, what="the two that nobody wants have ended")
    assert seen == {room.head.name, *first}


def test_pool_whose_answer_is_lost_is_not_made_twice(room: HeadRoom) -> None:
    room.emulator.fault("provision_worker_pool", "drop_after")
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    assert len(room.pools()) == 1


def test_restart_in_an_outage_serves_what_the_tag_server_knows(
    make_room: MakeRoom, tag_server: RedisServer, impatient: None
) -> None:
    room = make_room(tag_port=tag_server.port)
    first = room.provider()
    nodes = room.launch(first, 2)
    running(first, nodes)
    first.close()
    room.emulator.fault("*", "drop_before", times=ALWAYS)
    second = room.provider()
    assert set(second.non_terminated_nodes({})) == {room.head.name, *nodes}
    assert second.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD}) == [room.head.name]
    assert second.is_running(room.head.name)
    assert second.internal_ip(room.head.name)
    assert second.internal_ip(nodes[0]) is None
    assert second.node_tags(nodes[0])[TAG_RAY_USER_NODE_TYPE] == "worker"
    with pytest.raises(NodeLaunchException):  # nothing is made while it is not known what there is
        room.launch(second)
    second.terminate_node(nodes[0])
    assert nodes[0] not in second.non_terminated_nodes({})
    room.emulator.clear_faults()
    running(second, [nodes[1]])
    eventually(lambda: len(room.tasks()) == 1, what="the termination was kept")


def test_first_read_without_platform_and_tag_server_shows_the_head_alone(room: HeadRoom) -> None:
    room.emulator.fault("*", "drop_before", times=ALWAYS)
    provider = room.provider()
    assert provider.non_terminated_nodes({}) == [room.head.name]
    assert TAG_RAY_NODE_STATUS in provider.node_tags(room.head.name)


def test_only_the_first_read_waits_for_a_platform_that_hangs(room: HeadRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_room, "PACE", replace(head_room.PACE, first_look=0.05))
    room.emulator.fault("*", "delay", seconds=2.0, times=ALWAYS)
    provider = room.provider()
    start = time.monotonic()
    for _ in range(30):
        assert provider.non_terminated_nodes({}) == [room.head.name]
    assert time.monotonic() - start < 2.0
    room.emulator.clear_faults()


def test_tags_outlive_a_restart_of_the_monitor_and_of_an_empty_tag_server(
    make_room: MakeRoom, tag_server: RedisServer
) -> None:
    room = make_room(tag_port=tag_server.port)
    first = room.provider()
    (node,) = room.launch(first)
    first.set_node_tags(node, {"own": "1", TAG_RAY_NODE_STATUS: "waiting-for-ssh"})
    first.close()
    second = room.provider()
    assert node in second.non_terminated_nodes({"own": "1"})
    tag_server.kill()
    assert second.node_tags(node)["own"] == "1"
    tag_server.start()  # it keeps nothing on disk here: it comes back empty

    def put_back() -> bool:
        second.non_terminated_nodes({})  # Ray's loop goes on
        return bool(tag_server_keys(tag_server))

    eventually(put_back, what="the tags were put back")
    second.close()
    third = room.provider()
    eventually(lambda: third.non_terminated_nodes({"own": "1"}) == [node], what="the rebuilt tags")
    assert third.node_tags(room.head.name)[TAG_RAY_NODE_STATUS] == "up-to-date"


def tag_server_keys(server: RedisServer) -> list[bytes]:
    with redis_client(server.port, PASSWORD) as client:
        return list(client.keys("*:tags"))


def test_tags_of_ended_nodes_are_removed_from_the_tag_server(make_room: MakeRoom, tag_server: RedisServer) -> None:
    room = make_room(tag_port=tag_server.port)
    provider = room.provider()
    nodes = room.launch(provider, 3)
    with redis_client(tag_server.port, PASSWORD) as client:
        (key,) = tag_server_keys(tag_server)
        assert client.hexists(key, nodes[0])
        provider.terminate_nodes(nodes)
        eventually(lambda: not any(client.hexists(key, node) for node in nodes), what="their tags have gone")


def test_missing_credentials_show_the_head_and_name_the_cause(
    room: HeadRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = room.provider()
    for key in ("YD_API_KEY_ID", "YD_API_KEY_SECRET"):
        monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)
    second = RayDogNodeProvider(dict(provider.provider_config), room.name.cluster)
    try:
        assert second.non_terminated_nodes({}) == [room.head.name]
        with pytest.raises(NodeLaunchException):
            room.launch(second)
    finally:
        second.close()


def test_close_ends_all_threads(room: HeadRoom) -> None:
    provider = room.provider()
    provider.terminate_nodes(room.launch(provider, 2))
    provider.close()
    assert not [
        t.name for t in threading.enumerate() if t.name.startswith(("raydog-sweep", "raydog-term", "raydog-ab"))
    ]
    assert on_head.PACE is head_room.PACE
