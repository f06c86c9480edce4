"""What a node is given: its script, its environment and RayDog itself."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ray._private import ray_constants

from raydog.autoscaler import scripts
from raydog.autoscaler.carry import archive
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import (
    HEAD_DIGESTS,
    LAUNCH_TAGS,
    NODE_ID,
    changed_parts,
    digests,
    head_environment,
    launch_tags,
    worker_environment,
)
from raydog.errors import ConfigError, StateError
from raydog.yellowdog.records import ClusterRecord, NodeRecord

CONFIG = ClusterConfig(cluster_name="demo", namespace="tests")
CLUSTER = ClusterRecord(
    "requirement", "demo-abcdefgh", "abcdefgh", "tests", "RUNNING", datetime(2030, 1, 1, tzinfo=timezone.utc)
)


def record(environment: dict[str, str]) -> NodeRecord:
    return NodeRecord("a", "task", "group", "EXECUTING", environment=environment)


@pytest.mark.parametrize("make", [scripts.head_task, scripts.worker_task])
@pytest.mark.parametrize("own", [None, "#!/bin/bash\necho \"it's $HOME\" 'quoted' `tick`\n"])
def test_tasks_are_bash_and_hold_the_script_as_it_is(make: object, own: str | None) -> None:
    task = make(own)  # type: ignore[operator]
    subprocess.run(["bash", "-n"], input=task, text=True, check=True)
    assert own is None or own.rstrip() in task


def test_script_with_the_wrappers_own_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="RAYDOG_END_OF_NODE_SCRIPT"):
        scripts.worker_task("true\nRAYDOG_END_OF_NODE_SCRIPT\ntrue")


def worker(config: ClusterConfig = CONFIG) -> dict[str, str]:
    return worker_environment(
        config,
        CLUSTER,
        "node-1",
        "gpu",
        {"kind": "worker"},
        head_ip="10.0.0.1",
        resources={"GPU": 2},
        labels={"a": "b"},
    )


def test_worker_knows_who_it_is_and_what_it_offers() -> None:
    environment = worker()
    assert environment[NODE_ID] == "node-1"
    assert environment["RAY_NODE_TYPE_NAME"] == "gpu"
    assert environment["RAY_HEAD_IP"] == "10.0.0.1"
    assert json.loads(environment["RAY_OVERRIDE_RESOURCES"]) == {"GPU": 2}
    assert json.loads(environment["RAY_OVERRIDE_LABELS"]) == {"a": "b"}
    assert launch_tags(record(environment)) == {"kind": "worker"}


def test_only_workers_that_updaters_set_up_wait_for_a_go() -> None:
    assert worker()["RAYDOG_AWAIT_GO"] == "1"
    assert "RAYDOG_AWAIT_GO" not in worker(replace(CONFIG, node_updaters=False))


def test_worker_that_is_told_to_end_drains_itself_for_less_time_than_an_agent_gives_it() -> None:
    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    assert hasattr(ray_constants, name), "Ray has the setting under another name"
    assert 0 < float(worker()[name]) <= 5
    assert head_environment(CONFIG, CLUSTER, "head-1", "head", {}, {})[name] == "0"


def test_head_gets_the_launch_timeout_as_rays_own_setting() -> None:
    config = replace(CONFIG, node_launch_timeout=timedelta(minutes=2))
    name = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
    assert head_environment(config, CLUSTER, "head-1", "head", {}, {})[name] == "120"
    assert name not in head_environment(CONFIG, CLUSTER, "head-1", "head", {}, {})


def test_head_launches_many_batches_at_once() -> None:
    environment = head_environment(CONFIG, CLUSTER, "head-1", "head", {}, {})
    batch, at_once = (int(environment[f"AUTOSCALER_MAX_{what}"]) for what in ("LAUNCH_BATCH", "CONCURRENT_LAUNCHES"))
    # Ray has as many launch threads as batches fit (`BaseNodeLauncher`'s pool, `NodeProviderAdapter`'s executor)
    assert at_once // batch >= 10


@pytest.mark.parametrize("v2", [True, False])
def test_head_runs_the_autoscaler_that_the_client_chose(v2: bool) -> None:
    environment = head_environment(replace(CONFIG, autoscaler_v2=v2), CLUSTER, "head-1", "head", {}, {})
    assert environment["RAY_enable_autoscaler_v2"] == str(int(v2))


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_unreadable_launch_tags_are_none(text: str) -> None:
    assert launch_tags(record({LAUNCH_TAGS: text})) == {}


def test_changed_parts_of_a_head_are_named() -> None:
    had = digests({"template": "a", "images_id": "x"}, {"ssh_user": "yd-agent"})
    head = record({HEAD_DIGESTS: json.dumps(had)})
    assert changed_parts(head, had) == []
    wanted = digests({"template": "b"}, {"ssh_user": "yd-agent"})
    assert changed_parts(head, wanted) == ["node_config.images_id", "node_config.template"]
    with pytest.raises(StateError):
        changed_parts(record({HEAD_DIGESTS: "{"}), had)


def test_archive_holds_what_a_head_needs_and_imports_there(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path, filter="data")
    assert "raydog/autoscaler/provider.py" in names
    assert any(name.endswith(".sh") for name in names)
    assert not [name for name in names if name.startswith(("raydog/emulator", "raydog/demo")) or "__pycache__" in name]
    code = "import raydog.autoscaler.on_head as m, yellowdog_ray.raydog.autoscaler as y; print(m.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_archive_is_the_same_for_the_same_code() -> None:
    first = archive()
    archive.cache_clear()
    assert archive() == first


def test_carried_code_is_readable_by_every_supported_python() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            if file is not None and member.name.endswith(".py"):
                ast.parse(file.read(), member.name, feature_version=(3, 10))
