"""What Ray's tags cost at 10,000 nodes, against a real Redis on loopback.

Peer: the layout of the reference implementation, a hash for each node, found with SCAN and read with one HGETALL
each. Floor: what the same redis-py needs for the bare transfer.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from raydog.autoscaler.tags import TagStore, connect_redis
from tests.support.servers import RedisServer

PASSWORD = "benchmark"  # noqa: S105 - of a server that lives for seconds, on loopback
NODES = 10_000
ENDED = 1_000


def run() -> list[dict[str, Any]]:
    """Measure; each row has name, unit, ours, peer, floor, goal and met (``ours <= goal``). Medians, in ms."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder), "benchmark") as server:

        def connect() -> redis.Redis:
            # The peer's thousand calls in a row share a machine with others: no time-out may spoil them.
            return connect_redis("127.0.0.1", server.port, server.password, timeout=30)

        head, client, raw = TagStore(connect, "raydog:bench"), TagStore(connect, "raydog:bench"), connect()
        try:
            return _measure(head, client, raw, connect)
        finally:
            head.close()
            client.close()
            raw.close()


def _measure(
    head: TagStore, client: TagStore, raw: redis.Redis, connect: Callable[[], redis.Redis]
) -> list[dict[str, Any]]:
    tags = {f"bench-{number:05d}-worker": _tags_of(number) for number in range(NODES)}
    head.rebuild({})
    head.set_many(tags)
    assert client.read() == tags
    pipeline = raw.pipeline(transaction=False)
    for node, own in tags.items():
        pipeline.hset(f"peer:{node}", mapping=dict(own))
    pipeline.execute()
    raw.set("floor:all", json.dumps(tags))
    raw.hset("floor:nodes", mapping=dict.fromkeys(tags, "x"))
    peer_read = _milliseconds(lambda: _peer_read(raw), 3)
    some = next(iter(tags))

    def first_read() -> None:
        store = TagStore(connect, "raydog:bench")
        assert len(store.read()) == NODES
        store.close()

    changes = iter(range(1_000_000))

    def change_elsewhere() -> None:
        head.update(some, {"ray-node-status": f"step-{next(changes)}"})

    def set_again() -> None:
        head.set_many(tags)

    ended = [node for number, node in enumerate(tags) if number % (NODES // ENDED) == 0]

    def peer_set_again() -> None:
        for node in ended:
            raw.hset(f"peer:{node}", mapping=tags[node])
        raw.hset("floor:nodes", mapping=dict.fromkeys(ended, "x"))

    return [
        _row(
            "10,000 nodes' tags, none changed",
            ours=_milliseconds(head.read, 500),
            peer=peer_read,
            floor=_milliseconds(lambda: raw.get("floor:version"), 500),
            goal=0.2,
        ),
        _row(
            "10,000 nodes' tags, one changed",
            ours=_milliseconds(client.read, 50, before=change_elsewhere),
            peer=peer_read,
            floor=_milliseconds(lambda: raw.hgetall(f"peer:{some}"), 500),
            goal=2.0,
        ),
        _row(
            "10,000 nodes' tags, first read",
            ours=_milliseconds(first_read, 5),
            peer=peer_read,
            floor=_milliseconds(lambda: _parse(raw.get("floor:all")), 5),
            goal=150.0,
        ),
        _row(
            "one node's tags, write",
            ours=_milliseconds(change_elsewhere, 500),
            peer=_milliseconds(lambda: raw.hset(f"peer:{some}", mapping=tags[some]), 500),
            floor=_milliseconds(raw.ping, 500),
            goal=0.5,
        ),
        _row(
            "1,000 nodes' tags, remove",
            ours=_milliseconds(lambda: head.remove(ended), 5, before=set_again),
            peer=_milliseconds(lambda: _peer_remove(raw, ended), 5, before=peer_set_again),
            floor=_milliseconds(lambda: raw.hdel("floor:nodes", *ended), 5, before=peer_set_again),
            goal=25.0,
        ),
    ]


def _tags_of(number: int) -> dict[Any, Any]:
    return {
        "ray-node-type": "worker",
        "ray-node-status": "up-to-date",
        "ray-user-node-type": "cpu-worker",
        "ray-node-name": f"bench-{number:05d}-worker",
        "ray-launch-config": f"{number:040x}",
    }


def _peer_read(raw: redis.Redis) -> dict[str, Any]:
    return {str(key): raw.hgetall(key) for key in raw.scan_iter(match="peer:*", count=1000)}


def _peer_remove(raw: redis.Redis, nodes: list[str]) -> None:
    for node in nodes:
        raw.delete(f"peer:{node}")


def _parse(text: Any) -> None:
    assert len(json.loads(text)) == NODES


def _milliseconds(work: Callable[[], Any], times: int, before: Callable[[], Any] | None = None) -> float:
    taken = []
    for _ in range(times):
        if before is not None:
            before()
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(statistics.median(taken) * 1000, 3)


def _row(name: str, *, ours: float, peer: float, floor: float, goal: float) -> dict[str, Any]:
    return {
        "name": name,
        "unit": "ms",
        "ours": ours,
        "peer": peer,
        "floor": floor,
        "goal": goal,
        "met": ours <= goal,
    }
