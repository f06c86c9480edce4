"""The observability node of a cluster that scales itself, with Debian's Prometheus. One cluster for all tests here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import yaml

from tests.support.daemon import EmulatorDaemon
from tests.support.observability import Prometheus, datasource_faults, files_below, on_node
from tests.support.ray_cli import RayCluster, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def live(platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A cluster with an observability node and one worker."""
    cluster = RayCluster(tmp_path_factory.mktemp("observed") / "cluster", "observed", platform.environment)

    def change(document: dict[str, Any]) -> None:
        document["max_workers"] = 1
        document["available_node_types"]["worker"].update(min_workers=1, max_workers=1)
        document["provider"]["observability"] = {
            "compute_requirement_template": "local/worker",
            "instance_tags": {"for": "metrics"},
        }

    cluster.write(change)
    cluster.up()
    try:
        yield cluster
    finally:
        if platform.left():
            cluster.down()
        cluster.close()
        platform.nothing_left()


@pytest.fixture(scope="module")
def address(live: RayCluster, platform: EmulatorDaemon) -> str:
    """The observability node's private address, as the platform knows it."""
    (instance,) = platform.instances("observability-node")
    return str(instance["privateIpAddress"])


@pytest.fixture(scope="module")
def prometheus(address: str) -> Iterator[Prometheus]:
    server = Prometheus(f"http://{address}:9090")
    yield server
    server.close()


@pytest.fixture(scope="module")
def ray_nodes(live: RayCluster, platform: EmulatorDaemon) -> set[str]:
    """The private addresses of the head and the worker."""

    def both() -> set[str] | None:
        found = {str(one["privateIpAddress"]) for one in platform.instances() if "-obs" not in one["workerPool"]}
        return found if len(found) == 2 and "None" not in found else None

    return eventually(both, "an address of the head and one of the worker")


def test_prometheus_scrapes_the_head_and_the_worker(prometheus: Prometheus, ray_nodes: set[str]) -> None:
    eventually(lambda: prometheus.healthy() >= ray_nodes, f"targets of {ray_nodes} that are up")
    eventually(
        lambda: prometheus.addresses_in("ray_node_cpu_utilization") == ray_nodes,
        "the CPU utilization of both nodes, and of no other",
    )


def test_everything_that_ray_lists_can_be_scraped(prometheus: Prometheus) -> None:
    def trouble() -> list[str]:
        return [f"{one['scrapeUrl']}: {one['lastError']}" for one in prometheus.targets() if one["health"] != "up"]

    eventually(lambda: trouble() == [], "no target in trouble", 60)


def test_scraped_values_are_those_of_the_cluster(prometheus: Prometheus, ray_nodes: set[str]) -> None:
    counted = eventually(lambda: prometheus.query("count(ray_node_mem_total)"), "a count of nodes")
    assert [sample["value"][1] for sample in counted] == ["2"]


def test_ray_dashboard_finds_prometheus(live: RayCluster, address: str) -> None:
    answer = json.loads(live.exec("curl -s http://127.0.0.1:8265/api/prometheus_health"))
    assert answer["result"] is True, answer
    environment = live.exec("tr '\\0' '\\n' < /proc/$(pgrep -f dashboard/dashboard.py | head -n 1)/environ")
    assert f"RAY_PROMETHEUS_HOST=http://{address}:9090" in environment
    assert f"RAY_GRAFANA_HOST=http://{address}:3000" in environment
    assert "RAY_GRAFANA_IFRAME_HOST=http://localhost:3000" in environment


def test_workers_scripts_know_where_it_is(live: RayCluster, platform: EmulatorDaemon, address: str) -> None:
    (worker,) = [task for task in platform.tasks("observed-") if (task.environment or {}).get("RAY_HEAD_IP")]
    assert worker.environment is not None
    assert worker.environment["OBSERVABILITY_HOST"] == address


def test_it_is_no_node_of_rays(live: RayCluster, address: str) -> None:
    assert live.shows_its_head()
    assert address not in live.ray("get-worker-ips").output
    assert address not in live.exec("ray list nodes")


def test_status_shows_where_it_is(live: RayCluster, address: str) -> None:
    shown = live.raydog("status", live.yaml.name)
    assert re.search(rf"observability-node-\w+ .* running +{re.escape(address)} ", shown), shown


def test_grafana_gets_rays_dashboards_and_a_datasource_that_they_all_use(live: RayCluster, address: str) -> None:
    files = eventually(
        lambda: found if len(found := files_below(live.key, address, "dashboards")) >= 7 else None, "Ray's dashboards"
    )
    own = json.loads(live.exec("cat /tmp/ray/session_latest/metrics/grafana/dashboards/default_grafana_dashboard.json"))
    assert json.loads(files["dashboards/default_grafana_dashboard.json"]) == own
    configuration = files_below(live.key, address, "grafana")
    sources = yaml.safe_load(configuration["grafana/provisioning/datasources/ray.yml"])["datasources"]
    assert [source["type"] for source in sources] == ["prometheus"]
    assert sources[0]["url"] == "http://localhost:9090"
    for name, text in files.items():
        assert datasource_faults(json.loads(text), sources) == [], name
    provider = yaml.safe_load(configuration["grafana/provisioning/dashboards/ray.yml"])["providers"][0]
    assert provider["options"]["path"] == "/opt/yellowdog/agent/observability/dashboards"


def test_ray_up_on_a_live_cluster_leaves_it(live: RayCluster, platform: EmulatorDaemon, address: str) -> None:
    before = [task.id for task in platform.tasks("observed-")]
    live.up()
    assert [task.id for task in platform.tasks("observed-")] == before
    assert [one["privateIpAddress"] for one in platform.instances("observability-node")] == [address]


def test_receiver_survives_what_does_not_belong_there(live: RayCluster, address: str) -> None:
    files = f"http://{address}:9089/files"
    targets = f"{files}/prom_metrics_service_discovery.json"
    assert requests.put(targets, data=b"{", timeout=10).status_code == 400
    assert requests.put(f"{files}/..%2f..%2f.bashrc", data=b"{}", timeout=10).status_code == 404
    before = requests.get(files, timeout=10).json()
    strange = json.dumps([{"targets": ["192.0.2.1:80/secret"], "labels": {}}])
    assert requests.put(targets, data=strange, timeout=10).status_code == 400
    allowed = json.dumps([{"targets": ["127.0.0.1:1"], "labels": {"job": "other"}}])
    assert requests.put(targets, data=allowed, timeout=10).status_code == 200
    eventually(lambda: requests.get(files, timeout=10).json() == before, "the head's own targets again")


def test_head_that_goes_on_feeds_a_node_that_was_started_again(
    live: RayCluster, address: str, platform: EmulatorDaemon
) -> None:
    on_node(live.key, address, "pkill -KILL -f observability/receiver[.]py")
    eventually(lambda: answers(f"http://{address}:9089/files"), "the receiver, started again")
    on_node(live.key, address, "rm -f observability/dashboards/*.json")
    eventually(lambda: len(files_below(live.key, address, "dashboards")) >= 7, "Ray's dashboards again")


def test_ray_down_ends_it_with_the_rest(live: RayCluster, platform: EmulatorDaemon) -> None:
    live.down()
    platform.nothing_left()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False
