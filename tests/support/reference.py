"""The reference implementation, PyPI's ``yellowdog-ray`` 2.0.0, unmodified, in a virtual environment of its own.

It is made once, in the user's cache folder, and used again by later runs: for every Python and set of pins there
is one. Where it cannot be made (no package index, a Python that the package does not support) a test is skipped
with the reason.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_cli import RayCluster

PINS = (
    "yellowdog-ray==2.0.0",
    "yellowdog-sdk==15.9.1",
    "paramiko==3.5.1",  # the package's own pin: it is the last that every sshtunnel works with
    "sshtunnel==0.4.0",
    f"ray[default,client]=={metadata.version('ray')}",
)
NEWEST_PYTHON = (3, 12)
BUILD_SECONDS = 600
_COMPLETE = "complete"


class ReferenceMissingError(Exception):
    """The environment cannot be made here; the text says why."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/raydog/reference``, below ``~/.cache`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raydog" / "reference"


def reference_environment() -> Path:
    """The environment's folder; makes it if it is not there. `ReferenceMissingError` says why it cannot be."""
    if sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        raise ReferenceMissingError(f"yellowdog-ray 2.0.0 supports Python up to {newest}, this is {sys.version}")
    key = hashlib.sha256(repr((sys.version, sys.base_prefix, PINS)).encode()).hexdigest()[:12]
    folder = cache_folder() / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _COMPLETE).exists():
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
    python = sys._base_executable  # type: ignore[attr-defined]
    for command in (
        [python, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *PINS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise ReferenceMissingError(f"{command[1]} of yellowdog-ray 2.0.0 failed:\n{done.stderr[-800:]}")
    folder.chmod(0o755)
    (folder / _COMPLETE).touch()


def require_reference() -> Path:
    """The environment's folder, or the test is skipped with the reason."""
    try:
        return reference_environment()
    except (ReferenceMissingError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no reference implementation: {error}")


class Dialogue:
    """A program in the reference's environment that says a line when a step is done and waits to be told to go on.

    The text of the program calls ``step(text)`` for that.
    """

    def __init__(self, reference: Path, folder: Path, program: str, environment: Mapping[str, str]) -> None:
        self._log = folder / "program.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "YD_", "PYTHON"))}
        path = f"{reference / 'bin'}:{os.environ['PATH']}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(reference / "bin" / "python"), "-c", _STEP + textwrap.dedent(program)],
                cwd=folder,
                env={**clean, "PATH": path, "NO_PROXY": "*", "no_proxy": "*", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def hear(self) -> str:
        """What the next step says; waits for it. Fails if the program ends instead."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return line.removeprefix(_MARK).strip()
        raise AssertionError(f"the program ended with {self._process.wait()}:\n{self._log.read_text()}")

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Let the last step go on; the program must end well."""
        self.go_on()
        assert self._process.wait(60) == 0, self._log.read_text()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


PROXY = """
    import os
    from yellowdog_ray.raydog.builder import RayDogClusterProxy

    proxy = RayDogClusterProxy(
        os.environ["YD_API_KEY_ID"], os.environ["YD_API_KEY_SECRET"], os.environ["YD_API_URL"]
    )
    proxy.load_saved_state_from_json_file("state.json")
    proxy.shut_down()
    step("shut down")
"""
"""Shuts down the cluster whose state lies in ``state.json``."""

_MARK = "STEP "
_STEP = f"""
import sys

def step(text):
    print({_MARK!r} + str(text), flush=True)
    sys.stdin.readline()

"""


@contextmanager
def dialogue(reference: Path, folder: Path, program: str, environment: Mapping[str, str]) -> Iterator[Dialogue]:
    """A `Dialogue` that ends with the block."""
    one = Dialogue(reference, folder, program, environment)
    try:
        yield one
    finally:
        one.close()


def user_data(reference: Path, public_key: str = "") -> str:
    """For a node whose users find the reference's Python, and where the key may log in."""
    lines = ["#!/bin/bash", f"echo '. {reference}/bin/activate' >> /opt/yellowdog/agent/.bashrc"]
    if public_key:
        ssh = "/opt/yellowdog/agent/.ssh"
        lines += [
            f"install -d -m 700 -o yd-agent -g yd-agent {ssh}",
            f"install -m 600 -o yd-agent -g yd-agent /dev/stdin {ssh}/authorized_keys <<< '{public_key}'",
        ]
    return "\n".join(lines) + "\n"


def head_script(reference: Path, autoscaler: bool) -> str:
    """Ray's head, for as long as its task runs; with the tag server and the autoscaler, or for the builder."""
    common = f". {reference}/bin/activate\nexport RAY_enable_autoscaler_v2=0\n"
    common += "export GRPC_ENABLE_FORK_SUPPORT=0\n"  # or Ray's client server refuses a client now and then
    start = "ray start --head --port=6379 --num-cpus=0 --ray-client-server-port=10001 --block"
    if not autoscaler:
        return f"{common}{start} &\ntrap 'ray stop' TERM\nwait\n"
    return f"""{common}
redis-server --port 16667 --bind 127.0.0.1 --save '' &
trap 'ray stop; kill %1' TERM
until [ -s ~/ray_bootstrap_config.yaml ] && [ -s ~/ray_bootstrap_key.pem ]; do sleep 0.2; done
{start} --autoscaling-config=/opt/yellowdog/agent/ray_bootstrap_config.yaml &
wait %2
"""


def worker_script(reference: Path) -> str:
    return (
        f". {reference}/bin/activate\n"
        "until ray start --address=$RAY_HEAD_IP:6379 --num-cpus=1; do sleep 0.5; done\n"
        "trap 'ray stop; kill $!' TERM\n"
        "sleep infinity &\nwait\n"
    )


class ReferenceCluster(RayCluster):
    """A YAML for the reference's autoscaler, and Ray's commands from its environment."""

    def __init__(self, reference: Path, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        path = f"{reference / 'bin'}:{os.environ['PATH']}"
        super().__init__(folder, name, {"PATH": path, **environment}, v2=False)
        public_key = self.key.with_suffix(".pub").read_text().strip()
        (folder / "head.sh").write_text(head_script(reference, autoscaler=True))
        (folder / "worker.sh").write_text(worker_script(reference))
        (folder / "user-data.sh").write_text(user_data(reference, public_key))
        self.document = _document(name, str(self.key))
        self.write()


def _document(name: str, key: str) -> dict[str, Any]:
    def node_type(template: str, cpus: int, **limits: int) -> dict[str, Any]:
        config = {"compute_requirement_template": template, "userdata": "file:user-data.sh"}
        return {"resources": {"CPU": cpus}, "node_config": config, **limits}

    # Ray has defaults for these with providers of its own only.
    empty = (
        "setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
        "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": name,
        "provider": {
            "type": "external",
            "module": "yellowdog_ray.raydog.autoscaler.RayDogNodeProvider",
            "cluster_namespace": "tests",
            "ray_head_node_task_script": "file:head.sh",
            "ray_worker_node_task_script": "file:worker.sh",
        },
        "auth": {"ssh_user": "yd-agent", "ssh_private_key": key},
        "available_node_types": {
            "head": node_type("local/head", 0),
            "worker": node_type("local/worker", 1, min_workers=0, max_workers=2),
        },
        "head_node_type": "head",
        "max_workers": 2,
        "upscaling_speed": 100,
        "idle_timeout_minutes": 0.1,
        **{key: [] for key in empty},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
    }
