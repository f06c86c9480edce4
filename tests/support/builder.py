"""Builder clusters on a simulated platform, and what the platform has of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raydog.builder import RayDogCluster, RayDogClusterProxy
from raydog.emulator import Emulator
from raydog.yellowdog.credentials import Credentials
from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import NodeRecord

NAMESPACE = "tests"
SCRIPT = "sleep infinity"


class Workshop:
    """Makes clusters on ``emulator`` and says what there is of them; `close` ends the connections."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.gateway = Gateway(Credentials(emulator.url, emulator.key_id, emulator.key_secret))
        self.texts: list[str] = []
        """What was reported as progress."""

    def cluster(self, name: str = "demo", **arguments: Any) -> RayDogCluster:
        """One that was not built yet; ``arguments`` are the constructor's."""
        wanted: dict[str, Any] = {
            "yd_application_key_id": self.emulator.key_id,
            "yd_application_key_secret": self.emulator.key_secret,
            "cluster_name": name,
            "cluster_namespace": NAMESPACE,
            "head_node_compute_requirement_template_id": "local/head",
            "head_node_ray_start_script": SCRIPT,
            "yd_platform_api_url": self.emulator.url,
            "on_progress": self.texts.append,
        }
        return RayDogCluster(**(wanted | arguments))

    def with_pool(self, count: int = 2, name: str = "demo", **arguments: Any) -> RayDogCluster:
        """One with a worker pool ``small``, not built yet."""
        cluster = self.cluster(name, **arguments)
        cluster.add_worker_pool("local/worker", SCRIPT, count, "small")
        return cluster

    def proxy(self, state: str) -> RayDogClusterProxy:
        proxy = RayDogClusterProxy(self.emulator.key_id, self.emulator.key_secret, self.emulator.url)
        proxy.load_saved_state_from_json(state)
        return proxy

    def left(self) -> dict[str, int]:
        """How much of each kind is not over."""
        status = self.emulator.status()
        kinds = ("liveInstances", "unfinishedPools", "unfinishedWorkRequirements", "unfinishedTasks")
        return {kind: status[kind] for kind in kinds if status[kind]}

    def operations(self) -> Counter[str]:
        return Counter(str(call["operation"]) for call in self.emulator.calls())

    def tasks(self, cluster: RayDogCluster) -> list[NodeRecord]:
        assert cluster.work_requirement_id is not None
        return self.gateway.list_nodes(cluster.work_requirement_id)

    def tasks_of(self, cluster: RayDogCluster, internal_name: str) -> list[NodeRecord]:
        pool = cluster.worker_node_worker_pools[internal_name]
        return [task for task in self.tasks(cluster) if task.group_id == pool.group_id]

    def close(self) -> None:
        self.emulator.clear_faults()
        self.gateway.close()
