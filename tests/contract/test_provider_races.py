"""Many threads at once, through Ray's own adapter: counts stay exact, and nobody gets an exception."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.autoscaler.tags import TAG_RAY_LAUNCH_REQUEST, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

from tests.support.head_room import HeadRoom, running
from tests.support.servers import RedisServer, eventually

MakeRoom = Callable[..., HeadRoom]
PASSWORD = "swordfish"
THREADS = 32
ROUNDS = 4
QUARTER = THREADS // 4
TURNS = 10 * ROUNDS
LAUNCHED = QUARTER * ROUNDS * 3
TYPES = {"small": "local/worker", "large": "local/worker"}


@pytest.fixture
def tag_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A tag server as on the head."""
    folder = tmp_path / ".raydog"
    folder.mkdir()
    (folder / "redis.password").write_text(PASSWORD)
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", PASSWORD) as server:
        yield server


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns after a few instructions, so that what can go wrong between them does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Storm:
    """Eight threads each that launch, terminate, read and tag, all at the same moment."""

    def __init__(self, room: HeadRoom) -> None:
        self.room = room
        self.provider = room.provider()
        self.adapter = room.adapter(self.provider, batch=1, launches=THREADS)
        self.kept = room.launch(self.provider, QUARTER, "small")
        self.doomed = room.launch(self.provider, 2 * QUARTER, "small")
        running(self.provider, [*self.kept, *self.doomed])
        self._start = threading.Barrier(THREADS, timeout=60)
        self._over = threading.Event()
        self._dead: set[str] = set()

    def rage(self) -> None:
        """Until everybody has done his part and all that was launched is there. Raises what any thread raises."""
        with ThreadPoolExecutor(THREADS) as executor:
            busy: list[Future[None]] = []
            readers: list[Future[None]] = []
            for number in range(QUARTER):
                busy += [executor.submit(action, number) for action in (self._create, self._terminate, self._tag)]
                readers.append(executor.submit(self._read))
            try:
                for one in busy:
                    one.result(timeout=120)
                wanted = 1 + QUARTER + LAUNCHED
                eventually(lambda: len(self.adapter.get_non_terminated()) == wanted, 60, "all that were launched")
            finally:
                self._over.set()
            for reader in readers:
                reader.result(timeout=60)

    def _create(self, number: int) -> None:
        self._start.wait()
        for turn in range(ROUNDS):
            self.adapter.launch({"small": 1, "large": 2}, f"request-{number}-{turn}")

    def _terminate(self, number: int) -> None:
        mine = self.doomed[2 * number : 2 * number + 2]
        self._start.wait()
        for _ in range(ROUNDS):  # Ray may repeat itself
            self.provider.terminate_nodes(mine)
            assert not set(mine) & set(self.provider.non_terminated_nodes({}))
            self._dead.update(mine)
            self.adapter.terminate([*mine, "demo-never-was"], "request")

    def _read(self) -> None:
        self._start.wait()
        while not self._over.is_set():
            dead = set(self._dead)
            seen = self.adapter.get_non_terminated()
            assert {self.room.head.name, *self.kept} <= seen.keys()
            assert not dead & seen.keys()
            for name, instance in seen.items():
                assert instance.node_type in {"head", *TYPES}
                tags = self.provider.node_tags(name)
                assert not tags or {TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE} <= tags.keys()
                self.provider.internal_ip(name)

    def _tag(self, number: int) -> None:
        mine, shared = self.kept[number], self.kept[0]
        self._start.wait()
        for turn in range(TURNS):
            self.provider.set_node_tags(mine, {"turn": str(turn), f"tag-{turn}": "1"})
            self.provider.set_node_tags(shared, {f"of-{number}": str(turn)})
            assert self.provider.node_tags(mine)["turn"] == str(turn)


@pytest.mark.parametrize("slow", [False, True], ids=["quick platform", "slow platform"])
def test_32_threads_create_terminate_read_and_tag(
    make_room: MakeRoom, tag_server: RedisServer, restless: None, slow: bool
) -> None:
    room = make_room(templates=TYPES, tag_port=tag_server.port)
    storm = Storm(room)
    if slow:
        for operation in ("add_tasks_to_task_group", "provision_worker_pool", "update_work_requirement", "cancel_task"):
            room.emulator.fault(operation, "delay", seconds=0.05, times=1000)
    storm.rage()
    assert storm.adapter.poll_errors() == []

    # exactly what was asked for, for Ray
    seen = storm.adapter.get_non_terminated()
    new = {name: node for name, node in seen.items() if name not in {room.head.name, *storm.kept}}
    assert Counter(node.node_type for node in new.values()) == {"small": LAUNCHED // 3, "large": 2 * LAUNCHED // 3}
    requests = {f"request-{number}-{turn}": 3 for number in range(QUARTER) for turn in range(ROUNDS)}
    assert Counter(node.request_id for node in new.values()) == requests

    # and on the platform: tasks, machines, one pool and one task group for a type
    workers = seen.keys() - {room.head.name}
    eventually(lambda: {node.name for node in room.tasks()} == workers, 60, "exactly these tasks")
    assert len(room.pools()) == 2
    assert len(room.emulator.calls("provision_worker_pool")) == 3  # the head's, and one for each type
    assert sum(group.name.startswith("workers-") for group in room.refreshed().groups) == 2
    running(storm.provider, list(seen))
    eventually(lambda: room.emulator.status()["liveInstances"] == len(seen), 60, "exactly these machines")

    # and in the tag server, which a restarted autoscaler reads
    storm.provider.close()
    second = room.provider()
    eventually(lambda: set(second.non_terminated_nodes({})) == seen.keys(), what="all nodes after a restart")
    shared = second.node_tags(storm.kept[0])
    for number, name in enumerate(storm.kept):
        tags = second.node_tags(name)
        assert tags["turn"] == shared[f"of-{number}"] == str(TURNS - 1)
        assert {f"tag-{turn}" for turn in range(TURNS)} <= tags.keys()
    assert {second.node_tags(name)[TAG_RAY_LAUNCH_REQUEST] for name in new} == requests.keys()
