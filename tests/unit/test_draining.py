"""Ray is told of nodes whose machines are about to go, until it has accepted it or their time is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from raydog.autoscaler.draining import Drainer, DrainError
from tests.support.servers import eventually

START = datetime(2030, 1, 1, tzinfo=timezone.utc)


class Ray:
    """A cluster that notes what it is told; ``trouble`` happens once to each call, in turn."""

    def __init__(self) -> None:
        self.now = START
        self.nodes: dict[str, str] = {}
        self.trouble: list[str] = []
        self.asked: list[str] = []
        self.drained: list[tuple[str, str, datetime]] = []

    def node_id(self, name: str) -> str | None:
        self.asked.append(name)
        if self.trouble:
            raise DrainError(self.trouble.pop(0))
        return self.nodes.get(name)

    def drain(self, node_id: str, message: str, deadline: datetime) -> None:
        if self.trouble:
            raise DrainError(self.trouble.pop(0))
        self.drained.append((node_id, message, deadline))


@pytest.fixture
def ray() -> Ray:
    return Ray()


@pytest.fixture
def drainer(ray: Ray) -> Iterator[Drainer]:
    made = Drainer(ray, now=lambda: ray.now, pause=0.01)
    yield made
    made.close()


@pytest.mark.parametrize(("provider", "notice"), [("AWS", 105), ("GOOGLE", 15), ("AZURE", 15), ("", 15)])
def test_node_is_drained_until_its_cloud_takes_it(ray: Ray, drainer: Drainer, provider: str, notice: int) -> None:
    ray.nodes["worker-1"] = "abc"
    drainer.drain("worker-1", provider)
    eventually(lambda: bool(ray.drained), what="the node is drained")
    ((node_id, message, deadline),) = ray.drained
    assert node_id == "abc"
    assert "worker-1" in message
    assert deadline == START + timedelta(seconds=notice)


def test_node_that_joins_later_is_drained_then(ray: Ray, drainer: Drainer) -> None:
    drainer.drain("late", "AWS")
    eventually(lambda: len(ray.asked) > 3, what="it is asked for again and again")
    assert ray.drained == []
    ray.nodes["late"] = "def"
    eventually(lambda: len(ray.drained) == 1, what="the node is drained")


def test_ray_that_does_not_answer_or_refuses_is_told_again_and_nobody_else_waits_for_it(
    ray: Ray, drainer: Drainer
) -> None:
    ray.nodes |= {"one": "a", "two": "b"}
    ray.trouble = ["no answer", "not now", "no answer"]
    drainer.drain("one", "AWS")
    drainer.drain("two", "AWS")
    eventually(lambda: len(ray.drained) == 2, what="both are drained")
    assert {node_id for node_id, _, _ in ray.drained} == {"a", "b"}
    asked = len(ray.asked)
    drainer.drain("three", "AWS")
    eventually(lambda: len(ray.asked) > asked + 2, what="only what is left to do is done")
    assert set(ray.asked[asked:]) == {"three"}


def test_node_whose_time_is_over_is_given_up(ray: Ray, drainer: Drainer) -> None:
    drainer.drain("gone", "")
    eventually(lambda: bool(ray.asked), what="it is asked for")
    ray.now += timedelta(seconds=31)
    ray.nodes["gone"] = "abc"
    drainer.drain("other", "AWS")
    ray.nodes["other"] = "def"
    eventually(lambda: bool(ray.drained), what="the other is drained")
    assert [node_id for node_id, _, _ in ray.drained] == ["def"]


def test_close_ends_the_thread_though_nodes_are_left(ray: Ray) -> None:
    before = set(threading.enumerate())
    made = Drainer(ray, now=lambda: ray.now, pause=60)
    made.drain("never", "AWS")
    eventually(lambda: bool(ray.asked), what="it is asked for")
    made.close()
    assert set(threading.enumerate()) <= before
    made.drain("later", "AWS")
    assert set(threading.enumerate()) <= before
