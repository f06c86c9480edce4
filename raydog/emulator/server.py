"""The emulator as a server: in a loop of the caller's (the daemon), or in a thread of its own (tests)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from aiohttp import web

from raydog.emulator.clock import LoopClock, VirtualClock
from raydog.emulator.driver import InstanceDriver
from raydog.emulator.platform import IDLE_GRACE_SECONDS, Platform
from raydog.emulator.rest.app import Api
from raydog.emulator.simulated import SimulatedDriver
from raydog.emulator.templates import Template, Templates
from raydog.errors import StateError

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
START_SECONDS = 300.0
STOP_SECONDS = 120.0

log = logging.getLogger(__name__)


def bind(port: int, addresses: Sequence[str] = (LOOPBACK,)) -> list[socket.socket]:
    """Listening sockets on the same port of every address; port 0 lets the system choose."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
            one.listen(128)
            port = one.getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise StateError(f"cannot listen on port {port}: {error.strerror}; choose another with --port") from error
    return sockets


class Server:
    """One platform, served. All methods belong to the loop that runs it."""

    def __init__(
        self,
        driver: InstanceDriver | None,
        templates: Templates,
        key_id: str,
        key_secret: str,
        clock: VirtualClock | None = None,
        idle_grace: float = IDLE_GRACE_SECONDS,
    ) -> None:
        the_clock = clock or LoopClock(asyncio.get_running_loop())
        self.driver: InstanceDriver = driver or SimulatedDriver(the_clock)
        self.platform = Platform(the_clock, self.driver, templates, idle_grace)
        self.api = Api(self.platform, key_id, key_secret)
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._stopped = False

    async def start(self, port: int) -> None:
        """Start the driver, then listen on loopback and, if the instances have one, on their bridge's address."""
        try:
            await self.driver.start(self.platform)
            gateway = getattr(self.driver, "gateway_ip", "")
            addresses = [LOOPBACK, gateway] if gateway else [LOOPBACK]
            sockets = bind(port, addresses)
            self.url = f"http://{addresses[-1]}:{sockets[-1].getsockname()[1]}"
            self._runner = web.AppRunner(self.api.application(), access_log=None, shutdown_timeout=1.0)
            await self._runner.setup()
            for one in sockets:
                await web.SockSite(self._runner, one).start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Answer no more; then end all instances. Nothing is left when this returns. May be called twice."""
        if self._stopped:
            return
        self._stopped = True
        try:
            if self._runner is not None:
                await self._runner.cleanup()
                self._runner = None
        finally:
            await self.driver.close()

    @property
    def connections(self) -> int:
        """How many connections clients hold."""
        served = self._runner.server if self._runner is not None else None
        return len(served.connections) if served is not None else 0


class Emulator:
    """A YellowDog in this process, on a thread of its own; a context manager.

    ``instances`` is ``"simulated"`` or a driver. Clients use ``url``, ``key_id`` and ``key_secret``
    (``environment`` has them as ``YD_API_*``). With a `VirtualClock` time moves only by `advance`.
    ``idle_grace``: seconds for which a pool that was never used ignores its idle time-outs.
    """

    def __init__(
        self,
        instances: Literal["simulated"] | InstanceDriver = "simulated",
        port: int = 0,
        *,
        templates: Sequence[Template] | Path | None = None,
        clock: VirtualClock | None = None,
        idle_grace: float = IDLE_GRACE_SECONDS,
        key_id: str | None = None,
        key_secret: str | None = None,
    ) -> None:
        self._driver = None if isinstance(instances, str) else instances
        self._port = port
        loads = templates is None or isinstance(templates, Path)
        self._templates = Templates.load(templates) if loads else Templates(tuple(templates))  # type: ignore[arg-type]
        self._clock = clock
        self._idle_grace = idle_grace
        self.key_id = key_id or secrets.token_hex(12)
        self.key_secret = key_secret or secrets.token_urlsafe(24)
        self.url = ""
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop_requested: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when it answers. Raises what the driver or the port raised."""
        if self._thread is not None:
            raise StateError("this emulator has been started already")
        self._thread = threading.Thread(target=self._run, name="raydog-emulator", daemon=True)
        self._thread.start()
        self._ready.wait(START_SECONDS)
        if self._failure is not None:
            self._thread.join(STOP_SECONDS)
            raise self._failure

    def stop(self) -> None:
        """End all instances and the thread. May be called twice."""
        thread, loop, requested = self._thread, self._loop, self._stop_requested
        if thread is None or not thread.is_alive():
            return
        if loop is not None and requested is not None:
            loop.call_soon_threadsafe(requested.set)
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            raise StateError(f"the emulator did not stop within {STOP_SECONDS:.0f} s")
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread by start() or stop()
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_requested = asyncio.Event()
        server = Server(self._driver, self._templates, self.key_id, self.key_secret, self._clock, self._idle_grace)
        await server.start(self._port)
        self._server = server
        self.url = server.url
        self._ready.set()
        try:
            await self._stop_requested.wait()
        finally:
            await server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which every YellowDog client finds it."""
        return {
            "YD_API_URL": self.url,
            "YD_API_KEY_ID": self.key_id,
            "YD_API_KEY_SECRET": self.key_secret,
        }

    @property
    def page_url(self) -> str:
        """Its page, for a browser on this machine. The token in it is that of this start: treat it as the key."""
        return self.call(lambda server: server.api.page.link(int(self.url.rsplit(":", 1)[1])))

    def call(self, action: Callable[[Server], T]) -> T:
        """Run ``action`` on the emulator's own thread; return or raise what it does."""
        if self._loop is None or self._server is None:
            raise StateError("the emulator is not running")
        server = self._server

        async def run() -> T:
            return action(server)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(STOP_SECONDS)

    def status(self) -> dict[str, Any]:
        """Counts of what is not finished, and the instances (see `Platform.status`)."""
        return self.call(lambda server: server.platform.status())

    def calls(self, operation: str | None = None) -> list[dict[str, Any]]:
        """The platform calls received so far, oldest first; those of one operation, if it is named."""
        return self.call(lambda server: server.api.calls.find(operation))

    def forget_calls(self) -> None:
        self.call(lambda server: server.api.calls.clear())

    def fault(self, operation: str, action: str, *, on_hit: Callable[[], None] | None = None, **settings: Any) -> None:
        """Let the next calls of an operation go wrong; the settings are those of `Fault`.

        ``on_hit`` is called on the emulator's own thread when it happens, before the call is applied or refused. A
        test that kills the caller there knows between which two steps its program died.
        """
        wanted = {"operation": operation, "action": action, **settings}
        self.call(lambda server: server.platform.faults.add(wanted, server.api.operations, on_hit))

    def connections(self) -> int:
        """How many connections clients hold. Those of a process that died are gone when their last calls are over."""
        return self.call(lambda server: server.connections)

    def clear_faults(self) -> None:
        self.call(lambda server: server.platform.faults.clear())

    def outage(self, seconds: float, status: int | None = None) -> None:
        """Drop all calls for ``seconds`` of the emulator's clock, or answer them with ``status``; streams break."""
        self.call(lambda server: server.api.outage(seconds, status))

    def template(self, name: str, **settings: Any) -> None:
        """Change ``capacity``, ``boot_seconds`` or ``boots`` (False: a boot never ends) of a template."""
        self.call(lambda server: server.platform.change_template(name, settings))

    def preempt(self, instance_id: str, warning_seconds: float = 0.0) -> None:
        """Take an instance away, after a warning if there is to be one."""
        self.call(lambda server: server.platform.preempt(instance_id, warning_seconds))

    def task_output(self, task_id: str) -> str | None:
        return self.call(lambda server: server.platform.task_output(task_id))

    def advance(self, seconds: float) -> None:
        """Let time pass on the virtual clock; what is due happens before this returns."""
        clock = self._clock
        if clock is None:
            raise StateError("the emulator runs on the machine's time: give it a VirtualClock to step")

        def step(server: Server) -> None:
            clock.advance(seconds)
            server.platform.settle()

        self.call(step)
