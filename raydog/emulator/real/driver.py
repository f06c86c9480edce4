"""Real instances for the emulated platform: processes in Linux namespaces with sshd and an agent."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from raydog.emulator.driver import DriverEvents, InstanceSpec, TaskSpec
from raydog.errors import ProvisioningError, StateError

from . import host, image, internet
from .guest.channel import Channel, Message
from .instance import CONSOLE, RealInstance
from .leftovers import Record, clean, remove_interface

_log = logging.getLogger("raydog.emulator")
_KEPT_ENDED = 200
"""Ended instances whose outputs can still be read."""
_SETUP_SECONDS = 60.0
_END_SECONDS = 30.0
_KEEPER_DIED = "the process that holds the instances died"
_GUEST = Path(__file__).parent


class RealDriver:
    """An `InstanceDriver` whose instances are this machine's own system in namespaces (design, section 4).

    ``state_dir`` is a folder of the emulator's own; outputs of programs on instances lie below it, in
    ``instances/``, for this user only. Needs Linux and root. ``gateway_ip`` is this machine's address on the
    instances' network, known after `start`. Instances see the folders in ``expose`` too, read-only, at their own
    paths, and have the programs of the Debian ``packages``.
    """

    def __init__(
        self, state_dir: Path, *, internet: bool = False, expose: Sequence[Path] = (), packages: Sequence[str] = ()
    ) -> None:
        self.gateway_ip = ""
        self._state_dir = state_dir
        self._internet = internet
        self._expose = tuple(expose)
        self._packages = tuple(packages)
        self._events: DriverEvents | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._instances: dict[str, RealInstance] = {}
        self._ended: dict[str, RealInstance] = {}
        self._keeper: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._setup: asyncio.Future[None] | None = None
        self._order: Message = {}
        """What a keeper is told first."""
        self._replacing: asyncio.Task[None] | None = None
        self._subnet: ipaddress.IPv4Network | None = None
        self._hold: socket.socket | None = None
        self._next_address = 0
        self._record = Record(state_dir)

    @classmethod
    def clean(cls, state_dir: Path) -> list[str]:
        """Remove what an emulator with this state folder left behind; what was removed, one line each."""
        return clean(state_dir)

    async def start(self, events: DriverEvents) -> None:
        """Fetch the image if it is not there, make the network. ProvisioningError says what is missing."""
        host.check_machine()
        self._events = events
        self._loop = asyncio.get_running_loop()
        tree = await asyncio.to_thread(image.ensure_packages, None, _log.info)
        trees = [tree]
        if self._packages:
            trees.append(await asyncio.to_thread(image.ensure_packages, None, _log.info, self._packages))
        python = await asyncio.to_thread(host.python_description)
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._record.take()
            self._subnet, self._hold = host.take_subnet(self._state_dir)
            self.gateway_ip = str(self._subnet.network_address + 1)
            self._next_address = int(self._subnet.network_address) + 10
            hidden = [str(self._state_dir.resolve()), str(image.cache_folder().resolve())]
            visible = host.visible_folders(python, host.exposed(self._expose, hidden))
            workplace = self._state_dir.resolve() / "namespaces"
            workplace.mkdir(mode=0o700, exist_ok=True)
            self._order = {
                "command": "setup",
                "workplace": str(workplace),
                "interface": host.interface_name(self._state_dir),
                "gateway": self.gateway_ip,
                "prefix": host.PREFIX,
                "trees": [str(one) for one in trees],
                "visible": visible,
                "hidden": hidden,
                "account": host.account(),
                "python": python,
                "keygen": str(image.find_program("ssh-keygen")),
                "libraries": os.pathsep.join(map(str, image.library_folders(tree))),
            }
            await self._get_keeper()
            if self._internet:
                await asyncio.to_thread(self._open_way_out)
        except BaseException:
            await self.close()
            raise

    def boot(self, spec: InstanceSpec) -> None:
        """See `InstanceDriver.boot`."""
        loop, events = self._running()
        folder = self._state_dir / "instances" / spec.instance_id.replace(":", "_")
        instance = RealInstance(spec, self._address(), folder, events, loop)
        self._instances[spec.instance_id] = instance
        if self._channel is None:
            instance.failure = f"{_KEEPER_DIED}, and there is no other yet"
        instance.starting = loop.call_later(spec.boot_seconds, self._boot, instance)

    def run_task(self, instance_id: str, task: TaskSpec) -> None:
        """See `InstanceDriver.run_task`."""
        _loop, events = self._running()
        instance = self._instances.get(instance_id)
        if task.task_type != "bash":
            error = f"this node runs tasks of type 'bash', not {task.task_type!r}"
            events.task_finished(task.task_id, None, error)
        elif instance is not None:
            instance.run_task(task)

    def abort_task(self, instance_id: str, task_id: str, grace_seconds: float) -> None:
        """See `InstanceDriver.abort_task`."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.abort_task(task_id, grace_seconds)

    def terminate(self, instance_id: str) -> None:
        """See `InstanceDriver.terminate`."""
        loop, _events = self._running()
        instance = self._instances.get(instance_id)
        if instance is None or instance.terminating:
            return
        instance.terminating = True
        if instance.starting is not None:
            instance.starting.cancel()
            loop.call_soon(self._instance_ended, instance_id, 0)
        else:
            self._tell({"command": "kill", "id": instance_id})

    def task_output(self, instance_id: str, task_id: str) -> str | None:
        """See `InstanceDriver.task_output`."""
        instance = self._instances.get(instance_id) or self._ended.get(instance_id)
        return instance.outputs.read(task_id) if instance is not None else None

    def console_output(self, instance_id: str) -> str | None:
        """What the instance's user data printed (the last 1 MiB), or None if there was none."""
        return self.task_output(instance_id, CONSOLE)

    def boot_phases(self, instance_id: str) -> dict[str, float]:
        """Seconds of each phase of an instance's boot, as its PID 1 measured them."""
        instance = self._instances.get(instance_id)
        return dict(instance.phases) if instance is not None else {}

    async def close(self) -> None:
        """See `InstanceDriver.close`. Outputs of programs go too: they are the emulator's, not the user's."""
        for instance in self._instances.values():
            instance.terminating = True
            if instance.starting is not None:
                instance.starting.cancel()
            instance.disconnect()
        self._instances.clear()
        self._ended.clear()
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait({self._replacing})
        if self._keeper is not None:
            self._hang_up()
            await asyncio.to_thread(_end, self._keeper)
            self._keeper = None
        if self._hold is not None:
            self._hold.close()
            self._hold = None
        await asyncio.to_thread(self._record.release)

    def _running(self) -> tuple[asyncio.AbstractEventLoop, DriverEvents]:
        if self._loop is None or self._events is None:
            raise StateError("the driver has not been started")
        return self._loop, self._events

    def _address(self) -> str:
        """The next address of the subnet; one is used again only when all others have been."""
        if self._subnet is None:
            raise StateError("the driver has not been started")
        first, last = int(self._subnet.network_address) + 10, int(self._subnet.broadcast_address) - 1
        used = {instance.address for instance in self._instances.values()}
        for _ in range(last - first + 1):
            candidate = str(ipaddress.IPv4Address(self._next_address))
            self._next_address = first if self._next_address >= last else self._next_address + 1
            if candidate not in used:
                return candidate
        raise ProvisioningError(f"all addresses of {self._subnet} are taken by instances", "Network")

    def _boot(self, instance: RealInstance) -> None:
        instance.starting = None
        if self._channel is None:
            self._instance_ended(instance.spec.instance_id, 0)
            return
        end = instance.connect()
        with end:
            boot: Message = {
                "command": "boot",
                "id": instance.spec.instance_id,
                "hostname": instance.spec.hostname,
                "address": instance.address,
            }
            self._tell(boot, (end.fileno(),))

    def _open_way_out(self) -> None:
        interface = host.interface_name(self._state_dir)
        planned = internet.plan(interface)
        self._record.add("internet", planned)
        internet.open_way_out(planned, interface, str(self._subnet))

    async def _get_keeper(self) -> None:
        """Start a keeper and wait until it can hold instances. ProvisioningError if it cannot."""
        loop, _events = self._running()
        self._setup = loop.create_future()
        self._start_keeper()
        self._tell(self._order)
        try:
            await asyncio.wait_for(self._setup, _SETUP_SECONDS)
        except asyncio.TimeoutError as error:
            cause = f"real instances were not prepared in {_SETUP_SECONDS:.0f} s: {self._record.keeper_said()}"
            raise ProvisioningError(cause, "Instances") from error

    async def _replace_keeper(self, dead: subprocess.Popen[bytes]) -> None:
        """After a keeper's death: nodes that boot from now on have another. Their pools try again by themselves."""
        await asyncio.to_thread(_end, dead)
        # The address of the bridge goes for a moment; the emulator's sockets on it wait and then work again.
        await asyncio.to_thread(remove_interface, self._order["interface"])
        try:
            await self._get_keeper()
        except (ProvisioningError, OSError) as error:
            _log.error("no new instances can be made: %s. Restart the emulator", error)
        else:
            _log.warning("instances can be made again")

    def _start_keeper(self) -> None:
        loop, _events = self._running()
        ours, theirs = socket.socketpair()
        # The bare interpreter without this process's environment: PID 1 of an instance is a fork of it, and
        # an instance's root can read both.
        code = f"import sys; sys.path.insert(0, {str(_GUEST)!r}); from guest.keeper import main; main(int(sys.argv[1]))"
        with theirs:
            self._keeper = subprocess.Popen(
                [sys._base_executable, "-I", "-S", "-B", "-c", code, str(theirs.fileno())],  # type: ignore[attr-defined]
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._record.keeper_log(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._record.write(self._keeper.pid, host.interface_name(self._state_dir))
        ours.setblocking(False)
        self._channel = Channel(ours)
        loop.add_reader(ours.fileno(), self._readable)

    def _tell(self, message: Message, files: tuple[int, ...] = ()) -> None:
        if self._channel is None:
            return  # the keeper has died, and its instances have been reported lost
        loop, _events = self._running()
        with contextlib.suppress(OSError):  # likewise; the reader sees the end
            self._channel.send(message, files)
        loop.add_writer(self._channel.fileno(), self._writable)

    def _writable(self) -> None:
        if self._channel is None:
            return
        loop, _events = self._running()
        try:
            done = self._channel.flush()
        except OSError:
            done = True
        if done:
            loop.remove_writer(self._channel.fileno())

    def _readable(self) -> None:
        if self._channel is None:
            return
        try:
            messages = self._channel.receive()
        except EOFError:
            self._keeper_died()
            return
        for message, _files in messages:
            if message["event"] == "exited":
                self._instance_ended(message["id"], message["status"])
            elif self._setup is not None and not self._setup.done():
                if message["event"] == "ready":
                    self._setup.set_result(None)
                else:
                    cause = f"real instances cannot be prepared: {message['error']}"
                    self._setup.set_exception(ProvisioningError(cause, "Instances"))

    def _instance_ended(self, instance_id: str, status: int) -> None:
        _loop, events = self._running()
        instance = self._instances.pop(instance_id, None)
        if instance is None:
            return
        instance.drain()
        instance.disconnect()
        self._ended[instance_id] = instance
        while len(self._ended) > _KEPT_ENDED:
            self._ended.pop(next(iter(self._ended))).outputs.forget()
        if instance.terminating:
            events.instance_terminated(instance_id)
        else:
            reason = instance.failure or f"its first process ended ({_describe(status)})"
            _log.warning("instance %s (%s) is lost: %s", instance.spec.hostname, instance.address, reason)
            events.instance_lost(instance_id, reason)

    def _keeper_died(self) -> None:
        loop, _events = self._running()
        self._hang_up()
        if self._setup is not None and not self._setup.done():
            said = self._record.keeper_said()
            self._setup.set_exception(ProvisioningError(f"{_KEEPER_DIED}: {said}", "Instances"))
        elif self._keeper is not None:
            _log.error("%s; %d instances are lost", _KEEPER_DIED, len(self._instances))
            self._replacing = loop.create_task(self._replace_keeper(self._keeper))
        for instance_id, instance in list(self._instances.items()):
            if instance.starting is not None:
                instance.starting.cancel()
            instance.failure = _KEEPER_DIED
            self._instance_ended(instance_id, 0)

    def _hang_up(self) -> None:
        if self._channel is not None and self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
            self._channel.close()
            self._channel = None


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Wait until the keeper, whose socket is closed, has ended all instances and itself."""
    try:
        keeper.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
