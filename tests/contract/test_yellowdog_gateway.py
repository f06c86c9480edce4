"""The gateway and what it makes of a platform that refuses, fails or vanishes; clusters' ends and ownership."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from raydog.autoscaler.client import ClientSide
from raydog.autoscaler.config import ClusterConfig
from raydog.emulator import Emulator
from raydog.errors import (
    ConfigError,
    CredentialsError,
    NotFoundError,
    PlatformError,
    PlatformUnavailableError,
    TeardownError,
)
from raydog.waiting import SystemClock
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord, PoolRequest
from tests.support.head_room import NAMESPACE, HeadRoom, running
from tests.support.servers import eventually, free_port

DEMO = ClusterName(NAMESPACE, "demo")
HOUR = timedelta(hours=1)
MakeRoom = Callable[..., HeadRoom]


class Hurried(SystemClock):
    """Time passes as it does, but nobody waits for long."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.05))


@pytest.fixture
def swift(emulator: Emulator) -> Iterator[Gateway]:
    gateway = Gateway(Credentials(emulator.url, emulator.key_id, emulator.key_secret), swift=True)
    yield gateway
    gateway.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"action": "status", "status": 401, "error_type": "UnauthorizedException"}, CredentialsError),
        ({"action": "status", "status": 403, "error_type": "ForbiddenException"}, (PlatformError, CredentialsError)),
        ({"action": "status", "status": 429}, PlatformUnavailableError),
        ({"action": "status", "status": 500}, PlatformUnavailableError),
        ({"action": "status", "status": 503}, PlatformUnavailableError),
        ({"action": "drop_before"}, PlatformUnavailableError),
        ({"action": "drop_after"}, PlatformUnavailableError),
    ],
)
def test_faults_become_our_errors_that_name_the_call(
    emulator: Emulator, swift: Gateway, fault: dict[str, object], expected: type[Exception]
) -> None:
    emulator.fault("get_tasks", **{**fault, "times": 100})  # type: ignore[arg-type]
    with pytest.raises(expected, match="list tasks"):
        swift.list_nodes("ydid:workreq:000000:00000000-0000-0000-0000-000000000000")


def test_unknown_thing_is_not_found(swift: Gateway) -> None:
    with pytest.raises(NotFoundError):
        swift.get_pool("ydid:wrkrpool:000000:00000000-0000-0000-0000-000000000000")


def test_wrong_key_is_a_credentials_error_without_the_secret(emulator: Emulator) -> None:
    gateway = Gateway(Credentials(emulator.url, "somebody", "s3cr3t"), swift=True)
    with pytest.raises(CredentialsError) as failed:
        gateway.find_pools(NAMESPACE, "demo")
    gateway.close()
    assert "s3cr3t" not in str(failed.value)


def test_platform_that_is_not_there_is_unavailable() -> None:
    gateway = Gateway(Credentials(f"http://127.0.0.1:{free_port()}", "id", "s3cr3t"), swift=True)
    with pytest.raises(PlatformUnavailableError) as failed:
        gateway.find_pools(NAMESPACE, "demo")
    gateway.close()
    assert "s3cr3t" not in str(failed.value)


def test_swift_gateway_asks_once_and_a_patient_one_again(emulator: Emulator, swift: Gateway, room: HeadRoom) -> None:
    emulator.forget_calls()
    emulator.fault("get_work_requirement_by_id", "status", status=503)
    with pytest.raises(PlatformUnavailableError):
        swift.get_cluster(room.cluster.requirement_id, room.cluster.cluster_id)
    assert len(emulator.calls("get_work_requirement_by_id")) == 1
    emulator.fault("get_work_requirement_by_id", "status", status=503)
    assert room.refreshed().name == room.cluster.name


def test_requirement_whose_answer_is_lost_is_made_once(emulator: Emulator, room: HeadRoom) -> None:
    emulator.fault("add_work_requirement", "drop_after")
    name = ClusterName(NAMESPACE, "lost")
    added = clusters.add_cluster(room.gateway, name, None, "head", HOUR)
    found = clusters.find_clusters(room.gateway, name)
    assert [cluster.requirement_id for cluster in found] == [added.requirement_id]


def test_of_two_clusters_made_at_the_same_moment_everybody_sees_the_older_first(room: HeadRoom) -> None:
    second = clusters.add_cluster(room.gateway, DEMO, None, "head", HOUR)
    found = clusters.find_clusters(room.gateway, DEMO)
    assert [cluster.cluster_id for cluster in found] == [room.cluster.cluster_id, second.cluster_id]
    teardown.request_teardown(room.gateway, DEMO, cluster_id=second.cluster_id)
    (left,) = clusters.find_clusters(room.gateway, DEMO)
    assert left.cluster_id == room.cluster.cluster_id
    assert clusters.find_head(room.gateway, left) is not None
    assert room.task(room.head.name).status == "EXECUTING"


def head_of(room: HeadRoom) -> NodeRecord:
    head = clusters.find_head(room.gateway, room.cluster)
    assert head is not None
    return head


def test_cluster_lingers_when_its_head_is_ending(room: HeadRoom) -> None:
    assert not clusters.has_ended(head_of(room))
    room.gateway.abort_node(room.head.task_id)
    assert clusters.has_ended(head_of(room))


def test_cluster_in_the_making_gets_its_time_whatever_this_machines_clock_says(room: HeadRoom) -> None:
    five_minutes_ahead = room.cluster.created + timedelta(minutes=5)
    assert not clusters.is_overdue(room.cluster, 0.0, five_minutes_ahead)
    assert clusters.is_overdue(room.cluster, clusters.HEADLESS_GRACE_SECONDS, five_minutes_ahead)
    assert clusters.is_overdue(room.cluster, 0.0, room.cluster.created + HOUR)


def test_leftovers_are_ended_and_a_cluster_in_the_making_is_not(emulator: Emulator, room: HeadRoom) -> None:
    room.launch(room.provider(), 2)
    room.gateway.cancel_cluster(room.cluster.requirement_id)
    in_the_making = clusters.add_cluster(room.gateway, DEMO, None, "head", HOUR)
    ended = teardown.end_leftovers(room.gateway, DEMO, [], lambda _text: None)
    assert any(room.cluster.cluster_id in name for name in ended)
    assert [c.cluster_id for c in clusters.find_clusters(room.gateway, DEMO)] == [in_the_making.cluster_id]
    assert not list(clusters.find_pools(room.gateway, DEMO, room.cluster.cluster_id))


def test_teardown_ends_pools_whose_requirement_has_long_gone(emulator: Emulator, room: HeadRoom) -> None:
    room.launch(room.provider(), 2)
    room.gateway.cancel_cluster(room.cluster.requirement_id)
    begun = teardown.request_teardown(room.gateway, DEMO)
    tag = naming.worker_tag(room.cluster.cluster_id, "worker")
    assert any(pool.worker_tag.startswith(tag) for pool in begun.pools)
    assert teardown.await_teardown(room.gateway, DEMO, begun, 20, clock=Hurried()) == []
    status = emulator.status()
    assert (status["liveInstances"], status["unfinishedPools"], status["unfinishedTasks"]) == (0, 0, 0)
    assert teardown.request_teardown(room.gateway, DEMO) == teardown.Teardown()


def test_teardown_touches_nothing_of_others(emulator: Emulator, room: HeadRoom) -> None:
    foreign = room.gateway.add_pool(
        NAMESPACE, PoolRequest("demo-abcdefgh-theirs", "local/worker", "not-ours", 0, 5, idle_pool_seconds=600)
    )
    other = clusters.add_cluster(room.gateway, ClusterName(NAMESPACE, "demo-2"), None, "head", HOUR)
    teardown.request_teardown(room.gateway, DEMO)
    assert room.gateway.get_pool(foreign.pool_id).live
    assert room.gateway.get_cluster(other.requirement_id, other.cluster_id).status == "RUNNING"
    assert clusters.find_clusters(room.gateway, DEMO) == []


def test_teardown_that_cannot_end_something_names_it_after_trying_all(emulator: Emulator, room: HeadRoom) -> None:
    room.launch(room.provider(), 2)
    for operation in ("shutdown_worker_pool", "terminate_compute_requirement"):
        emulator.fault(operation, "status", status=400, error_type="InvalidRequestException", message="no", times=9)
    with pytest.raises(TeardownError, match=naming.requirement_name("demo", room.cluster.cluster_id)):
        teardown.request_teardown(room.gateway, DEMO)
    assert room.refreshed().status in ("CANCELLED", "CANCELLING")


INVALID: dict[str, Any] = {"status": 400, "error_type": "InvalidOperationException", "message": "no"}


def test_ending_what_is_over_is_success_however_the_platform_refuses_it(emulator: Emulator, room: HeadRoom) -> None:
    pools = list(clusters.find_pools(room.gateway, DEMO))
    compute_id = pools[0].compute_requirement_id
    assert compute_id is not None
    teardown.await_teardown(room.gateway, DEMO, teardown.request_teardown(room.gateway, DEMO), 20, clock=Hurried())
    endings: dict[str, Callable[[], object]] = {
        "transition_work_requirement": lambda: room.gateway.cancel_cluster(room.cluster.requirement_id),
        "cancel_task": lambda: room.gateway.abort_node(room.head.task_id),
        "shutdown_worker_pool": lambda: room.gateway.shut_down_pool(pools[0].pool_id),
        "terminate_compute_requirement": lambda: room.gateway.terminate_compute(compute_id),
    }
    for operation, end in endings.items():
        emulator.forget_calls()
        emulator.fault(operation, "status", **INVALID)
        end()
        assert [call["status"] for call in emulator.calls(operation)] == [400]


def test_refusal_to_end_what_is_not_over_is_an_error(emulator: Emulator, room: HeadRoom) -> None:
    (pool,) = clusters.find_pools(room.gateway, DEMO)
    assert pool.compute_requirement_id is not None
    compute_id = pool.compute_requirement_id
    endings: dict[str, Callable[[], object]] = {
        "transition_work_requirement": lambda: room.gateway.cancel_cluster(room.cluster.requirement_id),
        "cancel_task": lambda: room.gateway.abort_node(room.head.task_id),
        "shutdown_worker_pool": lambda: room.gateway.shut_down_pool(pool.pool_id),
        "terminate_compute_requirement": lambda: room.gateway.terminate_compute(compute_id),
    }
    for operation, end in endings.items():
        for error_type in ("InvalidOperationException", "SomeStatusException"):
            emulator.fault(operation, "status", **{**INVALID, "error_type": error_type})
            with pytest.raises(PlatformError):
                end()


def test_machine_of_a_node_is_terminated_and_no_other(emulator: Emulator, room: HeadRoom) -> None:
    provider = room.provider()
    names = room.launch(provider, 3)
    running(provider, names)
    doomed = room.instance_of(names[0])
    machine = room.task(names[0]).platform_node_id
    assert machine is not None
    room.gateway.terminate_machine(machine)
    room.gateway.terminate_machine(machine)  # already over is success
    calls = emulator.calls("terminate_instances")
    assert len(calls) == 1
    live = {str(one["id"]) for one in emulator.status()["instances"] if one["status"] == "RUNNING"}
    assert doomed not in live
    assert {room.instance_of(name) for name in (room.head.name, *names[1:])} <= live


def test_machine_that_is_shut_down_goes_when_its_node_has_ended(emulator: Emulator, room: HeadRoom) -> None:
    provider = room.provider()
    names = room.launch(provider, 2)
    running(provider, names)
    node = room.task(names[0])
    assert node.platform_node_id is not None
    room.gateway.shut_down_machine(node.platform_node_id)
    room.gateway.abort_node(node.task_id)
    eventually(lambda: emulator.status()["liveInstances"] == 2, what="one machine has gone")
    room.gateway.shut_down_machine(node.platform_node_id)
    room.gateway.shut_down_machine("ydid:node:D06D06:none:1:1")
    assert room.task(names[1]).status == "EXECUTING"


def client_side(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, digests: dict[str, str]) -> ClientSide:
    for key, value in emulator.environment.items():
        monkeypatch.setenv(key, value)
    return ClientSide(ClusterConfig(cluster_name="demo", namespace=NAMESPACE), digests)


def test_client_refuses_to_replace_a_head_and_says_what_changed(
    emulator: Emulator, room: HeadRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = client_side(emulator, monkeypatch, {"auth.ssh_user": "new"})
    side.refresh()
    head = side.nodes()[room.head.name]
    assert side.is_head(head)
    with pytest.raises(ConfigError, match=r"auth\.ssh_user.*ray down"):
        side.replace_head(head)
    assert room.task(room.head.name).status == "EXECUTING"
    side.close()


def test_client_reads_without_tag_server_and_teardown_leaves_nothing(
    emulator: Emulator, room: HeadRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = room.launch(room.provider(), 2)
    side = client_side(emulator, monkeypatch, {})
    side.refresh()
    assert set(side.nodes()) == {room.head.name, *workers}
    address = side.address(room.head.name)
    assert address is not None
    assert address.public_ip
    assert side.stored_tags(fetch=True) == {}
    side.terminate([room.head.name])
    side.clean_up()
    side.clean_up()  # already gone is success
    side.close()
    status = emulator.status()
    assert {key: status[key] for key in ("liveInstances", "unfinishedPools", "unfinishedTasks")} == {
        "liveInstances": 0,
        "unfinishedPools": 0,
        "unfinishedTasks": 0,
    }
