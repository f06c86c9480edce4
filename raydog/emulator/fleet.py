"""Instances, nodes and workers of worker pools: booted, registered, idle, ended (contract, 3.4, 3.5, 3.7)."""

from __future__ import annotations

import logging
from functools import partial

from raydog.emulator.driver import InstanceDriver, InstanceSpec
from raydog.emulator.entities import (
    INSTANCE_ALIVE,
    NODE_GONE,
    POOL_FINISHED,
    ComputeRequirement,
    Instance,
    Node,
    Pool,
    Worker,
)
from raydog.emulator.ids import new_instance_id, new_uuid, ydid
from raydog.emulator.state import State
from raydog.emulator.tasks import Tasks
from raydog.errors import RayDogError

PROVIDER = "ON_PREMISE"
REGION = "local"
AGENT_HOME = "/opt/yellowdog/agent"
AGENT_DATA = "/var/opt/yellowdog/agent/data"
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


class Fleet:
    """Makes instances come and go. ``idle_grace`` seconds protect a new pool until its first claim."""

    def __init__(self, state: State, tasks: Tasks, driver: InstanceDriver, idle_grace: float) -> None:
        self._state = state
        self._tasks = tasks
        self._driver = driver
        self._idle_grace = idle_grace

    # Growing

    def resize_to(self, pool: Pool, wanted: int) -> None:
        """Boot what lacks, as far as the template has capacity. Never shrinks."""
        compute, template = pool.compute, pool.compute.template
        lacking = max(wanted - compute.alive, 0)
        target = compute.alive + lacking
        if target != compute.target:
            compute.target = target
            self._target_changed(compute)
        if lacking and self._state.clock.now() < pool.retry_at:
            return
        possible = lacking
        if template.capacity is not None:
            possible = min(lacking, max(template.capacity - template.in_use, 0))
        for _ in range(possible):
            self._create(pool)
        self._note_shortfall(pool, lacking - possible)
        if possible:
            self._review_compute(compute)

    def _note_shortfall(self, pool: Pool, shortfall: int) -> None:
        compute, template = pool.compute, pool.compute.template
        if shortfall:
            template.waiting[pool] = None
            compute.error = (
                f"Insufficient capacity: {template.in_use} of {template.capacity} instances of {template.name} "
                f"are in use, {shortfall} more were requested"
            )
            if not compute.shortfall:
                self._state.note_pool(pool, "NO CAPACITY", compute.error)
        elif compute.shortfall:
            template.waiting.pop(pool, None)
            compute.error = None
        if shortfall != compute.shortfall:
            compute.shortfall = shortfall
            self._target_changed(compute)

    def _target_changed(self, compute: ComputeRequirement) -> None:
        self._state.watchers.changed(compute.id)
        if compute.pool is not None:
            self._state.watchers.changed(compute.pool.id)

    def _create(self, pool: Pool) -> None:
        state, compute = self._state, pool.compute
        now = state.clock.now()
        instance_id = new_instance_id()
        instance = Instance(
            id=instance_id,
            source_id=ydid("compsrc", compute.uuid, 1),
            compute=compute,
            hostname=f"node-{instance_id[2:10]}",
            created=now,
            status="PENDING",
            status_changed=now,
        )
        compute.instances[instance_id] = instance
        state.instances[instance_id] = instance
        state.count_instance(instance)
        compute.template.in_use += 1
        pool.booting += 1
        instance.timer = state.after(pool.boot_timeout, partial(self._boot_timed_out, instance))
        if compute.template.boots:
            state.outbox.append(partial(self._boot, instance))

    def _boot(self, instance: Instance) -> None:
        if instance.status != "PENDING":
            return  # ended before the driver heard of it
        template = instance.compute.template
        spec = InstanceSpec(
            instance_id=instance.id,
            hostname=instance.hostname,
            instance_type=template.instance_type,
            cpus=template.cpus,
            gpus=template.gpus,
            ram_gb=template.ram_gb,
            boot_seconds=template.boot_seconds,
            user_data=instance.compute.usage.get("userData") or "",
            environment={
                "YD_PROVIDER": PROVIDER,
                "YD_REGION": REGION,
                "YD_INSTANCE_TYPE": template.instance_type,
                "YD_INSTANCE_ID": instance.id,
                "YD_AGENT_HOME": AGENT_HOME,
                "YD_AGENT_DATA": AGENT_DATA,
            },
        )
        instance.booted = True
        try:
            self._driver.boot(spec)
        except RayDogError as error:
            self.instance_lost(instance, str(error))

    def _boot_timed_out(self, instance: Instance) -> None:
        if instance.node is None and instance.status in INSTANCE_ALIVE:
            self._boot_failed(instance, "the node did not register within nodeBootTimeout")

    def _boot_failed(self, instance: Instance, reason: str, gone: bool = False) -> None:
        pool = instance.compute.pool
        self.end_instance(instance, "LOST", reason, gone)
        if pool is None or pool.status in POOL_FINISHED:
            return
        instance.compute.error = f"Instance {instance.id} failed to boot: {reason}"
        log.warning("instance %s of %s failed to boot: %s", instance.hostname, pool.name, reason)
        self._state.note_instance(instance, "BOOT FAILED", reason)
        delay = min(FIRST_RETRY_SECONDS * 2**pool.boot_failures, LONGEST_RETRY_SECONDS)
        pool.boot_failures += 1
        pool.retry_at = self._state.clock.now() + delay
        if pool.retry_timer is not None:
            pool.retry_timer.cancel()
        pool.retry_timer = self._state.after(delay, partial(self._state.touch, pool))

    # What the driver reports

    def instance_running(self, instance: Instance, private_ip: str, public_ip: str) -> None:
        if instance.status == "PENDING":
            instance.private_ip, instance.public_ip = private_ip, public_ip
            self._state.set_instance_status(instance, "RUNNING")
            self._review_compute(instance.compute)

    def node_registered(self, instance: Instance) -> None:
        pool = instance.compute.pool
        if instance.status != "RUNNING" or instance.node is not None or pool is None:
            return
        state = self._state
        now = state.clock.now()
        uuid = new_uuid()
        node = Node(ydid("node", uuid), uuid, pool, instance, "RUNNING", now, now)
        instance.node = node
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        pool.nodes[node.id] = node
        state.nodes[node.id] = node
        state.count_node(node)
        pool.booting -= 1
        pool.registered_ever += 1
        pool.boot_failures = 0
        if not instance.compute.shortfall:
            instance.compute.error = None
        for slot in range(1, pool.workers_per_node + 1):
            worker = Worker(ydid("wrkr", uuid, slot), slot, node, "STOPPED", now)
            node.workers.append(worker)
            state.workers[worker.id] = worker
            state.count_worker(worker)
            pool.idle[worker] = None
        pool.newly_idle[node] = None
        state.touch(pool)

    def instance_lost(self, instance: Instance, reason: str) -> None:
        """It ended without being told to, or just before it was told: nothing of it is left."""
        if instance.status not in INSTANCE_ALIVE:
            self.instance_terminated(instance)
        elif instance.node is None:
            self._boot_failed(instance, reason, gone=True)
        else:
            self.end_instance(instance, "LOST", reason, gone=True)

    def preempt(self, instance: Instance) -> None:
        """The cloud takes the instance away."""
        self.end_instance(instance, "LOST", "the instance was preempted")

    def instance_terminated(self, instance: Instance) -> None:
        if instance.status == "TERMINATED":
            return
        if instance.status in INSTANCE_ALIVE:  # nobody asked for it
            self.instance_lost(instance, "the instance was terminated")
            return
        self._state.set_instance_status(instance, "TERMINATED")
        template = instance.compute.template
        template.in_use -= 1
        for pool in list(template.waiting):
            self._state.touch(pool)
        self._review_compute(instance.compute)

    # Claims and idleness

    def claim(self, worker: Worker) -> None:
        """Take an unclaimed worker for a task."""
        node, pool = worker.node, worker.node.pool
        del pool.idle[worker]
        node.claimed += 1
        pool.claimed += 1
        pool.last_claimed = self._state.clock.now()
        pool.newly_idle.pop(node, None)
        for owner in (node, pool):
            if owner.idle_timer is not None:
                owner.idle_timer.cancel()
                owner.idle_timer = None
        if not pool.ever_claimed:
            pool.ever_claimed = True
            for other in pool.idle:  # the grace is over for those that wait as well
                pool.newly_idle[other.node] = None

    def review_idle(self, pool: Pool) -> None:
        """Start the idle clocks of nodes that have nothing to do, and of the pool; set the pool's status."""
        while pool.newly_idle:
            node = next(iter(pool.newly_idle))
            del pool.newly_idle[node]
            if node.status in NODE_GONE or node.claimed:
                continue
            if node.idle_timer is not None:
                node.idle_timer.cancel()
                node.idle_timer = None
            if node.draining:
                self.end_instance(node.instance, "TERMINATED", "the node was shut down")
            elif pool.idle_node_timeout is not None:
                delay = self._idle_delay(pool, pool.idle_node_timeout, node.registered)
                if delay > 0:
                    node.idle_timer = self._state.after(delay, partial(self._node_idle_too_long, node))
                else:
                    self._node_idle_too_long(node)
        if pool.status not in POOL_FINISHED:
            self._review_pool_idle(pool)
            self.review_pool_status(pool)

    def _idle_delay(self, pool: Pool, timeout: float, since: float) -> float:
        """With a timeout of zero a pool would be gone before its first task came: grace until then."""
        if pool.ever_claimed:
            return timeout
        return max(timeout, since + self._idle_grace - self._state.clock.now())

    def _node_idle_too_long(self, node: Node) -> None:
        node.idle_timer = None
        pool = node.pool
        if node.status in NODE_GONE or node.claimed or pool.compute.alive <= pool.min_nodes:
            return
        self.end_instance(node.instance, "TERMINATED", "the node was idle")

    def _review_pool_idle(self, pool: Pool) -> None:
        if pool.idle_pool_timeout is None or pool.claimed or pool.idle_timer is not None or pool.booting:
            return
        delay = self._idle_delay(pool, pool.idle_pool_timeout, self._state.clock.now())
        if delay > 0:
            pool.idle_timer = self._state.after(delay, partial(self._pool_idle_too_long, pool))
        else:
            self.shut_down(pool)

    def _pool_idle_too_long(self, pool: Pool) -> None:
        pool.idle_timer = None
        if pool.status in POOL_FINISHED or pool.claimed:
            return
        if pool.booting:
            self._state.touch(pool)  # the clock starts again when they have registered
        else:
            self.shut_down(pool)

    def review_pool_status(self, pool: Pool) -> None:
        """PENDING, EMPTY, IDLE or RUNNING, from what is registered and claimed."""
        live = sum(count for status, count in pool.node_counts.items() if status not in NODE_GONE)
        if pool.claimed:
            status = "RUNNING"
        elif live and pool.workers_per_node:
            status = "IDLE"
        else:
            status = "EMPTY" if pool.registered_ever else "PENDING"
        self._state.set_pool_status(pool, status)

    # Shrinking and ending

    def end_instance(self, instance: Instance, node_status: str, reason: str, gone: bool = False) -> None:
        """Terminate at once; tasks that ran there have lost their node. ``gone``: the driver has none of it."""
        if instance.status not in INSTANCE_ALIVE:
            return
        state = self._state
        state.set_instance_status(instance, "TERMINATING")
        if instance.timer is not None:
            instance.timer.cancel()
            instance.timer = None
        pool = instance.compute.pool
        if instance.node is not None:
            self._end_node(instance.node, node_status, reason)
        elif pool is not None:
            pool.booting -= 1
        if instance.booted and not gone:
            state.outbox.append(partial(self._driver.terminate, instance.id))
        else:
            state.outbox.append(partial(self.instance_terminated, instance))
        if pool is not None:
            state.touch(pool)

    def _end_node(self, node: Node, status: str, reason: str) -> None:
        state, pool = self._state, node.pool
        state.set_node_status(node, status, reason)
        node.deregistered = state.clock.now()
        if node.idle_timer is not None:
            node.idle_timer.cancel()
            node.idle_timer = None
        for worker in node.workers:
            pool.idle.pop(worker, None)
            state.set_worker_status(worker, "LOST" if status == "LOST" else "SHUTDOWN")
        for worker in node.workers:
            if worker.task is not None:
                self._tasks.lost(worker.task, f"Node {node.id} is gone: {reason}")

    def drain(self, node: Node) -> None:
        """Graceful shut-down: no new task; ends when those that run have ended."""
        node.draining = True
        for worker in node.workers:
            node.pool.idle.pop(worker, None)
        if node.claimed == 0 and node.status not in NODE_GONE:
            self.end_instance(node.instance, "TERMINATED", "the node was shut down")

    def shut_down(self, pool: Pool) -> None:
        """No new work; each node ends with its tasks; then the compute requirement is terminated."""
        if pool.status in POOL_FINISHED:
            return
        state = self._state
        state.drop_live_pool(pool)
        pool.compute.template.waiting.pop(pool, None)
        for owner in (pool.idle_timer, pool.retry_timer):
            if owner is not None:
                owner.cancel()
        pool.idle_timer = pool.retry_timer = None
        state.set_pool_status(pool, "SHUTDOWN")
        for instance in list(pool.compute.instances.values()):
            if instance.status not in INSTANCE_ALIVE:
                continue
            if instance.node is None:
                self.end_instance(instance, "TERMINATED", "the worker pool was shut down")
            else:
                self.drain(instance.node)
        self._review_compute(pool.compute)

    def terminate(self, compute: ComputeRequirement) -> None:
        """End all instances now, and with them the pool. Already terminated is no error."""
        if compute.status in {"TERMINATING", "TERMINATED"}:
            return
        self._state.set_compute_status(compute, "TERMINATING")
        if compute.pool is not None:
            self.shut_down(compute.pool)
        for instance in list(compute.instances.values()):
            self.end_instance(instance, "TERMINATED", "the compute requirement was terminated")
        self._review_compute(compute)

    def _review_compute(self, compute: ComputeRequirement) -> None:
        state, pool = self._state, compute.pool
        if compute.status == "TERMINATED":
            return
        over = compute.status == "TERMINATING" or (pool is not None and pool.status in POOL_FINISHED)
        if over:
            compute.target = compute.alive
            compute.shortfall = 0
            if compute.alive:
                return
            state.set_compute_status(compute, "TERMINATING")
            if not compute.counts.get("TERMINATING", 0):
                state.set_compute_status(compute, "TERMINATED")
                if pool is not None:
                    state.set_pool_status(pool, "TERMINATED")
        else:
            state.set_compute_status(compute, "PROVISIONING" if compute.counts.get("PENDING") else "RUNNING")
