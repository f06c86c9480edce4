"""Real instances: Linux namespaces over this machine's own system, with sshd and a YellowDog agent."""

from __future__ import annotations

from .driver import RealDriver

__all__ = ["RealDriver"]
