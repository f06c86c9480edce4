"""Event streams of entities: server-sent events (contract, section 1.6).

Each event is the whole entity as it is now. Changes are coalesced: one that comes while the last event is being
written, or within `SHORTEST_PAUSE` seconds after it, waits for the next. An entity that nobody watches costs nothing.
"""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from raydog.emulator.rest.call import Updates
from raydog.emulator.watching import Watchers

SHORTEST_PAUSE = 0.1
KEEP_ALIVE_SECONDS = 15.0
"""A stream that is silent for 90 seconds is an error for the SDK."""
HEADERS = {"Content-Type": "text/event-stream;charset=UTF-8", "Cache-Control": "no-cache"}


class Streams:
    """All open streams of one platform."""

    def __init__(self, watchers: Watchers, keep_alive: float = KEEP_ALIVE_SECONDS) -> None:
        self._watchers = watchers
        self.keep_alive = keep_alive
        self._open: dict[asyncio.Event, web.Request] = {}
        self._closing = False

    async def close(self, _app: web.Application) -> None:
        """The emulator stops: end them all properly."""
        self._closing = True
        for changed in self._open:
            changed.set()

    def cut(self) -> None:
        """Break all connections: the platform is out."""
        for changed, request in self._open.items():
            if request.transport is not None:
                request.transport.abort()
            changed.set()

    async def serve(self, request: web.Request, updates: Updates) -> web.StreamResponse:
        """Send the entity now and after each change, until it has ended, the client has gone, or `close`."""
        response = web.StreamResponse(headers=HEADERS)
        changed = asyncio.Event()
        self._open[changed] = request
        self._watchers.add(updates.entity_id, changed.set)
        try:
            await response.prepare(request)
            await self._send(response, updates, changed)
        except ConnectionError:
            return response  # the client has gone
        finally:
            self._watchers.remove(updates.entity_id, changed.set)
            del self._open[changed]
        return response

    async def _send(self, response: web.StreamResponse, updates: Updates, changed: asyncio.Event) -> None:
        while not self._closing:
            changed.clear()
            ended = updates.ended()
            await response.write(_event(updates))
            if ended:
                return
            await asyncio.sleep(SHORTEST_PAUSE)
            while not await _set_within(changed, self.keep_alive):
                await response.write(b":keep-alive\n\n")


def _event(updates: Updates) -> bytes:
    data = json.dumps(updates.read(), separators=(",", ":"))
    return f"id:{updates.entity_id}\nevent:entity_updated\ndata:{data}\n\n".encode()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True
