"""A YellowDog for each test that asks for one: the pytest fixture ``yellowdog``.

Switch it on with ``pytest -p raydog.emulator.pytest_plugin``, or in the project's top ``conftest.py``::

    pytest_plugins = ["raydog.emulator.pytest_plugin"]

It is not registered by itself (no ``pytest11`` entry point): a project that only has RayDog installed shall not get
an option, a marker and a fixture that it has not asked for. ::

    def test_my_submission(yellowdog):
        my_program.submit("cluster-1")  # finds it through YD_API_URL, YD_API_KEY_ID and YD_API_KEY_SECRET
        (work,) = yellowdog.status()["workRequirements"]
        assert work["name"] == "cluster-1"

Instances are simulated: a task starts at once and runs until it is aborted. With ``--yellowdog-instances=real`` they
are real ones, which needs Linux and root. The marker ``yellowdog`` sets up one test's own::

    @pytest.mark.yellowdog(virtual_clock=True, idle_grace=0, templates=[Template("cloud/gpu", gpus=4)])
    def test_idle_nodes_go(yellowdog):
        ...
        yellowdog.advance(seconds=600)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from raydog.emulator.server import Emulator

if TYPE_CHECKING:
    from yellowdog_client import PlatformClient

OPTION = "--yellowdog-instances"
KINDS = ("simulated", "real")
SETTINGS = frozenset({"instances", "templates", "virtual_clock", "idle_grace"})
"""What ``@pytest.mark.yellowdog(...)`` understands."""

_OTHER_NAMES = ("YD_URL", "YD_KEY", "YD_SECRET")
"""Other programs' names for the same settings; one that leads to a real account must not win over ours."""
_MARKER = (
    "yellowdog(instances, templates, virtual_clock, idle_grace): settings of this test's emulated YellowDog: "
    "'simulated' or 'real' instances, a list of Template or a YAML file, a clock that only `advance` moves, and the "
    "seconds for which unused pools ignore their idle time-outs."
)


class YellowDog(Emulator):
    """What the fixture ``yellowdog`` is: a running `Emulator`, with a client of YellowDog's own SDK.

    Its attributes ``url``, ``key_id``, ``key_secret`` and ``environment`` are what a client needs; ``fault``,
    ``template``, ``preempt`` and ``advance`` make trouble; ``calls`` and ``status`` tell what happened.
    """

    @cached_property
    def client(self) -> PlatformClient:
        """The SDK's client. It repeats failed calls as usual but waits only milliseconds, so faults cost no time."""
        from yellowdog_client import PlatformClient  # noqa: PLC0415 - not every test wants it
        from yellowdog_client.model import ApiKey, RetryProperties, ServicesSchema  # noqa: PLC0415

        quick = timedelta(milliseconds=5)
        retry = RetryProperties(maxAttempts=3, initialInterval=quick, maxInterval=quick)
        return PlatformClient.create(
            ServicesSchema(defaultUrl=self.url, retry=retry), ApiKey(self.key_id, self.key_secret)
        )

    def __enter__(self) -> YellowDog:
        self.start()
        return self

    def stop(self) -> None:
        """As `Emulator.stop`; the client goes first."""
        if "client" in self.__dict__:
            self.client.close()
            del self.client
        super().stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("yellowdog").addoption(
        OPTION,
        choices=KINDS,
        default="simulated",
        help="What the fixture `yellowdog` runs tasks on: nothing (simulated, the default) or real nodes.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def yellowdog(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[YellowDog]:
    """A YellowDog of this test's own, on this machine; ``YD_API_*`` in the environment lead to it."""
    with _make(request, tmp_path_factory) as emulator:
        for name in _OTHER_NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        host = emulator.url.split("//")[1].partition(":")[0]
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), host))))
        yield emulator


def _make(request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> YellowDog:
    settings = _settings(request.node)
    kind = settings.pop("instances", None)
    asked_for_all = kind is None and request.config.getoption(OPTION) == "real"
    if settings.pop("virtual_clock", False):
        from raydog.emulator.clock import VirtualClock  # noqa: PLC0415

        settings["clock"] = VirtualClock()
        if kind == "real":
            pytest.fail("real instances boot on the machine's time: a virtual clock does not fit them", pytrace=False)
        asked_for_all, kind = False, "simulated"  # such a test is one of rules, whatever the rest runs on
    if kind == "real" or asked_for_all:
        return YellowDog(_real_driver(folders.mktemp("yellowdog"), must=asked_for_all), **settings)
    return YellowDog("simulated", **settings)


def _settings(node: pytest.Item) -> dict[str, Any]:
    """Those of the test's markers; a test's own win over its class's and module's."""
    found: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("yellowdog"))):
        unknown = ", ".join(sorted(marker.kwargs.keys() - SETTINGS))
        if unknown or marker.args or marker.kwargs.get("instances", "real") not in KINDS:
            pytest.fail(f"@pytest.mark.yellowdog has {unknown or 'a wrong value'}; it is {_MARKER}", pytrace=False)
        found |= marker.kwargs
    return found


def _real_driver(folder: Path, *, must: bool) -> Any:
    """Real instances. Where there can be none: ``must`` (the option was given) fails, else the test is skipped."""
    from raydog.errors import ProvisioningError  # noqa: PLC0415

    try:
        from raydog.emulator.real import RealDriver  # noqa: PLC0415 - Linux only
        from raydog.emulator.real.host import check_machine  # noqa: PLC0415

        check_machine()
    except (ImportError, ProvisioningError) as error:
        if must:
            pytest.fail(f"{OPTION}=real: {error}", pytrace=False)
        pytest.skip(str(error))
    return RealDriver(folder)
