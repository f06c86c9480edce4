"""`RayDogNodeProvider`: Ray's contract on one side, a `Side` on the other."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND

from raydog.autoscaler import bootstrap
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import ROLE, digests
from raydog.autoscaler.no_commands import NoCommands
from raydog.autoscaler.side import Side, Tags, ray_tags
from raydog.errors import StateError
from raydog.yellowdog.records import NodeRecord, NodeState

_HEAD_DIGESTS = "_head_digests"
"""What the head's configuration is made of, so that `replace_head` can say what has changed."""


@dataclass(frozen=True)
class Merged:
    """All nodes' tags, and what they were made from."""

    nodes: Mapping[str, NodeRecord]
    stored: Mapping[str, Tags]
    tags: Mapping[str, dict[str, str]]

    def holds_for(self, name: str, node: NodeRecord, stored: Mapping[str, Tags]) -> bool:
        """Whether a node's tags are still right: nodes and tags are other objects as soon as they change."""
        return self.nodes.get(name) is node and self.stored.get(name) is stored.get(name)


class RayDogNodeProvider(NodeProvider):  # type: ignore[misc]
    """Ray clusters on the YellowDog Platform. A cluster is a work requirement; a node a task, its id the task's name.

    On the head all reads are served from memory and no call waits; on a client they ask the platform. Thread-safe.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        """Do no I/O but remove Ray's config cache, which everybody on the machine can read.

        Raises `ConfigError` if the provider section has faults.
        """
        super().__init__(provider_config, cluster_name)
        self._config = ClusterConfig.from_provider(provider_config, cluster_name)
        self._side = self._make_side()
        self._merging = threading.Lock()
        self._merged = Merged({}, {}, {})

    def _make_side(self) -> Side:
        if os.environ.get(ROLE) == "head":
            from raydog.autoscaler.on_head import HeadSide  # noqa: PLC0415 - a client needs none of it

            return HeadSide(self._config)
        if any(argument.startswith("--autoscaling-config") for argument in sys.argv):
            raise StateError(
                f"Ray's autoscaler runs here without {ROLE} in its environment: a head script that starts Ray in a "
                "container must pass it all variables that begin with RAY, YD_ or AUTOSCALER_ (docs/autoscaler.md)"
            )
        from raydog.autoscaler.client import ClientSide  # noqa: PLC0415 - the head has no SSH client installed

        return ClientSide(self._config, self.provider_config.get(_HEAD_DIGESTS) or {})

    # Reading

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """Ids of the nodes that are pending or running and have all these tags."""
        self._side.refresh()
        wanted = tag_filters.items()
        return [name for name, tags in self._tags(fetch=True).items() if wanted <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        """Whether the node's task executes and its address is known."""
        node = self._node(node_id)
        return node is not None and node.state is NodeState.RUNNING and self._side.address(node_id) is not None

    def is_terminated(self, node_id: str) -> bool:
        return self._node(node_id) is None

    def node_tags(self, node_id: str) -> dict[str, str]:
        """The node's tags; none for a node that is gone."""
        return dict(self._tags().get(node_id, {}))

    def external_ip(self, node_id: str) -> str | None:
        """The public address, or the private one where there is no other; None until it is known."""
        address = self._side.address(node_id)
        return None if address is None else address.public_ip or address.private_ip

    def internal_ip(self, node_id: str) -> str | None:
        """The private address; None until it is known."""
        address = self._side.address(node_id)
        return None if address is None else address.private_ip

    def _node(self, node_id: str) -> NodeRecord | None:
        return self._side.nodes().get(node_id)

    def _tags(self, *, fetch: bool = False) -> Mapping[str, dict[str, str]]:
        """All nodes' tags; merged again only for nodes that have changed."""
        nodes, stored = self._side.nodes(), self._side.stored_tags(fetch=fetch)
        merged = self._merged
        if merged.nodes is nodes and merged.stored is stored:
            return merged.tags
        with self._merging:
            earlier = self._merged
            tags = {
                name: earlier.tags[name] if earlier.holds_for(name, node, stored) else self._merge(node, stored)
                for name, node in nodes.items()
            }
            self._merged = Merged(nodes, stored, tags)
        return tags

    def _merge(self, node: NodeRecord, stored: Mapping[str, Tags]) -> dict[str, str]:
        is_head, updaters = self._side.is_head(node), self._config.node_updaters
        return ray_tags(node, stored.get(node.name, {}), is_head=is_head, updaters=updaters)

    # Changing

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """As `create_node_with_resources_and_labels`, without resources and labels."""
        return self.create_node_with_resources_and_labels(node_config, tags, count, {}, {})

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any]:
        """Make a head, waiting until it can be set up, or submit ``count`` workers without waiting for them."""
        if tags.get(TAG_RAY_NODE_KIND) == NODE_KIND_HEAD:
            self._side.create_head(node_config, tags)
        else:
            self._side.create_workers(node_config, tags, count, resources, labels)
        return {}

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        self._side.set_tags(node_id, tags)

    def terminate_node(self, node_id: str) -> None:
        """End one worker. Ray ends a head this way only to replace one whose configuration changed: that is refused."""
        node = self._node(node_id)
        if node is not None and self._side.is_head(node):
            self._side.replace_head(node)
        else:
            self._side.terminate([node_id])

    def terminate_nodes(self, node_ids: Sequence[str]) -> None:
        """End workers; with the head among them, the whole cluster."""
        self._side.terminate(list(node_ids))

    # Setting up

    def prepare_for_head_node(self, cluster_config: dict[str, Any]) -> dict[str, Any]:
        """The configuration as the head gets it. A head that an interrupted ``ray up`` left is completed here."""
        node_type = cluster_config["head_node_type"]
        self._side.complete_head(node_type, cluster_config["available_node_types"][node_type]["node_config"])
        return bootstrap.for_head(cluster_config)

    def get_command_runner(self, *arguments: Any, **options: Any) -> Any:
        """Ray's own runner, over SSH; for ``ray down`` one that runs nothing (`NoCommands` says why)."""
        return NoCommands() if bootstrap.taking_down() else super().get_command_runner(*arguments, **options)

    def cleanup_cluster_resources(self) -> None:
        """Called last by ``ray down``: end what is left, with or without a head, and see that nothing remains.

        Ray would turn an exception into a warning, so this raises ``SystemExit(1)`` after printing what is left.
        """
        self._side.clean_up()

    def close(self) -> None:
        """Stop this provider's threads and close its connections. Ray never does; the cluster does not notice."""
        self._side.close()

    @staticmethod
    def fillout_available_node_types_resources(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Fill in what a YAML may leave out; report all its faults and exit if it has any."""
        return bootstrap.fillout(cluster_config)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Resolve files and keys, so that the head needs none of this machine's."""
        result = bootstrap.bootstrap(cluster_config)
        head = result["available_node_types"][result["head_node_type"]]
        result["provider"][_HEAD_DIGESTS] = digests(head["node_config"], result["auth"])
        return result
