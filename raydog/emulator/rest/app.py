"""The web application: checks the key, finds the call, lets requested faults happen, answers in JSON."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import Any

from aiohttp import web

from raydog.emulator.faults import EVERY_CALL, Fault
from raydog.emulator.page import Page
from raydog.emulator.platform import Platform
from raydog.emulator.problems import Problem, invalid, not_implemented
from raydog.emulator.requests import as_number, as_object
from raydog.emulator.rest import fleet, missing, operator, other, templates, work
from raydog.emulator.rest.call import Call, PlainText, Updates
from raydog.emulator.rest.received import ReceivedCalls
from raydog.emulator.rest.routes import Handler, Route, Router
from raydog.emulator.rest.streams import Streams

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a request, decompressed. A thousand tasks with scripts of 50 KB fit."""

log = logging.getLogger(__name__)


class Api:
    """The REST API of one platform under one key."""

    def __init__(self, platform: Platform, key_id: str, key_secret: str) -> None:
        self.platform = platform
        self.streams = Streams(platform.state.watchers)
        self.calls = ReceivedCalls()
        self._authorization = f"yd-key {key_id}:{key_secret}".encode()
        self.page = Page(platform, self._authorization)
        own = (
            Route("POST", "/emulator/faults", "emulator_add_fault", self._add_fault),
            Route("POST", "/emulator/outage", "emulator_outage", self._outage),
            Route("GET", "/emulator/calls", "emulator_calls", self._find_calls),
            Route("DELETE", "/emulator/calls", "emulator_forget_calls", self._forget_calls),
        )
        platform_calls = (*work.ROUTES, *fleet.ROUTES, *templates.ROUTES, *other.ROUTES, *missing.ROUTES)
        self._router = Router((*platform_calls, *operator.ROUTES, *own))
        self.operations = frozenset(route.operation for route in platform_calls if route.handler is not None)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_BODY)
        self.page.mount(app)
        app.router.add_route("*", "/{path:.*}", self.handle)
        app.on_shutdown.append(self.streams.close)
        return app

    def _add_fault(self, call: Call) -> Any:
        self.platform.faults.add(as_object(call.body, "the fault"), self.operations)
        return {}

    def _outage(self, call: Call) -> Any:
        body = as_object(call.body or {}, "the outage")
        self.outage(as_number(body.get("seconds"), "seconds", 0.0), body.get("status"))
        return {}

    def outage(self, seconds: float, status: object = None) -> None:
        """For ``seconds`` every call of the platform is dropped, or answered with ``status``; open streams break."""
        kind = {"action": "drop_before"} if status is None else {"action": "status", "status": status}
        settings = {"operation": EVERY_CALL, "for_seconds": seconds, "message": "the platform is out", **kind}
        self.platform.faults.add(settings, self.operations)
        self.streams.cut()

    def _find_calls(self, call: Call) -> Any:
        return self.calls.find(call.text("operation"), call.number("after") or 0)

    def _forget_calls(self, _call: Call) -> Any:
        self.calls.clear()
        return {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, self._authorization):
            return _problem(401, "Unauthorized", "the API key is missing or not this emulator's", request.path)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _problem(413, "Content Too Large", f"a body has at most {LARGEST_BODY} bytes", request.path)
        except ConnectionResetError:  # the client has died while it sent
            return _dropped(request)
        except web.RequestPayloadError as error:
            return _problem(400, "Bad Request", f"the body cannot be read: {error}", request.path)
        found = self._router.find(request.method, request.path)
        if found is None:
            return _problem(404, "Not Found", f"there is no call {request.method} {request.path}", request.path)
        route, values = found
        if route.operation.startswith("emulator_"):
            return _response(self._answer(route, values, request, body))
        fault = self.platform.faults.take(route.operation)
        return await self._answer_recorded(route, values, request, body, fault)

    async def _answer_recorded(
        self, route: Route, values: dict[str, str], request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        """Answer a call of the platform, with its fault if it has one, and remember it."""
        action = fault.action if fault is not None else None
        record = self.calls.add(self.platform.clock.now(), route.operation, request, len(body), action)
        if action == "drop_before":
            return _dropped(request)
        answer: object
        if fault is not None and action == "status":
            answer = _refused(fault)
        else:
            answer = self._answer(route, values, request, body)
        if action == "drop_after":
            return _dropped(request)
        if fault is not None and action == "delay":
            await asyncio.sleep(fault.seconds)
        if isinstance(answer, Updates):
            record["status"] = 200
            return await self.streams.serve(request, answer)
        response = _response(answer)
        record["status"] = response.status
        return response

    @staticmethod
    def _handler(route: Route) -> Handler:
        if route.handler is None:
            raise not_implemented(route.operation, route.method, route.pattern)
        return route.handler

    def _answer(self, route: Route, values: dict[str, str], request: web.Request, body: bytes) -> object:
        """What the call answers: a value for JSON, or a `web.Response`, `PlainText` or `Updates`."""
        try:
            call = Call(self.platform, values, request.query, _parse(body))
            # Encoded before the scheduler runs: as on the platform, an answer shows the moment of the call.
            return self._handler(route)(call)
        except Problem as problem:
            return _json(problem.status, problem.body())
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            failed = Problem(500, "InternalServerException", f"the emulator failed in {route.operation}; see its log")
            return _json(failed.status, failed.body())
        finally:
            self.platform.settle()


def _response(answer: object) -> web.Response:
    if isinstance(answer, web.Response):
        return answer
    return web.Response(text=answer.text) if isinstance(answer, PlainText) else _json(200, answer)


def _refused(fault: Fault) -> web.Response:
    refused = Problem(fault.status, fault.error_type, fault.message)
    response = _json(refused.status, refused.body())
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


def _parse(body: bytes) -> object:
    if not body:
        return None
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise invalid("the body is not JSON") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _json(status: int, body: object) -> web.Response:
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type="application/json")


def _problem(status: int, title: str, detail: str, instance: str) -> web.Response:
    """A framework error: RFC 7807, as the platform answers before it looks at a call."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance}
    return web.Response(status=status, text=json.dumps(body), content_type="application/problem+json", reason=title)


def _dropped(request: web.Request) -> web.Response:
    """Cut the connection: the client sees a reset, and cannot know whether the call was applied."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
