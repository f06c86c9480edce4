"""What an operator asks of a running emulator: preemptions, faults, outages, and which calls it got."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from raydog.emulator.daemon import Running
from raydog.errors import NotFoundError

Json = dict[str, Any]


def preempt(emulator: Running, names: Iterable[str], warning_seconds: float) -> list[Json]:
    """Take live instances away. Returns them as `Platform.status` shows them; an unknown name ends none.

    A name is an instance's id, host name or address, its node's id, or the id of a task that runs there.
    """
    live: list[Json] = emulator.get("/emulator/status")["instances"]
    chosen = [_find(live, name) for name in names]
    for one in chosen:
        emulator.call("POST", f"/emulator/instances/{one['id']}/preempt", {"warningSeconds": warning_seconds})
    return chosen


def _find(live: list[Json], name: str) -> Json:
    for one in live:
        known = (one["id"], one["hostname"], one["nodeId"], one["privateIpAddress"], one["publicIpAddress"])
        if name in known or name in one["taskIds"]:
            return one
    names = ", ".join(one["hostname"] for one in live) or "none"
    raise NotFoundError(f"no live instance has the id, host name, address, node or task {name}; live ones: {names}")


def add_fault(emulator: Running, settings: Mapping[str, Any]) -> None:
    """Let calls go wrong; the settings are those of `raydog.emulator.faults.Fault`."""
    emulator.call("POST", "/emulator/faults", dict(settings))


def faults(emulator: Running) -> list[Json]:
    """The faults that are still to happen."""
    found: list[Json] = emulator.get("/emulator/faults")
    return found


def clear_faults(emulator: Running) -> None:
    emulator.call("DELETE", "/emulator/faults")


def outage(emulator: Running, seconds: float, status: int | None) -> None:
    """Drop all calls of the platform for so long, or answer them with ``status``."""
    body: Json = {"seconds": seconds}
    if status is not None:
        body["status"] = status
    emulator.call("POST", "/emulator/outage", body)


def change_template(emulator: Running, name: str, settings: Mapping[str, Any]) -> None:
    """Change a template's ``capacity`` (None: unlimited), ``boot_seconds`` or ``boots``."""
    emulator.call("PUT", f"/emulator/templates/{urllib.parse.quote(name)}", dict(settings))


def calls(emulator: Running, operation: str | None, after: int) -> list[Json]:
    """The calls received, oldest first, with a number over ``after``."""
    query = urllib.parse.urlencode({"after": after, "operation": operation or ""})
    found: list[Json] = emulator.get(f"/emulator/calls?{query}")
    return found


def forget_calls(emulator: Running) -> None:
    emulator.call("DELETE", "/emulator/calls")
