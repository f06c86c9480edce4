"""From a request to a node that runs: provisioning a pool, waiting for a task and its address, and whose turn it is.

What the autoscaler's client and the builder do alike when they make a cluster's head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from raydog.errors import (
    NotFoundError,
    PlatformError,
    PlatformUnavailableError,
    ProvisioningError,
    ProvisioningTimeoutError,
)
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import ClusterRecord, NodeAddress, NodeRecord, NodeState, PoolRecord, PoolRequest

T = TypeVar("T")
_POOL_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Patience:
    """How long a node may take, and how to say so.

    ``remaining`` gives the seconds that are left; ``limit`` is the whole in words ("5 minutes"), ``raise_it`` how to
    get more ("raise provider.head_node_build_timeout_minutes"). ``report`` gets what is waited for, and the seconds.
    """

    remaining: Callable[[], float]
    limit: str
    raise_it: str
    report: Callable[[str, float], None]

    def wait(self, condition: Callable[[], Ready[T] | Pending], max_interval: float = 2.0) -> T:
        return wait_until(condition, self.remaining(), interval=0.03, max_interval=max_interval, on_pending=self.report)


def provision(gateway: Gateway, namespace: str, request: PoolRequest, templates: Sequence[str]) -> PoolRecord:
    """Provision a pool from the first of ``templates`` that the platform takes. Raises `ProvisioningError` with all
    refusals."""
    refusals = []
    for template in templates:
        try:
            return gateway.add_pool(namespace, replace(request, template=template))
        except PlatformUnavailableError:
            raise
        except PlatformError as error:
            refusals.append(str(error))
    raise ProvisioningError("; ".join(refusals), "TemplateRefused")


def await_executing(
    gateway: Gateway, node: NodeRecord, pool: PoolRecord, patience: Patience, *, what: str = "head"
) -> NodeRecord:
    """Wait until a node's task executes. ``what`` the node is stands in messages.

    Raises `ProvisioningError` as soon as the task or its pool has ended, `ProvisioningTimeoutError` with what the
    compute sources say.
    """
    watch = _ExecutingWatch(gateway, node, pool, what)
    try:
        return patience.wait(watch.look, max_interval=1.0)
    except WaitTimeout as timeout:
        raise ProvisioningTimeoutError(
            f"the {what} node was not EXECUTING within {patience.limit}: its task {node.name} is {watch.last.status}, "
            f"its worker pool {pool.name} is {_pool_status(gateway, pool)}{compute_trouble(gateway, pool)}. Check that "
            f"the compute requirement template can give a machine, or {patience.raise_it}"
        ) from timeout


class _ExecutingWatch:
    """The task is asked for each time, its pool and what the compute sources say now and then."""

    def __init__(self, gateway: Gateway, node: NodeRecord, pool: PoolRecord, what: str) -> None:
        self._gateway = gateway
        self._pool = pool
        self._what = what
        self.last = node
        self._pool_looked = time.monotonic()
        self._trouble = ""

    def look(self) -> Ready[NodeRecord] | Pending:
        try:
            self.last = self._gateway.get_node(self.last.task_id)
            if self.last.state is NodeState.PENDING and time.monotonic() - self._pool_looked > _POOL_LOOK_SECONDS:
                self._look_at_pool()
        except (PlatformUnavailableError, NotFoundError) as error:  # a new task may not be readable at once
            return Pending(str(error))
        if self.last.state is NodeState.ENDED:
            raise ProvisioningError(
                f"the {self._what}'s task {self.last.name} is {self.last.status}: "
                f"{self.last.reason or 'the platform gives no reason'}",
                f"{self._what.title().replace(' ', '')}TaskEnded",
            )
        if self.last.state is NodeState.RUNNING:
            return Ready(self.last)
        return Pending(f"the {self._what}'s task is {self.last.status}{self._trouble}")

    def _look_at_pool(self) -> None:
        now = self._gateway.get_pool(self._pool.pool_id)
        self._trouble = compute_trouble(self._gateway, now)
        self._pool_looked = time.monotonic()
        if not now.live:
            raise ProvisioningError(
                f"the {self._what}'s worker pool {now.name} is {now.status} before its task could run{self._trouble}",
                "PoolEnded",
            )


def _pool_status(gateway: Gateway, pool: PoolRecord) -> str:
    try:
        return gateway.get_pool(pool.pool_id).status
    except PlatformError as error:
        return f"unknown ({error})"


def compute_trouble(gateway: Gateway, pool: PoolRecord) -> str:
    """What the compute sources of a pool say of trouble, in brackets; empty if nothing."""
    if pool.compute_requirement_id is None:
        return ""
    try:
        messages = gateway.compute_messages(pool.compute_requirement_id)
    except PlatformError as error:
        return f" ({error})"
    return f" ({'; '.join(messages)})" if messages else ""


def await_address(
    gateway: Gateway,
    node: NodeRecord,
    pool: PoolRecord | None,
    patience: Patience,
    *,
    what: str = "head",
    lacks: Callable[[NodeAddress], str | None] = lambda _address: None,
    hint: str = "",
    alone: bool = False,
) -> NodeAddress:
    """Wait until the address of an executing node is known. ``lacks`` says what an address lacks to be of use.

    ``hint`` stands at the end of the time-out's message; ``alone`` is `Gateway.node_address`'s.
    """

    def known() -> Ready[NodeAddress] | Pending:
        try:
            address = gateway.node_address(node, pool, alone=alone)
        except (PlatformUnavailableError, NotFoundError) as error:
            return Pending(str(error))
        if address is None:
            return Pending(f"the {what}'s address is not known yet")
        lacking = lacks(address)
        return Pending(lacking) if lacking else Ready(address)

    try:
        return patience.wait(known)
    except WaitTimeout as timeout:
        raise ProvisioningTimeoutError(f"{timeout.observed} within {patience.limit}{hint}") from timeout


def await_settled_head(
    gateway: Gateway, cluster: ClusterRecord, report: Callable[[str, float], None]
) -> NodeRecord | None:
    """A cluster's head. One without may be in the making: that is given its time."""
    started = time.monotonic()

    def settled() -> Ready[NodeRecord | None] | Pending:
        head = clusters.find_head(gateway, cluster)
        if head is None and not clusters.is_overdue(cluster, time.monotonic() - started):
            return Pending(f"work requirement {cluster.name} has no head yet; somebody may be starting it")
        return Ready(head)

    return watch_making(settled, report)


def watch_making(condition: Callable[[], Ready[T] | Pending], report: Callable[[str, float], None]) -> T:
    """Wait for what `clusters.is_overdue` bounds, so it takes this long only if the platform answers slowly."""
    try:
        return wait_until(condition, clusters.HEADLESS_GRACE_SECONDS * 4, on_pending=report)
    except WaitTimeout as timeout:
        raise PlatformUnavailableError(f"the platform answers too slowly: {timeout.observed}") from timeout
