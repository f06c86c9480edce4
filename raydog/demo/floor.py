"""The least that ``ray up``, a growing cluster and ``ray down`` can take: nodes are booted, a provider only answers.

What RayDog adds to this is measured against it, in the demo and in ``make bench``.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS

_START = (
    "ulimit -n 65536; "
    "ray start --head --port=6379 --dashboard-host=127.0.0.1 --disable-usage-stats "
    "--autoscaling-config=~/ray_bootstrap_config.yaml"
)
_PORT = 7777

WORKER_TASK = f"""
. /opt/yellowdog/agent/venv/bin/activate
ulimit -n 65536
read -r node head < <(python3 -c '
import json, socket
said = json.loads(socket.create_server(("", {_PORT})).accept()[0].makefile().readline())
print(said["node"], said["head"])
')
export RAY_CLOUD_INSTANCE_ID="$node" RAY_NODE_TYPE_NAME=worker RAY_OVERRIDE_RESOURCES='{{"CPU": 1}}'
ray start --block --disable-usage-stats --address="$head:6379" &
ray=$!
trap 'kill -TERM "$ray"' TERM
wait "$ray"
"""
"""What a worker does that was booted beforehand: wait until `FloorProvider` says that it is wanted."""


class FloorProvider(NodeProvider):  # type: ignore[misc]
    """Knows one head, at ``provider.head_ip``, and workers that wait, at ``provider.hosts``.

    Each is there from the moment when Ray asks for it; with ``provider.up`` the head is from the beginning. A node's id
    is its address. Everything is kept in memory.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._head = str(provider_config["head_ip"])
        self._free = list(provider_config.get("hosts", ()))
        self._nodes: dict[str, dict[str, str]] = {}
        if provider_config.get("up"):
            self._nodes[self._head] = {
                TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
                "ray-user-node-type": "head",
            }

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in self._nodes.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._nodes

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._nodes

    def node_tags(self, node_id: str) -> dict[str, str]:
        return dict(self._nodes[node_id])

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        if tags[TAG_RAY_NODE_KIND] == NODE_KIND_HEAD:
            self._nodes[self._head] = dict(tags)
            return
        for _ in range(count):
            node = self._free.pop(0)
            self._nodes[node] = dict(tags)
            with socket.create_connection((node, _PORT)) as worker:
                worker.sendall(json.dumps({"node": node, "head": self._head}).encode() + b"\n")

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        self.create_node(node_config, tags, count)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._nodes[node_id].update(tags)

    def terminate_node(self, node_id: str) -> None:
        self._nodes.pop(node_id, None)

    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        return {**cluster_config, "provider": {**cluster_config["provider"], "up": True}}

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config


def floor_yaml(head_ip: str, ssh_user: str, private_key: str, hosts: list[str] | None = None) -> dict[str, Any]:
    """A cluster YAML for the floor: Ray starts as in RayDog's default head script, but in Ray's own start command."""
    workers = len(hosts) if hosts else 3
    return {
        "cluster_name": "raydog-floor",
        "provider": {
            "type": "external",
            "module": "raydog.demo.floor.FloorProvider",
            "head_ip": head_ip,
            "hosts": hosts or [],
            "disable_node_updaters": True,
        },
        "auth": {"ssh_user": ssh_user, "ssh_private_key": private_key},
        "max_workers": workers,
        "upscaling_speed": 1000,
        "idle_timeout_minutes": 5,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": workers},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [_START],
        "worker_start_ray_commands": [],
    }
