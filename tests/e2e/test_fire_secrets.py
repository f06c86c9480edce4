"""A cluster's whole life, with trouble in it, and four secrets that nobody may see.

The key is in a ``.env`` file, so that no process has it from the user. The tests look at what one life has left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raydog.ssh import SshTarget, wait_for_login
from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import EXAMPLES, RayCluster, eventually
from tests.support.secrets import ProcessWatch, Secrets, files_with, portal_answers

pytestmark = pytest.mark.e2e

MAY_HOLD = {"credentials.env", "redis.password", "redis.conf", "ray_bootstrap_key.pem"}
GCS = """
import pickle, sys
from ray._raylet import GcsClient

client = GcsClient(address="127.0.0.1:6379")
for namespace in (None, b"autoscaler", b"cluster", b"dashboard", b"fun", b"job", b"usage_stats", b"session"):
    for key in client.internal_kv_keys(b"", namespace):
        sys.stdout.write(repr((namespace, key, client.internal_kv_get(key, namespace))) + "\\n")
"""
REFUSED_SECRET = "a-secret-that-the-platform-refuses"


@dataclass
class Life:
    """What was collected while the cluster lived, and where the rest lies."""

    secrets: Secrets
    cluster: RayCluster
    watch: ProcessWatch
    answers: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each node: the files with secrets in them, and their modes."""
    gcs: str = ""
    raydog_status: str = ""


def private_part(key: Path) -> str:
    """A line of the private key that is not also the public one's."""
    lines = key.read_text().splitlines()
    return lines[len(lines) - 3]


def furnish(cluster: RayCluster) -> None:
    """Set-up for workers, so that the head logs in to them with the private key; the account's key in a file."""
    (cluster.folder / "mounted").write_text("hello\n")
    (cluster.folder / ".env").write_text(
        "".join(f"{name}={cluster.environment.pop(name)}\n" for name in list(cluster.environment) if "YD_" in name)
    )

    def change(document: dict[str, Any]) -> None:
        document["idle_timeout_minutes"] = 10  # somebody looks at the workers
        document["file_mounts"] = {"/opt/yellowdog/agent/mounted": "mounted"}
        document["worker_setup_commands"] = ["cat ~/mounted"]
        document["available_node_types"]["refused"] = {
            "resources": {"CPU": 1, "wanted": 1},
            "max_workers": 1,
            "node_config": {"compute_requirement_template": "local/nowhere"},
        }

    cluster.write(change)


REFUSED_DEMAND = """
import ray
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=1, resources={"wanted": 1})
def never():
    return 1

try:
    ray.get(never.remote(), timeout=8)
except ray.exceptions.GetTimeoutError:
    print("nobody offers that")
"""


def live(life: Life, platform: EmulatorDaemon) -> None:
    """From ``ray up`` to ``ray down``, by way of all that makes RayDog and Ray talk."""
    cluster = life.cluster
    secret = platform.environment["YD_API_KEY_SECRET"]
    wrong = cluster.start("ray", "up", "-y", cluster.yaml.name, environment={"YD_API_KEY_SECRET": REFUSED_SECRET})
    assert wrong.wait().code == 1
    cluster.up()
    cluster.submit(EXAMPLES / "ray-sleep-job.py", "--tasks", "2", "--seconds", "1")
    cluster.submit(cluster.write_script("refused.py", REFUSED_DEMAND))
    nodes = json.loads(cluster.raydog("status", "--json", cluster.yaml.name))["nodes"]
    head = cluster.ray("get-head-ip").output.split()[-1]
    target = SshTarget(head, "yd-agent", cluster.key)

    with wait_for_login(target, 60) as session:
        password = session.read_file(".raydog/redis.password")
        assert password is not None
        life.secrets.__init__(**life.secrets.plain, redis_password=password.decode().strip())  # type: ignore[misc]
        platform.fault("*", "status", status=503, for_seconds=8)
        cluster.raydog("status", cluster.yaml.name, code=2)
        eventually(lambda: not platform.faults(), "the end of the outage")
        worker = next(node for node in nodes if node["kind"] == "worker")
        with wait_for_login(SshTarget(worker["private_ip"], "yd-agent", cluster.key), 60) as on_worker:
            life.files["worker"] = files_with(on_worker, life.secrets)
            on_worker.run("kill -KILL $(pgrep -x raylet)", 30).check("killing a raylet")
        eventually(lambda: "NodeFailed" in cluster.raydog("status", "--json", cluster.yaml.name), "a worker's failure")
        life.raydog_status = cluster.raydog("status", cluster.yaml.name)
        life.files["head"] = files_with(session, life.secrets)
        life.gcs = session.run(". ~/.raydog/profile; python3 -", 60, GCS).check("reading Ray's store").stdout
    headers = {"Authorization": f"yd-key {platform.environment['YD_API_KEY_ID']}:{secret}"}
    life.answers = portal_answers(platform.environment["YD_API_URL"], headers)
    cluster.down()


@pytest.fixture(scope="module")
def life(platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    cluster = RayCluster(tmp_path_factory.mktemp("secrets") / "cluster", "secretive", platform.environment)
    furnish(cluster)
    secrets = Secrets(key_secret=platform.environment["YD_API_KEY_SECRET"], private_key=private_part(cluster.key))
    try:
        with ProcessWatch(secrets) as watch:
            made = Life(secrets, cluster, watch)
            live(made, platform)
        yield made
    finally:
        platform.clear_faults()
        if platform.left():
            cluster.down()
        cluster.close()
        platform.nothing_left()


def test_what_looks_for_secrets_finds_them(life: Life) -> None:
    env = (life.cluster.folder / ".env").read_bytes()
    assert life.secrets.found_in(env) == {"key_secret"}
    assert life.secrets.found_in(life.cluster.key.read_bytes()) == {"private_key"}
    assert set(life.secrets.plain) == {"key_secret", "private_key", "redis_password"}


def test_process_lists_and_environments_show_none(life: Life) -> None:
    assert life.watch.looks > 50
    assert {"raylet", "gcs_server", "ssh", "redis-server", "ray", "raydog"} <= life.watch.programs
    assert life.watch.seen == set()


def test_no_answer_of_the_platform_shows_one(life: Life) -> None:
    text = b"\n".join(life.answers.values())
    for known in (b"RAYDOG_LAUNCH_TAGS", b"start --head --block", b"authorized_keys", b"-worker-"):
        assert known in text, "tasks' data and environments and the machines' user data have been looked at"
    assert {path for path, answer in life.answers.items() if life.secrets.found_in(answer)} == set()


def test_files_of_nodes_hold_them_only_where_they_must_and_only_for_their_user(life: Life) -> None:
    assert {Path(path).name for path in life.files["head"]} == MAY_HOLD
    assert set(life.files["head"].values()) == {"600"}
    assert life.files["worker"] == {}


def test_rays_store_holds_none(life: Life) -> None:
    assert "autoscal" in life.gcs
    assert life.secrets.found_in(life.gcs) == set()


def test_nothing_that_was_printed_shows_one(life: Life) -> None:
    logs = sorted(life.cluster.folder.glob("command-*.log"))
    text = "\n".join(log.read_text(errors="replace") for log in logs)
    assert "YD_API_KEY_SECRET" in text, "a refused key is named"
    assert "TemplateRefused" in life.raydog_status or "nowhere" in life.raydog_status
    assert "NodeFailed" in life.raydog_status
    assert life.secrets.found_in(text) == set()
    assert REFUSED_SECRET not in text


def test_nothing_on_this_machine_keeps_one(life: Life, platform: EmulatorDaemon) -> None:
    own = {life.cluster.key, life.cluster.folder / ".env"}
    kept = [path for path in life.cluster.folder.rglob("*") if path.is_file() and path not in own]
    kept += [path for path in platform.folder.rglob("*.log") if path.is_file()]
    assert kept
    assert [path for path in kept if life.secrets.found_in(path.read_bytes())] == []
