"""What a program asks for is checked before anything costs money."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydog.builder import RayDogCluster, RayDogClusterProxy, arguments
from raydog.errors import ConfigError, CredentialsError
from raydog.yellowdog import naming

CLUSTER_ID = "a1b2c3d4"
KEY = ("yd_application_key_id", "yd_application_key_secret")
NAMES = st.from_regex(r"\A[A-Za-z]([A-Za-z0-9._-]{0,70}[A-Za-z0-9])?\Z")


def cluster(**changed: Any) -> RayDogCluster:
    wanted: dict[str, Any] = {
        "yd_application_key_id": "id",
        "yd_application_key_secret": "secret",
        "cluster_name": "demo",
        "cluster_namespace": "tests",
        "head_node_compute_requirement_template_id": "local/head",
        "head_node_ray_start_script": "true",
    }
    return RayDogCluster(**(wanted | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster_name": "my cluster"}, "cluster_name: contains ' '"),
        ({"cluster_name": ""}, "cluster_name: is missing or empty"),
        ({"cluster_namespace": "My"}, "cluster_namespace: contains 'M'"),
        ({"head_node_compute_requirement_template_id": None}, "template_id: is missing or empty"),
        ({"head_node_ray_start_script": 5}, "start_script: must be a text, not int"),
        ({"head_node_instance_tags": {"a": 1}}, "head_node_instance_tags: must be a dictionary of texts"),
        ({"head_node_metrics_enabled": "yes"}, "head_node_metrics_enabled: must be True"),
        ({"cluster_lifetime": timedelta(0)}, "cluster_lifetime: must be"),
        ({"cluster_lifetime": 3600}, "cluster_lifetime: must be"),
        ({"enable_observability": True}, "observability_node_compute_requirement_template_id: is missing"),
        ({"yd_platform_api_url": "api.yellowdog.ai"}, "yd_platform_api_url"),
    ],
)
def test_wrong_arguments_are_value_errors_that_name_them(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        cluster(**changed)
    assert isinstance(caught.value, ConfigError)


def test_all_faults_come_together() -> None:
    with pytest.raises(ConfigError) as caught:
        cluster(cluster_name="?", cluster_namespace="?", head_node_ray_start_script="")
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("kind", [RayDogClusterProxy, lambda *key: cluster(**dict(zip(KEY, key, strict=True)))])
@pytest.mark.parametrize("key", [(None, "secret"), ("id", ""), ("id", None)])
def test_a_key_that_is_missing_is_said_at_once(kind: Any, key: tuple[Any, Any]) -> None:
    with pytest.raises(CredentialsError, match="yd_application_key"):
        kind(*key)


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3", 10_001])
def test_counts_that_cannot_be(count: Any) -> None:
    with pytest.raises(ValueError, match="worker_pool_node_count"):
        cluster().add_worker_pool("local/worker", "true", count)


def test_internal_names_are_unique_and_those_left_out_are_numbered() -> None:
    made = cluster()
    made.add_worker_pool("local/worker", "true", 1)
    made.add_worker_pool("local/worker", "true", 1, "GPU pool")
    made.add_worker_pool("local/worker", "true", 1)
    made.add_worker_pool("local/worker", "true", 1, "worker-nodes-05")
    made.add_worker_pool("local/worker", "true", 1)
    assert made.worker_pool_internal_names == [
        "worker-nodes-01", "GPU pool", "worker-nodes-03", "worker-nodes-05", "worker-nodes-06",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="'GPU pool' is in use already"):
        made.add_worker_pool("local/worker", "true", 1, "GPU pool")
    labels = [pool.label for pool in made.worker_node_worker_pools.values()]
    assert len(set(labels)) == 5
    assert labels[1].startswith("02-gpu-pool-")


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(vars(cluster()))


@given(NAMES, st.lists(st.text(min_size=1, max_size=80), min_size=2, max_size=4))
def test_every_name_on_the_platform_is_legal_and_pools_never_share_one(name: str, internal: list[str]) -> None:
    short = arguments.short_name(name)
    assert naming.check_cluster_name(short) is None
    labels = [arguments.pool_label(short, number, one) for number, one in enumerate([*internal, *internal], start=1)]
    labels += ["head", "observability"]
    pools = [naming.pool_name(short, CLUSTER_ID, label) for label in labels]
    tags = [naming.worker_tag(CLUSTER_ID, label, naming.Maker.BUILDER) for label in labels]
    assert len(set(pools)) == len(set(tags)) == len(labels)
    for one in (*pools, *tags, naming.requirement_name(short, CLUSTER_ID)):
        assert naming.check_name(one) is None, one
    for label in labels:
        assert naming.check_name(naming.node_name(short, CLUSTER_ID, label, "zzzzzzzz")) is None


def test_a_long_name_is_shortened_and_stays_itself() -> None:
    one, other = "x" * 60, "x" * 61
    assert arguments.short_name("demo") == "demo"
    assert arguments.short_name(one) == arguments.short_name(one) != arguments.short_name(other)
