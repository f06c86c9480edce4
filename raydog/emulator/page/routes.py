"""The page's addresses: its files, its live view, and the few things that it can do."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from raydog.emulator.page.access import HEADERS, Access, Refused
from raydog.emulator.page.feed import Feed
from raydog.emulator.page.view import View
from raydog.emulator.platform import Platform
from raydog.emulator.problems import Problem, invalid
from raydog.emulator.requests import as_number, as_object

STATIC = Path(__file__).parent / "static"
FILES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript",
    "dom.js": "text/javascript",
    "drawer.js": "text/javascript",
    "feed.js": "text/javascript",
    "format.js": "text/javascript",
    "sections.js": "text/javascript",
}
ROOT = "/emulator/page"
MOST_VIEWS = 50
LARGEST_BODY = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)


class Page:
    """The page of one platform. ``authorization`` is the API key's header."""

    def __init__(self, platform: Platform, authorization: bytes) -> None:
        self._platform = platform
        self._access = Access(authorization)
        self._feed: Feed | None = None

    def link(self, port: int) -> str:
        """The page's address with the token, for its owner. Browsers never send what follows the ``#``."""
        return f"http://127.0.0.1:{port}/#token={self._access.token}"

    def mount(self, app: web.Application) -> None:
        """Add the page's routes; to be called before any that match everything."""
        router = app.router
        router.add_get("/", self._guarded(self._file, secret=False))
        router.add_get(ROOT + "/link", self._guarded(self._own_link))
        router.add_post(ROOT + "/feed", self._guarded(self._live_view))
        router.add_post(ROOT + "/requirements/{id}/abort", self._action(self._abort_requirement))
        router.add_post(ROOT + "/tasks/{id}/abort", self._action(self._abort_task))
        router.add_post(ROOT + "/instances/{id}/preempt", self._action(self._preempt))
        router.add_post(ROOT + "/pools/{id}/shutdown", self._action(self._shut_down_pool))
        router.add_get(ROOT + "/{file}", self._guarded(self._file, secret=False))
        app.on_shutdown.append(self._end_views)

    def _guarded(self, handler: Handler, *, secret: bool = True) -> Handler:
        """Answers only those who may ask; with the headers that a browser needs to keep others out."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                self._access.check_address(request)
                if secret:
                    self._access.check_key(request)
                response = await handler(request)
            except Refused as refused:
                response = _refusal(refused.status, refused.message)
            except Problem as problem:
                response = _refusal(problem.status, problem.message)
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return guarded

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("file", "index.html")
        if name not in FILES:
            raise Refused(404, "the page has no such file")
        return web.Response(body=(STATIC / name).read_bytes(), content_type=FILES[name], charset="utf-8")

    async def _own_link(self, request: web.Request) -> web.StreamResponse:
        if request.transport is None:
            raise Refused(400, "the connection has gone")
        return web.json_response({"url": self.link(request.transport.get_extra_info("sockname")[1])})

    async def _live_view(self, request: web.Request) -> web.StreamResponse:
        view = View.parse(await _body(request))
        if self._feed is None:
            self._feed = Feed(self._platform)
        if self._feed.open >= MOST_VIEWS:
            raise Refused(429, f"{MOST_VIEWS} pages are open; close one")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await self._feed.serve(request, response, view)
        return response

    async def _end_views(self, _app: web.Application) -> None:
        if self._feed is not None:
            self._feed.close()

    # What it can do: as an operator, so neither faults nor the record of calls see it

    def _action(self, act: Callable[[str, Any], None]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = as_object(await _body(request), "the request")
            log.info("the page: %s", request.path.removeprefix(ROOT))
            try:
                act(request.match_info["id"], body)
            finally:
                self._platform.settle()
            return web.json_response({})

        return self._guarded(handler)

    def _abort_requirement(self, requirement_id: str, _body: Any) -> None:
        work = self._platform.work
        work.transition(work.find(requirement_id), "CANCELLING", True)

    def _abort_task(self, task_id: str, _body: Any) -> None:
        tasks = self._platform.tasks
        tasks.cancel(tasks.find(task_id), True)

    def _preempt(self, instance_id: str, body: Any) -> None:
        self._platform.preempt(instance_id, as_number(body.get("warningSeconds"), "warningSeconds", 0.0))

    def _shut_down_pool(self, pool_id: str, _body: Any) -> None:
        pools = self._platform.pools
        pools.shut_down(pools.find(pool_id))


async def _body(request: web.Request) -> object:
    if (request.content_length or 0) > LARGEST_BODY:
        raise Refused(413, f"a body has at most {LARGEST_BODY} bytes")
    text = await request.read()
    if not text:
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise invalid("the body is not JSON") from None


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
