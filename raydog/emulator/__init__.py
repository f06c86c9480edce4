"""A YellowDog on this machine: the platform's REST API, its scheduling rules, and nodes to run on.

`Emulator` is the platform inside this process, for tests; ``raydog emulator start`` runs the same as a daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydog.emulator.clock import VirtualClock
    from raydog.emulator.server import Emulator

__all__ = ["Emulator", "VirtualClock"]


def __getattr__(name: str) -> object:
    """Import on first use: the daemon's `status` and `stop` need no web server."""
    if name == "Emulator":
        from raydog.emulator.server import Emulator  # noqa: PLC0415

        return Emulator
    if name == "VirtualClock":
        from raydog.emulator.clock import VirtualClock  # noqa: PLC0415

        return VirtualClock
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
