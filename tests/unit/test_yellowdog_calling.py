"""Whatever the SDK raises comes out as one of our errors."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from yellowdog_client import model as yd
from yellowdog_client.common.json import Json
from yellowdog_client.model.exceptions import BaseCustomException

from raydog.errors import PlatformError, PlatformUnavailableError, StateError
from raydog.yellowdog.calling import calling, unless_over
from raydog.yellowdog.cluster import has_ended
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord
from tests.support.servers import free_port


def refusal(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} refused", response=response)


@pytest.mark.parametrize("body", [{"items": [{"name": "n", "startedTime": "soon"}]}, {"items": 5}, None, 5])
def test_answers_that_are_not_as_documented(body: Any) -> None:
    with pytest.raises(PlatformError, match=r"could not be read \(list tasks\)"), calling("list tasks"):
        Json.load(body, yd.Slice[yd.Task])


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("odd"), IndexError("odd"), ZeroDivisionError()])
def test_anything_that_the_sdk_raises_names_the_call_and_its_kind(error: Exception) -> None:
    with pytest.raises(PlatformError, match=rf"\(list tasks\): {type(error).__name__}"), calling("list tasks"):
        raise error


def test_our_own_errors_stay_as_they_are() -> None:
    error = StateError("ours")
    with pytest.raises(StateError) as raised, calling("list tasks"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interruption_goes_through(error: type[BaseException]) -> None:
    with pytest.raises(error), calling("list tasks"):
        raise error


@pytest.mark.parametrize("error", [refusal(403), refusal(503), BaseCustomException("no")])
def test_state_decides_whether_a_refusal_to_end_something_matters(error: Exception) -> None:
    def refuse() -> None:
        raise error

    unless_over(refuse, lambda: True)
    with pytest.raises(type(error)) as raised:
        unless_over(refuse, lambda: False)
    assert raised.value is error


def test_what_is_unknown_is_over() -> None:
    def refuse(status: int) -> bool:
        raise refusal(status)

    unless_over(lambda: refuse(404), lambda: False)
    unless_over(lambda: refuse(403), lambda: refuse(404))
    with pytest.raises(requests.HTTPError, match="403"):
        unless_over(lambda: refuse(403), lambda: refuse(503))


def test_unavailability_is_told_from_refusal() -> None:
    with pytest.raises(PlatformUnavailableError), calling("list tasks"):
        raise refusal(503)


def test_head_whose_status_is_not_known_lives() -> None:
    assert not has_ended(NodeRecord("head", "task", "group", "UNKNOWN"))
    assert not has_ended(NodeRecord("head", "task", "group", "SOMETHING_NEW"))
    assert has_ended(NodeRecord("head", "task", "group", "FAILED"))
    assert has_ended(NodeRecord("head", "task", "group", "RESUBMITTED"))
    assert has_ended(NodeRecord("head", "task", "group", "EXECUTING", abort_requested=True))


def test_a_server_that_is_not_there_is_named_with_what_happened_and_nothing_else() -> None:
    port = free_port()
    gateway = Gateway(Credentials(f"http://127.0.0.1:{port}", "id", "secret"), swift=True)
    with pytest.raises(PlatformUnavailableError) as caught:
        gateway.find_pools("ns", "demo")
    assert f"127.0.0.1:{port}: Connection refused. Is YD_API_URL right" in str(caught.value)
    assert "HTTPConnectionPool" not in str(caught.value)
    gateway.close()
