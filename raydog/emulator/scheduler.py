"""Which task runs where, and how many instances a pool needs (contract, sections 3.4 and 3.6).

A step looks only at pools that something changed for. A READY task counts as served by an unclaimed worker or by
an instance that is booting, never by a busy worker: Ray's tasks run for as long as their node does.
"""

from __future__ import annotations

import math

from raydog.emulator.entities import POOL_FINISHED, Pool, TaskGroup
from raydog.emulator.fleet import PROVIDER, REGION, Fleet
from raydog.emulator.requests import SUPPORTED_TASK_TYPES
from raydog.emulator.state import State
from raydog.emulator.tasks import Tasks


def _within(value: float, bounds: tuple[float | None, float | None]) -> bool:
    low, high = bounds
    return (low is None or value >= low) and (high is None or value <= high)


def matches(group: TaskGroup, pool: Pool) -> bool:
    """Whether the pool's workers may run the group's tasks; an empty list constrains nothing."""
    spec, template = group.spec, pool.compute.template
    return (
        (not spec.worker_tags or pool.worker_tag in spec.worker_tags)
        and spec.task_types <= SUPPORTED_TASK_TYPES
        and (not spec.namespaces or pool.namespace in spec.namespaces)
        and (not spec.providers or PROVIDER in spec.providers)
        and (not spec.regions or REGION in spec.regions)
        and (not spec.instance_types or template.instance_type in spec.instance_types)
        and _within(template.cpus, spec.vcpus)
        and _within(template.ram_gb, spec.ram)
    )


def claims_left(group: TaskGroup) -> int:
    """How many more workers the group may claim now."""
    spec = group.spec
    most = len(group.ready)
    if spec.tasks_per_worker:
        most = min(most, math.ceil(group.unfinished / spec.tasks_per_worker) - group.in_progress)
    if spec.max_workers is not None:
        most = min(most, spec.max_workers - group.in_progress)
    return max(most, 0)


class Scheduler:
    """Gives READY tasks to unclaimed workers and sizes pools."""

    def __init__(self, state: State, tasks: Tasks, fleet: Fleet) -> None:
        self._state = state
        self._tasks = tasks
        self._fleet = fleet

    def step(self) -> None:
        """Serve every pool that changed, and those that compete with it for the same tasks."""
        state = self._state
        while state.dirty_pools:
            pool = next(iter(state.dirty_pools))
            del state.dirty_pools[pool]
            if pool.status not in POOL_FINISHED:
                groups = [group for group in state.hungry_for(pool) if matches(group, pool)]
                if len(groups) > 1:
                    groups.sort(key=self._rank)
                self._serve(pool, groups)
                self._fleet.resize_to(pool, self._instances_wanted(pool, groups))
            self._fleet.review_idle(pool)

    @staticmethod
    def _rank(group: TaskGroup) -> tuple[float, float, float, int]:
        requirement = group.requirement
        return (-requirement.priority, -group.priority, requirement.created, group.number)

    def _serve(self, pool: Pool, groups: list[TaskGroup]) -> None:
        for group in groups:
            free = len(pool.idle)
            if not free:
                return
            if group.status == "PENDING" and group.spec.min_workers > 1:
                free = sum(len(other.idle) for other in self._competitors(group))
                if free < group.spec.min_workers:
                    continue
            for _ in range(min(claims_left(group), len(pool.idle))):
                worker = next(iter(pool.idle))
                self._fleet.claim(worker)
                self._tasks.allocate(next(iter(group.ready)), worker)

    def _competitors(self, group: TaskGroup) -> list[Pool]:
        return [pool for pool in self._state.pools_for(group) if matches(group, pool)]

    def _instances_wanted(self, pool: Pool, groups: list[TaskGroup]) -> int:
        """Live instances that the pool should have for the tasks that still wait."""
        alive = pool.compute.alive
        demand = 0
        for group in groups:
            waiting = claims_left(group)
            if group.status == "PENDING" and waiting:
                waiting = max(waiting, group.spec.min_workers)
            if not group.spec.worker_tags or len(group.spec.worker_tags) > 1 or self._shared(pool):
                # Other pools may serve it as well: what boots there comes off.
                waiting -= sum(
                    other.booting * other.workers_per_node + len(other.idle)
                    for other in self._competitors(group)
                    if other is not pool
                )
            demand += max(waiting, 0)
        coming = pool.booting * pool.workers_per_node + len(pool.idle)
        more = math.ceil(max(demand - coming, 0) / pool.workers_per_node) if pool.workers_per_node else 0
        least = max(pool.min_nodes, pool.target if pool.awaiting_nodes else 0)
        return min(max(alive + more, least), pool.max_nodes)

    def _shared(self, pool: Pool) -> bool:
        return self._state.pools_with_tag(pool.worker_tag) > 1
