"""PyPI's ``yellowdog-ray`` 2.0.0, unmodified, lives its whole life on real instances: autoscaler, builder, tunnels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import eventually, free_port
from tests.support.real import make_key, missing_for_real_instances
from tests.support.reference import (
    PROXY,
    ReferenceCluster,
    dialogue,
    head_script,
    require_reference,
    user_data,
    worker_script,
)

pytestmark = pytest.mark.e2e

GANG = """
import ray

@ray.remote(num_cpus=1)
class Member:
    def node(self):
        return ray.util.get_node_ip_address()

ray.init(address="auto", log_to_driver=False)
members = [Member.remote() for _ in range(2)]
print("nodes:", len(set(ray.get([member.node.remote() for member in members]))))
"""


REAL = """
    import json, os
    from yellowdog_ray.raydog.builder import RayDogCluster
    from yellowdog_ray.utils.ray_ssh_tunnels import RayTunnels, SSHTunnelSpec
    import ray, requests, time

    scripts = json.loads(os.environ["SCRIPTS"])
    cluster = RayDogCluster(
        os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"], "real", "tests", "local/head",
        scripts["head"], os.environ["YD_API_URL"], head_node_userdata=scripts["user_data"],
    )
    cluster.add_worker_pool("local/worker", scripts["worker"], 2)
    private, public = cluster.build()

    client, dashboard = json.loads(os.environ["LOCAL_PORTS"])
    tunnels = RayTunnels(
        public, "yd-agent", private_key_file=scripts["key"], ray_tunnel_specs=[
            SSHTunnelSpec("127.0.0.1", client, "127.0.0.1", 10001),
            SSHTunnelSpec("127.0.0.1", dashboard, "127.0.0.1", 8265),
        ],
    )
    tunnels.start_tunnels()

    def nodes_up():
        try:
            answer = requests.get(f"http://127.0.0.1:{dashboard}/api/v0/nodes", timeout=10)
        except (requests.ConnectionError, requests.Timeout):
            return 0  # the dashboard does not listen yet, or is too busy to answer
        found = answer.json()["data"]["result"]["result"] if answer.ok else []
        return sum(node["state"] == "ALIVE" for node in found)

    deadline = time.monotonic() + 120
    while nodes_up() < 3 and time.monotonic() < deadline:
        time.sleep(0.3)
    ray.init(f"ray://127.0.0.1:{client}", log_to_driver=False)

    @ray.remote(num_cpus=1)
    class Member:
        def node(self):
            return ray.util.get_node_ip_address()

    members = [Member.remote() for _ in range(2)]
    nodes = set(ray.get([member.node.remote() for member in members], timeout=120))
    step(json.dumps(sorted(nodes)))
    ray.shutdown()
    tunnels.stop_tunnels()
    cluster.save_state_to_json_file("state.json")
"""


@pytest.fixture(scope="module")
def reference() -> Path:
    """The environment with the package."""
    reason = missing_for_real_instances()
    if reason is not None:
        pytest.skip(reason)
    return require_reference()


@pytest.fixture(scope="module")
def platform(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorDaemon]:
    """An emulator whose instances see that environment too."""
    daemon = EmulatorDaemon(tmp_path_factory.mktemp("reference") / "emulator", "[]", "--expose", str(reference))
    try:
        yield daemon
    finally:
        daemon.stop()


def test_reference_autoscaler_goes_up_scales_and_goes_down(
    reference: Path, platform: EmulatorDaemon, tmp_path: Path
) -> None:
    cluster = ReferenceCluster(reference, tmp_path / "cluster", "reference", platform.environment)
    try:
        cluster.up()
        (head,) = platform.instances("reference-")
        assert head["taskIds"]

        where = "python -c 'import yellowdog_ray as r; print(r.__version__, r.__file__)'"
        ray_answers = "until ray status > /dev/null 2>&1; do sleep 0.3; done"  # its `ray up` does not wait for that
        module = "grep -o 'raydog[.]autoscaler[.][A-Za-z]*' ray_bootstrap_config.yaml"
        package = cluster.exec(f"{ray_answers}; {where}; {module}")
        assert package.startswith(f"2.0.0 {reference}/lib/")
        assert package.endswith("raydog.autoscaler.RayDogNodeProvider")

        assert "nodes: 2" in cluster.submit(cluster.write_script("gang.py", GANG)).output
        # The head's autoscaler has made the workers' task group; nobody else knows how.
        assert "update_work_requirement" in {one["operation"] for one in platform.calls()}
        eventually(lambda: not platform.instances("-worker"), "idle workers leave")
        assert platform.instances("-head")

        cluster.down()
        eventually(lambda: not platform.left(), "nothing is left after ray down")
    finally:
        if platform.left():
            cluster.start_ray("down", "-y").wait()
        cluster.close()


def test_reference_builder_makes_a_real_ray_cluster(reference: Path, platform: EmulatorDaemon, tmp_path: Path) -> None:
    key, public_key = make_key(tmp_path)
    scripts = {
        "head": head_script(reference, autoscaler=False),
        "worker": worker_script(reference),
        "user_data": user_data(reference, public_key),
        "key": str(key),
    }
    environment = {
        **platform.environment,
        "SCRIPTS": json.dumps(scripts),
        "LOCAL_PORTS": json.dumps([free_port(), free_port()]),
    }
    with dialogue(reference, tmp_path, REAL, environment) as program:
        nodes = json.loads(program.hear())
        workers = [one["privateIpAddress"] for one in platform.instances("real-01-wrkrs")]
        assert nodes == sorted(workers)
        assert len(nodes) == 2
        program.end()
    with dialogue(reference, tmp_path, PROXY, platform.environment) as program:
        program.hear()
        program.end()
    eventually(lambda: not platform.left(), "nothing is left after the proxy's shut_down")
