"""What ``raydog status`` tells: the platform's view of a cluster, the head's list of failures, and Ray's own status."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import launch_tags
from raydog.autoscaler.failures import Failure, read_failures
from raydog.autoscaler.head import session_host, ssh_target
from raydog.autoscaler.scripts import REMOTE_DIR
from raydog.errors import ConfigError, MissingFileError, RayDogError
from raydog.ssh import wait_for_login
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeRecord, NodeState
from raydog.yellowdog.view import ClusterView

_LOGIN_SECONDS = 10.0
_RAY_STATUS_SECONDS = 30.0


@dataclass(frozen=True)
class NodeStatus:
    """A node that is alive or on its way. ``kind`` is ``head``, ``worker`` or ``observability``."""

    node_id: str
    node_type: str
    kind: str
    status: str
    private_ip: str | None
    public_ip: str | None


@dataclass(frozen=True)
class PoolStatus:
    """A worker pool that may cost money, and what its compute sources say of trouble."""

    name: str
    status: str
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterStatus:
    """Everything at one moment. ``problems`` says what could not be found out, and why."""

    cluster: str
    namespace: str
    requirement: str | None = None
    requirement_status: str | None = None
    age_seconds: float | None = None
    lifetime_left_seconds: float | None = None
    nodes: tuple[NodeStatus, ...] = ()
    pools: tuple[PoolStatus, ...] = ()
    failures: tuple[Failure, ...] = ()
    ray_status: str | None = None
    problems: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return asdict(self)


def load_config(path: Path, cluster_name: str | None = None) -> ClusterConfig:
    """The parts of a cluster's YAML that looking at it needs. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("provider"), dict):
        raise ConfigError(f"{path} has no provider section: it is no cluster YAML of Ray's")
    provider = dict(document["provider"])
    auth = document.get("auth")
    if isinstance(auth, dict):
        provider["auth"] = _with_absolute_key(auth, path)
    return ClusterConfig.from_provider(provider, cluster_name or str(document.get("cluster_name", "")))


def _with_absolute_key(auth: Mapping[str, Any], path: Path) -> dict[str, Any]:
    result = dict(auth)
    key = result.get("ssh_private_key")
    if isinstance(key, str):
        beside = path.absolute().parent / Path(key).expanduser()
        result["ssh_private_key"] = str(beside if beside.exists() else Path(os.path.expanduser(key)).absolute())  # noqa: PTH111
    return result


def cluster_status(config: ClusterConfig, *, ask_head: bool = True) -> ClusterStatus:
    """Look at a cluster. Raises `RayDogError` only if the platform cannot be asked at all."""
    gateway = Gateway(load_credentials(), swift=True)
    name = ClusterName(config.namespace, config.cluster_name)
    found = clusters.find_clusters(gateway, name)
    pools = _pools(gateway, name)
    if not found:
        return ClusterStatus(config.cluster_name, config.namespace, pools=pools)
    cluster = found[0]
    view = ClusterView(gateway, cluster)
    view.sweep()
    age = datetime.now(timezone.utc) - cluster.created
    head = next((n for n in view.nodes().values() if _is_head(cluster, n)), None)
    observability = _observability(gateway, cluster)
    problems: list[str] = []
    failures: tuple[Failure, ...] = ()
    ray_status = None
    if head is None:
        problems.append("the cluster has no live head: run ray down, or ray up to start anew")
    elif ask_head:
        failures, ray_status = _ask_head(config, view, head, problems)
    return ClusterStatus(
        cluster=config.cluster_name,
        namespace=config.namespace,
        requirement=cluster.name,
        requirement_status=cluster.status,
        age_seconds=age.total_seconds(),
        lifetime_left_seconds=max((config.lifetime - age) / timedelta(seconds=1), 0.0),
        nodes=(*(_node(cluster, view, node) for node in view.nodes().values()), *observability),
        pools=pools,
        failures=failures,
        ray_status=ray_status,
        problems=tuple(problems),
    )


def _is_head(cluster: ClusterRecord, node: NodeRecord) -> bool:
    group = cluster.group(clusters.HEAD_GROUP)
    return group is not None and node.group_id == group.group_id


def _node(cluster: ClusterRecord, view: ClusterView, node: NodeRecord) -> NodeStatus:
    address = view.address(node.name)
    return NodeStatus(
        node_id=node.name,
        node_type=node.environment.get("RAY_NODE_TYPE_NAME") or launch_tags(node).get("ray-user-node-type", ""),
        kind="head" if _is_head(cluster, node) else "worker",
        status=node.status,
        private_ip=address.private_ip if address else None,
        public_ip=address.public_ip if address else None,
    )


def _observability(gateway: Gateway, cluster: ClusterRecord) -> tuple[NodeStatus, ...]:
    """The observability node, also one that has ended: nobody replaces it."""
    node = clusters.find_observability_node(gateway, cluster)
    if node is None:
        return ()
    address = gateway.node_address(node) if node.state is NodeState.RUNNING else None
    private_ip, public_ip = (address.private_ip, address.public_ip) if address else (None, None)
    return (NodeStatus(node.name, clusters.OBSERVABILITY_GROUP, "observability", node.status, private_ip, public_ip),)


def _pools(gateway: Gateway, name: ClusterName) -> tuple[PoolStatus, ...]:
    pools = []
    for pool in clusters.find_pools(gateway, name):
        compute = pool.compute_requirement_id
        status = gateway.compute_status(compute) if compute else None
        if pool.live or status not in (None, "TERMINATED"):
            messages = gateway.compute_messages(compute) if compute else []
            pools.append(PoolStatus(pool.name, pool.status, tuple(messages)))
    return tuple(pools)


def _ask_head(
    config: ClusterConfig, view: ClusterView, head: NodeRecord, problems: list[str]
) -> tuple[tuple[Failure, ...], str | None]:
    try:
        address = view.full_address(head.name)
        if address is None:
            problems.append("the head is not running yet")
            return (), None
        target = ssh_target(config, session_host(config, address))
        with wait_for_login(target, _LOGIN_SECONDS) as session:
            text = session.read_file(f"{REMOTE_DIR}/failures.json")
            asked = session.run(f". {REMOTE_DIR}/profile; ray status", timeout=_RAY_STATUS_SECONDS)
            failures = tuple(read_failures(text.decode())) if text else ()
    except RayDogError as error:
        problems.append(f"the head could not be asked: {error}")
        return (), None
    if asked.exit_status != 0:
        problems.append(f"ray status on the head failed: {asked.stderr.strip()[-300:]}")
        return failures, None
    return failures, asked.stdout
