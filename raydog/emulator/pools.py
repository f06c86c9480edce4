"""What clients ask of worker pools and compute requirements, checked and handed to the fleet."""

from __future__ import annotations

import math

from raydog.emulator.entities import (
    INSTANCE_ALIVE,
    NODE_GONE,
    POOL_FINISHED,
    ComputeRequirement,
    Json,
    Node,
    Pool,
)
from raydog.emulator.fleet import Fleet
from raydog.emulator.ids import new_uuid, ydid
from raydog.emulator.problems import invalid, not_found
from raydog.emulator.requests import as_count, as_flag, as_number, as_object, as_text, as_text_map, shutdown_timeout
from raydog.emulator.state import State
from raydog.emulator.templates import Template, Templates
from raydog.emulator.wire import check_name, check_tag, parse_duration

MAX_INSTANCES = 10_000
DEFAULT_BOOT_TIMEOUT_SECONDS = 600.0


class Pools:
    """Provisions, resizes, finds and ends worker pools, nodes and compute requirements."""

    def __init__(self, state: State, fleet: Fleet, templates: Templates) -> None:
        self._state = state
        self._fleet = fleet
        self._templates = templates

    def find(self, pool_id: str) -> Pool:
        pool = self._state.pools.get(pool_id)
        if pool is None:
            raise not_found("worker pool", pool_id)
        return pool

    def find_by_name(self, namespace: str, name: str) -> Pool:
        pool = self._state.pool_names.get((namespace, name))
        if pool is None:
            raise not_found("worker pool", f"{namespace}/{name}")
        return pool

    def find_node(self, node_id: str) -> Node:
        node = self._state.nodes.get(node_id)
        if node is None:
            raise not_found("node", node_id)
        return node

    def find_node_of_worker(self, worker_id: str) -> Node:
        worker = self._state.workers.get(worker_id)
        if worker is None:
            raise not_found("worker", worker_id)
        return worker.node

    def find_compute(self, compute_id: str) -> ComputeRequirement:
        compute = self._state.computes.get(compute_id)
        if compute is None:
            raise not_found("compute requirement", compute_id)
        return compute

    def find_compute_by_name(self, namespace: str, name: str) -> ComputeRequirement:
        compute = self._state.compute_names.get((namespace, name))
        if compute is None:
            raise not_found("compute requirement", f"{namespace}/{name}")
        return compute

    def provision(self, body: object) -> Pool:
        """A pool and its compute requirement, both named ``requirementName``, from a template."""
        request = as_object(body, "the request")
        usage = as_object(request.get("requirementTemplateUsage"), "requirementTemplateUsage")
        properties = as_object(request.get("provisionedProperties") or {}, "provisionedProperties")
        namespace = check_name(usage.get("requirementNamespace"), "requirementNamespace")
        name = check_name(usage.get("requirementName"), "requirementName")
        template = self._templates.require(usage.get("templateId"))
        target = as_count(usage.get("targetInstanceCount"), "targetInstanceCount", 0)
        if target > MAX_INSTANCES:
            raise invalid(f"targetInstanceCount {target} is over the limit of {MAX_INSTANCES}")
        if as_flag(usage.get("maintainInstanceCount"), "maintainInstanceCount", False):
            raise invalid("maintainInstanceCount must be false for a worker pool")
        tag = check_tag(usage.get("requirementTag"), name)
        as_text(usage.get("userData"), "userData")
        as_text(usage.get("imagesId"), "imagesId")
        as_text_map(usage.get("instanceTags"), "instanceTags")
        key = (namespace, name)
        taken = self._state.pool_names.get(key)
        if taken is not None and taken.status not in POOL_FINISHED:
            raise invalid(f"A worker pool named {name} already exists in namespace {namespace}")
        pool = self._make(namespace, name, tag, template, usage, properties, target)
        state = self._state
        state.computes[pool.compute.id] = state.compute_names[key] = pool.compute
        state.pools[pool.id] = state.pool_names[key] = pool
        state.namespace_id(namespace, lambda: ydid("namespace", new_uuid()))
        state.add_live_pool(pool)
        return pool

    def _make(
        self,
        namespace: str,
        name: str,
        tag: str | None,
        template: Template,
        usage: Json,
        properties: Json,
        target: int,
    ) -> Pool:
        now = self._state.clock.now()
        minimum = as_count(properties.get("minNodes"), "minNodes", 0)
        maximum = as_count(properties.get("maxNodes"), "maxNodes", MAX_INSTANCES)
        if minimum > maximum:
            raise invalid(f"minNodes {minimum} is more than maxNodes {maximum}")
        if target > maximum:
            raise invalid(f"targetInstanceCount {target} is more than maxNodes {maximum}")
        boot_timeout = properties.get("nodeBootTimeout")
        worker_tag = check_tag(properties.get("workerTag"), f"the workers of {name}")
        idle_node = shutdown_timeout(properties.get("idleNodeShutdown"), "idleNodeShutdown")
        idle_pool = shutdown_timeout(properties.get("idlePoolShutdown"), "idlePoolShutdown")
        workers = _workers_per_node(properties, template)
        if properties.get("nodeConfiguration"):
            raise invalid("nodeConfiguration: the RayDog emulator has no node types and node events")
        uuid = new_uuid()
        compute = ComputeRequirement(
            id=ydid("compreq", uuid),
            uuid=uuid,
            namespace=namespace,
            name=name,
            tag=tag,
            template=template,
            usage=usage,
            created=now,
            status="NEW",
            status_changed=now,
            target=target,
        )
        pool = Pool(
            id=ydid("wrkrpool", new_uuid()),
            namespace=namespace,
            name=name,
            properties=properties,
            compute=compute,
            created=now,
            status="PENDING",
            status_changed=now,
            worker_tag=worker_tag,
            min_nodes=minimum,
            max_nodes=min(maximum, MAX_INSTANCES),
            workers_per_node=workers,
            boot_timeout=(
                DEFAULT_BOOT_TIMEOUT_SECONDS
                if boot_timeout is None
                else parse_duration(boot_timeout, "nodeBootTimeout")
            ),
            idle_node_timeout=idle_node,
            idle_pool_timeout=idle_pool,
            target=target,
        )
        compute.pool = pool
        return pool

    def resize(self, pool: Pool, size: int) -> Pool:
        """Grow at once; shrink by shutting down nodes, those without work first."""
        if pool.status in POOL_FINISHED:
            raise invalid(f"worker pool {pool.name} is {pool.status} and cannot be resized")
        if pool.awaiting_nodes:
            raise invalid(f"worker pool {pool.name} cannot be resized: it is awaiting nodes")
        if not pool.min_nodes <= size <= pool.max_nodes:
            raise invalid(f"size {size} is not within minNodes {pool.min_nodes} and maxNodes {pool.max_nodes}")
        surplus = pool.compute.alive - size
        if surplus <= 0:
            self._fleet.resize_to(pool, size)
            return pool
        alive = [one for one in pool.compute.instances.values() if one.status in INSTANCE_ALIVE]
        alive.sort(key=lambda one: one.node.claimed if one.node else 0)
        for instance in alive[:surplus]:
            if instance.node is None:
                self._fleet.end_instance(instance, "TERMINATED", "the worker pool was resized")
            else:
                self._fleet.drain(instance.node)
        return pool

    def shut_down(self, pool: Pool) -> None:
        """Already finished is success: RayDog and others shut down twice."""
        self._fleet.shut_down(pool)

    def shut_down_node(self, node: Node) -> Node:
        if node.status not in NODE_GONE:
            self._fleet.drain(node)
        return node

    def terminate(self, compute: ComputeRequirement) -> ComputeRequirement:
        self._fleet.terminate(compute)
        return compute

    def terminate_instances(self, compute: ComputeRequirement, instance_ids: list[str]) -> None:
        unknown = [instance_id for instance_id in instance_ids if instance_id not in compute.instances]
        if unknown:
            raise invalid(f"instance {unknown[0]} is not one of compute requirement {compute.name}")
        for instance_id in instance_ids:
            self._fleet.end_instance(compute.instances[instance_id], "TERMINATED", "the instance was terminated")


def _workers_per_node(properties: Json, template: Template) -> int:
    target = properties.get("createNodeWorkers")
    if target is None:
        return 1
    body = as_object(target, "createNodeWorkers")
    count = as_number(body.get("targetCount"), "createNodeWorkers.targetCount", 1)
    kind = body.get("targetType", "PER_NODE")
    if count < 0:
        raise invalid(f"createNodeWorkers.targetCount is negative: {count}")
    if kind == "PER_NODE":
        return as_count(count, "createNodeWorkers.targetCount", 1)
    if kind == "PER_VCPU":
        return math.floor(count * template.cpus)
    raise invalid(f"createNodeWorkers.targetType {kind!r}: the RayDog emulator knows PER_NODE and PER_VCPU")
