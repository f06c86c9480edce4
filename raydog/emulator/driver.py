"""What the emulated platform needs from something that can run instances.

The platform (state machines, scheduling, REST) decides *what* exists; a driver makes it so. There are two:
``simulated`` (state only) and ``real`` (namespaces with sshd and an agent). All calls and all events happen
on the platform's event loop; a driver never touches the platform's state except through `DriverEvents`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class InstanceSpec:
    """An instance to boot. ``instance_id`` is unique over the emulator's life and safe in file names."""

    instance_id: str
    hostname: str
    instance_type: str
    cpus: float
    gpus: int
    ram_gb: float
    boot_seconds: float
    """Extra time that the boot takes, for templates that imitate a slow cloud."""
    user_data: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Settings of the instance that the agent passes to every task (``YD_INSTANCE_ID`` and the like)."""


@dataclass(frozen=True)
class TaskSpec:
    """A task to run on an instance, as an agent would (platform contract, section 4)."""

    task_id: str
    task_type: str
    arguments: tuple[str, ...]
    task_data: str | None
    environment: Mapping[str, str]
    worker_slot: int


class DriverEvents(Protocol):
    """How a driver tells the platform what happened. Unknown ids are ignored (a late event is no error)."""

    def instance_running(self, instance_id: str, private_ip: str, public_ip: str) -> None:
        """The instance has its addresses and its operating system runs."""

    def node_registered(self, instance_id: str) -> None:
        """The agent runs (user data has finished) and can take tasks."""

    def task_started(self, task_id: str) -> None:
        """The task's process runs."""

    def task_finished(self, task_id: str, exit_code: int | None, error: str | None) -> None:
        """The task's process ended. ``exit_code`` is None, and ``error`` says why, if it could not start."""

    def instance_lost(self, instance_id: str, reason: str) -> None:
        """The instance ended without being told to: its processes died or its boot failed."""

    def instance_terminated(self, instance_id: str) -> None:
        """A `terminate` has finished: nothing of the instance is left."""


class InstanceDriver(Protocol):
    """Runs instances. No method blocks the loop; slow work happens in tasks or threads of the driver's own."""

    async def start(self, events: DriverEvents) -> None:
        """Prepare (network, image). Raises an error that names cause and remedy if this machine cannot."""

    def boot(self, spec: InstanceSpec) -> None:
        """Begin to boot. Events: `instance_running`, then `node_registered`, or `instance_lost`."""

    def run_task(self, instance_id: str, task: TaskSpec) -> None:
        """Begin a task. Events: `task_started`, then `task_finished`."""

    def abort_task(self, instance_id: str, task_id: str, grace_seconds: float) -> None:
        """SIGTERM to the task's process; SIGKILL to its session after the grace. Event: `task_finished`."""

    def terminate(self, instance_id: str) -> None:
        """End the instance at once, with all that runs on it. Event: `instance_terminated`."""

    def task_output(self, instance_id: str, task_id: str) -> str | None:
        """What the task printed so far (the last 1 MiB), or None if there is none any more."""

    async def close(self) -> None:
        """End all instances and undo what `start` made. Returns when nothing is left."""
