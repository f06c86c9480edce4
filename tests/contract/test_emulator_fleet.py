"""A thousand nodes through the real SDK; how fast is the benchmark's matter."""

from __future__ import annotations

from yellowdog_client.model import InstanceSearch, NodeSearch, NodeStatus, SliceReference, TaskSearch, TaskStatus

from tests.support.emulator import groups, task_group, yellowdog

NODES = 1_000


def test_a_thousand_tasks_of_one_call_get_a_thousand_nodes_that_all_end_with_them() -> None:
    with yellowdog() as yd:
        requirement = yd.requirement("work", task_group("fleet", finishIfAllTasksFinished=False))
        pool = yd.pool(maxNodes=100_000)
        yd.add(requirement, NODES)
        work, pools = yd.client.work_client, yd.client.worker_pool_client
        page = work.find_tasks_slice(TaskSearch(workRequirementId=requirement.id), SliceReference(size=NODES))
        tasks = page.items or []
        assert (len(tasks), page.nextSliceId) == (NODES, None)
        assert {task.status for task in tasks} == {TaskStatus.EXECUTING}
        assert len({task.nodeId for task in tasks}) == NODES
        nodes = pools.find_nodes(NodeSearch(workerPoolId=pool.id, statuses=[NodeStatus.RUNNING]))
        assert {str(node.id) for node in nodes} == {str(task.nodeId) for task in tasks}
        instances = yd.client.compute_client.get_instances(
            InstanceSearch(computeRequirementId=pool.computeRequirementId)
        ).list_all()
        assert len({one.privateIpAddress for one in instances}) == NODES
        work.cancel_work_requirement(requirement, True)
        status = yd.emulator.status()
        assert (status["liveInstances"], status["unfinishedTasks"]) == (0, 0)
        assert len(groups(yd.read(requirement))) == 1
