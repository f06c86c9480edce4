"""The driver's record of one real instance, and its half of the conversation with PID 1 (`guest.init`)."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from raydog.emulator.driver import DriverEvents, InstanceSpec, TaskSpec

from .guest.channel import Channel, Message
from .outputs import Outputs

CONSOLE = "console"
"""Name of the user data's output."""


class RealInstance:
    """One instance from the driver's view. ``lost`` is called with a reason when PID 1 reports a failure."""

    def __init__(
        self, spec: InstanceSpec, address: str, folder: Path, events: DriverEvents, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.spec = spec
        self.address = address
        self.outputs = Outputs(folder)
        self.phases: dict[str, float] = {}
        """Seconds that each phase of the boot took, as PID 1 measured them."""
        self.terminating = False
        self.failure: str | None = None
        self.starting: asyncio.TimerHandle | None = None
        """Set while a slow template's boot time passes and nothing exists yet."""
        self._events = events
        self._loop = loop
        self._channel: Channel | None = None
        self._end: socket.socket | None = None

    def connect(self) -> socket.socket:
        """Open the conversation; the other end goes to the keeper, which hands it to the new instance."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._channel = Channel(ours)
        self._end = ours
        self._loop.add_reader(ours.fileno(), self._readable)
        self._say({"command": "user_data", "script": self.spec.user_data})
        return theirs

    def run_task(self, task: TaskSpec) -> None:
        """Have PID 1 start a task."""
        environment = {**self.spec.environment, "YD_WORKER_SLOT": str(task.worker_slot), **task.environment}
        self._say(
            {
                "command": "run",
                "task_id": task.task_id,
                "arguments": list(task.arguments),
                "data": task.task_data,
                "environment": environment,
            }
        )

    def abort_task(self, task_id: str, grace: float) -> None:
        """Have PID 1 end a task: SIGTERM to its process, SIGKILL to its session after ``grace`` seconds."""
        self._say({"command": "abort", "task_id": task_id, "grace": grace})

    def drain(self) -> None:
        """Hear what PID 1 said last, before it ended."""
        while self._channel is not None:
            try:
                messages = self._channel.receive()
            except EOFError:
                return
            if not messages:
                return
            for message, files in messages:
                self._heard(message, files)

    def disconnect(self) -> None:
        """End the conversation, keeping what programs have printed."""
        self.outputs.finish_all()
        if self._channel is not None and self._end is not None:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._channel.close()
            self._channel = None

    def _say(self, message: Message) -> None:
        if self._channel is None or self._end is None:
            return  # the instance has ended; its end is reported by the keeper
        try:
            self._channel.send(message)
        except OSError:
            return  # likewise
        self._wait_until_writable()

    def _wait_until_writable(self) -> None:
        if self._channel is not None and self._end is not None:
            self._loop.add_writer(self._end.fileno(), self._writable)

    def _writable(self) -> None:
        if self._channel is None or self._end is None:
            return
        try:
            done = self._channel.flush()
        except OSError:
            done = True
        if done:
            self._loop.remove_writer(self._end.fileno())

    def _readable(self) -> None:
        if self._channel is None or self._end is None:
            return
        try:
            messages = self._channel.receive()
        except EOFError:
            self._loop.remove_reader(self._end.fileno())  # the keeper tells when it is really gone
            return
        for message, files in messages:
            self._heard(message, files)

    def _heard(self, message: Message, files: list[int]) -> None:
        event = message["event"]
        if event == "output":
            self.outputs.follow(message["name"], files[0])
        elif event == "failed":
            self.failure = message["error"]
        elif event == "finished":
            self.outputs.finish(message["task_id"])
            if not self.terminating:
                self._events.task_finished(message["task_id"], message["exit_code"], message["error"])
        elif self.terminating:
            return
        elif event == "running":
            self.phases = message["phases"]
            self._events.instance_running(self.spec.instance_id, self.address, self.address)
        elif event == "registered":
            self.phases = message["phases"]
            self.outputs.finish(CONSOLE)
            self._events.node_registered(self.spec.instance_id)
        elif event == "started":
            self._events.task_started(message["task_id"])
