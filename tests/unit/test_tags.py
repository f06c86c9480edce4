"""The tag store against a real Redis that answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from raydog.autoscaler.redis_tags import RedisTags, Seen
from raydog.autoscaler.tags import TagStore, connect_redis
from raydog.errors import CredentialsError
from tests.support.servers import RedisServer

PREFIX = "raydog:cluster-1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, password="secret") as running:
        yield running


@pytest.fixture
def open_store(server: RedisServer) -> Iterator[Callable[..., TagStore]]:
    stores = []

    def make(prefix: str = PREFIX) -> TagStore:
        store = TagStore(lambda: connect_redis("127.0.0.1", server.port, server.password), prefix)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


OpenStore = Callable[..., TagStore]


def test_constructor_does_no_io() -> None:
    def connect() -> redis.Redis:
        raise AssertionError("connected")

    store = TagStore(connect, PREFIX)
    assert (store.available, store.last_error, store.data_lost, store.unsent) == (False, None, False, 0)


def test_update_merges_and_shows_in_another_process(open_store: OpenStore) -> None:
    ours, theirs = open_store(), open_store()
    assert theirs.read() == {}
    ours.update("node-1", {"kind": "worker", "status": "waiting"})
    ours.update("node-1", {"status": "up-to-date"})
    assert theirs.read() == ours.read() == {"node-1": {"kind": "worker", "status": "up-to-date"}}
    assert ours.available
    assert ours.unsent == 0


def test_two_writers_of_one_node_lose_nothing(open_store: OpenStore) -> None:
    ours, theirs = open_store(), open_store()
    ours.update("n", {"a": "1"})
    theirs.update("n", {"b": "2"})
    ours.update("n", {"c": "3"})
    assert ours.read() == theirs.read() == {"n": {"a": "1", "b": "2", "c": "3"}}


def test_removed_node_is_gone_everywhere(open_store: OpenStore) -> None:
    ours, theirs = open_store(), open_store()
    ours.set_many({f"n{i}": {"k": "v"} for i in range(5)})
    assert len(theirs.read()) == 5
    ours.remove(["n1", "n3", "unknown"])
    assert set(theirs.read()) == set(ours.read()) == {"n0", "n2", "n4"}


def test_node_that_was_removed_and_made_again_has_only_its_new_tags(open_store: OpenStore) -> None:
    ours, theirs = open_store(), open_store()
    ours.update("n", {"old": "1"})
    ours.remove(["n"])
    ours.update("n", {"new": "1"})
    assert theirs.read() == ours.read() == {"n": {"new": "1"}}


def test_clusters_do_not_see_each_other(open_store: OpenStore) -> None:
    one, other = open_store("raydog:demo"), open_store("raydog:demo-gpu")
    one.update("n", {"k": "1"})
    assert other.read() == {}
    other.update("n", {"k": "2"})
    assert one.read() == {"n": {"k": "1"}}


def test_snapshot_is_immutable_and_keeps_its_moment(open_store: OpenStore) -> None:
    store = open_store()
    store.update("n", {"k": "1"})
    before = store.read()
    store.update("n", {"k": "2"})
    assert before == {"n": {"k": "1"}}
    with pytest.raises(TypeError):
        before["n"]["k"] = "3"  # type: ignore[index]
    with pytest.raises(TypeError):
        before["m"] = {}  # type: ignore[index]


def test_unchanged_read_transfers_nothing_and_keeps_the_snapshot(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store()
    store.update("n", {"k": "1"})
    with connect_redis("127.0.0.1", server.port, server.password) as client:
        answers = RedisTags(client, PREFIX)
        reading = answers.read(Seen())
        assert reading.tags == {"n": {"k": "1"}}
        again = answers.read(reading.now)
        assert (again.now, again.tags, again.complete) == (reading.now, {}, False)
    assert store.read() is store.read()


def test_one_change_among_many_transfers_one_node(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store()
    store.set_many({f"n{i}": {"k": "v"} for i in range(3000)})
    with connect_redis("127.0.0.1", server.port, server.password) as client:
        raw = RedisTags(client, PREFIX)
        first = raw.read(Seen("other"))
        assert first.complete
        assert len(first.tags) == 3000
        store.update("n7", {"k": "w"})
        store.remove(["n8"])
        change = raw.read(first.now)
    assert (change.complete, change.tags, change.gone) == (False, {"n7": {"k": "w"}}, ["n8"])


def test_version_moves_with_changes_only(server: RedisServer, open_store: OpenStore) -> None:
    store = open_store()
    with connect_redis("127.0.0.1", server.port, server.password) as client:
        raw = RedisTags(client, PREFIX)
        store.update("n", {"k": "1"})
        first = raw.read(Seen()).now.version
        store.update("n", {"k": "1"})
        store.remove(["unknown"])
        assert raw.read(Seen()).now.version == first
        store.set_many({"a": {"k": "1"}, "b": {"k": "1"}})
        assert raw.read(Seen()).now.version == first + 1


def test_list_of_changes_stays_short_and_late_readers_get_everything(
    server: RedisServer, open_store: OpenStore
) -> None:
    writer, late = open_store(), open_store()
    writer.update("stays", {"k": "1"})
    assert set(late.read()) == {"stays"}
    for generation in range(3):
        nodes = [f"n{generation}-{i}" for i in range(700)]
        writer.set_many({node: {"k": "v"} for node in nodes})
        writer.remove(nodes)
    with connect_redis("127.0.0.1", server.port, server.password) as client:
        assert client.zcard(f"{PREFIX}:changes") <= 1001
    assert late.read() == {"stays": {"k": "1"}}


def test_values_of_any_text_survive(open_store: OpenStore) -> None:
    ours, theirs = open_store(), open_store()
    tags = {"quote\"'": "a/b\\c\n", "ünïcode": "日本 🐕", "1": "", "empty": ""}
    ours.update("node/1", tags)
    ours.update("node/1", {"2": "x"})
    ours.update("no-tags", {})
    assert theirs.read() == {"node/1": {**tags, "2": "x"}, "no-tags": {}}


def test_threads_of_two_processes_write_and_read_consistently(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    failures: list[str] = []

    def work(worker: int) -> None:
        store = stores[worker % 2]
        for step in range(20):
            store.update(f"own-{worker}", {f"step-{step}": "done"})
            store.update("shared", {f"{worker}-{step}": "done"})
            if f"step-{step}" not in store.read()[f"own-{worker}"]:
                failures.append(f"{worker} does not see its own step {step}")
        store.update(f"gone-{worker}", {"k": "v"})
        store.remove([f"gone-{worker}"])

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(store.flush() for store in stores)
    for store in stores:
        tags = store.read()
        assert set(tags) == {"shared", *(f"own-{worker}" for worker in range(32))}
        assert len(tags["shared"]) == 32 * 20
        assert all(len(tags[f"own-{worker}"]) == 20 for worker in range(32))


def test_server_without_a_password_is_accepted_only_if_none_is_given(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with connect_redis("127.0.0.1", server.port, None) as client:
            assert client.ping()
        with pytest.raises(CredentialsError, match="another server on the same port"):
            connect_redis("127.0.0.1", server.port, "ours")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_refused_password_names_the_server_and_no_secret(server: RedisServer, password: str | None) -> None:
    with pytest.raises(CredentialsError, match="head_node_tag_server_port") as caught:
        connect_redis("127.0.0.1", server.port, password)
    assert str(server.port) in str(caught.value)
    assert "secret" not in str(caught.value)
