"""The Troubleshooting entries of RayDog's documents: each says what is wrong and what to do, and leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Finished, RayCluster, no_traceback

pytestmark = pytest.mark.e2e


def head_of(document: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = document["available_node_types"]["head"]["node_config"]
    return config


def refused(cluster: RayCluster) -> Finished:
    """``ray up`` that fails with a clean message."""
    finished = cluster.up(code=1)
    no_traceback(finished)
    return finished


def test_work_requirement_of_a_head_that_ended_is_no_obstacle(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.up()
    before = {one["name"] for one in platform.status()["workRequirements"]}
    platform.abort(f"{cluster.name}-")
    cluster.up()
    after = {one["name"] for one in platform.status()["workRequirements"] if one["status"] == "RUNNING"}
    assert len(before) == len(after) == 1
    assert not before & after
    assert cluster.shows_its_head()
    cluster.down()
    platform.nothing_left()


def test_head_that_never_boots_is_named_with_its_state_and_the_property_to_raise(
    cluster: RayCluster, platform: EmulatorDaemon
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["provider"]["head_node_build_timeout_minutes"] = 0.1
        head_of(document)["compute_requirement_template"] = "local/never"

    cluster.write(change)
    message = refused(cluster).flat
    assert "0.1 minutes" in message
    assert "PENDING" in message
    assert "head_node_build_timeout_minutes" in message
    platform.nothing_left()


def test_head_that_never_answers_ssh_is_named_as_such(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    def change(document: dict[str, Any]) -> None:
        document["provider"]["head_node_build_timeout_minutes"] = 0.1
        head_of(document)["userdata"] = (
            '#!/bin/bash\nuntil [ -e /run/sshd.pid ]; do sleep 0.05; done\nkill -STOP "$(cat /run/sshd.pid)"\n'
        )

    cluster.write(change)
    message = refused(cluster).flat
    assert "no SSH login" in message
    platform.nothing_left()


def test_unknown_template_is_named(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.write(lambda document: head_of(document).update(compute_requirement_template="local/nowhere"))
    assert "local/nowhere" in refused(cluster).flat
    platform.nothing_left()


def test_head_script_that_fails_is_shown_with_its_output(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    script = "echo cannot find the answer; exit 42\n"
    cluster.write(lambda document: document["provider"].update(ray_head_node_task_script=script))
    message = cluster.up(code=1).output  # where Ray prints a traceback of its own
    assert "cannot find the answer" in message
    assert "42" in message
    cluster.down()
    platform.nothing_left()


def test_missing_files_are_all_named_before_anything_is_made(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    def change(document: dict[str, Any]) -> None:
        document["provider"]["ray_head_node_task_script"] = "file:no-such-script.sh"
        document["provider"]["files_to_upload"] = ["no-such-upload.txt"]
        head_of(document)["userdata"] = "file:no-such-userdata.sh"

    cluster.write(change)
    calls = len(platform.calls())
    message = refused(cluster).flat
    for name in ("no-such-script.sh", "no-such-upload.txt", "no-such-userdata.sh"):
        assert name in message
    assert platform.calls()[calls:] == []


def test_key_that_the_node_does_not_accept_is_named_at_once(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.write(lambda document: document["provider"].update(authorize_ssh_key=False))
    finished = refused(cluster)
    assert "yd-agent" in finished.flat
    assert "key" in finished.flat
    assert finished.seconds < 60, "Ray's own loop would try for 15 minutes"
    platform.nothing_left()


@pytest.mark.parametrize("user", ["root", "nobody-at-all"])
def test_wrong_ssh_user_is_named(user: str, cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.write(lambda document: document["auth"].update(ssh_user=user))
    message = refused(cluster).flat
    assert user in message
    assert "ssh_user" in message
    platform.nothing_left()


def test_all_faults_of_a_yaml_come_in_one_message_before_any_call(
    cluster: RayCluster, platform: EmulatorDaemon
) -> None:
    def change(document: dict[str, Any]) -> None:
        document["provider"]["cluster_lifetime_hours"] = "long"
        document["provider"]["cluster_nmespace"] = document["provider"].pop("cluster_namespace")
        document["auth"]["ssh_private_key"] = "no-such-key"
        head_of(document).pop("compute_requirement_template")
        head_of(document)["userdata"] = "file:no-such-userdata.sh"

    cluster.write(change)
    calls = len(platform.calls())
    message = refused(cluster).flat
    for words in (
        "cluster_lifetime_hours",
        "cluster_namespace",
        "cluster_nmespace",
        "no-such-key",
        "compute_requirement_template",
        "no-such-userdata.sh",
    ):
        assert words in message, message
    assert platform.calls()[calls:] == []


@pytest.mark.parametrize(
    "missing", [("YD_API_KEY_ID",), ("YD_API_KEY_SECRET",), ("YD_API_KEY_ID", "YD_API_KEY_SECRET")]
)
def test_missing_credentials_are_named(missing: tuple[str, ...], cluster: RayCluster) -> None:
    for name in missing:
        del cluster.environment[name]
    message = refused(cluster).flat
    for name in missing:
        assert name in message


def test_refused_credentials_are_named_without_the_secret(cluster: RayCluster) -> None:
    cluster.environment["YD_API_KEY_SECRET"] = "what-a-secret"
    finished = refused(cluster)
    assert "YD_API_KEY_SECRET" in finished.flat
    assert "what-a-secret" not in finished.output
