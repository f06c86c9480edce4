"""A Ray cluster that changes while it works: a worker pool is added and another one removed, and the job goes on.

    python scale-example.py --local
    python scale-example.py --namespace NS --head-template NS/head --worker-templates NS/small,NS/large

The job always has --at-once tasks under way. Those of nodes that are taken away begin again elsewhere: Ray sees to
that. With --keep the cluster stays until

    raydog cluster shut-down STATE.json

which works from anywhere, as it does if this program is killed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import ray
from setting import SSH_USER, Life, Place, arguments_parser, complete, connect, hold, place, run, say, script

from raydog.builder import RayDogCluster
from raydog.errors import RayDogError
from raydog.tunnels import RayTunnels, SSHTunnelSpec

TIMEOUT = timedelta(minutes=15)
MISSED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray begins tasks again when it gives up their node: here sooner than by default, which is half a minute."""


@ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=-1)
def square(number: int, seconds: float) -> tuple[int, str, str]:
    """The square of a number after a while; with the pool and the address of the node that it comes from."""
    time.sleep(seconds)
    pool = ray.get_runtime_context().get_node_labels().get("worker-pool", "")
    return number * number, pool, ray.util.get_node_ip_address()


Latest = list[tuple[str, str]]
"""Which nodes did the latest tasks, in the order of their results: pool and address, as often as it was so."""


class Stream:
    """A job without an end: when a task is done, its result is checked and the next one begins."""

    def __init__(self, at_once: int, seconds: float) -> None:
        self.done = 0
        self._at_once = at_once
        self._seconds = seconds
        self._under_way: dict[Any, int] = {}
        self._begun = 0

    def work(self, enough: Callable[[Latest], bool], what: str) -> None:
        """Go on until the latest results from now on are ``enough``."""
        self._run(enough, what, refill=True)

    def finish(self) -> None:
        """Let what is under way come to its end."""
        self._run(lambda _latest: not self._under_way, "the last tasks", refill=False)

    def _run(self, enough: Callable[[Latest], bool], what: str, refill: bool) -> None:
        deadline = time.monotonic() + TIMEOUT.total_seconds()
        latest: Latest = []
        while not enough(latest):
            if time.monotonic() > deadline:
                raise RayDogError(f"waited {TIMEOUT} for this in vain: {what}")
            while refill and len(self._under_way) < self._at_once:
                self._begun += 1
                self._under_way[square.remote(self._begun, self._seconds)] = self._begun
            done, _others = ray.wait(list(self._under_way), num_returns=1, timeout=5)
            for task in done:
                number = self._under_way.pop(task)
                result, pool, node = ray.get(task)
                if result != number * number:
                    raise RayDogError(f"the square of {number} came back as {result}")
                latest = [*latest[1 - 2 * self._at_once :], (pool, node)]
                self.done += 1
        say(f"{what}: {self.done} tasks are done, the latest by {_by_pool(latest)}")


def _by_pool(latest: Latest) -> str:
    """``pool: address, address; ...``"""
    nodes = {pool: sorted({node for of, node in latest if of == pool}) for pool, _node in sorted(latest)}
    return "; ".join(f"{pool}: {', '.join(addresses)}" for pool, addresses in nodes.items())


def add_pool(cluster: RayDogCluster, here: Place, name: str, template: str, nodes: int) -> None:
    """A worker pool, before or after the cluster has been built."""
    cluster.add_worker_pool(
        worker_node_compute_requirement_template_id=template,
        worker_node_task_script=here.worker_script(name),
        worker_pool_node_count=nodes,
        worker_pool_internal_name=name,
        worker_node_images_id=here.images_id,
        worker_node_userdata=here.user_data(),
    )


def define(here: Place, arguments: argparse.Namespace) -> RayDogCluster:
    """The cluster as it shall be at first; nothing of it is made yet."""
    cluster = RayDogCluster(
        here.credentials.key_id,
        here.credentials.key_secret,
        arguments.cluster_name,
        here.namespace,
        here.head_template,
        script("head-node-task-script.sh", **MISSED_SOON),
        here.credentials.api_url,
        head_node_images_id=here.images_id,
        head_node_userdata=here.user_data(),
        cluster_lifetime=timedelta(hours=1),  # it ends then, whatever becomes of this program
    )
    for name, template in zip(("first", "second"), here.worker_templates, strict=True):
        add_pool(cluster, here, name, template, arguments.nodes)
    return cluster


def change_while_it_works(life: Life, job: Stream) -> None:
    """A job, and changes of the cluster beneath it."""
    cluster, here, arguments = life.cluster, life.here, life.arguments
    job.work(lambda latest: len(set(latest)) == 2 * arguments.nodes, "all workers of both pools work")

    add_pool(cluster, here, "third", here.worker_templates[0], 1)
    life.save()  # with the pool that is new
    job.work(lambda latest: "third" in dict(latest), "a pool has been added")

    cluster.remove_worker_pool_by_internal_name("first")
    life.save()
    many = 2 * arguments.at_once
    job.work(lambda latest: len(latest) == many and "first" not in dict(latest), "a pool has been removed")
    job.finish()


def main() -> int:
    """Run the example; the exit status."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="workers of each of the first two pools (2)")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="tasks that are under way (8)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="how long a task takes (0.5)")
    arguments = complete(parser.parse_args())

    with place(arguments) as here, Life(define(here, arguments), here, arguments) as life:
        cluster = life.cluster
        say(f"building {arguments.cluster_name} with {2 * arguments.nodes} workers in 2 pools")
        private_ip, public_ip = cluster.build(TIMEOUT)
        life.save()
        say(f"the head runs at {private_ip}, from outside {public_ip}; state saved in {arguments.state_file}")

        ports = [
            SSHTunnelSpec.of(local_port=arguments.client_port, remote_port=10001),
            SSHTunnelSpec.of(local_port=arguments.dashboard_port, remote_port=8265),
        ]
        address, key = public_ip or private_ip, str(here.private_key)
        with RayTunnels(address, SSH_USER, private_key_file=key, ray_tunnel_specs=ports):
            cluster.wait_for_workers(timeout=TIMEOUT, dashboard_address=f"localhost:{arguments.dashboard_port}")
            with connect(arguments.client_port):  # ray.init("ray://localhost:10001")
                change_while_it_works(life, Stream(arguments.at_once, arguments.seconds))
            if arguments.hold:
                hold()
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
