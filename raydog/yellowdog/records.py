"""The platform's things as RayDog sees them: small, frozen, free of SDK models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class NodeState(Enum):
    """What matters of a task's status: is the node still to come, here, or gone."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


_STATES = {
    "PENDING": NodeState.PENDING,
    "READY": NodeState.PENDING,
    "ALLOCATED": NodeState.PENDING,
    "DOWNLOADING": NodeState.PENDING,
    "EXECUTING": NodeState.RUNNING,
    "UPLOADING": NodeState.ENDED,  # its process has ended; the platform still tidies up
    "COMPLETED": NodeState.ENDED,
    "FAILED": NodeState.ENDED,
    "ABORTED": NodeState.ENDED,
    "CANCELLED": NodeState.ENDED,
    "DISCARDED": NodeState.ENDED,
    "RESUBMITTED": NodeState.ENDED,
}
FINISHED_TASK_STATUSES = ("COMPLETED", "FAILED", "ABORTED", "CANCELLED", "DISCARDED", "RESUBMITTED")
UNFINISHED_TASK_STATUSES = ("PENDING", "READY", "ALLOCATED", "DOWNLOADING", "EXECUTING", "UPLOADING")


def state_of(task_status: str) -> NodeState:
    """A platform task status as a node state. One that is not known counts as alive: it may cost money, and who takes a
    live node for ended forgets it."""
    return _STATES.get(task_status, NodeState.PENDING)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node of a cluster: a task. ``name`` is the task's name and Ray's node id."""

    name: str
    task_id: str
    group_id: str
    status: str
    """The platform's task status."""
    platform_node_id: str | None = None
    """The id of the YellowDog node that runs the task, once it is allocated."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    started: datetime | None = None
    finished: datetime | None = None
    timeout_seconds: float | None = None
    """How long after ``started`` the platform ends it."""
    abort_requested: bool = False
    reason: str | None = None
    """Why it ended, in the platform's words."""

    @property
    def state(self) -> NodeState:
        return state_of(self.status)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node is reached. The public address is missing on private networks."""

    private_ip: str
    public_ip: str | None = None


@dataclass(frozen=True)
class GroupRecord:
    """A task group of a cluster's work requirement."""

    group_id: str
    name: str
    tag: str
    status: str
    tasks: Mapping[str, int] = field(default_factory=dict)
    """How many of its tasks have which status, as the platform last counted them."""


@dataclass(frozen=True)
class ClusterRecord:
    """A work requirement that is a RayDog cluster."""

    requirement_id: str
    name: str
    """The work requirement's name, ``<cluster>-<id>``."""
    cluster_id: str
    namespace: str
    status: str
    created: datetime
    groups: tuple[GroupRecord, ...] = ()

    def group(self, name: str) -> GroupRecord | None:
        return next((group for group in self.groups if group.name == name), None)


@dataclass(frozen=True)
class PoolRecord:
    """A provisioned worker pool."""

    pool_id: str
    name: str
    status: str
    worker_tag: str
    compute_requirement_id: str | None
    registered: int = 0
    """How many of its machines are nodes now."""
    template: str | None = None
    """What its machines are made from, where this process has asked for them."""

    @property
    def live(self) -> bool:
        """Whether it can still give nodes."""
        return self.status not in ("SHUTDOWN", "TERMINATED")


@dataclass(frozen=True)
class MachineWarning:
    """A machine has said that its cloud will take it away."""

    platform_node_id: str
    provider: str
    """The cloud, in the platform's words: AWS, GOOGLE, ..."""


@dataclass(frozen=True)
class Supply:
    """What a compute requirement has got of the machines that it was asked for."""

    alive: int | None
    """Machines that boot or run; None if the platform does not say."""
    failed: bool
    """Whether one of its sources is in error."""
    messages: tuple[str, ...] = ()
    """What its sources say of trouble (no capacity, refused credentials)."""


@dataclass(frozen=True)
class PoolRequest:
    """A worker pool to provision. Each of its nodes has one worker."""

    name: str
    template: str
    worker_tag: str
    initial_nodes: int
    max_nodes: int
    tag: str | None = None
    images_id: str | None = None
    user_data: str | None = None
    instance_tags: Mapping[str, str] | None = None
    metrics_enabled: bool | None = None
    boot_timeout_seconds: float | None = None
    idle_node_seconds: float = 0.0
    idle_pool_seconds: float = 0.0


@dataclass(frozen=True)
class GroupRequest:
    """A task group to add to a work requirement; its tasks run on workers with ``worker_tag``."""

    name: str
    tag: str
    worker_tag: str
    task_timeout_seconds: float | None
    """None: its tasks may run for ever."""
    finish_if_any_task_failed: bool = False
    finish_if_all_tasks_finished: bool = False


@dataclass(frozen=True)
class NodeRequest:
    """A node to start: a task that runs ``script`` with bash."""

    name: str
    script: str
    environment: Mapping[str, str]
    timeout_seconds: float | None
    """None: as the task group says."""
    tag: str | None = None
