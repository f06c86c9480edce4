"""A job that needs several workers for a while: watch a cluster grow, and shrink again afterwards.

    ray submit raydog.yaml ray-sleep-job.py -- --tasks 3 --seconds 20

Each task asks for one CPU, so with workers of one CPU and a head of none, N tasks need N workers. Prints which
nodes took part; exits with 1 if a task failed or, with --min-nodes, if fewer nodes did.
"""

from __future__ import annotations

import argparse
import time

import ray


@ray.remote(num_cpus=1)
def sleep(seconds: float) -> str:
    """Hold one CPU for ``seconds`` and say on which node that was."""
    time.sleep(seconds)
    return ray.util.get_node_ip_address()


def main() -> int:
    """Run the job; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=3, help="how many tasks run at the same time (3)")
    parser.add_argument("--seconds", type=float, default=20, help="how long each of them sleeps (20)")
    parser.add_argument("--min-nodes", type=int, default=1, help="fail if fewer nodes took part (1)")
    arguments = parser.parse_args()

    ray.init(address="auto", log_to_driver=False)
    started = time.monotonic()
    waiting = [sleep.remote(arguments.seconds) for _ in range(arguments.tasks)]
    print(f"{arguments.tasks} tasks of {arguments.seconds:g} s are waiting for nodes", flush=True)

    tasks_by_node: dict[str, int] = {}
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=10)
        for node in ray.get(done):
            tasks_by_node[node] = tasks_by_node.get(node, 0) + 1
        print(
            f"{time.monotonic() - started:5.0f} s: {sum(tasks_by_node.values())} of {arguments.tasks} tasks done, "
            f"{sum(node['Alive'] for node in ray.nodes())} nodes up",
            flush=True,
        )

    for node, count in sorted(tasks_by_node.items()):
        print(f"  {node} did {count}")
    print(f"{arguments.tasks} tasks on {len(tasks_by_node)} nodes in {time.monotonic() - started:.0f} s")
    if len(tasks_by_node) < arguments.min_nodes:
        print(f"fewer nodes than the {arguments.min_nodes} that were wanted")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
