"""A Ray cluster from Python: two kinds of workers, a job through SSH tunnels, and nothing left afterwards.

    python usage-example.py --local
    python usage-example.py --namespace NS --head-template NS/head --worker-templates NS/small,NS/large

With --observability there is a node with Prometheus and Grafana as well. With --keep the cluster stays until

    raydog cluster shut-down STATE.json

which works from anywhere, as it does if this program is killed.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from datetime import timedelta

import ray
from setting import SSH_USER, Life, Place, arguments_parser, complete, connect, hold, place, run, say, script

from raydog.builder import RayDogCluster
from raydog.tunnels import RayTunnels, SSHTunnelSpec

TIMEOUT = timedelta(minutes=15)
POOLS = ("first-kind", "second-kind")


@ray.remote(num_cpus=1)
def points_in_circle(points: int) -> tuple[str, int]:
    """How many of so many random points lie in the unit circle; and which node counted them."""
    inside = sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(points))  # noqa: S311
    kind = ray.get_runtime_context().get_node_labels().get("instance-type", "unknown type")
    return f"{ray.util.get_node_ip_address()} ({kind})", inside


def estimate_pi(tasks: int, points: int) -> None:
    """The job, half of it on each kind of worker: an estimate, and which node did how many of the tasks."""
    kinds = [points_in_circle.options(label_selector={"worker-pool": pool}) for pool in POOLS]
    answers = ray.get([kinds[number % 2].remote(points) for number in range(tasks)])
    say(f"pi is about {4 * sum(inside for _node, inside in answers) / (tasks * points):.4f}")
    for node, count in sorted(Counter(node for node, _inside in answers).items()):
        say(f"  {node} did {count} of {tasks} tasks")


def define(here: Place, arguments: argparse.Namespace) -> RayDogCluster:
    """The cluster as it shall be; nothing of it is made yet."""
    cluster = RayDogCluster(
        yd_application_key_id=here.credentials.key_id,
        yd_application_key_secret=here.credentials.key_secret,
        yd_platform_api_url=here.credentials.api_url,
        cluster_name=arguments.cluster_name,
        cluster_namespace=here.namespace,
        cluster_lifetime=timedelta(hours=1),  # it ends then, whatever becomes of this program
        head_node_compute_requirement_template_id=here.head_template,
        head_node_ray_start_script=script("head-node-task-script.sh"),
        head_node_images_id=here.images_id,
        head_node_userdata=here.user_data(),
        enable_observability=arguments.observability,
        observability_node_compute_requirement_template_id=here.head_template,
        observability_node_start_script=script("observability-node-task-script.sh"),
        observability_node_images_id=here.images_id,
        observability_node_userdata=here.user_data(INSTALL_OBSERVABILITY="yes"),
    )
    for pool, template in zip(POOLS, here.worker_templates, strict=True):
        cluster.add_worker_pool(
            worker_node_compute_requirement_template_id=template,
            worker_node_task_script=here.worker_script(pool),
            worker_pool_node_count=arguments.nodes,
            worker_pool_internal_name=pool,
            worker_node_images_id=here.images_id,
            worker_node_userdata=here.user_data(),
        )
    return cluster


def tunnels(here: Place, arguments: argparse.Namespace, cluster: RayDogCluster) -> RayTunnels:
    """From ports of this machine to the cluster's."""
    specs = [
        SSHTunnelSpec.of(local_port=arguments.client_port, remote_port=10001),
        SSHTunnelSpec.of(local_port=arguments.dashboard_port, remote_port=8265),
    ]
    if node := cluster.observability_node_private_ip:  # the head passes these on to the node beside it
        specs += [
            SSHTunnelSpec.of(local_port=arguments.prometheus_port, remote_host=node, remote_port=9090),
            SSHTunnelSpec.of(local_port=arguments.grafana_port, remote_host=node, remote_port=3000),
        ]
    head = cluster.head_node_public_ip or cluster.head_node_private_ip or ""
    return RayTunnels(head, SSH_USER, private_key_file=str(here.private_key), ray_tunnel_specs=specs)


def main() -> int:
    """Run the example; the exit status."""
    parser = arguments_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="workers of each kind (1)")
    parser.add_argument("--tasks", type=int, default=20, metavar="N", help="tasks of the job (20)")
    parser.add_argument("--points", type=int, default=100_000, metavar="N", help="points for each task (100000)")
    parser.add_argument("--observability", action="store_true", help="add a node with Prometheus and Grafana")
    parser.add_argument("--prometheus-port", type=int, default=9090, metavar="N", help="local port for it (9090)")
    parser.add_argument("--grafana-port", type=int, default=3000, metavar="N", help="3000; Ray's dashboard looks there")
    arguments = complete(parser.parse_args())

    with place(arguments) as here, Life(define(here, arguments), here, arguments) as life:
        cluster = life.cluster
        say(f"building {arguments.cluster_name}")
        private_ip, public_ip = cluster.build(head_node_build_timeout=TIMEOUT)
        life.save()
        say(f"the head runs at {private_ip}, from outside {public_ip}; state saved in {arguments.state_file}")

        with tunnels(here, arguments, cluster):
            dashboard = f"localhost:{arguments.dashboard_port}"
            workers = cluster.wait_for_workers(timeout=TIMEOUT, dashboard_address=dashboard)
            say(f"workers have joined: {workers}; the dashboard: http://{dashboard}")
            with connect(arguments.client_port):  # ray.init("ray://localhost:10001")
                estimate_pi(arguments.tasks, arguments.points)
            if arguments.hold:
                hold()
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
