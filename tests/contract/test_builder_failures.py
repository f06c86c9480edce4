"""What goes wrong with a hand-made cluster: nothing is left of it, and the error says why."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from raydog.builder import RayDogCluster, RayDogClusterProxy, cleaning, making
from raydog.emulator import Emulator
from raydog.errors import (
    ConfigError,
    CredentialsError,
    MissingFileError,
    PlatformError,
    ProvisioningError,
    ProvisioningTimeoutError,
    StateError,
)
from raydog.yellowdog import cluster as clusters
from raydog.yellowdog import launching, naming, teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.naming import Maker
from raydog.yellowdog.records import GroupRequest, NodeRequest
from tests.support.builder import NAMESPACE, SCRIPT, Workshop
from tests.support.servers import eventually

NAME = ClusterName(NAMESPACE, "demo", Maker.BUILDER)
SECOND = timedelta(seconds=1)


@pytest.fixture
def workshop(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(teardown, "LOOKS_APART_SECONDS", 0.02)
    made = Workshop(emulator)
    yield made
    made.close()


def test_head_that_is_too_slow_is_a_timeout_and_everything_ends(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", boots=False)
    cluster = workshop.with_pool()
    with pytest.raises(TimeoutError, match=r"within 0\.3 seconds") as caught:
        cluster.build(timedelta(seconds=0.3))
    assert isinstance(caught.value, ProvisioningTimeoutError)
    assert "head_node_build_timeout" in str(caught.value)
    assert workshop.left() == {}
    workshop.emulator.forget_calls()
    cluster.shut_down()
    assert workshop.operations() == {}
    with pytest.raises(StateError, match="shut down"):
        cluster.build()


def test_no_capacity_for_the_head_is_said_in_the_cloud_sources_words(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", capacity=0)
    with pytest.raises(TimeoutError, match="Insufficient capacity"):
        workshop.cluster().build(timedelta(seconds=0.2))
    assert workshop.left() == {}


def test_observability_node_that_does_not_come_is_named(workshop: Workshop) -> None:
    workshop.emulator.template("local/worker", boots=False)
    cluster = workshop.cluster(
        enable_observability=True,
        observability_node_compute_requirement_template_id="local/worker",
        observability_node_start_script=SCRIPT,
    )
    with pytest.raises(TimeoutError, match="observability node was not EXECUTING"):
        cluster.build(timedelta(seconds=0.2))
    assert workshop.left() == {}


def test_head_whose_pool_ends_is_reported_without_waiting_for_ever(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_POOL_LOOK_SECONDS", 0.0)
    workshop.emulator.template("local/head", boots=False)

    def end_the_pool(text: str) -> None:
        if text.startswith("the head's task is"):
            for pool in clusters.find_pools(workshop.gateway, NAME):
                workshop.gateway.shut_down_pool(pool.pool_id)

    with pytest.raises(ProvisioningError, match=r"worker pool .*-head is (SHUTDOWN|TERMINATED) before its task"):
        workshop.cluster(on_progress=end_the_pool).build()
    assert workshop.left() == {}


def test_head_whose_task_ends_is_reported_at_once(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", boots=False)
    cluster = workshop.cluster()
    thread = threading.Thread(target=fail_head, args=(workshop,))
    thread.start()
    with pytest.raises(ProvisioningError, match=r"the head's task .* is (ABORTED|CANCELLED)"):
        cluster.build()
    thread.join()
    assert workshop.left() == {}


def fail_head(workshop: Workshop) -> None:
    """Abort the head's task as soon as there is one."""

    def aborted() -> bool:
        for cluster in clusters.find_clusters(workshop.gateway, NAME):
            head = clusters.find_head(workshop.gateway, cluster)
            if head is not None:
                workshop.gateway.abort_node(head.task_id)
                return True
        return False

    eventually(aborted, what="the head's task is aborted")


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_one_template_that_does_not_exist_ends_all_pools(workshop: Workshop, wrong: int) -> None:
    cluster = workshop.cluster()
    for number in range(3):
        cluster.add_worker_pool("no/such" if number == wrong else "local/worker", SCRIPT, 2)
    with pytest.raises(ProvisioningError, match="no/such"):
        cluster.build()
    assert workshop.left() == {}


@pytest.mark.parametrize(
    "operation", ["add_work_requirement", "provision_worker_pool", "add_tasks_to_task_group", "get_instances"]
)
def test_a_refused_call_of_build_leaves_nothing(workshop: Workshop, operation: str) -> None:
    workshop.emulator.fault(operation, "status", status=400, error_type="InvalidRequestException", message="no luck")
    with pytest.raises((PlatformError, ProvisioningError), match="no luck"):
        workshop.with_pool().build()
    assert workshop.left() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["making the work requirement", "the head's task is READY", "submitting"])
def test_an_interruption_ends_everything_and_a_second_one_does_not_stop_that(
    workshop: Workshop, number: signal.Signals, moment: str
) -> None:
    workshop.emulator.template("local/head", boots=moment == "submitting")
    sent = []

    def interrupt(text: str) -> None:
        if text.startswith((moment, "ending", "shutting")):
            sent.append(text)
            os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        workshop.with_pool(on_progress=interrupt).build()
    assert len(sent) >= 2
    assert workshop.left() == {}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_an_interrupted_addition_ends_the_pool_and_the_cluster_goes_on(workshop: Workshop) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("adding"):
            os.kill(os.getpid(), signal.SIGINT)

    with workshop.with_pool(on_progress=interrupt) as cluster:
        cluster.build()
        cluster.wait_for_workers(timeout=20)
        before = workshop.left()
        with pytest.raises(KeyboardInterrupt):
            cluster.add_worker_pool("local/worker", SCRIPT, 5, "late")
        assert workshop.left() == before
        assert cluster.worker_pool_internal_names == ["small"]


def test_what_a_programs_progress_function_raises_ends_the_build_but_no_cleaning_up(workshop: Workshop) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError(text)

    with pytest.raises(ZeroDivisionError):
        workshop.with_pool(on_progress=fail).build()
    assert workshop.left() == {}


def test_a_platform_that_fails_while_cleaning_up_is_asked_again(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", boots=False)
    for operation in ("transition_work_requirement", "shutdown_worker_pool", "terminate_compute_requirement"):
        workshop.emulator.fault(operation, "status", status=400, error_type="InvalidRequestException")
    with pytest.raises(TimeoutError) as caught:
        workshop.with_pool().build(timedelta(seconds=0.1))
    assert "could not end" not in str(caught.value)
    assert workshop.left() == {}


def test_what_cannot_be_ended_is_said_and_shut_down_ends_it_later(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "_CLEAN_UP_SECONDS", 0.2)
    workshop.emulator.template("local/head", boots=False)

    def break_down(text: str) -> None:
        if text.startswith("ending"):
            workshop.emulator.fault(
                "get_work_requirements", "status", status=400, error_type="NoLuck", message="no luck", times=1000
            )

    cluster = workshop.with_pool(on_progress=break_down)
    with pytest.raises(TimeoutError, match=r"(?s)not EXECUTING.*no luck"):
        cluster.build(timedelta(seconds=0.1))
    workshop.emulator.clear_faults()
    cluster.shut_down()
    assert workshop.left() == {}


def test_leaving_the_block_with_an_error_shuts_down_and_the_error_goes_on(workshop: Workshop) -> None:
    with pytest.raises(ZeroDivisionError), workshop.with_pool() as cluster:  # noqa: PT012 - the block is the subject
        cluster.build()
        raise ZeroDivisionError
    assert workshop.left() == {}


def test_leaving_the_block_without_a_build_touches_nobody_elses_cluster(workshop: Workshop) -> None:
    with workshop.with_pool() as cluster:
        cluster.build()
        before = workshop.left()
        with workshop.cluster():
            pass
        assert workshop.left() == before


def test_workers_that_fail_are_reported_as_soon_as_the_count_cannot_be_reached(workshop: Workshop) -> None:
    with workshop.with_pool(3) as cluster:
        cluster.build()
        cluster.wait_for_workers(timeout=20)
        lost = workshop.tasks_of(cluster, "small")[0]
        workshop.gateway.abort_node(lost.task_id)
        eventually(lambda: workshop.gateway.get_node(lost.task_id).status == "ABORTED", what="the task is aborted")
        assert cluster.wait_for_workers(2, timeout=20) == 2
        with pytest.raises(ProvisioningError, match=f"only 2 of the 3.*{lost.name} of worker pool small is ABORTED"):
            cluster.wait_for_workers(timeout=600)


def test_a_head_that_ends_is_reported_to_who_waits_for_workers(workshop: Workshop) -> None:
    workshop.emulator.template("local/worker", boots=False)
    with workshop.with_pool(1) as cluster:
        cluster.build()
        workshop.gateway.abort_node(str(cluster.head_node_task_id))
        with pytest.raises(ProvisioningError, match="the head has ended"):
            cluster.wait_for_workers(timeout=60)


def test_workers_that_get_no_machine_are_a_timeout_that_says_why(workshop: Workshop) -> None:
    workshop.emulator.template("local/worker", capacity=1)
    with workshop.with_pool(3) as cluster:
        cluster.build()
        cluster.wait_for_workers(1, timeout=20)
        with pytest.raises(TimeoutError, match=r"only 1 of 3 workers.*pool small: .Insufficient capacity"):
            cluster.wait_for_workers(timeout=timedelta(seconds=0.1))


# What an earlier program has left


def test_shut_down_of_an_object_that_was_not_built_ends_what_lives_under_its_name(workshop: Workshop) -> None:
    lost = workshop.with_pool()
    lost.build()
    workshop.cluster().shut_down()
    assert workshop.left() == {}
    lost._gateway.close()


@contextmanager
def closing_by_shut_down(cluster: RayDogCluster) -> Iterator[None]:
    try:
        yield
    finally:
        cluster.shut_down()


def test_a_program_that_fails_before_it_builds_ends_nobody_elses_cluster(workshop: Workshop) -> None:
    other, careless, interrupted = workshop.with_pool(), workshop.cluster(), workshop.with_pool()
    other.build()
    with pytest.raises(ConfigError):
        careless.add_worker_pool("local/worker", SCRIPT, 0)
    careless.shut_down()
    with pytest.raises(ZeroDivisionError), closing_by_shut_down(interrupted):
        _ = 1 / 0
    assert other.wait_for_workers(timeout=20) == 2
    other.shut_down()
    assert workshop.left() == {}


def test_a_program_that_died_while_its_observability_node_booted_can_be_cleaned_up_after(workshop: Workshop) -> None:
    tag = NAME.worker_tag("abcdefgh", "observability")
    group = GroupRequest(making.OBSERVABILITY_GROUP, tag, tag, None)
    dead = clusters.add_cluster(workshop.gateway, NAME, None, "head", None, "abcdefgh", [group])
    group_id = dead.groups[1].group_id
    workshop.gateway.add_nodes(group_id, [NodeRequest("demo-abcdefgh-observability-x", SCRIPT, {}, None)])
    cluster = workshop.cluster()
    with pytest.raises(StateError, match="shut_down"):
        cluster.build()
    cluster.shut_down()
    assert workshop.left() != {}
    workshop.cluster().shut_down()
    assert workshop.left() == {}
    with cluster, pytest.raises(StateError, match="shut down"):
        cluster.build()


def test_a_refused_build_can_be_tried_again_when_the_other_has_gone(workshop: Workshop) -> None:
    first, second = workshop.with_pool(), workshop.with_pool()
    first.build()
    with pytest.raises(StateError, match="is there already"):
        second.build()
    first.shut_down()
    second.build()
    assert second.wait_for_workers(timeout=20) == 2
    second.shut_down()
    assert workshop.left() == {}


def test_build_goes_on_where_an_earlier_program_died_before_its_head(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "HEADLESS_GRACE_SECONDS", 0.3)
    dead = clusters.add_cluster(workshop.gateway, NAME, None, "head", None)
    with workshop.cluster() as cluster:
        cluster.build()
        assert cluster.work_requirement_id != dead.requirement_id
        assert workshop.gateway.get_cluster(dead.requirement_id, "").status == "CANCELLED"


def test_build_ends_pools_that_an_earlier_program_died_over(workshop: Workshop) -> None:
    dead = workshop.with_pool(2)
    dead.build()
    workshop.gateway.cancel_cluster(str(dead.work_requirement_id))
    pool = dead.worker_pool_ids[0]
    with workshop.cluster() as cluster:
        cluster.build()
        eventually(lambda: not workshop.gateway.get_pool(pool).live, what="the dead cluster's pool has ended")
    dead._gateway.close()


def test_build_waits_for_one_that_is_being_made_and_then_leaves_it_alone(workshop: Workshop) -> None:
    other = clusters.add_cluster(workshop.gateway, NAME, None, "head", None)
    group = other.group(clusters.HEAD_GROUP)
    assert group is not None

    def submit_the_head(text: str) -> None:
        if "no head yet" in text and not clusters.find_head(workshop.gateway, other):
            name = naming.node_name("demo", other.cluster_id, "head", "abcdefgh")
            workshop.gateway.add_nodes(group.group_id, [NodeRequest(name, SCRIPT, {}, None)])

    with pytest.raises(StateError, match="is there already"):
        workshop.cluster(on_progress=submit_the_head).build()
    assert workshop.gateway.get_cluster(other.requirement_id, "").status == "RUNNING"


# The proxy


def saved(workshop: Workshop) -> tuple[RayDogCluster, str]:
    cluster = workshop.with_pool()
    cluster.build()
    cluster.wait_for_workers(timeout=20)
    cluster._gateway.close()
    return cluster, cluster.save_state_to_json()


def test_proxy_ends_everything_pools_of_later_too(workshop: Workshop) -> None:
    cluster, state = saved(workshop)
    cluster.add_worker_pool("local/worker", SCRIPT, 2, "later")
    proxy = workshop.proxy(state)
    proxy.shut_down()
    assert workshop.left() == {}
    with pytest.raises(StateError, match="already"):
        proxy.shut_down()
    cluster._gateway.close()


def test_proxy_lists_what_was_gone_after_ending_the_rest(workshop: Workshop) -> None:
    cluster, state = saved(workshop)
    gone = cluster.worker_pool_ids[0]
    cluster.remove_worker_pool(gone)
    eventually(lambda: workshop.left()["liveInstances"] == 1, what="the pool's machines have gone")
    proxy = workshop.proxy(state)
    with pytest.raises(StateError, match=f"out of date.*{gone}") as caught:
        proxy.shut_down()
    assert str(cluster.head_node_worker_pool_id) not in str(caught.value)
    assert workshop.left() == {}
    with pytest.raises(StateError) as caught:
        workshop.proxy(state).shut_down()
    assert all(
        str(one) in str(caught.value) for one in (cluster.work_requirement_id, gone, cluster.head_node_worker_pool_id)
    )
    cluster._gateway.close()


def test_proxy_ends_what_a_killed_shut_down_has_left(workshop: Workshop) -> None:
    cluster, state = saved(workshop)
    workshop.gateway.cancel_cluster(str(cluster.work_requirement_id))
    workshop.gateway.shut_down_pool(cluster.worker_pool_ids[0])
    with pytest.raises(StateError, match="CANCELLED"):
        workshop.proxy(state).shut_down()
    assert workshop.left() == {}


def test_proxy_can_be_tried_again_after_a_failure(workshop: Workshop) -> None:
    _, state = saved(workshop)
    proxy = workshop.proxy(state)
    workshop.emulator.fault("shutdown_worker_pool", "status", status=400, error_type="InvalidRequestException")
    with pytest.raises(Exception, match="could not end everything"):
        proxy.shut_down()
    with pytest.raises(StateError, match="out of date"):
        proxy.shut_down()
    assert workshop.left() == {}


def test_proxy_takes_a_state_of_yellowdog_ray_by_its_ids_alone(workshop: Workshop) -> None:
    cluster, state = saved(workshop)
    other = workshop.with_pool(1, "other")
    other.build()
    fields = json.loads(state)
    del fields["cluster_id"]
    fields["cluster_name"] = "other"
    workshop.proxy(json.dumps(fields)).shut_down()
    assert other.wait_for_workers(timeout=20) == 1
    other.shut_down()
    assert workshop.left() == {}
    assert cluster.head_node_worker_pool_id in fields["worker_pool_ids"]


def test_proxy_without_a_state_or_with_something_else_is_an_error(workshop: Workshop) -> None:
    proxy = RayDogClusterProxy(workshop.emulator.key_id, workshop.emulator.key_secret, workshop.emulator.url)
    with pytest.raises(StateError, match="no cluster state"):
        proxy.shut_down()
    with pytest.raises(ConfigError, match="not JSON"):
        proxy.load_saved_state_from_json("{")
    with pytest.raises(MissingFileError, match="no-such"):
        proxy.load_saved_state_from_json_file("no-such.json")


def test_a_wrong_key_is_a_clear_error(workshop: Workshop) -> None:
    with pytest.raises(CredentialsError, match="does not know this application key"):
        workshop.cluster(yd_application_key_secret="wrong").build()
