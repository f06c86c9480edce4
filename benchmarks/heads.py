"""Heads without machines: clusters on a simulated platform, and beside each the process that Ray's monitor would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis

from benchmarks import floor
from raydog.autoscaler.environment import CLUSTER_ID, LAUNCH_TAGS, NODE_ID, REQUIREMENT_ID, ROLE
from raydog.emulator.daemon import Running
from raydog.waiting import Pending, Ready, wait_until
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeRecord, NodeRequest, PoolRequest
from tests.support.reference import ReferenceMissingError, reference_environment
from tests.support.servers import RedisServer

BATCH = 1000
"""What a head of RayDog's tells Ray: nodes in one launch. The others are given the same, Ray's own default is 5."""
_ROOT = Path(__file__).parents[1]
_PROGRAM = _ROOT / "benchmarks" / "loop"
_HOUR = timedelta(hours=1)
_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def peer_environment() -> Path | None:
    """The reference implementation's environment; None, with a word why, where it cannot be had."""
    try:
        return reference_environment()
    except (ReferenceMissingError, subprocess.TimeoutExpired) as error:
        print(f"no peer to compare with: {error}", file=sys.stderr)
        return None


class Monitor:
    """A process with a provider (`benchmarks.loop`)."""

    def __init__(self, python: str, folder: Path, environment: Mapping[str, str], loop: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "YD_", "PYTHON"))}
        self._log = folder / "monitor.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, str(_PROGRAM), f"--autoscaling-config={folder / 'ray_bootstrap_config.yaml'}"],
                cwd=folder,
                env={**clean, "NO_PROXY": "*", "HOME": str(folder), **environment, "LOOP": json.dumps(loop)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def do(self, command: str, **arguments: Any) -> Any:
        """What the process answers. RuntimeError with its log if it has ended instead."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # its log says why
            process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{command} failed:\n{self._log.read_text(encoding='utf-8')[-2000:]}")
        return json.loads(answer)

    def close(self) -> None:
        """End it; one that does not end by itself is killed."""
        with suppress(BrokenPipeError):  # it has ended with a command unread
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def ours(emulator: Running, folder: Path, namespace: str) -> Iterator[Monitor]:
    """RayDog's provider, with its tags in a Redis of its own."""
    cluster, head = _cluster(emulator, namespace, "")
    with _redis(folder) as server:
        provider = {
            "type": "external",
            "module": "raydog.autoscaler.RayDogNodeProvider",
            "cluster_namespace": namespace,
            "head_node_tag_server_port": server.port,
            "disable_node_updaters": True,
        }
        environment = {
            **emulator.environment,
            ROLE: "head",
            REQUIREMENT_ID: cluster.requirement_id,
            CLUSTER_ID: cluster.cluster_id,
            NODE_ID: head.name,
            LAUNCH_TAGS: head.environment[LAUNCH_TAGS],
            "RAY_enable_autoscaler_v2": "1",
            "PYTHONPATH": str(_ROOT),
        }
        config = _config("bench", provider)
        loop = {"module": "raydog.autoscaler", "name": "RayDogNodeProvider", "config": config, "batch": BATCH}
        with _monitor(sys.executable, folder, environment, loop) as monitor:
            yield monitor


@contextmanager
def peers(emulator: Running, reference: Path, folder: Path, namespace: str) -> Iterator[Monitor]:
    """The reference implementation's provider, likewise."""
    _, head = _cluster(emulator, namespace, "head")
    with _redis(folder) as server:
        with redis.Redis(port=server.port) as tags:  # as its `ray up` leaves them
            tags.hset(f"bench:{head.task_id}", mapping=json.loads(head.environment[LAUNCH_TAGS]))
        provider = {
            "type": "external",
            "module": "yellowdog_ray.raydog.autoscaler.RayDogNodeProvider",
            "cluster_namespace": namespace,
            "head_node_tag_server_port": server.port,
            "ray_worker_node_task_script": "sleep infinity",
        }
        environment = {**emulator.environment, "USER": "yd-agent", "LOGNAME": "yd-agent"}
        config = _config("bench", provider)
        module = "yellowdog_ray.raydog.autoscaler"
        loop = {"module": module, "name": "RayDogNodeProvider", "config": config, "batch": BATCH}
        with _monitor(str(reference / "bin" / "python"), folder, environment, loop) as monitor:
            yield monitor


@contextmanager
def floors(folder: Path) -> Iterator[Monitor]:
    """A provider that has all it is asked for in memory, and asks nobody."""
    config = _config("bench", {"type": "external"})
    loop = {"module": floor.__name__, "name": "MemoryProvider", "config": config, "batch": BATCH}
    with _monitor(sys.executable, folder, {"PYTHONPATH": str(_ROOT)}, loop) as monitor:
        yield monitor


@contextmanager
def _monitor(python: str, folder: Path, environment: Mapping[str, str], loop: dict[str, Any]) -> Iterator[Monitor]:
    monitor = Monitor(python, folder, environment, loop)
    try:
        yield monitor
    finally:
        monitor.close()


@contextmanager
def _redis(folder: Path) -> Iterator[RedisServer]:
    folder.mkdir(parents=True, exist_ok=True)
    with RedisServer(folder) as server:
        yield server


def _config(name: str, provider: dict[str, Any]) -> dict[str, Any]:
    template = {"head": "local/head", "worker": "local/worker"}
    types = {
        key: {"resources": {"CPU": 1}, "node_config": {"compute_requirement_template": value}, "max_workers": 10_000}
        for key, value in template.items()
    }
    return {
        "cluster_name": name,
        "provider": provider,
        "auth": {},
        "available_node_types": types,
        "head_node_type": "head",
        "max_workers": 10_000,
        "file_mounts": {},
        **{key: [] for key in _LISTS},
    }


def _cluster(emulator: Running, namespace: str, tag: str) -> tuple[ClusterRecord, NodeRecord]:
    """A cluster whose head's task executes. Both providers find such a one, by its name."""
    gateway = Gateway(Credentials(emulator.url, emulator.key_id, emulator.key_secret))
    with ExitStack() as stack:
        stack.callback(gateway.close)
        cluster = clusters.add_cluster(gateway, ClusterName(namespace, "bench"), tag or None, "head", _HOUR)
        group = cluster.group(clusters.HEAD_GROUP)
        assert group is not None
        name = naming.node_name("bench", cluster.cluster_id, "head", naming.new_suffix())
        tags = {"ray-node-type": "head", "ray-node-status": "uninitialized", "ray-user-node-type": "head"}
        request = NodeRequest(name, "sleep infinity", {LAUNCH_TAGS: json.dumps(tags), NODE_ID: name}, 3600)
        head = gateway.add_nodes(group.group_id, [request])[0]
        pool = PoolRequest(
            name=naming.pool_name("bench", cluster.cluster_id, "head"),
            template="local/head",
            worker_tag=naming.worker_tag(cluster.cluster_id, "head"),
            initial_nodes=1,
            max_nodes=1,
        )
        gateway.add_pool(namespace, pool)

        def executes() -> Ready[None] | Pending:
            status = gateway.get_node(head.task_id).status
            return Ready(None) if status == "EXECUTING" else Pending(f"the head's task is {status}")

        wait_until(executes, 30.0, interval=0.02)
    return cluster, head
