"""Scheduling decisions on a virtual clock, without HTTP: who runs where, how many instances, at what cost."""

from __future__ import annotations

from typing import Any

import pytest

from raydog.emulator.clock import VirtualClock
from raydog.emulator.driver import InstanceDriver, InstanceSpec, TaskSpec
from raydog.emulator.entities import Pool, Task, TaskGroup, WorkRequirement
from raydog.emulator.platform import Platform
from raydog.emulator.problems import Problem
from raydog.emulator.simulated import SimulatedDriver
from raydog.emulator.templates import Template, Templates
from raydog.errors import ProvisioningError


class ScriptedDriver:
    """Does nothing by itself: the test says what happens. ``calls`` has what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refusal: str | None = None

    async def start(self, events: Any) -> None:
        """Nothing to prepare."""

    def boot(self, spec: InstanceSpec) -> None:
        if self.refusal is not None:
            raise ProvisioningError(self.refusal)
        self.calls.append(("boot", spec.instance_id))

    def run_task(self, instance_id: str, task: TaskSpec) -> None:
        self.calls.append(("run", task.task_id))

    def abort_task(self, instance_id: str, task_id: str, grace_seconds: float) -> None:
        self.calls.append(("abort", task_id))

    def terminate(self, instance_id: str) -> None:
        self.calls.append(("terminate", instance_id))

    def task_output(self, instance_id: str, task_id: str) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing to undo."""

    def told(self, what: str) -> list[str]:
        return [key for call, key in self.calls if call == what]


class World:
    """A platform with a virtual clock, and short ways to fill it."""

    def __init__(self, driver: InstanceDriver | None = None, *templates: Template) -> None:
        self.clock = VirtualClock()
        simulated = SimulatedDriver(self.clock)
        self.platform = Platform(self.clock, driver or simulated, Templates(templates))
        if driver is None:
            simulated._events = self.platform

    def requirement(self, *groups: dict[str, Any], name: str = "work", **fields: Any) -> WorkRequirement:
        body = {"namespace": "tests", "name": name, "taskGroups": list(groups or (group(),)), **fields}
        added = self.platform.work.add(body)
        self.platform.settle()
        return added

    def pool(self, name: str = "pool", target: int = 0, template: str = "local/worker", **properties: Any) -> Pool:
        usage = {"templateId": template, "requirementNamespace": "tests", "requirementName": name}
        zero = {"enabled": True, "timeout": "P0D"}
        settings = {"workerTag": "ray", "maxNodes": 100_000, "idleNodeShutdown": zero, **properties}
        request = {"requirementTemplateUsage": {**usage, "targetInstanceCount": target}}
        added = self.platform.pools.provision({**request, "provisionedProperties": settings})
        self.platform.settle()
        return added

    def add(self, one: TaskGroup, count: int, **fields: Any) -> list[Task]:
        added = self.platform.tasks.add(one, [{"taskType": "bash", **fields} for _ in range(count)])
        self.platform.settle()
        return added

    def abort(self, task: Task) -> None:
        self.platform.tasks.cancel(task, abort=True)
        self.platform.settle()


def group(name: str = "group", *, run: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    specification = {"taskTypes": ["bash"], "workerTags": ["ray"], **(run or {})}
    return {"name": name, "runSpecification": specification, "finishIfAllTasksFinished": False, **fields}


def statuses(tasks: list[Task]) -> list[str]:
    return [task.status for task in tasks]


def test_all_waiting_tasks_are_scaled_for_in_one_step() -> None:
    world = World()
    pool = world.pool()
    tasks = world.add(world.requirement().groups[0], 1000)
    assert set(statuses(tasks)) == {"EXECUTING"}
    assert pool.compute.alive == 1000


def test_booting_instances_are_not_ordered_twice() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    world.pool()
    one = world.requirement().groups[0]
    world.add(one, 2)
    world.add(one, 1)
    world.clock.advance(1)
    assert len(driver.told("boot")) == 3


def test_cancelled_demand_is_not_replaced_by_later_demand_in_vain() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    world.pool()
    one = world.requirement().groups[0]
    first = world.add(one, 2)
    for task in first:
        world.abort(task)
    world.add(one, 2)
    assert len(driver.told("boot")) == 2  # those that boot already serve the new tasks


def test_node_of_several_workers_serves_several_tasks() -> None:
    world = World()
    pool = world.pool(createNodeWorkers={"targetType": "PER_NODE", "targetCount": 4})
    tasks = world.add(world.requirement().groups[0], 6)
    assert set(statuses(tasks)) == {"EXECUTING"}
    assert pool.compute.alive == 2


def test_higher_priority_is_served_first_then_the_older() -> None:
    world = World()
    pool = world.pool(maxNodes=1)
    blocker = world.add(world.requirement().groups[0], 1)[0]
    low = world.add(world.requirement(name="low").groups[0], 1)[0]
    world.clock.advance(1)
    high = world.add(world.requirement(name="high", priority=5).groups[0], 1)[0]
    world.abort(blocker)
    assert statuses([high, low]) == ["EXECUTING", "READY"]
    world.abort(high)
    assert statuses([low]) == ["EXECUTING"]
    assert pool.compute.alive == 1


def test_group_claims_no_more_than_its_maximum() -> None:
    world = World()
    pool = world.pool()
    tasks = world.add(world.requirement(group(run={"maxWorkers": 2})).groups[0], 5)
    assert statuses(tasks).count("EXECUTING") == 2
    assert pool.compute.alive == 2
    world.abort(tasks[0])
    assert statuses(tasks) == ["ABORTED", "EXECUTING", "EXECUTING", "READY", "READY"]


def test_tasks_per_worker_limits_claims() -> None:
    world = World()
    pool = world.pool()
    world.add(world.requirement(group(run={"tasksPerWorker": 3})).groups[0], 7)
    assert pool.compute.alive == 3


def test_group_starts_only_with_its_minimum_of_workers() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    pool = world.pool()
    one = world.requirement(group(run={"minWorkers": 2})).groups[0]
    tasks = world.add(one, 1) + world.add(one, 1)
    for number, instance_id in enumerate(driver.told("boot")):
        assert driver.told("run") == []
        world.platform.instance_running(instance_id, f"10.0.0.{number}", f"10.1.0.{number}")
        world.platform.node_registered(instance_id)
    assert len(driver.told("run")) == 2
    assert (pool.compute.alive, statuses(tasks)) == (2, ["ALLOCATED", "ALLOCATED"])


def test_two_pools_that_fit_do_not_both_grow_for_one_task() -> None:
    world = World(ScriptedDriver())
    first, second = world.pool("first"), world.pool("second")
    world.add(world.requirement().groups[0], 3)
    assert first.compute.alive + second.compute.alive == 3


def test_groups_without_tags_and_with_several_tags_are_served_by_any_of_them() -> None:
    world = World()
    one, two = world.pool("one", workerTag="one"), world.pool("two", workerTag="two", maxNodes=1)
    requirement = world.requirement(
        group("any", run={"workerTags": []}), group("both", run={"workerTags": ["two", "one"]})
    )
    tasks = world.add(requirement.groups[0], 2) + world.add(requirement.groups[1], 2)
    assert set(statuses(tasks)) == {"EXECUTING"}
    assert one.compute.alive + two.compute.alive == 4


@pytest.mark.parametrize(
    ("run", "fits"),
    [
        ({"vcpus": {"min": 4}}, True),
        ({"vcpus": {"min": 5}}, False),
        ({"ram": {"min": 1, "max": 7}}, False),
        ({"ram": {"max": 8}}, True),
        ({"instanceTypes": ["big", "huge"]}, True),
        ({"instanceTypes": ["small"]}, False),
        ({"providers": ["AWS"]}, False),
        ({"providers": ["ON_PREMISE"], "regions": ["local"]}, True),
        ({"namespaces": ["other"]}, False),
        ({"taskTypes": ["bash", "docker"]}, False),
    ],
)
def test_run_specification_chooses_pools(run: dict[str, Any], fits: bool) -> None:
    world = World(None, Template("local/big", cpus=4, ram_gb=8, instance_type="big"))
    world.pool(template="local/big")
    tasks = world.add(world.requirement(group(run=run)).groups[0], 1)
    assert statuses(tasks) == (["EXECUTING"] if fits else ["READY"])


def test_abort_waits_for_the_driver_and_frees_the_worker_only_then() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    pool = world.pool(maxNodes=1)
    one = world.requirement().groups[0]
    first, second = world.add(one, 2)
    instance_id = driver.told("boot")[0]
    world.platform.instance_running(instance_id, "10.0.0.1", "10.1.0.1")
    world.platform.node_registered(instance_id)
    world.platform.task_started(first.id)
    world.abort(first)
    world.abort(first)
    assert driver.told("abort") == [first.id]
    assert statuses([first, second]) == ["EXECUTING", "READY"]
    world.platform.task_finished(first.id, 0, None)
    assert statuses([first, second]) == ["ABORTED", "ALLOCATED"]
    assert pool.compute.alive == 1


def test_abort_before_the_process_runs_reaches_the_driver_after_the_run() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    world.pool(target=1)
    instance_id = driver.told("boot")[0]
    world.platform.instance_running(instance_id, "10.0.0.1", "10.1.0.1")
    world.platform.node_registered(instance_id)
    task = world.platform.tasks.add(world.requirement().groups[0], [{"taskType": "bash"}])[0]
    world.platform.settle()
    world.abort(task)
    assert [call for call, _ in driver.calls] == ["boot", "run", "abort"]
    world.platform.task_finished(task.id, None, "killed before it started")
    assert task.status == "ABORTED"


def test_late_and_unknown_events_change_nothing() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    world.pool()
    task = world.add(world.requirement().groups[0], 1)[0]
    instance_id = driver.told("boot")[0]
    events = world.platform
    for unknown in ("i-none", instance_id):
        events.node_registered(unknown)  # not running yet
    events.task_started(task.id)
    events.task_finished(task.id, 0, None)
    assert task.status == "READY"
    events.instance_running(instance_id, "10.0.0.1", "10.1.0.1")
    events.node_registered(instance_id)
    events.node_registered(instance_id)
    events.instance_lost(instance_id, "gone")
    events.instance_lost(instance_id, "gone")
    events.instance_terminated(instance_id)
    events.task_finished(task.id, 0, None)
    assert task.status == "FAILED"
    assert task.errors[0]["errorType"] == "ALLOCATION_LOST"
    assert events.status()["liveInstances"] == 0
    assert driver.told("terminate") == []  # the driver said itself that nothing is left


def test_instance_that_dies_while_it_is_being_terminated_counts_as_terminated() -> None:
    driver = ScriptedDriver()
    world = World(driver)
    pool = world.pool(target=1)
    instance_id = driver.told("boot")[0]
    world.platform.pools.shut_down(pool)
    world.platform.settle()
    assert (driver.told("terminate"), pool.status) == ([instance_id], "SHUTDOWN")
    world.platform.instance_lost(instance_id, "its first process ended")
    assert (pool.status, pool.compute.status) == ("TERMINATED", "TERMINATED")


def test_failing_boots_are_repeated_with_growing_pauses() -> None:
    driver = ScriptedDriver()
    driver.refusal = "all addresses are taken"
    world = World(driver)
    pool = world.pool()
    task = world.add(world.requirement().groups[0], 1)[0]
    assert len(pool.compute.instances) == 1
    assert "all addresses are taken" in str(pool.compute.error)
    for seconds, tried in ((4.9, 1), (0.1, 2), (9.9, 2), (0.1, 3)):
        world.clock.advance(seconds)
        assert len(pool.compute.instances) == tried
    driver.refusal = None
    world.clock.advance(20)
    instance_id = driver.told("boot")[0]
    world.platform.instance_running(instance_id, "10.0.0.1", "10.1.0.1")
    world.platform.node_registered(instance_id)
    assert (task.status, pool.compute.error, pool.boot_failures) == ("ALLOCATED", None, 0)


def test_task_environment_has_what_an_agent_sets_over_what_the_task_says() -> None:
    specs: list[TaskSpec] = []

    class Recording(ScriptedDriver):
        def run_task(self, instance_id: str, task: TaskSpec) -> None:
            specs.append(task)

    driver = Recording()
    world = World(driver)
    world.pool(target=1)
    instance_id = driver.told("boot")[0]
    world.platform.instance_running(instance_id, "10.0.0.1", "10.1.0.1")
    world.platform.node_registered(instance_id)
    template = {"taskType": "bash", "taskData": "default", "environment": {"A": "template", "B": "template"}}
    one = world.requirement(group(taskTemplate=template)).groups[0]
    task = world.platform.tasks.add(one, [{"arguments": ["x"], "environment": {"A": "own", "YD_TASK_ID": "forged"}}])[0]
    world.platform.settle()
    assert specs[0].environment == {
        "A": "own",
        "B": "template",
        "YD_TASK_ID": task.id,
        "YD_TASK_GROUP_ID": one.id,
        "YD_WORKER_SLOT": "1",
    }
    assert (specs[0].task_data, specs[0].arguments, specs[0].task_type) == ("default", ("x",), "bash")


def test_step_costs_what_changed_not_what_exists() -> None:
    """One task more, at 200 and at 4,000 nodes: the pools and groups looked at are the same few."""

    def looked_at(nodes: int) -> int:
        world = World()
        for number in range(20):
            world.pool(f"other-{number}", workerTag=f"other-{number}")
        world.pool()
        one = world.requirement().groups[0]
        world.add(one, nodes)
        seen = 0
        state = world.platform.state
        original = state.hungry_for

        def counting(pool: Pool) -> Any:
            nonlocal seen
            seen += 1
            return original(pool)

        state.hungry_for = counting  # type: ignore[method-assign]
        world.add(one, 1)
        return seen

    assert looked_at(200) == looked_at(4000) <= 5


def test_everything_is_over_after_cancel_and_shutdown_at_any_moment_of_a_boot() -> None:
    for moment in range(6):
        world = World(None, Template("local/slow", boot_seconds=3))
        pool = world.pool(target=2, template="local/slow")
        requirement = world.requirement()
        world.add(requirement.groups[0], 4)
        world.clock.advance(moment)
        world.platform.work.transition(requirement, "CANCELLING", abort=True)
        world.platform.settle()
        world.platform.pools.shut_down(pool)
        world.platform.settle()
        status = world.platform.status()
        left = [status[key] for key in ("liveInstances", "unfinishedPools", "unfinishedTasks")]
        assert (left, requirement.status) == ([0, 0, 0], "CANCELLED")


def test_refused_add_leaves_no_trace() -> None:
    world = World()
    one = world.requirement().groups[0]
    with pytest.raises(Problem, match="timeout"):
        world.platform.tasks.add(one, [{"taskType": "bash", "name": "a"}, {"taskType": "bash", "timeout": "soon"}])
    assert (one.tasks, one.counts, one.names, one.unfinished) == ([], {}, set(), 0)
