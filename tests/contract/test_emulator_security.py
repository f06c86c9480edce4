"""Keys, path tricks, bodies over the limit, and bodies made to break it: refused, and it goes on."""

from __future__ import annotations

import copy
import http.client
import json
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydog.emulator.rest.app import LARGEST_BODY
from tests.support.emulator import Yellowdog, yellowdog


@pytest.fixture(scope="module")
def yd() -> Iterator[Yellowdog]:
    with yellowdog() as running:
        yield running


def raw(yd: Yellowdog, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """A request whose path no library has put in order."""
    address = urlsplit(yd.emulator.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 0, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        key = f"yd-key {yd.emulator.key_id}:{yd.emulator.key_secret}"
        for name, value in {"Authorization": key, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/work/../../../../etc/passwd",
        "/work/requirements/..%2f..%2f..%2fetc%2fpasswd",
        "/emulator/page/..%2f..%2fserver.py",
        "/emulator/page/%2e%2e/%2e%2e/server.py",
        "/emulator/page//etc/passwd",
        "/emulator/tasks/..%2f..%2f..%2fetc%2fpasswd/output",
        "/emulator/tasks/%00/output",
        "/work/tasks/%00",
        "/work/tasks/%ff%fe",
        "/static/../server.py",
        "/%2e%2e/%2e%2e/etc/shadow",
        "//etc/passwd",
        "/work/namespaces/a%2fb/requirements/c",
        "/" + "a" * 5000,
        "/" + "/".join("a" * 500),
    ],
)
def test_path_tricks_find_nothing(yd: Yellowdog, path: str) -> None:
    status, body = raw(yd, "GET", path)
    assert status in {400, 404}, body
    assert b"root:" not in body
    assert b"import" not in body


def test_absolute_targets_and_foreign_hosts_get_no_more_than_others(yd: Yellowdog) -> None:
    assert raw(yd, "GET", "http://elsewhere.example/work/nothing")[0] in {400, 404}
    assert raw(yd, "GET", "/emulator/page/link", Host="elsewhere.example")[0] == 421


def test_unknown_methods_are_no_calls(yd: Yellowdog) -> None:
    for method in ("PATCH", "TRACE", "OPTIONS", "HEAD", "PROPFIND"):
        assert raw(yd, method, "/work/requirements")[0] in {400, 404, 405}


def test_small_body_that_unpacks_to_more_than_the_limit_is_refused(yd: Yellowdog) -> None:
    bomb = zlib.compress(b" " * (LARGEST_BODY + 1), 1)
    assert len(bomb) < 1024 * 1024
    answer = yd.http("POST", "/work/requirements", data=bomb, headers={"Content-Encoding": "deflate"})
    assert answer.status_code == 413


def test_body_over_the_limit_is_refused_with_the_limit_in_the_answer(yd: Yellowdog) -> None:
    try:
        answer = yd.http("POST", "/work/requirements", data=b" " * (LARGEST_BODY + 1))
    except requests.ConnectionError:
        pytest.fail("the answer must come before the connection ends")
    assert answer.status_code == 413
    assert str(LARGEST_BODY) in answer.text


def test_body_that_is_not_what_its_header_says_is_refused(yd: Yellowdog) -> None:
    answer = yd.http("POST", "/work/requirements", data=b"{}", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert yd.http("GET", "/work/requirements").status_code == 200


def test_wrong_key_is_refused_before_the_body_is_read(yd: Yellowdog) -> None:
    wrong = {"Authorization": "yd-key wrong:wrong"}
    for path in ("/work/requirements", "/emulator/faults", "/emulator/outage", "/emulator/calls"):
        assert raw(yd, "POST", path, Content_Length="1000000", **wrong)[0] == 401
    assert all(call["path"] != "/nothing" for call in yd.emulator.calls())


def test_secret_of_the_key_shows_in_no_answer_and_no_record(yd: Yellowdog) -> None:
    for path in ("/emulator/status", "/emulator/calls", "/emulator/faults", "/application/", "/work/nothing"):
        assert yd.emulator.key_secret not in yd.http("GET", path).text


GROUP = {
    "name": "group",
    "taskTemplate": {"taskType": "bash", "environment": {"A": "1"}},
    "completedTaskTtl": "PT5M",
    "dependencies": [],
    "runSpecification": {
        "taskTypes": ["bash"],
        "workerTags": ["x"],
        "vcpus": {"min": 1, "max": 2},
        "maxWorkers": 3,
        "taskTimeout": "PT1H",
        "retryPolicy": {"maxRetries": 1, "retryErrors": {"includes": [{"errorTypes": {"includes": ["X"]}}]}},
        "failurePolicy": {"resubmissionDestinations": []},
    },
}
BODIES: list[tuple[str, str, Any]] = [
    ("POST", "/work/requirements", {"namespace": "tests", "name": "fuzz", "priority": 1, "taskGroups": [GROUP]}),
    ("PUT", "/work/requirements", {"id": "{requirement}", "namespace": "tests", "name": "f", "taskGroups": [GROUP]}),
    (
        "POST",
        "/work/taskGroups/{group}/tasks",
        [{"name": "t", "taskType": "bash", "arguments": ["a"], "environment": {"A": "1"}, "data": {"inputs": []}}],
    ),
    (
        "POST",
        "/workerPools/provisioned/template",
        {
            "requirementTemplateUsage": {
                "templateId": "local/worker",
                "requirementNamespace": "tests",
                "requirementName": "pool",
                "targetInstanceCount": 1,
                "instanceTags": {"a": "b"},
            },
            "provisionedProperties": {
                "createNodeWorkers": {"targetType": "PER_NODE", "targetCount": 1},
                "maxNodes": 2,
                "idleNodeShutdown": {"enabled": True, "timeout": "PT1M"},
                "nodeBootTimeout": "PT1M",
            },
        },
    ),
    ("POST", "/namespaces/", {"namespace": "fuzz"}),
    ("POST", "/emulator/faults", {"operation": "get_keyrings", "action": "status", "status": 500, "times": 1}),
    ("PUT", "/emulator/templates/local/head", {"capacity": 10, "boot_seconds": 0}),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a body."""
    found = [path]
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(body)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_it_fail(yd: Yellowdog, data: st.DataObject) -> None:
    requirement = next(iter(yd.http("GET", "/work/requirements?name=base").json()), None)
    if requirement is None:
        base = {"namespace": "tests", "name": "base", "taskGroups": [{**GROUP, "taskTemplate": None}]}
        requirement = yd.http("POST", "/work/requirements", json=base).json()
    method, path, body = data.draw(st.sampled_from(BODIES))
    group_id = requirement["id"].replace("workreq", "taskgrp") + ":1"
    path = path.replace("{group}", group_id)
    text = json.dumps(put(body, data.draw(st.sampled_from(places(body))), data.draw(ODD)))
    answer = yd.http(method, path, data=text.replace("{requirement}", requirement["id"]).encode())
    assert answer.status_code in {200, 400, 403, 404}, answer.text
    assert yd.http("GET", "/work/tasks?size=1").status_code == 200
