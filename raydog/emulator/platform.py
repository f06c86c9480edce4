"""The emulated platform: the state, its rules and a driver, put together. Runs on one thread, without I/O."""

from __future__ import annotations

from functools import partial
from typing import Any

from raydog.emulator.clock import Clock
from raydog.emulator.driver import InstanceDriver
from raydog.emulator.entities import (
    INSTANCE_ALIVE,
    POOL_FINISHED,
    REQUIREMENT_FINISHED,
    Instance,
    Json,
)
from raydog.emulator.faults import Faults
from raydog.emulator.fleet import Fleet
from raydog.emulator.pools import Pools
from raydog.emulator.problems import not_found
from raydog.emulator.scheduler import Scheduler
from raydog.emulator.state import State
from raydog.emulator.tasks import Tasks
from raydog.emulator.templates import Templates
from raydog.emulator.work import Work

IDLE_GRACE_SECONDS = 120.0
"""How long a pool that was never used is kept whatever its idle time-outs say (contract, section 3.4)."""


class Platform:
    """Everything behind the REST layer. It is also the `DriverEvents` of its driver."""

    def __init__(
        self,
        clock: Clock,
        driver: InstanceDriver,
        templates: Templates | None = None,
        idle_grace: float = IDLE_GRACE_SECONDS,
    ) -> None:
        self.clock = clock
        self.driver = driver
        self.templates = templates or Templates()
        self.state = State(clock)
        self.state.settle = self.settle
        self.tasks = Tasks(self.state, driver)
        self.work = Work(self.state, self.tasks)
        self.fleet = Fleet(self.state, self.tasks, driver, idle_grace)
        self.pools = Pools(self.state, self.fleet, self.templates)
        self.faults = Faults(clock)
        self._scheduler = Scheduler(self.state, self.tasks, self.fleet)
        self._settling = False

    def settle(self) -> None:
        """Schedule, and pass calls to the driver, until nothing is left to do at this moment.

        A driver may answer a call at once; its events then only change the state, and this loop goes on.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while self.state.dirty_pools or self.state.outbox:
                self._scheduler.step()
                while self.state.outbox:
                    self.state.outbox.popleft()()
        finally:
            self._settling = False

    # DriverEvents

    def instance_running(self, instance_id: str, private_ip: str, public_ip: str) -> None:
        instance = self.state.instances.get(instance_id)
        if instance is not None:
            self.fleet.instance_running(instance, private_ip, public_ip)
            self.settle()

    def node_registered(self, instance_id: str) -> None:
        instance = self.state.instances.get(instance_id)
        if instance is not None:
            self.fleet.node_registered(instance)
            self.settle()

    def task_started(self, task_id: str) -> None:
        task = self.state.tasks.get(task_id)
        if task is not None:
            self.tasks.started(task)
            self.settle()

    def task_finished(self, task_id: str, exit_code: int | None, error: str | None) -> None:
        task = self.state.tasks.get(task_id)
        if task is not None:
            self.tasks.process_ended(task, exit_code, error)
            self.settle()

    def instance_lost(self, instance_id: str, reason: str) -> None:
        instance = self.state.instances.get(instance_id)
        if instance is not None:
            self.fleet.instance_lost(instance, reason)
            self.settle()

    def instance_terminated(self, instance_id: str) -> None:
        instance = self.state.instances.get(instance_id)
        if instance is not None:
            self.fleet.instance_terminated(instance)
            self.settle()

    # For operators and tests

    def preempt(self, instance_id: str, warning_seconds: float = 0.0) -> None:
        """Take a spot instance away, after a warning if there is to be one (``preemptionWarningTime``)."""
        instance = self.state.instances.get(instance_id)
        if instance is None:
            raise not_found("instance", instance_id)
        if instance.status not in INSTANCE_ALIVE:
            raise not_found("live instance", instance_id)
        if instance.node is not None and warning_seconds > 0:
            instance.node.preemption_warning = self.clock.now()
            self.state.note_node(instance.node, "PREEMPTION WARNING", f"gone in {warning_seconds:g} s")
        gone = partial(self.fleet.preempt, instance)
        if warning_seconds > 0:
            self.state.after(warning_seconds, gone)
        else:
            gone()
        self.settle()

    def change_template(self, name: str, settings: Json) -> None:
        """Change ``capacity``, ``boot_seconds`` or ``boots`` of a template from now on."""
        template = self.templates.change(name, settings)
        for pool in list(template.waiting):
            self.state.touch(pool)
        self.settle()

    def task_output(self, task_id: str) -> str | None:
        """What a task printed, as long as its node is there."""
        task = self.tasks.find(task_id)
        node = self.state.nodes.get(task.node_id or "")
        return None if node is None else self.driver.task_output(node.instance.id, task.id)

    def status(self) -> Json:
        """Counts of what is not finished, and the instances that are not TERMINATED."""
        state = self.state
        instances = [one for one in state.instances.values() if one.status != "TERMINATED"]
        requirements = [one for one in state.requirements.values() if one.status not in REQUIREMENT_FINISHED]
        return {
            "liveInstances": len(instances),
            "unfinishedPools": sum(pool.status != "TERMINATED" for pool in state.pools.values()),
            "activePools": sum(pool.status not in POOL_FINISHED for pool in state.pools.values()),
            "unfinishedTasks": sum(group.unfinished for group in state.groups.values()),
            "unfinishedWorkRequirements": len(requirements),
            "workRequirements": [
                {"id": one.id, "name": one.name, "namespace": one.namespace, "status": one.status}
                for one in requirements
            ],
            "instances": [self._instance(one) for one in instances],
        }

    @staticmethod
    def _instance(instance: Instance) -> dict[str, Any]:
        pool, node = instance.compute.pool, instance.node
        return {
            "id": instance.id,
            "hostname": instance.hostname,
            "status": instance.status,
            "privateIpAddress": instance.private_ip,
            "publicIpAddress": instance.public_ip,
            "instanceType": instance.compute.template.instance_type,
            "workerPool": pool.name if pool else None,
            "nodeId": node.id if node else None,
            "nodeStatus": node.status if node else None,
            "taskIds": [worker.task.id for worker in node.workers if worker.task] if node else [],
        }
