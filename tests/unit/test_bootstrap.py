"""What happens to a YAML on this machine before the provider exists, through Ray's own functions where it has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import paramiko
import pytest
import yaml
from click.testing import CliRunner, Result
from ray.autoscaler._private.util import hash_launch_conf, prepare_config, validate_config

from raydog.autoscaler import bootstrap as module
from raydog.autoscaler.bootstrap import bootstrap, fillout, for_head
from raydog.autoscaler.config import ClusterConfig, NodeType
from raydog.autoscaler.scripts import HEAD_START_COMMANDS, WORKER_START_COMMANDS

MINIMAL = """
cluster_name: demo
provider:
  type: external
  module: raydog.autoscaler.RayDogNodeProvider
  cluster_namespace: testing
auth: {ssh_user: yd-agent, ssh_private_key: key}
available_node_types:
  head:
    node_config: {compute_requirement_template: ns/head}
  worker:
    resources: {CPU: 1}
    node_config: {compute_requirement_template: ns/worker}
head_node_type: head
max_workers: 3
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
"""

OLD = """
cluster_name: old
provider:
  type: external
  module: yellowdog_ray.raydog.autoscaler.RayDogNodeProvider
  cluster_namespace: testing
  cluster_tag: trial
  cluster_lifetime_hours: 0.5
  head_node_build_timeout_minutes: 5.0
  head_node_tag_server_port: 16667
  auth: {ssh_user: yd-agent, ssh_private_key: key}
  ray_head_node_task_script: |
    #!/bin/bash
    redis-server --port 16667 &
    until [ -f $HOME/ray_bootstrap_key.pem ]; do sleep 2; done
    ray stop
    ray start --head --autoscaling-config=/opt/yellowdog/agent/ray_bootstrap_config.yaml --block
  ray_worker_node_task_script: |
    #!/bin/bash
    ray start --address=$RAY_HEAD_IP:6379 --block
  files_to_upload: []
available_node_types:
  ray_head:
    resources: {"CPU": 0}
    node_config:
      compute_requirement_template: ns/head
      images_id: ami-1
      userdata: "file:node.sh"
      extra_userdata: "file:redis.sh"
      metrics_enabled: true
  ray_worker:
    resources: {"CPU": 1}
    min_workers: 0
    max_workers: 3
    node_config:
      compute_requirement_template: ns/worker
      userdata: "file:node.sh"
head_node_type: ray_head
auth: {ssh_user: yd-agent, ssh_private_key: key}
max_workers: 1000
upscaling_speed: 1000.0
idle_timeout_minutes: 1
file_mounts: {}
cluster_synced_files: []
file_mounts_sync_continuously: False
rsync_exclude: ["**/.git"]
rsync_filter: [".gitignore"]
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
"""
"""As in yellowdog-ray's documentation, which says to leave Ray's own commands empty."""

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a private key in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_UP_enable_autoscaler_v2", raising=False)
    monkeypatch.setattr(module, "_said", set())
    paramiko.RSAKey.generate(1024).write_private_key_file(str(tmp_path / "key"))
    return tmp_path


def prepared(edit: Edit | None = None) -> dict[str, Any]:
    """A YAML as Ray hands it to `fillout`."""
    raw = yaml.safe_load(MINIMAL)
    if edit is not None:
        edit(raw)
    result: dict[str, Any] = prepare_config(raw)
    return result


def bootstrapped(edit: Edit | None = None) -> dict[str, Any]:
    filled = fillout(prepared(edit))
    validate_config(filled)
    return bootstrap(filled)


def run(command: str, path: Path, edit: Edit | None = None) -> Result:
    """Both steps under a command line like Ray's, which alone knows where the YAML is."""

    @click.group()
    def ray() -> None: ...

    @ray.command(name=command)
    @click.argument("cluster_config_file")
    def _command(cluster_config_file: str) -> None:
        click.echo(json.dumps(bootstrap(fillout(prepared(edit)))))

    return CliRunner().invoke(ray, [command, str(path)])


def test_a_twenty_line_yaml_passes_rays_own_validation(folder: Path) -> None:
    assert len(MINIMAL.strip().splitlines()) <= 20
    with pytest.raises(RuntimeError, match="cluster_synced_files"):
        validate_config({**prepared(), "available_node_types": {}})
    result = bootstrapped()
    assert result["idle_timeout_minutes"] == 5
    assert result["upscaling_speed"] >= 100  # v2 would launch one node at a time
    assert result["available_node_types"]["head"]["resources"] == {}


@pytest.mark.parametrize("credentials", ["ssh", "task_environment"])
def test_a_yaml_written_for_yellowdog_ray_works_unchanged(
    folder: Path, capsys: pytest.CaptureFixture[str], credentials: str
) -> None:
    (folder / "node.sh").write_text("#!/usr/bin/bash\ntrue\n")
    (folder / "redis.sh").write_text("#!/bin/bash\ntrue\n")
    old = yaml.safe_load(OLD)
    old["provider"].update({"credentials": credentials} if credentials != "ssh" else {})
    filled = fillout(prepare_config(old))
    validate_config(filled)
    result = bootstrap(filled)
    assert capsys.readouterr().err == ""
    config = ClusterConfig.from_provider(result["provider"], result["cluster_name"])
    assert (config.tag, config.lifetime, config.credentials) == ("trial", timedelta(minutes=30), credentials)
    assert "redis-server --port 16667" in (config.head_script or "")
    assert "ray start --address=$RAY_HEAD_IP:6379" in (config.worker_script or "")
    assert config.auth is not None
    assert config.auth.private_key == folder / "key"
    head = NodeType.from_node_config("ray_head", result["available_node_types"]["ray_head"]["node_config"])
    assert head.user_data == "#!/usr/bin/bash\ntrue\n\n#!/bin/bash\ntrue\n"
    assert (head.images_id, head.metrics_enabled) == ("ami-1", True)
    assert not config.node_updaters


@pytest.mark.parametrize("key", ["file_mounts", "initialization_commands", "rsync_exclude", "idle_timeout_minutes"])
def test_an_empty_key_counts_as_absent(folder: Path, key: str) -> None:
    assert bootstrapped(lambda c: c.update({key: None}))[key] is not None


def test_what_the_user_wrote_is_kept(folder: Path) -> None:
    result = bootstrapped(lambda c: c.update(upscaling_speed=2, idle_timeout_minutes=0.5, rsync_exclude=["*.o"]))
    assert (result["upscaling_speed"], result["idle_timeout_minutes"], result["rsync_exclude"]) == (2, 0.5, ["*.o"])


def test_the_callers_dictionaries_are_left_alone(folder: Path) -> None:
    config = prepared()
    before = json.dumps(config)
    bootstrap(fillout(config))
    assert json.dumps(config) == before


def test_doing_it_again_changes_nothing(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["file_mounts"] = {"/data": "."}
        config["setup_commands"] = ["echo common"]
        config["worker_setup_commands"] = ["echo worker"]
        config["head_start_ray_commands"] = ["echo before"]
        config["provider"]["files_to_upload"] = ["key"]
        config["available_node_types"]["worker"]["node_config"].update(user_data="#!/bin/sh\na", extra_userdata="b")

    once = bootstrapped(edit)
    assert bootstrap(fillout(once)) == once
    # Ray's v2 prepares the configuration again on the head, on every tick.
    assert prepare_config(json.loads(json.dumps(once)))["worker_setup_commands"] == ["echo common", "echo worker"]


def test_two_runs_of_the_same_yaml_give_the_same_result(folder: Path) -> None:
    assert json.dumps(bootstrapped()) == json.dumps(bootstrapped())


def test_scripts_and_user_data_are_read_so_that_the_head_needs_no_file(folder: Path) -> None:
    (folder / "head.sh").write_text("start the head")
    (folder / "setup.sh").write_text("#!/bin/bash\nset up")

    def edit(config: dict[str, Any]) -> None:
        config["provider"]["head_start_ray_script"] = "file: head.sh"
        config["available_node_types"]["worker"]["node_config"].update(userdata="file:setup.sh", extra_userdata="more")

    result = bootstrapped(edit)
    assert result["provider"]["ray_head_node_task_script"] == "start the head"
    assert "head_start_ray_script" not in result["provider"]
    assert result["available_node_types"]["worker"]["node_config"] == {
        "compute_requirement_template": "ns/worker",
        "userdata": "#!/bin/bash\nset up\nmore",
    }
    assert "file:" not in json.dumps(result)
    # yellowdog-ray puts such files on the head as well
    assert [upload["destination"] for upload in result["provider"]["files_to_upload"]] == ["head.sh", "setup.sh"]


def test_the_private_key_is_named_by_a_path_that_holds_everywhere_and_its_text_goes_nowhere(folder: Path) -> None:
    result = bootstrapped()
    assert result["auth"]["ssh_private_key"] == str(folder / "key")
    assert result["provider"]["auth"] == result["auth"]
    secret = (folder / "key").read_text().splitlines()[1]
    assert secret not in json.dumps(result)
    assert result["provider"]["_ssh_public_key"].startswith("ssh-rsa ")


def test_a_launch_hash_stays_the_same_wherever_the_key_and_the_scripts_lie(folder: Path) -> None:
    def launch_hash(result: dict[str, Any]) -> str:
        return str(hash_launch_conf(result["available_node_types"]["worker"]["node_config"], result["auth"]))

    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/key").write_bytes((folder / "key").read_bytes())
    (folder / "elsewhere/key").chmod(0o600)
    (folder / "worker.sh").write_text("another text")
    first = launch_hash(bootstrapped())

    def edit(config: dict[str, Any]) -> None:
        config["auth"]["ssh_private_key"] = "elsewhere/key"
        config["provider"]["ray_worker_node_task_script"] = "file:worker.sh"

    assert launch_hash(bootstrapped(edit)) == first
    changed = bootstrapped(lambda c: c["available_node_types"]["worker"]["node_config"].update(userdata="x"))
    assert launch_hash(changed) != first


def test_the_public_key_file_leaves_auth_since_the_head_would_not_find_it(folder: Path) -> None:
    (folder / "key.pub").write_text("ssh-ed25519 AAAAother me\n")
    result = bootstrapped(lambda c: c["auth"].update(ssh_public_key="key.pub"))
    assert "ssh_public_key" not in result["auth"]
    assert result["provider"]["_ssh_public_key"] == "ssh-ed25519 AAAAother"


def test_a_yaml_that_does_not_want_its_key_authorised_passes_none_on(folder: Path) -> None:
    assert "_ssh_public_key" not in bootstrapped(lambda c: c["provider"].update(authorize_ssh_key=False))["provider"]


@pytest.mark.parametrize(("wish", "made"), [(None, False), (True, True), (False, False)])
def test_user_data_is_made_for_the_key_only_on_request(folder: Path, wish: bool | None, made: bool) -> None:
    """What is sent replaces the template's own user data, which may be what installs the agent."""
    result = bootstrapped(lambda c: c["provider"].update(authorize_ssh_key=wish))
    for node_type in result["available_node_types"].values():
        assert ("userdata" in node_type["node_config"]) is made


def test_the_head_learns_its_resources_and_labels(folder: Path) -> None:
    head = {"resources": {"CPU": 0}, "labels": {"role": "head"}}
    provider = bootstrapped(lambda c: c["available_node_types"]["head"].update(head))["provider"]
    assert provider["_head_node_type"] == "head"
    assert provider["_head_resources"] == {"CPU": 0}
    assert provider["_head_labels"] == {"role": "head"}


@pytest.mark.parametrize(("value", "expected"), [(None, True), ("1", True), ("0", False)])
def test_the_clients_environment_chooses_the_autoscaler(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool
) -> None:
    if value is not None:
        monkeypatch.setenv("RAY_UP_enable_autoscaler_v2", value)
    assert bootstrapped()["provider"]["_autoscaler_v2"] is expected


def test_without_worker_setup_ray_logs_in_to_no_worker(folder: Path) -> None:
    result = bootstrapped(lambda c: c.update(head_setup_commands=["echo head"]))
    assert result["provider"]["disable_node_updaters"] is True
    assert result["worker_start_ray_commands"] == []
    assert result["head_start_ray_commands"] == list(HEAD_START_COMMANDS)


@pytest.mark.parametrize(
    "values",
    [
        {"file_mounts": {"/data": "key"}},
        {"cluster_synced_files": ["/data"]},
        {"setup_commands": ["echo"]},
        {"worker_setup_commands": ["echo"]},
        {"initialization_commands": ["echo"]},
        {"worker_start_ray_commands": ["echo"]},
    ],
)
def test_with_worker_setup_the_updaters_stay_on(folder: Path, values: dict[str, Any]) -> None:
    result = bootstrapped(lambda c: c.update(values))
    assert result["provider"]["disable_node_updaters"] is False
    assert result["worker_start_ray_commands"][-len(WORKER_START_COMMANDS) :] == list(WORKER_START_COMMANDS)


def test_set_up_of_one_worker_type_counts_and_that_of_the_head_type_does_not(folder: Path) -> None:
    def edit(node_type: str) -> Edit:
        return lambda c: c["available_node_types"][node_type].update(initialization_commands=["echo"])

    assert bootstrapped(edit("worker"))["provider"]["disable_node_updaters"] is False
    assert bootstrapped(edit("head"))["provider"]["disable_node_updaters"] is True


def test_worker_setup_without_a_key_for_the_head_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fillout(prepared(lambda c: c.update(auth={"ssh_user": "me"}, worker_setup_commands=["echo"])))
    assert "auth.ssh_private_key: missing; Ray sets workers up" in capsys.readouterr().err


def test_updaters_that_the_user_switched_off_stay_off_with_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["provider"]["disable_node_updaters"] = True
        config["worker_setup_commands"] = ["echo"]

    assert bootstrapped(edit)["provider"]["disable_node_updaters"] is True
    assert "workers do not get worker_setup_commands" in capsys.readouterr().err


def test_own_start_commands_run_before_ours(folder: Path) -> None:
    result = bootstrapped(lambda c: c.update(head_start_ray_commands=["echo mine"]))
    assert result["head_start_ray_commands"] == ["echo mine", *HEAD_START_COMMANDS]


def test_faults_are_printed_and_end_the_process_though_ray_swallows_exceptions_here(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["provider"]["colour"] = "red"
        config["auth"]["ssh_private_key"] = "gone"

    config = prepared(edit)
    with pytest.raises(SystemExit) as ended:
        fillout(config)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: The cluster configuration has 2 faults:\n  provider.colour: unknown property")
    assert "Traceback" not in error


def test_warnings_are_printed_once_and_not_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepared(lambda c: c["provider"].update(head_start_ray_script="x"))
    fillout(config)
    fillout(config)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.count("Warning: provider.head_start_ray_script: is now called") == 1


def test_files_are_found_beside_the_yaml_of_the_command_being_run(folder: Path) -> None:
    project = folder / "project"
    project.mkdir()
    (folder / "key").rename(project / "key")
    result = run("up", project / "raydog.yaml")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["auth"]["ssh_private_key"] == str(project / "key")
    refused = run("up", folder / "other" / "raydog.yaml")
    assert refused.exit_code == 1
    assert f"Error: {folder}/other/raydog.yaml has 1 fault:" in refused.stderr


def test_a_lost_file_stops_every_command_but_ray_down(folder: Path) -> None:
    (folder / "key").unlink()
    assert run("exec", folder / "raydog.yaml").exit_code == 1
    result = run("down", folder / "raydog.yaml")
    assert result.exit_code == 0, result.output
    assert "Taking the cluster down all the same" in result.stderr
    assert run("down", folder / "raydog.yaml", lambda c: c["provider"].update(cluster_namespace="")).exit_code == 1


def test_mounted_files_are_named_by_absolute_paths(folder: Path) -> None:
    (folder / "data").mkdir()
    result = bootstrapped(lambda c: c.update(file_mounts={"/a": "data/", "/b": "data", "/c": "key"}))
    assert result["file_mounts"] == {"/a": f"{folder}/data/", "/b": f"{folder}/data", "/c": f"{folder}/key"}


def test_the_head_gets_nothing_that_means_something_on_this_machine_only(folder: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["auth"]["ssh_proxy_command"] = "nc %h %p"
        config["provider"]["files_to_upload"] = ["key"]

    result = bootstrapped(edit)
    result["provider"]["_config_cache_path"] = str(folder / "cache")
    # what Ray itself does before it calls prepare_for_head_node
    result["auth"] = {"ssh_user": "yd-agent", "ssh_private_key": module.HEAD_KEY_PATH}
    remote = for_head(result)
    assert str(folder) not in json.dumps(remote)
    assert remote["provider"]["auth"] == remote["auth"]
    validate_config(prepare_config(remote))
