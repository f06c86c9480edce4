"""A cluster from up to down through Ray's own commands, under both autoscalers. The tests share it, in this order."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from yellowdog_client.model import TaskStatus

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import EXAMPLES, RayCluster, eventually, free_port, no_traceback

pytestmark = pytest.mark.e2e

GANG = """
import sys
import ray

@ray.remote(num_cpus=1)
class Member:
    def node(self):
        return ray.util.get_node_ip_address()

ray.init(address="auto", log_to_driver=False)
members = [Member.remote() for _ in range(int(sys.argv[1]))]
print("waiting for all members", flush=True)
print("nodes:", len(set(ray.get([member.node.remote() for member in members]))))
"""
"""A job that ends only when all of its members run at the same time."""


CLIENT = """
import sys
import ray

@ray.remote(num_cpus=0)
def where():
    return ray.util.get_node_ip_address()

ray.init(sys.argv[1], log_to_driver=False)
print("ran on", ray.get(where.remote()))
"""
"""A program on this machine, whose task runs in the cluster."""


@pytest.fixture(scope="module", params=[True, False], ids=["v2", "v1"])
def live(
    request: pytest.FixtureRequest, platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayCluster]:
    """A cluster that is up, with at most one worker at first."""
    version = "v2" if request.param else "v1"
    folder = tmp_path_factory.mktemp(f"life-{version}") / "cluster"
    cluster = RayCluster(folder, f"life-{version}", platform.environment, v2=request.param)
    cluster.write(lambda document: document.update(max_workers=1))
    cluster.up()
    try:
        yield cluster
    finally:
        if platform.left():
            cluster.down()
        cluster.close()
        platform.nothing_left()


def ray_processes(cluster: RayCluster) -> str:
    """Ids and start times of what must not be restarted, and Ray's session."""
    return cluster.exec(
        "for pid in $(pgrep -x gcs_server) $(pgrep -x raylet) $(pgrep -f '[/]monitor.py'); do "
        'echo $pid $(cut -d" " -f22 /proc/$pid/stat) $(cat /proc/$pid/comm); done; '
        "readlink /tmp/ray/session_latest"
    )


def test_head_is_usable_when_ray_up_returns(live: RayCluster) -> None:
    assert live.shows_its_head()
    address = live.ray("get-head-ip").output.split()[-1]
    assert re.fullmatch(r"\d+(\.\d+){3}", address)
    assert live.ray("get-worker-ips").output.split()[-1:] != [address]


def test_autoscaler_is_the_one_that_was_asked_for(live: RayCluster, request: pytest.FixtureRequest) -> None:
    v2 = live.environment["RAY_UP_enable_autoscaler_v2"] == "1"
    code = "from ray.autoscaler.v2.utils import is_autoscaler_v2; import ray; ray.init(address='auto', "
    code += "log_to_driver=False, logging_level='ERROR'); print('v2 is', is_autoscaler_v2())"
    assert f"v2 is {v2}" in live.exec(f'python -c "{code}"')


def test_job_beyond_max_workers_waits_and_goes_on_after_ray_up_raised_it(
    live: RayCluster, platform: EmulatorDaemon
) -> None:
    script = live.write_script("gang.py", GANG)
    before = ray_processes(live)
    job = live.start_ray("submit", str(script), "3")
    job.printed("waiting for all members")
    waiting = eventually(lambda: (status := live.exec("ray status")) and "1.0/1.0 CPU" in status and status, "a worker")
    assert re.search(r"'CPU': 1.0}: 2\+? pending tasks/actors", waiting), waiting
    assert len(platform.instances(f"{live.name}-")) == 2
    assert job.process.poll() is None

    live.write(lambda document: document.update(max_workers=3))
    live.up()

    assert "nodes: 3" in job.wait().output
    assert ray_processes(live) == before


def test_workers_are_shown_by_ray_and_raydog(live: RayCluster) -> None:
    result = live.submit(EXAMPLES / "ray-sleep-job.py", "--tasks", "3", "--seconds", "1", "--min-nodes", "1")
    assert "3 tasks on" in result.output
    workers = live.ray("get-worker-ips").output.split()
    status: dict[str, Any] = json.loads(live.raydog("status", "--json", live.yaml.name))
    shown = [node["private_ip"] for node in status["nodes"] if node["kind"] == "worker"]
    assert shown
    assert set(shown) <= set(workers)
    assert status["problems"] == []
    assert "Ray's own status" in live.raydog("status", live.yaml.name)


def test_files_travel_both_ways(live: RayCluster) -> None:
    (live.folder / "here.txt").write_text("from here")
    live.ray("rsync-up", "here.txt", "/opt/yellowdog/agent/there.txt")
    assert live.exec("cat ~/there.txt") == "from here"
    live.exec("echo from there > ~/there.txt")
    live.ray("rsync-down", "/opt/yellowdog/agent/there.txt", "back.txt")
    assert (live.folder / "back.txt").read_text().strip() == "from there"


def test_monitor_follows_the_autoscalers_log(live: RayCluster) -> None:
    monitor = live.start_ray("monitor")
    monitor.printed("/logs/monitor.log <==")
    monitor.send(signal.SIGINT, group=True)
    no_traceback(monitor.wait())


def test_dashboard_is_reached_through_a_forwarded_port(live: RayCluster) -> None:
    port = free_port()
    forward = live.start_ray("dashboard", "--port", str(port), "--remote-port", "8265")
    assert "ray_version" in eventually(lambda: fetch(f"http://127.0.0.1:{port}/api/version"), "the dashboard")
    forward.send(signal.SIGINT, group=True)
    forward.wait()


def test_raydog_tunnel_leads_to_the_client_server_and_the_dashboard(live: RayCluster) -> None:
    tunnel = live.start("raydog", "tunnel", live.yaml.name, "--json", "-p", "0:10001", "-p", "0:8265")
    tunnel.printed("}\n")
    told: dict[str, Any] = json.loads(tunnel.output)
    assert "ray_version" in (fetch(f"{told['dashboard']}/api/version") or "")
    done = live.start("python", str(live.write_script("client.py", CLIENT)), told["ray_client"]).wait()
    assert "ran on 10." in done.output, done.output
    # gRPC's fork handlers, where they are on, say so at nearly every client, and kill the server of some.
    assert "fork()" not in live.exec("cat /tmp/ray/session_latest/logs/ray_client_server.err")
    tunnel.send(signal.SIGINT)
    assert tunnel.wait().code == 0


def test_attach_gives_a_shell_and_forwards_ports(live: RayCluster) -> None:
    port = free_port()
    terminal, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            ["ray", "attach", live.yaml.name, "-p", str(port)],
            cwd=live.folder,
            env=live.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as shell:
            os.write(terminal, f"python3 -m http.server --bind 127.0.0.1 {port}\n".encode())
            listing = eventually(lambda: fetch(f"http://127.0.0.1:{port}/"), "a server on the head")
            assert "ray_bootstrap_config.yaml" in listing
            os.write(terminal, b"\x03\nexit\n")
            assert shell.wait(60) is not None
    finally:
        os.close(terminal)
        os.close(theirs)


def fetch(url: str) -> str | None:
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=5).text
        except requests.ConnectionError:
            return None


def test_ray_up_with_nothing_changed_disturbs_nothing(live: RayCluster) -> None:
    before = ray_processes(live)
    live.up()
    assert ray_processes(live) == before


def test_ray_up_with_another_head_refuses_and_says_what_changed(live: RayCluster) -> None:
    before = ray_processes(live)

    def change(document: dict[str, Any]) -> None:
        document["available_node_types"]["head"]["node_config"]["instance_tags"] = {"colour": "blue"}

    with live.changed(change):
        refused = live.up(code=1)
    assert "instance_tags" in refused.flat
    assert "ray down" in refused.flat
    no_traceback(refused)
    assert ray_processes(live) == before


def test_idle_workers_leave(live: RayCluster, platform: EmulatorDaemon) -> None:
    eventually(lambda: len(platform.instances(f"{live.name}-")) == 1 or None, "the head alone")
    assert "1 head" in live.exec("ray status")
    ended = [task for task in platform.tasks(f"{live.name}-") if task.abortRequestedTime]
    assert ended
    for task in ended:
        assert task.status is TaskStatus.ABORTED
        assert task.abortRequestedTime is not None
        assert task.finishedTime is not None
        taken = (task.finishedTime - task.abortRequestedTime).total_seconds()
        assert taken < 8, "an agent's patience ends after 10 s"


def test_down_leaves_nothing(live: RayCluster, platform: EmulatorDaemon) -> None:
    finished = live.down()
    platform.nothing_left()
    no_traceback(finished)
    assert f"No cluster {live.name}" in live.raydog("status", live.yaml.name, code=1)
    live.down()  # once more does no harm
