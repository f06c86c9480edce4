"""Reading a cluster YAML: what is accepted, what each property means, and how every fault is reported at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import paramiko
import pytest
import yaml

from raydog.autoscaler.bootstrap import bootstrap
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.schema import Parsed, parse_cluster
from raydog.autoscaler.uploads import FileUpload
from raydog.errors import ConfigError

YAML = """
cluster_name: demo
provider:
  type: external
  module: raydog.autoscaler.RayDogNodeProvider
  cluster_namespace: testing
auth: {ssh_user: yd-agent, ssh_private_key: key}
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {compute_requirement_template: ns/head}
    min_workers: 0
    max_workers: 0
  worker:
    resources: {CPU: 4}
    labels: {market: spot}
    min_workers: 0
    max_workers: 5
    node_config: {compute_requirement_template: [ns/cheap, ns/dear]}
head_node_type: head
max_workers: 5
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
"""

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML's folder with a private key in it; the working directory is another one."""
    folder, elsewhere = tmp_path / "yaml", tmp_path / "cwd"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("RAY_UP_enable_autoscaler_v2", raising=False)
    paramiko.RSAKey.generate(1024).write_private_key_file(str(folder / "key"))
    return folder


def unchanged(config: dict[str, Any]) -> None:
    """The YAML as it is."""


def read(folder: Path, edit: Edit = unchanged) -> Parsed:
    config = yaml.safe_load(YAML)
    edit(config)
    return parse_cluster(config, [folder, Path.cwd()])


def faults(folder: Path, edit: Edit) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, edit)
    return "\n".join(caught.value.faults)


def provider(**values: Any) -> Edit:
    return lambda config: config["provider"].update(values)


def worker(**values: Any) -> Edit:
    return lambda config: config["available_node_types"]["worker"].update(values)


def node_config(**values: Any) -> Edit:
    return lambda config: config["available_node_types"]["worker"]["node_config"].update(values)


def test_a_short_yaml_gets_the_documented_defaults(folder: Path) -> None:
    parsed = read(folder)
    config = parsed.config
    assert parsed.warnings == ()
    assert (config.cluster_name, config.namespace, config.tag) == ("demo", "testing", None)
    assert config.lifetime == timedelta(hours=1)
    assert config.head_build_timeout == timedelta(minutes=5)
    assert config.tag_server_port == 16667
    assert (config.head_script, config.worker_script) == (None, None)
    assert config.credentials == "ssh"
    assert config.node_launch_timeout is None
    assert config.head_type == "head"
    assert config.head_resources == {"CPU": 0}
    assert not config.node_updaters
    assert config.autoscaler_v2
    assert config.auth is not None
    assert config.auth.private_key == folder / "key"
    assert config.auth.public_key is not None
    assert config.auth.public_key.startswith("ssh-rsa AAAA")
    assert config.node_types["worker"] == NodeType(
        name="worker",
        templates=("ns/cheap", "ns/dear"),
        resources={"CPU": 4},
        labels={"market": "spot"},
        max_workers=5,
    )


def test_every_property_is_read(folder: Path) -> None:
    (folder / "data.txt").write_text("x")

    def edit(config: dict[str, Any]) -> None:
        config["provider"].update(
            cluster_tag="nightly",
            cluster_lifetime_hours=0.5,
            head_node_build_timeout_minutes="7.5",
            head_node_tag_server_port=7000,
            ray_head_node_task_script="echo head",
            ray_worker_node_task_script=["#!/bin/bash", "echo worker"],
            files_to_upload=["data.txt"],
            credentials="task_environment",
            node_launch_timeout_minutes=3,
            use_internal_ips=True,
            authorize_ssh_key=False,
        )
        config["available_node_types"]["worker"]["node_config"].update(
            images_id="ami-1",
            userdata="#!/bin/bash\na",
            extra_userdata="b",
            instance_tags={"team": "x"},
            metrics_enabled=True,
            capture_taskoutput=True,
        )

    config = read(folder, edit).config
    assert config.tag == "nightly"
    assert config.lifetime == timedelta(minutes=30)
    assert config.head_build_timeout == timedelta(minutes=7.5)
    assert config.tag_server_port == 7000
    assert config.head_script == "echo head"
    assert config.worker_script == "#!/bin/bash\necho worker\n"
    assert config.files_to_upload == (FileUpload(str(folder / "data.txt"), "data.txt"),)
    assert config.credentials == "task_environment"
    assert config.node_launch_timeout == timedelta(minutes=3)
    assert config.use_internal_ips
    assert config.head_needs_internal_ip
    assert not config.authorize_ssh_key
    node_type = config.node_types["worker"]
    assert node_type.images_id == "ami-1"
    assert node_type.user_data == "#!/bin/bash\na\nb"
    assert node_type.instance_tags == {"team": "x"}
    assert node_type.metrics_enabled is True
    assert node_type.capture_task_output


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["provider"].pop("cluster_namespace"), "provider.cluster_namespace: missing"),
        (provider(cluster_namespace="My Space"), "provider.cluster_namespace: 'My Space' contains"),
        (provider(cluster_namespace=7), "provider.cluster_namespace: must be a text, not a number"),
        (provider(cluster_namespace="x" * 61), "has 61 characters"),
        (
            provider(cluster_namspace="x"),
            "provider.cluster_namspace: unknown property; did you mean 'cluster_namespace'?",
        ),
        (provider(lifetime="60m"), "provider.lifetime: unknown property; did you mean 'cluster_lifetime_hours'?"),
        (provider(cluster_lifetime_hours="soon"), "provider.cluster_lifetime_hours: must be a number of hours"),
        (provider(cluster_lifetime_hours=0), "provider.cluster_lifetime_hours: must be from 0.01"),
        (provider(cluster_lifetime_hours=float("nan")), "provider.cluster_lifetime_hours"),
        (provider(cluster_lifetime_hours=10**400), "provider.cluster_lifetime_hours"),
        (provider(head_node_build_timeout_minutes=-1), "provider.head_node_build_timeout_minutes: must be from 0.01"),
        (provider(head_node_tag_server_port=70000), "provider.head_node_tag_server_port: must be a port"),
        (provider(credentials="none"), "provider.credentials: must be ssh or task_environment"),
        (provider(authorize_ssh_key="yes"), "provider.authorize_ssh_key: must be true or false"),
        (provider(files_to_upload="a"), "provider.files_to_upload: must be a list"),
        (provider(files_to_upload=["gone"]), "provider.files_to_upload[0]: 'gone' does not exist"),
        (provider(cluster_tag="x" * 201), "provider.cluster_tag: has 201 characters"),
        (provider(ray_head_node_task_script="file:gone.sh"), "provider.ray_head_node_task_script: 'gone.sh' does not"),
        (provider(ray_head_node_task_script=5), "provider.ray_head_node_task_script: must be a text"),
        (lambda c: c.update(cluster_name="my cluster"), "cluster_name: 'my cluster' contains ' '"),
        (lambda c: c.update(cluster_name="c" * 55), "cluster_name: "),
        (lambda c: c.update(cluster_name=5), "cluster_name: must be a text"),
        (lambda c: c.update(max_worker=5), "max_worker: unknown property; did you mean 'max_workers'?"),
        (lambda c: c.update(max_workers="5"), "max_workers: must be a whole number, not '5'"),
        (lambda c: c.update(idle_timeout_minutes=-1), "idle_timeout_minutes: must be at least 0"),
        (lambda c: c.update(head_node_type="haed"), "head_node_type: must be one of head, worker, not 'haed'"),
        (lambda c: c.update(head_node_type=[]), "head_node_type: must be one of head, worker, not a list"),
        (lambda c: c.update(docker={"image": "x", "container_name": "y"}), "docker: is not supported"),
        (worker(docker={"worker_image": "x"}), "available_node_types.worker.docker: is not supported"),
        (lambda c: c.update(file_mounts={"/a": "gone"}), "file_mounts./a: 'gone' does not exist"),
        (lambda c: c.update(setup_commands="ls"), "setup_commands: must be a list, not 'ls'"),
        (worker(resources={"CPU": 0.5}), "available_node_types.worker.resources.CPU: must be a whole number, not 0.5"),
        (worker(min_workers=9), "available_node_types.worker.min_workers: is 9, more than its max_workers 5"),
        (worker(min_workers=-1), "available_node_types.worker.min_workers: must be at least 0"),
        (worker(extra=1), "available_node_types.worker.extra: unknown property"),
        (
            lambda c: c["available_node_types"]["worker"].pop("resources"),
            "available_node_types.worker.resources: missing",
        ),
        (
            lambda c: c["available_node_types"]["worker"].pop("node_config"),
            "available_node_types.worker.node_config: miss",
        ),
        (lambda c: c.pop("available_node_types"), "available_node_types: missing"),
        (lambda c: c["available_node_types"].update({"a b": {}}), "the name 'a b' contains ' '"),
        (lambda c: c["available_node_types"].update({7: {"node_config": {}}}), "available_node_types.7"),
        (node_config(compute_requirement_template=None), "node_config.compute_requirement_template: missing"),
        (node_config(compute_requirement_template=[]), "node_config.compute_requirement_template"),
        (node_config(compute_requirement_template=["a", 5]), "compute_requirement_template[1]: must be a text"),
        (node_config(compute_requirement_template="a b"), "'a b' contains a space; to name several, write a list"),
        (node_config(image_id="ami"), "node_config.image_id: unknown property; did you mean 'images_id'?"),
        (node_config(max_nodes=4), "node_config.max_nodes: unknown property; write max_workers beside node_config"),
        (node_config(instance_tags={"cost": 42}), "node_config.instance_tags.cost: must be a text, not 42"),
        (node_config(metrics_enabled="no"), "node_config.metrics_enabled: must be true or false"),
        (node_config(userdata="file:gone"), "node_config.userdata: 'gone' does not exist"),
        (lambda c: c["auth"].pop("ssh_user"), "auth.ssh_user: missing"),
        (lambda c: c["auth"].update(ssh_user="a b"), "auth.ssh_user: 'a b' is no name of a Unix user"),
        (lambda c: c["auth"].update(ssh_private_key="gone"), "auth.ssh_private_key: 'gone' does not exist"),
        (lambda c: c["auth"].update(ssh_private_key="."), "is a folder, not a private key"),
        (lambda c: c["auth"].update(ssh_key="x"), "auth.ssh_key: unknown property; did you mean 'ssh_"),
        (lambda c: c.update(auth="me"), "auth: must be a mapping"),
        (lambda c: c.update(provider=[]), "provider: must be a mapping"),
    ],
)
def test_a_fault_is_named_with_its_path_and_remedy(folder: Path, edit: Edit, expected: str) -> None:
    assert expected in faults(folder, edit)


def test_all_faults_come_in_one_message_and_each_once(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["cluster_name"] = "no good"
        config["provider"].update(cluster_namespace=None, cluster_lifetime_hours=[], colour="red")
        config["auth"]["ssh_private_key"] = "gone"
        config["available_node_types"]["worker"]["node_config"] = {"userdata": "file:gone.sh"}
        config["max_workers"] = "many"

    with pytest.raises(ConfigError) as caught:
        read(folder, edit)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "cluster_name",
        "max_workers",
        "provider.colour",
        "auth.ssh_private_key",
        "provider.cluster_namespace",
        "provider.cluster_lifetime_hours",
        "available_node_types.worker.node_config.compute_requirement_template",
        "available_node_types.worker.node_config.userdata",
    ]
    assert str(caught.value).startswith("The cluster configuration has 8 faults:\n  cluster_name: ")


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        ("ssh-ed25519 AAAA me", 0o600, "is a public key; name the private one"),
        ("hello", 0o600, "is not an SSH private key"),
        (None, 0o644, "has mode 0644, so ssh refuses to use it; run: chmod 600"),
    ],
)
def test_a_key_that_ssh_would_refuse_is_found_before_anything_is_started(
    folder: Path, content: str | None, mode: int, expected: str
) -> None:
    key = folder / "key"
    if content is not None:
        key.write_text(content)
    key.chmod(mode)
    assert expected in faults(folder, unchanged)


def test_an_unreadable_key_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root, whom tests may run as, can read every file
    assert "cannot be read (Permission denied)" in faults(folder, unchanged)


def test_a_key_with_a_passphrase_is_refused_before_anything_costs_money(folder: Path) -> None:
    paramiko.RSAKey.generate(1024).write_private_key_file(str(folder / "key"), password="secret words")
    assert "has a passphrase" in faults(folder, unchanged)


def test_files_are_looked_for_beside_the_yaml_and_then_in_the_working_directory(folder: Path) -> None:
    Path("head.sh").write_text("from the working directory")
    edit = provider(ray_head_node_task_script="file: head.sh")
    assert read(folder, edit).config.head_script == "from the working directory"
    (folder / "head.sh").write_text("from beside the YAML")
    assert read(folder, edit).config.head_script == "from beside the YAML"


def test_a_missing_file_is_named_with_every_place_that_was_tried(folder: Path) -> None:
    text = faults(folder, provider(ray_worker_node_task_script="file:scripts/w.sh"))
    assert str(folder / "scripts/w.sh") in text
    assert str(Path.cwd() / "scripts/w.sh") in text


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "in-home.sh").write_text("x")
    assert read(folder, provider(ray_head_node_task_script="file:~/in-home.sh")).config.head_script == "x"
    assert "no such user" in faults(folder, provider(ray_head_node_task_script="file:~nobody-here/x"))


def test_a_folder_is_uploaded_file_by_file(folder: Path) -> None:
    (folder / "data/deep").mkdir(parents=True)
    (folder / "data/a").touch()
    (folder / "data/deep/b").touch()
    assert read(folder, provider(files_to_upload=["data"])).config.files_to_upload == (
        FileUpload(str(folder / "data/a"), "data/a"),
        FileUpload(str(folder / "data/deep/b"), "data/deep/b"),
    )


def test_a_file_reference_counts_only_where_a_script_may_stand(folder: Path) -> None:
    """Found by a mutated YAML: the value of any other property is no file."""
    assert read(folder, provider(module="file:/")).config.files_to_upload == ()


def test_a_binary_script_is_a_fault(folder: Path) -> None:
    (folder / "bin").write_bytes(b"\x7fELF\xff\xfe")
    assert "is not a text file" in faults(folder, provider(ray_head_node_task_script="file:bin"))


def test_older_property_names_work_and_are_mentioned(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["provider"].update(head_start_ray_script="h", worker_start_ray_script="w")
        config["available_node_types"]["worker"]["node_config"]["user_data"] = "#!/bin/sh\nu"

    parsed = read(folder, edit)
    assert (parsed.config.head_script, parsed.config.worker_script) == ("h", "w")
    assert parsed.config.node_types["worker"].user_data == "#!/bin/sh\nu"
    assert [warning.split(":")[0] for warning in parsed.warnings] == [
        "provider.head_start_ray_script",
        "provider.worker_start_ray_script",
        "available_node_types.worker.node_config.user_data",
    ]


def test_both_names_of_a_property_are_a_fault(folder: Path) -> None:
    edit = provider(head_start_ray_script="h", ray_head_node_task_script="h")
    assert "provider.head_start_ray_script: is the older name of" in faults(folder, edit)


def test_auth_may_stand_under_provider_only(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["provider"]["auth"] = config.pop("auth")

    auth = read(folder, edit).config.auth
    assert auth is not None
    assert auth.private_key == folder / "key"


def test_a_repeated_auth_that_differs_gets_a_warning(folder: Path) -> None:
    parsed = read(folder, provider(auth={"ssh_user": "ubuntu", "ssh_private_key": "key"}))
    assert parsed.config.auth is not None
    assert parsed.config.auth.user == "yd-agent"
    assert any(warning.startswith("provider.auth.ssh_user: differs") for warning in parsed.warnings)


def test_too_few_max_workers(folder: Path) -> None:
    assert any("never have a worker" in w for w in read(folder, lambda c: c.update(max_workers=0)).warnings)
    assert any("cannot grow" in w for w in read(folder, worker(max_workers=0)).warnings)
    edit = worker(min_workers=5)
    assert "max_workers: is 2, less than all min_workers" in faults(
        folder, lambda c: (edit(c), c.update(max_workers=2))
    )


@pytest.mark.parametrize(
    "command",
    [
        "ray stop",
        "ulimit -n 65536; ray start --head",
        "ray --logging-level debug start --head",
        "cd /x && ray  stop -f",
    ],
)
def test_commands_that_would_start_or_stop_ray_are_refused_with_the_reason(folder: Path, command: str) -> None:
    text = faults(folder, lambda c: c.update(head_start_ray_commands=[command]))
    assert "by the node's YellowDog task" in text
    assert "ray_head_node_task_script" in text


@pytest.mark.parametrize("command", ["ray job stop x", "echo stop", "ray status", "array start", "xray-start"])
def test_other_commands_are_not_refused(folder: Path, command: str) -> None:
    read(folder, lambda c: c.update(head_start_ray_commands=[command]))


def test_two_long_node_types_that_would_share_a_pool_are_a_fault(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["cluster_name"] = "c" * 49
        template = config["available_node_types"]["worker"]
        for number in range(40):  # one character is left: sixteen names
            config["available_node_types"][f"worker-{number}"] = dict(template)

    assert "shorten cluster_name" in faults(folder, edit)


def test_a_lost_file_does_not_keep_a_cluster_from_being_taken_down(folder: Path) -> None:
    config = yaml.safe_load(YAML)
    config["provider"]["ray_head_node_task_script"] = "file:gone"
    (folder / "key").unlink()
    parsed = parse_cluster(config, [folder], files_may_be_missing=True)
    assert parsed.config.namespace == "testing"
    assert len(parsed.faults) == 2
    config["provider"]["cluster_namespace"] = "Not Good"
    with pytest.raises(ConfigError, match="3 faults"):
        parse_cluster(config, [folder], files_may_be_missing=True)


def test_a_raw_provider_section_is_good_for_reading(folder: Path) -> None:
    """``ray get-head-ip`` passes the YAML's own section: no auth, scripts that nobody has read."""
    raw = {"type": "external", "cluster_namespace": "testing", "ray_head_node_task_script": "file:gone.sh"}
    config = ClusterConfig.from_provider(raw, "Demo")
    assert (config.namespace, config.auth, config.complete) == ("testing", None, False)


def test_a_raw_provider_section_without_a_namespace_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"provider\.cluster_namespace: missing"):
        ClusterConfig.from_provider({"type": "external"}, "demo")


def test_the_provider_gets_back_what_the_yaml_said(folder: Path) -> None:
    """The constructor sees only the provider section; nothing of the parsed YAML is lost on that way but node types."""
    (folder / "head.sh").write_text("h")

    def edit(config: dict[str, Any]) -> None:
        config["auth"]["ssh_private_key"] = str(folder / "key")
        config["provider"].update(
            ray_head_node_task_script=f"file:{folder / 'head.sh'}", cluster_tag="t", node_launch_timeout_minutes=2
        )

    config = yaml.safe_load(YAML)
    edit(config)
    parsed = parse_cluster(config, [folder]).config
    section = bootstrap(config)["provider"]
    seen = ClusterConfig.from_provider(section, "demo")
    assert seen.head_script == "h"
    for name in ClusterConfig.__dataclass_fields__:
        if name not in {"node_types", "base_dirs"}:
            assert getattr(seen, name) == getattr(parsed, name), name


def test_a_node_config_that_was_never_bootstrapped_makes_no_node(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not bootstrapped"):
        NodeType.from_node_config("w", {"compute_requirement_template": "t", "userdata": "file:x.sh"})


def test_resources_and_labels_of_a_new_node_come_from_ray(folder: Path) -> None:
    node_type = NodeType.from_node_config("w", {"compute_requirement_template": "t"}, {"GPU": 2}, {"zone": "a"})
    assert (node_type.templates, node_type.resources, node_type.labels) == (("t",), {"GPU": 2}, {"zone": "a"})
