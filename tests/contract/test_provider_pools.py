"""Which machines new work gets: a changed ``node_config``, and pools that an earlier autoscaler has made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydog.autoscaler.environment import ROLE
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.errors import StateError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]
CHANGES: list[dict[str, Any]] = [
    {"compute_requirement_template": ["local/worker", "local/head"]},
    {"images_id": "another"},
    {"userdata": "#!/bin/bash\necho changed\n"},
    {"instance_tags": {"team": "b"}},
    {"metrics_enabled": True},
]


def launch(room: HeadRoom, provider: RayDogNodeProvider, **node_config: Any) -> list[str]:
    room.node_configs["worker"] = node_config
    return room.launch(provider)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_changed_node_config_gets_new_machines_and_the_earlier_nodes_stay(
    room: HeadRoom, change: dict[str, Any]
) -> None:
    provider = room.provider()
    before = launch(room, provider)
    running(provider, before)
    (earlier,) = room.pools()
    after = launch(room, provider, **change)
    running(provider, [*before, *after])
    assert len(room.pools()) == 2
    tags = {group.group_id: group.tag for group in room.refreshed().groups}
    (own,) = (tags[room.task(name).group_id] for name in after)
    assert own != tags[room.task(before[0]).group_id]
    (pool,) = (p for p in clusters.find_pools(room.gateway, room.name) if p.live and p.worker_tag == own)
    assert pool.name != earlier
    running(provider, launch(room, provider))  # changed back: the earlier pool still serves
    assert len(room.pools()) == 2


def test_unchanged_node_config_keeps_its_pool_over_a_restart_and_a_changed_one_does_not(room: HeadRoom) -> None:
    first = room.provider()
    running(first, launch(room, first, userdata="#!/bin/bash\ntrue\n"))
    first.close()
    second = room.provider()
    running(second, launch(room, second, userdata="#!/bin/bash\ntrue\n"))
    assert len(room.pools()) == 1
    second.close()
    third = room.provider()
    running(third, launch(room, third, userdata="#!/bin/bash\nfalse\n"))
    assert len(room.pools()) == 2


def test_changed_cluster_is_taken_down_completely(room: HeadRoom) -> None:
    provider = room.provider()
    launch(room, provider)
    launch(room, provider, images_id="another")
    assert len(room.pools()) == 2
    teardown.request_teardown(room.gateway, room.name)
    assert room.pools() == []
    eventually(lambda: room.emulator.status()["liveInstances"] == 0, what="all machines have gone")


@pytest.fixture
def orphaned(room: HeadRoom) -> tuple[HeadRoom, list[str]]:
    """A cluster with a waiting node whose pool went while no autoscaler ran."""
    room.emulator.template("local/worker", capacity=0)
    first = room.provider()
    nodes = room.launch(first)
    first.close()
    for pool in list(clusters.find_pools(room.gateway, room.name)):
        if pool.name in room.pools():
            room.gateway.shut_down_pool(pool.pool_id)
    room.emulator.template("local/worker", capacity=None)
    eventually(lambda: room.pools() == [], what="the pool has gone")
    return room, nodes


def write_yaml(room: HeadRoom, node_config: dict[str, Any]) -> None:
    document = {"available_node_types": {"worker": {"node_config": node_config}}}
    (room.home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(document))


def test_pool_lost_before_a_restart_is_made_again_from_the_clusters_yaml(
    orphaned: tuple[HeadRoom, list[str]],
) -> None:
    room, nodes = orphaned
    write_yaml(room, room.node_config())
    provider = room.provider()
    provider.non_terminated_nodes({})
    eventually(lambda: all(map(provider.is_running, nodes)), timeout=20, what="the node runs in a new pool")


@pytest.mark.parametrize("in_yaml", [None, {"compute_requirement_template": "local/head"}], ids=["no YAML", "changed"])
def test_nodes_whose_pool_nobody_can_make_again_are_ended_and_the_reason_is_kept(
    orphaned: tuple[HeadRoom, list[str]], in_yaml: dict[str, Any] | None
) -> None:
    room, nodes = orphaned
    if in_yaml is not None:
        write_yaml(room, in_yaml)
    provider = room.provider()
    provider.non_terminated_nodes({})
    eventually(lambda: [f.category for f in room.failures()] == ["PoolLost"], what="the failure is kept")
    assert room.failures()[0].node_type == "worker"
    assert nodes[0] in room.failures()[0].message
    eventually(lambda: room.tasks() == [], what="no task waits for ever")
    assert room.pools() == []
    running(provider, room.launch(provider))


def test_restarted_autoscaler_leaves_the_live_pool_of_a_waiting_node_alone(room: HeadRoom) -> None:
    room.emulator.template("local/worker", capacity=0)
    first = room.provider()
    nodes = room.launch(first)
    first.close()
    pools = room.pools()
    second = room.provider()
    second.non_terminated_nodes({})
    room.emulator.forget_calls()
    eventually(lambda: len(room.emulator.calls("get_worker_pool_by_id")) > 1, what="the pool is looked at")
    room.emulator.template("local/worker", capacity=None)
    running(second, nodes)
    assert room.pools() == pools
    assert room.failures() == []


def test_key_is_read_from_the_file_where_ray_up_has_put_it(
    room: HeadRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = room.provider().provider_config
    for name in ("YD_API_URL", "YD_API_KEY_ID", "YD_API_KEY_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".raydog").mkdir(exist_ok=True)
    lines = [f"export {name}='{value}'\n" for name, value in room.emulator.environment.items()]
    (tmp_path / ".raydog" / "credentials.env").write_text("".join(lines))
    provider = RayDogNodeProvider(dict(settings), room.name.cluster)
    try:
        running(provider, room.launch(provider))
    finally:
        provider.close()


def test_autoscaler_in_a_container_without_our_environment_says_what_is_missing(
    room: HeadRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = room.provider().provider_config
    monkeypatch.delenv(ROLE)
    monkeypatch.setattr("sys.argv", ["monitor.py", "--autoscaling-config=/root/ray_bootstrap_config.yaml"])
    with pytest.raises(StateError, match=ROLE):
        RayDogNodeProvider(dict(settings), room.name.cluster)
