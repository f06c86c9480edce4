"""What the platform holds: plain records and the status sets of the contract (section 3). No behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from raydog.emulator.clock import Timer
from raydog.emulator.templates import Template

Json: TypeAlias = dict[str, Any]

REQUIREMENT_FINISHED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
GROUP_TERMINATED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
GROUP_TERMINATING = frozenset({"FAILING", "CANCELLING"})
GROUP_ALLOCATES = frozenset({"PENDING", "RUNNING", "FINISHING"})
TASK_WAITING = frozenset({"PENDING", "READY"})
TASK_IN_PROGRESS = frozenset({"ALLOCATED", "DOWNLOADING", "EXECUTING", "UPLOADING"})
TASK_FINISHED = frozenset({"COMPLETED", "FAILED", "ABORTED", "CANCELLED", "DISCARDED", "RESUBMITTED"})
POOL_FINISHED = frozenset({"SHUTDOWN", "TERMINATED"})
NODE_GONE = frozenset({"LOST", "DEREGISTERED", "TERMINATED"})
INSTANCE_ALIVE = frozenset({"PENDING", "RUNNING", "STOPPING", "STOPPED"})


@dataclass(eq=False, slots=True)
class WorkRequirement:
    id: str
    uuid: str
    namespace: str
    name: str
    tag: str | None
    priority: float
    created: float
    status: str
    status_changed: float
    groups: list[TaskGroup] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    """All tasks in the order of their creation: append-only, so that a page's cursor stays valid."""


@dataclass(frozen=True, slots=True)
class RunSpecification:
    """The parsed form of a task group's ``runSpecification``; an empty collection constrains nothing."""

    task_types: frozenset[str]
    worker_tags: tuple[str, ...] = ()
    namespaces: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    instance_types: frozenset[str] = frozenset()
    vcpus: tuple[float | None, float | None] = (None, None)
    ram: tuple[float | None, float | None] = (None, None)
    min_workers: int = 0
    max_workers: int | None = None
    tasks_per_worker: int | None = None
    task_timeout: float | None = None
    max_retries: int = 0
    retry_errors: Json | None = None
    """A Selection of TaskErrorSelector; None matches every error."""
    resubmissions: tuple[tuple[str, Json | None], ...] = ()
    """Where failed tasks go, in order: a group's name, and a Selection as above."""


@dataclass(eq=False, slots=True)
class TaskGroup:
    id: str
    number: int
    requirement: WorkRequirement
    name: str
    tag: str | None
    priority: float
    request: Json
    """What the client sent, for the fields that are only echoed."""
    spec: RunSpecification
    finish_if_all_finished: bool
    finish_if_any_failed: bool
    dependencies: tuple[str, ...]
    completed_ttl: float | None
    """Seconds after which COMPLETED tasks are deleted."""
    status: str
    status_changed: float
    waiting_on_dependency: bool = False
    held_from: str | None = None
    tasks: list[Task] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0
    in_progress: int = 0
    ready: dict[Task, None] = field(default_factory=dict)
    """READY tasks, first come first served (a dict keeps order and drops from the middle in no time)."""


@dataclass(eq=False, slots=True)
class Task:
    id: str
    group: TaskGroup
    request: Json
    name: str | None
    status: str
    retry_count: int = 0
    node_id: str | None = None
    worker_id: str | None = None
    worker: Worker | None = None
    """The worker that it occupies; None when it occupies none (any more)."""
    errors: list[Json] = field(default_factory=list)
    started: float | None = None
    finished: float | None = None
    abort_requested: float | None = None
    resubmitted_to: str | None = None
    resubmitted_from: str | None = None
    deleted: bool = False
    """It keeps its place in the lists, so that pages stay right and its number is not used again."""
    timed_out: bool = False
    timer: Timer | None = None


@dataclass(eq=False, slots=True)
class ComputeRequirement:
    id: str
    uuid: str
    namespace: str
    name: str
    tag: str | None
    template: Template
    usage: Json
    created: float
    status: str
    status_changed: float
    instances: dict[str, Instance] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    target: int = 0
    shortfall: int = 0
    """Instances that are wanted and do not come, because the template has no capacity left."""
    error: str | None = None
    pool: Pool | None = None

    @property
    def alive(self) -> int:
        return self.counts.get("PENDING", 0) + self.counts.get("RUNNING", 0)


@dataclass(eq=False, slots=True)
class Instance:
    id: str
    source_id: str
    compute: ComputeRequirement
    hostname: str
    created: float
    status: str
    status_changed: float
    private_ip: str | None = None
    public_ip: str | None = None
    booted: bool = False
    """Whether the driver knows it."""
    node: Node | None = None
    timer: Timer | None = None


@dataclass(eq=False, slots=True)
class Pool:
    id: str
    namespace: str
    name: str
    properties: Json
    compute: ComputeRequirement
    created: float
    status: str
    status_changed: float
    worker_tag: str | None
    min_nodes: int
    max_nodes: int
    workers_per_node: int
    boot_timeout: float
    idle_node_timeout: float | None
    idle_pool_timeout: float | None
    target: int
    """Nodes to start with; kept up until all of them have registered once."""
    nodes: dict[str, Node] = field(default_factory=dict)
    """All nodes, gone ones too."""
    node_counts: dict[str, int] = field(default_factory=dict)
    worker_counts: dict[str, int] = field(default_factory=dict)
    registered_ever: int = 0
    booting: int = 0
    idle: dict[Worker, None] = field(default_factory=dict)
    """Unclaimed workers, the longest waiting first."""
    newly_idle: dict[Node, None] = field(default_factory=dict)
    claimed: int = 0
    ever_claimed: bool = False
    last_claimed: float | None = None
    last_released: float | None = None
    boot_failures: int = 0
    retry_at: float = 0.0
    idle_timer: Timer | None = None
    retry_timer: Timer | None = None

    @property
    def awaiting_nodes(self) -> bool:
        return self.registered_ever < self.target


@dataclass(eq=False, slots=True)
class Node:
    id: str
    uuid: str
    pool: Pool
    instance: Instance
    status: str
    status_changed: float
    registered: float
    deregistered: float | None = None
    preemption_warning: float | None = None
    draining: bool = False
    claimed: int = 0
    workers: list[Worker] = field(default_factory=list)
    idle_timer: Timer | None = None


@dataclass(eq=False, slots=True)
class Worker:
    id: str
    slot: int
    node: Node
    status: str
    registered: float
    task: Task | None = None
