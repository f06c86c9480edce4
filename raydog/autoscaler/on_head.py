"""The provider on the head, where Ray's autoscaler runs: memory for reads, threads for everything that takes time."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import STATUS_SETTING_UP, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

from raydog.autoscaler import scripts
from raydog.autoscaler.capacity import PATIENCE, Patience
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.draining import Drainer, RayCluster, gcs_address
from raydog.autoscaler.environment import (
    AUTOSCALER_V2,
    CLUSTER_ID,
    LAUNCH_TAGS,
    NODE_ID,
    OBSERVABILITY_HOST,
    REQUIREMENT_ID,
    worker_environment,
)
from raydog.autoscaler.failures import FailureLog, PlatformLog
from raydog.autoscaler.head_files import BOOTSTRAP_CONFIG, node_type_in_yaml, with_credentials
from raydog.autoscaler.last_words import Answer, LastWords, Listener, port_for
from raydog.autoscaler.lifetime import Lifetime
from raydog.autoscaler.pools import WorkerPools, variant
from raydog.autoscaler.redis_tags import connect_redis
from raydog.autoscaler.rhythm import Rhythm
from raydog.autoscaler.side import Tags
from raydog.autoscaler.tags import TagStore
from raydog.autoscaler.terminator import PARALLEL_ABORTS, Terminator
from raydog.autoscaler.upkeep import Upkeep, category_of, node_type_of
from raydog.errors import PlatformUnavailableError, ProvisioningError, ProvisioningTimeoutError, RayDogError, StateError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming, ownership, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.machines import MachineWatch
from raydog.yellowdog.records import ClusterRecord, NodeAddress, NodeRecord, NodeRequest, NodeState
from raydog.yellowdog.view import ClusterView

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, in seconds."""

    changes: float = 2.0
    """While nodes come or go; `Rhythm` says when otherwise."""
    full_sweep: float = 30.0
    longest_pause: float = 5.0
    """Between attempts while the platform does not answer."""
    first_look: float = 10.0
    """How long the very first read waits for the platform's first answer, good or bad."""
    waiting: float = 8.0
    """How long a node waits for a machine before it is looked whether its pool is there and gives any."""
    patience: Patience = PATIENCE


PACE = Pace()


class HeadSide:
    """Serves Ray's loop from a `ClusterView` that a thread keeps up to date."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._pace = PACE
        self._environ = dict(os.environ)
        self._directory = Path.home() / scripts.REMOTE_DIR
        self._lock = threading.Lock()
        self._groups_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._view: ClusterView | None = None
        self._stop = threading.Event()
        self._looked = threading.Event()  # the platform has been asked once, with whatever result
        self._ready = threading.Event()  # it has answered once
        self._shown: tuple[object, frozenset[str], Mapping[str, NodeRecord]] = (None, frozenset(), {})
        self._remembered_from: object = None
        self._remembered: Mapping[str, NodeRecord] = {}
        self._head_name = self._environ.get(NODE_ID, "")
        self._gateway: Gateway | None = None
        self._swift: Gateway | None = None
        self._machines: MachineWatch | None = None
        self._pools: WorkerPools | None = None
        self._drainer = Drainer(RayCluster(gcs_address))
        self._lifetime = Lifetime(config)
        self._terminator = Terminator(lambda: self._swift, self._known_nodes)
        self._rhythm = Rhythm(self._pace.changes)
        self._tags = TagStore(self._connect_tags, f"raydog:{self._requirement_name()}")
        self._upkeep = Upkeep(
            config,
            FailureLog(self._directory / "failures.json"),
            self._tags,
            self.terminate,
            head_name=self._head_name,
            end_if_over=self._end_if_over,
            drain=self._drainer.drain,
            # Under v2 Ray itself ends such a node, and goes on to another type only if it sees it waiting.
            gives_up=self._environ.get(AUTOSCALER_V2, "1") == "0",
            waiting_limit=self._pace.waiting,
        )
        self._platform = PlatformLog(self._directory / "platform.json")
        self._listener = Listener(port_for(config.tag_server_port), self._take_last_words)

    def _requirement_name(self) -> str:
        return naming.requirement_name(self._config.cluster_name, self._environ.get(CLUSTER_ID, ""))

    def _connect_tags(self) -> Any:
        file = self._directory / "redis.password"
        password = file.read_text().strip() if file.exists() else None
        return connect_redis("127.0.0.1", self._config.tag_server_port, password)

    # Reading

    def refresh(self) -> None:
        """See that the sweeping thread runs. Only the first call waits, briefly, for the platform's first answer."""
        self._rhythm.ray_looks()
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._sweep_forever, name="raydog-sweep", daemon=True)
                self._thread.start()
                self._listener.start()
        if not self._looked.wait(self._pace.first_look):
            self._looked.set()

    def _known_nodes(self) -> Mapping[str, NodeRecord] | None:
        return self._view.nodes() if self._view is not None and self._ready.is_set() else None

    def _remembered_nodes(self) -> Mapping[str, NodeRecord]:
        """The nodes that have tags: what is known before the platform has answered for the first time.

        Ray's loop must get an answer, and none at all would make it launch everything anew.
        """
        stored = self._tags.read()
        with self._lock:
            if self._remembered_from is not stored:
                nodes = {name: remembered_node(name, tags) for name, tags in stored.items()}
                if self._head_name:
                    environment = {LAUNCH_TAGS: self._environ.get(LAUNCH_TAGS, "{}")}
                    # we run on it
                    nodes[self._head_name] = NodeRecord(self._head_name, "", "", "EXECUTING", environment=environment)
                self._remembered, self._remembered_from = nodes, stored
            return self._remembered

    def nodes(self) -> Mapping[str, NodeRecord]:
        ending = self._terminator.ending()  # before the nodes: a node must have ended there before it leaves this
        known = self._known_nodes()
        current = self._remembered_nodes() if known is None else known
        seen, without, shown = self._shown
        if seen is not current or without is not ending:
            shown = {name: node for name, node in current.items() if name not in ending}
            self._shown = (current, ending, shown)
        return shown

    def stored_tags(self, *, fetch: bool) -> Mapping[str, Tags]:
        return self._tags.read() if fetch else self._tags.known()

    def is_head(self, node: NodeRecord) -> bool:
        return node.name == self._head_name

    def address(self, name: str) -> NodeAddress | None:
        known = None if self._view is None else self._view.address(name)
        if known is None and name == self._head_name:
            return NodeAddress(str(ray.util.get_node_ip_address()))
        return known

    def set_tags(self, name: str, tags: Tags) -> None:
        self._tags.update(name, tags)

    # Sweeping

    def _sweep_forever(self) -> None:
        pause, last_full = self._pace.changes, float("-inf")
        while not self._stop.is_set():
            try:
                view, machines, pools = self._open()
                began = time.monotonic()
                if self._ready.is_set():
                    view.sweep_changes(strangers=self._terminator.in_doubt())
                took = time.monotonic() - began
                if began - last_full >= self._pace.full_sweep:
                    view.sweep()
                    last_full = began
                self._ready.set()
                self._looked.set()
                self._platform.note(None)
                shown = self.nodes()
                self._upkeep.look_after(view, machines, pools, shown)
                waiting = any(node.state is NodeState.PENDING for node in shown.values())
                pause = self._rhythm.pause(busy=waiting or bool(self._terminator.ending()), took=took)
            except RayDogError as error:
                logger.warning("serving what was known before: %s", error)
                self._platform.note(str(error))
                pause = min(pause * 2, self._pace.longest_pause)
            except Exception:
                # Whatever it is, the loop must go on: without it Ray would work on what was true once.
                logger.exception("sweeping nodes failed")
                pause = self._pace.longest_pause
            self._looked.set()
            self._rhythm.wait(pause)

    def _open(self) -> tuple[ClusterView, MachineWatch, WorkerPools]:
        """What is made when the platform can first be asked."""
        if self._view is None or self._machines is None or self._pools is None:
            credentials = load_credentials(with_credentials(self._environ, self._directory / "credentials.env"))
            if self._gateway is None or self._swift is None:
                self._gateway = Gateway(credentials)
                self._swift = Gateway(credentials, swift=True, threads=PARALLEL_ABORTS)
            requirement_id, cluster_id = self._environ.get(REQUIREMENT_ID), self._environ.get(CLUSTER_ID)
            if not requirement_id or not cluster_id:
                raise StateError(f"{REQUIREMENT_ID} and {CLUSTER_ID} are not set: this is no head that RayDog has made")
            view = ClusterView(self._swift, self._swift.get_cluster(requirement_id, cluster_id))
            yaml = Path.home() / BOOTSTRAP_CONFIG
            look_up = functools.partial(node_type_in_yaml, yaml)
            self._pools = WorkerPools(self._gateway, self._config, look_up, self._pace.patience)
            self._machines = MachineWatch(self._swift, view.cluster.created)
            self._view = view
        return self._view, self._machines, self._pools

    def _take_last_words(self, words: LastWords, address: str) -> Answer:
        node, known = (self._known_nodes() or {}).get(words.node), self.address(words.node)
        if node is None or known is None:
            return "again"
        if known.private_ip != address:
            logger.warning("%s speaks for node %s, which is at %s: not believed", address, node.name, known.private_ip)
            return "no"
        message = f"{node.name}: its script ended with exit status {words.exit_status}"
        self._upkeep.note_failure(node_type_of(node), "NodeFailed", message, node=node.name, output=words.output)
        return "ok"

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
            timed_out = self._upkeep.take_timed_out(node_type)
            if timed_out is not None:
                raise ProvisioningTimeoutError(timed_out, "AllocationTimeout")
            self._begin()
            self._create(node_config, tags, count, resources, labels)
        except RayDogError as error:
            category = category_of(error)
            self._upkeep.note_failure(node_type, category, str(error))
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
        if view is None or pools is None or gateway is None or not self._ready.is_set():
            raise PlatformUnavailableError("the platform has not answered yet")
        node_type = NodeType.from_node_config(tags[TAG_RAY_USER_NODE_TYPE], node_config, resources, labels)
        cluster = view.cluster
        seconds = self._lifetime.remaining(cluster)
        head_ip = self._head_ip(view)
        group_id = self._group_id(view, gateway, variant(self._config, node_type), seconds)
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
                observability_host=self._environ.get(OBSERVABILITY_HOST),
            )
            requests.append(NodeRequest(name, script, environment, seconds, self._config.tag))
        if not any(node.group_id == group_id for node in view.nodes().values()):
            pools.retire_empty(cluster, node_type)
        # Work first: an empty pool whose idle time-out is short could be gone before its work arrives.
        try:
            added = gateway.add_nodes(group_id, requests)
        except RayDogError:
            # Some or all of it may have been done: nobody said so, or could be understood, or only a later one of
            # several calls was refused. Ray is told that it failed and tries again.
            self._terminator.disown(request.name for request in requests)
            raise
        # With its tags a node is known after a restart although the platform does not answer.
        self._tags.set_many({node.name: launched for node in added})
        view.add(added)
        self._rhythm.hurry()
        try:
            pools.ensure(cluster, node_type, count)
        except RayDogError:
            self.terminate([node.name for node in added])
            raise

    def _head_ip(self, view: ClusterView) -> str:
        address = view.address(self._head_name)
        return address.private_ip if address is not None else str(ray.util.get_node_ip_address())

    def _group_id(self, view: ClusterView, gateway: Gateway, called: str, seconds: float) -> str:
        name = ownership.group_name(called)
        with self._groups_lock:
            group = view.cluster.group(name)
            if group is None:
                request = clusters.worker_group(view.cluster.cluster_id, called, seconds)
                group = view.replace_cluster(gateway.add_group(view.cluster, request)).group(name)
            if group is None:
                raise ProvisioningError(f"the platform did not keep task group {name}", "NoTaskGroup")
            return group.group_id

    def terminate(self, names: Sequence[str]) -> None:
        """Returns at once. A head does not end itself here: that is ``ray down``'s."""
        self._terminator.end(name for name in names if name != self._head_name)
        self._rhythm.hurry()

    def _end_if_over(self, cluster: ClusterRecord) -> None:
        """End the whole cluster, this machine included, if its time is over. Raises `TeardownError`."""
        if self._gateway is not None and self._lifetime.is_over(cluster):
            logger.warning("the cluster's lifetime (cluster_lifetime_hours) is over: ending it")
            name = ClusterName(self._config.namespace, self._config.cluster_name)
            teardown.request_teardown(self._gateway, name, cluster_id=cluster.cluster_id)

    def replace_head(self, head: NodeRecord) -> None:
        raise StateError("the head cannot be replaced from itself; use ray down")

    def complete_head(self, node_type: str, node_config: Mapping[str, Any]) -> None:
        """Nothing to bring: this is the head."""

    def clean_up(self) -> None:
        """``ray down`` is for clients: their machine goes on when the head has ended."""

    def close(self) -> None:
        self._stop.set()
        self._rhythm.stop()
        self._listener.close()
        if self._thread is not None:
            self._thread.join()
        self._upkeep.close()
        self._drainer.close()
        self._terminator.close()
        for gateway in (self._gateway, self._swift):
            if gateway is not None:
                gateway.close()
        self._tags.close()


def remembered_node(name: str, tags: Tags) -> NodeRecord:
    """A node of which only the tags are known: not running as far as anybody can tell."""
    return NodeRecord(name, "", "", "PENDING", environment={LAUNCH_TAGS: json.dumps(dict(tags))})
