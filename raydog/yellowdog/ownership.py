"""What is ours: the tests by which a thing on the platform is known to belong to a cluster.

A name alone is never enough (somebody else's may begin alike): the tag that only we write must fit as well.
"""

from __future__ import annotations

import re

from raydog.yellowdog import naming
from raydog.yellowdog.naming import Maker

_WORKER_TAGS = {maker: re.compile(rf"{maker.value}-(?P<id>[a-z0-9]{{8}})-.+") for maker in Maker}


def requirement_prefix(cluster: str) -> str:
    """What the names of all work requirements and pools of clusters of this name begin with."""
    return naming.requirement_name(cluster, "")


def cluster_id_of(requirement_name: str, cluster: str) -> str | None:
    """The id in the name of a work requirement of the cluster of exactly this name, else None."""
    parsed = naming.parse_requirement_name(requirement_name)
    if parsed is None or parsed[0] != naming.cluster_slug(cluster):
        return None
    return parsed[1]


def cluster_id_of_tag(worker_tag: str, maker: Maker = Maker.AUTOSCALER) -> str | None:
    """The id of the cluster that a worker tag was made for; None if it is none of this maker's."""
    found = _WORKER_TAGS[maker].fullmatch(worker_tag)
    return found["id"] if found else None


def tag_belongs(worker_tag: str, cluster_id: str, maker: Maker = Maker.AUTOSCALER) -> bool:
    """Whether a worker tag was made for the cluster with this id."""
    return cluster_id_of_tag(worker_tag, maker) == cluster_id


def pool_belongs(pool_name: str, worker_tag: str, cluster: str, maker: Maker = Maker.AUTOSCALER) -> bool:
    """Whether a worker pool belongs to a cluster of exactly this name: tag and name must bear the same id."""
    cluster_id = cluster_id_of_tag(worker_tag, maker)
    return cluster_id is not None and pool_name.startswith(f"{naming.requirement_name(cluster, cluster_id)}-")


def group_name(node_type: str) -> str:
    """The name of the task group of a type of worker."""
    # cut and hashed by the same rule as a worker tag, which is as long
    return naming.worker_tag("", node_type).replace("raydog--", "workers-", 1)
