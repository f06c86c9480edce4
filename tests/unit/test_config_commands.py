"""Whatever is wrong with a YAML, ``ray up`` and ``raydog status`` say so cleanly, before anything is asked of anybody.

The commands are Ray's own, in this process, up to the point where Ray would look for the head.
"""

from __future__ import annotations

import logging
import socket
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st
from ray.autoscaler._private import commands
from ray.scripts.scripts import cli as ray_cli

from raydog.autoscaler import bootstrap, provider
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.cli import main as raydog_cli
from tests.unit.test_config_mutations import EXAMPLES, full_yaml, mutated

# Ray leaves the YAML that it has read for the garbage collector to close.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MUTATED = 600
RAYDOG = str(Path(provider.__file__).parents[1])


class Usable(Exception):  # noqa: N818 - no error: the YAML went through
    """Ray is about to look for the head."""


@dataclass
class Desk:
    """Where somebody types; what RayDog was asked, and whom anybody has tried to reach."""

    folder: Path
    asked: bool = False
    accepted: bool = False
    reached: list[Any] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def write(self, document: Any) -> Path:
        path = self.folder / "cluster.yaml"
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
        return path

    def up(self, document: Any) -> str:
        """``ray up -y``: how it ended. Fails if that is not a clean refusal or a YAML that can be used."""
        self.asked = self.accepted = False
        path = self.write(document)
        result = CliRunner().invoke(ray_cli, ["up", "-y", "--no-config-cache", str(path)])
        error = result.exception
        shown = "".join(traceback.format_exception(error)) if error else ""
        if isinstance(error, Usable):
            return "usable"
        if not self.asked:
            assert RAYDOG not in shown, shown
            return "refused by Ray before us"
        assert isinstance(error, SystemExit), f"accepted: {self.accepted}\n{shown}"
        assert result.exit_code == 1
        assert not self.accepted, f"refused only after it had been accepted:\n{result.output}"
        assert "Traceback" not in result.output
        faults = [line for line in result.stderr.splitlines() if line.startswith("  ")]
        assert faults, result.output
        assert all(": " in fault for fault in faults), result.output
        return "refused by us"

    def status(self, document: Any) -> str:
        """``raydog status`` up to the point where it would ask the platform."""
        result = CliRunner().invoke(raydog_cli, ["status", str(self.write(document))])
        if isinstance(result.exception, Usable):
            return "usable"
        assert isinstance(result.exception, SystemExit), "".join(traceback.format_exception(result.exception))
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        return "refused by us"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("ray.autoscaler._private.util"), "disabled", True)  # it has much to say
    paramiko.RSAKey.generate(1024).write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "script.sh").write_text("#!/bin/bash\ntrue\n")
    (tmp_path / "scripts").symlink_to(EXAMPLES / "scripts")
    made = Desk(tmp_path)

    def fill_out(config: dict[str, Any]) -> dict[str, Any]:
        made.asked = True
        try:
            filled = bootstrap.fillout(config)
        except Exception as error:  # Ray would swallow it and go on
            raise AssertionError("only SystemExit gets past Ray here") from error
        made.accepted = True
        return filled

    def look_for_head(config: dict[str, Any], *_: object) -> None:
        RayDogNodeProvider(config["provider"], config["cluster_name"]).close()
        raise Usable

    def ask(*_: object, **__: object) -> None:
        raise Usable

    monkeypatch.setattr(RayDogNodeProvider, "fillout_available_node_types_resources", staticmethod(fill_out))
    monkeypatch.setattr(commands, "get_or_create_head_node", look_for_head)
    monkeypatch.setattr("raydog.cli.status.cluster_status", ask)
    monkeypatch.setattr(socket.socket, "connect", lambda _self, to: made.reached.append(to))
    yield made
    assert made.reached == []


def test_yaml_that_is_mutated_here_is_usable(desk: Desk) -> None:
    assert desk.up(full_yaml()) == "usable"
    assert desk.status(full_yaml()) == "usable"


def test_hundreds_of_mutated_yamls_are_refused_clearly_or_can_be_used(desk: Desk) -> None:
    @seed(5)
    @settings(max_examples=MUTATED, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(config=mutated())
    def mutate(config: dict[str, Any]) -> None:
        desk.outcomes[outcome := desk.up(config)] += 1
        desk.outcomes[f"status: {desk.status(config)}"] += 1
        event(outcome)

    mutate()
    print(dict(desk.outcomes))
    # enough of each, so that it is known what was tested
    assert desk.outcomes["refused by us"] + desk.outcomes["usable"] >= 300, desk.outcomes
    assert desk.outcomes["refused by us"] >= 100, desk.outcomes
    assert desk.outcomes["usable"] >= 20, desk.outcomes


TEXTS = st.one_of(
    st.sampled_from(["", "[]", "1", "null", "provider:", "provider: {}", "a: b: c", "\t", "{", "%", "provider: [1]"]),
    st.text(max_size=40),
    st.integers(1, 2000).map(lambda end: yaml.safe_dump(full_yaml())[:end]),
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_text_that_is_hardly_yaml_is_refused_cleanly_by_status_and_kept_from_us_by_ray(desk: Desk, text: str) -> None:
    desk.up(text)
    desk.status(text)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x00" * 10, b"provider: \x01"])
def test_bytes_that_are_no_text_are_refused_cleanly(desk: Desk, data: bytes) -> None:
    (desk.folder / "cluster.yaml").write_bytes(data)
    result = CliRunner().invoke(raydog_cli, ["status", str(desk.folder / "cluster.yaml")])
    assert result.exit_code == 1
    assert "cluster.yaml" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_file_that_is_missing_or_a_folder_is_named(desk: Desk) -> None:
    for path in (desk.folder / "none.yaml", desk.folder):
        result = CliRunner().invoke(raydog_cli, ["status", str(path)])
        assert result.exit_code in (1, 2)
        assert str(path) in result.stderr
        assert isinstance(result.exception, SystemExit)
