"""Every call of the SDK is either answered or refused by name, and the docs say which."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import yellowdog_client
from yellowdog_client.model.exceptions import InvalidRequestException

from raydog.emulator import Emulator
from raydog.emulator.rest.missing import MISSING
from raydog.emulator.rest.routes import Router
from tests.support.emulator import yellowdog

DOCS = Path(__file__).parents[2] / "docs" / "emulator-contract.md"
CALLS = [call for calls in MISSING.values() for call in calls]


class Recorder:
    """The SDK's transport: remembers method and path instead of sending."""

    def __init__(self) -> None:
        self.base = ""
        self.sent: list[tuple[str, str]] = []

    def append_base_url(self, url: str) -> Recorder:
        self.base = url
        return self

    def to_params(self, *_search: object) -> dict[str, Any]:
        return {}

    def __getattr__(self, name: str) -> Any:
        def send(*arguments: Any, **named: Any) -> MagicMock:
            texts = [one for one in (named.get("method"), *arguments, named.get("url")) if isinstance(one, str)]
            method = texts.pop(0) if name == "raw_execute" else {"stream": "GET"}.get(name, name.upper())
            self.sent.append((method, self.base + (texts[-1].split("?")[0] if texts else "")))
            return MagicMock()

        return send


def _object() -> MagicMock:
    """Anything that the SDK reads an id or a status of."""
    return MagicMock(id="name", value="TERMINATED", namespace="name")


def service_calls() -> list[tuple[str, ...]]:
    """Name, HTTP method and path of every call that the SDK's service proxies can make."""
    found: list[tuple[str, ...]] = []
    for module in pkgutil.walk_packages(yellowdog_client.__path__, "yellowdog_client."):
        if not module.name.endswith("_proxy"):
            continue
        services: list[tuple[str, Any]] = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        for _, service in services:
            if service.__module__ != module.name:
                continue
            for name, method in inspect.getmembers(service, inspect.isfunction):
                if name.startswith("_"):
                    continue
                recorder = Recorder()
                wanted = list(inspect.signature(method).parameters.values())[1:]
                method(service(recorder), *("name" if one.annotation in (str, "str") else _object() for one in wanted))
                found += [(name, *sent) for sent in recorder.sent]
    return found


def test_every_call_of_the_sdk_is_known() -> None:
    calls = service_calls()
    assert len(calls) > 100
    with Emulator() as emulator:
        router: Router = emulator.call(lambda server: server.api._router)
    unknown = [call for call in calls if router.find(call[1], re.sub(r"<MagicMock[^>]*>", "name", call[2])) is None]
    assert unknown == []


def test_calls_that_are_missing_are_refused_at_once_with_their_names() -> None:
    with yellowdog() as yd:
        for method, path, operation in CALLS:
            answer = yd.http(method, re.sub(r"\{\w+\}", "some", path))
            assert answer.status_code == 400, (method, path)
            assert f"does not implement {operation} ({method} {path})" in answer.json()["message"]
        with pytest.raises(InvalidRequestException, match="does not implement create_keyring"):
            yd.client.keyring_client.create_keyring("name", "text")


def test_docs_list_exactly_the_missing_calls() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `([A-Z]+) ([^`]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted((operation, method, path) for method, path, operation in CALLS)
