"""Ray's command line killed at platform calls, on real instances: the next ``ray down`` ends all there is.

Every call is gone through on simulated instances in tests/contract/test_provider_kills.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import RayCluster

pytestmark = pytest.mark.e2e

BEFORE: dict[str, Any] = {"action": "status", "status": 503, "times": 1000}
"""The call arrives and is never applied; the command repeats it until it is killed."""
AFTER: dict[str, Any] = {"action": "delay", "seconds": 600}
"""The call is applied at once, and the command never hears of it."""


def kill_at(
    platform: EmulatorDaemon, cluster: RayCluster, command: str, operation: str, moment: dict[str, Any]
) -> None:
    """SIGKILL to ``ray COMMAND`` when a call of ``operation`` has arrived."""
    platform.fault(operation, **moment)
    already = len(platform.calls())
    started = cluster.start_ray(command, "-y")
    platform.await_call(operation, already)
    assert started.process.poll() is None, started.output
    started.kill()
    platform.clear_faults()


@pytest.mark.parametrize(
    ("operation", "moment"),
    [("add_tasks_to_task_group", BEFORE), ("provision_worker_pool", BEFORE), ("provision_worker_pool", AFTER)],
    ids=["before the head's task", "before its pool", "after its pool"],
)
def test_one_ray_down_after_a_killed_ray_up(
    cluster: RayCluster, platform: EmulatorDaemon, operation: str, moment: dict[str, Any]
) -> None:
    kill_at(platform, cluster, "up", operation, moment)
    assert platform.left()
    cluster.down()
    platform.nothing_left()


def test_one_ray_down_after_killed_ones(cluster: RayCluster, platform: EmulatorDaemon) -> None:
    cluster.up()
    assert cluster.runs_a_task()
    kill_at(platform, cluster, "down", "transition_work_requirement", BEFORE)
    assert len(platform.instances(cluster.name)) == 2
    kill_at(platform, cluster, "down", "transition_work_requirement", AFTER)
    cluster.down()
    platform.nothing_left()
