"""Clusters with similar names, and things that look like ours and are somebody else's, are neither seen nor touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UNINITIALIZED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from yellowdog_client import PlatformClient
from yellowdog_client import model as yd

from raydog.autoscaler import head as head_module
from raydog.autoscaler.environment import ROLE
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.cli import main
from raydog.emulator import Emulator
from raydog.errors import ProvisioningError
from raydog.yellowdog import cluster as clusters
from tests.support.head_room import NAMESPACE, HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
SIMILAR = ("demo", "demo-2", "Demo", "demo-abcdefgh", "dem", "demo.2", "demo-2-demo")
READS = ("get_", "find_", "emulator_")
HEAD = {
    TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
    TAG_RAY_NODE_STATUS: STATUS_UNINITIALIZED,
    TAG_RAY_USER_NODE_TYPE: "head",
}


def client_provider(name: str) -> RayDogNodeProvider:
    """A provider as ``ray up`` and ``ray down`` have it."""
    section = {
        "type": "external",
        "module": "raydog.autoscaler.RayDogNodeProvider",
        "cluster_namespace": NAMESPACE,
        "auth": {"ssh_user": "yd-agent"},
        "_bootstrapped": True,
    }
    return RayDogNodeProvider(section, name)


def json_status(name: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """What ``raydog status`` says of a cluster, without asking its head."""
    file = folder / f"{name}.yaml"
    document = {"cluster_name": name, "provider": {"type": "external", "cluster_namespace": NAMESPACE}}
    file.write_text(yaml.safe_dump(document))
    result = CliRunner().invoke(main, ["status", str(file), "--json", "--no-head"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def at_desk(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of somebody's machine, which has no SSH to the simulated heads."""
    monkeypatch.delenv(ROLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for key, value in emulator.environment.items():
        monkeypatch.setenv(key, value)

    def refuse(*_: object, **__: object) -> None:
        raise ProvisioningError("no SSH login", "SSH")

    monkeypatch.setattr(head_module, "wait_for_login", refuse)


# Clusters of ours with similar names


def test_clusters_with_similar_names_have_their_own_nodes_pools_and_status(
    make_room: MakeRoom, at_desk: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rooms = {name: make_room(name=name) for name in SIMILAR}
    providers = {name: room.provider() for name, room in rooms.items()}
    nodes: dict[str, set[str]] = {}
    for name, provider in providers.items():
        assert provider.non_terminated_nodes({}) == [rooms[name].head.name]
        running(provider, rooms[name].launch(provider, 2))
        nodes[name] = set(provider.non_terminated_nodes({}))
        assert len(nodes[name]) == 3
    assert len(set.union(*nodes.values())) == 3 * len(SIMILAR)
    monkeypatch.delenv(ROLE)
    for name, room in rooms.items():
        client = client_provider(name)
        assert set(client.non_terminated_nodes({})) == nodes[name]
        client.close()
        code, status = json_status(name, tmp_path)
        assert code == 0
        assert status["requirement"] == room.cluster.name
        assert {node["node_id"] for node in status["nodes"]} == nodes[name]
        assert len(status["pools"]) == 2


def test_down_of_one_leaves_those_with_similar_names_alone(
    make_room: MakeRoom, at_desk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [make_room(name=name) for name in SIMILAR[:5]]
    for room in rooms:
        provider = room.provider()
        running(provider, room.launch(provider, 2))
        provider.close()  # from here on nobody mends what is taken away
    monkeypatch.delenv(ROLE)
    for number, room in enumerate(rooms):
        client = client_provider(room.name.cluster)
        client.terminate_nodes(client.non_terminated_nodes({}))
        client.cleanup_cluster_resources()
        client.close()
        assert (room.tasks(), room.pools()) == ([], [])
        for other in rooms[number + 1 :]:
            assert len(other.tasks()) == 2
            assert len(other.pools()) == 1
            assert other.refreshed().status == "RUNNING"
            assert other.task(other.head.name).status == "EXECUTING"


# What somebody else has made


class Stranger:
    """Makes things that have ours' names or ours' tags, but never both; and knows whether anybody touches them."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        schema = yd.ServicesSchema(defaultUrl=emulator.url)
        self._client = PlatformClient.create(schema, yd.ApiKey(emulator.key_id, emulator.key_secret))
        self.ids: set[str] = set()
        self._requirements: list[str] = []
        self._pools: list[str] = []

    def close(self) -> None:
        self._client.close()

    def works(self, name: str, group: str, tag: str | None, namespace: str = NAMESPACE) -> None:
        """A work requirement with a task that waits."""
        specification = yd.RunSpecification(taskTypes=["bash"], workerTags=["theirs"])
        work = self._client.work_client
        made = work.add_work_requirement(
            yd.WorkRequirement(namespace, name, [yd.TaskGroup(name=group, tag=tag, runSpecification=specification)])
        )
        group_id = str(made.taskGroups[0].id)  # type: ignore[index]
        task = yd.Task(name=f"{name}-head-a1b2c3d4", taskType="bash", arguments=["taskdata.txt"], taskData="true")
        added = work.add_tasks_to_task_group_by_id(group_id, [task])
        self._requirements.append(str(made.id))
        self.ids |= {str(made.id), group_id, str(added[0].id)}

    def provisions(self, name: str, tag: str | None, namespace: str = NAMESPACE) -> None:
        """A worker pool with a machine."""
        usage = yd.ComputeRequirementTemplateUsage(
            templateId="local/worker", requirementNamespace=namespace, requirementName=name, targetInstanceCount=1
        )
        properties = yd.ProvisionedWorkerPoolProperties(
            createNodeWorkers=yd.NodeWorkerTarget.per_node(1),
            minNodes=0,
            maxNodes=1,
            workerTag=tag,
            idleNodeShutdown=yd.AutoShutdown(enabled=False),
            idlePoolShutdown=yd.AutoShutdown(enabled=False),
        )
        pool = self._client.worker_pool_client.provision_worker_pool(usage, properties)
        self._pools.append(str(pool.id))
        self.ids |= {str(pool.id), str(pool.computeRequirementId)}

    def settle(self) -> None:
        """Wait until all machines run, so that a change from here on is somebody's doing."""
        eventually(lambda: all("RUNNING" in line or "IDLE" in line for line in self._pool_lines()), what="pools run")

    def _pool_lines(self) -> list[str]:
        lines = []
        for pool_id in self._pools:
            pool = self._client.worker_pool_client.get_worker_pool_by_id(pool_id)
            assert isinstance(pool, yd.ProvisionedWorkerPool)
            compute = self._client.compute_client.get_compute_requirement_by_id(str(pool.computeRequirementId))
            lines.append(f"{pool.name} {pool.status} {compute.status}")
        return lines

    def everything(self) -> list[str]:
        """The state of all of it."""
        lines = self._pool_lines()
        for requirement_id in self._requirements:
            requirement = self._client.work_client.get_work_requirement_by_id(requirement_id)
            tasks = self._client.work_client.find_tasks(yd.TaskSearch(workRequirementId=requirement_id))
            lines.append(f"{requirement.name} {requirement.status} {len(requirement.taskGroups or [])}")
            lines += [f"{task.name} {task.status} {task.abortRequestedTime}" for task in tasks]
        return lines

    def changes(self) -> list[dict[str, Any]]:
        """The calls since the record was last emptied that are no reads and name one of these things."""
        return [
            call
            for call in self._emulator.calls()
            if not str(call["operation"]).startswith(READS) and any(one in json.dumps(call) for one in self.ids)
        ]


@pytest.fixture
def stranger(emulator: Emulator) -> Iterator[Stranger]:
    made = Stranger(emulator)
    yield made
    made.close()


def surround(stranger: Stranger, cluster_id: str) -> None:
    """Everything that only half looks like cluster ``demo``, whose id is ``cluster_id``."""
    ours = f"raydog-{cluster_id}-worker"
    stranger.works("demo-abcdefgh", "head-node", None)
    stranger.works("demo-ijklmnop", "head-node", "theirs")
    stranger.works("demo-qrstuvwx", "workers-worker", "raydog-qrstuvwx-worker")
    stranger.works("demo-22222222", "head-node", "raydog-33333333-head")
    stranger.works("demonstration", "head-node", f"raydog-{cluster_id}-head")
    stranger.works(f"x-demo-{cluster_id}", "head-node", f"raydog-{cluster_id}-head")
    stranger.works("demo-44444444", "head-node", "raydog-44444444-head", namespace="others")
    stranger.provisions("demo-abcdefgh-worker", None)
    stranger.provisions("demo-ijklmnop-worker", "theirs")
    stranger.provisions("demo-22222222-worker", "raydog-33333333-worker")
    stranger.provisions(f"demo-{cluster_id}-theirs", "raydog-55555555-worker")
    stranger.provisions("their-pool", ours)
    stranger.provisions(f"x-demo-{cluster_id}-worker", ours)
    stranger.provisions("demo-44444444-worker", "raydog-44444444-worker", namespace="others")
    stranger.settle()


def test_what_half_looks_like_ours_is_never_touched_by_up_status_scaling_and_down(
    room: HeadRoom,
    stranger: Stranger,
    at_desk: None,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    surround(stranger, room.cluster.cluster_id)
    before = stranger.everything()
    emulator.forget_calls()

    provider = room.provider()  # the autoscaler grows and shrinks
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    assert set(provider.non_terminated_nodes({})) == {room.head.name, *nodes}
    provider.terminate_nodes(nodes)
    eventually(lambda: room.tasks() == [], what="the workers have gone")
    provider.close()

    monkeypatch.delenv(ROLE)
    code, status = json_status("demo", tmp_path)
    assert code == 0
    assert status["requirement"] == room.cluster.name
    assert {pool["name"] for pool in status["pools"]} <= {*room.pools(), f"{room.cluster.name}-head"}
    client = client_provider("demo")
    assert client.non_terminated_nodes({}) == [room.head.name]
    client.terminate_nodes([room.head.name])
    client.cleanup_cluster_resources()
    client.close()
    assert json_status("demo", tmp_path)[0] == 1

    assert stranger.everything() == before
    assert stranger.changes() == []


def test_up_neither_adopts_nor_clears_away_what_half_looks_like_ours(
    stranger: Stranger, at_desk: None, emulator: Emulator, tmp_path: Path
) -> None:
    surround(stranger, "abcdefgh")
    before = stranger.everything()
    emulator.forget_calls()
    client = client_provider("demo")
    assert client.non_terminated_nodes({}) == []
    with pytest.raises(ProvisioningError, match="no SSH login"):
        client.create_node({"compute_requirement_template": "local/head"}, HEAD, 1)
    made = [call for call in emulator.calls() if call["operation"] == "add_work_requirement"]
    assert len(made) == 1, "it came as far as the login, so it has made a head"
    client.close()
    assert json_status("demo", tmp_path)[1]["pools"] == []
    assert stranger.everything() == before
    assert stranger.changes() == []


def test_leftovers_are_cleared_away_and_what_half_looks_like_them_is_not(
    room: HeadRoom, stranger: Stranger, at_desk: None, emulator: Emulator
) -> None:
    surround(stranger, room.cluster.cluster_id)
    before = stranger.everything()
    room.gateway.abort_node(room.head.task_id)
    eventually(lambda: room.task(room.head.name).status == "ABORTED", what="the head has ended")
    emulator.forget_calls()
    client = client_provider("demo")
    with pytest.raises(ProvisioningError, match="no SSH login"):
        client.create_node({"compute_requirement_template": "local/head"}, HEAD, 1)
    client.close()
    assert list(clusters.find_clusters(room.gateway, room.name)) == []
    assert [pool.name for pool in clusters.find_pools(room.gateway, room.name) if pool.live] == []
    assert stranger.everything() == before
    assert stranger.changes() == []
