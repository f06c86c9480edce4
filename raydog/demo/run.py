"""The demo's plot: emulator, ``ray up``, a job that needs three workers, idle, ``ray down``, proof of no remains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import yaml

import raydog
from raydog.demo.floor import floor_yaml
from raydog.demo.proof import NOTHING, Footprint, footprint, left_of, network_links
from raydog.demo.scene import Scene, undisturbed
from raydog.emulator import daemon
from raydog.emulator.daemon import Running, Settings
from raydog.emulator.record import StateDir
from raydog.errors import ConfigError, RayDogError, TeardownError
from raydog.progress import Progress
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until

EXAMPLES = Path(raydog.__file__).resolve().parents[1] / "examples" / "autoscaler"
"""There in a checkout, and only there."""
YAML, JOB, KEY = "raydog-local.yaml", "ray-sleep-job.py", "raydog-local-key"
_WORKERS = 3
_COMMAND_SECONDS = 180.0
_IDLE_SECONDS = 120.0
_GOAL = 1.2
_USER_DATA = """#!/bin/bash
echo '. /opt/yellowdog/agent/venv/bin/activate' >> /opt/yellowdog/agent/.bashrc
"""


def run_demo(*, with_floor: bool = True) -> None:
    """Play it. Raises `RayDogError` if a step fails; leaves nothing behind in any case."""
    if not (EXAMPLES / YAML).exists():
        raise ConfigError("the demo needs RayDog's repository: clone it and run make demo there")
    folder = Path(tempfile.mkdtemp(prefix="raydog-demo-"))
    links_before = network_links()
    try:
        for name in (YAML, JOB):
            shutil.copy(EXAMPLES / name, folder / name)
        _play(folder, links_before, with_floor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, links_before: frozenset[str], with_floor: bool) -> None:
    state = StateDir(folder / "emulator")
    scene = Scene(folder, {}, total=8 if with_floor else 7)
    seen = NOTHING
    try:
        with scene.phase("start a YellowDog on this machine (raydog emulator start)") as progress:
            emulator = daemon.start(state, Settings(), progress.update)
            make_key(folder / KEY)
        links = network_links() - links_before
        scene.environment = {**emulator.environment, "RAY_UP_enable_autoscaler_v2": _version()}
        ray = str(Path(sys.executable).with_name("ray"))

        with scene.phase(f"ray up -y {YAML}") as progress:
            scene.run([ray, "up", "-y", YAML], lambda: _nodes(emulator), progress, _COMMAND_SECONDS)
        up_seconds = scene.phases[-1].seconds

        with scene.phase(f"ray submit {YAML} {JOB}: a job that needs {_WORKERS} workers") as progress:
            watch = _Growth(emulator, progress)
            arguments = ["--tasks", str(_WORKERS), "--seconds", "5", "--min-nodes", str(_WORKERS)]
            output = scene.run([ray, "submit", YAML, JOB, *arguments], watch.look, progress, _COMMAND_SECONDS)
            seen |= footprint(emulator.record.pid)
            progress.close()
            for line in output.splitlines():
                if line.startswith(("  1", f"{_WORKERS} tasks on")):
                    click.echo(f"      {line.strip()}")

        with scene.phase("the workers leave when they have been idle for 15 s") as progress:
            _await_workers_gone(emulator, progress)

        with scene.phase(f"ray down -y {YAML}") as progress:
            scene.run([ray, "down", "-y", YAML], lambda: _nodes(emulator), progress, _COMMAND_SECONDS)

        with scene.phase("on the platform nothing is left: instances, pools, tasks") as progress:
            _prove_platform_empty(emulator, progress)

        floor_seconds = None
        if with_floor:
            with scene.phase("for comparison: the same ray up with a head that is booted already") as progress:
                floor_seconds = measure_floor(scene, emulator, progress)

        with scene.phase("stop the emulator; on this machine nothing is left") as progress:
            seen |= footprint(emulator.record.pid)
            daemon.stop(state)
            _prove_machine_clean(seen, folder, links, progress)
    except BaseException:
        click.echo("      cleaning up ...", err=True)
        with undisturbed():
            daemon.stop(state)
            daemon.clean(state)
        raise
    _summarise(scene, up_seconds, floor_seconds)


def _version() -> str:
    return os.environ.get("RAY_UP_enable_autoscaler_v2", "1")


def make_key(path: Path) -> None:
    """An SSH key pair without a passphrase, at ``path`` and ``path.pub``."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _status(emulator: Running) -> dict[str, Any]:
    status: dict[str, Any] = emulator.get("/emulator/status")
    return status


def _running(emulator: Running) -> int:
    return sum(instance["status"] == "RUNNING" for instance in _status(emulator)["instances"])


def _nodes(emulator: Running) -> str:
    return f"{_running(emulator)} nodes run"


class _Growth:
    """Says when the cluster grows: a line for each new size, and a live one meanwhile."""

    def __init__(self, emulator: Running, progress: Progress) -> None:
        self._emulator = emulator
        self._progress = progress
        self._started = time.monotonic()
        self._shown = 0

    def look(self) -> str:
        workers = max(_running(self._emulator) - 1, 0)
        if workers != self._shown:
            self._progress.close()
            click.echo(
                f"      {time.monotonic() - self._started:5.1f} s  {'#' * workers:<{_WORKERS}}  {workers} workers"
            )
            self._shown = workers
        return f"{workers} of {_WORKERS} workers run; waiting for the job's result"


def _await_workers_gone(emulator: Running, progress: Progress) -> None:
    growth = _Growth(emulator, progress)

    def gone() -> Ready[None] | Pending:
        growth.look()
        workers = max(_running(emulator) - 1, 0)
        return Pending(f"{workers} workers still there") if workers else Ready(None)

    try:
        wait_until(gone, _IDLE_SECONDS, interval=0.2, max_interval=0.2, on_pending=progress.update)
    except WaitTimeout as timeout:
        raise RayDogError(f"idle workers did not leave within {_IDLE_SECONDS:.0f} s: {timeout.observed}") from timeout


def _prove_platform_empty(emulator: Running, progress: Progress) -> None:
    def empty() -> Ready[None] | Pending:
        status = _status(emulator)
        kinds = ("liveInstances", "unfinishedPools", "unfinishedTasks", "unfinishedWorkRequirements")
        left = [f"{status[kind]} {kind}" for kind in kinds if status[kind]]
        return Pending(", ".join(left)) if left else Ready(None)

    try:
        wait_until(empty, 30.0, on_pending=progress.update)
    except WaitTimeout as timeout:
        raise TeardownError(f"ray down has left something: {timeout.observed}") from timeout
    click.echo("      0 instances, 0 pools, 0 unfinished tasks, 0 work requirements")


def _prove_machine_clean(seen: Footprint, folder: Path, links: frozenset[str], progress: Progress) -> None:
    def clean() -> Ready[None] | Pending:
        left = left_of(seen, folder, links)
        return Pending(", ".join(left[:5])) if left else Ready(None)

    try:
        wait_until(clean, 30.0, on_pending=progress.update)
    except WaitTimeout as timeout:
        raise TeardownError(f"the emulator has left something on this machine: {timeout.observed}") from timeout
    click.echo(
        f"      gone: {len(seen.processes)} processes, {len(seen.namespaces)} namespaces, {len(links)} network links;"
        " no mounts"
    )


def measure_floor(scene: Scene, emulator: Running, progress: Progress) -> float:
    """Seconds of ``ray up`` with a head that is booted by hand and a provider that only answers."""
    with booted_node(scene.folder, emulator, progress) as address:
        config = floor_yaml(address, "yd-agent", str(scene.folder / KEY))
        (scene.folder / "floor.yaml").write_text(yaml.safe_dump(config))
        ray = str(Path(sys.executable).with_name("ray"))
        started = time.monotonic()
        scene.run([ray, "up", "-y", "--no-config-cache", "floor.yaml"], lambda: "ray up", progress, _COMMAND_SECONDS)
        return time.monotonic() - started


@contextmanager
def booted_node(folder: Path, emulator: Running, progress: Progress) -> Iterator[str]:
    """A node as a head has it, booted and idle, with the demo's key; its address. Gone afterwards."""
    from raydog.ssh import SshTarget, wait_for_login  # noqa: PLC0415
    from raydog.userdata import with_authorized_key  # noqa: PLC0415 - imports Ray
    from raydog.yellowdog import cluster as clusters  # noqa: PLC0415
    from raydog.yellowdog import naming, teardown  # noqa: PLC0415
    from raydog.yellowdog.credentials import load_credentials  # noqa: PLC0415
    from raydog.yellowdog.gateway import Gateway  # noqa: PLC0415
    from raydog.yellowdog.records import NodeAddress, NodeRequest, PoolRequest  # noqa: PLC0415

    gateway = Gateway(load_credentials(emulator.environment))
    name = clusters.ClusterName("local", "floor")
    cluster = clusters.add_cluster(gateway, name, None, "head", timedelta(hours=1))
    group = cluster.groups[0]
    try:
        task = NodeRequest(naming.node_name("floor", cluster.cluster_id, "head", "floor"), "sleep infinity", {}, 3600.0)
        node = gateway.add_nodes(group.group_id, [task])[0]
        public_key = (folder / f"{KEY}.pub").read_text()
        pool = PoolRequest(
            name=naming.pool_name("floor", cluster.cluster_id, "head"),
            template="local/head",
            worker_tag=group.tag,
            initial_nodes=1,
            max_nodes=1,
            user_data=with_authorized_key(_USER_DATA, "yd-agent", public_key),
        )
        gateway.add_pool("local", pool)

        def known() -> Ready[NodeAddress] | Pending:
            address = gateway.node_address(gateway.get_node(node.task_id))
            return Ready(address) if address else Pending("a node boots")

        try:
            host = wait_until(known, 60.0, on_pending=progress.update).private_ip
        except WaitTimeout as timeout:
            raise RayDogError(f"a node for the comparison did not come: {timeout.observed}") from timeout
        wait_for_login(SshTarget(host, "yd-agent", folder / KEY), 60.0).close()
        yield host
    finally:
        pools = teardown.request_teardown(gateway, name)
        teardown.await_teardown(gateway, name, pools, 60.0)
        gateway.close()


def _summarise(scene: Scene, up_seconds: float, floor_seconds: float | None) -> None:
    click.echo("\nSummary")
    for phase in scene.phases:
        click.echo(f"  {phase.seconds:6.1f} s  {phase.title}")
    click.echo(f"  {sum(phase.seconds for phase in scene.phases):6.1f} s  in all")
    if floor_seconds is not None:
        click.echo(
            f"\nray up: {up_seconds:.1f} s with RayDog, {floor_seconds:.1f} s with the head booted beforehand "
            f"({up_seconds / floor_seconds:.2f} times; the goal is {_GOAL})"
        )
