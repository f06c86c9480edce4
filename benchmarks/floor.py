"""The least that a provider can do: everything in memory, nobody asked."""

from __future__ import annotations

from typing import Any

from ray.autoscaler.node_provider import NodeProvider


class MemoryProvider(NodeProvider):  # type: ignore[misc]
    """Nodes run at once. What Ray itself needs for a tick is what a tick with this one needs."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._nodes: dict[str, dict[str, str]] = {"head": {"ray-node-type": "head", "ray-user-node-type": "head"}}
        self._made = 0

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return list(self._nodes)

    def is_running(self, node_id: str) -> bool:
        return node_id in self._nodes

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._nodes[node_id]

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        self._nodes.update({f"bench-worker-{self._made + number:06d}": dict(tags) for number in range(count)})
        self._made += count

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        self.create_node(node_config, tags, count)

    def terminate_nodes(self, node_ids: list[str]) -> None:
        for node in node_ids:
            self._nodes.pop(node, None)
