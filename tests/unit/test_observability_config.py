"""``provider.observability`` in a cluster's YAML: what it means, its faults, and what reaches nodes."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydog.autoscaler import scripts
from raydog.autoscaler.bootstrap import bootstrap, for_head
from raydog.autoscaler.config import ClusterConfig
from raydog.autoscaler.environment import observability_environment, worker_environment
from raydog.autoscaler.schema import Parsed, parse_cluster
from raydog.errors import ConfigError
from raydog.observability import head_part
from raydog.yellowdog import naming
from raydog.yellowdog.records import ClusterRecord, GroupRecord, NodeRecord
from raydog.yellowdog.view import ClusterView

Edit = Callable[[dict[str, Any]], object]

YAML = """
cluster_name: demo
provider:
  type: external
  module: raydog.autoscaler.RayDogNodeProvider
  cluster_namespace: testing
  head_node_build_timeout_minutes: 10
  observability:
    compute_requirement_template: [ns/metrics, ns/other]
    images_id: image
    userdata: file:setup.sh
    extra_userdata: echo more
    instance_tags: {for: metrics}
    start_script: file:start.sh
auth: {ssh_user: yd-agent}
available_node_types:
  head: {resources: {CPU: 0}, node_config: {compute_requirement_template: ns/head}, min_workers: 0, max_workers: 0}
head_node_type: head
max_workers: 0
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.sh").write_text("#!/bin/bash\necho setting up\n")
    (tmp_path / "start.sh").write_text("exec prometheus\n")
    return tmp_path


def document(edit: Edit = lambda _document: None) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(YAML)
    edit(config)
    return config


def observed(**values: Any) -> Edit:
    return lambda config: config["provider"]["observability"].update(values)


def read(folder: Path, edit: Edit = lambda _document: None) -> Parsed:
    return parse_cluster(document(edit), [folder])


def test_all_properties_are_read(folder: Path) -> None:
    config = read(folder).config
    assert config.observability is not None
    assert config.observability.name == "observability-node"
    assert config.observability.templates == ("ns/metrics", "ns/other")
    assert config.observability.images_id == "image"
    assert config.observability.user_data == "#!/bin/bash\necho setting up\n\necho more"
    assert config.observability.instance_tags == {"for": "metrics"}
    assert config.observability_script == "exec prometheus\n"


def test_without_the_section_there_is_no_such_node(folder: Path) -> None:
    config = read(folder, lambda document: document["provider"].pop("observability")).config
    assert (config.observability, config.observability_script) == (None, None)


def test_a_template_is_all_it_needs(folder: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["provider"]["observability"] = {"compute_requirement_template": "ns/metrics"}

    config = read(folder, edit).config
    assert config.observability is not None
    assert (config.observability.user_data, config.observability_script) == (None, None)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["provider"].update(observability=True), "provider.observability: must be a mapping"),
        (lambda c: c["provider"].update(observability={}), "provider.observability.compute_requirement_template: miss"),
        (observed(template="x"), "provider.observability.template: unknown property"),
        (observed(user_data="x"), "provider.observability.user_data: unknown property; did you mean 'userdata'?"),
        (observed(start_script="file:gone.sh"), "provider.observability.start_script: 'gone.sh' does not exist"),
        (observed(userdata="file:gone.sh"), "provider.observability.userdata: 'gone.sh' does not exist"),
        (observed(instance_tags={"a": 1}), "provider.observability.instance_tags.a: must be a text"),
        (
            lambda c: c["available_node_types"].update({"observability-node": c["available_node_types"]["head"]}),
            "available_node_types.observability-node: is the name of the observability node",
        ),
    ],
)
def test_a_fault_is_named_with_its_path(folder: Path, edit: Edit, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(folder, edit)
    assert expected in str(caught.value)


def test_pool_names_of_a_long_cluster_name_are_checked_with_it(folder: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["cluster_name"] = "c" * 49  # leaves one character for the type, sixteen possible ones
        types = document["available_node_types"]
        types.update({f"type-{number}": copy.deepcopy(types["head"]) for number in range(30)})
        document["head_node_type"] = "head"

    with pytest.raises(ConfigError, match="with 'observability-node' it shares the worker pool name"):
        read(folder, edit)


def test_bootstrapping_resolves_it_for_a_provider_that_sees_no_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bootstrap(document())
    assert bootstrap(copy.deepcopy(done)) == done, "harmless on its own result"
    for name in ("setup.sh", "start.sh"):
        (folder / name).unlink()
    for provider in (done["provider"], for_head(done)["provider"]):
        config = ClusterConfig.from_provider(provider, "demo")
        assert config.observability is not None
        assert config.observability.user_data == "#!/bin/bash\necho setting up\n\necho more"
        assert config.observability_script == "exec prometheus\n"


def test_who_only_looks_at_a_cluster_needs_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ClusterConfig.from_provider(document()["provider"], "demo").observability is None


def test_it_gets_user_data_for_the_key_when_the_yaml_says_so(folder: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["provider"]["authorize_ssh_key"] = True
        document["provider"]["observability"] = {"compute_requirement_template": "ns/metrics"}

    config = read(folder, edit).config
    assert config.observability is not None
    assert config.observability.user_data == "#!/bin/bash\n"


# What nodes get


def cluster(*groups: GroupRecord) -> ClusterRecord:
    return ClusterRecord("req", "demo-abcdefgh", "abcdefgh", "ns", "RUNNING", datetime.now(timezone.utc), groups)


def test_the_heads_wrapper_feeds_it_only_where_there_is_one() -> None:
    assert head_part() in scripts.head_task(None, observed=True)
    assert "OBSERVABILITY_HOST" not in scripts.head_task(None)
    subprocess.run(["bash", "-n"], input=scripts.head_task("ray start", observed=True), text=True, check=True)


def test_workers_are_told_where_it_is() -> None:
    config = ClusterConfig("demo", "ns")
    more: Any = {"head_ip": "10.0.0.1", "resources": {}, "labels": {}}
    with_it = worker_environment(config, cluster(), "n", "worker", {}, **more, observability_host="10.0.0.9")
    without = worker_environment(config, cluster(), "n", "worker", {}, **more)
    assert with_it == {**without, "OBSERVABILITY_HOST": "10.0.0.9"}


def test_it_waits_for_a_head_as_long_as_the_client_does(folder: Path) -> None:
    environment = observability_environment(read(folder).config, cluster())
    assert int(environment["RAYDOG_HEAD_FIRST_CONTACT_SECONDS"]) > 600
    assert not {name for name in environment if name.startswith(("RAY_", "YD_"))}


class _Platform:
    """A gateway that lists two nodes."""

    def __init__(self, nodes: list[NodeRecord]) -> None:
        self.nodes = nodes

    def list_nodes(self, *_arguments: Any, **_search: Any) -> list[NodeRecord]:
        return self.nodes

    def node_address(self, *_arguments: Any) -> None:
        return None


def test_a_clusters_view_has_only_rays_nodes() -> None:
    groups = (
        GroupRecord("g1", "head-node", "raydog-abcdefgh-head", "RUNNING"),
        GroupRecord("g2", naming.OBSERVABILITY_TYPE, "raydog-abcdefgh-observability-node", "RUNNING"),
    )
    nodes = [NodeRecord("head", "t1", "g1", "EXECUTING"), NodeRecord("metrics", "t2", "g2", "EXECUTING")]
    platform: Any = _Platform(nodes)
    view = ClusterView(platform, cluster(*groups))
    view.sweep()
    view.sweep_changes()
    assert list(view.nodes()) == ["head"]
    platform.nodes = [nodes[0], NodeRecord("metrics", "t2", "g2", "FAILED")]
    view.sweep_changes()
    assert (list(view.nodes()), view.take_endings()) == (["head"], [])
