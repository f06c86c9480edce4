"""The environment of a node's task: what the node needs to know, and nothing secret (the platform shows it)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.last_words import port_for
from raydog.errors import StateError
from raydog.yellowdog.records import ClusterRecord, NodeRecord

ROLE = "RAYDOG_ROLE"
REQUIREMENT_ID = "RAYDOG_REQUIREMENT_ID"
CLUSTER_ID = "RAYDOG_CLUSTER_ID"
LAUNCH_TAGS = "RAYDOG_LAUNCH_TAGS"
HEAD_DIGESTS = "RAYDOG_HEAD_DIGESTS"
NODE_ID = "RAY_CLOUD_INSTANCE_ID"
OBSERVABILITY_HOST = "OBSERVABILITY_HOST"
"""Where Prometheus and Grafana run, in the environment of the head's and the workers' scripts."""
AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"

_HEAD_SILENCE_SECONDS = 60  # as for workers, which have 30, and a process of the head's that may be busy
_DRAIN_AT_THE_END = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""A node that is told to end by SIGTERM has itself drained by Ray (reason PREEMPTION), for up to so many seconds."""
_DRAIN_SECONDS = "4"  # an agent may lose its patience after 10, and Ray itself takes some

_LAUNCH_BATCH = 1000  # Ray's default is 5; the platform takes a thousand tasks in one call
_LAUNCH_THREADS = 10  # Ray has as many as batches fit into what it may launch at once, by default 10 nodes a tick


def head_environment(
    config: ClusterConfig,
    cluster: ClusterRecord,
    node_id: str,
    node_type: str,
    tags: Mapping[str, str],
    digests: Mapping[str, str],
) -> dict[str, str]:
    """The head's. Ray's autoscaler runs there and inherits it."""
    environment = {
        **_common(cluster, node_id, node_type, tags, config.head_resources, config.head_labels),
        HEAD_DIGESTS: json.dumps(digests, sort_keys=True),
        "RAYDOG_TAG_PORT": str(config.tag_server_port),
        _DRAIN_AT_THE_END: "0",  # nobody would get its work
        "RAYDOG_BUILD_TIMEOUT": str(int(config.head_build_timeout.total_seconds())),
        "AUTOSCALER_MAX_CONCURRENT_LAUNCHES": str(_LAUNCH_THREADS * _LAUNCH_BATCH),
        "AUTOSCALER_MAX_LAUNCH_BATCH": str(_LAUNCH_BATCH),
        AUTOSCALER_V2: "1" if config.autoscaler_v2 else "0",
    }
    if config.node_launch_timeout is not None:
        # v2 falls back to another node type only when an allocation has timed out (design, point 15)
        seconds = str(int(config.node_launch_timeout.total_seconds()))
        environment["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"] = seconds
    return environment


def worker_environment(
    config: ClusterConfig,
    cluster: ClusterRecord,
    node_id: str,
    node_type: str,
    tags: Mapping[str, str],
    *,
    head_ip: str,
    resources: Mapping[str, float],
    labels: Mapping[str, str],
    observability_host: str | None = None,
) -> dict[str, str]:
    """A worker's."""
    environment = {
        **_common(cluster, node_id, node_type, tags, resources, labels),
        "RAY_HEAD_IP": head_ip,
        "RAY_HEAD_NODE_PRIVATE_IP": head_ip,
        _DRAIN_AT_THE_END: _DRAIN_SECONDS,
        "RAYDOG_LAST_WORDS_PORT": str(port_for(config.tag_server_port)),
    }
    if config.node_updaters:
        environment["RAYDOG_AWAIT_GO"] = "1"
    if observability_host:
        environment[OBSERVABILITY_HOST] = observability_host
    return environment


def observability_environment(config: ClusterConfig, cluster: ClusterRecord) -> dict[str, str]:
    """The observability node's. It is no node of Ray's; like a worker it ends when the head has gone."""
    first_contact = int(config.head_build_timeout.total_seconds()) + _HEAD_SILENCE_SECONDS
    return {
        ROLE: "observability",
        REQUIREMENT_ID: cluster.requirement_id,
        CLUSTER_ID: cluster.cluster_id,
        "RAYDOG_HEAD_SILENCE_SECONDS": str(_HEAD_SILENCE_SECONDS),
        "RAYDOG_HEAD_FIRST_CONTACT_SECONDS": str(first_contact),
    }


def _common(
    cluster: ClusterRecord,
    node_id: str,
    node_type: str,
    tags: Mapping[str, str],
    resources: Mapping[str, float],
    labels: Mapping[str, str],
) -> dict[str, str]:
    environment = {
        REQUIREMENT_ID: cluster.requirement_id,
        CLUSTER_ID: cluster.cluster_id,
        LAUNCH_TAGS: json.dumps(tags, sort_keys=True),
        NODE_ID: node_id,
        "RAY_NODE_TYPE_NAME": node_type,
    }
    # These win over what ray start detects and over --num-cpus (ray/_private/resource_and_label_spec.py).
    if resources:
        environment["RAY_OVERRIDE_RESOURCES"] = json.dumps(resources, sort_keys=True)
    if labels:
        environment["RAY_OVERRIDE_LABELS"] = json.dumps(labels, sort_keys=True)
    return environment


def launch_tags(node: NodeRecord) -> dict[str, str]:
    """The Ray tags that a node was launched with; empty for one that RayDog did not launch."""
    return dict(_parsed_tags(node.environment.get(LAUNCH_TAGS, "")))


@lru_cache(maxsize=1000)
def _parsed_tags(text: str) -> Mapping[str, str]:
    """All nodes of a launch have the same text."""
    try:
        tags = json.loads(text)
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {}


def digests(node_config: Mapping[str, Any], auth: Mapping[str, Any]) -> dict[str, str]:
    """A short digest of each part of what Ray compares to decide that a head is out of date."""
    parts = {f"node_config.{key}": value for key, value in node_config.items()}
    parts.update({f"auth.{key}": value for key, value in auth.items()})
    return {
        key: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
        for key, value in parts.items()
    }


def changed_parts(head: NodeRecord, wanted: Mapping[str, str]) -> list[str]:
    """Which parts of a live head's configuration differ from what is wanted now."""
    try:
        had = json.loads(head.environment.get(HEAD_DIGESTS, "{}"))
    except ValueError as error:
        raise StateError(f"the head {head.name} carries no readable record of its configuration") from error
    return sorted(key for key in {*had, *wanted} if had.get(key) != wanted.get(key))
