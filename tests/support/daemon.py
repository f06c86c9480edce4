"""The emulator as people start it: ``raydog emulator start``, with real instances; seen through its HTTP interface."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from yellowdog_client import PlatformClient
from yellowdog_client.model import ApiKey, ServicesSchema, Task, TaskSearch, TaskStatus

from raydog.demo.proof import footprint, left_of, network_links
from tests.support.ray_cli import SCRIPTS, eventually
from tests.support.real import children

_COUNTS = ("liveInstances", "unfinishedPools", "unfinishedTasks", "unfinishedWorkRequirements")

_SIOCGIFADDR = 0x8915  # linux/sockios.h


class EmulatorDaemon:
    """A running emulator of this test session, and proof that it leaves nothing."""

    def __init__(self, folder: Path, templates: str, *options: str) -> None:
        self.folder = folder
        file = folder.with_suffix(".templates.yaml")
        file.write_text(templates)
        started = json.loads(self._command("start", "--json", "--templates", str(file), *options))
        self.environment: dict[str, str] = started["environment"]
        self._pid: int = started["pid"]
        self._seen = footprint(self._pid)
        self._http = requests.Session()
        self._http.trust_env = False
        key = ApiKey(self.environment["YD_API_KEY_ID"], self.environment["YD_API_KEY_SECRET"])
        self._http.headers["Authorization"] = f"yd-key {key.id}:{key.secret}"
        self._client = PlatformClient.create(ServicesSchema(defaultUrl=self.environment["YD_API_URL"]), key)

    def _command(self, *arguments: str) -> str:
        command = [str(SCRIPTS / "raydog"), "emulator", *arguments, "--state-dir", str(self.folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=180, env={**os.environ, "NO_PROXY": "*"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, self.environment["YD_API_URL"] + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    # Looking

    def status(self) -> dict[str, Any]:
        self._seen |= footprint(self._pid)
        found: dict[str, Any] = json.loads(self._command("status", "--json"))
        return found

    def instances(self, pool_part: str = "") -> list[dict[str, Any]]:
        """The live instances whose pool's name has ``pool_part`` in it."""
        found = self._call("GET", "/emulator/status")["instances"]
        return [one for one in found if pool_part in (one["workerPool"] or "")]

    def left(self) -> dict[str, int]:
        """What is not finished, by kind; empty if nothing is left."""
        status = self.status()
        return {name: status[name] for name in _COUNTS if status[name]}

    def nothing_left(self) -> None:
        """Nothing costs money any more, at this very moment."""
        assert self.left() == {}, self.status()

    def calls(self) -> list[dict[str, Any]]:
        """All calls of the platform so far."""
        found: list[dict[str, Any]] = self._call("GET", "/emulator/calls")
        return found

    def await_call(self, operation: str, already: int = 0) -> None:
        """Wait for the arrival of a call of ``operation`` beyond the first ``already`` calls of any kind."""

        def arrived() -> bool:
            return any(call["operation"] == operation for call in self.calls()[already:])

        eventually(arrived, f"a call of {operation}")

    def tasks(self, prefix: str) -> list[Task]:
        """All tasks whose names begin so, whatever has become of them."""
        work = self._client.work_client
        return [
            work.get_task_by_id(str(one.id))
            for one in work.find_tasks(TaskSearch())
            if str(one.name).startswith(prefix)
        ]

    # Making trouble

    def abort(self, prefix: str) -> None:
        """End the tasks that execute and whose names begin so, as somebody may do in the Portal."""
        for task in self.tasks(prefix):
            if task.status is TaskStatus.EXECUTING:
                self._client.work_client.cancel_task_by_id(str(task.id), True)

    def fault(self, operation: str, action: str, **settings: Any) -> None:
        self._call("POST", "/emulator/faults", {"operation": operation, "action": action, **settings})

    def faults(self) -> list[dict[str, Any]]:
        """Those that may still happen."""
        found: list[dict[str, Any]] = self._call("GET", "/emulator/faults")
        return found

    def clear_faults(self) -> None:
        self._call("DELETE", "/emulator/faults")

    def preempt(self, address: str, warning_seconds: float = 0.0) -> None:
        """Let the cloud take the instance with this private address away."""
        (machine,) = [one for one in self.instances() if one["privateIpAddress"] == address]
        self._call("POST", f"/emulator/instances/{machine['id']}/preempt", {"warningSeconds": warning_seconds})

    def kill_instance(self, host: str) -> None:
        """SIGKILL to the first process of the instance with this host name: its machine vanishes without a word."""
        (keeper,) = children(self._pid)
        (first,) = [process for process in children(keeper) if hostname_of(process) == host]
        os.kill(first, signal.SIGKILL)

    def template(self, name: str, **settings: Any) -> None:
        self._call("PUT", f"/emulator/templates/{name}", settings)

    # Ending

    def stop(self) -> None:
        """Stop it and see that no process, namespace, mount or network link of it is left."""
        self._http.close()
        self._client.close()
        self._seen |= footprint(self._pid)
        links = links_of(self.environment["YD_API_URL"])
        assert links, "the emulator listens on a bridge of its own"
        self._command("stop")
        assert left_of(self._seen, self.folder, links) == []


def hostname_of(agent: int) -> str:
    """The host name that a process has in its own UTS namespace."""
    done = subprocess.run(
        ["nsenter", "--target", str(agent), "--uts", "hostname"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def links_of(url: str) -> frozenset[str]:
    """The bridge that has the URL's address, and what is plugged into it. Others' emulators have other bridges."""
    address = socket.inet_aton(str(urlsplit(url).hostname))
    found: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name in network_links():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no address, or has just gone
            if answer[20:24] == address:
                ports = Path("/sys/class/net", name, "brif")
                found |= {name, *(port.name for port in ports.glob("*"))}
    return frozenset(found)
