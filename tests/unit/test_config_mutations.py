"""Whatever is wrong with a YAML, people get a clear report; and what is accepted works all the way to the provider."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import paramiko
import pytest
import yaml
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from ray.autoscaler._private.util import hash_launch_conf, prepare_config, validate_config

from raydog.autoscaler.bootstrap import bootstrap, fillout, for_head
from raydog.autoscaler.config import NODE_PROPERTIES, PROVIDER_PROPERTIES, RENAMED, ClusterConfig, NodeType
from raydog.autoscaler.files import base_dirs
from raydog.autoscaler.schema import parse_cluster
from raydog.errors import ConfigError
from raydog.yellowdog import naming

EXAMPLES = Path(__file__).parents[2] / "examples" / "autoscaler"

EXAMPLE = yaml.safe_load((EXAMPLES / "raydog.yaml").read_text())

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["file:", "file:gone.sh", "file:/", "file: ~nobody/x", "file:a\0b", "~", "", " ", "ray stop", "x" * 300, "Ünï"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.one_of(
    st.sampled_from(
        [*PROVIDER_PROPERTIES, *NODE_PROPERTIES, *RENAMED.values(), "auth", "docker", "resources", "labels"]
    ),
    st.text(max_size=15),
    st.integers(),
    st.none(),
)


def full_yaml() -> dict[str, Any]:
    """The documented example with every property set, so that each of them is mutated."""
    config: dict[str, Any] = copy.deepcopy(EXAMPLE)
    config["auth"] = {"ssh_user": "yd-agent", "ssh_private_key": "key", "ssh_proxy_command": "nc %h %p"}
    config["provider"].update(
        auth={"ssh_user": "yd-agent", "ssh_private_key": "key"},
        cluster_tag="t",
        cluster_lifetime_hours=1,
        head_node_build_timeout_minutes=5.0,
        head_node_tag_server_port=16667,
        ray_head_node_task_script="file:script.sh",
        worker_start_ray_script=["#!/bin/bash", "true"],
        files_to_upload=["script.sh", {"source": "script.sh", "destination": "b"}],
        credentials="ssh",
        node_launch_timeout_minutes=10,
        authorize_ssh_key=True,
        use_internal_ips=False,
        observability={
            "compute_requirement_template": ["ns/a", "ns/b"],
            "userdata": "file:script.sh",
            "instance_tags": {"a": "b"},
            "start_script": "file:script.sh",
        },
    )
    for node_type in config["available_node_types"].values():
        node_type["labels"] = {"a": "b"}
        node_type["node_config"].update(
            images_id="ami",
            userdata="file:script.sh",
            extra_userdata="true",
            instance_tags={"a": "b"},
            metrics_enabled=True,
            capture_taskoutput=False,
        )
    config.update(file_mounts={"/a": "script.sh"}, docker={}, initialization_commands=["true"], idle_timeout_minutes=1)
    return config


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a YAML."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = sorted(places(full_yaml()), key=str)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The full YAML with one to three things replaced, removed, renamed or added."""
    config = full_yaml()
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        parent: Any = config
        for key in path[:-1]:
            parent = parent[key] if isinstance(parent, dict | list) and _holds(parent, key) else None
        if not isinstance(parent, dict | list) or not _holds(parent, path[-1]):
            continue  # an earlier mutation took it away
        change = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if change == "replace" or isinstance(parent, list):
            parent[path[-1]] = draw(VALUES)
        elif change == "remove":
            del parent[path[-1]]
        elif change == "rename":
            parent[draw(NAMES)] = parent.pop(path[-1])
        else:
            parent[draw(NAMES)] = draw(VALUES)
    return config


def _holds(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else isinstance(key, int) and key < len(parent)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the files that `full_yaml` names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("ray.autoscaler._private.util"), "disabled", True)  # it has much to say
    paramiko.RSAKey.generate(1024).write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "script.sh").write_text("#!/bin/bash\ntrue\n")
    (tmp_path / "scripts").symlink_to(EXAMPLES / "scripts")
    return tmp_path


def test_the_yaml_that_is_mutated_is_valid(folder: Path) -> None:
    parsed = parse_cluster(fillout(prepare_config(full_yaml())), base_dirs())
    assert parsed.config.node_types["worker"].instance_tags == {"a": "b"}


def ray_accepts(config: dict[str, Any]) -> dict[str, Any]:
    """Ray's steps before ours. A YAML that Ray itself fails on is not our business."""
    try:
        prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
        json.dumps([prepared], sort_keys=True)
    except Exception:  # noqa: BLE001 - Ray raises whatever it comes across
        assume(False)
    return prepared


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=mutated())
def test_a_mutated_yaml_is_refused_clearly_or_works_all_the_way(folder: Path, config: dict[str, Any]) -> None:
    prepared = ray_accepts(config)
    faults: tuple[str, ...] = ()
    try:
        filled = fillout(prepared)
    except SystemExit:
        with pytest.raises(ConfigError) as caught:
            bootstrap(prepared)
        faults = caught.value.faults
        assert faults
    event("refused" if faults else "accepted")
    assert all(": " in fault and len(fault.splitlines()) == 1 for fault in faults), faults
    if faults:
        return
    try:
        validate_config(filled)
    except jsonschema.ValidationError as error:
        pytest.fail(f"Ray refuses what we accept: {error}")
    result = bootstrap(filled)
    assert bootstrap(result) == result
    provider = ClusterConfig.from_provider(result["provider"], result["cluster_name"])
    assert provider.namespace == config["provider"]["cluster_namespace"]
    assert timedelta(0) < provider.lifetime
    ClusterConfig.from_provider(json.loads(json.dumps(for_head(result)))["provider"], result["cluster_name"])
    for name, values in result["available_node_types"].items():
        node_type = NodeType.from_node_config(name, values["node_config"], values["resources"], values.get("labels"))
        assert node_type.templates
        assert naming.check_name(naming.pool_name(result["cluster_name"], "a1b2c3d4", name)) is None
    if "ssh_private_key" in result["auth"]:
        hash_launch_conf({}, result["auth"])


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(section=st.dictionaries(NAMES, VALUES, max_size=6), name=SCALARS)
def test_a_raw_provider_section_is_read_or_refused_clearly(folder: Path, section: dict[Any, Any], name: Any) -> None:
    """``ray get-head-ip`` gives it to the constructor as the YAML has it."""
    section = {**section, "type": "external", "module": "x"}
    try:
        namespace = ClusterConfig.from_provider(section, name).namespace
    except ConfigError as error:
        event(f"refused: {len(error.faults) > 0}")
    else:
        assert namespace == section["cluster_namespace"]


@pytest.mark.parametrize("name", ["raydog.yaml", "raydog-minimal.yaml", "raydog-local.yaml"])
def test_the_examples_are_valid_without_a_warning(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((EXAMPLES / name).read_text())
    config["auth"]["ssh_private_key"] = str(folder / "key")
    filled = fillout(prepare_config(config))
    validate_config(filled)
    assert bootstrap(filled)["provider"]["disable_node_updaters"] is True
    assert capsys.readouterr().err == ""


def test_the_full_example_shows_every_property() -> None:
    text = (EXAMPLES / "raydog.yaml").read_text()
    assert [key for key in (*PROVIDER_PROPERTIES, *NODE_PROPERTIES) if f"{key}:" not in text] == []


def test_the_minimal_example_has_about_twenty_lines() -> None:
    assert len((EXAMPLES / "raydog-minimal.yaml").read_text().splitlines()) <= 22
