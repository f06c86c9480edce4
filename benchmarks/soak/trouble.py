"""What goes wrong during a soak: a plan thrown from a seed, and the doing of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from benchmarks.soak.steady import below
from tests.support.daemon import EmulatorDaemon

WORKER_TEMPLATE = "local/worker"
_PAUSE = (3.0, 20.0)
_TAG_SERVERS = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong ``at`` so many seconds after the beginning. ``pick`` (0 to 1) chooses its victim."""

    at: float
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    pick: float = 0.0


def _error(dice: random.Random) -> dict[str, Any]:
    status = dice.choice((429, 500, 503))
    after = {"retry_after": dice.randint(1, 3)} if status != 500 and dice.random() < 0.5 else {}
    return {"action": "status", "status": status, **after, **_some_calls(dice)}


def _drop(dice: random.Random) -> dict[str, Any]:
    return {"action": dice.choice(("drop_before", "drop_after")), **_some_calls(dice)}


def _delay(dice: random.Random) -> dict[str, Any]:
    return {"action": "delay", "seconds": round(dice.uniform(0.5, 6), 1), **_some_calls(dice)}


def _some_calls(dice: random.Random) -> dict[str, Any]:
    """The next few calls, or a part of all calls for a while."""
    if dice.random() < 0.5:
        return {"times": dice.randint(1, 5)}
    seconds = round(dice.uniform(3, 12), 1)
    return {"probability": round(dice.uniform(0.1, 0.6), 2), "for_seconds": seconds, "seed": dice.randrange(10**6)}


def _outage(dice: random.Random) -> dict[str, Any]:
    return {"action": "drop_before", "for_seconds": round(dice.uniform(8, 25), 1)}


def _warning(dice: random.Random) -> dict[str, Any]:
    return {"seconds": round(dice.uniform(3, 20), 1)}


def _shortage(dice: random.Random) -> dict[str, Any]:
    return {"seconds": round(dice.uniform(5, 30), 1)}


def _nothing(_dice: random.Random) -> dict[str, Any]:
    return {}


_KINDS: dict[str, tuple[int, Callable[[random.Random], dict[str, Any]]]] = {
    "error": (5, _error),
    "drop": (5, _drop),
    "delay": (3, _delay),
    "outage": (2, _outage),
    "preempt": (2, _nothing),
    "warn": (2, _warning),
    "vanish": (2, _nothing),
    "tag server": (2, _nothing),
    "no capacity": (2, _shortage),
}
"""How often each comes (in proportion), and what else is thrown for it."""


def plan(seed: int, seconds: float) -> list[Trouble]:
    """All troubles of a soak of so many seconds, in order: the same for the same seed, however long the soak is."""
    dice = random.Random(f"trouble {seed}")  # noqa: S311 - repeatable, not secret
    kinds = list(_KINDS)
    weights = [_KINDS[kind][0] for kind in kinds]
    found: list[Trouble] = []
    at = dice.uniform(*_PAUSE)
    while at < seconds:
        (kind,) = dice.choices(kinds, weights)
        found.append(Trouble(round(at, 1), kind, _KINDS[kind][1](dice), dice.random()))
        at += dice.uniform(*_PAUSE)
    backs = [Trouble(one.at + one.settings["seconds"], "capacity") for one in found if one.kind == "no capacity"]
    return sorted([*found, *backs], key=lambda one: one.at)


class Troublemaker:
    """Lets troubles happen to one emulator and the one cluster on it."""

    def __init__(self, platform: EmulatorDaemon, process: int) -> None:
        """``process`` is the emulator's."""
        self._platform = platform
        self._process = process
        self._short = 0

    def make(self, trouble: Trouble) -> str | None:
        """Let it happen; what happened, in words. None if there is nothing now that it could happen to."""
        settings = trouble.settings
        if trouble.kind in {"error", "drop", "delay", "outage"}:
            self._platform.fault("*", **settings)
            return " ".join(f"{name}={value}" for name, value in settings.items())
        if trouble.kind == "no capacity":
            self._short += 1
            self._platform.template(WORKER_TEMPLATE, capacity=0)
            return f"none of {WORKER_TEMPLATE} for {settings['seconds']} s"
        if trouble.kind == "capacity":
            self._short -= 1
            if self._short:
                return None
            self._platform.template(WORKER_TEMPLATE, capacity=None)
            return f"{WORKER_TEMPLATE} is to be had again"
        if trouble.kind == "tag server":
            return self._kill_tag_server()
        return self._take_worker(trouble)

    def end(self) -> None:
        """From now on nothing goes wrong any more."""
        self._platform.clear_faults()
        self._platform.template(WORKER_TEMPLATE, capacity=None)

    def _kill_tag_server(self) -> str | None:
        for process, arguments in below(self._process).items():
            program = arguments[0].split(" ")[0]  # it writes its address there, too
            if program.rpartition("/")[2] in _TAG_SERVERS:
                os.kill(process, signal.SIGKILL)
                return f"process {process} killed"
        return None

    def _take_worker(self, trouble: Trouble) -> str | None:
        workers = sorted(self._platform.instances("-worker-"), key=lambda one: str(one["hostname"]))
        workers = [one for one in workers if one["privateIpAddress"]]
        if not workers:
            return None
        victim = workers[int(trouble.pick * len(workers))]
        host, address = str(victim["hostname"]), str(victim["privateIpAddress"])
        try:
            if trouble.kind == "vanish":
                self._platform.kill_instance(host)
                return f"{host} killed"
            self._platform.preempt(address, trouble.settings.get("seconds", 0.0))
        except (ValueError, ProcessLookupError, subprocess.CalledProcessError, requests.HTTPError):
            return None  # it left at this very moment
        return f"{host} goes" + (f" in {trouble.settings['seconds']} s" if trouble.settings else "")
