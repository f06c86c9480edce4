"""A provider behind Ray's own adapter, as in Ray's monitor, in a process of its own that does what lines of JSON say.

Run by file, with the Python of whoever's provider it is: it needs Ray and nothing of RayDog. The environment variable
``LOOP`` has the provider's class and the cluster's configuration; each line of input is answered by one of output.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, IConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

_LAUNCH_SECONDS = 600.0


class _Reader(IConfigReader):  # type: ignore[misc]
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = AutoscalingConfig(config, skip_content_hash=True)

    def get_cached_autoscaling_config(self) -> Any:
        return self._config

    def refresh_cached_autoscaling_config(self) -> None:
        """It is never changed."""


class Loop:
    """What Ray's monitor does with a provider; each public method is a command, its result the answer."""

    def __init__(self, module: str, name: str, config: dict[str, Any], batch: int) -> None:
        provider = getattr(importlib.import_module(module), name)(config["provider"], config["cluster_name"])
        self._provider = provider
        self._adapter = NodeProviderAdapter(provider, _Reader(config), batch, 10 * batch)
        self._launched = 0
        self._returned = threading.Condition()
        create = provider.create_node_with_resources_and_labels

        def counted(node_config: Any, tags: Any, count: int, *more: Any) -> Any:
            answer = create(node_config, tags, count, *more)
            with self._returned:
                self._launched += count
                self._returned.notify()
            return answer

        provider.create_node_with_resources_and_labels = counted

    def ticks(self, times: int) -> dict[str, Any]:
        """All reads of a tick (``ray/autoscaler/v2/autoscaler.py``, ``update_autoscaling_state``), so many times."""
        seconds = []
        nodes: Any = {}
        for _ in range(times):
            started = time.perf_counter()
            nodes = self._adapter.get_non_terminated()
            errors = self._adapter.poll_errors()
            seconds.append(time.perf_counter() - started)
            if errors:
                raise errors[0]
        return {"seconds": seconds, "nodes": len(nodes), "running": sum(node.is_running for node in nodes.values())}

    def launch(self, count: int) -> dict[str, Any]:
        """One demand for so many nodes; the time until the provider has seen to it."""
        with self._returned:
            wanted = self._launched + count
            started = time.perf_counter()
            self._adapter.launch({"worker": count}, "request")
            done = self._returned.wait_for(lambda: self._launched >= wanted, _LAUNCH_SECONDS)
        seconds = time.perf_counter() - started
        errors = self._adapter.poll_errors()
        if errors or not done:
            raise errors[0] if errors else TimeoutError(f"{count} nodes were not launched")
        return {"seconds": seconds}

    def terminate(self, count: int) -> dict[str, Any]:
        """One demand to end so many workers. It goes on when this returns."""
        workers = [node.cloud_instance_id for node in self._adapter.get_non_terminated().values() if node.request_id]
        self._adapter.terminate(workers[:count], "request")
        return {"ended": len(workers[:count])}

    def memory(self) -> dict[str, Any]:
        """Resident memory in MB, without what only waits to be collected."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return {"megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}


def main() -> None:
    """Answer until the input ends."""
    loop = Loop(**json.loads(os.environ["LOOP"]))
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(loop, command.pop("do"))(**command)), flush=True)
    os._exit(0)  # some providers' finalisers end the cluster, and some have threads


if __name__ == "__main__":
    main()
