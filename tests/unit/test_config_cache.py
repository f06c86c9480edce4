"""Ray caches the bootstrapped YAML where everybody can read it, keyed on its text alone: it is never trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raydog.autoscaler.bootstrap import bootstrap, fillout, for_head
from raydog.autoscaler.provider import RayDogNodeProvider
from raydog.errors import ConfigError
from tests.unit.test_bootstrap import MINIMAL


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    key.chmod(0o600)
    return tmp_path


def provider_section(folder: Path) -> dict[str, Any]:
    """What Ray gives the constructor, with a cache file as Ray has just written it."""
    section: dict[str, Any] = bootstrap(fillout(yaml.safe_load(MINIMAL)))["provider"]
    cache = folder / "ray-config-0123"
    cache.write_text("{}")
    section["_config_cache_path"] = str(cache)
    return section


def test_the_cache_is_removed_by_the_constructor(folder: Path) -> None:
    RayDogNodeProvider(provider_section(folder), "demo")
    assert not (folder / "ray-config-0123").exists()


def test_a_cache_that_a_killed_command_left_in_another_folder_is_refused_and_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = provider_section(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match="run the command again"):
        RayDogNodeProvider(section, "demo")
    assert not (folder / "ray-config-0123").exists()


def test_the_head_gets_no_folder_of_this_machine(folder: Path) -> None:
    config = bootstrap(fillout(yaml.safe_load(MINIMAL)))
    assert str(folder) not in str(for_head(config)["provider"])
