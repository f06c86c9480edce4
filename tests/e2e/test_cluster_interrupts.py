"""``ray up`` interrupted at each of its steps: it takes back what it has made; what SIGKILL leaves is found later."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Command, RayCluster, eventually

pytestmark = pytest.mark.e2e

DEAF_SSHD = """\
#!/bin/bash
until [ -e /run/sshd.pid ]; do sleep 0.05; done
kill -STOP "$(cat /run/sshd.pid)"
"""
"""User data of a node whose sshd takes connections and says nothing."""


@dataclass(frozen=True)
class Moment:
    """A step of ``ray up``: how to make it last, how to see that it has been reached, and how to make it go on."""

    prepare: Callable[[EmulatorDaemon, dict[str, Any]], object]
    reached: Callable[[EmulatorDaemon, Command, int], object]


def slow(operation: str) -> Moment:
    """The platform has done what ``operation`` asks, and does not answer."""
    return Moment(
        lambda platform, _document: platform.fault(operation, "delay", seconds=600),
        lambda platform, _command, already: platform.await_call(operation, already),
    )


def head_of(document: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = document["available_node_types"]["head"]["node_config"]
    return config


MOMENTS = {
    "work requirement": slow("add_work_requirement"),
    "task": slow("add_tasks_to_task_group"),
    "pool": slow("provision_worker_pool"),
    "head": Moment(
        lambda _platform, document: head_of(document).update(compute_requirement_template="local/never"),
        lambda platform, _command, already: platform.await_call("get_task_by_id", already),
    ),
    "SSH": Moment(
        lambda _platform, document: head_of(document).update(userdata=DEAF_SSHD),
        lambda platform, _command, already: platform.await_call("get_node_by_id", already),
    ),
    "setting up": Moment(
        lambda _platform, document: document.update(head_setup_commands=["echo began-$((40+2)); sleep 600"]),
        lambda _platform, command, _already: command.printed("began-42"),
    ),
}


def start_until(moment: str, cluster: RayCluster, platform: EmulatorDaemon) -> Command:
    """A ``ray up`` that is at this very moment."""
    cluster.write(lambda document: MOMENTS[moment].prepare(platform, document))
    already = len(platform.calls())
    command = cluster.start_ray("up", "-y")
    MOMENTS[moment].reached(platform, command, already)
    eventually(lambda: platform.left() != {}, "something that the command has made")
    assert command.process.poll() is None, command.output
    return command


def make_well(moment: str, cluster: RayCluster, platform: EmulatorDaemon) -> None:
    """The trouble that made the moment last is over."""
    platform.clear_faults()
    if moment == "setting up":
        cluster.write(lambda document: document.update(head_setup_commands=[]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_ray_up_takes_back_all_that_it_made(
    moment: str, number: signal.Signals, cluster: RayCluster, platform: EmulatorDaemon
) -> None:
    command = start_until(moment, cluster, platform)
    command.send(number, group=number is signal.SIGINT)
    finished = command.wait(60)
    assert finished.code != 0
    platform.nothing_left()
    assert "nothing is left" in finished.output


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_ray_down_ends_what_a_killed_ray_up_left(
    moment: str, cluster: RayCluster, platform: EmulatorDaemon
) -> None:
    start_until(moment, cluster, platform).kill()
    make_well(moment, cluster, platform)
    cluster.down()
    platform.nothing_left()


@pytest.mark.parametrize("moment", ["work requirement", "task", "pool", "setting up"])
def test_next_ray_up_goes_on_with_what_a_killed_one_left(
    moment: str, cluster: RayCluster, platform: EmulatorDaemon
) -> None:
    start_until(moment, cluster, platform).kill()
    make_well(moment, cluster, platform)
    cluster.up()
    assert cluster.shows_its_head()
    cluster.down()
    platform.nothing_left()
