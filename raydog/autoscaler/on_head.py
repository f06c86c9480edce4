"""The provider on the head, where Ray's autoscaler runs: memory for reads, threads for everything that takes time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    STATUS_SETTING_UP,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from raydog.autoscaler import scripts
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.environment import (
    CLUSTER_ID,
    NODE_ID,
    REQUIREMENT_ID,
    launch_tags,
    worker_environment,
)
from raydog.autoscaler.failures import FailureLog
from raydog.autoscaler.pools import WorkerPools
from raydog.autoscaler.redis_tags import connect_redis
from raydog.autoscaler.side import Tags
from raydog.autoscaler.tags import TagStore
from raydog.autoscaler.terminator import Terminator
from raydog.errors import PlatformUnavailableError, ProvisioningError, RayDogError, StateError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming, ownership
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeAddress, NodeRecord, NodeRequest, NodeState
from raydog.yellowdog.view import ClusterView

logger = logging.getLogger(__name__)

_CHANGES_SECONDS = 1.0
_FULL_SWEEP_SECONDS = 30.0
_LONGEST_PAUSE = 5.0
_FIRST_SWEEP_SECONDS = 10.0
_WAITING_SECONDS = 15.0


class HeadSide:
    """Serves Ray's loop from a `ClusterView` that a thread keeps up to date."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._environ = dict(os.environ)
        self._directory = Path.home() / scripts.REMOTE_DIR
        self._failures = FailureLog(self._directory / "failures.json")
        self._lock = threading.Lock()
        self._groups_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._view: ClusterView | None = None
        self._ready = threading.Event()
        self._shown: Mapping[str, NodeRecord] = {}
        self._shown_from: tuple[object, frozenset[str]] | None = None
        self._head_name = self._environ.get(NODE_ID, "")
        self._seen_ended: set[str] = set()
        self._waiting_since: dict[str, float] = {}
        self._gateway: Gateway | None = None
        self._swift: Gateway | None = None
        self._pools: WorkerPools | None = None
        self._terminator: Terminator | None = None
        self._tags = TagStore(self._connect_tags, f"raydog:{self._requirement_name()}")

    def _requirement_name(self) -> str:
        return naming.requirement_name(self._config.cluster_name, self._environ.get(CLUSTER_ID, ""))

    def _connect_tags(self) -> Any:
        file = self._directory / "redis.password"
        password = file.read_text().strip() if file.exists() else None
        return connect_redis("127.0.0.1", self._config.tag_server_port, password)

    # Reading

    def refresh(self) -> None:
        """See that the sweeping thread runs. Waits once, briefly, for the first sweep: an empty answer would make Ray
        launch what is there already."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._sweep_forever, name="raydog-sweep", daemon=True)
                self._thread.start()
        if not self._ready.wait(_FIRST_SWEEP_SECONDS):
            raise PlatformUnavailableError(
                "the platform has not answered since this autoscaler started, so its nodes are not known yet"
            )

    def nodes(self) -> Mapping[str, NodeRecord]:
        view, terminator = self._view, self._terminator
        if view is None or terminator is None:
            return self._shown
        current, ending = view.nodes(), frozenset(terminator.ending())
        with self._lock:
            if self._shown_from is None or self._shown_from[0] is not current or self._shown_from[1] != ending:
                self._shown = {name: node for name, node in current.items() if name not in ending}
                self._shown_from = (current, ending)
            return self._shown

    def stored_tags(self) -> Mapping[str, Tags]:
        return self._tags.read()

    def is_head(self, node: NodeRecord) -> bool:
        return node.name == self._head_name

    def address(self, name: str) -> NodeAddress | None:
        return None if self._view is None else self._view.address(name)

    def set_tags(self, name: str, tags: Tags) -> None:
        self._tags.update(name, tags)

    # Sweeping

    def _sweep_forever(self) -> None:
        pause, last_full = _CHANGES_SECONDS, 0.0
        while True:
            try:
                view = self._open()
                if time.monotonic() - last_full >= _FULL_SWEEP_SECONDS:
                    view.sweep()
                    last_full = time.monotonic()
                else:
                    view.sweep_changes()
                self._ready.set()
                self._look_after(view)
                pause = _CHANGES_SECONDS
            except RayDogError as error:
                logger.warning("serving what was known before: %s", error)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                # Whatever it is, the loop must go on: without it Ray would work on what was true once.
                logger.exception("sweeping nodes failed")
                pause = _LONGEST_PAUSE
            time.sleep(pause)

    def _open(self) -> ClusterView:
        """The view, made when the platform can first be asked."""
        if self._view is None:
            credentials = load_credentials(self._environ)
            self._gateway, self._swift = Gateway(credentials), Gateway(credentials, swift=True)
            requirement_id, cluster_id = self._environ.get(REQUIREMENT_ID), self._environ.get(CLUSTER_ID)
            if not requirement_id or not cluster_id:
                raise StateError(f"{REQUIREMENT_ID} and {CLUSTER_ID} are not set: this is no head that RayDog has made")
            view = ClusterView(self._swift, self._swift.get_cluster(requirement_id, cluster_id))
            self._pools = WorkerPools(self._gateway, self._config)
            self._terminator = Terminator(self._swift, view.nodes)
            self._view = view
        return self._view

    def _look_after(self, view: ClusterView) -> None:
        """What needs attention now and then: reasons of lost nodes, tags of ended ones, tasks whose pool has gone."""
        ended = [node for name, node in view.ended().items() if name not in self._seen_ended]
        for node in ended:
            self._seen_ended.add(node.name)
            if node.status == "FAILED":
                node_type = launch_tags(node).get(TAG_RAY_USER_NODE_TYPE, "")
                self._failures.add(node_type, "NodeFailed", f"{node.name}: {node.reason or 'no reason given'}")
        if ended:
            self._tags.remove([node.name for node in ended])
        if self._tags.data_lost:
            self._tags.rebuild({name: launch_tags(node) for name, node in view.nodes().items()})
        now = time.monotonic()
        waiting = {n.name: n for n in view.nodes().values() if n.state is NodeState.PENDING}
        self._waiting_since = {name: self._waiting_since.get(name, now) for name in waiting}
        overdue = [n for name, n in waiting.items() if now - self._waiting_since[name] > _WAITING_SECONDS]
        if overdue and self._pools is not None:
            types = Counter(launch_tags(node).get(TAG_RAY_USER_NODE_TYPE, "") for node in overdue)
            self._pools.ensure_for_waiting(view.cluster, types)

    # Changing

    def create_head(self, node_config: Mapping[str, Any], tags: Tags) -> None:
        raise StateError("a head does not make heads")

    def create_workers(
        self,
        node_config: Mapping[str, Any],
        tags: Tags,
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        """Called in Ray's launch threads, so it may take its time. Raises `NodeLaunchException` with the reason."""
        node_type = tags.get(TAG_RAY_USER_NODE_TYPE, "")
        try:
            self.refresh()
            self._create(node_config, tags, count, resources, labels)
        except RayDogError as error:
            category = error.category if isinstance(error, ProvisioningError) else type(error).__name__[:20]
            self._failures.add(node_type, category, str(error))
            raise NodeLaunchException(category, str(error), None) from error

    def _create(
        self,
        node_config: Mapping[str, Any],
        tags: Tags,
        count: int,
        resources: Mapping[str, float],
        labels: Mapping[str, str],
    ) -> None:
        view, pools, gateway = self._view, self._pools, self._gateway
        if view is None or pools is None or gateway is None:
            raise PlatformUnavailableError("the platform has not answered yet")
        node_type = NodeType.from_node_config(tags[TAG_RAY_USER_NODE_TYPE], node_config, resources, labels)
        cluster = view.cluster
        seconds = self._remaining_lifetime(cluster)
        head_ip = self._head_ip(view)
        group_id = self._group_id(view, gateway, node_type.name, seconds)
        launched = dict(tags)
        if not self._config.node_updaters:
            launched[TAG_RAY_NODE_STATUS] = STATUS_SETTING_UP
        script = scripts.worker_task(self._config.worker_script)
        requests = []
        for _ in range(count):
            name = naming.node_name(self._config.cluster_name, cluster.cluster_id, node_type.name, naming.new_suffix())
            environment = worker_environment(
                self._config,
                cluster,
                name,
                node_type.name,
                launched,
                head_ip=head_ip,
                resources=resources,
                labels=labels,
            )
            requests.append(NodeRequest(name, script, environment, seconds, self._config.tag))
        # Work first: an empty pool whose idle time-out is short could be gone before its work arrives.
        added = gateway.add_nodes(group_id, requests)
        view.add(added)
        try:
            pools.ensure(cluster, node_type, count)
        except RayDogError:
            self.terminate([node.name for node in added])
            raise

    def _remaining_lifetime(self, cluster: ClusterRecord) -> float:
        age = datetime.now(timezone.utc) - cluster.created
        remaining = (self._config.lifetime - age).total_seconds()
        if remaining <= 0:
            hours = self._config.lifetime.total_seconds() / 3600
            raise ProvisioningError(
                f"the cluster's lifetime (cluster_lifetime_hours: {hours:g}) is over", "LifetimeOver"
            )
        return remaining

    def _head_ip(self, view: ClusterView) -> str:
        address = view.address(self._head_name)
        return address.private_ip if address is not None else str(ray.util.get_node_ip_address())

    def _group_id(self, view: ClusterView, gateway: Gateway, node_type: str, seconds: float) -> str:
        name = ownership.group_name(node_type)
        with self._groups_lock:
            group = view.cluster.group(name)
            if group is None:
                request = clusters.worker_group(view.cluster.cluster_id, node_type, seconds)
                group = view.replace_cluster(gateway.add_group(view.cluster, request)).group(name)
            if group is None:
                raise ProvisioningError(f"the platform did not keep task group {name}", "NoTaskGroup")
            return group.group_id

    def terminate(self, names: Sequence[str]) -> None:
        """Returns at once. A head does not end itself here: that is ``ray down``'s."""
        if self._terminator is None:
            raise PlatformUnavailableError("the platform has not answered yet")
        self._terminator.end(name for name in names if name != self._head_name)

    def replace_head(self, head: NodeRecord) -> None:
        raise StateError("the head cannot be replaced from itself; use ray down")

    def complete_head(self, node_type: str, node_config: Mapping[str, Any]) -> None:
        """Nothing to bring: this is the head."""

    def clean_up(self) -> None:
        """``ray down`` is for clients: their machine goes on when the head has ended."""
