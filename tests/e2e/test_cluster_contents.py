"""What nodes get: files and set-up for workers, RayDog itself for a head without it, and secrets nowhere but in files.

The tests share a cluster whose workers have ``file_mounts`` and set-up commands and whose head's image lacks RayDog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raydog.autoscaler
from tests.support.daemon import EmulatorDaemon
from tests.support.ray_cli import RayCluster

pytestmark = pytest.mark.e2e

LOOK = """
import pathlib
import ray

@ray.remote(num_cpus=1)
def look():
    home = pathlib.Path("/opt/yellowdog/agent")
    return (home / "mounted/data.txt").read_text() + (home / "made").read_text()

ray.init(address="auto", log_to_driver=False)
print("a worker sees:", ray.get(look.remote()))
"""
WITHOUT_RAYDOG = """\
#!/bin/bash
rm /opt/yellowdog/agent/venv/lib/python3*/site-packages/raydog.pth
"""
MAY_HOLD_SECRETS = {"credentials.env", "redis.password", "redis.conf"}


@pytest.fixture(scope="module", params=[True, False], ids=["v2", "v1"])
def furnished(
    request: pytest.FixtureRequest, platform: EmulatorDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayCluster]:
    version = "v2" if request.param else "v1"
    folder = tmp_path_factory.mktemp(f"contents-{version}") / "cluster"
    cluster = RayCluster(folder, f"contents-{version}", platform.environment, v2=request.param)
    (folder / "mounted").mkdir()
    (folder / "mounted" / "data.txt").write_text("mounted from here; ")

    def change(document: dict[str, Any]) -> None:
        document["file_mounts"] = {"/opt/yellowdog/agent/mounted": "mounted"}
        document["worker_setup_commands"] = ["echo made by set-up > ~/made"]
        document["available_node_types"]["head"]["node_config"]["userdata"] = WITHOUT_RAYDOG
        document["idle_timeout_minutes"] = 5

    cluster.write(change)
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()
        cluster.close()
        platform.nothing_left()


def test_task_on_a_worker_finds_mounted_files_and_what_setup_made(furnished: RayCluster) -> None:
    result = furnished.submit(furnished.write_script("look.py", LOOK))
    assert "a worker sees: mounted from here; made by set-up" in result.flat


def test_head_without_raydog_runs_the_clients_own(furnished: RayCluster) -> None:
    with_environment = (
        "pid=$(pgrep -f '[/]monitor.py' | head -n 1); "
        "env PYTHONPATH=$(tr '\\0' '\\n' < /proc/$pid/environ | sed -n 's/^PYTHONPATH=//p') "
        "python -c 'import raydog.autoscaler.provider as p; print(p.__file__)'"
    )
    found = furnished.exec(with_environment)
    assert found == "/opt/yellowdog/agent/.raydog/site/raydog/autoscaler/provider.py"
    here = Path(raydog.autoscaler.__file__).with_name("provider.py").read_bytes()
    assert furnished.exec(f"sha256sum < {found}").split()[0] == hashlib.sha256(here).hexdigest()
    lacking = "cd /; if env -u PYTHONPATH python -c 'import raydog'; then echo has it; else echo lacks it; fi"
    assert furnished.exec(lacking).endswith("lacks it")


def test_task_shows_no_secret_in_the_portal(furnished: RayCluster, platform: EmulatorDaemon) -> None:
    secrets = known_secrets(furnished, platform)
    ours = platform.tasks(f"{furnished.name}-")
    assert ours
    for task in ours:
        shown = repr((task.environment, task.taskData, task.arguments))
        assert "RAYDOG_" in shown
        assert not [name for name, secret in secrets.items() if secret in shown]


def test_nothing_on_this_machine_keeps_a_secret(furnished: RayCluster, platform: EmulatorDaemon) -> None:
    logs = list(furnished.folder.glob("command-*.log"))
    secrets = known_secrets(furnished, platform)
    kept = [path for path in furnished.temporary.rglob("*") if path.is_file()]
    for path in (*kept, *logs, furnished.yaml):
        text = path.read_text(errors="replace")
        assert not [name for name, secret in secrets.items() if secret in text], path


def test_secrets_on_the_head_are_in_private_files_only(furnished: RayCluster) -> None:
    search = (
        '. ~/.raydog/credentials.env; needles() { echo "$YD_API_KEY_SECRET"; cat ~/.raydog/redis.password; echo; }; '
        "needles | grep -c .; echo in files:; "
        "needles | grep . | grep -rlF -f - ~ /tmp --exclude-dir=venv 2>/dev/null; "
        "echo in processes:; ps axww -o args | grep -F -f <(needles | grep .); echo modes:; "
        "cd ~/.raydog && stat -c '%a %n' credentials.env redis.password redis.conf"
    )
    lines = furnished.exec(search).splitlines()
    assert lines[0] == "2"
    files = lines[lines.index("in files:") + 1 : lines.index("in processes:")]
    processes = lines[lines.index("in processes:") + 1 : lines.index("modes:")]
    assert {Path(file).name for file in files} == MAY_HOLD_SECRETS
    assert processes == []
    assert {line.split()[0] for line in lines[lines.index("modes:") + 1 :]} == {"600"}


def known_secrets(cluster: RayCluster, platform: EmulatorDaemon) -> dict[str, str]:
    """The secrets by what they are, fetched so that Ray's output does not show them."""
    cluster.ray("rsync-down", "/opt/yellowdog/agent/.raydog/redis.password", "redis.password")
    password = (cluster.folder / "redis.password").read_text().strip()
    assert len(password) > 20
    return {"key": platform.environment["YD_API_KEY_SECRET"], "Redis password": password}
