"""Asking the platform for machines: which template, how many, with which user data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.userdata import with_authorized_key
from raydog.errors import PlatformError, PlatformUnavailableError, ProvisioningError
from raydog.yellowdog import naming
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, PoolRecord, PoolRequest


def add_head_pool(gateway: Gateway, config: ClusterConfig, cluster: ClusterRecord, node_type: NodeType) -> PoolRecord:
    """Provision the one machine of the head, from the first of the node type's templates that the platform takes."""
    request = PoolRequest(
        name=naming.pool_name(config.cluster_name, cluster.cluster_id, node_type.name),
        template="",
        worker_tag=naming.worker_tag(cluster.cluster_id, node_type.name),
        initial_nodes=1,
        max_nodes=1,
        tag=config.tag,
        images_id=node_type.images_id,
        user_data=user_data(config, node_type),
        instance_tags=node_type.instance_tags,
        metrics_enabled=node_type.metrics_enabled,
        boot_timeout_seconds=config.head_build_timeout.total_seconds(),
    )
    return provision(gateway, config.namespace, request, node_type.templates)


def provision(gateway: Gateway, namespace: str, request: PoolRequest, templates: Sequence[str]) -> PoolRecord:
    """Provision a pool from the first of ``templates`` that the platform takes. Raises `ProvisioningError` with all
    refusals."""
    refusals = []
    for template in templates:
        try:
            return gateway.add_pool(namespace, replace(request, template=template))
        except PlatformUnavailableError:
            raise
        except PlatformError as error:
            refusals.append(str(error))
    raise ProvisioningError("; ".join(refusals), "TemplateRefused")


def user_data(config: ClusterConfig, node_type: NodeType) -> str | None:
    """A node type's user data, with the cluster's SSH key authorised."""
    auth = config.auth
    if config.authorize_ssh_key and auth is not None and auth.public_key:
        return with_authorized_key(node_type.user_data, auth.user, auth.public_key)
    return node_type.user_data
