"""What a program asks for, checked before anything costs money; all faults of a call are reported together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from raydog.errors import ConfigError, CredentialsError
from raydog.yellowdog import naming
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.records import PoolRecord

MAX_POOL_NODES = 10_000  # the platform's own limit of a compute requirement


@dataclass(frozen=True)
class NodeSpec:
    """One kind of node: how its machine is made, and the script that its task runs."""

    template: str
    script: str
    images_id: str | None = None
    user_data: str | None = None
    instance_tags: Mapping[str, str] | None = None
    metrics_enabled: bool | None = None


@dataclass
class WorkerPool:
    """A worker pool as asked for, and, once it is provisioned, what the platform calls it."""

    internal_name: str
    label: str
    """Its part in platform names, different for every pool that a cluster ever had."""
    spec: NodeSpec
    node_count: int
    record: PoolRecord | None = None
    group_id: str | None = None

    @property
    def worker_pool_id(self) -> str | None:
        """The platform's id of the worker pool; None before it is provisioned."""
        return self.record.pool_id if self.record is not None else None


class Faults:
    """Collects what is wrong with arguments."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, argument: str, what: str | None) -> None:
        if what is not None:
            self._found.append(f"{argument}: {what}")

    def text(self, argument: str, value: object, *, optional: bool = False) -> None:
        """``value`` must be a text that is not empty, or None if it is ``optional``."""
        if optional and value is None:
            return
        if not isinstance(value, str):
            self.add(
                argument, "is missing or empty" if value is None else f"must be a text, not {type(value).__name__}"
            )
        elif not value.strip() and not optional:
            self.add(argument, "is missing or empty")

    def spec(self, prefix: str, script_argument: str, spec: NodeSpec) -> None:
        """The arguments of one kind of node."""
        self.text(f"{prefix}_compute_requirement_template_id", spec.template)
        self.text(script_argument, spec.script)
        self.text(f"{prefix}_images_id", spec.images_id, optional=True)
        self.text(f"{prefix}_userdata", spec.user_data, optional=True)
        tags: object = spec.instance_tags
        if tags is not None and not (
            isinstance(tags, Mapping) and all(isinstance(text, str) for pair in tags.items() for text in pair)
        ):
            self.add(f"{prefix}_instance_tags", "must be a dictionary of texts")
        metrics: object = spec.metrics_enabled
        if not isinstance(metrics, bool | None):
            self.add(f"{prefix}_metrics_enabled", "must be True, False or None")

    def raise_if_any(self) -> None:
        if len(self._found) == 1:
            raise ConfigError(self._found[0], self._found)
        if self._found:
            raise ConfigError("several arguments are wrong:\n  " + "\n  ".join(self._found), self._found)


def check_cluster(faults: Faults, name: object, namespace: object, tag: object, lifetime: object) -> None:
    """The arguments that are about the cluster as a whole."""
    faults.text("cluster_name", name)
    faults.text("cluster_namespace", namespace)
    faults.text("cluster_tag", tag, optional=True)
    if isinstance(name, str) and name.strip():
        faults.add("cluster_name", naming.check_cluster_name(short_name(name)))
    if isinstance(namespace, str) and namespace.strip():
        faults.add("cluster_namespace", naming.check_name(namespace))
    if lifetime is not None and not (isinstance(lifetime, timedelta) and lifetime > timedelta(0)):
        faults.add("cluster_lifetime", "must be a timedelta of more than zero, or None for no limit")


def short_name(cluster_name: str) -> str:
    """The cluster's name as far as platform names have room for it and the labels of its pools."""
    return naming.shortened_cluster_name(cluster_name, 4)


def pool_label(cluster_name: str, number: int, internal_name: str) -> str:
    """A pool's part in platform names: its number, which makes it unique, and as much of its name as fits."""
    room = naming.MAX_NAME_LENGTH - len(naming.requirement_name(cluster_name, "x" * naming.CLUSTER_ID_LENGTH)) - 1
    return f"{number:02d}-{naming.node_type_slug(internal_name)}"[: max(room, 4)].rstrip("-_")


def check_count(faults: Faults, count: object) -> None:
    argument = "worker_pool_node_count"
    if isinstance(count, bool) or not isinstance(count, int):
        faults.add(argument, f"must be a whole number, not {count!r}")
    elif not 1 <= count <= MAX_POOL_NODES:
        faults.add(
            argument, f"is {count}: must be at least 1, and at most {MAX_POOL_NODES} (YellowDog's limit of a pool)"
        )


def credentials(key_id: object, key_secret: object, api_url: object) -> Credentials:
    """The key and address to use the platform with. Raises `CredentialsError`, `ConfigError`."""
    for argument, value in (("yd_application_key_id", key_id), ("yd_application_key_secret", key_secret)):
        if not isinstance(value, str) or not value:
            raise CredentialsError(f"{argument} is missing: give the id and secret of a YellowDog application")
    if not isinstance(api_url, str) or not api_url.startswith(("https://", "http://")):
        raise ConfigError(f"yd_platform_api_url is {api_url!r}: it must start with https:// or http://")
    return Credentials(api_url.rstrip("/"), str(key_id), str(key_secret))
