"""What users of the builder write, as programs for `tests.support.killing`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from raydog.builder import RayDogCluster, RayDogClusterProxy
from raydog.emulator import Emulator
from raydog.emulator.templates import Template
from raydog.yellowdog import teardown
from raydog.yellowdog.cluster import ClusterName, add_cluster
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import PoolRequest
from tests.support.killing import Stage

NAMESPACE = "tests"
TEMPLATES = (
    Template("quick/head", boot_seconds=0.02),
    Template("quick/worker", boot_seconds=0.02),
    Template("quick/never", boots=False),
)
STATE_FILE = "state.json"
SMALL, LARGE = 1, 3
"""Nodes of the two pools that a cluster is built with."""
SCRIPT = "ray start --block\n"
QUICK_LOOKS = 0.01
"""Seconds between a teardown's two looks: the emulator's searches are never late, so a long pause gains nothing."""


@contextmanager
def quick_platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A simulated platform whose nodes boot in no time, with its settings in the environment."""
    monkeypatch.setattr(teardown, "LOOKS_APART_SECONDS", QUICK_LOOKS)
    monkeypatch.setenv("NO_PROXY", "*")
    with Emulator(templates=TEMPLATES) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def make_cluster(
    name: str = "demo", *, observability: bool = False, environment: Mapping[str, str] = os.environ
) -> RayDogCluster:
    """A head and two pools, described and not yet built."""
    observing: dict[str, Any] = {
        "enable_observability": True,
        "observability_node_compute_requirement_template_id": "quick/worker",
        "observability_node_start_script": SCRIPT,
    }
    cluster = RayDogCluster(
        environment["YD_API_KEY_ID"],
        environment["YD_API_KEY_SECRET"],
        name,
        NAMESPACE,
        "quick/head",
        SCRIPT,
        environment["YD_API_URL"],
        **(observing if observability else {}),
    )
    cluster.add_worker_pool("quick/worker", SCRIPT, SMALL, "small")
    cluster.add_worker_pool("quick/worker", SCRIPT, LARGE, "large")
    return cluster


def built_and_saved(stage: Stage, late_pool: bool = False) -> RayDogCluster:
    """A cluster whose nodes all run, with its state in `STATE_FILE`, at the beginning of what is under test.

    With ``late_pool`` it has another one, called "late", whose nodes do not come.
    """
    teardown.LOOKS_APART_SECONDS = QUICK_LOOKS
    cluster = make_cluster()
    cluster.build()
    cluster.wait_for_workers(timeout=30.0)
    if late_pool:
        cluster.add_worker_pool("quick/never", SCRIPT, SMALL, "late")
    cluster.save_state_to_json_file(str(stage.folder / STATE_FILE))
    stage.begin()
    return cluster


def load_proxy(state: Path, environment: Mapping[str, str] = os.environ) -> RayDogClusterProxy:
    """A proxy that knows the saved state."""
    proxy = RayDogClusterProxy(
        environment["YD_API_KEY_ID"], environment["YD_API_KEY_SECRET"], environment["YD_API_URL"]
    )
    proxy.load_saved_state_from_json_file(str(state))
    return proxy


# The programs


def add_a_cluster(stage: Stage) -> None:
    """Without the builder: a work requirement, then a pool."""
    gateway = Gateway(load_credentials())
    stage.begin()
    add_cluster(gateway, ClusterName(NAMESPACE, "demo"), None, "head", timedelta(hours=1), "abcdefgh")
    gateway.add_pool(NAMESPACE, PoolRequest("demo-abcdefgh-head", "local/head", "raydog-abcdefgh-head", 1, 1))


def build(stage: Stage) -> None:
    teardown.LOOKS_APART_SECONDS = QUICK_LOOKS
    cluster = make_cluster()
    stage.begin()
    cluster.build()


def build_with_observability(stage: Stage) -> None:
    teardown.LOOKS_APART_SECONDS = QUICK_LOOKS
    cluster = make_cluster(observability=True)
    stage.begin()
    cluster.build()


def build_over_leftovers(stage: Stage) -> None:
    """An earlier cluster of the same name has lost its work, as at the end of its lifetime; its pools are idle."""
    teardown.LOOKS_APART_SECONDS = QUICK_LOOKS
    earlier, cluster = make_cluster(), make_cluster()
    for one in (earlier, cluster):
        one.remove_worker_pool_by_internal_name("large")
    earlier.build()
    assert earlier.work_requirement_id is not None
    Gateway(load_credentials()).cancel_cluster(earlier.work_requirement_id)
    stage.begin()
    cluster.build()


def add_a_pool(stage: Stage) -> None:
    built_and_saved(stage).add_worker_pool("quick/worker", SCRIPT, LARGE)


def remove_a_pool(stage: Stage) -> None:
    built_and_saved(stage).remove_worker_pool_by_internal_name("large")


def remove_a_pool_that_has_not_come(stage: Stage) -> None:
    """Its tasks still wait for nodes: nothing but an abort ends them."""
    built_and_saved(stage, late_pool=True).remove_worker_pool_by_internal_name("late")


def shut_down(stage: Stage) -> None:
    built_and_saved(stage).shut_down()


def shut_down_from_elsewhere(stage: Stage) -> None:
    built_and_saved(stage)
    load_proxy(stage.folder / STATE_FILE).shut_down()
