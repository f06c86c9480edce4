"""Bringing a head up from this machine: its work requirement, pool and task; then, over SSH, what it needs.

``create_node`` may wait here: Ray's own limit starts afterwards (``get_or_create_head_node``), and a wait of ours
can say what it waits for. The whole of it has one deadline, ``head_node_build_timeout_minutes``.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raydog.autoscaler import carry, scripts
from raydog.autoscaler.config import ClusterConfig, NodeType, SshAuth
from raydog.autoscaler.environment import head_environment
from raydog.autoscaler.provisioning import add_head_pool
from raydog.errors import (
    ConfigError,
    MissingFileError,
    NotFoundError,
    PlatformError,
    PlatformUnavailableError,
    ProvisioningError,
    ProvisioningTimeoutError,
    StateError,
)
from raydog.progress import Progress
from raydog.ssh import RemoteFile, SshSession, SshTarget, wait_for_login
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import (
    ClusterRecord,
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
        self._deadline = time.monotonic() + config.head_build_timeout.total_seconds()

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
            self._gateway, self._name, self._config.tag, node_type.name, self._config.lifetime, cluster_id
        )
        self._yield_to_older(cluster)
        node = self._submit(cluster, node_type, tags, digests)
        pool = add_head_pool(self._gateway, self._config, cluster, node_type)
        node = self._await_executing(node, pool)
        address = self._await_address(node, pool)
        session = self._log_in(address)
        bring(session, self._config, self._credentials, node.name, self._remaining())
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
        bring(session, self._config, self._credentials, node.name, self._remaining())
        return Head(cluster, node, address, session)

    def _pool_of(self, cluster: ClusterRecord, node_type: NodeType) -> PoolRecord:
        """The head's pool; made here if whoever has submitted the head's task never came to making it."""
        tag = naming.worker_tag(cluster.cluster_id, node_type.name)

        started = time.monotonic()

        def made() -> Ready[PoolRecord | None] | Pending:
            pools = clusters.find_pools(self._gateway, self._name, cluster.cluster_id)
            pool = next((pool for pool in pools if pool.worker_tag == tag), None)
            if pool is None and not clusters.is_overdue(cluster, time.monotonic() - started):
                return Pending("the head has no worker pool yet; somebody may be making it")
            return Ready(pool)

        return self._watch(made) or add_head_pool(self._gateway, self._config, cluster, node_type)

    def _remaining(self) -> float:
        return max(self._deadline - time.monotonic(), 1.0)

    def _clear_the_way(self) -> None:
        """Take down what an earlier attempt left behind; refuse to disturb a head that lives or is being made."""
        lingering = []
        for cluster in clusters.find_clusters(self._gateway, self._name):
            head = self._head_of(cluster)
            if head is not None and not clusters.has_ended(head):
                raise StateError(
                    f"cluster {self._config.cluster_name} has just been started by somebody else "
                    f"(work requirement {cluster.name}): run ray up again to use it, or ray down to end it"
                )
            lingering.append(cluster)
        ended = clusters.end_leftovers(self._gateway, self._name, lingering, self._progress.update)
        if ended:
            self._progress.done(f"ended what an earlier cluster had left: {', '.join(ended)}")

    def _head_of(self, cluster: ClusterRecord) -> NodeRecord | None:
        """A cluster's head. One without may be in the making: that is given its time."""
        started = time.monotonic()

        def settled() -> Ready[NodeRecord | None] | Pending:
            head = clusters.find_head(self._gateway, cluster)
            if head is None and not clusters.is_overdue(cluster, time.monotonic() - started):
                return Pending(f"work requirement {cluster.name} has no head yet; somebody may be starting it")
            return Ready(head)

        return self._watch(settled)

    def _yield_to_older(self, cluster: ClusterRecord) -> None:
        """Of two ``ray up`` at the same moment the older wins; names break a tie, so both see it the same way."""
        oldest = clusters.find_clusters(self._gateway, self._name)[:1]
        if oldest and oldest[0].cluster_id != cluster.cluster_id:
            raise StateError(
                f"another ray up is making cluster {self._config.cluster_name} at this very moment "
                f"(work requirement {oldest[0].name}); this one withdraws. Run ray up again to use the other's cluster"
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
            script=scripts.head_task(config.head_script),
            environment=environment,
            timeout_seconds=config.lifetime.total_seconds(),
            tag=config.tag,
        )
        return self._gateway.add_nodes(group.group_id, [request])[0]

    def _await_executing(self, node: NodeRecord, pool: PoolRecord) -> NodeRecord:
        last = node

        def executing() -> Ready[NodeRecord] | Pending:
            nonlocal last
            try:
                last = self._gateway.get_node(node.task_id)
            except (PlatformUnavailableError, NotFoundError) as error:  # a new task may not be readable at once
                return Pending(str(error))
            if last.state is NodeState.ENDED:
                raise ProvisioningError(
                    f"the head's task {last.name} is {last.status}: {last.reason or 'the platform gives no reason'}",
                    "HeadTaskEnded",
                )
            return Ready(last) if last.state is NodeState.RUNNING else Pending(f"the head's task is {last.status}")

        try:
            return self._wait(executing, max_interval=1.0)
        except WaitTimeout as timeout:
            trouble = self._compute_trouble(pool)
            raise ProvisioningTimeoutError(
                f"the head node was not EXECUTING within {self._minutes()}: its task {node.name} is {last.status}, its "
                f"worker pool {pool.name} is {self._pool_status(pool)}{trouble}. Check that the compute requirement "
                f"template can give a machine, or raise {_BUILD_PROPERTY}"
            ) from timeout

    def _pool_status(self, pool: PoolRecord) -> str:
        try:
            return self._gateway.get_pool(pool.pool_id).status
        except PlatformError as error:
            return f"unknown ({error})"

    def _compute_trouble(self, pool: PoolRecord) -> str:
        if pool.compute_requirement_id is None:
            return ""
        try:
            messages = self._gateway.compute_messages(pool.compute_requirement_id)
        except PlatformError as error:
            return f" ({error})"
        return f" ({'; '.join(messages)})" if messages else ""

    def _await_address(self, node: NodeRecord, pool: PoolRecord | None) -> NodeAddress:
        def known() -> Ready[NodeAddress] | Pending:
            try:
                address = self._gateway.node_address(node, pool)
            except (PlatformUnavailableError, NotFoundError) as error:
                return Pending(str(error))
            if address is None:
                return Pending("the head's address is not known yet")
            if not session_host(self._config, address):
                return Pending("the head has no public address yet")
            return Ready(address)

        try:
            return self._wait(known)
        except WaitTimeout as timeout:
            raise ProvisioningTimeoutError(
                f"{timeout.observed} within {self._minutes()}: if its machines have no public address, "
                "set provider.use_internal_ips: true and connect through a VPN or auth.ssh_proxy_command"
            ) from timeout

    def _log_in(self, address: NodeAddress) -> SshSession:
        target = ssh_target(self._config, session_host(self._config, address))
        return wait_for_login(target, self._remaining(), on_pending=self._progress.update)

    def _watch(self, condition: Callable[[], Ready[T] | Pending]) -> T:
        """Wait for what `is_overdue` bounds, so it takes this long only if the platform answers slowly."""
        try:
            return wait_until(condition, clusters.HEADLESS_GRACE_SECONDS * 4, on_pending=self._progress.update)
        except WaitTimeout as timeout:
            raise PlatformUnavailableError(f"the platform answers too slowly: {timeout.observed}") from timeout

    def _wait(self, condition: Callable[[], Ready[T] | Pending], max_interval: float = 2.0) -> T:
        return wait_until(
            condition,
            self._remaining(),
            interval=0.03,
            max_interval=max_interval,
            on_pending=self._progress.update,
        )

    def _minutes(self) -> str:
        return f"{self._config.head_build_timeout.total_seconds() / 60:g} minutes"


def session_host(config: ClusterConfig, address: NodeAddress) -> str:
    """Where this machine reaches the head; empty if it has no such address."""
    return address.private_ip if config.head_needs_internal_ip else address.public_ip or ""


def ssh_target(config: ClusterConfig, host: str) -> SshTarget:
    """How to log in to the head. Raises `ConfigError` without an ``auth`` section."""
    auth: SshAuth | None = config.auth
    if auth is None:
        raise ConfigError("auth: missing; write ssh_user and ssh_private_key, with which to log in to nodes")
    return SshTarget(host, auth.user, private_key=auth.private_key, proxy_command=auth.proxy_command)


def bring(session: SshSession, config: ClusterConfig, credentials: Credentials, node_id: str, timeout: float) -> None:
    """Bring the head what it waits for, unless somebody has: credentials, RayDog itself, the user's files.

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
