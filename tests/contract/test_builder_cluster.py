"""A cluster that a program makes by hand: building, changing and shutting down, on the simulated platform."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from raydog.builder import RayDogCluster, workers
from raydog.emulator import Emulator, VirtualClock
from raydog.errors import ConfigError, ProvisioningError, StateError
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from tests.support.builder import NAMESPACE, SCRIPT, Workshop
from tests.support.servers import eventually


@pytest.fixture
def workshop(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(teardown, "LOOKS_APART_SECONDS", 0.02)
    made = Workshop(emulator)
    yield made
    made.close()


def test_build_returns_the_heads_addresses_and_fills_in_what_programs_read(workshop: Workshop) -> None:
    with workshop.with_pool(3) as cluster:
        private, public = cluster.build(timedelta(minutes=1))
        assert (private, public) == (cluster.head_node_private_ip, cluster.head_node_public_ip)
        assert private != public
        assert str(cluster.work_requirement_id).startswith("ydid:workreq:")
        assert str(cluster.head_node_worker_pool_id).startswith("ydid:wrkrpool:")
        assert str(cluster.head_node_node_id).startswith("ydid:node:")
        assert str(cluster.head_node_task_id).startswith("ydid:task:")
        assert cluster.worker_pool_internal_names == ["small"]
        assert cluster.worker_pool_ids == [cluster.worker_node_worker_pools["small"].worker_pool_id]
        assert cluster.get_worker_pool_internal_name_by_id(cluster.worker_pool_ids[0]) == "small"
        assert cluster.get_worker_pool_internal_name_by_id("ydid:wrkrpool:000000:other") is None
        assert cluster.wait_for_workers(timeout=20) == 3
        requirement = cluster.yd_client.work_client.get_work_requirement_by_id(cluster.work_requirement_id)
        assert requirement.name.startswith("demo-")
    assert workshop.left() == {}
    assert cluster.work_requirement_id is None
    assert cluster.worker_pool_ids == []


def test_scripts_run_as_given_and_find_the_head(workshop: Workshop) -> None:
    with workshop.cluster(head_node_ray_start_script="exit_with 0; sleep 1 # head") as cluster:
        cluster.add_worker_pool("local/worker", "sleep 2 # worker", 1)
        private, _ = cluster.build()
        head = cluster.yd_client.work_client.get_task_by_id(cluster.head_node_task_id)
        assert (head.taskType, head.taskData) == ("bash", "exit_with 0; sleep 1 # head")
        assert "OBSERVABILITY_HOST" not in (head.environment or {})
        (worker,) = workshop.tasks_of(cluster, "worker-nodes-01")
        task = cluster.yd_client.work_client.get_task_by_id(worker.task_id)
        assert (task.taskType, task.taskData) == ("bash", "sleep 2 # worker")
        assert task.environment == {"RAY_HEAD_IP": private, "RAY_HEAD_NODE_PRIVATE_IP": private}


def test_observability_node_comes_first_and_everybody_knows_its_address(workshop: Workshop) -> None:
    cluster = workshop.cluster(
        enable_observability=True,
        observability_node_compute_requirement_template_id="local/worker",
        observability_node_start_script="sleep infinity # observability",
    )
    cluster.add_worker_pool("local/worker", SCRIPT, 1)
    with cluster:
        cluster.build()
        assert cluster.enable_observability
        host = cluster.observability_node_private_ip
        assert host not in (None, cluster.head_node_private_ip)
        assert str(cluster.observability_node_id).startswith("ydid:node:")
        environments = {task.name.split("-")[2]: task.environment for task in workshop.tasks(cluster)}
        assert environments["observability"] == {}
        assert environments["head"] == {"OBSERVABILITY_HOST": host}
        assert environments["01"]["OBSERVABILITY_HOST"] == host
        added = [call["operation"] for call in workshop.emulator.calls("add_tasks_to_task_group")]
        assert len(added) == 3
        state = json.loads(cluster.save_state_to_json())
        assert state["worker_pool_ids"] == [
            *cluster.worker_pool_ids,
            cluster.head_node_worker_pool_id,
            cluster.observability_node_worker_pool_id,
        ]
    assert workshop.left() == {}


def test_build_of_ten_pools_takes_as_many_calls_as_there_are_things(workshop: Workshop) -> None:
    cluster = workshop.cluster()
    for _ in range(10):
        cluster.add_worker_pool("local/worker", SCRIPT, 100)
    with cluster:
        cluster.build()
        calls = workshop.operations()
        polls = calls.pop("get_task_by_id")
        assert 1 <= polls <= 20
        assert calls == {
            "get_work_requirements": 2,
            "add_work_requirement": 1,
            "provision_worker_pool": 11,
            "add_tasks_to_task_group": 11,
            "get_instances": 1,
        }
        assert cluster.wait_for_workers(timeout=30) == 1000
        assert cluster.worker_pool_internal_names[9] == "worker-nodes-10"


def test_pools_come_and_go_while_the_cluster_runs(workshop: Workshop) -> None:
    with workshop.with_pool(2) as cluster:
        cluster.build()
        added = cluster.add_worker_pool("local/worker", SCRIPT, 3, "more", "image", "#!/bin/sh\n", {"a": "b"}, True)
        assert added == cluster.worker_node_worker_pools["more"].worker_pool_id
        assert cluster.wait_for_workers(timeout=20) == 5
        pool = cluster.yd_client.worker_pool_client.get_worker_pool_by_id(added)
        assert (pool.properties.minNodes, pool.properties.maxNodes, pool.properties.metricsEnabled) == (0, 3, True)
        small = workshop.tasks_of(cluster, "small")
        more = {task.task_id for task in workshop.tasks_of(cluster, "more")}
        cluster.remove_worker_pool(str(added))
        assert cluster.worker_pool_internal_names == ["small"]
        eventually(
            lambda: all(workshop.gateway.get_node(task).state.value == "ended" for task in more),
            what="the removed pool's tasks have ended",
        )
        assert all(workshop.gateway.get_node(task.task_id).status == "EXECUTING" for task in small)
        again = cluster.add_worker_pool("local/worker", SCRIPT, 1, "more")
        assert again != added
        assert cluster.wait_for_workers(timeout=20) == 3


def test_removing_a_pool_leaves_no_task_that_waits_for_ever(workshop: Workshop) -> None:
    workshop.emulator.template("local/worker", capacity=1)
    with workshop.with_pool(3) as cluster:
        cluster.build()
        cluster.wait_for_workers(1, timeout=20)
        tasks = workshop.tasks_of(cluster, "small")
        cluster.remove_worker_pool_by_internal_name("small")
        eventually(
            lambda: all(workshop.gateway.get_node(task.task_id).state.value == "ended" for task in tasks),
            what="all its tasks have ended",
        )


def test_a_pool_can_be_taken_out_before_build(workshop: Workshop) -> None:
    cluster = workshop.with_pool()
    assert cluster.add_worker_pool("local/worker", SCRIPT, 1) is None
    assert cluster.worker_pool_internal_names == ["small", "worker-nodes-02"]
    cluster.remove_worker_pool_by_internal_name("small")
    with cluster:
        cluster.build()
        assert cluster.wait_for_workers(timeout=20) == 1
        with pytest.raises(StateError, match="worker-nodes-02"):
            cluster.remove_worker_pool_by_internal_name("small")
        with pytest.raises(StateError, match="no worker pool ydid:wrkrpool:x"):
            cluster.remove_worker_pool("ydid:wrkrpool:x")


def test_a_pool_that_cannot_be_added_leaves_nothing_and_the_cluster_as_it_was(workshop: Workshop) -> None:
    with workshop.with_pool() as cluster:
        cluster.build()
        cluster.wait_for_workers(timeout=20)
        before = workshop.left()
        with pytest.raises(ProvisioningError, match="no/such"):
            cluster.add_worker_pool("no/such", SCRIPT, 2, "wrong")
        workshop.emulator.fault("add_tasks_to_task_group", "status", status=400, error_type="InvalidRequestException")
        with pytest.raises(Exception, match="fault"):
            cluster.add_worker_pool("local/worker", SCRIPT, 2, "unlucky")
        assert workshop.left() == before
        assert cluster.worker_pool_internal_names == ["small"]
        cluster.add_worker_pool("local/worker", SCRIPT, 1, "unlucky")
        assert cluster.wait_for_workers(timeout=20) == 3


def test_an_addition_whose_answer_is_lost_is_there_once(workshop: Workshop) -> None:
    with workshop.cluster() as cluster:
        cluster.build()
        for operation in ("provision_worker_pool", "update_work_requirement", "add_tasks_to_task_group"):
            workshop.emulator.fault(operation, "drop_after")
        cluster.add_worker_pool("local/worker", SCRIPT, 2, "once")
        assert cluster.wait_for_workers(timeout=20) == 2
        assert len(workshop.tasks_of(cluster, "once")) == 2
        assert workshop.left()["unfinishedPools"] == 2


def test_calls_out_of_turn_are_refused(workshop: Workshop) -> None:
    cluster = workshop.with_pool()
    with pytest.raises(StateError, match="not built yet"):
        cluster.save_state_to_json()
    with pytest.raises(StateError, match="not built yet"):
        cluster.wait_for_workers()
    cluster.build()
    with pytest.raises(StateError, match="built already"):
        cluster.build()
    cluster.shut_down()
    cluster.shut_down()
    for call in (
        cluster.build,
        cluster.save_state_to_json,
        cluster.wait_for_workers,
        lambda: cluster.add_worker_pool("local/worker", SCRIPT, 1),
        lambda: cluster.remove_worker_pool("x"),
        lambda: cluster.remove_worker_pool_by_internal_name("small"),
    ):
        with pytest.raises(StateError, match="shut down"):
            call()


def test_count_of_workers_to_wait_for_must_be_possible(workshop: Workshop) -> None:
    with workshop.with_pool(2) as cluster:
        cluster.build()
        assert cluster.wait_for_workers(0) >= 0
        for count in (3, -1, True, 1.5):
            with pytest.raises(ConfigError, match="2 nodes"):
                cluster.wait_for_workers(count)  # type: ignore[arg-type]


def test_workers_count_when_ray_says_that_they_are_alive(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[OSError | int] = iter([OSError("connection refused"), 0, 1, 2])

    def alive(url: str) -> int:
        assert url == "http://localhost:8265/nodes?view=summary&nocache=1"
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(workers, "alive_workers", alive)
    with workshop.with_pool(2) as cluster:
        cluster.build()
        assert cluster.wait_for_workers(timeout=20, dashboard_address="localhost:8265") == 2
        assert next(answers, None) is None
    assert any("connection refused" in text for text in workshop.texts)


def test_the_same_name_can_be_built_again_and_neighbours_are_not_touched(workshop: Workshop) -> None:
    autoscaled = clusters.add_cluster(
        workshop.gateway, ClusterName(NAMESPACE, "demo"), None, "head", timedelta(hours=1)
    )
    with workshop.with_pool(1, "demo-2") as neighbour:
        neighbour.build()
        for _ in range(2):
            cluster = workshop.with_pool()
            cluster.build()
            cluster.shut_down()
        workshop.cluster().shut_down()
        assert neighbour.wait_for_workers(timeout=20) == 1
        assert workshop.gateway.get_cluster(autoscaled.requirement_id, "x").status == "RUNNING"


def test_autoscaler_never_sees_a_cluster_of_the_builder(workshop: Workshop) -> None:
    name = ClusterName(NAMESPACE, "demo")
    with workshop.with_pool() as cluster:
        cluster.build()
        assert clusters.find_clusters(workshop.gateway, name) == []
        assert list(clusters.find_pools(workshop.gateway, name)) == []
        assert teardown.request_teardown(workshop.gateway, name) == teardown.Teardown()
        assert cluster.wait_for_workers(timeout=20) == 2


def test_a_name_that_lives_is_refused_and_not_touched(workshop: Workshop) -> None:
    with workshop.with_pool() as cluster:
        cluster.build()
        cluster.wait_for_workers(timeout=20)
        before = workshop.left()
        workshop.emulator.forget_calls()
        other = workshop.with_pool()
        with pytest.raises(StateError, match="is there already"):
            other.build()
        other.shut_down()
        assert workshop.left() == before
        assert all(operation.startswith("get_") for operation in workshop.operations())


def test_of_builds_at_the_same_moment_one_wins(workshop: Workshop) -> None:
    made = [workshop.with_pool() for _ in range(3)]
    outcomes: list[object] = [None] * len(made)
    together = threading.Barrier(len(made))

    def build(number: int, cluster: RayDogCluster) -> None:
        together.wait()
        try:
            outcomes[number] = cluster.build()
        except StateError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=build, args=one) for one in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [cluster for cluster, outcome in zip(made, outcomes, strict=True) if isinstance(outcome, tuple)]
    assert len(winners) == 1
    assert winners[0].wait_for_workers(timeout=20) == 2
    for cluster in made:
        if cluster is not winners[0]:
            cluster.shut_down()
    assert winners[0].wait_for_workers(timeout=20) == 2
    assert workshop.left()["unfinishedWorkRequirements"] == 1
    winners[0].shut_down()
    assert workshop.left() == {}


def test_lifetime_ends_tasks_and_then_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(teardown, "LOOKS_APART_SECONDS", 0.02)
    with Emulator(clock=VirtualClock()) as emulator:
        workshop = Workshop(emulator)
        cluster = workshop.with_pool(cluster_lifetime=timedelta(hours=2))
        cluster.build()
        cluster.wait_for_workers(timeout=20)
        emulator.advance(7190)
        assert workshop.left()["unfinishedTasks"] == 3
        emulator.advance(60)
        assert "unfinishedTasks" not in workshop.left()
        assert all("TIMED_OUT" in str(task.reason) for task in workshop.tasks(cluster))
        emulator.advance(3600)
        assert workshop.left() == {}
        cluster.shut_down()
        workshop.close()


def test_a_pool_added_late_ends_with_the_cluster(workshop: Workshop) -> None:
    with workshop.cluster(cluster_lifetime=timedelta(hours=2)) as cluster:
        cluster.build()
        cluster._maker._started -= 7000
        cluster.add_worker_pool("local/worker", SCRIPT, 1, "late")
        (task,) = workshop.tasks_of(cluster, "late")
        timeout = cluster.yd_client.work_client.get_task_by_id(task.task_id).timeout
        assert timedelta(seconds=150) < timeout <= timedelta(seconds=200)
        cluster._maker._started -= 201
        with pytest.raises(ProvisioningError, match=r"lifetime .2:00:00. is over"):
            cluster.add_worker_pool("local/worker", SCRIPT, 1, "too late")
        assert cluster.worker_pool_internal_names == ["late"]


def test_state_is_saved_to_a_file(workshop: Workshop, tmp_path: Path) -> None:
    with workshop.with_pool(cluster_tag="production") as cluster:
        cluster.build()
        file = tmp_path / "state.json"
        cluster.save_state_to_json_file(str(file))
        state = json.loads(file.read_text())
        assert list(state)[:5] == [
            "cluster_name", "cluster_namespace", "cluster_tag", "work_requirement_id", "worker_pool_ids",
        ]  # fmt: skip
        assert (state["cluster_name"], state["cluster_namespace"]) == ("demo", NAMESPACE)
        assert state["cluster_tag"] == "production"
        assert state["work_requirement_id"] == cluster.work_requirement_id
        assert state["worker_pool_ids"] == [*cluster.worker_pool_ids, cluster.head_node_worker_pool_id]
        requirement = cluster.yd_client.work_client.get_work_requirement_by_id(cluster.work_requirement_id)
        assert requirement.tag == "production"


def test_one_client_of_the_platform_serves_program_and_cluster(workshop: Workshop) -> None:
    with workshop.cluster() as cluster:
        cluster.build()
        assert cluster.yd_client is cluster.yd_client
        assert isinstance(cluster._gateway, Gateway)
        assert cluster.yd_client is cluster._gateway.client
