"""``/workerPools/`` and ``/compute/`` (contract, sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raydog.emulator import encode
from raydog.emulator.entities import Instance, Node
from raydog.emulator.fleet import PROVIDER, REGION
from raydog.emulator.problems import invalid
from raydog.emulator.requests import as_list, as_object
from raydog.emulator.rest.call import Call, Updates
from raydog.emulator.rest.routes import Route
from raydog.emulator.rest.work import SORTS, common_filters


def provision_pool(call: Call) -> Any:
    return encode.worker_pool(call.platform.pools.provision(call.body), call.now)


def get_pool(call: Call) -> Any:
    return encode.worker_pool(call.platform.pools.find(call.path["id"]), call.now)


def get_pool_by_name(call: Call) -> Any:
    pool = call.platform.pools.find_by_name(call.path["namespace"], call.path["name"])
    return encode.worker_pool(pool, call.now)


def pool_updates(call: Call) -> Any:
    one, clock = call.platform.pools.find(call.path["id"]), call.platform.clock
    return Updates(one.id, lambda: encode.worker_pool(one, clock.now()), lambda: one.status == "TERMINATED")


def search_pools(call: Call) -> Any:
    filters = common_filters(call)
    healthy, kind = call.flag("isHealthy"), call.text("type")
    if healthy is not None:
        filters.append(lambda one: encode.pool_is_healthy(one) is healthy)
    if kind is not None:
        filters.append(lambda _one: kind.endswith("ProvisionedWorkerPool"))
    items = list(call.platform.state.pools.values())
    if call.flag("sliced"):
        return call.page(items, filters, encode.worker_pool_summary, SORTS)
    return [encode.worker_pool_summary(one) for one in items if all(keep(one) for keep in filters)]


def resize_pool(call: Call) -> Any:
    size = call.number("size")
    if size is None:
        raise invalid("size is missing")
    pools = call.platform.pools
    return encode.worker_pool(pools.resize(pools.find(call.path["id"]), size), call.now)


def shut_down_pool(call: Call) -> Any:
    pools = call.platform.pools
    pool = pools.find(call.path["id"])
    pools.shut_down(pool)
    return encode.worker_pool(pool, call.now)


def get_node(call: Call) -> Any:
    return encode.node(call.platform.pools.find_node(call.path["id"]))


def get_node_of_worker(call: Call) -> Any:
    return encode.node(call.platform.pools.find_node_of_worker(call.path["id"]))


def shut_down_node(call: Call) -> Any:
    pools = call.platform.pools
    return encode.node(pools.shut_down_node(pools.find_node(call.path["id"])))


_NODE_FILTERS: dict[str, Callable[[Node], str | None]] = {
    "instanceId": lambda one: one.instance.id,
    "region": lambda _one: REGION,
    "instanceType": lambda one: one.pool.compute.template.instance_type,
    "workerTag": lambda one: one.pool.worker_tag,
}
_NODE_TIMES: dict[str, Callable[[Node], float | None]] = {
    "registeredTime": lambda one: one.registered,
    "workerRegisteredTime": lambda one: one.registered,
    "deregisteredTime": lambda one: one.deregistered,
    "preemptionWarningTime": lambda one: one.preemption_warning,
}


_NODE_SIZES: dict[str, Callable[[Node], float]] = {
    "vcpus": lambda one: one.pool.compute.template.cpus,
    "ram": lambda one: one.pool.compute.template.ram_gb,
}


def search_nodes(call: Call) -> Any:
    state = call.platform.state
    filters: list[Callable[[Node], bool]] = []
    for key, read in _NODE_FILTERS.items():
        wanted = call.text(key)
        if wanted is not None:
            filters.append(lambda one, read=read, wanted=wanted: read(one) == wanted)  # type: ignore[misc]
    for key, moment in _NODE_TIMES.items():
        within = call.instants(key)
        if within is not None:
            filters.append(lambda one, moment=moment, within=within: within(moment(one)))  # type: ignore[misc]
    for key, size in _NODE_SIZES.items():
        fits = call.numbers(key)
        if fits is not None:
            filters.append(lambda one, size=size, fits=fits: fits(size(one)))  # type: ignore[misc]
    statuses, providers = call.texts("statuses"), call.texts("providers")
    worker_statuses, group_id = call.texts("workerStatuses"), call.text("workerTaskGroupId")
    if statuses:
        filters.append(lambda one: one.status in statuses)
    if providers:
        filters.append(lambda _one: PROVIDER in providers)
    if worker_statuses:
        filters.append(lambda one: any(worker.status in worker_statuses for worker in one.workers))
    if group_id is not None:
        filters.append(lambda one: any(worker.task and worker.task.group.id == group_id for worker in one.workers))
    pool_id = call.text("workerPoolId")
    if pool_id is None:
        items = list(state.nodes.values())
    else:
        pool = state.pools.get(pool_id)
        items = list(pool.nodes.values()) if pool is not None else []
    sorts: dict[str, Callable[[Node], Any]] = {
        "status": lambda one: one.status,
        "registeredTime": lambda one: one.registered,
    }
    return call.page(items, filters, encode.node, sorts)


def get_compute(call: Call) -> Any:
    return encode.compute_requirement(call.platform.pools.find_compute(call.path["id"]), call.now)


def get_compute_by_name(call: Call) -> Any:
    compute = call.platform.pools.find_compute_by_name(call.path["namespace"], call.path["name"])
    return encode.compute_requirement(compute, call.now)


def compute_updates(call: Call) -> Any:
    one, clock = call.platform.pools.find_compute(call.path["id"]), call.platform.clock
    return Updates(one.id, lambda: encode.compute_requirement(one, clock.now()), lambda: one.status == "TERMINATED")


def search_computes(call: Call) -> Any:
    filters = common_filters(call)
    healthy = call.flag("isHealthy")
    if healthy is not None:
        filters.append(lambda one: (one.error is None) is healthy)
    items = list(call.platform.state.computes.values())
    if call.flag("summaries"):
        return call.page(items, filters, encode.compute_requirement_summary, SORTS)
    now = call.now
    return call.page(items, filters, lambda one: encode.compute_requirement(one, now), SORTS)


def transition_compute(call: Call) -> Any:
    pools = call.platform.pools
    compute = pools.find_compute(call.path["id"])
    if call.path["status"] != "TERMINATED":
        raise invalid(
            f"The RayDog emulator does not implement the transition of a compute requirement to "
            f"{call.path['status']}, only to TERMINATED"
        )
    return encode.compute_requirement(pools.terminate(compute), call.now)


def transition_instances(call: Call) -> Any:
    if call.path["status"] != "TERMINATED":
        raise invalid(
            f"The RayDog emulator does not implement the transition of instances to {call.path['status']}, "
            "only to TERMINATED"
        )
    pools = call.platform.pools
    compute = pools.find_compute(call.path["id"])
    ids = [as_object(item, "an instance id").get("instanceId") for item in as_list(call.body, "the instances")]
    pools.terminate_instances(compute, [str(one) for one in ids])
    return encode.compute_requirement(compute, call.now)


def is_updating(call: Call) -> Any:
    compute = call.platform.pools.find_compute(call.path["id"])
    return compute.status in {"NEW", "PROVISIONING", "TERMINATING"}


_INSTANCE_FILTERS: dict[str, Callable[[Instance], str | None]] = {
    "statuses": lambda one: one.status,
    "instanceId": lambda one: one.id,
    "computeSourceId": lambda one: one.source_id,
    "providers": lambda _one: PROVIDER,
    "regions": lambda _one: REGION,
    "imageIds": encode.image_of,
    "publicIpAddress": lambda one: one.public_ip,
    "privateIpAddress": lambda one: one.private_ip,
    "hostname": lambda one: one.hostname,
}


def search_instances(call: Call) -> Any:
    state = call.platform.state
    filters: list[Callable[[Instance], bool]] = []
    for key, read in _INSTANCE_FILTERS.items():
        wanted = call.texts(key)
        if wanted:
            filters.append(lambda one, read=read, wanted=wanted: read(one) in wanted)  # type: ignore[misc]
    compute_id = call.text("computeRequirementId")
    if compute_id is None:
        items = list(state.instances.values())
    else:
        compute = state.computes.get(compute_id)
        items = list(compute.instances.values()) if compute is not None else []
    sorts: dict[str, Callable[[Instance], Any]] = {
        "status": lambda one: one.status,
        "createdTime": lambda one: one.created,
    }
    return call.page(items, filters, encode.instance, sorts)


_POOLS = "/workerPools"
_COMPUTE = "/compute/requirements"

ROUTES = (
    Route("POST", _POOLS + "/provisioned/template", "provision_worker_pool", provision_pool),
    Route("PUT", _POOLS + "/provisioned/{id}", "resize_worker_pool", resize_pool),
    Route("GET", _POOLS, "get_worker_pools", search_pools),
    Route("GET", _POOLS + "/nodes", "get_nodes", search_nodes),
    Route("GET", _POOLS + "/nodes/{id}", "get_node_by_id", get_node),
    Route("DELETE", _POOLS + "/nodes/{id}", "shutdown_node", shut_down_node),
    Route("GET", _POOLS + "/workers/{id}/node", "get_node_by_worker_id", get_node_of_worker),
    Route("GET", _POOLS + "/{id}", "get_worker_pool_by_id", get_pool),
    Route("DELETE", _POOLS + "/{id}", "shutdown_worker_pool", shut_down_pool),
    Route("GET", _POOLS + "/{id}/updates", "get_worker_pool_updates", pool_updates),
    Route("GET", _POOLS + "/{namespace}/{name}", "get_worker_pool_by_name", get_pool_by_name),
    Route("GET", "/compute/instances", "get_instances", search_instances),
    Route("GET", _COMPUTE, "get_compute_requirements", search_computes),
    Route("GET", _COMPUTE + "/{id}", "get_compute_requirement_by_id", get_compute),
    Route(
        "GET",
        "/compute/namespaces/{namespace}/requirements/{name}",
        "get_compute_requirement_by_name",
        get_compute_by_name,
    ),
    Route("GET", _COMPUTE + "/{id}/updating", "is_compute_requirement_updating", is_updating),
    Route("GET", _COMPUTE + "/{id}/updates", "get_compute_requirement_updates", compute_updates),
    Route("PUT", _COMPUTE + "/{id}/transition/{status}", "terminate_compute_requirement", transition_compute),
    Route("PUT", _COMPUTE + "/{id}/instances/transition/{status}", "terminate_instances", transition_instances),
)
