"""The transport: keys, odd requests, errors, faults, the record of calls (contract, section 1)."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from yellowdog_client.model import (
    AllowanceSearch,
    CreateNamespaceRequest,
    KeyringSearch,
    NamespaceSearch,
    WorkRequirementSearch,
)
from yellowdog_client.model.exceptions import InternalServerException, InvalidRequestException

from raydog.emulator import Emulator
from raydog.emulator.rest.app import LARGEST_BODY
from tests.support.emulator import NAMESPACE, Yellowdog, groups, task_group, yellowdog


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog() as running:
        yield running


@pytest.mark.parametrize(
    "header", [None, "", "yd-key", "yd-key wrong:wrong", "Bearer {id}:{secret}", "yd-key {id}:", "yd-key {id}:é"]
)
@pytest.mark.parametrize("path", ["/work/requirements", "/emulator/status", "/nothing"])
def test_wrong_keys_are_401_everywhere(yd: Yellowdog, header: str | None, path: str) -> None:
    emulator = yd.emulator
    headers = {}
    if header is not None:
        sent = header.format(id=emulator.key_id, secret=emulator.key_secret)
        headers = {"Authorization": sent.encode("utf-8")}
    answer = requests.get(emulator.url + path, headers=headers, timeout=10)
    assert answer.status_code == 401
    assert answer.reason == "Unauthorized"
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert emulator.key_secret not in answer.text


def test_it_listens_on_loopback_only(yd: Yellowdog) -> None:
    port = int(yd.emulator.url.rpartition(":")[2])
    assert yd.emulator.url.startswith("http://127.0.0.1:")
    with socket.socket() as other:
        other.settimeout(2)
        with pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))


def test_double_slashes_raw_colons_and_trailing_slashes_are_fine(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo")
    for path in (f"//work//requirements/{requirement.id}", f"/work/requirements/{requirement.id}/"):
        assert yd.http("GET", path).json()["name"] == "demo"
    assert yd.http("GET", "//application/").status_code == 200


def test_bodies_may_be_gzipped_missing_or_have_unknown_keys(yd: Yellowdog) -> None:
    body = {"namespace": NAMESPACE, "name": "zipped", "exclusiveWorkers": True, "outputs": []}
    packed = gzip.compress(json.dumps(body).encode())
    added = yd.http("POST", "/work/requirements", data=packed, headers={"Content-Encoding": "gzip"})
    assert (added.status_code, added.json()["status"]) == (200, "RUNNING")
    group_id = groups(yd.requirement("demo"))[0].id
    assert yd.http("POST", f"/work/taskGroups/{group_id}/tasks").json() == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": 3}'])
def test_odd_bodies_are_refused_never_a_failure(yd: Yellowdog, body: bytes) -> None:
    answer = yd.http("POST", "/work/requirements", data=body)
    assert (answer.status_code, answer.json()["errorType"]) == (400, "InvalidRequestException")
    assert answer.json()["detail"] == []


def test_body_over_the_limit_is_refused_also_when_it_is_packed(yd: Yellowdog) -> None:
    bomb = gzip.compress(b" " * (LARGEST_BODY + 1), compresslevel=1)
    answer = yd.http("POST", "/work/requirements", data=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413


def test_unknown_routes_are_404_and_unimplemented_calls_name_themselves(yd: Yellowdog) -> None:
    unknown = yd.http("GET", "/work/nothing")
    assert (unknown.status_code, unknown.json()["status"]) == (404, 404)
    assert "/work/nothing" in unknown.json()["detail"]
    missing = yd.http("POST", "/workerPools/configured", json={"name": "x"})
    assert missing.status_code == 400
    assert "does not implement add_configured_worker_pool" in missing.json()["message"]


@pytest.mark.parametrize(
    "query", ["size=0&sliceId=x", "size=1001", "size=-1", "sliceId=%20", "createdTime.min=now", "isHealthy=maybe"]
)
def test_wrong_filters_are_refused_except_harmless_ones(yd: Yellowdog, query: str) -> None:
    answer = yd.http("GET", f"/work/requirements?sliced=true&{query}")
    assert (answer.status_code, answer.json()["errorType"]) == (400, "InvalidRequestException")


def test_list_without_sliced_is_a_plain_array(yd: Yellowdog) -> None:
    yd.requirement("demo")
    assert [one["name"] for one in yd.http("GET", "/work/requirements").json()] == ["demo"]


def test_sorted_search(yd: Yellowdog) -> None:
    for name in ("b", "a", "c"):
        yd.requirement(name)
    query = "/work/requirements?sliced=true&sortField=name&sortDirection=DESCENDING&size=2"
    first = yd.http("GET", query).json()
    rest = yd.http("GET", f"{query}&sliceId={first['nextSliceId']}").json()
    assert [one["name"] for one in first["items"] + rest["items"]] == ["c", "b", "a"]
    assert rest["nextSliceId"] is None


def test_application_namespaces_and_empty_lists(yd: Yellowdog) -> None:
    yd.requirement("demo")
    details = yd.client.application_client.get_application_details()
    assert details.allNamespacesReadable
    assert details.readableNamespaces == [NAMESPACE]
    created = yd.client.namespaces_client.create_namespace(CreateNamespaceRequest("other"))
    found = yd.client.namespaces_client.get_namespaces(NamespaceSearch()).list_all()
    assert [(one.namespace, one.deletable) for one in found] == [(NAMESPACE, False), ("other", True)]
    yd.client.namespaces_client.delete_namespace(str(created))
    assert yd.client.allowances_client.get_allowances(AllowanceSearch()).list_all() == []
    assert yd.client.keyring_client.get_keyrings(KeyringSearch()).list_all() == []


def test_operation_fails_as_often_as_asked_and_the_sdk_gets_through(yd: Yellowdog) -> None:
    yd.emulator.fault("add_work_requirement", "status", status=503, times=2)
    assert yd.requirement("demo").id
    assert [call["status"] for call in yd.emulator.calls("add_work_requirement")] == [503, 503, 200]
    yd.emulator.fault("add_work_requirement", "status", status=500, times=10)
    with pytest.raises(InternalServerException):
        yd.requirement("other")
    yd.emulator.clear_faults()
    assert yd.requirement("other").id


def test_permanent_refusal_is_not_repeated(yd: Yellowdog) -> None:
    refusal: dict[str, Any] = {"status": 400, "error_type": "InvalidRequestException", "message": "quota"}
    yd.emulator.fault("provision_worker_pool", "status", **refusal)
    with pytest.raises(InvalidRequestException, match="quota"):
        yd.pool()
    assert len(yd.emulator.calls("provision_worker_pool")) == 1


def test_retry_after_is_sent(yd: Yellowdog) -> None:
    yd.emulator.fault("get_work_requirements", "status", status=429, retry_after=7)
    answer = yd.http("GET", "/work/requirements")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize(("action", "applied"), [("drop_before", 0), ("drop_after", 1)])
def test_dropped_connection_before_and_after_applying(yd: Yellowdog, action: str, applied: int) -> None:
    yd.emulator.fault("add_work_requirement", action)
    with pytest.raises(requests.ConnectionError):
        yd.http("POST", "/work/requirements", json={"namespace": NAMESPACE, "name": "demo"})
    found = yd.client.work_client.get_work_requirements(WorkRequirementSearch()).list_all()
    assert len(found) == applied


def test_delayed_call_holds_up_no_other(yd: Yellowdog) -> None:
    yd.emulator.fault("get_work_requirements", "delay", seconds=1.0)
    done: list[float] = []
    start = time.monotonic()

    def slow() -> None:
        yd.http("GET", "/work/requirements")
        done.append(time.monotonic() - start)

    thread = threading.Thread(target=slow)
    thread.start()
    while not yd.emulator.calls("get_work_requirements"):
        assert time.monotonic() - start < 10
    assert yd.http("GET", "/work/tasks").status_code == 200
    assert not done
    thread.join()
    assert done[0] >= 1.0


def test_faults_and_calls_over_http(yd: Yellowdog) -> None:
    asked = yd.http("POST", "/emulator/faults", json={"operation": "get_tasks", "action": "status", "status": 500})
    assert asked.status_code == 200
    assert [one["operation"] for one in yd.http("GET", "/emulator/faults").json()] == ["get_tasks"]
    assert yd.http("GET", "/work/tasks").status_code == 500
    calls = yd.http("GET", "/emulator/calls").json()
    assert [(call["operation"], call["method"], call["status"]) for call in calls] == [("get_tasks", "GET", 500)]
    for wrong in ({}, {"operation": "nothing", "action": "delay"}, {"operation": "*", "action": "explode"}):
        assert yd.http("POST", "/emulator/faults", json=wrong).status_code == 400


def test_status_and_preempt_over_http(yd: Yellowdog) -> None:
    requirement = yd.requirement("demo", task_group("a", finishIfAllTasksFinished=False))
    yd.pool()
    task = yd.add(requirement, 1)[0]
    status = yd.http("GET", "/emulator/status").json()
    counts = [status[key] for key in ("liveInstances", "unfinishedPools", "unfinishedTasks")]
    assert (counts, status["unfinishedWorkRequirements"]) == ([1, 1, 1], 1)
    instance = status["instances"][0]
    assert instance["taskIds"] == [task.id]
    assert "simulated" in yd.http("GET", f"/emulator/tasks/{task.id}/output").json()["output"]
    assert yd.http("POST", f"/emulator/instances/{instance['id']}/preempt").status_code == 200
    assert yd.http("GET", "/emulator/status").json()["liveInstances"] == 0
    assert yd.http("POST", f"/emulator/instances/{instance['id']}/preempt").status_code == 404


def test_emulator_ends_its_thread_and_frees_its_port_and_two_do_not_meet() -> None:
    before = threading.active_count()
    with Emulator() as first, Emulator() as second:
        assert first.url != second.url
        assert first.key_secret != second.key_secret
        port = int(first.url.rpartition(":")[2])
    assert threading.active_count() == before
    with Emulator(port=port) as again:
        assert again.url.endswith(f":{port}")
