"""Real instances under test: a recorder of the driver's events, and a driver in an event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raydog.emulator.driver import InstanceSpec, TaskSpec
from raydog.emulator.real import RealDriver
from raydog.emulator.real.host import check_machine
from raydog.errors import ProvisioningError

WAIT = 60.0
"""Seconds after which an event that has not come fails a test."""


def missing_for_real_instances() -> str | None:
    """Why real instances cannot run here, for ``skipif``; None if they can."""
    try:
        check_machine()
    except ProvisioningError as error:
        return str(error)
    return None


needs_real_instances = pytest.mark.skipif(
    missing_for_real_instances() is not None, reason=str(missing_for_real_instances())
)


@dataclass
class Recorder:
    """`DriverEvents` that remembers what happened and lets a test wait for it."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def _note(self, *event: Any) -> None:
        self.seen.append(event)
        self.changed.set()

    def instance_running(self, instance_id: str, private_ip: str, public_ip: str) -> None:
        self._note("running", instance_id, private_ip, public_ip)

    def node_registered(self, instance_id: str) -> None:
        self._note("registered", instance_id)

    def task_started(self, task_id: str) -> None:
        self._note("started", task_id)

    def task_finished(self, task_id: str, exit_code: int | None, error: str | None) -> None:
        self._note("finished", task_id, exit_code, error)

    def instance_lost(self, instance_id: str, reason: str) -> None:
        self._note("lost", instance_id, reason)

    def instance_terminated(self, instance_id: str) -> None:
        self._note("terminated", instance_id)

    def find(self, *start: Any) -> tuple[Any, ...] | None:
        """The first event that begins so."""
        return next((event for event in self.seen if event[: len(start)] == start), None)

    async def until(self, *start: Any) -> tuple[Any, ...]:
        """Wait for an event that begins so."""

        async def found() -> tuple[Any, ...]:
            while True:
                self.changed.clear()
                if (event := self.find(*start)) is not None:
                    return event
                await self.changed.wait()

        try:
            return await asyncio.wait_for(found(), WAIT)
        except asyncio.TimeoutError:
            pytest.fail(f"no event {start} in {WAIT:.0f} s; seen: {self.seen}")


class Machines:
    """A started driver with shorthands: boot a node, run a task to its end, look at what it printed."""

    def __init__(self, driver: RealDriver, events: Recorder) -> None:
        self.driver = driver
        self.events = events
        self._numbers = itertools.count(1)

    async def boot(self, user_data: str = "", *, registered: bool = True, boot_seconds: float = 0.0) -> tuple[str, str]:
        """Boot an instance; its id and address once its node has registered (or only runs)."""
        number = next(self._numbers)
        name = f"ydid:inst:{number}"
        spec = InstanceSpec(name, f"node-{number}", "local", 1, 0, 1, boot_seconds, user_data, {"YD_INSTANCE_ID": name})
        self.driver.boot(spec)
        running = await self.events.until("running", name)
        if registered:
            await self.events.until("registered", name)
        return name, running[2]

    def start(self, instance: str, script: str, **environment: str) -> str:
        """Begin a task as RayDog does (the script as task data); its id."""
        task = f"ydid:task:{next(self._numbers)}"
        self.driver.run_task(instance, TaskSpec(task, "bash", ("taskdata.txt",), script, environment, 1))
        return task

    async def run(self, instance: str, script: str, **environment: str) -> str:
        """Run a task that must succeed; what it printed."""
        task = self.start(instance, script, **environment)
        _name, _task, code, error = await self.events.until("finished", task)
        output = self.output(instance, task)
        assert (code, error) == (0, None), output
        return output

    def output(self, instance: str, task: str) -> str:
        return self.driver.task_output(instance, task) or ""

    async def printed(self, instance: str, task: str, text: str) -> None:
        """Wait until a running task has printed ``text``."""
        deadline = asyncio.get_running_loop().time() + WAIT
        while text not in self.output(instance, task):
            if asyncio.get_running_loop().time() > deadline:
                pytest.fail(f"no {text!r} in {self.output(instance, task)!r}")
            await asyncio.sleep(0.02)


def with_machines(state_dir: Path, scenario: Callable[[Machines], Awaitable[None]]) -> None:
    """Run a scenario against a driver of its own; the driver is closed afterwards in any case."""

    async def run() -> None:
        driver, events = RealDriver(state_dir), Recorder()
        await driver.start(events)
        try:
            await scenario(Machines(driver, events))
        finally:
            await driver.close()

    asyncio.run(run())


def make_key(folder: Path) -> tuple[Path, str]:
    """A new SSH key: the private key's file and the line for ``authorized_keys``."""
    path = folder / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path, path.with_suffix(".pub").read_text().strip()


def user_data_for(public_key: str) -> str:
    """User data as RayDog's examples have it: the key may log in as the agent."""
    return (
        "#!/bin/bash\n"
        "mkdir -p /opt/yellowdog/agent/.ssh\n"
        f"echo '{public_key}' >> /opt/yellowdog/agent/.ssh/authorized_keys\n"
        "chown -R yd-agent:yd-agent /opt/yellowdog/agent/.ssh\n"
        "chmod 700 /opt/yellowdog/agent/.ssh\n"
        "chmod 600 /opt/yellowdog/agent/.ssh/authorized_keys\n"
    )


def ssh_command(key: Path, address: str, *command: str) -> list[str]:
    """ssh as Ray runs it: this key, no questions, nothing remembered."""
    options = {
        "IdentitiesOnly": "yes", "StrictHostKeyChecking": "no", "UserKnownHostsFile": os.devnull,
        "LogLevel": "ERROR", "BatchMode": "yes", "ConnectTimeout": "10",
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return ["ssh", "-i", str(key), *flags, f"yd-agent@{address}", *command]


async def ssh(key: Path, address: str, *command: str) -> str:
    """Run a command over SSH; its output."""
    done = await asyncio.to_thread(
        subprocess.run, ssh_command(key, address, *command), capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parent(process: int) -> int:
    """Process id of a process's parent; 0 if the process has ended."""
    try:
        return int(Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def children(process: int) -> list[int]:
    """Process ids of a process's children."""
    return [other for other in _processes() if parent(other) == process]


def descendants(process: int) -> list[int]:
    """Process ids of children, their children and so on."""
    return [found for child in children(process) for found in (child, *descendants(child))]


def processes_with(argument: str) -> list[int]:
    """Processes of this machine, in namespaces or not, with exactly this argument on their command line."""
    return [process for process in _processes() if argument.encode() in _arguments(process)]


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _arguments(process: int) -> list[bytes]:
    try:
        return Path("/proc", str(process), "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
