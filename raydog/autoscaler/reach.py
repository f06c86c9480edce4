"""Where an autoscaler's cluster is reached from this machine: its head, and the observability node behind it."""

from __future__ import annotations

from dataclasses import dataclass

from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.head import session_host, ssh_target
from raydog.errors import StateError
from raydog.ssh import SshTarget
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeState


@dataclass(frozen=True)
class Reach:
    """How to log in to a cluster's head, and its observability node's address as the head sees it, if it has one."""

    cluster: str
    head: SshTarget
    observability_ip: str | None = None


def find_reach(config: ClusterConfig) -> Reach:
    """Ask the platform where a cluster is. Raises `StateError` if it has no head that runs, and `PlatformError`."""
    gateway = Gateway(load_credentials(), swift=True)
    try:
        return _find(gateway, config)
    finally:
        gateway.close()


def _find(gateway: Gateway, config: ClusterConfig) -> Reach:
    what = f"cluster {config.cluster_name} in namespace {config.namespace}"
    found = clusters.find_clusters(gateway, ClusterName(config.namespace, config.cluster_name))
    if not found:
        raise StateError(f"there is no {what}. Start it with ray up.")
    head = clusters.find_head(gateway, found[0])
    if head is None or head.state is NodeState.ENDED:
        raise StateError(f"{what} has no live head. Run ray down, or ray up to start anew.")
    address = gateway.node_address(head) if head.state is NodeState.RUNNING else None
    if address is None:
        raise StateError(f"the head of {what} is not running yet (its task is {head.status}). Wait for ray up.")
    host = session_host(config, address)
    if not host:
        raise StateError(
            f"the head of {what} has no public address (its private one is {address.private_ip}). Set "
            f"'use_internal_ips' or 'ssh_proxy_command' if this machine reaches that."
        )
    beside = clusters.find_observability_node(gateway, found[0])
    place = gateway.node_address(beside) if beside is not None and beside.state is NodeState.RUNNING else None
    return Reach(config.cluster_name, ssh_target(config, host), place.private_ip if place else None)
