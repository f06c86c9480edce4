"""A program written for PyPI's ``yellowdog-ray`` 2.0.0 does the same there and on RayDog, without a change."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raydog.emulator import Emulator
from raydog.emulator.templates import Template
from tests.support.reference import dialogue, require_reference

PROGRAM = """
import json, os
from datetime import timedelta

from yellowdog_client.model import TaskSearch
from yellowdog_ray.raydog.builder import RayDogCluster, RayDogClusterProxy
from yellowdog_ray.utils.ray_ssh_tunnels import RayTunnels, SSHTunnelSpec

key_id, secret, url = (os.environ[name] for name in ("YD_API_KEY_ID", "YD_API_KEY_SECRET", "YD_API_URL"))


def tell(**facts):
    step(json.dumps(facts))


def refused(method, *arguments, **named):
    "The built-in errors, of those that documents promise, that a call raises; none if it does not raise."
    try:
        method(*arguments, **named)
    except Exception as error:
        promised = (ValueError, TimeoutError)
        return [kind.__name__ for kind in promised if isinstance(error, kind)] or ["Exception"]
    return []


def tasks(cluster):
    found = cluster.yd_client.work_client.find_tasks(TaskSearch(workRequirementId=cluster.work_requirement_id))
    return [cluster.yd_client.work_client.get_task_by_id(one.id) for one in found]


# Every argument by its place, then a life with observability.

cluster = RayDogCluster(
    key_id, secret, "by-place", "tests", "local/head", "echo head", url, "a-tag", None, "#!/bin/bash", {"use": "head"},
    False, True, "local/worker", {"use": "watch"}, None, "#!/bin/bash", False, "echo watch", timedelta(hours=1),
)
before = cluster.add_worker_pool("local/worker", "echo worker", 2)
cluster.add_worker_pool("local/head", "echo other", 1, "other", None, "#!/bin/bash", {"use": "work"}, False)
cluster.add_worker_pool("local/head", "echo never", 1, "never")
cluster.remove_worker_pool_by_internal_name("never")
unsaved = refused(cluster.save_state_to_json)
twice = refused(cluster.add_worker_pool, "local/worker", "echo worker", 1, "other")
none = refused(cluster.add_worker_pool, "local/worker", "echo worker", 0)
unknown = refused(cluster.remove_worker_pool_by_internal_name, "nobody")
private, public = cluster.build(timedelta(minutes=5))
environments = {task.taskData: task.environment or {} for task in tasks(cluster)}
worker = environments["echo worker"]
tell(
    before=before, unsaved=unsaved, twice=twice, none=none, unknown=unknown,
    addresses=[private == cluster.head_node_private_ip, public == cluster.head_node_public_ip, bool(private)],
    names=cluster.worker_pool_internal_names,
    ids=[one == cluster.worker_node_worker_pools[name].worker_pool_id for one, name in
         zip(cluster.worker_pool_ids, cluster.worker_pool_internal_names)],
    known=[cluster.get_worker_pool_internal_name_by_id(one) for one in (*cluster.worker_pool_ids, "nobody")],
    set=[bool(getattr(cluster, name)) for name in (
        "work_requirement_id", "head_node_worker_pool_id", "head_node_node_id", "head_node_task_id",
        "enable_observability", "observability_node_id", "observability_node_private_ip",
        "observability_node_worker_pool_id", "observability_node_task_id")],
    scripts=sorted(task.taskData for task in tasks(cluster)),
    worker=[worker["RAY_HEAD_IP"] == private, worker["RAY_HEAD_NODE_PRIVATE_IP"] == private,
            worker["OBSERVABILITY_HOST"] == cluster.observability_node_private_ip],
    head=environments["echo head"]["OBSERVABILITY_HOST"] == cluster.observability_node_private_ip,
)

state = json.loads(cluster.save_state_to_json())
cluster.save_state_to_json_file("state.json")
with open("state.json") as file:
    same = json.load(file) == state
pools = [*cluster.worker_pool_ids, cluster.head_node_worker_pool_id, cluster.observability_node_worker_pool_id]
again = refused(cluster.build)
added = cluster.add_worker_pool(
    worker_node_compute_requirement_template_id="local/worker", worker_node_task_script="echo late",
    worker_pool_node_count=3, worker_pool_internal_name="late", worker_node_images_id=None,
    worker_node_userdata=None, worker_node_instance_tags=None, worker_node_metrics_enabled=None,
)
tell(
    fields=list(state)[:5], values=[state["cluster_namespace"], state["cluster_tag"]], same=same,
    requirement=state["work_requirement_id"] == cluster.work_requirement_id, order=state["worker_pool_ids"] == pools,
    again=again, late=cluster.get_worker_pool_internal_name_by_id(added),
    heads=[task.environment["RAY_HEAD_IP"] == private for task in tasks(cluster) if task.taskData == "echo late"],
)

cluster.remove_worker_pool(cluster.worker_node_worker_pools["worker-nodes-01"].worker_pool_id)
cluster.remove_worker_pool_by_internal_name("other")
tell(names=cluster.worker_pool_internal_names, unknown=refused(cluster.remove_worker_pool, pools[0]))

cluster.shut_down()
cluster.shut_down()
tell(
    build=refused(cluster.build), add=refused(cluster.add_worker_pool, "local/worker", "echo worker", 1),
    remove=refused(cluster.remove_worker_pool, added), save=refused(cluster.save_state_to_json),
)

# Every argument by its name; ended by a proxy.

cluster = RayDogCluster(
    yd_application_key_id=key_id, yd_application_key_secret=secret, cluster_name="by-name",
    cluster_namespace="tests", head_node_compute_requirement_template_id="local/head",
    head_node_ray_start_script="echo head", yd_platform_api_url=url, cluster_tag=None, head_node_images_id=None,
    head_node_userdata=None, head_node_instance_tags=None, head_node_metrics_enabled=None, enable_observability=False,
    observability_node_compute_requirement_template_id=None, observability_node_instance_tags=None,
    observability_node_images_id=None, observability_node_userdata=None, observability_node_metrics_enabled=None,
    observability_node_start_script=None, cluster_lifetime=None,
)
cluster.add_worker_pool("local/worker", "echo worker", 2)
cluster.build(head_node_build_timeout=timedelta(minutes=5))
saved = cluster.save_state_to_json()
proxy = RayDogClusterProxy(
    yd_application_key_id=key_id, yd_application_key_secret=secret, yd_platform_api_url=url
)
empty = refused(proxy.shut_down)
proxy.load_saved_state_from_json(saved)
tell(watched=cluster.observability_node_private_ip if cluster.enable_observability else None, empty=empty)
proxy.shut_down()
tell(again=refused(proxy.shut_down))

# What cannot be.

watch = refused(RayDogCluster, key_id, secret, "w", "tests", "local/head", "echo head", url, enable_observability=True)
late = RayDogCluster(key_id, secret, "too-late", "tests", "cloud/never", "echo head", url)
late.add_worker_pool("local/worker", "echo worker", 1)
tell(watch=watch, late=refused(late.build, timedelta(0)))

tunnels = RayTunnels("10.0.0.1", "yd-agent", None, "key", None, [SSHTunnelSpec("localhost", 1234, "localhost", 10001)])
tunnels.stop_tunnels()
tunnels.stop_tunnels(ignore_errors=False)
RayTunnels(ray_head_ip_address="10.0.0.1", ssh_user="yd-agent", password="a", private_key_file=None,
           private_key_password=None, ray_tunnel_specs=None)
spec = SSHTunnelSpec(
    local_bind_hostname="a", local_bind_ip_address=1, remote_bind_hostname="b", remote_bind_ip_address=2
)
tell(
    basic=RayTunnels.basic_port_forward(8265) == SSHTunnelSpec("localhost", 8265, "localhost", 8265),
    spec=[spec.local_bind_hostname, spec.local_bind_ip_address, spec.remote_bind_hostname, spec.remote_bind_ip_address],
)
"""


@pytest.fixture(params=["raydog", "yellowdog-ray 2.0.0"])
def python_environment(request: pytest.FixtureRequest) -> Path:
    """Where the program finds ``yellowdog_ray``: RayDog's, or the package itself."""
    return Path(sys.prefix) if request.param == "raydog" else require_reference()


def machines(emulator: Emulator) -> Counter[str]:
    """How many live instances there are of each type."""
    return Counter(one["instanceType"] for one in emulator.status()["instances"])


def left(emulator: Emulator) -> dict[str, int]:
    status = emulator.status()
    kinds = ("liveInstances", "unfinishedPools", "unfinishedWorkRequirements", "unfinishedTasks")
    return {kind: status[kind] for kind in kinds if status[kind]}


def test_old_program_runs_unchanged(python_environment: Path, tmp_path: Path) -> None:
    with (
        Emulator(templates=[Template("cloud/never", boots=False)]) as emulator,
        dialogue(python_environment, tmp_path, PROGRAM, emulator.environment) as program,
    ):

        def hear() -> dict[str, Any]:
            facts: dict[str, Any] = json.loads(program.hear())
            return facts

        built = hear()
        assert built == {
            "before": None,
            "unsaved": ["Exception"],
            "twice": built["twice"],
            "none": ["ValueError"],
            "unknown": ["Exception"],
            "addresses": [True, True, True],
            "names": ["worker-nodes-01", "other"],
            "ids": [True, True],
            "known": ["worker-nodes-01", "other", None],
            "set": [True] * 9,
            "scripts": ["echo head", "echo other", "echo watch", "echo worker", "echo worker"],
            "worker": [True, True, True],
            "head": True,
        }
        assert built["twice"]  # ours says ValueError, which is an Exception too
        assert machines(emulator) == {"local.head": 2, "local.worker": 3}

        program.go_on()
        assert hear() == {
            "fields": ["cluster_name", "cluster_namespace", "cluster_tag", "work_requirement_id", "worker_pool_ids"],
            "values": ["tests", "a-tag"],
            "same": True,
            "requirement": True,
            "order": True,
            "again": ["Exception"],
            "late": "late",
            "heads": [True, True, True],
        }
        assert machines(emulator) == {"local.head": 2, "local.worker": 6}

        program.go_on()
        assert hear() == {"names": ["late"], "unknown": ["Exception"]}
        assert machines(emulator) == {"local.head": 1, "local.worker": 4}

        program.go_on()
        assert hear() == {name: ["Exception"] for name in ("build", "add", "remove", "save")}
        assert left(emulator) == {}

        program.go_on()
        assert hear() == {"watched": None, "empty": ["Exception"]}
        assert machines(emulator) == {"local.head": 1, "local.worker": 2}
        program.go_on()
        assert hear() == {"again": ["Exception"]}
        assert left(emulator) == {}

        program.go_on()
        assert hear() == {"watch": ["ValueError"], "late": ["TimeoutError"]}
        assert left(emulator) == {}

        program.go_on()
        assert hear() == {"basic": True, "spec": ["a", 1, "b", 2]}
        program.end()
