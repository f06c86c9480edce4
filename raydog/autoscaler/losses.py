"""Nodes whose machines go away by themselves: those that are lost end at once, those that are warned are drained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from raydog.errors import RayDogError
from raydog.yellowdog.machines import MachineWatch
from raydog.yellowdog.records import NodeRecord
from raydog.yellowdog.view import ClusterView

logger = logging.getLogger(__name__)


WARNED = "PreemptionWarning"
"""What is noted of a node whose machine is about to go."""


class Drain(Protocol):
    """Has Ray drain a node by its name, and its cloud provider's; returns at once."""

    def __call__(self, name: str, provider: str) -> None: ...


class Losses:
    """Called by the one thread that sweeps. ``terminate`` ends nodes by name; ``note`` keeps what happened to one."""

    def __init__(
        self,
        terminate: Callable[[Sequence[str]], None],
        drain: Drain,
        note: Callable[[NodeRecord, str, str], None],
    ) -> None:
        self._terminate = terminate
        self._drain = drain
        self._note = note
        self._warned: dict[str, None] = {}  # by name
        self._lost: set[str] = set()
        self._silent = False

    def look_after(self, view: ClusterView, machines: MachineWatch) -> None:
        """Ask the platform for news of machines and act on it. A failure of that is only logged."""
        try:
            machines.look()
        except RayDogError as error:
            if not self._silent:
                logger.warning("lost machines and preemption warnings are not seen for now: %s", error)
            self._silent = True
            return
        self._silent = False
        if not machines.lost and not machines.warned:
            return
        for node in view.nodes().values():
            machine = node.platform_node_id
            if machine is None:
                continue
            if machine in machines.lost:
                self._end(node)
            elif machine in machines.warned and node.name not in self._warned:
                self._warned[node.name] = None
                provider = machines.warned[machine].provider
                self._note(node, WARNED, f"its machine is about to be taken away ({provider})")
                self._drain(node.name, provider)

    def was_warned(self, name: str) -> bool:
        """Whether a node's end was announced."""
        return name in self._warned

    def _end(self, node: NodeRecord) -> None:
        # Its task should fail by itself; until it has, nobody would know that the node is no more.
        if node.name not in self._lost:
            self._lost.add(node.name)
            self._note(node, "NodeLost", "the platform has lost its machine, though its task has not failed yet")
        self._terminate([node.name])
