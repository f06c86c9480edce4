"""The least that ``ray up`` can take: the same command with a head that is booted and a provider that only answers.

What RayDog adds to this is measured against it, in the demo and in ``make bench``.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler.node_provider import NodeProvider

_START = (
    ". /opt/yellowdog/agent/venv/bin/activate; ulimit -n 65536; "
    "ray start --head --port=6379 --dashboard-host=127.0.0.1 --disable-usage-stats "
    "--autoscaling-config=~/ray_bootstrap_config.yaml"
)


class FloorProvider(NodeProvider):  # type: ignore[misc]
    """Knows one head, at ``provider.head_ip``, from the moment Ray asks for it. Keeps everything in memory."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._nodes: dict[str, dict[str, str]] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [node for node, tags in self._nodes.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._nodes

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._nodes

    def node_tags(self, node_id: str) -> dict[str, str]:
        return dict(self._nodes[node_id])

    def external_ip(self, node_id: str) -> str:
        return str(self.provider_config["head_ip"])

    def internal_ip(self, node_id: str) -> str:
        return str(self.provider_config["head_ip"])

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        self._nodes["head"] = dict(tags)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._nodes[node_id].update(tags)

    def terminate_node(self, node_id: str) -> None:
        self._nodes.pop(node_id, None)

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config


def floor_yaml(head_ip: str, ssh_user: str, private_key: str) -> dict[str, Any]:
    """A cluster YAML for the floor: Ray starts as in RayDog's default head script, but in Ray's own start command."""
    return {
        "cluster_name": "raydog-floor",
        "provider": {
            "type": "external",
            "module": "raydog.demo.floor.FloorProvider",
            "head_ip": head_ip,
            "disable_node_updaters": True,
        },
        "auth": {"ssh_user": ssh_user, "ssh_private_key": private_key},
        "max_workers": 3,
        "upscaling_speed": 1000,
        "idle_timeout_minutes": 1,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
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
