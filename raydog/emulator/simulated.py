"""Instances that are state only: no process, no network. Thousands of them fit into a test."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import partial

from raydog.emulator.clock import Clock, Timer
from raydog.emulator.driver import DriverEvents, InstanceSpec, TaskSpec

RUN_SECONDS = "SIMULATED_RUN_SECONDS"
EXIT_CODE = "SIMULATED_EXIT_CODE"
_FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.1"))
_LAST_ADDRESS = int(ipaddress.IPv4Address("10.127.255.254"))
_PUBLIC_OFFSET = int(ipaddress.IPv4Address("0.128.0.0"))


class SimulatedDriver:
    """Boots after ``boot_seconds``; a task runs until it is aborted, as a Ray node does.

    A task's environment may say otherwise: ``SIMULATED_RUN_SECONDS`` ends it after so many seconds, with the
    exit code ``SIMULATED_EXIT_CODE`` (0). Private addresses are in 10.0.0.0/9, public ones in 10.128.0.0/9;
    they are never contacted.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: DriverEvents | None = None
        self._next_address = _FIRST_ADDRESS
        self._instances: dict[str, dict[str, Timer | None]] = {}
        self._boots: dict[str, Timer] = {}

    @property
    def _tell(self) -> DriverEvents:
        if self._events is None:
            raise RuntimeError("the driver has not been started")
        return self._events

    def _after(self, seconds: float, action: Callable[[], None]) -> Timer | None:
        """At once, if there is nothing to wait for."""
        if seconds > 0:
            return self._clock.call_later(seconds, action)
        action()
        return None

    async def start(self, events: DriverEvents) -> None:
        self._events = events

    def boot(self, spec: InstanceSpec) -> None:
        self._instances[spec.instance_id] = {}
        timer = self._after(spec.boot_seconds, partial(self._booted, spec.instance_id))
        if timer is not None:
            self._boots[spec.instance_id] = timer

    def _booted(self, instance_id: str) -> None:
        self._boots.pop(instance_id, None)
        private = str(ipaddress.IPv4Address(self._next_address))
        public = str(ipaddress.IPv4Address(self._next_address + _PUBLIC_OFFSET))
        self._next_address = _FIRST_ADDRESS if self._next_address == _LAST_ADDRESS else self._next_address + 1
        self._tell.instance_running(instance_id, private, public)
        self._tell.node_registered(instance_id)

    def run_task(self, instance_id: str, task: TaskSpec) -> None:
        tasks = self._instances.get(instance_id)
        if tasks is None:
            return
        tasks[task.task_id] = None
        self._tell.task_started(task.task_id)
        try:
            exit_code = int(task.environment.get(EXIT_CODE, "0"))
            seconds = float(task.environment.get(RUN_SECONDS, "inf"))
        except ValueError as error:
            tasks.pop(task.task_id, None)
            self._tell.task_finished(task.task_id, None, f"{RUN_SECONDS} or {EXIT_CODE}: {error}")
            return
        if seconds != float("inf") or EXIT_CODE in task.environment:
            wait = 0.0 if seconds == float("inf") else seconds
            timer = self._after(wait, partial(self._end, instance_id, task.task_id, exit_code))
            if timer is not None:
                tasks[task.task_id] = timer

    def _end(self, instance_id: str, task_id: str, exit_code: int) -> None:
        tasks = self._instances.get(instance_id)
        if tasks is None or task_id not in tasks:
            return
        timer = tasks.pop(task_id)
        if timer is not None:
            timer.cancel()
        self._tell.task_finished(task_id, exit_code, None)

    def abort_task(self, instance_id: str, task_id: str, grace_seconds: float) -> None:
        self._end(instance_id, task_id, 143)

    def terminate(self, instance_id: str) -> None:
        boot = self._boots.pop(instance_id, None)
        if boot is not None:
            boot.cancel()
        for timer in (self._instances.pop(instance_id, None) or {}).values():
            if timer is not None:
                timer.cancel()
        self._tell.instance_terminated(instance_id)

    def task_output(self, instance_id: str, task_id: str) -> str | None:
        running = task_id in self._instances.get(instance_id, {})
        return f"simulated task {task_id} runs on {instance_id}\n" if running else None

    async def close(self) -> None:
        for instance_id in list(self._instances):
            self.terminate(instance_id)
