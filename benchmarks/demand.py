"""On a head: ask Ray for workers and print the seconds until they have joined. Run with ``ray submit``."""

from __future__ import annotations

import sys
import time

import ray
from ray.autoscaler.sdk import request_resources

_SECONDS = 180.0


def main(workers: int) -> None:
    """``workers`` is how many the cluster is to have, with those that it has."""
    deadline = time.monotonic() + _SECONDS
    _connect(deadline)
    began = time.monotonic()
    request_resources(bundles=[{"CPU": 1}] * workers)
    while (joined := sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())) < workers:
        if time.monotonic() > deadline:
            sys.exit(f"{joined} of {workers} workers have joined after {_SECONDS:.0f} s")
        time.sleep(0.05)
    print(f"JOINED {time.monotonic() - began:.3f}")


def _connect(deadline: float) -> None:
    """The reference implementation's ``ray up`` returns before Ray answers."""
    while True:
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
