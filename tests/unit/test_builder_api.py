"""The builder's public interface: what programs written for yellowdog-ray call, by its names, order and defaults."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from raydog.builder import RayDogCluster, RayDogClusterProxy

API = "https://api.yellowdog.ai"
REQUIRED = inspect.Parameter.empty

CONSTRUCTOR = {
    "yd_application_key_id": REQUIRED,
    "yd_application_key_secret": REQUIRED,
    "cluster_name": REQUIRED,
    "cluster_namespace": REQUIRED,
    "head_node_compute_requirement_template_id": REQUIRED,
    "head_node_ray_start_script": REQUIRED,
    "yd_platform_api_url": API,
    "cluster_tag": None,
    "head_node_images_id": None,
    "head_node_userdata": None,
    "head_node_instance_tags": None,
    "head_node_metrics_enabled": None,
    "enable_observability": False,
    "observability_node_compute_requirement_template_id": None,
    "observability_node_instance_tags": None,
    "observability_node_images_id": None,
    "observability_node_userdata": None,
    "observability_node_metrics_enabled": None,
    "observability_node_start_script": None,
    "cluster_lifetime": None,
}
METHODS: dict[str, dict[str, Any]] = {
    "__init__": CONSTRUCTOR,
    "add_worker_pool": {
        "worker_node_compute_requirement_template_id": REQUIRED,
        "worker_node_task_script": REQUIRED,
        "worker_pool_node_count": REQUIRED,
        "worker_pool_internal_name": None,
        "worker_node_images_id": None,
        "worker_node_userdata": None,
        "worker_node_instance_tags": None,
        "worker_node_metrics_enabled": None,
    },
    "build": {"head_node_build_timeout": None},
    "remove_worker_pool": {"worker_pool_id": REQUIRED},
    "remove_worker_pool_by_internal_name": {"internal_name": REQUIRED},
    "get_worker_pool_internal_name_by_id": {"worker_pool_id": REQUIRED},
    "shut_down": {},
    "save_state_to_json": {},
    "save_state_to_json_file": {"file_name": REQUIRED},
}
PROXY_METHODS: dict[str, dict[str, Any]] = {
    "__init__": {"yd_application_key_id": REQUIRED, "yd_application_key_secret": REQUIRED, "yd_platform_api_url": API},
    "load_saved_state_from_json": {"cluster_state": REQUIRED},
    "load_saved_state_from_json_file": {"file_name": REQUIRED},
    "shut_down": {},
}
ATTRIBUTES = {
    "yd_client", "work_requirement_id", "head_node_worker_pool_id", "head_node_node_id", "head_node_private_ip",
    "head_node_public_ip", "head_node_task_id", "worker_node_worker_pools", "enable_observability",
    "observability_node_id", "observability_node_private_ip", "observability_node_worker_pool_id",
    "observability_node_task_id", "worker_pool_ids", "worker_pool_internal_names",
}  # fmt: skip


def positional(function: Any) -> dict[str, Any]:
    """The parameters that a program may give by position, in order; ours beside them must be by keyword only."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    more = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert all(one.default is not REQUIRED for one in more)
    return {one.name: one.default for one in parameters if one not in more}


@pytest.mark.parametrize("path", ["raydog.builder", "yellowdog_ray.raydog.builder"])
@pytest.mark.parametrize(("kind", "methods"), [("RayDogCluster", METHODS), ("RayDogClusterProxy", PROXY_METHODS)])
def test_methods_take_what_they_always_took(path: str, kind: str, methods: dict[str, dict[str, Any]]) -> None:
    found = getattr(importlib.import_module(path), kind)
    for name, wanted in methods.items():
        parameters = positional(getattr(found, name))
        assert list(parameters.items()) == list(wanted.items()), name


def test_old_import_path_has_the_same_objects() -> None:
    old = importlib.import_module("yellowdog_ray.raydog.builder")
    assert (old.RayDogCluster, old.RayDogClusterProxy) == (RayDogCluster, RayDogClusterProxy)


@pytest.mark.parametrize("observability", [False, True])
def test_attributes_are_there_before_anything_is_built_and_the_platform_is_not_called(observability: bool) -> None:
    cluster = RayDogCluster(
        "id",
        "secret",
        "demo",
        "tests",
        "local/head",
        "true",
        "http://127.0.0.1:9",
        enable_observability=observability,
        observability_node_compute_requirement_template_id="local/worker",
        observability_node_start_script="true",
    )
    for name in ATTRIBUTES - {"yd_client"}:
        assert getattr(cluster, name) in (None, {}, [], observability), name
    assert isinstance(inspect.getattr_static(cluster, "yd_client"), property)
    assert cluster.add_worker_pool("local/worker", "true", 1) is None
    assert cluster.worker_node_worker_pools["worker-nodes-01"].worker_pool_id is None
    assert cluster.worker_pool_ids == []


def test_public_methods_and_attributes_are_documented() -> None:
    for kind in (RayDogCluster, RayDogClusterProxy):
        for name, member in vars(kind).items():
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{kind.__name__}.{name}"
