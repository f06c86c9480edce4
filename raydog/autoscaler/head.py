"""Bringing a head up from this machine: its work requirement, pool and task; then, over SSH, what it needs.

``create_node`` may wait here: Ray's own limit starts afterwards (``get_or_create_head_node``), and a wait of ours
can say what it waits for. The whole of it has one deadline, ``head_node_build_timeout_minutes``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raydog.autoscaler import carry, scripts
from raydog.autoscaler.config import ClusterConfig, NodeType, SshAuth
from raydog.autoscaler.environment import OBSERVABILITY_HOST, head_environment, observability_environment
from raydog.autoscaler.provisioning import add_single_pool
from raydog.errors import (
    ConfigError,
    MissingFileError,
    PlatformError,
    ProvisioningError,
    StateError,
)
from raydog.observability import node_script
from raydog.progress import Progress
from raydog.ssh import RemoteFile, SshSession, SshTarget, wait_for_login
from raydog.waiting import Pending, Ready
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import launching, naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.launching import Patience
from raydog.yellowdog.records import (
    ClusterRecord,
    GroupRequest,
    NodeAddress,
    NodeRecord,
    NodeRequest,
    NodeState,
    PoolRecord,
)

T = TypeVar("T")
_TASK_APPEARS_SECONDS = 15
_BUILD_PROPERTY = "provider.head_node_build_timeout_minutes"


@dataclass(frozen=True)
class Head:
    """A head that runs, where it is, and a login to it."""

    cluster: ClusterRecord
    node: NodeRecord
    address: NodeAddress
    session: SshSession


class HeadLauncher:
    """Makes the head of one cluster. ``made`` is called with a cluster's id before anything of it exists."""

    def __init__(
        self,
        gateway: Gateway,
        credentials: Credentials,
        config: ClusterConfig,
        progress: Progress,
        made: Callable[[str], None],
    ) -> None:
        self._gateway = gateway
        self._credentials = credentials
        self._config = config
        self._name = ClusterName(config.namespace, config.cluster_name)
        self._progress = progress
        self._made = made
        self._beside: NodeRecord | None = None  # the observability node, and its pool
        self._pool_beside: PoolRecord | None = None
        seconds = config.head_build_timeout.total_seconds()
        self._deadline = time.monotonic() + seconds
        self._patience = Patience(
            self._remaining, f"{seconds / 60:g} minutes", f"raise {_BUILD_PROPERTY}", progress.update
        )

    def launch(self, node_type: NodeType, tags: Mapping[str, str], digests: Mapping[str, str]) -> Head:
        """Make the cluster and its head; return when the head has all that it needs to start Ray.

        Raises `ProvisioningError` (with what was seen last), `CredentialsError`, `ConfigError`, `PlatformError`.
        What was made is the caller's to take down.
        """
        self._clear_the_way()
        self._progress.update("making the work requirement")
        cluster_id = naming.new_cluster_id()
        self._made(cluster_id)
        cluster = clusters.add_cluster(
            self._gateway,
            self._name,
            self._config.tag,
            node_type.name,
            self._config.lifetime,
            cluster_id,
            self._groups_beside(cluster_id),
        )
        self._yield_to_older(cluster)
        self._submit_observability(cluster)
        node = self._submit(cluster, node_type, tags, digests)
        pool = self._add_pools(cluster, node_type)
        node = self._await_executing(node, pool)
        address = self._await_address(node, pool)
        session = self._log_in(address)
        self._bring(session, cluster, node)
        self._progress.done(f"the head runs at {session_host(self._config, address)}")
        return Head(cluster, node, address, session)

    def resume(self, cluster: ClusterRecord, node: NodeRecord, node_type: NodeType) -> Head:
        """Go on with a head that is there already, whatever an interrupted ``ray up`` has not done for it.

        Raises what `launch` raises. Nothing is taken down: it may be another's.
        """
        pool = None
        if node.state is not NodeState.RUNNING:
            pool = self._pool_of(cluster, node_type)
            node = self._await_executing(node, pool)
        address = self._await_address(node, pool)
        session = self._log_in(address)
        self._bring(session, cluster, node)
        return Head(cluster, node, address, session)

    def _bring(self, session: SshSession, cluster: ClusterRecord, node: NodeRecord) -> None:
        def also() -> list[RemoteFile]:
            return self._where_observability_is(cluster)

        bring(session, self._config, self._credentials, node.name, self._remaining(), also)

    def _groups_beside(self, cluster_id: str) -> list[GroupRequest]:
        """The observability node's task group, if there is to be such a node. The cluster outlives it if it fails."""
        if self._config.observability is None:
            return []
        tag = self._name.worker_tag(cluster_id, clusters.OBSERVABILITY_GROUP)
        seconds = self._config.lifetime.total_seconds()
        return [GroupRequest(clusters.OBSERVABILITY_GROUP, tag, tag, seconds, finish_if_all_tasks_finished=True)]

    def _submit_observability(self, cluster: ClusterRecord) -> None:
        """Comes before the head's task, so that a cluster with a head lacks nothing but perhaps pools."""
        group = cluster.group(clusters.OBSERVABILITY_GROUP)
        if group is None:
            return
        config = self._config
        request = NodeRequest(
            name=naming.node_name(config.cluster_name, cluster.cluster_id, group.name, naming.new_suffix()),
            script=config.observability_script or node_script(),
            environment=observability_environment(config, cluster),
            timeout_seconds=config.lifetime.total_seconds(),
            tag=config.tag,
        )
        self._beside = self._gateway.add_nodes(group.group_id, [request])[0]

    def _add_pools(self, cluster: ClusterRecord, node_type: NodeType) -> PoolRecord:
        """Make the head's pool, which is returned, and at the same time the observability node's.

        Both calls are over when this is left, in whatever way.
        """
        beside = self._config.observability
        with ThreadPoolExecutor(1, thread_name_prefix="raydog-pool") as executor:
            other = beside and executor.submit(add_single_pool, self._gateway, self._config, cluster, beside)
            pool = add_single_pool(self._gateway, self._config, cluster, node_type)
            try:
                self._pool_beside = other.result() if other else None
            except ProvisioningError as error:
                raise ProvisioningError(f"provider.observability: {error}", error.category) from error
        return pool

    def _where_observability_is(self, cluster: ClusterRecord) -> list[RemoteFile]:
        """What tells the head's scripts where Prometheus is, as soon as that node runs; nothing without such a node."""
        machine = self._config.observability
        if machine is None:
            return []
        node = self._beside or clusters.find_observability_node(self._gateway, cluster)
        if node is None:
            return []
        pool = self._pool_beside or self._pool_of(cluster, machine)
        node = launching.await_executing(self._gateway, node, pool, self._patience, what="observability")
        address = launching.await_address(self._gateway, node, pool, self._patience, what="observability")
        line = f"export {OBSERVABILITY_HOST}={shlex.quote(address.private_ip)}\n"
        return [RemoteFile(scripts.OBSERVABILITY_FILE, line.encode())]

    def _pool_of(self, cluster: ClusterRecord, node_type: NodeType) -> PoolRecord:
        """A node's pool; made here if whoever has submitted the node's task never came to making it."""
        tag = naming.worker_tag(cluster.cluster_id, node_type.name)

        started = time.monotonic()

        def made() -> Ready[PoolRecord | None] | Pending:
            pools = clusters.find_pools(self._gateway, self._name, cluster.cluster_id)
            pool = next((pool for pool in pools if pool.worker_tag == tag), None)
            if pool is None and not clusters.is_overdue(cluster, time.monotonic() - started):
                return Pending(f"{node_type.name} has no worker pool yet; somebody may be making it")
            return Ready(pool)

        return launching.watch_making(made, self._progress.update) or add_single_pool(
            self._gateway, self._config, cluster, node_type
        )

    def _remaining(self) -> float:
        return max(self._deadline - time.monotonic(), 1.0)

    def _clear_the_way(self) -> None:
        """Take down what an earlier attempt left behind; refuse to disturb a head that lives or is being made."""
        lingering = []
        for cluster in clusters.find_clusters(self._gateway, self._name):
            head = launching.await_settled_head(self._gateway, cluster, self._progress.update)
            if head is not None and not clusters.has_ended(head):
                raise StateError(
                    f"cluster {self._config.cluster_name} has just been started by somebody else "
                    f"(work requirement {cluster.name}): run ray up again to use it, or ray down to end it"
                )
            lingering.append(cluster)
        ended = teardown.end_leftovers(self._gateway, self._name, lingering, self._progress.update)
        if ended:
            self._progress.done(f"ended what an earlier cluster had left: {', '.join(ended)}")

    def _yield_to_older(self, cluster: ClusterRecord) -> None:
        """Of two ``ray up`` at the same moment the older wins."""
        older = clusters.older_than(self._gateway, self._name, cluster)
        if older is not None:
            raise StateError(
                f"another ray up is making cluster {self._config.cluster_name} at this very moment "
                f"(work requirement {older.name}); this one withdraws. Run ray up again to use the other's cluster"
            )

    def _submit(
        self, cluster: ClusterRecord, node_type: NodeType, tags: Mapping[str, str], digests: Mapping[str, str]
    ) -> NodeRecord:
        config = self._config
        group = cluster.group(clusters.HEAD_GROUP)
        if group is None:
            raise PlatformError(f"work requirement {cluster.name} came back without its task group")
        name = naming.node_name(config.cluster_name, cluster.cluster_id, node_type.name, naming.new_suffix())
        environment = head_environment(config, cluster, name, node_type.name, tags, digests)
        if config.credentials == "task_environment":
            environment.update(self._credentials.as_environment())
        request = NodeRequest(
            name=name,
            script=scripts.head_task(config.head_script, observed=config.observability is not None),
            environment=environment,
            timeout_seconds=config.lifetime.total_seconds(),
            tag=config.tag,
        )
        return self._gateway.add_nodes(group.group_id, [request])[0]

    def _await_executing(self, node: NodeRecord, pool: PoolRecord) -> NodeRecord:
        return launching.await_executing(self._gateway, node, pool, self._patience)

    def _await_address(self, node: NodeRecord, pool: PoolRecord | None) -> NodeAddress:
        return launching.await_address(
            self._gateway,
            node,
            pool,
            self._patience,
            lacks=lambda address: None if session_host(self._config, address) else "the head has no public address yet",
            hint=": if its machines have no public address, set provider.use_internal_ips: true and connect through "
            "a VPN or auth.ssh_proxy_command",
        )

    def _log_in(self, address: NodeAddress) -> SshSession:
        target = ssh_target(self._config, session_host(self._config, address))
        return wait_for_login(target, self._remaining(), on_pending=self._progress.update)


def session_host(config: ClusterConfig, address: NodeAddress) -> str:
    """Where this machine reaches the head; empty if it has no such address."""
    return address.private_ip if config.head_needs_internal_ip else address.public_ip or ""


def ssh_target(config: ClusterConfig, host: str) -> SshTarget:
    """How to log in to the head. Raises `ConfigError` without an ``auth`` section."""
    auth: SshAuth | None = config.auth
    if auth is None:
        raise ConfigError("auth: missing; write ssh_user and ssh_private_key, with which to log in to nodes")
    return SshTarget(host, auth.user, private_key=auth.private_key, proxy_command=auth.proxy_command)


def bring(
    session: SshSession,
    config: ClusterConfig,
    credentials: Credentials,
    node_id: str,
    timeout: float,
    also: Callable[[], Sequence[RemoteFile]] = tuple,
) -> None:
    """Bring the head what it waits for, unless somebody has: credentials, RayDog itself, the user's files, and what
    ``also`` gives, which may take its time.

    Secrets go into files that only the task's user can read. Raises `ProvisioningError` if the task does not run as the
    user that we log in as, or has failed already.
    """
    directory = scripts.REMOTE_DIR
    looked = session.run(
        f'came() {{ [ "$(cat {directory}/task 2>/dev/null)" = {shlex.quote(node_id)} ]; }}; '
        f"for i in $(seq {_TASK_APPEARS_SECONDS * 50}); do came && break; sleep 0.02; done; "
        f"came && cd {directory} || exit 3; "
        "[ -e exit_status ] && { tail -n 40 task.log; exit 4; }; [ -e ready ] && exit 5; exit 0",
        timeout=timeout,
    )
    if looked.exit_status == 5:
        return
    if looked.exit_status == 3:
        user = config.auth.user if config.auth else "?"
        raise ProvisioningError(
            f"logged in as {user}, but the head's task has left nothing in that user's home folder: auth.ssh_user "
            "must be the user that runs YellowDog's tasks on the node, usually yd-agent",
            "WrongSshUser",
        )
    if looked.exit_status == 4:
        raise ProvisioningError(
            f"the head's script failed; its last output:\n{looked.stdout.strip()}", "HeadScriptFailed"
        )
    archive = f"site-{naming.new_suffix()}.tar.gz"  # another ray up may be bringing the same
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in credentials.as_environment().items())
    session.write_files(
        [
            RemoteFile(f"{directory}/credentials.env", exports.encode()),
            RemoteFile(f"{directory}/start.sh", scripts.start_script().encode(), 0o700),
            RemoteFile(f"{directory}/{archive}", carry.archive()),
            *_uploads(config),
            *also(),
        ],
        timeout,
    )
    unpacked = session.run(
        f"cd {directory} && mkdir -p site && tar -xzf {archive} -C site && rm {archive} && touch ready || exit 1; "
        # Ray's monitor would compile it while Ray starts; here it costs nobody's time, and it need not succeed.
        "if [ -e profile ]; then . ./profile; (nohup python3 -m compileall -q site >/dev/null 2>&1 &); fi",
        timeout=timeout,
    )
    unpacked.check("unpacking RayDog on the head")


def _uploads(config: ClusterConfig) -> list[RemoteFile]:
    files = []
    for upload in config.files_to_upload:
        try:
            data = Path(upload.source).expanduser().read_bytes()
        except OSError as error:
            raise MissingFileError(f"provider.files_to_upload: {upload.source}: {error.strerror}") from error
        files.append(RemoteFile(upload.destination, data))
    return files
