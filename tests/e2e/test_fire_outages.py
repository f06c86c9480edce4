"""A cluster under load whose platform falls silent, whose tag server is murdered, and whose workers fail.

The tests share one cluster and one job, in this order. Work goes on, nothing is lost, and people can see what happened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from raydog.ssh import SshSession, SshTarget, wait_for_login
from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Command, RayCluster, eventually

pytestmark = pytest.mark.e2e

OUTAGE_SECONDS = 60
LOAD = """
import pathlib, time
import ray

@ray.remote(num_cpus=1)
def work():
    time.sleep(0.5)

home = pathlib.Path("/opt/yellowdog/agent")
ray.init(address="auto", log_to_driver=False)
print("working", flush=True)
under_way, done = [], 0
while (wanted := int((home / "wanted").read_text())) or under_way:
    under_way += [work.remote() for _ in range(wanted - len(under_way))]
    finished, under_way = ray.wait(under_way, timeout=1)
    ray.get(finished)
    done += len(finished)
    (home / "done.new").write_text(str(done))
    (home / "done.new").rename(home / "done")
print("work is over:", done)
"""
"""A job that keeps as many CPUs busy as a file says, and ends when that says 0."""

MURDER = """
import os, pathlib, signal, socket, subprocess, time
home = pathlib.Path.home() / ".raydog"
for pid in subprocess.run(["pgrep", "-x", "redis-server|valkey-server"], capture_output=True, text=True).stdout.split():
    os.kill(int(pid), signal.SIGKILL)
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:  # before it is started again
    try:
        server.bind(("127.0.0.1", 16667))
        break
    except OSError:
        time.sleep(0.001)
server.listen()
for file in (home / "redis").glob("appendonlydir/*.aof"):
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2] + b"spoilt" * 20 + text[len(text) // 2 :])
print("murdered", flush=True)
until = home / "stranger-goes"
while not until.exists():
    time.sleep(0.1)
"""
"""Kills the tag server, spoils its file and sits on its port until a file tells it to go."""

TAGS = """
import pathlib, redis
password = (pathlib.Path.home() / ".raydog/redis.password").read_text()
with redis.Redis(port=16667, password=password) as client:
    for key in client.keys("raydog:*:tags"):
        print("{" + ",".join(tags.decode() for tags in client.hvals(key)) + "}")
"""


class Fire:
    """The cluster, its job, and a login to its head that needs no platform."""

    def __init__(self, cluster: RayCluster, platform: EmulatorDaemon) -> None:
        self.cluster = cluster
        self.platform = platform
        self._sessions: list[SshSession] = []
        cluster.up()
        self.head = self.log_in(cluster.ray("get-head-ip").output.split()[-1])
        self.want(2)
        self.job: Command = cluster.start_ray("submit", str(cluster.write_script("load.py", LOAD)))
        self.job.printed("working")
        self.await_workers(2)

    def log_in(self, address: str) -> SshSession:
        self._sessions.append(wait_for_login(SshTarget(address, "yd-agent", self.cluster.key), 60))
        return self._sessions[-1]

    def run(self, command: str) -> str:
        """A command on the head; what it prints."""
        return self.head.run(f". ~/.raydog/profile; {command}", timeout=60).check(command).stdout.strip()

    def python(self, program: str) -> str:
        return self.head.run(". ~/.raydog/profile; python3 -", 60, program).check("a program").stdout.strip()

    def want(self, cpus: int) -> None:
        self.head.write_file("wanted", str(cpus).encode())

    def done(self) -> int:
        """How many tasks the job has finished."""
        return int(self.run("cat done"))

    def monitor(self) -> str:
        """The process that is Ray's autoscaler."""
        return self.run("for pid in $(pgrep -f '[/]monitor.py'); do echo $pid $(cut -d' ' -f22 /proc/$pid/stat); done")

    def status(self, code: int = 0) -> dict[str, Any]:
        finished = self.cluster.start("raydog", "status", "--json", self.cluster.yaml.name).wait()
        assert finished.code == code, finished.output
        found: dict[str, Any] = json.loads(finished.output[: finished.output.rindex("\n}") + 2])
        return found

    def sound(self) -> dict[str, Any] | None:
        """The status, if it names no problem."""
        finished = self.cluster.start("raydog", "status", "--json", self.cluster.yaml.name).wait()
        return json.loads(finished.output) if finished.code == 0 else None

    def workers(self) -> dict[str, str]:
        """The workers that execute, as the platform has them, and which machine each is."""
        tasks = self.platform.tasks(f"{self.cluster.name}-")
        return {
            str(t.name): str(t.workerId) for t in tasks if "-worker-" in str(t.name) and str(t.status) == "EXECUTING"
        }

    def await_workers(self, count: int) -> None:
        def joined() -> bool:
            found = re.search(r"Active:\n((?: .*\n)+?)Idle:", f"{self.run('ray status')}\n")
            busy = re.search(r"(\d+)\.0/(\d+)\.0 CPU", self.run("ray status"))
            return found is not None and busy is not None and int(busy[2]) == count == len(self.workers())

        eventually(joined, f"{count} workers in Ray")

    def close(self) -> None:
        for session in self._sessions:
            session.close()


@pytest.fixture(scope="module")
def fire(platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fire]:
    cluster = RayCluster(tmp_path_factory.mktemp("fire") / "cluster", "fire", platform.environment)

    def change(document: dict[str, Any]) -> None:
        document["max_workers"] = document["available_node_types"]["worker"]["max_workers"] = 4

    cluster.write(change)
    made = None
    try:
        made = Fire(cluster, platform)
        yield made
    finally:
        platform.clear_faults()
        if made is not None:
            made.close()
        cluster.down()
        cluster.close()
        platform.nothing_left()
        left = [path for path in (cluster.folder / "state").rglob("*") if path.is_file()]
        assert left == [], "ray down forgets the head"


def test_platform_out_for_a_minute_under_load_ends_nothing_and_is_seen(fire: Fire) -> None:
    before, monitor, done = fire.workers(), fire.monitor(), fire.done()
    assert fire.status()["platform"]["answers"] is True
    calls = fire.platform.calls()[-1]["number"]
    fire.platform.fault("*", "drop_before", for_seconds=OUTAGE_SECONDS)
    fire.want(3)  # load that needs a launch

    def seen() -> bool:
        """Whether Ray's status says it, and ours, of the platform as this machine and as the head see it."""
        found = fire.status(code=2)
        categories = [failure["category"] for failure in found["failures"]]
        platform = found["platform"]
        assert platform["answers"] is False
        return (
            "LaunchFailed" in found["ray_status"]
            and "PlatformUnavailable" in categories
            and platform["from_head"]["error"] is not None
        )

    eventually(seen, "the outage in ray status and raydog status", OUTAGE_SECONDS)
    text = fire.cluster.raydog("status", fire.cluster.yaml.name, code=2)
    assert "the platform does not answer" in text
    assert "has not seen the platform since" in text
    assert "No cluster" not in text
    assert fire.platform.faults(), "all that was during the outage"

    eventually(lambda: not fire.platform.faults(), "the end of the outage", OUTAGE_SECONDS + 30)
    assert fire.done() > done + OUTAGE_SECONDS / 2, "the work went on"
    assert [one for one in fire.platform.calls() if one["number"] > calls and one["fault"]], "it was asked meanwhile"
    fire.await_workers(3)
    after = fire.workers()
    assert {name: after.get(name) for name in before} == before
    tasks = fire.platform.tasks(f"{fire.cluster.name}-")
    assert [task.name for task in tasks if task.abortRequestedTime] == []
    assert len(tasks) == 1 + 3, "no launch has come twice"
    assert fire.monitor() == monitor
    found = eventually(fire.sound, "a status without a problem")
    assert found["platform"]["from_head"]["error"] is None
    assert {node["state"] for node in found["nodes"]} == {"running"}


def test_murdered_tag_server_loses_no_node_and_no_tag_and_scaling_goes_on(fire: Fire) -> None:
    before, monitor = fire.workers(), fire.monitor()
    tags = json.loads(fire.python(TAGS))
    assert set(before) <= set(tags)
    fire.head.write_file("murder.py", MURDER.encode())
    fire.run("nohup python3 murder.py > murder.log 2>&1 &")
    eventually(lambda: "murdered" in fire.run("cat murder.log"), "the tag server's end")
    fire.want(4)
    fire.await_workers(4)  # with a stranger on the port
    assert {name: fire.workers().get(name) for name in before} == before
    fire.run("touch ~/.raydog/stranger-goes")

    def whole() -> dict[str, Any] | None:
        done = fire.head.run(". ~/.raydog/profile; python3 -", 60, TAGS)
        stored: dict[str, Any] = json.loads(done.stdout) if done.exit_status == 0 and done.stdout.strip() else {}
        return stored if set(fire.workers()) <= set(stored) else None

    restored = eventually(whole, "the tags of all nodes")
    assert {name: restored.get(name) for name in tags} == tags
    assert fire.workers().keys() > before.keys()
    assert fire.monitor() == monitor
    assert fire.run("ls -d ~/.raydog/redis.unreadable").endswith("redis.unreadable")
    assert fire.status()["problems"] == []


def test_failed_workers_last_output_is_shown_and_it_is_replaced(fire: Fire) -> None:
    node = next(one for one in fire.status()["nodes"] if one["kind"] == "worker")
    worker = fire.log_in(node["private_ip"])
    last_straw = "echo the last straw > /proc/$(pgrep -fo '[/]node.sh')/fd/1; kill -KILL $(pgrep -f '[r]ay start')"
    worker.run(last_straw, 30).check("ending Ray's command")

    def told() -> dict[str, Any] | None:
        failures = fire.status()["failures"]
        return next((one for one in failures if one["node"] == node["node_id"] and one["output"]), None)

    failure = eventually(told, "the failure with its output")
    assert failure["node_type"] == "worker"
    assert 0 < len(failure["output"]) <= 50
    assert "the last straw" in failure["output"]
    assert any("failed with exit status" in line for line in failure["output"])
    eventually(lambda: node["node_id"] not in fire.workers(), "its end")
    fire.await_workers(4)
    text = fire.cluster.raydog("status", fire.cluster.yaml.name)
    assert "| the last straw" in text
    assert max(len(line) for line in text.splitlines() if "|" not in line and not line.startswith("  20")) <= 80


def test_workers_that_leave_for_want_of_work_are_no_failures(fire: Fire) -> None:
    failures = fire.status()["failures"]
    fire.want(0)
    assert "work is over" in fire.job.wait().output
    eventually(lambda: not fire.workers(), "the workers' leave")
    assert fire.status()["failures"] == failures
