"""The tag store while its Redis is away, comes back, or comes back empty."""

from __future__ import annotations

import itertools
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from raydog.autoscaler import tags as tags_module
from raydog.autoscaler.redis_tags import Operation, RedisTags, Written
from raydog.autoscaler.tags import TagStore, connect_redis
from tests.support.servers import RedisServer

PREFIX = "raydog:cluster-1"


class StepClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def lost(store: TagStore) -> bool:
    return store.data_lost


def reachable(store: TagStore) -> bool:
    return store.available


@pytest.fixture
def clock() -> StepClock:
    return StepClock()


OpenStore = Callable[[RedisServer], TagStore]


@pytest.fixture
def open_store(clock: StepClock) -> Iterator[OpenStore]:
    stores = []

    def make(server: RedisServer) -> TagStore:
        store = TagStore(lambda: connect_redis("127.0.0.1", server.port, server.password), PREFIX, clock)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture(params=[True, False], ids=["append-only-file", "memory-only"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, password="secret", append_only=request.param) as running:
        yield running


@pytest.fixture
def volatile(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


def test_killed_server_is_not_noticed_by_readers_and_writers(
    server: RedisServer, open_store: OpenStore, clock: StepClock
) -> None:
    store = open_store(server)
    store.rebuild({})
    store.update("n", {"k": "1"})
    server.kill()
    assert store.read() == {"n": {"k": "1"}}
    assert not reachable(store)
    assert "Connection" in (store.last_error or "")
    store.update("n", {"k": "2"})
    store.update("m", {"k": "1"})
    store.remove(["unknown"])
    assert store.read() == {"n": {"k": "2"}, "m": {"k": "1"}}
    assert store.unsent == 3

    server.start()
    clock.sleep(10)
    assert store.read() == {"n": {"k": "2"}, "m": {"k": "1"}}
    assert reachable(store)
    assert store.unsent == 0
    assert store.data_lost is not server.append_only
    assert open_store(server).read() == {"n": {"k": "2"}, "m": {"k": "1"}}


def test_restart_between_two_calls_is_not_even_an_outage(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store(server)
    store.update("n", {"k": "1"})
    server.kill()
    server.start()
    store.update("n", {"l": "1"})
    assert store.available
    assert store.unsent == 0
    assert store.read() == {"n": {"k": "1", "l": "1"}}


def test_lost_data_are_rebuilt_and_newer_values_of_others_win(volatile: RedisServer, open_store: OpenStore) -> None:
    ours, theirs = open_store(volatile), open_store(volatile)
    assert ours.read() == {}
    assert lost(ours)
    assert ours.rebuild({"head": {"kind": "head"}})
    assert not lost(ours)
    ours.set_many({"a": {"kind": "worker", "status": "setting-up"}, "b": {"kind": "worker"}})
    volatile.kill()
    volatile.start()
    theirs.update("a", {"status": "up-to-date"})

    launch = {node: {"kind": "launch", "name": node} for node in ("head", "a", "b", "new")}
    expected = {
        "head": {"kind": "head", "name": "head"},
        "a": {"kind": "worker", "name": "a", "status": "up-to-date"},
        "b": {"kind": "worker", "name": "b"},
        "new": {"kind": "launch", "name": "new"},
    }
    assert ours.read()["b"] == {"kind": "worker"}, "known tags are served before they are rebuilt"
    assert lost(ours)
    assert ours.rebuild(launch)
    assert not lost(ours)
    assert ours.read() == expected
    assert theirs.read() == expected
    assert open_store(volatile).read() == expected


def test_loss_is_noticed_after_another_process_has_rebuilt(volatile: RedisServer, open_store: OpenStore) -> None:
    ours, theirs = open_store(volatile), open_store(volatile)
    ours.rebuild({})
    ours.update("only-we-know", {"k": "1"})
    volatile.kill()
    volatile.start()
    assert theirs.rebuild({"n": {"k": "launch"}})
    for _ in range(5):
        theirs.update("n", {"tick": str(_)})  # the version is now beyond what we have seen
    assert set(ours.read()) == {"n", "only-we-know"}
    assert lost(ours)
    assert ours.rebuild({"n": {"k": "launch"}})
    assert theirs.read() == {"n": {"k": "launch", "tick": "4"}, "only-we-know": {"k": "1"}}
    assert not lost(ours)


def test_rebuild_does_nothing_without_a_loss(volatile: RedisServer, open_store: OpenStore) -> None:
    store = open_store(volatile)
    store.rebuild({})
    assert store.rebuild({"gone": {"k": "1"}})
    assert store.read() == {}


def test_rebuild_of_thousands(volatile: RedisServer, open_store: OpenStore) -> None:
    store = open_store(volatile)
    launch = {f"n{i}": {"kind": "worker", "name": f"n{i}"} for i in range(2500)}
    assert store.rebuild(launch)
    assert open_store(volatile).read() == launch


def test_rebuild_while_the_server_is_away_waits_for_it(
    volatile: RedisServer, open_store: OpenStore, clock: StepClock
) -> None:
    store = open_store(volatile)
    store.rebuild({})
    store.update("n", {"k": "1"})
    volatile.kill()
    assert not store.rebuild({"n": {"l": "1"}})
    volatile.start()
    clock.sleep(10)
    assert store.rebuild({"n": {"l": "1"}})
    assert store.read() == {"n": {"k": "1", "l": "1"}}


def test_server_is_left_alone_for_a_growing_time(tmp_path: Path, clock: StepClock) -> None:
    attempts = []

    def connect() -> redis.Redis:
        attempts.append(clock.now)
        raise redis.ConnectionError("refused")

    store = TagStore(connect, PREFIX, clock)
    for _ in range(200):
        store.read()
        store.update("n", {"k": "1"})
        clock.sleep(0.1)
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(attempts)]
    assert pauses[:5] == pytest.approx([1, 2, 4, 5, 5], abs=0.15)


def test_hanging_server_costs_one_time_out_and_then_nothing(volatile: RedisServer, open_store: OpenStore) -> None:
    store = open_store(volatile)
    store.update("n", {"k": "1"})
    assert volatile.process is not None
    volatile.process.send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        assert store.read() == {"n": {"k": "1"}}
        first = time.monotonic() - start
        start = time.monotonic()
        for step in range(20):
            store.update("n", {"step": str(step)})
            assert store.read()["n"]["step"] == str(step)
        rest = time.monotonic() - start
    finally:
        volatile.process.send_signal(signal.SIGCONT)
    assert 0.9 < first < 2.5
    assert rest < 0.5


def test_port_of_another_program_is_an_outage_and_no_crash(clock: StepClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.settimeout(5)
        store = TagStore(lambda: connect_redis("127.0.0.1", port, "pw", timeout=0.2), PREFIX, clock)
        store.update("n", {"k": "1"})
        assert store.read() == {"n": {"k": "1"}}
        assert not store.available
        assert "Timeout" in (store.last_error or "")


def test_unsent_writes_go_out_in_order_merged_for_each_node(
    volatile: RedisServer, open_store: OpenStore, clock: StepClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(volatile)
    store.rebuild({})
    volatile.kill()
    store.update("b", {"k": "1"})
    store.update("a", {"k": "1"})
    store.update("b", {"k": "2", "l": "2"})
    store.update("c", {"k": "1"})
    store.remove(["c"])
    store.remove(["d"])
    store.update("d", {"again": "1"})
    sent: list[Operation] = []
    write = RedisTags.write

    def record(self: RedisTags, operations: Sequence[Operation], complete: bool = False) -> list[Written]:
        sent.extend(operations)
        return write(self, operations, complete)

    monkeypatch.setattr(RedisTags, "write", record)
    volatile.start()
    clock.sleep(10)
    assert store.read() == {"b": {"k": "2", "l": "2"}, "a": {"k": "1"}, "d": {"again": "1"}}
    assert [(op.kind, op.node, dict(op.tags)) for op in sent] == [
        ("merge", "b", {"k": "2", "l": "2"}),
        ("merge", "a", {"k": "1"}),
        ("remove", "c", {}),
        ("remove", "d", {}),
        ("merge", "d", {"again": "1"}),
    ]


def test_unsent_writes_are_bounded_and_removals_go_first(monkeypatch: pytest.MonkeyPatch, clock: StepClock) -> None:
    def connect() -> redis.Redis:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(tags_module, "_MAX_PENDING", 3)
    store = TagStore(connect, PREFIX, clock)
    store.update("a", {"k": "1"})
    store.remove(["b"])
    store.set_many({"c": {"k": "1"}, "d": {"k": "1"}})
    assert store.unsent == 3
    assert set(store.read()) == {"a", "c", "d"}


def test_flush_ignores_the_back_off_and_says_what_is_left(volatile: RedisServer, open_store: OpenStore) -> None:
    store = open_store(volatile)
    store.update("n", {"k": "1"})
    volatile.kill()
    store.update("n", {"k": "2"})
    assert not store.flush()
    volatile.start()
    assert store.flush()
    assert open_store(volatile).read() == {"n": {"k": "2"}}
