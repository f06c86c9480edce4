"""The page's live view: lines of JSON on one open answer, each with the parts that changed.

Changes are coalesced. A line is made when the state's revision has moved, at most every `SHORTEST_PAUSE` seconds, and
so seldom that making it never takes more than a twentieth of the emulator's time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from raydog.emulator.page.load import Load, LoadSampler
from raydog.emulator.page.view import View, snapshot
from raydog.emulator.platform import Platform

SHORTEST_PAUSE = 0.25
SHARE = 20
"""A line that took ``t`` seconds to make is followed by a pause of at least ``SHARE * t``."""
KEEP_ALIVE = 10.0
LOAD_SECONDS = 2.0
FIRST_OUTPUT = 200_000
"""Characters of a task's output that a page gets at first: the last ones."""
_ANCHOR = 512


class OutputTail:
    """What a task's output has gained since the last look. Only the last part of an output is kept anywhere."""

    def __init__(self) -> None:
        self._seen: str | None = None

    def advance(self, output: str | None) -> dict[str, Any] | None:
        """``{"text", "restart"}``, None if there is nothing new; ``restart``: it replaces what was shown."""
        if output is None or output == self._seen:
            return None
        before, self._seen = self._seen, output
        if before is None:
            return {"restart": True, "text": output[-FIRST_OUTPUT:]}
        if output.startswith(before):
            return {"restart": False, "text": output[len(before) :]}
        anchor = before[-_ANCHOR:]  # its beginning was dropped, or a retry started afresh
        at = output.rfind(anchor)
        if at < 0:
            return {"restart": True, "text": output[-FIRST_OUTPUT:]}
        return {"restart": False, "text": output[at + len(anchor) :]}


class Feed:
    """All open live views of one platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._closing = asyncio.Event()
        self._open = 0
        self._loads: Mapping[str, Load] = {}
        self._sampling: asyncio.Task[None] | None = None
        self.slowest = 0.0
        """Seconds that the dearest line took to make."""

    @property
    def open(self) -> int:
        return self._open

    def close(self) -> None:
        """End all views: the emulator stops."""
        self._closing.set()

    async def serve(self, request: web.Request, response: web.StreamResponse, view: View) -> None:
        """Write lines until the page goes away or the emulator stops."""
        self._open += 1
        if self._sampling is None and self._has_processes():
            self._sampling = asyncio.create_task(self._sample())
        try:
            await self._write_lines(request, response, view)
        except ConnectionError:
            return  # the page went away
        finally:
            self._open -= 1
            if self._open == 0 and self._sampling is not None:
                self._sampling.cancel()
                self._sampling, self._loads = None, {}

    async def _write_lines(self, request: web.Request, response: web.StreamResponse, view: View) -> None:
        sent: dict[str, Any] = {}
        output = OutputTail()
        mark: object = None
        spoke = 0.0
        while not self._closing.is_set() and request.transport is not None and not request.transport.is_closing():
            began = time.perf_counter()
            line: dict[str, Any] = {}
            if mark != (mark := self._mark()):
                parts = snapshot(self._platform, view, self._loads)
                line = {name: part for name, part in parts.items() if name not in sent or sent[name] != part}
                sent = parts
            if view.task is not None and view.task in self._platform.state.tasks:
                gained = output.advance(self._platform.task_output(view.task))
                if gained is not None:
                    line["output"] = gained
            if line or began - spoke > KEEP_ALIVE:
                line["now"] = self._platform.clock.now()
                text = json.dumps(line, separators=(",", ":"))
                cost = time.perf_counter() - began
                self.slowest = max(self.slowest, cost)
                await response.write(text.encode() + b"\n")
                spoke = began
            else:
                cost = time.perf_counter() - began
            await self._pause(max(SHORTEST_PAUSE, SHARE * cost))

    def _mark(self) -> object:
        """Differs from the last one if there may be something else to see."""
        state = self._platform.state
        return (state.events.revision, len(state.requirements), len(state.groups), len(state.pools), self._loads)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except asyncio.TimeoutError:
            return

    def _has_processes(self) -> bool:
        return bool(getattr(self._platform.driver, "gateway_ip", ""))

    async def _sample(self) -> None:
        sampler = LoadSampler()
        while True:
            addresses = {
                one.private_ip: one.id
                for one in self._platform.state.instances.values()
                if one.status == "RUNNING" and one.private_ip is not None
            }
            self._loads = await asyncio.to_thread(sampler.sample, addresses)
            await asyncio.sleep(LOAD_SECONDS)
