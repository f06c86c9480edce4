"""The proof that nothing of a cluster is left: against searches that lag behind, and what turns up late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import cast

import pytest

from raydog.errors import NotFoundError, PlatformError, TeardownError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, GroupRecord, PoolRecord

DEMO = ClusterName("tests", "demo")
CREATED = datetime(2030, 1, 1, tzinfo=timezone.utc)
HEAD = GroupRecord("group", clusters.HEAD_GROUP, "raydog-abcdefgh-head", "RUNNING")
CLUSTER = ClusterRecord("req", "demo-abcdefgh", "abcdefgh", "tests", "RUNNING", CREATED, (HEAD,))
POOL = PoolRecord("pool", "demo-abcdefgh-worker", "RUNNING", "raydog-abcdefgh-worker", "compute")
LATE = PoolRecord("late", "demo-abcdefgh-other", "RUNNING", "raydog-abcdefgh-other", "late-compute")


class Platform:
    """Pools, computes and requirements; ``hidden`` ids are in no search, but answer when asked for directly."""

    def __init__(self) -> None:
        self.clusters = {CLUSTER.requirement_id: CLUSTER}
        self.pools = {POOL.pool_id: POOL}
        self.computes = {"compute": "RUNNING", "late-compute": "RUNNING"}
        self.hidden: set[str] = set()
        self.refused: set[str] = set()
        self.slow: set[str] = set()
        self.now = 0.0
        self.searches: list[float] = []
        self.later: dict[float, object] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.later if when <= self.now]:
            thing = self.later.pop(when)
            if isinstance(thing, PoolRecord):
                self.pools[thing.pool_id] = thing
            elif isinstance(thing, ClusterRecord):
                self.clusters[thing.requirement_id] = thing
            else:
                self.hidden.discard(str(thing))

    def find_requirements(self, namespace: str, name_part: str, statuses: Sequence[str]) -> list[tuple[str, str]]:
        return [
            (one.requirement_id, one.name)
            for one in self.clusters.values()
            if one.requirement_id not in self.hidden and one.status in statuses
        ]

    def get_cluster(self, requirement_id: str, cluster_id: str) -> ClusterRecord:
        if requirement_id not in self.clusters:
            raise NotFoundError("unknown", 404)
        return self.clusters[requirement_id]

    def cluster_named(self, namespace: str, name: str, cluster_id: str) -> ClusterRecord:
        for one in self.clusters.values():
            if one.name == name:
                return one
        raise NotFoundError("unknown", 404)

    def cancel_cluster(self, requirement_id: str) -> str:
        self.clusters[requirement_id] = replace(self.clusters[requirement_id], status="CANCELLED")
        return "CANCELLED"

    def find_pools(self, namespace: str, name_part: str) -> list[tuple[str, str, str]]:
        self.searches.append(self.now)
        return [(one.pool_id, one.name, one.status) for one in self.pools.values() if one.pool_id not in self.hidden]

    def get_pool(self, pool_id: str) -> PoolRecord:
        if pool_id not in self.pools:
            raise NotFoundError("unknown", 404)
        return self.pools[pool_id]

    def shut_down_pool(self, pool_id: str) -> None:
        if pool_id in self.refused:
            self.refused.discard(pool_id)
            raise PlatformError("no")
        self.pools[pool_id] = replace(self.pools[pool_id], status="SHUTDOWN")

    def compute_status(self, compute_id: str) -> str | None:
        return self.computes.get(compute_id)

    def terminate_compute(self, compute_id: str) -> None:
        self.computes[compute_id] = "TERMINATING" if compute_id in self.slow else "TERMINATED"


@pytest.fixture
def platform() -> Platform:
    return Platform()


def tear_down(platform: Platform, cluster_id: str | None = None, timeout: float = 60) -> list[str]:
    gateway = cast(Gateway, platform)
    begun = teardown.request_teardown(gateway, DEMO, cluster_id=cluster_id)
    return teardown.await_teardown(gateway, DEMO, begun, timeout, cluster_id=cluster_id, clock=platform)


def over(platform: Platform) -> bool:
    return (
        all(one.status == "CANCELLED" for one in platform.clusters.values())
        and not any(one.live for one in platform.pools.values())
        and all(platform.computes[str(one.compute_requirement_id)] == "TERMINATED" for one in platform.pools.values())
    )


def test_two_looks_a_second_apart_must_find_nothing(platform: Platform) -> None:
    assert tear_down(platform) == []
    assert over(platform)
    assert platform.searches == [0.0, 0.0, 1.0]
    assert platform.now == 1.0


@pytest.mark.parametrize("thing", [LATE, replace(CLUSTER, requirement_id="other", name="demo-abcdefgh")])
def test_what_turns_up_late_is_ended(platform: Platform, thing: object) -> None:
    platform.later = {0.5: thing}
    assert tear_down(platform) == []
    assert platform.later == {}
    assert over(platform)
    assert platform.now >= 1.0


@pytest.mark.parametrize("hidden", ["req", "pool"])
def test_what_a_search_shows_late_is_ended(platform: Platform, hidden: str) -> None:
    platform.hidden = {hidden}
    platform.later = {0.5: hidden}
    assert tear_down(platform) == []
    assert over(platform)


def test_requirement_with_a_known_id_is_found_though_no_search_shows_it(platform: Platform) -> None:
    platform.hidden = {"req"}
    assert tear_down(platform, CLUSTER.cluster_id) == []
    assert over(platform)


def test_known_things_are_asked_for_though_no_search_shows_them_any_more(platform: Platform) -> None:
    gateway = cast(Gateway, platform)
    platform.slow = {"compute"}
    begun = teardown.request_teardown(gateway, DEMO)
    platform.hidden = {"req", "pool"}
    assert teardown.await_teardown(gateway, DEMO, begun, 5, clock=platform) == [
        "compute of worker pool demo-abcdefgh-worker TERMINATING"
    ]
    platform.pools["pool"] = POOL  # somehow alive again
    platform.computes["compute"] = "TERMINATED"
    platform.clusters["req"] = CLUSTER
    with pytest.raises(TeardownError) as failed:
        teardown.await_teardown(gateway, DEMO, begun, 5, clock=platform)
    assert failed.value.left == ("work requirement demo-abcdefgh RUNNING", "worker pool demo-abcdefgh-worker RUNNING")


def test_pool_that_turns_up_late_and_cannot_be_ended_at_once_is_tried_again(platform: Platform) -> None:
    platform.later = {0.5: LATE}
    platform.refused = {"late"}
    assert tear_down(platform) == []
    assert over(platform)


def test_compute_that_a_pool_gets_late_is_terminated(platform: Platform) -> None:
    platform.pools["pool"] = replace(POOL, compute_requirement_id=None)
    platform.later = {0.5: replace(POOL, status="SHUTDOWN")}
    assert tear_down(platform) == []
    assert over(platform)


def test_others_are_left_alone(platform: Platform) -> None:
    theirs = PoolRecord("theirs", "demo-abcdefgh-worker", "RUNNING", "not-ours", "late-compute")
    other = replace(CLUSTER, requirement_id="other", name="demo-2-abcdefgh")
    platform.pools["theirs"] = theirs
    platform.later = {0.5: other}
    assert tear_down(platform) == []
    assert platform.pools["theirs"] == theirs
    assert platform.clusters["other"] == other
    assert platform.computes["late-compute"] == "RUNNING"
