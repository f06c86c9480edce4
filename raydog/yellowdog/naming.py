"""Names of the things that RayDog makes on the platform, and the way back from a name to its cluster.

Layout, with an eight-character random cluster id that no two clusters share::

    work requirement   <cluster>-<id>
    worker pool        <cluster>-<id>-<node type>
    node (a task)      <cluster>-<id>-<node type>-<suffix>
    worker tag         raydog-<id>-<node type>, or raydog-builder-<id>-<node type> (`Maker`)

The platform takes lower-case letters, digits, ``-`` and ``_``, at most 60 characters, beginning with a letter
and ending with a letter or digit. What people call their clusters and node types goes further (``Demo``,
``ray.head.default``): such a name becomes its lower-case form and a short hash of the original, so that two
names never share a platform name merely because they differ in case or punctuation.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from enum import Enum

MAX_NAME_LENGTH = 60
CLUSTER_ID_LENGTH = 8
SUFFIX_LENGTH = 8
OBSERVABILITY_TYPE = "observability-node"
"""The node with Prometheus and Grafana, as a type. It is no node of Ray's."""

_NAME = re.compile(r"[a-z]([a-z0-9_-]*[a-z0-9])?")
_NAME_PART = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")
_CLUSTER_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_NODE_TYPE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_REQUIREMENT_NAME = re.compile(r"(?P<cluster>.+)-(?P<id>[a-z0-9]{8})")
_ALPHABET = string.ascii_lowercase + string.digits

_MAX_CLUSTER_LENGTH = 49
"""Cluster and node type may have 50 characters together (`pool_name`), and a node type has at least one."""
_NODE_TYPE_ROOM_IN_NODE_NAME = 16
"""A node's name keeps this much of its type, whatever the cluster is called: people look for it."""
_SLUG_HASH_LENGTH = 6
_SHORTENED_HASH_LENGTH = 4


class Maker(Enum):
    """What makes a cluster; the value is how its worker tags begin. The two never see each other's clusters: a name
    that has no more than seven characters between dashes is no cluster id."""

    AUTOSCALER = "raydog"
    BUILDER = "raydog-builder"


def check_name(text: str) -> str | None:
    """Say why the platform would refuse ``text`` as a name (of a namespace, requirement, pool, task), or None."""
    if not text:
        return "is empty"
    if len(text) > MAX_NAME_LENGTH:
        return f"has {len(text)} characters, YellowDog allows {MAX_NAME_LENGTH}"
    if _NAME.fullmatch(text):
        return None
    strange = sorted({c for c in text if c not in _ALPHABET + "-_"})
    if strange:
        return f"contains {_quoted(strange)}; YellowDog allows lower-case letters, digits, '-' and '_'"
    if text[0] not in string.ascii_lowercase:
        return "does not begin with a lower-case letter"
    return "does not end with a letter or digit"


def check_cluster_name(text: str) -> str | None:
    """Say why ``text`` cannot be a cluster's name, or None. Upper-case letters and dots are mapped, so allowed."""
    if not text:
        return "is empty"
    if len(cluster_slug(text)) > _MAX_CLUSTER_LENGTH:
        return f"has {len(text)} characters, which leaves no room for node types in YellowDog's names"
    return _check_characters(text, _CLUSTER_NAME, "a letter")


def check_node_type(text: str) -> str | None:
    """Say why ``text`` cannot be a node type's name, or None."""
    return _check_characters(text, _NODE_TYPE, "a letter or digit") if text else "is empty"


def _check_characters(text: str, allowed: re.Pattern[str], beginning: str) -> str | None:
    if allowed.fullmatch(text):
        return None
    strange = sorted({c for c in text if c not in string.ascii_letters + string.digits + "._-"})
    if strange:
        return f"contains {_quoted(strange)}; letters, digits, '-', '_' and '.' are allowed"
    return f"must begin with {beginning} and end with a letter or digit"


def _quoted(characters: list[str]) -> str:
    return ", ".join(repr(c) for c in characters[:5])


def new_cluster_id() -> str:
    """Eight random characters that tell this cluster from every other one, also of the same name."""
    return _random(CLUSTER_ID_LENGTH)


def new_suffix() -> str:
    """Eight random characters for a node's name; 100,000 nodes of a cluster collide with a chance of 0.2 %."""
    return _random(SUFFIX_LENGTH)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def cluster_slug(cluster_name: str) -> str:
    """A cluster's name as it stands in platform names: itself if it is legal, otherwise with a hash."""
    return cluster_name if _NAME.fullmatch(cluster_name) else _slug(cluster_name)


def shortened_cluster_name(cluster_name: str, node_type_length: int) -> str:
    """``cluster_name``, or a legal short form of it with a hash, so that node types of that length fit behind it."""
    slug = cluster_slug(cluster_name)
    room = MAX_NAME_LENGTH - CLUSTER_ID_LENGTH - 2 - node_type_length
    if len(slug) <= room:
        return cluster_name
    return f"{slug[: room - _SLUG_HASH_LENGTH - 1].rstrip('-_')}-{_hash(cluster_name, _SLUG_HASH_LENGTH)}"


def node_type_slug(node_type: str) -> str:
    """A node type's name as it stands in platform names: itself if it is legal there, otherwise with a hash."""
    return node_type if _NAME_PART.fullmatch(node_type) else _slug(node_type)


def _slug(name: str) -> str:
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return f"{plain}-{_hash(name, _SLUG_HASH_LENGTH)}"


def _hash(name: str, length: int) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:length]


def _fit(slug: str, room: int) -> str:
    """Shorten ``slug`` to ``room`` characters; the hash of the whole keeps shortened names apart."""
    if len(slug) <= room:
        return slug
    kept = slug[: max(room - _SHORTENED_HASH_LENGTH - 1, 0)].rstrip("-_")
    digest = _hash(slug, min(_SHORTENED_HASH_LENGTH, max(room, 1)))
    return f"{kept}-{digest}" if kept else digest


def requirement_name(cluster_name: str, cluster_id: str) -> str:
    """The name of a cluster's work requirement. A cluster is found by it exactly, never by a prefix."""
    return f"{cluster_slug(cluster_name)}-{cluster_id}"


def parse_requirement_name(name: str) -> tuple[str, str] | None:
    """The cluster's slug and id in a work requirement's name, or None if it is no name of ours.

    Compare the first with `cluster_slug`: ``demo-abcdefgh`` is a cluster of that name or of ``demo``, and only
    the id at the very end tells which.
    """
    found = _REQUIREMENT_NAME.fullmatch(name)
    return (found["cluster"], found["id"]) if found else None


def pool_name(cluster_name: str, cluster_id: str, node_type: str) -> str:
    """The name of a node type's worker pool and of its compute requirement, at most 60 characters long."""
    requirement = requirement_name(cluster_name, cluster_id)
    return f"{requirement}-{_fit(node_type_slug(node_type), MAX_NAME_LENGTH - len(requirement) - 1)}"


def node_name(cluster_name: str, cluster_id: str, node_type: str, suffix: str) -> str:
    """The name of a node, which is its task's name and Ray's node id, at most 60 characters long."""
    room = MAX_NAME_LENGTH - len(cluster_id) - len(suffix) - 3
    cluster, kind = cluster_slug(cluster_name), node_type_slug(node_type)
    kind = _fit(kind, max(room - len(cluster), min(len(kind), _NODE_TYPE_ROOM_IN_NODE_NAME)))
    return f"{_fit(cluster, room - len(kind))}-{cluster_id}-{kind}-{suffix}"


def worker_tag(cluster_id: str, node_type: str, maker: Maker = Maker.AUTOSCALER) -> str:
    """The tag that binds a node type's task group to its worker pool."""
    prefix = f"{maker.value}-{cluster_id}-"
    return prefix + _fit(node_type_slug(node_type), MAX_NAME_LENGTH - len(prefix))
