"""The two places where a provider works: on somebody's machine (`client`), and on the head (`on_head`).

`provider` turns Ray's contract into these few calls. What the two have in common is how nodes and tags make Ray's view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_SETTING_UP,
    STATUS_UNINITIALIZED,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from raydog.autoscaler.environment import launch_tags
from raydog.yellowdog.records import NodeAddress, NodeRecord, NodeState

Tags = Mapping[str, str]


class Side(Protocol):
    """What `provider.RayDogNodeProvider` needs from the place where it works. Thread-safe."""

    def refresh(self) -> None:
        """Called when Ray begins to look at all nodes. On the head it never waits."""

    def nodes(self) -> Mapping[str, NodeRecord]:
        """The nodes that are alive and not told to end, by name; always the same object until something changes."""

    def stored_tags(self, *, fetch: bool) -> Mapping[str, Tags]:
        """What Ray has set in addition to the launch tags; the same object until something changes.

        Ray asks for each node's tags, so the tag server is asked, with ``fetch``, once a tick.
        """

    def is_head(self, node: NodeRecord) -> bool:
        """Whether a node is the cluster's head."""

    def address(self, name: str) -> NodeAddress | None:
        """Where a node is, if that is known yet."""

    def set_tags(self, name: str, tags: Tags) -> None:
        """Merge tags into a node's."""

    def create_head(self, node_config: Mapping[str, Any], tags: Tags) -> None:
        """Make the cluster and its head; returns when the head can be set up."""

    def create_workers(
        self,
        node_config: Mapping[str, Any],
        tags: Tags,
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Submit workers. They show as pending at once."""

    def terminate(self, names: Sequence[str]) -> None:
        """End nodes; with the head, the whole cluster."""

    def replace_head(self, head: NodeRecord) -> None:
        """Ray wants to end the head in order to make another, because its configuration has changed."""

    def complete_head(self, node_type: str, node_config: Mapping[str, Any]) -> None:
        """``ray up`` is about to set the head, which is of this type, up."""

    def clean_up(self) -> None:
        """``ray down`` has ended: see that nothing is left."""

    def close(self) -> None:
        """Stop threads and close connections; nothing of the cluster changes."""


def ray_tags(node: NodeRecord, stored: Tags, *, is_head: bool, updaters: bool) -> dict[str, str]:
    """A node's tags as Ray gets them. Kind and status are always there: v1's loop raises without them.

    A head that executes is up to date unless somebody has said otherwise, so that reading needs no tag server. Without
    updaters nobody will ever say that a worker is up to date, and v1 would end one that says so before its first
    heartbeat (``ray/autoscaler/_private/autoscaler.py``), so it stays "setting-up".
    """
    tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD if is_head else NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: ""}
    tags.update(launch_tags(node))
    tags.setdefault(TAG_RAY_NODE_STATUS, STATUS_UNINITIALIZED)
    if is_head and node.state is NodeState.RUNNING:
        tags[TAG_RAY_NODE_STATUS] = STATUS_UP_TO_DATE
    elif not is_head and not updaters:
        tags[TAG_RAY_NODE_STATUS] = STATUS_SETTING_UP
    tags.update(stored)
    return tags
