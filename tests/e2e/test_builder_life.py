"""The builder's examples on real instances, as people run them: from two kinds of workers to nothing left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydog.builder import RayDogCluster
from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Command, free_port
from tests.support.real import missing_for_real_instances
from tests.support.reference import PROXY, dialogue

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "builder"
NAME = "builder-life"


def environment(**settings: str) -> dict[str, str]:
    """This process's, without what could change where an example runs."""
    ours = ("RAY_", "RAYDOG_", "YD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONUNBUFFERED": "1", "NO_PROXY": "*", "no_proxy": "*", **settings}


def example(name: str, *options: str) -> tuple[str, ...]:
    """Its command, with local ports of its own."""
    ports = ("--client-port", str(free_port()), "--dashboard-port", str(free_port()))
    return (sys.executable, str(EXAMPLES / name), *ports, *options)


def workers(output: str, stage: str) -> dict[str, set[str]]:
    """The addresses of the nodes that worked, by worker pool: what scale-example.py says when it has done ``stage``."""
    said = re.search(rf"{stage}: \d+ tasks are done, the latest by (.*)", output)
    assert said is not None, output
    pools = (part.split(": ") for part in said[1].split("; "))
    return {pool: set(addresses.split(", ")) for pool, addresses in pools}


def addresses(platform: EmulatorDaemon, pool: str) -> set[str]:
    """Of the live instances of a worker pool."""
    return {one["privateIpAddress"] for one in platform.instances(f"-{pool}")}


@pytest.fixture
def ended_afterwards(platform: EmulatorDaemon) -> Iterator[None]:
    """Ends what a failed test has left of the cluster, so that other tests find a clean platform."""
    platform.nothing_left()
    yield
    if platform.left():
        keys = (platform.environment["YD_API_KEY_ID"], platform.environment["YD_API_KEY_SECRET"])
        RayDogCluster(*keys, NAME, "tests", "local/head", "true", platform.environment["YD_API_URL"]).shut_down()


def test_cluster_changes_while_it_works_and_a_proxy_ends_it_after_a_kill(
    platform: EmulatorDaemon, ended_afterwards: None, tmp_path: Path
) -> None:
    settings = environment(
        **platform.environment,
        YD_NAMESPACE="tests",
        RAYDOG_HEAD_TEMPLATE="local/head",
        RAYDOG_WORKER_TEMPLATES="local/worker,local/head",
        RAYDOG_RAY_START_OPTIONS="--num-cpus=1",
        TMPDIR=str(tmp_path),  # a program that is killed leaves its temporary folder
    )
    command = example("scale-example.py", "--cluster-name", NAME, "--state-file", "state.json", "--hold")
    program = Command(command, tmp_path, settings, tmp_path / "log", stdin=subprocess.PIPE)
    try:
        program.printed("all workers of both pools work")
        first, second = addresses(platform, "first"), addresses(platform, "second")
        assert (len(first), len(second)) == (2, 2)
        types = {one["instanceType"] for one in platform.instances(NAME)}
        program.printed("a pool has been removed")
        assert addresses(platform, "first") == set()
        program.printed("Enter ends the example")
    finally:
        program.kill()

    assert workers(program.output, "all workers of both pools work") == {"first": first, "second": second}
    third = addresses(platform, "third")
    assert len(third) == 1
    assert workers(program.output, "a pool has been added")["third"] == third
    assert set(workers(program.output, "a pool has been removed")) == {"second", "third"}
    assert set(workers(program.output, "the last tasks")) <= {"second", "third"}
    assert types == {"local.head", "local.worker"}

    assert len(platform.instances(NAME)) == 4  # the cluster goes on without the program that has made it
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["cluster_name"], len(state["worker_pool_ids"])) == (NAME, 3)
    with dialogue(Path(sys.prefix), tmp_path, PROXY, platform.environment) as proxy:  # the old import path, here
        assert proxy.hear() == "shut down"
        platform.nothing_left()
        proxy.end()


def test_usage_example_brings_its_own_platform_and_leaves_nothing(tmp_path: Path) -> None:
    reason = missing_for_real_instances()
    if reason is not None:
        pytest.skip(reason)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = example("usage-example.py", "--local", "--cluster-name", NAME)
    done = Command(command, tmp_path, environment(TMPDIR=str(temporary)), tmp_path / "log").wait()
    assert done.code == 0, done.output
    assert "pi is about 3.1" in done.output
    assert set(re.findall(r"\((local\.\w+)\) did", done.output)) == {"local.worker", "local.head"}
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "tmp"]
