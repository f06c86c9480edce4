"""Three clusters on real instances that are brought up, grow and go down in turn: ours, the peer's, and the floor.

The floor has a provider that answers at once, and its nodes, head and workers, are booted by hand beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from raydog.demo.floor import WORKER_TASK, floor_yaml
from raydog.demo.run import KEY, booted_node
from raydog.emulator.daemon import Running
from raydog.progress import Progress
from raydog.waiting import Pending, Ready, wait_until
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeAddress, NodeRecord, NodeRequest, PoolRequest
from tests.support.ray_cli import RayCluster
from tests.support.reference import ReferenceCluster

MOST_WORKERS = 6
_DEMAND = Path(__file__).with_name("demand.py")
_LATER = 60  # minutes without work before a worker goes: later than any benchmark ends


_LINGER = "sleep infinity &\nwait $!\n"
"""Else the peer's tag server is gone as soon as ``ray down`` has stopped Ray, and ``ray down`` fails for it."""


class Contender:
    """A cluster whose commands are timed, in seconds."""

    def __init__(self, cluster: RayCluster) -> None:
        self._cluster = cluster
        cluster.write(lambda document: document.update(idle_timeout_minutes=_LATER, max_workers=MOST_WORKERS))
        cluster.write(lambda document: document["available_node_types"]["worker"].update(max_workers=MOST_WORKERS))

    def up(self) -> float:
        return self._cluster.up().seconds

    def down(self) -> float:
        return self._cluster.down().seconds

    def join(self, workers: int) -> float:
        """From the demand for so many workers in all, made on the head, until Ray has them."""
        output = self._cluster.submit(_DEMAND, str(workers)).output
        found = re.search(r"^JOINED ([0-9.]+)", output, re.MULTILINE)
        assert found is not None, output
        return float(found[1])

    def close(self) -> None:
        self._cluster.close()


@contextmanager
def ours(emulator: Running, folder: Path) -> Iterator[Contender]:
    """RayDog's cluster."""
    cluster = RayCluster(folder, "bench-ours", emulator.environment)
    with _closing(Contender(cluster)) as contender:
        yield contender


@contextmanager
def peers(emulator: Running, reference: Path, folder: Path) -> Iterator[Contender]:
    """The reference implementation's, from its own environment. Autoscaler v1: it works under no other."""
    cluster = ReferenceCluster(reference, folder, "bench-peer", emulator.environment)
    with (folder / "head.sh").open("a", encoding="utf-8") as script:
        script.write(_LINGER)
    with _closing(Contender(cluster)) as contender:
        yield contender


@contextmanager
def floors(emulator: Running, folder: Path) -> Iterator[Contender]:
    """The same Ray, on nodes that are there."""
    cluster = RayCluster(folder, "bench-floor", emulator.environment)
    cluster.key.rename(folder / KEY)
    cluster.key.with_suffix(".pub").rename(folder / f"{KEY}.pub")
    with ExitStack() as stack:
        head = stack.enter_context(booted_node(folder, emulator, Progress()))
        hosts = stack.enter_context(_booted_workers(emulator.environment, MOST_WORKERS))
        cluster.document = floor_yaml(head, "yd-agent", str(folder / KEY), hosts)
        yield stack.enter_context(_closing(_Floor(cluster)))


class _Floor(Contender):
    def up(self) -> float:
        seconds = super().up()
        self._cluster.write(lambda document: document["provider"].update(up=True))  # as its provider has no memory
        return seconds


@contextmanager
def _closing(contender: Contender) -> Iterator[Contender]:
    try:
        yield contender
    finally:
        contender.close()


@contextmanager
def _booted_workers(environment: Mapping[str, str], count: int) -> Iterator[list[str]]:
    """Addresses of workers that wait for `raydog.demo.floor.FloorProvider`. Gone afterwards."""
    gateway = Gateway(load_credentials(environment))
    name = ClusterName("local", "floor-workers")
    cluster = clusters.add_cluster(gateway, name, None, "worker", timedelta(hours=1))
    group = cluster.groups[0]
    try:
        nodes = gateway.add_nodes(
            group.group_id,
            [
                NodeRequest(naming.node_name("floor", cluster.cluster_id, "worker", str(one)), WORKER_TASK, {}, 3600.0)
                for one in range(count)
            ],
        )
        pool = PoolRequest(
            name=naming.pool_name(name.cluster, cluster.cluster_id, "worker"),
            template="local/worker",
            worker_tag=group.tag,
            initial_nodes=count,
            max_nodes=count,
        )
        gateway.add_pool(name.namespace, pool)
        yield [_address(gateway, node).private_ip for node in nodes]
    finally:
        begun = teardown.request_teardown(gateway, name)
        teardown.await_teardown(gateway, name, begun, 60.0)
        gateway.close()


def _address(gateway: Gateway, node: NodeRecord) -> NodeAddress:
    def known() -> Ready[NodeAddress] | Pending:
        address = gateway.node_address(gateway.get_node(node.task_id))
        return Ready(address) if address else Pending(f"{node.name} boots")

    return wait_until(known, 60.0)
