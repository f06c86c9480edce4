"""The cluster's time: how much is left, and its end.

The platform ends every task when its time is over, whatever has happened to everybody else. What waits for a machine
has no such limit there, so the head, if it lives, ends the whole cluster itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

from raydog.autoscaler.config import ClusterConfig
from raydog.errors import ProvisioningError
from raydog.yellowdog.records import ClusterRecord


class Lifetime:
    """Counts from the making of the work requirement, by the platform's clock and this machine's."""

    def __init__(self, config: ClusterConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lifetime = config.lifetime
        self._boot = config.head_build_timeout.total_seconds()
        self._monotonic = monotonic
        self._began = monotonic()

    def remaining(self, cluster: ClusterRecord) -> float:
        """Seconds that a new task may run. Raises `ProvisioningError` if there are none."""
        remaining = self._left(cluster)
        if remaining <= 0:
            hours = self._lifetime.total_seconds() / 3600
            raise ProvisioningError(
                f"the cluster's lifetime (cluster_lifetime_hours: {hours:g}) is over", "LifetimeOver"
            )
        return remaining

    def is_over(self, cluster: ClusterRecord) -> bool:
        """Whether the cluster is to be ended now.

        That cannot be undone, so a clock that is wrong does not suffice: this process must have run for about as long.
        After a restart of it that may never be so, and the platform's own limits must do.
        """
        ran = self._monotonic() - self._began
        return self._left(cluster) <= 0 and ran >= self._lifetime.total_seconds() - self._boot

    def _left(self, cluster: ClusterRecord) -> float:
        return (self._lifetime - (datetime.now(timezone.utc) - cluster.created)).total_seconds()
