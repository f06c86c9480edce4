"""What Ray's command line does on somebody's machine, and Ray's autoscaler on the head, for `tests.support.killing`.

Commands make or end the cluster ``demo``. A program on a head works for the cluster that the test has made (`tell`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UNINITIALIZED,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from raydog.autoscaler import head as head_module
from raydog.autoscaler import on_head, terminator
from raydog.autoscaler.client import ClientSide
from raydog.autoscaler.environment import ROLE
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.ssh.session import Completed
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from tests.support.head_room import NAMESPACE, PACE, WORKER, HeadRoom, running
from tests.support.killing import Stage
from tests.support.servers import eventually

CLUSTER = "demo"
NODES = 3
"""Workers that a program launches or ends."""
HEAD_CONFIG = {"compute_requirement_template": "local/head"}
OBSERVED: dict[str, Any] = {"observability": {"compute_requirement_template": "local/worker"}}
_TOLD = "head.json"


# On somebody's machine


class _Login:
    """A login to a head that nobody can log in to: simulated instances have no processes. It takes whatever comes."""

    is_alive = True

    def run(self, _command: str, **_: object) -> Completed:
        return Completed(0, "", "")

    def write_files(self, *_: object) -> None:
        """Nobody reads them."""

    def close(self) -> None:
        """There is no connection."""


def _no_tag_server(_side: ClientSide) -> None:
    raise ConnectionRefusedError("a simulated head has no tag server")


@contextmanager
def at_desk(folder: Path) -> Iterator[None]:
    """Somebody's machine, from which simulated heads seem to be reached, and where no search is late."""
    with (
        mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(folder / "state")}),
        mock.patch.object(head_module, "wait_for_login", return_value=_Login()),
        mock.patch.object(ClientSide, "_connect_tags", _no_tag_server),
        mock.patch.object(clusters, "HEADLESS_GRACE_SECONDS", 0.05),
        mock.patch.object(teardown, "LOOKS_APART_SECONDS", 0.01),
    ):
        os.environ.pop(ROLE, None)
        yield


def client(name: str = CLUSTER, **section: Any) -> RayDogNodeProvider:
    """A provider as ``ray up`` and ``ray down`` have it."""
    described = {
        "type": "external",
        "module": "raydog.autoscaler.RayDogNodeProvider",
        "cluster_namespace": NAMESPACE,
        "auth": {"ssh_user": "yd-agent"},
        "_bootstrapped": True,
        **section,
    }
    return RayDogNodeProvider(described, name)


def ray_up(name: str = CLUSTER, **section: Any) -> None:
    """What ``ray up`` calls, in its order (``get_or_create_head_node`` in ray/autoscaler/_private/commands.py)."""
    provider = client(name, **section)
    kind = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD}
    tags = {**kind, TAG_RAY_USER_NODE_TYPE: "head", TAG_RAY_NODE_STATUS: STATUS_UNINITIALIZED}
    heads = provider.non_terminated_nodes(kind)
    if not heads:
        provider.create_node(HEAD_CONFIG, tags, 1)
        heads = provider.non_terminated_nodes(tags)
    (head,) = heads
    types = {"head": {"node_config": HEAD_CONFIG}}
    provider._side.complete_head("head", types["head"]["node_config"])  # prepare_for_head_node, without its files
    assert provider.external_ip(head)
    provider.set_node_tags(head, {TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE})
    provider.close()


def ray_down(name: str = CLUSTER) -> None:
    """What ``ray down`` calls, in its order (``teardown_cluster``)."""
    provider = client(name)
    for _ in range(3):
        nodes = provider.nodes_for_teardown({})
        if not nodes:
            break
        provider.terminate_nodes(nodes)
    provider.cleanup_cluster_resources()
    provider.close()


def up(stage: Stage) -> None:
    with at_desk(stage.folder):
        stage.begin()
        ray_up()


def up_with_observability(stage: Stage) -> None:
    with at_desk(stage.folder):
        stage.begin()
        ray_up(**OBSERVED)


def up_over_leftovers(stage: Stage) -> None:
    """An earlier cluster of the same name has lost its work, as at the end of its lifetime; its pool is there yet."""
    with at_desk(stage.folder):
        ray_up()
        gateway = Gateway(load_credentials())
        (earlier,) = clusters.find_clusters(gateway, ClusterName(NAMESPACE, CLUSTER))
        gateway.cancel_cluster(earlier.requirement_id)
        stage.begin()
        ray_up()


def up_without_pool(stage: Stage) -> None:
    """An earlier ``ray up`` has died when it had submitted its head's task, and had not asked for a machine yet."""
    with at_desk(stage.folder):
        died = mock.Mock(side_effect=KeyboardInterrupt)
        with mock.patch.object(head_module, "add_single_pool", died), mock.patch.object(ClientSide, "_end_after"):
            try:
                ray_up()
            except KeyboardInterrupt:
                assert died.called
        stage.begin()
        ray_up()


def down(stage: Stage) -> None:
    """Of a cluster with workers: see `tell`."""
    with at_desk(stage.folder):
        stage.begin()
        ray_down()


def down_with_observability(stage: Stage) -> None:
    with at_desk(stage.folder):
        ray_up(**OBSERVED)
        stage.begin()
        ray_down()


# On the head


def tell(room: HeadRoom, folder: Path) -> None:
    """Make ``room`` the cluster that the programs from here on work for."""
    types = {name: {"node_config": room.node_config(name)} for name in room.templates}
    (room.home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump({"available_node_types": types}))
    told = {"environment": room.environment, "section": room.section, "types": types}
    (folder / _TOLD).write_text(json.dumps(told))


class Autoscaler:
    """Ray's autoscaler on the head, as far as it makes and ends nodes."""

    def __init__(self, stage: Stage) -> None:
        told = json.loads((stage.folder / _TOLD).read_text())
        os.environ.update(told["environment"])
        terminator._LOOK_SECONDS = 0.02
        on_head.PACE = replace(PACE, changes=0.15, full_sweep=60.0)  # each look is a place to die, and all are alike
        self._types = told["types"]
        self.provider = RayDogNodeProvider(told["section"], CLUSTER)

    def workers(self) -> list[str]:
        return self.provider.non_terminated_nodes({TAG_RAY_NODE_KIND: WORKER[TAG_RAY_NODE_KIND]})

    def launch(self, node_type: str = "worker", count: int = NODES) -> None:
        self.workers()
        config = self._types[node_type]["node_config"]
        self.provider.create_node(config, {**WORKER, TAG_RAY_USER_NODE_TYPE: node_type}, count)

    def launched(self, count: int = NODES) -> list[str]:
        """Nodes that run, before what is under test."""
        self.launch(count=count)
        running(self.provider, self.workers())
        return self.workers()

    def end(self, names: list[str]) -> None:
        """Tell nodes to end, and wait until the platform has ended them."""
        side: Any = self.provider._side
        self.provider.terminate_nodes(names)
        eventually(lambda: not side._terminator.ending(), what="they have ended")


def launch(stage: Stage) -> None:
    """The first nodes of their type: a task group, tasks and a pool."""
    autoscaler = Autoscaler(stage)
    stage.begin()
    autoscaler.launch()
    autoscaler.provider.close()


def launch_more(stage: Stage) -> None:
    """Into a pool that runs."""
    autoscaler = Autoscaler(stage)
    autoscaler.launched()
    stage.begin()
    autoscaler.launch()
    autoscaler.provider.close()


def launch_another_type(stage: Stage) -> None:
    autoscaler = Autoscaler(stage)
    autoscaler.launched()
    stage.begin()
    autoscaler.launch("other")
    autoscaler.provider.close()


def terminate(stage: Stage) -> None:
    """All nodes but one."""
    autoscaler = Autoscaler(stage)
    nodes = autoscaler.launched(NODES + 1)
    stage.begin()
    autoscaler.end(nodes[:NODES])
    autoscaler.provider.close()


def terminate_all(stage: Stage) -> None:
    autoscaler = Autoscaler(stage)
    nodes = autoscaler.launched()
    stage.begin()
    autoscaler.end(nodes)
    autoscaler.provider.close()
