"""A provider as on a head: in the environment of the head's task, on a simulated platform, behind Ray's own adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UNINITIALIZED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, IConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

from raydog.autoscaler import on_head
from raydog.autoscaler.capacity import Patience
from raydog.autoscaler.environment import CLUSTER_ID, LAUNCH_TAGS, NODE_ID, REQUIREMENT_ID, ROLE
from raydog.autoscaler.failures import Failure, read_failures
from raydog.autoscaler.last_words import port_for
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.emulator import Emulator
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeRecord, NodeRequest, PoolRequest
from tests.support.servers import eventually, free_port

NAMESPACE = "tests"
_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
PACE = on_head.Pace(
    changes=0.03,
    full_sweep=0.2,
    longest_pause=0.05,
    first_look=10.0,
    waiting=0.1,
    patience=Patience(confirm=0.1, silent=1.0, unused=0.1, rest=2.0),
)
WORKER = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_STATUS: STATUS_UNINITIALIZED}


class _Reader(IConfigReader):  # type: ignore[misc]
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = AutoscalingConfig(config, skip_content_hash=True)

    def get_cached_autoscaling_config(self) -> Any:
        return self._config

    def refresh_cached_autoscaling_config(self) -> None:
        """It is never changed."""


class HeadRoom:
    """A cluster with an executing head on ``emulator``, and providers as Ray's monitor on that head makes them."""

    def __init__(
        self,
        emulator: Emulator,
        monkeypatch: pytest.MonkeyPatch,
        home: Path,
        *,
        name: str = "demo",
        templates: Mapping[str, Any] | None = None,
        tag_port: int | None = None,
        lifetime: timedelta = timedelta(hours=1),
        v2: bool = True,
        **provider: Any,
    ) -> None:
        self.emulator = emulator
        self.home = home
        self.name = ClusterName(NAMESPACE, name)
        self.templates = dict(templates or {"worker": "local/worker"})
        self.node_configs: dict[str, dict[str, Any]] = {}
        """What a type's ``node_config`` says beside its template, or instead of it."""
        self._monkeypatch = monkeypatch
        self.gateway = Gateway(Credentials(emulator.url, emulator.key_id, emulator.key_secret))
        self.cluster = clusters.add_cluster(self.gateway, self.name, None, "head", lifetime)
        self.head = self._start_head()
        self._provider = {
            "type": "external",
            "module": "raydog.autoscaler.RayDogNodeProvider",
            "cluster_namespace": NAMESPACE,
            "cluster_lifetime_hours": lifetime.total_seconds() / 3600,
            "head_node_tag_server_port": tag_port or free_port(),
            "disable_node_updaters": True,
            **provider,
        }
        self.last_words_port = port_for(int(self._provider["head_node_tag_server_port"]))
        self._v2 = v2
        self._made: list[RayDogNodeProvider] = []

    def _start_head(self) -> NodeRecord:
        tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_NODE_STATUS: STATUS_UNINITIALIZED}
        tags[TAG_RAY_USER_NODE_TYPE] = "head"
        group = self.cluster.group(clusters.HEAD_GROUP)
        assert group is not None
        name = naming.node_name(self.name.cluster, self.cluster.cluster_id, "head", naming.new_suffix())
        self.launch_tags = json.dumps(tags)
        request = NodeRequest(name, "sleep inf", {LAUNCH_TAGS: self.launch_tags, NODE_ID: name}, 3600)
        head = self.gateway.add_nodes(group.group_id, [request])[0]
        pool = PoolRequest(
            name=naming.pool_name(self.name.cluster, self.cluster.cluster_id, "head"),
            template="local/head",
            worker_tag=naming.worker_tag(self.cluster.cluster_id, "head"),
            initial_nodes=1,
            max_nodes=1,
        )
        self.gateway.add_pool(NAMESPACE, pool)
        eventually(lambda: self.gateway.get_node(head.task_id).status == "EXECUTING", what="the head executes")
        return head

    @property
    def environment(self) -> dict[str, str]:
        """What the monitor has in its environment."""
        return {
            ROLE: "head",
            REQUIREMENT_ID: self.cluster.requirement_id,
            CLUSTER_ID: self.cluster.cluster_id,
            NODE_ID: self.head.name,
            LAUNCH_TAGS: self.launch_tags,
            "RAY_enable_autoscaler_v2": "1" if self._v2 else "0",
            "HOME": str(self.home),
            **self.emulator.environment,
        }

    @property
    def section(self) -> dict[str, Any]:
        """The YAML's ``provider`` section."""
        return dict(self._provider)

    def provider(self) -> RayDogNodeProvider:
        """A new provider, as after a (re)start of the monitor."""
        for key, value in self.environment.items():
            self._monkeypatch.setenv(key, value)
        self._monkeypatch.setattr(on_head, "PACE", PACE)
        made = RayDogNodeProvider(self.section, self.name.cluster)
        self._made.append(made)
        return made

    def adapter(self, provider: RayDogNodeProvider, batch: int = 1000, launches: int = 1000) -> NodeProviderAdapter:
        """Ray's v2 view of a provider."""
        types: dict[str, Any] = {
            "head": {"resources": {}, "node_config": {"compute_requirement_template": "local/head"}}
        }
        for name in self.templates:
            types[name] = {"resources": {"CPU": 1}, "node_config": self.node_config(name), "max_workers": 1000}
        config = {
            "cluster_name": self.name.cluster,
            "provider": dict(self._provider),
            "auth": {},
            "available_node_types": types,
            "head_node_type": "head",
            "max_workers": 1000,
            **{key: [] for key in _LISTS},
            "file_mounts": {},
        }
        return NodeProviderAdapter(provider, _Reader(config), batch, launches)

    def node_config(self, node_type: str = "worker") -> dict[str, Any]:
        return {"compute_requirement_template": self.templates[node_type], **self.node_configs.get(node_type, {})}

    def launch(self, provider: RayDogNodeProvider, count: int = 1, node_type: str = "worker", **tags: str) -> list[str]:
        """Launch as v1 does; the names of the nodes that are new afterwards."""
        before = set(provider.non_terminated_nodes({}))
        wanted = {**WORKER, TAG_RAY_USER_NODE_TYPE: node_type, **tags}
        provider.create_node(self.node_config(node_type), wanted, count)
        return [name for name in provider.non_terminated_nodes({}) if name not in before]

    def failures(self) -> list[Failure]:
        file = self.home / ".raydog" / "failures.json"
        return read_failures(file.read_text()) if file.exists() else []

    def tasks(self) -> list[NodeRecord]:
        """The platform's own view of the unfinished workers."""
        found = clusters.unfinished_nodes(self.gateway, self.cluster)
        return [node for node in found if node.name != self.head.name]

    def task(self, name: str) -> NodeRecord:
        return next(node for node in self.gateway.list_nodes(self.cluster.requirement_id) if node.name == name)

    def refreshed(self) -> ClusterRecord:
        return self.gateway.get_cluster(self.cluster.requirement_id, self.cluster.cluster_id)

    def pools(self) -> list[str]:
        """Names of the live worker pools, without the head's."""
        found = clusters.find_pools(self.gateway, self.name, self.cluster.cluster_id)
        return [pool.name for pool in found if pool.live and not pool.worker_tag.endswith("-head")]

    def instance_of(self, name: str) -> str:
        task_id = self.task(name).task_id
        return next(str(one["id"]) for one in self.emulator.status()["instances"] if task_id in one["taskIds"])

    def close(self) -> None:
        for provider in self._made:
            provider.close()
        self.gateway.close()


def running(provider: RayDogNodeProvider, names: list[str]) -> None:
    """Wait until the nodes run and have addresses."""
    eventually(lambda: all(map(provider.is_running, names)), what=f"{names} run")
