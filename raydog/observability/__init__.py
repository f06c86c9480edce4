"""The observability node: Prometheus and Grafana on a machine of their own, fed with what only Ray's head knows.

Two pieces of bash, complete in themselves, since nodes need not have RayDog::

    node_script()   the observability node's task
    head_part()     a part of the head's task, before `ray start`; without $OBSERVABILITY_HOST it does nothing

``python -m raydog.observability node`` (or ``head``) prints them. How they work together: ``docs/observability.md``.
"""

from raydog.observability.scripts import GRAFANA_PORT, PROMETHEUS_PORT, RECEIVER_PORT, head_part, node_script

__all__ = ["GRAFANA_PORT", "PROMETHEUS_PORT", "RECEIVER_PORT", "head_part", "node_script"]
