"""The provider on somebody's machine: ``ray up``, ``down``, ``exec``, ``get-head-ip`` and the like."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from ray.autoscaler.tags import STATUS_UP_TO_DATE, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

from raydog.autoscaler import remembered
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.environment import changed_parts
from raydog.autoscaler.files import base_dirs
from raydog.autoscaler.remembered import RememberedHead
from raydog.autoscaler.side import Tags
from raydog.autoscaler.watching import TeardownWatch
from raydog.errors import ConfigError, RayDogError, StateError
from raydog.interrupts import InterruptGuard
from raydog.progress import Progress
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials, load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeAddress, NodeRecord
from raydog.yellowdog.view import ClusterView

if TYPE_CHECKING:
    from raydog.autoscaler.head import Head
    from raydog.autoscaler.tags import TagStore
    from raydog.ssh import SshSession, Tunnel

# What goes wrong for a moment is tried again; what stays wrong is raised. Neither is for the terminal of a Ray command.
logging.getLogger("raydog").addHandler(logging.NullHandler())

_TEARDOWN_SECONDS = 120.0
_LOGIN_SECONDS = 30.0
_EMPTY: Mapping[str, NodeRecord] = {}
_NO_TAGS: Mapping[str, Tags] = {}


class ClientSide:
    """Asks the platform at each look, and the head's tag server only where somebody writes tags."""

    def __init__(self, config: ClusterConfig, head_digests: Mapping[str, str]) -> None:
        self._config = config
        self._digests = head_digests
        self._name = ClusterName(config.namespace, config.cluster_name)
        self._view: ClusterView | None = None
        self._session: SshSession | None = None
        self._tunnel: Tunnel | None = None
        self._tags: TagStore | None = None
        self._lock = threading.RLock()
        self._made: str | None = None
        self._watch: TeardownWatch | None = None
        self._guard = InterruptGuard(self._end_what_was_made)
        if config.config_cache_path is not None:
            self._distrust(Path(config.config_cache_path))

    def _distrust(self, cache: Path) -> None:
        """Remove Ray's cache of the bootstrapped YAML, now and (a command may bootstrap twice) at the end.

        It is keyed on the YAML's text alone. One that a killed command left in another folder names that folder's
        files, so it must not be used.
        """
        cache.unlink(missing_ok=True)
        atexit.register(cache.unlink, missing_ok=True)
        here = tuple(str(folder) for folder in base_dirs())
        if self._config.base_dirs and self._config.base_dirs != here:
            raise ConfigError(
                f"Ray used a configuration that it had cached for an equal YAML in {self._config.base_dirs[0]}. "
                "The cache has been removed: run the command again"
            )

    @cached_property
    def _credentials(self) -> Credentials:
        return load_credentials()

    @cached_property
    def _gateway(self) -> Gateway:
        return Gateway(self._credentials)

    # Reading

    def refresh(self) -> None:
        with self._lock:
            if self._view is None:
                cluster = self._find()
                if cluster is None:
                    return
                self._view = ClusterView(self._gateway, cluster)
            self._view.sweep()

    def _find(self) -> ClusterRecord | None:
        """The cluster of this name that lives, or is being made."""
        for cluster in clusters.find_clusters(self._gateway, self._name):
            head = clusters.find_head(self._gateway, cluster)
            if head is not None and not clusters.has_ended(head):
                return cluster
        return None

    def nodes(self) -> Mapping[str, NodeRecord]:
        return _EMPTY if self._view is None else self._view.nodes()

    def stored_tags(self, *, fetch: bool) -> Mapping[str, Tags]:
        if self._tags is None:
            return _NO_TAGS
        return self._tags.read() if fetch else self._tags.known()

    def is_head(self, node: NodeRecord) -> bool:
        group = self._view.cluster.group(clusters.HEAD_GROUP) if self._view else None
        return group is not None and node.group_id == group.group_id

    def address(self, name: str) -> NodeAddress | None:
        with self._lock:
            if self._view is None:
                self.refresh()
            if self._view is None:
                return None
            return self._view.full_address(name)

    # Changing

    def create_head(self, node_config: Mapping[str, Any], tags: Tags) -> None:
        if not self._config.complete:
            raise ConfigError("this configuration was not bootstrapped by ray up, so no head can be made from it")
        from raydog.autoscaler.head import HeadLauncher  # noqa: PLC0415 - only ray up makes heads

        node_type = NodeType.from_node_config(
            tags[TAG_RAY_USER_NODE_TYPE], node_config, self._config.head_resources, self._config.head_labels
        )
        progress = Progress()
        launcher = HeadLauncher(self._gateway, self._credentials, self._config, progress, self._note_made)
        try:
            with self._guard.making():
                head = launcher.launch(node_type, tags, self._digests)
                self._take_over(head)
                # Ray looks for the head by these very tags, "uninitialized" among them.
                self._tag_store().update(head.node.name, tags)
        except BaseException as error:
            progress.close()
            self._end_after(error)
            raise

    def _take_over(self, head: Head) -> None:
        from raydog.autoscaler.head import session_host  # noqa: PLC0415 - reads need no SSH

        with self._lock:
            self._session = head.session
            self._view = ClusterView(self._gateway, head.cluster)
            self._view.add([head.node])
            self._view.know_address(head.node.name, head.address)
        known = RememberedHead(head.node.name, session_host(self._config, head.address))
        remembered.remember(self._gateway.api_url, self._name, known)

    def _note_made(self, cluster_id: str) -> None:
        self._made = cluster_id
        self._guard.arm()

    def _end_after(self, error: BaseException) -> None:
        """A head that could not be made is ended before the error goes on to Ray."""
        if self._made is None:
            return
        if isinstance(error, Exception):
            with self._guard.shielded():
                try:
                    self._end_what_was_made()
                except Exception as also:  # noqa: BLE001 - the first error is the one that tells why; it goes on
                    click.echo(f"RayDog: {also}", err=True)
            self._guard.disarm()
        else:
            self._guard.clean_up_now()

    def _end_what_was_made(self) -> Sequence[str]:
        gateway = Gateway(self._credentials)  # of its own: a signal may have come in the middle of a call of the other
        pools = teardown.request_teardown(gateway, self._name, cluster_id=self._made)
        going = teardown.await_teardown(gateway, self._name, pools, _TEARDOWN_SECONDS, cluster_id=self._made)
        gateway.close()
        remembered.forget(gateway.api_url, self._name)
        return going

    def create_workers(
        self,
        node_config: Mapping[str, Any],
        tags: Tags,
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        raise StateError("workers are made by the autoscaler on the head, not from here")

    def replace_head(self, head: NodeRecord) -> None:
        """``ray up`` would end a live head, and with it the cluster, because its YAML changed; even with -y."""
        changed = changed_parts(head, self._digests)
        what = f" ({', '.join(changed)})" if changed else ""
        raise ConfigError(
            f"the head's node_config, auth or node type has changed{what}. That needs a new head, which would "
            f"end cluster {self._config.cluster_name} and everything that runs on it, so ray up does not do it. "
            "Undo the change, or run ray down and then ray up"
        )

    def terminate(self, names: Sequence[str]) -> None:
        records = [node for node in map(self.nodes().get, names) if node is not None]
        if any(self.is_head(node) for node in records):
            self._close_session()
            progress = Progress()
            try:
                begun = teardown.request_teardown(self._gateway, self._name, report=progress.update)
            finally:
                progress.close()
            self._stop_watching()
            self._watch = TeardownWatch(self._gateway, self._name, begun, _TEARDOWN_SECONDS)
            # Ray asks until nothing is left. A task that does not heed its abort must not keep it here: `clean_up`
            # waits for the machines, with a limit, and says what is left.
            self._view = None
            return
        with ThreadPoolExecutor(8, thread_name_prefix="raydog-terminate") as executor:
            list(executor.map(lambda node: self._gateway.abort_node(node.task_id), records))

    def clean_up(self) -> None:
        """End what is left of the cluster and wait until it is gone; print what is not and exit with 1."""
        progress = Progress()
        try:
            gone = self._watch is not None and self._watch.gone
            self._stop_watching()
            begun = teardown.request_teardown(self._gateway, self._name, report=progress.update)
            going = []
            if not gone or begun.clusters or begun.pools:
                going = teardown.await_teardown(
                    self._gateway, self._name, begun, _TEARDOWN_SECONDS, report=progress.update
                )
        except RayDogError as error:
            error.show()
            raise SystemExit(1) from error
        except Exception as error:  # Ray would print a warning and exit with 0, with things perhaps left
            click.echo(f"Error: could not see whether everything has ended: {error!r}. Run ray down again", err=True)
            raise SystemExit(1) from error
        finally:
            progress.close()
        remembered.forget(self._gateway.api_url, self._name)
        for text in going:
            click.echo(f"RayDog: still ending by itself: {text}", err=True)

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    # Setting up

    def set_tags(self, name: str, tags: Tags) -> None:
        if tags.get(TAG_RAY_NODE_STATUS) == STATUS_UP_TO_DATE:
            self._guard.disarm()  # the cluster is usable; from here on it is the user's
        if self._guard.interrupted:
            return  # the head is being ended; Ray's thread that sets it up does not know yet
        self._tag_store().update(name, tags)

    def complete_head(self, node_type: str, node_config: Mapping[str, Any]) -> None:
        """Bring a head that lives already what an interrupted ``ray up`` may not have brought."""
        head = self._head()
        if self._session is not None or self._view is None or head is None:
            return
        from raydog.autoscaler.head import HeadLauncher  # noqa: PLC0415 - only ray up makes heads

        progress = Progress()
        launcher = HeadLauncher(self._gateway, self._credentials, self._config, progress, self._note_made)
        kind = NodeType.from_node_config(node_type, node_config, self._config.head_resources, self._config.head_labels)
        try:
            self._take_over(launcher.resume(self._view.cluster, head, kind))
        finally:
            progress.close()

    def _head(self) -> NodeRecord | None:
        return next((node for node in self.nodes().values() if self.is_head(node)), None)

    def _log_in(self) -> SshSession:
        from raydog.autoscaler.head import session_host, ssh_target  # noqa: PLC0415 - reads need no SSH
        from raydog.ssh import wait_for_login  # noqa: PLC0415

        with self._lock:
            if self._session is not None and self._session.is_alive:
                return self._session
            head = self._head()
            address = None if head is None else self.address(head.name)
            if address is None:
                raise StateError(f"cluster {self._config.cluster_name} has no head that can be reached")
            target = ssh_target(self._config, session_host(self._config, address))
            self._session = wait_for_login(target, _LOGIN_SECONDS)
            return self._session

    def _tag_store(self) -> TagStore:
        from raydog.autoscaler.tags import TagStore  # noqa: PLC0415 - reads need no Redis

        with self._lock:
            if self._tags is None:
                if self._view is None:
                    raise StateError(f"there is no cluster {self._config.cluster_name} to tag nodes of")
                self._tags = TagStore(self._connect_tags, f"raydog:{self._view.cluster.name}")
                atexit.register(self._close_session)
            return self._tags

    def _connect_tags(self) -> Any:
        from raydog.autoscaler.redis_tags import connect_redis  # noqa: PLC0415
        from raydog.autoscaler.scripts import REMOTE_DIR  # noqa: PLC0415
        from raydog.ssh import Tunnel  # noqa: PLC0415

        with self._lock:
            session = self._log_in()
            if self._tunnel is None:
                self._tunnel = Tunnel(session.target, "127.0.0.1", self._config.tag_server_port).start()
            else:
                self._tunnel.ensure()
            password = session.read_file(f"{REMOTE_DIR}/redis.password")
            return connect_redis("127.0.0.1", self._tunnel.local_port, password.decode().strip() if password else None)

    def close(self) -> None:
        """Write what has not been written yet, hang up, and close the connections to the platform."""
        self._stop_watching()
        self._close_session()
        if "_gateway" in self.__dict__:
            self._gateway.close()

    def _close_session(self) -> None:
        """Write what has not been written yet, and hang up."""
        with self._lock:
            tags, self._tags = self._tags, None
        if tags is not None:
            tags.close()  # not under the lock: it may wait for a thread that connects, which needs the lock
            if tags.unsent:
                why = tags.last_error
                click.echo(f"RayDog: the head's tag server did not take all tags: {why}", err=True)
        with self._lock:
            if self._tunnel is not None:
                self._tunnel.stop()
                self._tunnel = None
            if self._session is not None:
                self._session.close()
                self._session = None
