"""What Ray's two autoscalers see of nodes: Ray's own v2 adapter, and the calls that v1 makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_SETTING_UP,
    STATUS_UNINITIALIZED,
    STATUS_UP_TO_DATE,
    TAG_RAY_LAUNCH_REQUEST,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.core.generated.instance_manager_pb2 import NodeKind

from raydog.emulator import Emulator
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from tests.support.head_room import HeadRoom, running
from tests.support.servers import eventually

MakeRoom = Callable[..., HeadRoom]


def test_launched_nodes_show_at_once_as_pending_and_later_run_with_addresses(room: HeadRoom) -> None:
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    nodes = room.launch(provider, 3)
    assert len(nodes) == 3
    assert not any(map(provider.is_running, nodes))
    assert [provider.internal_ip(node) for node in nodes] == [None] * 3
    assert [provider.external_ip(node) for node in nodes] == [None] * 3
    room.emulator.template("local/worker", capacity=None)
    running(provider, nodes)
    assert all(str(provider.internal_ip(node)).startswith("10.") for node in nodes)


def test_v2_adapter_sees_head_and_workers_with_kind_type_and_request(room: HeadRoom) -> None:
    provider = room.provider()
    adapter = room.adapter(provider)
    assert list(adapter.get_non_terminated()) == [room.head.name]
    adapter.launch({"worker": 4}, "request-1")
    eventually(lambda: len(adapter.get_non_terminated()) == 5, what="four workers")
    seen = adapter.get_non_terminated()
    workers = [node for name, node in seen.items() if name != room.head.name]
    assert {(node.node_kind, node.node_type, node.request_id) for node in workers} == {
        (NodeKind.WORKER, "worker", "request-1")
    }
    running(provider, [node.cloud_instance_id for node in workers])
    assert all(node.is_running for node in adapter.get_non_terminated().values())
    assert adapter.poll_errors() == []


def test_v2_terminate_hides_nodes_and_ends_their_tasks_and_machines(room: HeadRoom) -> None:
    provider = room.provider()
    adapter = room.adapter(provider)
    nodes = room.launch(provider, 3)
    running(provider, nodes)
    adapter.terminate(nodes[:2], "request-2")
    eventually(lambda: set(adapter.get_non_terminated()) == {room.head.name, nodes[2]}, what="two are gone")
    eventually(lambda: len(room.tasks()) == 1, what="their tasks have ended")
    eventually(lambda: room.emulator.status()["liveInstances"] == 2, what="their machines have gone")
    assert adapter.poll_errors() == []


def test_v1_terminated_nodes_are_gone_in_the_same_moment(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 3)
    provider.terminate_node(nodes[0])
    provider.terminate_nodes(nodes[1:])
    assert provider.non_terminated_nodes({}) == [room.head.name]
    assert all(map(provider.is_terminated, nodes))
    assert [provider.node_tags(node) for node in nodes] == [{}] * 3
    eventually(lambda: room.tasks() == [], what="their tasks have ended")


def test_v1_finds_nodes_by_tags(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 2)
    assert provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD}) == [room.head.name]
    assert set(provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_WORKER})) == set(nodes)
    assert set(provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: "worker"})) == set(nodes)
    assert provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: "other"}) == []
    assert set(provider.nodes_for_teardown({})) == {room.head.name, *nodes}


def test_preempted_node_is_gone_on_the_next_tick(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    room.emulator.preempt(room.instance_of(nodes[0]))
    eventually(lambda: nodes[0] not in provider.non_terminated_nodes({}), what="the preempted node has gone")
    assert nodes[1] in provider.non_terminated_nodes({})
    assert provider.is_terminated(nodes[0])
    assert provider.internal_ip(nodes[0]) is None


def test_aborted_node_is_gone_on_the_next_tick(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = room.launch(provider, 2)
    running(provider, nodes)
    room.gateway.abort_node(room.task(nodes[0]).task_id)
    eventually(lambda: nodes[0] not in provider.non_terminated_nodes({}), what="the aborted node has gone")


def test_failed_node_is_gone_and_the_reason_is_kept(room: HeadRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    from raydog.autoscaler import on_head
    from raydog.autoscaler.environment import worker_environment as original

    monkeypatch.setattr(
        on_head, "worker_environment", lambda *a, **k: {**original(*a, **k), "SIMULATED_EXIT_CODE": "3"}
    )
    provider = room.provider()
    adapter = room.adapter(provider)
    adapter.launch({"worker": 1}, "request")
    eventually(lambda: [f.category for f in room.failures()] == ["NodeFailed"], what="the failure is kept")
    assert list(adapter.get_non_terminated()) == [room.head.name]
    failure = room.failures()[0]
    assert failure.node_type == "worker"
    assert "exit 3" in failure.message


def test_every_node_always_has_kind_and_status(room: HeadRoom) -> None:
    provider = room.provider()
    nodes = [room.head.name, *room.launch(provider, 2)]
    for _ in range(2):
        for name in nodes:
            assert {TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE} <= provider.node_tags(name).keys()
        running(provider, nodes)


def test_statuses_without_updaters_keep_v1_from_ending_a_young_worker(room: HeadRoom) -> None:
    provider = room.provider()
    (node,) = room.launch(provider)
    assert provider.node_tags(room.head.name)[TAG_RAY_NODE_STATUS] == STATUS_UP_TO_DATE
    assert provider.node_tags(node)[TAG_RAY_NODE_STATUS] == STATUS_SETTING_UP


def test_statuses_with_updaters_are_what_ray_says(make_room: MakeRoom) -> None:
    room = make_room(disable_node_updaters=False)
    provider = room.provider()
    (node,) = room.launch(provider)
    assert provider.node_tags(node)[TAG_RAY_NODE_STATUS] == STATUS_UNINITIALIZED
    provider.set_node_tags(node, {TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE})
    assert provider.node_tags(node)[TAG_RAY_NODE_STATUS] == STATUS_UP_TO_DATE


def test_tags_that_ray_writes_win_over_launch_tags_without_a_tag_server_too(room: HeadRoom) -> None:
    provider = room.provider()
    (node,) = room.launch(provider, 1, "worker", **{TAG_RAY_LAUNCH_REQUEST: "first"})
    provider.set_node_tags(node, {TAG_RAY_LAUNCH_REQUEST: "second", "own": "1"})
    tags = provider.node_tags(node)
    assert (tags[TAG_RAY_LAUNCH_REQUEST], tags["own"]) == ("second", "1")


@pytest.mark.parametrize("threads", [2, 32])
def test_launch_threads_that_find_no_pool_make_one_pool_and_exact_counts(room: HeadRoom, threads: int) -> None:
    provider = room.provider()
    adapter = room.adapter(provider, batch=2, launches=2 * threads)
    adapter.launch({"worker": 2 * threads}, "request")

    def all_run() -> bool:
        nodes = adapter.get_non_terminated().values()
        return len(nodes) == 1 + 2 * threads and all(node.is_running for node in nodes)

    eventually(all_run, timeout=30, what="all nodes")
    assert len(room.emulator.calls("provision_worker_pool")) == 2  # the head's, and one
    assert len(room.pools()) == 1
    assert len(room.tasks()) == 2 * threads
    assert sum(group.name.startswith("workers-") for group in room.refreshed().groups) == 1
    assert adapter.poll_errors() == []


def test_threads_launch_and_terminate_at_once_and_counts_are_exact(room: HeadRoom) -> None:
    provider = room.provider()
    old = room.launch(provider, 8)
    with ThreadPoolExecutor(8) as executor:
        launches = [executor.submit(room.launch, provider, 2) for _ in range(4)]
        ends = [executor.submit(provider.terminate_nodes, old[i::4]) for i in range(4)]
        for launch in launches:
            launch.result()
        for end in ends:
            end.result()
    assert len(provider.non_terminated_nodes({})) == 1 + 8
    eventually(lambda: len(room.tasks()) == 8, what="eight tasks")


def test_restarted_monitor_finds_the_nodes_and_adopts_the_pool(room: HeadRoom) -> None:
    first = room.provider()
    nodes = room.launch(first, 2)
    running(first, nodes)
    tags = {node: first.node_tags(node) for node in nodes}
    first.close()
    second = room.provider()
    assert set(second.non_terminated_nodes({})) == {room.head.name, *nodes}
    assert {node: second.node_tags(node) for node in nodes} == tags
    running(second, nodes)
    room.launch(second, 1)
    assert len(room.pools()) == 1


def test_pool_that_has_gone_while_tasks_wait_is_made_again(room: HeadRoom) -> None:
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    nodes = room.launch(provider, 2)
    (name,) = room.pools()
    (pool,) = (pool for pool in clusters.find_pools(room.gateway, room.name) if pool.name == name)
    room.gateway.shut_down_pool(pool.pool_id)
    room.emulator.template("local/worker", capacity=None)
    eventually(lambda: all(map(provider.is_running, nodes)), timeout=20, what="the nodes run in a new pool")
    assert room.pools() != [name]


def test_second_template_is_used_when_the_first_is_refused(make_room: MakeRoom) -> None:
    room = make_room(templates={"worker": ["local/unknown", "local/worker"]})
    provider = room.provider()
    running(provider, room.launch(provider, 2))
    assert room.failures() == []


def test_launch_without_a_usable_template_says_why_and_leaves_nothing(make_room: MakeRoom) -> None:
    room = make_room(templates={"worker": ["local/unknown", "local/none"]})
    provider = room.provider()
    with pytest.raises(NodeLaunchException, match="local/unknown") as failed:
        room.launch(provider, 2)
    assert failed.value.category == "TemplateRefused"
    (failure,) = room.failures()
    assert failure.category == "TemplateRefused"
    assert "local/none" in failure.message
    assert provider.non_terminated_nodes({}) == [room.head.name]
    eventually(lambda: room.tasks() == [], what="no task waits for ever")


def test_v2_reports_a_failed_launch_with_its_request(make_room: MakeRoom) -> None:
    room = make_room(templates={"worker": "local/unknown"})
    adapter = room.adapter(room.provider())
    adapter.launch({"worker": 3}, "request-9")
    errors: list[Any] = []

    def polled() -> bool:
        errors.extend(adapter.poll_errors())
        return bool(errors)

    eventually(polled, what="an error")
    assert (errors[0].request_id, errors[0].count) == ("request-9", 3)
    assert isinstance(errors[0].__cause__, NodeLaunchException)


def test_nodes_are_refused_when_the_lifetime_is_over(room: HeadRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime, timedelta, tzinfo

    from raydog.autoscaler import lifetime

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=2)

    provider = room.provider()
    monkeypatch.setattr(lifetime, "datetime", Later)
    with pytest.raises(NodeLaunchException, match="cluster_lifetime_hours: 1") as failed:
        room.launch(provider)
    assert failed.value.category == "LifetimeOver"


def test_v1_node_without_a_machine_is_cancelled_and_the_next_launch_of_its_type_says_so(make_room: MakeRoom) -> None:
    room = make_room(v2=False, node_launch_timeout_minutes=0.01)
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    (node,) = room.launch(provider)
    eventually(lambda: node not in provider.non_terminated_nodes({}), what="the node is given up")
    eventually(lambda: room.tasks() == [], what="its task has ended")
    with pytest.raises(NodeLaunchException, match=node) as failed:
        room.launch(provider)
    assert failed.value.category == "AllocationTimeout"
    room.emulator.template("local/worker", capacity=None)
    running(provider, room.launch(provider))


def test_v2_node_without_a_machine_stays_listed_until_ray_ends_it(make_room: MakeRoom) -> None:
    room = make_room(v2=True, node_launch_timeout_minutes=0.01)  # 0.6 s
    room.emulator.template("local/worker", capacity=0)
    provider = room.provider()
    (node,) = room.launch(provider)
    asked = time.monotonic()
    room.emulator.forget_calls()

    def long_ago() -> bool:
        return time.monotonic() - asked > 1.2 and len(room.emulator.calls("get_tasks")) > 4

    eventually(long_ago, what="sweeps after the time-out")
    assert node in provider.non_terminated_nodes({})


def test_clusters_with_similar_names_never_see_each_other(make_room: MakeRoom, emulator: Emulator) -> None:
    rooms = [make_room(name=name) for name in ("demo", "demo-2", "Demo")]
    providers = [room.provider() for room in rooms]
    for provider, room in zip(providers, rooms, strict=True):
        assert provider.non_terminated_nodes({}) == [room.head.name]
        assert len(room.launch(provider, 2)) == 2
    for provider, room in zip(providers, rooms, strict=True):
        assert len(provider.non_terminated_nodes({})) == 3
        assert [c.cluster_id for c in clusters.find_clusters(room.gateway, room.name)] == [room.cluster.cluster_id]
    teardown.request_teardown(rooms[0].gateway, rooms[0].name)
    for room in rooms[1:]:
        assert len(room.tasks()) == 2
        assert len(room.pools()) == 1
