"""Names on the platform: legal, distinct, and readable back to their cluster."""

from __future__ import annotations

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raydog.yellowdog import naming

CLUSTERS = st.from_regex(r"\A[A-Za-z]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?\Z")
NODE_TYPES = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?\Z")
CLUSTER_ID = "a1b2c3d4"


@pytest.mark.parametrize("name", ["a", "demo", "a-b_c9", "x" * 60])
def test_names_that_the_platform_takes(name: str) -> None:
    assert naming.check_name(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("x" * 61, "61 characters"),
        ("Demo", "'D'"),
        ("my cluster", "' '"),
        ("9lives", "begin"),
        ("demo-", "end"),
        ("demo\n", r"'\n'"),
    ],
)
def test_names_that_the_platform_refuses_come_with_the_reason(name: str, reason: str) -> None:
    assert reason in (naming.check_name(name) or "")


@given(CLUSTERS, NODE_TYPES)
def test_every_name_made_is_legal(cluster: str, node_type: str) -> None:
    assume(naming.check_cluster_name(cluster) is None and naming.check_node_type(node_type) is None)
    for name in (
        naming.requirement_name(cluster, CLUSTER_ID),
        naming.pool_name(cluster, CLUSTER_ID, node_type),
        naming.node_name(cluster, CLUSTER_ID, node_type, naming.new_suffix()),
        naming.worker_tag(CLUSTER_ID, node_type),
    ):
        assert naming.check_name(name) is None, name


@given(CLUSTERS, CLUSTERS)
def test_two_clusters_never_share_a_requirement_name_nor_find_each_other(one: str, other: str) -> None:
    assume(one != other)
    assert naming.cluster_slug(one) != naming.cluster_slug(other)
    found = naming.parse_requirement_name(naming.requirement_name(one, CLUSTER_ID))
    assert found == (naming.cluster_slug(one), CLUSTER_ID)


@given(NODE_TYPES, NODE_TYPES)
def test_two_node_types_never_share_a_pool(one: str, other: str) -> None:
    assume(one != other)
    assert naming.pool_name("demo", CLUSTER_ID, one) != naming.pool_name("demo", CLUSTER_ID, other)
    assert naming.worker_tag(CLUSTER_ID, one) != naming.worker_tag(CLUSTER_ID, other)


@pytest.mark.parametrize(("one", "other"), [("demo", "Demo"), ("demo", "demo-2"), ("a.b", "a-b"), ("DEMO", "Demo")])
def test_neighbours_have_different_slugs(one: str, other: str) -> None:
    assert naming.cluster_slug(one) != naming.cluster_slug(other)


def test_names_people_choose_stay_readable() -> None:
    assert naming.requirement_name("demo", CLUSTER_ID) == "demo-a1b2c3d4"
    assert naming.pool_name("demo", CLUSTER_ID, "ray_worker_small") == "demo-a1b2c3d4-ray_worker_small"
    assert naming.node_name("demo", CLUSTER_ID, "worker", "zzzzzzzz") == "demo-a1b2c3d4-worker-zzzzzzzz"
    assert naming.pool_name("demo", CLUSTER_ID, "ray.head.default").startswith("demo-a1b2c3d4-ray-head-default-")


def test_a_name_is_the_same_in_every_process() -> None:
    assert naming.cluster_slug("Demo") == "demo-8a2cc0"  # a live cluster must be found by tomorrow's RayDog


@given(st.integers(1, 49))
def test_cluster_and_node_type_of_fifty_characters_together_fit(length: int) -> None:
    cluster, node_type = "c" * length, "t" * (50 - length)
    assert naming.check_cluster_name(cluster) is None
    assert naming.pool_name(cluster, CLUSTER_ID, node_type) == f"{cluster}-{CLUSTER_ID}-{node_type}"
    assert naming.check_name(naming.node_name(cluster, CLUSTER_ID, node_type, "zzzzzzzz")) is None


@pytest.mark.parametrize("name", ["demo", "demo-short", "demo-TOOUPPER", "-a1b2c3d4"])
def test_a_name_of_somebody_else_is_not_read_as_ours(name: str) -> None:
    assert naming.parse_requirement_name(name) is None


def test_a_cluster_called_like_anothers_requirement_is_told_apart() -> None:
    inner = naming.requirement_name("demo", CLUSTER_ID)
    assert naming.parse_requirement_name(naming.requirement_name(inner, "zzzzzzzz")) == (inner, "zzzzzzzz")


@pytest.mark.parametrize("name", ["", "my cluster", "9lives", "demo-", "ümlaut", "c" * 50])
def test_cluster_names_that_cannot_be(name: str) -> None:
    assert naming.check_cluster_name(name) is not None


@pytest.mark.parametrize("name", ["", "a b", "-x", "x."])
def test_node_type_names_that_cannot_be(name: str) -> None:
    assert naming.check_node_type(name) is not None


def test_random_parts_are_of_the_platforms_alphabet_and_do_not_repeat() -> None:
    ids = {naming.new_cluster_id() for _ in range(1000)} | {naming.new_suffix() for _ in range(1000)}
    assert len(ids) == 2000
    assert set("".join(ids)) <= set(string.ascii_lowercase + string.digits)
    assert {len(i) for i in ids} == {8}
