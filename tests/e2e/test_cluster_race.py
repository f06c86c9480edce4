"""Two people, or two terminals, at the same moment."""

from __future__ import annotations

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import RayCluster, no_traceback

pytestmark = pytest.mark.e2e


def test_of_two_ray_up_at_the_same_moment_one_cluster_remains(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    commands = [cluster.start_ray("up", "-y") for _ in range(2)]
    finished = [command.wait() for command in commands]

    for one in finished:
        no_traceback(one)
        assert one.code == 0 or "another ray up" in one.flat or "somebody else" in one.flat, one.output
    assert 0 in [one.code for one in finished]
    assert len(platform.status()["workRequirements"]) == 1
    assert len(platform.instances()) == 1
    cluster.up()
    assert cluster.shows_its_head()
    assert len(platform.instances()) == 1
    cluster.down()
    platform.nothing_left()


def test_ray_down_during_ray_up_leaves_nothing(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.write(lambda document: document.update(head_setup_commands=["echo began-$((40+2)); sleep 600"]))
    starting = cluster.start_ray("up", "-y")
    starting.printed("began-42")
    cluster.down()
    assert starting.wait().code != 0
    platform.nothing_left()
