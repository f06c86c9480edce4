"""`RayDogCluster`: the public face of a cluster that a program makes by hand."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from raydog.builder import arguments
from raydog.builder.arguments import Faults, NodeSpec, WorkerPool
from raydog.builder.cleaning import ending_on_failure, uninterrupted
from raydog.builder.making import Made, Maker
from raydog.builder.parallel import Calls
from raydog.builder.reporting import Reporter
from raydog.builder.state import SavedState, write_file
from raydog.builder.workers import await_workers
from raydog.errors import ConfigError, StateError
from raydog.yellowdog import naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import DEFAULT_API_URL
from raydog.yellowdog.gateway import Gateway

_TEARDOWN_SECONDS = 120.0
_WORKERS_SECONDS = timedelta(minutes=10)


class _Stage(Enum):
    NEW = "not built yet"
    BUILT = "built"
    SHUT_DOWN = "shut down"


class RayDogCluster:
    """A Ray cluster on YellowDog: one head, worker pools of any kinds, and an observability node if wanted.

    Also a context manager, whose end shuts down what this object has made. Methods may be called from any thread.
    Errors are `raydog.errors.RayDogError`s: `ConfigError` (a ValueError) for arguments, `StateError` for calls out of
    turn, `ProvisioningError`, `ProvisioningTimeoutError` (a TimeoutError), `PlatformError`, `TeardownError`.
    """

    def __init__(
        self,
        yd_application_key_id: str,
        yd_application_key_secret: str,
        cluster_name: str,
        cluster_namespace: str,
        head_node_compute_requirement_template_id: str,
        head_node_ray_start_script: str,
        yd_platform_api_url: str = DEFAULT_API_URL,
        cluster_tag: str | None = None,
        head_node_images_id: str | None = None,
        head_node_userdata: str | None = None,
        head_node_instance_tags: dict[str, str] | None = None,
        head_node_metrics_enabled: bool | None = None,
        enable_observability: bool = False,
        observability_node_compute_requirement_template_id: str | None = None,
        observability_node_instance_tags: dict[str, str] | None = None,
        observability_node_images_id: str | None = None,
        observability_node_userdata: str | None = None,
        observability_node_metrics_enabled: bool | None = None,
        observability_node_start_script: str | None = None,
        cluster_lifetime: timedelta | None = None,
        *,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the cluster and its head; nothing is made yet and the platform is not called.

        ``cluster_name`` is free again when a cluster has ended. Scripts are Bash, and run as tasks exactly as given;
        the head's gets ``OBSERVABILITY_HOST`` if there is an observability node. After ``cluster_lifetime``, counted
        from `build`, all tasks end, and then, a quarter of an hour later at most, their machines. ``on_progress`` gets
        each stage as a text; by default a terminal shows it. Raises `ConfigError` with all faults, `CredentialsError`.
        """
        faults = Faults()
        arguments.check_cluster(faults, cluster_name, cluster_namespace, cluster_tag, cluster_lifetime)
        self._head = NodeSpec(
            head_node_compute_requirement_template_id,
            head_node_ray_start_script,
            head_node_images_id,
            head_node_userdata,
            head_node_instance_tags,
            head_node_metrics_enabled,
        )
        faults.spec("head_node", "head_node_ray_start_script", self._head)
        self._observability: NodeSpec | None = None
        if enable_observability:
            self._observability = NodeSpec(
                observability_node_compute_requirement_template_id or "",
                observability_node_start_script or "",
                observability_node_images_id,
                observability_node_userdata,
                observability_node_instance_tags,
                observability_node_metrics_enabled,
            )
            faults.spec("observability_node", "observability_node_start_script", self._observability)
        faults.raise_if_any()
        self._gateway = Gateway(
            arguments.credentials(yd_application_key_id, yd_application_key_secret, yd_platform_api_url)
        )
        self._cluster_name = cluster_name
        self._tag = cluster_tag
        self._name = ClusterName(cluster_namespace, arguments.short_name(cluster_name), naming.Maker.BUILDER)
        self._report = Reporter(on_progress)
        self._calls = Calls()
        self._maker = Maker(self._gateway, self._name, cluster_tag, cluster_lifetime, self._report, self._calls)
        self._maker.check = self._refuse_if_ending
        self._stage = _Stage.NEW
        self._ends_by_name = True
        self._something_made = False
        self._made: Made | None = None
        self._pools_asked_for = 0
        self._lock = threading.RLock()
        self._ending = threading.Event()

        self.work_requirement_id: str | None = None
        self.head_node_worker_pool_id: str | None = None
        self.head_node_node_id: str | None = None
        self.head_node_private_ip: str | None = None
        self.head_node_public_ip: str | None = None
        self.head_node_task_id: str | None = None
        self.worker_node_worker_pools: dict[str, WorkerPool] = {}
        self.enable_observability = enable_observability
        self.observability_node_id: str | None = None
        self.observability_node_private_ip: str | None = None
        self.observability_node_worker_pool_id: str | None = None
        self.observability_node_task_id: str | None = None

    @property
    def yd_client(self) -> Any:
        """The yellowdog-sdk `PlatformClient` that this cluster uses."""
        return self._gateway.client

    # Building and changing

    def add_worker_pool(
        self,
        worker_node_compute_requirement_template_id: str,
        worker_node_task_script: str,
        worker_pool_node_count: int,
        worker_pool_internal_name: str | None = None,
        worker_node_images_id: str | None = None,
        worker_node_userdata: str | None = None,
        worker_node_instance_tags: dict[str, str] | None = None,
        worker_node_metrics_enabled: bool | None = None,
    ) -> str | None:
        """Add a pool of equal worker nodes: one of those that `build` makes, or, after it, at once.

        The script finds the head's private address in ``RAY_HEAD_IP`` and ``RAY_HEAD_NODE_PRIVATE_IP``, and
        ``OBSERVABILITY_HOST``. Without an internal name the pool is called ``worker-nodes-01`` and so on. Returns the
        pool's id, or None before `build`. When it fails nothing is left of the pool, and the cluster is as before.
        """
        with self._lock, self._remembering_failure():
            self._refuse_if(_Stage.SHUT_DOWN, "add_worker_pool()")
            spec = NodeSpec(
                worker_node_compute_requirement_template_id,
                worker_node_task_script,
                worker_node_images_id,
                worker_node_userdata,
                worker_node_instance_tags,
                worker_node_metrics_enabled,
            )
            faults = Faults()
            faults.spec("worker_node", "worker_node_task_script", spec)
            arguments.check_count(faults, worker_pool_node_count)
            faults.text("worker_pool_internal_name", worker_pool_internal_name, optional=True)
            if (
                isinstance(worker_pool_internal_name, str)
                and worker_pool_internal_name in self.worker_node_worker_pools
            ):
                faults.add("worker_pool_internal_name", f"{worker_pool_internal_name!r} is in use already")
            faults.raise_if_any()
            self._pools_asked_for += 1
            name = worker_pool_internal_name or self._next_internal_name()
            label = arguments.pool_label(self._name.cluster, self._pools_asked_for, name)
            pool = WorkerPool(name, label, spec, worker_pool_node_count)
            if self._made is not None:
                made = self._made
                with ending_on_failure(lambda: self._maker.undo(pool, made), self._calls, self._report):
                    self._maker.add(made, pool)
                    self._report.done(f"worker pool {name} of {pool.node_count} nodes is coming up")
            self.worker_node_worker_pools[name] = pool
            return pool.worker_pool_id

    def _next_internal_name(self) -> str:
        while True:
            name = f"worker-nodes-{self._pools_asked_for:02d}"
            if name not in self.worker_node_worker_pools:
                return name
            self._pools_asked_for += 1

    def build(self, head_node_build_timeout: timedelta | None = None) -> tuple[str, str | None]:
        """Make the cluster; return the head's private address and, if it has one, its public one.

        Returns when the head's task executes; workers are still coming up then (`wait_for_workers`). When anything
        fails, the time is over (`ProvisioningTimeoutError`) or an interruption comes, everything is ended again before
        the error is raised. If a cluster of this name lives already, or somebody else makes one at this moment, that
        is a `StateError` and the other cluster is not touched.
        """
        with self._lock:
            self._refuse_if(_Stage.SHUT_DOWN, "build()")
            self._refuse_if(_Stage.BUILT, "build()")
            if head_node_build_timeout is not None and not isinstance(head_node_build_timeout, timedelta):
                raise ConfigError("head_node_build_timeout: must be a timedelta, or None for no limit")
            if self._something_made:
                raise StateError("build(): it has failed before and something may be left of it: call shut_down()")
            self._ends_by_name = False
            try:
                self._maker.clear_the_way()
            finally:
                self._report.close()
            with ending_on_failure(self._end_own, self._calls, self._report):
                self._something_made = True
                pools = list(self.worker_node_worker_pools.values())
                made = self._maker.make(self._head, self._observability, pools, head_node_build_timeout)
                self._take_over(made)
            return made.head.address.private_ip, made.head.address.public_ip

    def _take_over(self, made: Made) -> None:
        self._made = made
        self._stage = _Stage.BUILT
        self.work_requirement_id = made.cluster.requirement_id
        self.head_node_worker_pool_id = made.head.pool.pool_id
        self.head_node_node_id = made.head.node.platform_node_id
        self.head_node_private_ip = made.head.address.private_ip
        self.head_node_public_ip = made.head.address.public_ip
        self.head_node_task_id = made.head.node.task_id
        if made.observability is not None:
            self.observability_node_id = made.observability.node.platform_node_id
            self.observability_node_private_ip = made.observability.address.private_ip
            self.observability_node_worker_pool_id = made.observability.pool.pool_id
            self.observability_node_task_id = made.observability.node.task_id

    def wait_for_workers(
        self,
        count: int | None = None,
        timeout: timedelta | float | None = _WORKERS_SECONDS,
        *,
        dashboard_address: str | None = None,
    ) -> int:
        """Wait until ``count`` workers (by default all that were asked for) are there; return how many are.

        A worker is there when its task executes; with ``dashboard_address`` (``localhost:8265`` through `RayTunnels`)
        when Ray says that it is alive. ``timeout`` is a timedelta or seconds; None waits without a limit. Raises
        `ProvisioningTimeoutError`, and `ProvisioningError` as soon as so many cannot come any more.
        """
        with self._lock:
            if self._made is None:
                raise StateError(f"wait_for_workers(): cluster {self._cluster_name} is {self._stage.value}")
            requirement = self._made.cluster
            pools = list(self.worker_node_worker_pools.values())
        try:
            return await_workers(
                self._gateway, requirement, pools, count, timeout, dashboard_address, report=self._report
            )
        finally:
            self._report.close()

    def remove_worker_pool(self, worker_pool_id: str) -> None:
        """End a worker pool by its id: its machines are terminated at once, and the tasks on them fail."""
        with self._lock:
            self._refuse_if(_Stage.SHUT_DOWN, "remove_worker_pool()")
            name = self.get_worker_pool_internal_name_by_id(worker_pool_id)
            if name is None:
                raise StateError(
                    f"cluster {self._cluster_name} has no worker pool {worker_pool_id}; "
                    f"it has {', '.join(self.worker_pool_ids) or 'none'}"
                )
            self.remove_worker_pool_by_internal_name(name)

    def remove_worker_pool_by_internal_name(self, internal_name: str) -> None:
        """End a worker pool by its internal name; before `build`, take it out of what is to be built."""
        with self._lock:
            self._refuse_if(_Stage.SHUT_DOWN, "remove_worker_pool_by_internal_name()")
            pool = self.worker_node_worker_pools.get(internal_name)
            if pool is None:
                raise StateError(
                    f"cluster {self._cluster_name} has no worker pool {internal_name!r}; "
                    f"it has {', '.join(self.worker_pool_internal_names) or 'none'}"
                )
            if self._made is not None:
                self._report.update(f"removing worker pool {internal_name}")
                try:
                    self._maker.end_pool(pool, self._made.cluster)
                finally:
                    self._calls.join()
                    self._report.close()
            del self.worker_node_worker_pools[internal_name]

    def get_worker_pool_internal_name_by_id(self, worker_pool_id: str) -> str | None:
        """The internal name of the worker pool with this id, or None."""
        pools = {pool.worker_pool_id: name for name, pool in list(self.worker_node_worker_pools.items())}
        return pools.get(worker_pool_id) if worker_pool_id is not None else None

    @property
    def worker_pool_ids(self) -> list[str]:
        """The ids of the worker pools that are provisioned."""
        pools = list(self.worker_node_worker_pools.values())
        return [pool.worker_pool_id for pool in pools if pool.worker_pool_id is not None]

    @property
    def worker_pool_internal_names(self) -> list[str]:
        """The internal names of the worker pools."""
        return list(self.worker_node_worker_pools)

    # Ending

    def shut_down(self) -> None:
        """Cancel the work requirement, end all worker pools at once, and wait until nothing is left.

        On an object that was never built, this ends every builder cluster of exactly this name: the way out when the
        program that has built it is gone and its state was not saved. But not where an exception is on its way, or
        `add_worker_pool` has failed: a program that fails early and cleans up must end nobody else's cluster. A `build`
        that still waits in another thread gives up. A second call does nothing. Raises `TeardownError` if something is
        left; then call it again.
        """
        self._ending.set()
        with self._lock:
            if self._stage is _Stage.SHUT_DOWN:
                return
            try:
                if self._something_made:
                    self._end(self._maker.cluster_id)
                elif self._ends_by_name and sys.exc_info()[0] is None:
                    self._end(None)
                else:
                    self._report.done(f"cluster {self._cluster_name} was not built here: nothing is ended")
            finally:
                self._ending.clear()
                self._report.close()
            self._forget()

    def _refuse_if_ending(self) -> None:
        if self._ending.is_set():
            raise StateError("build(): shut_down() was called meanwhile")

    def __enter__(self) -> RayDogCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        with self._lock:
            self._ends_by_name = False  # what others of this name have made is not this object's to end
            with uninterrupted():
                self.shut_down()

    def _end(self, cluster_id: str | None, seconds: float = _TEARDOWN_SECONDS) -> None:
        report = self._report.unstoppable
        with uninterrupted():  # half a request is the one thing that must not be left behind
            self._calls.join()
            begun = teardown.request_teardown(
                self._gateway, self._name, cluster_id=cluster_id, pool_names=self._maker.pool_names, report=report
            )
        going = teardown.await_teardown(self._gateway, self._name, begun, seconds, cluster_id=cluster_id, report=report)
        for text in going:
            report(f"still ending by itself: {text}")

    @contextmanager
    def _remembering_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._ends_by_name = False
            raise

    def _end_own(self) -> None:
        self._end(self._maker.cluster_id)
        self._forget()

    def _forget(self) -> None:
        self._stage = _Stage.SHUT_DOWN
        self._made = None
        self.work_requirement_id = None
        self.head_node_worker_pool_id = None
        self.observability_node_worker_pool_id = None
        self.worker_node_worker_pools = {}
        self._gateway.close()

    # State

    def save_state_to_json(self) -> str:
        """What `RayDogClusterProxy` needs to shut this cluster down later, as JSON."""
        with self._lock:
            made = self._made
            if made is None:
                raise StateError(f"there is no state to save: cluster {self._cluster_name} is {self._stage.value}")
            pools = [*self.worker_pool_ids, made.head.pool.pool_id]
            if made.observability is not None:
                pools.append(made.observability.pool.pool_id)
            return SavedState(
                self._cluster_name,
                self._name.namespace,
                self._tag,
                made.cluster.requirement_id,
                tuple(pools),
                self._maker.cluster_id,
            ).to_json()

    def save_state_to_json_file(self, file_name: str | Path) -> None:
        """As `save_state_to_json`, into a file, which is replaced in one step. Raises `OSError` if it cannot be."""
        write_file(Path(file_name), self.save_state_to_json() + "\n")

    def _refuse_if(self, stage: _Stage, call: str) -> None:
        if self._stage is stage:
            raise StateError(f"{call}: cluster {self._cluster_name} is {stage.value} already")
