"""Machines that are not to be had, that go, and a head that dies, under real Ray. The tests share a cluster."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import Command, RayCluster, eventually

pytestmark = pytest.mark.e2e

JOB = """
import argparse, os, signal, time
import ray
from ray._raylet import GcsClient

parser = argparse.ArgumentParser()
parser.add_argument("what")
parser.add_argument("--seconds", type=float, default=0)
parser.add_argument("--tasks", type=int, default=4)
options = parser.parse_args()
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
HEAD = {"node:__internal_head__": 0.001}


@ray.remote(num_cpus=0, resources=HEAD)
class Seen:
    def __init__(self):
        self.places = []

    def note(self, place):
        self.places.append(place)
        return len(self.places)

    def all(self):
        return self.places


seen = Seen.remote()


@ray.remote(num_cpus=0, resources={"slot": 1}, max_retries=5)
def work(seconds):
    place = ray.util.get_node_ip_address()
    ray.get(seen.note.remote(place))
    time.sleep(seconds)
    return place


@ray.remote(num_cpus=0, resources={"slot": 1}, max_retries=5)
def end_my_node_once():
    if ray.get(seen.note.remote(ray.util.get_node_ip_address())) == 1:
        os.kill(os.getppid(), signal.SIGKILL)  # the raylet
        time.sleep(600)
    return ray.util.get_node_ip_address()


def await_draining(place):
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    while True:
        for node in client.get_all_node_info(timeout=10).values():
            # the draining of ray.core.generated.gcs_pb2.NodeSnapshot
            if node.node_manager_address == place and node.state_snapshot.state == 3:
                return
        time.sleep(0.2)


def places(count):
    while len(ray.get(seen.all.remote())) < count:
        time.sleep(0.2)
    print("RUN ON", *ray.get(seen.all.remote()), flush=True)


if options.what == "fail":
    print("DONE ON", ray.get(end_my_node_once.remote()))
elif options.what == "work":
    running = [work.remote(options.seconds) for _ in range(options.tasks)]
    places(options.tasks)
    print("DONE ON", *ray.get(running))
elif options.what == "drain":
    first = work.remote(options.seconds)
    places(1)
    (place,) = ray.get(seen.all.remote())
    await_draining(place)
    print("DRAINS", flush=True)
    print("DONE ON", *ray.get([work.remote(0), first]))
"""
"""Jobs whose tasks run on workers, two on each."""


@pytest.fixture(scope="module")
def live(platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A cluster that is up. Its two worker types fit equally well, which is when Ray falls back from one to the other.
    The one that comes first has no machines, and the first template of the other has none."""
    cluster = RayCluster(tmp_path_factory.mktemp("losses") / "cluster", "losses", platform.environment)

    def change(document: dict[str, Any]) -> None:
        types = document["available_node_types"]
        worker = types.pop("worker") | {"resources": {"CPU": 2, "slot": 2}}
        types["scarce"] = worker | {"node_config": {"compute_requirement_template": "local/scarce"}}
        types["worker"] = worker
        worker["node_config"]["compute_requirement_template"] = ["local/gone", "local/worker"]
        document["provider"]["node_launch_timeout_minutes"] = 0.6
        document["idle_timeout_minutes"] = 1

    cluster.write(change)
    (cluster.folder / "losses.py").write_text(JOB)
    cluster.up()
    try:
        yield cluster
    finally:
        if platform.left():
            cluster.down()
        cluster.close()
        platform.nothing_left()


def submit(live: RayCluster, *arguments: str) -> Command:
    return live.start_ray("submit", "losses.py", *arguments)


def printed(job: Command, word: str) -> list[str]:
    """What a job has printed after a word."""
    job.printed(word)
    found = re.search(rf"^{word} (.*?)\s*$", job.output, re.MULTILINE)
    assert found is not None, job.output
    return found[1].split()


def done_on(job: Command) -> list[str]:
    finished = job.wait()
    assert finished.code == 0, finished.output
    return printed(job, "DONE ON")


def status(live: RayCluster) -> dict[str, Any]:
    """What ``raydog status`` shows."""
    text = live.start("raydog", "status", "--json", live.yaml.name).wait().output
    shown: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return shown


def failures(live: RayCluster, category: str) -> list[str]:
    """The failures of a category that ``raydog status`` shows."""
    return [failure["message"] for failure in status(live)["failures"] if failure["category"] == category]


def test_ray_picks_another_node_type_whose_second_template_has_machines(
    live: RayCluster, platform: EmulatorDaemon
) -> None:
    assert len(done_on(submit(live, "work", "--tasks", "1"))) == 1
    workers = [one for one in platform.instances(f"{live.name}-") if "-worker-" in one["workerPool"]]
    assert {one["instanceType"] for one in workers} == {"local.worker"}
    asked = {str(task.name).removeprefix(f"{live.name}-").split("-")[1] for task in platform.tasks(f"{live.name}-")}
    assert asked == {"head", "scarce", "worker"}
    type_without, template_without = sorted(failures(live, "NoCapacity"), key=len)
    assert "local/scarce: Insufficient capacity" in type_without
    assert "local/gone: Insufficient capacity" in template_without
    assert "local/worker" in template_without


def test_no_machine_is_left_waiting_for_capacity(live: RayCluster, platform: EmulatorDaemon) -> None:
    assert len(done_on(submit(live, "work"))) == 4
    for template in ("local/scarce", "local/gone"):
        platform.template(template, capacity=5)
        platform.template(template, capacity=0)
    assert {one["instanceType"] for one in platform.instances(f"{live.name}-")} == {"local.head", "local.worker"}


def test_failed_node_is_replaced_and_its_work_done_again(live: RayCluster) -> None:
    (place,) = done_on(submit(live, "fail"))
    assert place
    eventually(lambda: any(re.search("exit|EXIT", text) for text in failures(live, "NodeFailed")), "a reason")


def test_preempted_node_is_replaced_and_its_work_done_again(live: RayCluster, platform: EmulatorDaemon) -> None:
    job = submit(live, "work", "--seconds", "10")
    first = printed(job, "RUN ON")[0]
    platform.preempt(first)
    done = done_on(job)
    assert len(done) == 4
    assert first not in done
    assert any("preempted" in text for text in failures(live, "NodeFailed"))


def test_aborted_node_is_drained_and_its_work_done_again(live: RayCluster, platform: EmulatorDaemon) -> None:
    job = submit(live, "drain", "--seconds", "15")
    (place,) = printed(job, "RUN ON")
    (node,) = [node for node in status(live)["nodes"] if node["private_ip"] == place]
    platform.abort(node["node_id"])
    job.printed("DRAINS")
    assert place not in done_on(job)


def test_warned_node_is_drained_before_it_goes_and_new_work_goes_elsewhere(
    live: RayCluster, platform: EmulatorDaemon
) -> None:
    job = submit(live, "drain", "--seconds", "20")
    (warned,) = printed(job, "RUN ON")
    platform.preempt(warned, 60)
    job.printed("DRAINS")
    assert warned in [one["privateIpAddress"] for one in platform.instances()]
    new, old = done_on(job)
    assert old == warned
    assert new != warned, "though there was room"
    assert len(failures(live, "PreemptionWarning")) == 1


def gone_within(platform: EmulatorDaemon, seconds: float) -> float:
    """Wait until no machine, pool or task is left; how long that took."""
    began = time.monotonic()
    kinds = {"liveInstances", "unfinishedPools", "unfinishedTasks"}
    eventually(lambda: not kinds & platform.left().keys(), "nothing is left", seconds + 30)
    took = time.monotonic() - began
    assert took <= seconds, f"it took {took:.0f} s"
    return took


def only_used_pools(platform: EmulatorDaemon) -> None:
    """Wait until the pools that wait for machines have gone: the emulator keeps such for two minutes without a head."""
    eventually(lambda: platform.status()["activePools"] == 2, "the head's pool and the workers'")


def head_of(live: RayCluster, platform: EmulatorDaemon) -> dict[str, Any]:
    address = live.ray("get-head-ip").output.split()[-1]
    (head,) = [one for one in platform.instances() if address in (one["publicIpAddress"], one["privateIpAddress"])]
    return head


def test_workers_and_pools_are_gone_within_a_minute_of_a_vanished_head(
    live: RayCluster, platform: EmulatorDaemon
) -> None:
    done_on(submit(live, "work", "--seconds", "1"))
    assert len(platform.instances()) >= 2
    only_used_pools(platform)
    platform.kill_instance(head_of(live, platform)["hostname"])
    print(f"after a vanished head: {gone_within(platform, 60):.0f} s")


def test_ray_up_makes_a_new_cluster_and_a_head_whose_ray_ends_takes_it_along(
    live: RayCluster, platform: EmulatorDaemon
) -> None:
    before = {one["name"] for one in platform.status()["workRequirements"]}
    live.up()
    after = {one["name"] for one in platform.status()["workRequirements"]}
    assert len(after) == 1
    assert not before & after
    assert len(done_on(submit(live, "work"))) == 4
    only_used_pools(platform)
    live.ray("exec", "ray stop --force")
    print(f"after Ray's end on the head: {gone_within(platform, 60):.0f} s")
    live.down()
    platform.nothing_left()
