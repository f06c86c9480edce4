"""What the platform knows of machines before it shows in tasks: which are lost, and which the cloud will take away.

Tasks of a lost machine fail, but nothing says how soon; and a warning changes nothing at a task. Each look is one call,
in turns, so that it can be part of every sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import datetime, timedelta

from raydog.yellowdog.gateway import Gateway
from raydog.yellowdog.records import MachineWarning

_EARLIER = timedelta(minutes=10)  # the platform's times are not all of one clock


class MachineWatch:
    """Machines that have registered ``since``, whoever's they are, by their platform node ids. Not thread-safe."""

    def __init__(self, gateway: Gateway, since: datetime) -> None:
        self._gateway = gateway
        self._since = since - _EARLIER
        self._lost: frozenset[str] = frozenset()
        self._warned: Mapping[str, MachineWarning] = {}
        self._warnings_next = False

    def look(self) -> None:
        """Ask for one kind of news, the next time for the other. Raises what the gateway raises."""
        warnings, self._warnings_next = self._warnings_next, not self._warnings_next
        if warnings:
            found = self._gateway.warned_machines(self._since)
            self._warned = {warning.platform_node_id: warning for warning in found}
        else:
            self._lost = frozenset(self._gateway.lost_machines(self._since))

    @property
    def lost(self) -> Set[str]:
        """Those whose heartbeat has not come for so long that the platform does not expect it any more."""
        return self._lost

    @property
    def warned(self) -> Mapping[str, MachineWarning]:
        """Those that have said that they will be taken away."""
        return self._warned
