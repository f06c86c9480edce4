"""What an adversary of the Builder tries: late searches, lost answers, odd moments and odd arguments."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raydog.builder import RayDogCluster, workers
from raydog.emulator import Emulator
from raydog.errors import ConfigError, CredentialsError, ProvisioningError, StateError, TeardownError
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.naming import Maker
from tests.support.builder import NAMESPACE, SCRIPT, Workshop

ROOT = Path(__file__).parents[2]
LONG = timedelta(seconds=60)


@pytest.fixture
def workshop(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(teardown, "LOOKS_APART_SECONDS", 0.02)
    made = Workshop(emulator)
    yield made
    made.close()


# Searches that show late what is there


def test_pools_that_no_search_shows_yet_are_ended_all_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = workshop.with_pool()
    cluster.build(LONG)
    cluster.add_worker_pool("local/worker", SCRIPT, 1, "late")
    monkeypatch.setattr(Gateway, "find_pools", lambda *_: [])
    monkeypatch.setattr(Gateway, "find_requirements", lambda *_: [])
    cluster.shut_down()
    assert workshop.left() == {}


def test_pools_of_a_build_that_fails_are_ended_though_no_search_shows_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.emulator.template("local/head", boots=False)
    monkeypatch.setattr(Gateway, "find_pools", lambda *_: [])
    with pytest.raises(TimeoutError):
        workshop.with_pool().build(timedelta(seconds=0.2))
    assert workshop.left() == {}


def test_a_cluster_in_the_making_that_no_search_shows_yet_is_not_taken_for_leftovers(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.with_pool().build(LONG)
    before = workshop.left()
    monkeypatch.setattr(Gateway, "find_requirements", lambda *_: [])
    name = ClusterName(NAMESPACE, "demo", Maker.BUILDER)
    assert teardown.end_leftovers(workshop.gateway, name, [], lambda _text: None) == []
    assert workshop.left() == before


def test_a_cluster_that_has_ended_is_no_rival_though_a_search_still_shows_it_running(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop.cluster()
    first.build(LONG)
    shown = workshop.gateway.find_requirements(NAMESPACE, "demo", ("RUNNING",))
    first.shut_down()
    true = Gateway.find_requirements

    def late(gateway: Gateway, *arguments: Any) -> list[tuple[str, str]]:
        return [*shown, *true(gateway, *arguments)]

    monkeypatch.setattr(Gateway, "find_requirements", late)
    second = workshop.cluster()
    second.build(LONG)
    second.shut_down()
    assert workshop.left() == {}


def test_the_heads_task_is_there_before_many_pools_are(workshop: Workshop) -> None:
    """Without one for half a minute a cluster looks as if nobody made it any more, and a rival would end it."""
    workshop.emulator.fault(operation="provision_worker_pool", action="delay", seconds=0.05, times=100)
    cluster = workshop.cluster()
    for _ in range(20):
        cluster.add_worker_pool("local/worker", SCRIPT, 1)
    cluster.build(LONG)
    order = [call["operation"] for call in workshop.emulator.calls()]
    assert order.index("add_tasks_to_task_group") < order.index("provision_worker_pool") + 8


def test_removed_pool_whose_compute_was_not_known_at_first_is_terminated(workshop: Workshop) -> None:
    cluster = workshop.with_pool()
    cluster.build(LONG)
    pool = cluster.worker_node_worker_pools["small"]
    assert pool.record is not None
    object.__setattr__(pool.record, "compute_requirement_id", None)
    cluster.remove_worker_pool_by_internal_name("small")
    assert workshop.operations()["terminate_compute_requirement"] == 1


# Odd moments


def test_shut_down_from_another_thread_ends_a_build_that_waits_for_ever(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", capacity=0)
    waiting = threading.Event()
    cluster = workshop.with_pool(on_progress=lambda text: waiting.set() if "task is" in text else None)
    raised: list[BaseException] = []

    def build() -> None:
        try:
            cluster.build()
        except StateError as error:
            raised.append(error)

    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    assert waiting.wait(20)
    ender = threading.Thread(target=cluster.shut_down, daemon=True)
    ender.start()
    ender.join(20)
    thread.join(20)
    assert not ender.is_alive()
    assert not thread.is_alive()
    assert ["shut_down() was called" in str(error) for error in raised] == [True]
    assert workshop.left() == {}


_AT_EXIT = f"""
import atexit, json, sys
from raydog.builder import RayDogCluster, RayDogClusterProxy
key_id, secret, url = sys.argv[1:]
cluster = RayDogCluster(key_id, secret, "demo", "{NAMESPACE}", "local/head", "{SCRIPT}", url)
for _ in range(2):
    cluster.add_worker_pool("local/worker", "{SCRIPT}", 1)
cluster.build()
state = json.loads(cluster.save_state_to_json())
proxy = RayDogClusterProxy(key_id, secret, url)
proxy.load_saved_state_from_json(json.dumps(state))
atexit.register(ENDER.shut_down)
"""


@pytest.mark.parametrize("ender", ["cluster", "proxy"])
def test_shut_down_registered_with_atexit_ends_everything(workshop: Workshop, ender: str) -> None:
    emulator = workshop.emulator
    done = subprocess.run(
        [sys.executable, "-c", _AT_EXIT.replace("ENDER", ender), emulator.key_id, emulator.key_secret, emulator.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "*"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert workshop.left() == {}


def test_build_after_one_that_could_not_be_ended_is_refused_and_shut_down_ends_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.emulator.template("local/head", boots=False)
    cluster = workshop.with_pool()

    def refuse(*_: object, **__: object) -> None:
        raise TeardownError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("raydog.builder.cleaning._CLEAN_UP_SECONDS", 0.1)
        patch.setattr(teardown, "request_teardown", refuse)
        with pytest.raises(TimeoutError, match="not now"):
            cluster.build(timedelta(seconds=0.2))
    with pytest.raises(StateError, match=r"call shut_down\(\)"):
        cluster.build()
    cluster.shut_down()
    assert workshop.left() == {}


def test_workers_of_a_pool_that_has_ended_are_not_waited_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_POOL_LOOK_SECONDS", 0.1)
    workshop.emulator.template("local/worker", boots=False)
    cluster = workshop.with_pool()
    cluster.build(LONG)
    (pool_id,) = cluster.worker_pool_ids
    workshop.gateway.shut_down_pool(pool_id)
    with pytest.raises(ProvisioningError, match=r"only 0 of the 2 workers can still come: worker pool small is"):
        cluster.wait_for_workers(timeout=20)


def test_a_dashboard_that_hangs_up_in_mid_answer_is_not_there_yet(workshop: Workshop) -> None:
    cluster = workshop.with_pool()
    cluster.build(LONG)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _address = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(TimeoutError, match="dashboard does not answer: IncompleteRead"):
            cluster.wait_for_workers(timeout=1, dashboard_address=f"127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_state_file_survives_a_disk_that_is_full(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = workshop.cluster()
    cluster.build(LONG)
    file = tmp_path / "state.json"
    cluster.save_state_to_json_file(file)
    before = file.read_text()
    file.chmod(0o600)
    true = Path.write_text

    def full(path: Path, text: str, **settings: Any) -> int:
        true(path, text[:10], **settings)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            cluster.save_state_to_json_file(file)
    assert file.read_text() == before
    cluster.save_state_to_json_file(str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


# Odd arguments


def test_before_build_no_pool_has_the_id_none(workshop: Workshop) -> None:
    cluster = workshop.with_pool()
    added: Any = cluster.add_worker_pool("local/worker", SCRIPT, 1, "second")
    assert cluster.get_worker_pool_internal_name_by_id(added) is None
    with pytest.raises(StateError, match="has no worker pool None"):
        cluster.remove_worker_pool(added)
    assert cluster.worker_pool_internal_names == ["small", "second"]


def test_a_longest_time_there_is_means_no_limit(workshop: Workshop) -> None:
    cluster = workshop.with_pool(cluster_lifetime=timedelta.max)
    cluster.build(timedelta.max)
    cluster.shut_down()
    assert workshop.left() == {}


def test_build_timeout_below_zero_is_a_timeout(workshop: Workshop) -> None:
    workshop.emulator.template("local/head", boots=False)
    with pytest.raises(TimeoutError):
        workshop.with_pool().build(timedelta(seconds=-500))
    assert workshop.left() == {}


@pytest.mark.parametrize("timeout", ["5", float("nan"), True])
def test_time_to_wait_for_workers_must_be_a_time(workshop: Workshop, timeout: Any) -> None:
    cluster = workshop.with_pool()
    cluster.build(LONG)
    with pytest.raises(ConfigError, match="timeout: "):
        cluster.wait_for_workers(timeout=timeout)


@pytest.mark.parametrize("ending", ["\n", " ", "\u20ac"])
def test_secret_that_cannot_be_sent_is_refused_without_being_quoted(workshop: Workshop, ending: str) -> None:
    with pytest.raises(CredentialsError, match="secret") as caught:
        workshop.cluster(yd_application_key_secret=f"s3cr3t{ending}")
    assert "s3cr3t" not in str(caught.value)


def test_internal_name_of_a_wrong_type_is_a_config_error(workshop: Workshop) -> None:
    wrong: Any = ["small"]
    with pytest.raises(ConfigError, match="worker_pool_internal_name: must be a text"):
        workshop.cluster().add_worker_pool("local/worker", SCRIPT, 1, wrong)


def test_state_of_another_platform_is_not_called_ended(workshop: Workshop) -> None:
    cluster: RayDogCluster = workshop.with_pool()
    cluster.build(LONG)
    state = json.loads(cluster.save_state_to_json())
    foreign = state | {
        "work_requirement_id": "ydid:workreq:000000:00000000-0000-0000-0000-000000000000",
        "worker_pool_ids": ["ydid:wrkrpool:000000:00000000-0000-0000-0000-000000000000"],
        "cluster_id": "aaaaaaaa",
    }
    proxy = workshop.proxy(json.dumps(foreign))
    for _ in range(2):
        with pytest.raises(StateError, match="knows nothing of cluster demo: is this the platform") as caught:
            proxy.shut_down()
        assert "nothing of cluster demo is left" not in str(caught.value)
