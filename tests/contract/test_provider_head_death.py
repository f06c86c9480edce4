"""What is left when a head has died or a cluster's time is over, by the platform's own clock, which the tests step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo

import pytest

from raydog.autoscaler import lifetime
from raydog.emulator import Emulator, VirtualClock
from raydog.emulator.server import Server
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
SILENCE = 35.0
"""Seconds after which a worker at the latest has ended because its head is silent: tests/unit/test_node_scripts.py."""
HOUR = 3600.0


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Emulator(clock=VirtualClock(time.time())) as running:
        yield running


class Passing:
    """Time that passes for the platform and for the head alike."""

    def __init__(self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self._emulator = emulator
        self.passed = 0.0
        outer = self

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + timedelta(seconds=outer.passed)

        monkeypatch.setattr(lifetime, "datetime", Now)

    def __call__(self, seconds: float) -> None:
        self.passed += seconds
        self._emulator.advance(seconds)


@pytest.fixture
def pass_time(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Passing:
    return Passing(emulator, monkeypatch)


def left(room: HeadRoom) -> dict[str, int]:
    status = room.emulator.status()
    names = ("liveInstances", "activePools", "unfinishedPools", "unfinishedTasks")
    return {name: status[name] for name in names if status[name]}


def kill_head(room: HeadRoom, how: str) -> None:
    machine = room.instance_of(room.head.name)
    if how == "aborted":
        room.gateway.abort_node(room.head.task_id)
    elif how == "its process fails":
        room.emulator.call(lambda server: server.platform.task_finished(room.head.task_id, 1, None))
    elif how == "its machine vanishes":
        room.emulator.call(lambda server: server.platform.instance_lost(machine, "the instance has vanished"))
    else:
        room.emulator.preempt(machine)


def workers_notice(room: HeadRoom) -> None:
    """The workers' wrappers end, as they do when the head is silent; simulated tasks have none."""
    ended = [node.task_id for node in room.tasks() if node.status == "EXECUTING"]

    def end(server: Server) -> None:
        for task in ended:
            server.platform.task_finished(task, 143, None)

    room.emulator.call(end)


@pytest.mark.parametrize("how", ["aborted", "its process fails", "its machine vanishes", "preempted"])
def test_workers_and_pools_are_gone_within_a_minute_of_the_heads_death(
    make_room: MakeRoom, pass_time: Passing, how: str
) -> None:
    room = make_room(templates={"worker": "local/worker", "other": "local/head"})
    provider = room.provider()
    nodes = [*room.launch(provider, 3), *room.launch(provider, 2, "other")]
    running(provider, nodes)
    pass_time(600)
    assert len(room.pools()) == 2
    assert len(room.tasks()) == 5, "a cluster whose head lives loses nothing"
    provider.close()
    kill_head(room, how)
    pass_time(SILENCE)
    assert len(room.tasks()) == 5
    workers_notice(room)
    assert room.emulator.status()["liveInstances"] == 0
    pass_time(60 - SILENCE)
    assert left(room) == {}


def test_work_that_waited_for_a_machine_gets_none_after_the_heads_death(
    make_room: MakeRoom, pass_time: Passing
) -> None:
    room = make_room()
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    room.launch(provider, 3)
    provider.close()
    kill_head(room, "its machine vanishes")
    pass_time(121)  # the emulator keeps a pool that was never used for as long as this
    room.emulator.template("local/worker", capacity=None)
    pass_time(HOUR)
    assert left(room) == {"unfinishedTasks": 3}, "entries without a machine"
    found = clusters.find_clusters(room.gateway, room.name)
    teardown.end_leftovers(room.gateway, room.name, found, lambda _text: None)
    assert left(room) == {}


def test_ray_up_after_the_heads_death_finds_a_free_name_and_leaves_nothing_of_the_old(
    make_room: MakeRoom, pass_time: Passing
) -> None:
    room = make_room()
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    provider.close()
    kill_head(room, "its machine vanishes")
    (old,) = clusters.find_clusters(room.gateway, room.name)
    head = clusters.find_head(room.gateway, old)
    assert head is not None
    assert clusters.has_ended(head)
    teardown.end_leftovers(room.gateway, room.name, [old], lambda _text: None)
    eventually(lambda: left(room) == {}, what="the old cluster has gone")
    again = make_room()
    provider = again.provider()
    running(provider, again.launch(provider, 1))
    assert [c.cluster_id for c in clusters.find_clusters(again.gateway, again.name)] == [again.cluster.cluster_id]


def test_lifetime_cap_ends_what_nobody_looks_after_any_more(make_room: MakeRoom, pass_time: Passing) -> None:
    room = make_room(templates={"worker": "local/worker", "other": "local/head"})
    provider = room.provider()
    running(provider, room.launch(provider, 3))
    pass_time(HOUR / 2)
    late = room.launch(provider, 2, "other")  # what comes late gets the time that is left
    running(provider, late)
    provider.close()
    pass_time(HOUR / 2 - 60)
    assert len(room.tasks()) == 5
    pass_time(60)
    assert room.emulator.status()["liveInstances"] == 0
    pass_time(15)
    assert left(room) == {}
    assert {room.task(name).reason for name in late} == {"TIMED_OUT The task ran longer than its timeout"}


def test_head_ends_its_whole_cluster_when_the_time_is_over(make_room: MakeRoom, pass_time: Passing) -> None:
    room = make_room(lifetime=timedelta(minutes=4))  # shorter than a head may take to be built
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    room.emulator.template("local/worker", capacity=2)
    room.launch(provider, 1)
    pass_time(4 * 60 + 1)
    eventually(lambda: left(room) == {}, what="nothing is left, not even what waits")
    assert room.emulator.status()["unfinishedWorkRequirements"] == 0


def test_head_whose_clock_is_wrong_does_not_end_its_cluster(
    make_room: MakeRoom, pass_time: Passing, emulator: Emulator
) -> None:
    room = make_room(lifetime=timedelta(hours=1))
    provider = room.provider()
    nodes = room.launch(provider, 1)
    pass_time.passed += 2 * HOUR  # for the head alone
    before = len(emulator.calls("get_tasks"))
    eventually(lambda: len(emulator.calls("get_tasks")) > before + 10, what="sweeps")
    running(provider, nodes)
    assert room.refreshed().status == "RUNNING"
    assert datetime.now(timezone.utc) - room.cluster.created < timedelta(hours=1)
