"""What ``raydog status`` tells: the platform's view of a cluster, the head's list of failures, and Ray's own status."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from raydog.autoscaler import remembered
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import launch_tags
from raydog.autoscaler.failures import Failure, PlatformSight, read_failures, read_sight
from raydog.autoscaler.head import session_host, ssh_target
from raydog.autoscaler.remembered import RememberedHead
from raydog.autoscaler.scripts import REMOTE_DIR
from raydog.errors import (
    ConfigError,
    MissingFileError,
    PlatformError,
    PlatformUnavailableError,
    ProvisioningTimeoutError,
    RayDogError,
    StateError,
)
from raydog.ssh import SshSession, wait_for_login
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeAddress, NodeRecord, NodeState
from raydog.yellowdog.view import ClusterView

_LOGIN_SECONDS = 10.0
_RAY_STATUS_SECONDS = 30.0
_STATES = {"PENDING": "waiting", "READY": "waiting", "EXECUTING": "running"}


@dataclass(frozen=True)
class NodeStatus:
    """A node that is alive or on its way.

    ``kind`` is ``head``, ``worker`` or ``observability``. ``state`` is ``waiting`` (for a machine), ``starting``,
    ``running``, ``failed`` (a worker's machine may still be held, for somebody to look), ``ending`` or ``ended`` (only
    an observability node); ``status`` the platform's word for its task; ``age_seconds`` how long that has run.
    """

    node_id: str
    node_type: str
    kind: str
    state: str
    status: str
    private_ip: str | None
    public_ip: str | None
    age_seconds: float | None


@dataclass(frozen=True)
class PoolStatus:
    """A worker pool that may cost money, and what its compute sources say of trouble."""

    name: str
    status: str
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlatformStatus:
    """Whether the platform answers this machine; ``from_head`` is how the head last saw it, if the head was asked."""

    answers: bool
    error: str | None = None
    from_head: PlatformSight | None = None


@dataclass(frozen=True)
class ClusterStatus:
    """Everything at one moment. ``problems`` says what could not be found out, or is not as it should be, and why.

    ``requirement`` is None if there is no such cluster, or if the platform does not answer.
    """

    cluster: str
    namespace: str
    platform: PlatformStatus
    requirement: str | None = None
    requirement_status: str | None = None
    age_seconds: float | None = None
    lifetime_left_seconds: float | None = None
    nodes: tuple[NodeStatus, ...] = ()
    pools: tuple[PoolStatus, ...] = ()
    failures: tuple[Failure, ...] = ()
    ray_status: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether the platform says that there is no such cluster."""
        return self.requirement is None and self.platform.answers

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


def cluster_status(
    config: ClusterConfig, *, ask_head: bool = True, report: Callable[[str], object] = lambda _stage: None
) -> ClusterStatus:
    """Look at a cluster; ``report`` is told what is being asked.

    A platform that does not answer is part of the answer. Raises `RayDogError` if it refuses to, or if there is no key.
    """
    look = _Look(config, Gateway(load_credentials(), swift=True))
    try:
        report("asking the platform")
        look.at_platform()
        if ask_head and look.head_wanted:
            report("asking the head")
            look.at_head()
        return look.seen()
    finally:
        look.gateway.close()


class _Look:
    """What has been seen so far. Whatever cannot be found out keeps nothing else from being shown."""

    def __init__(self, config: ClusterConfig, gateway: Gateway) -> None:
        self.gateway = gateway
        self._config = config
        self._name = ClusterName(config.namespace, config.cluster_name)
        self._answers = True
        self._error: str | None = None
        self._cluster: ClusterRecord | None = None
        self._view: ClusterView | None = None
        self._head: NodeRecord | None = None
        self._observability: tuple[NodeRecord, NodeAddress | None] | None = None
        self._pools: list[PoolStatus] = []
        self._failures: list[Failure] = []
        self._ray_status: str | None = None
        self._sight: PlatformSight | None = None
        self._problems: list[str] = []

    @property
    def head_wanted(self) -> bool:
        """Whether there is, or may be, a head to ask."""
        return self._head is not None or not self._answers

    def at_platform(self) -> None:
        try:
            found = clusters.find_clusters(self.gateway, self._name)
            if found:
                self._cluster = found[0]
                self._view = ClusterView(self.gateway, found[0])
                self._view.sweep()
                self._find_head(found[0], self._view)
                self._find_observability(found[0])
            self._look_at_pools()
        except PlatformUnavailableError as error:
            self._answers, self._error = False, str(error)
            self._problems.append(f"the platform does not answer: {error}")

    def _find_head(self, cluster: ClusterRecord, view: ClusterView) -> None:
        self._head = next((node for node in view.nodes().values() if _is_head(cluster, node)), None)
        if self._head is None:
            last = clusters.find_head(self.gateway, cluster)
            reason = f" ({last.status}{f': {last.reason}' if last.reason else ''})" if last is not None else ""
            self._problems.append(f"the cluster has no live head{reason}: run ray down, or ray up to start anew")

    def _find_observability(self, cluster: ClusterRecord) -> None:
        """Also if it has ended: nobody replaces it."""
        node = clusters.find_observability_node(self.gateway, cluster)
        if node is not None:
            running = node.state is NodeState.RUNNING
            self._observability = node, self.gateway.node_address(node) if running else None

    def _look_at_pools(self) -> None:
        for pool in clusters.find_pools(self.gateway, self._name):
            compute = pool.compute_requirement_id
            status = self.gateway.compute_status(compute) if compute else None
            if pool.live or status not in (None, "TERMINATED"):
                messages = self.gateway.compute_messages(compute) if compute else []
                self._pools.append(PoolStatus(pool.name, pool.status, tuple(messages)))

    def at_head(self) -> None:
        try:
            head = self._where()
            if head is None:
                return
            with wait_for_login(ssh_target(self._config, head.host), _LOGIN_SECONDS) as session:
                self._ask(session, head)
            remembered.remember(self.gateway.api_url, self._name, head)
        except RayDogError as error:
            self._problems.append(f"the head could not be asked: {error}")

    def _where(self) -> RememberedHead | None:
        """The head, and where this machine reaches it."""
        if self._head is not None and self._view is not None:
            try:
                address = self._view.full_address(self._head.name)
            except PlatformError as error:
                self._problems.append(f"the head's address could not be asked for: {error}")
                address = self._view.address(self._head.name)
            host = "" if address is None else session_host(self._config, address)
            if host:
                return RememberedHead(self._head.name, host)
        known = remembered.recall(self.gateway.api_url, self._name)
        if known is not None and (self._head is None or self._head.name == known.node_id):
            return known
        if self._answers:
            self._problems.append("the head is not running yet, or has no address that this machine reaches")
        else:
            self._problems.append("where the head is is not known on this machine, so it was not asked")
        return None

    def _ask(self, session: SshSession, head: RememberedHead) -> None:
        task = session.read_file(f"{REMOTE_DIR}/task")
        if task is None or task.decode(errors="replace").strip() != head.node_id:
            raise StateError(f"the machine at {head.host} is not the cluster's head {head.node_id} any more")
        self._ask_ray(session)
        failures = session.read_file(f"{REMOTE_DIR}/failures.json")
        sight = session.read_file(f"{REMOTE_DIR}/platform.json")
        self._failures = read_failures(failures.decode()) if failures else []
        self._sight = read_sight(sight.decode()) if sight else None
        if self._sight is not None and self._sight.error is not None:
            self._problems.append(
                f"the autoscaler on the head has not seen the platform since {self._sight.since}: {self._sight.error}"
            )

    def _ask_ray(self, session: SshSession) -> None:
        try:
            asked = session.run(f". {REMOTE_DIR}/profile; ray status", timeout=_RAY_STATUS_SECONDS)
        except ProvisioningTimeoutError as error:  # Ray hangs; what lies in files can still be read
            self._problems.append(f"Ray does not answer on the head: {error}")
            return
        if asked.exit_status == 0:
            self._ray_status = asked.stdout
        else:
            self._problems.append(f"ray status on the head failed: {asked.stderr.strip()[-300:]}")

    def seen(self) -> ClusterStatus:
        cluster, view = self._cluster, self._view
        now = datetime.now(timezone.utc)
        return ClusterStatus(
            cluster=self._config.cluster_name,
            namespace=self._config.namespace,
            platform=PlatformStatus(self._answers, self._error, self._sight),
            requirement=None if cluster is None else cluster.name,
            requirement_status=None if cluster is None else cluster.status,
            age_seconds=None if cluster is None else max((now - cluster.created).total_seconds(), 0.0),
            lifetime_left_seconds=None if cluster is None else self._lifetime_left(cluster, now),
            nodes=() if cluster is None or view is None else tuple(self._nodes(cluster, view, now)),
            pools=tuple(self._pools),
            failures=tuple(self._failures),
            ray_status=self._ray_status,
            problems=tuple(self._problems),
        )

    def _nodes(self, cluster: ClusterRecord, view: ClusterView, now: datetime) -> list[NodeStatus]:
        failed = {failure.node for failure in self._failures if failure.category == "NodeFailed"}
        nodes = []
        for node in view.nodes().values():
            kind = "head" if _is_head(cluster, node) else "worker"
            node_type = node.environment.get("RAY_NODE_TYPE_NAME") or launch_tags(node).get("ray-user-node-type", "")
            status = _status_of(node, kind, node_type, view.address(node.name), now)
            if node.name in failed and not node.abort_requested:
                status = replace(status, state="failed")
            nodes.append(status)
        if self._observability is not None:
            node, address = self._observability
            status = _status_of(node, "observability", clusters.OBSERVABILITY_GROUP, address, now)
            nodes.append(replace(status, public_ip=None))  # it is reached through the head
        return sorted(nodes, key=lambda node: (node.kind, node.node_type, node.node_id))

    def _lifetime_left(self, cluster: ClusterRecord, now: datetime) -> float:
        """The head's task ends by then, and the workers with it; what the YAML says now may differ."""
        end = cluster.created + self._config.lifetime
        head = self._head
        if head is not None and head.started is not None and head.timeout_seconds is not None:
            end = head.started + timedelta(seconds=head.timeout_seconds)
        return max((end - now).total_seconds(), 0.0)


def _is_head(cluster: ClusterRecord, node: NodeRecord) -> bool:
    group = cluster.group(clusters.HEAD_GROUP)
    return group is not None and node.group_id == group.group_id


def _status_of(node: NodeRecord, kind: str, node_type: str, address: NodeAddress | None, now: datetime) -> NodeStatus:
    state = _STATES.get(node.status, "starting")
    if node.state is NodeState.ENDED:
        state = "failed" if node.status == "FAILED" else "ended"
    elif node.abort_requested:
        state = "ending"
    running = node.state is NodeState.RUNNING and node.started is not None
    return NodeStatus(
        node_id=node.name,
        node_type=node_type,
        kind=kind,
        state=state,
        status=node.status,
        private_ip=address.private_ip if address else None,
        public_ip=address.public_ip if address else None,
        age_seconds=max((now - node.started).total_seconds(), 0.0) if running and node.started else None,
    )
