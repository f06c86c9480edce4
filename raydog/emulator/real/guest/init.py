"""PID 1 of an instance: boots it, runs its user data, and is its YellowDog agent.

It is a fork of the keeper. Everything it is told comes as messages from the driver, and everything that
happens goes back as messages (`raydog.emulator.real.instance` has the other half)::

    driver: user_data(script) run(task_id, arguments, data, environment) abort(task_id, grace)
    init:   running(phases) output(name, +file) registered(phases) started(task_id)
            finished(task_id, exit_code, error) failed(error)
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import syscalls, tasks
from .channel import Channel, Message
from .netlink import Netlink
from .root import mount_root

# Of root's capabilities, those that a container's root usually has, and the network of the instance itself.
# Left out on purpose: SYS_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_BOOT, SYS_TIME, MKNOD, DAC_READ_SEARCH, SYS_PTRACE.
_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        12,  # NET_ADMIN
        13,  # NET_RAW
        14,  # IPC_LOCK
        18,  # SYS_CHROOT
        23,  # SYS_NICE
        24,  # SYS_RESOURCE
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)
_SSHD_SECONDS = 20.0
_USER_DATA = "/var/lib/cloud/user-data"
_CONSOLE = "/var/log/cloud-init-output.log"
_ROOT_ENVIRONMENT = {
    "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What is the same for all instances of a keeper."""

    workplace: Path
    visible: list[str]
    split: list[str]
    account: tasks.Account
    bridge: int
    """Index of the bridge's interface in the keeper's network namespace."""
    gateway: str
    prefix: int


@dataclass(frozen=True)
class Instance:
    """What the keeper says about one instance; the rest comes from the driver, past the keeper."""

    hostname: str
    address: str
    cable: str
    """Name of the instance's port in the keeper's network namespace."""


def run(machine: Machine, instance: Instance, channel: Channel) -> None:
    """Boot and serve until the driver is gone. Never returns to the keeper's code: the process ends here."""
    code = 1
    try:
        # The keeper, its only parent, is outside this PID namespace; when it goes, so does the instance.
        syscalls.die_with_parent(signal.SIGKILL)
        Init(machine, instance, channel).serve()
        code = 0
    except Exception as error:  # noqa: BLE001 - reported to the driver, then this instance ends
        try:
            channel.send({"event": "failed", "error": f"{type(error).__name__}: {error}"})
        except OSError:
            code = 2  # the driver is gone as well
    finally:
        os._exit(code)


class Init:
    """The loop of PID 1."""

    def __init__(self, machine: Machine, instance: Instance, channel: Channel) -> None:
        self._machine = machine
        self._instance = instance
        self._channel = channel
        self._tasks: dict[int, tasks.Task] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0
        self._sshd = 0
        self._user_data = 0
        self._waiting_for = {"sshd", "user data"}
        self._phases: dict[str, float] = {}
        self._clock = time.monotonic()

    def serve(self) -> None:
        wake_reader, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self._boot()
        self._sshd = self._start_sshd()
        self._await_sshd(time.monotonic() + _SSHD_SECONDS)
        self._phase("sshd started")
        self._channel.send({"event": "running", "phases": self._phases})
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(wake_reader, selectors.EVENT_READ)
            while True:
                for key, _events in selector.select(self._until_next_timer()):
                    if key.fd == wake_reader:
                        os.read(wake_reader, 4096)
                    else:
                        try:
                            messages = self._channel.receive()
                        except EOFError:
                            return
                        for message, _files in messages:
                            self._obey(message)
                self._reap()
                self._run_timers()

    def _phase(self, name: str) -> None:
        now = time.monotonic()
        self._phases[name] = round(now - self._clock, 4)
        self._clock = now

    def _boot(self) -> None:
        outside = Netlink()
        syscalls.unshare(
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWCGROUP
        )
        self._phase("namespaces")
        self._connect(outside)
        outside.close()
        self._phase("network")
        try:
            socket.sethostname(self._instance.hostname)
        except OSError as error:
            raise OSError(error.errno, f"hostname {self._instance.hostname!r}: {error.strerror}") from error
        mount_root(self._machine.workplace, self._machine.visible, self._machine.split)
        self._phase("root")
        self._settle()
        self._phase("settled")

    def _connect(self, outside: Netlink) -> None:
        inside = Netlink()
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        outside.add_cable(self._instance.cable, "eth0", namespace, self._machine.bridge)
        os.close(namespace)
        inside.switch_on(1)  # lo is always the first
        card = socket.if_nametoindex("eth0")
        inside.switch_on(card)
        inside.add_address(card, self._instance.address, self._machine.prefix)
        inside.add_default_route(self._machine.gateway)
        inside.close()

    def _settle(self) -> None:
        syscalls.set_process_name("yd-agent")
        syscalls.forbid_inspection()
        name = self._instance.hostname
        Path("/etc/hostname").write_text(f"{name}\n")
        Path("/etc/hosts").write_text(
            f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{self._instance.address} {name}\n"
        )
        syscalls.keep_capabilities(_CAPABILITIES)

    def _start_sshd(self) -> int:
        log = os.open("/var/log/auth.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return tasks.spawn(["/usr/sbin/sshd", "-D", "-e"], _ROOT_ENVIRONMENT, log)
        finally:
            os.close(log)

    def _await_sshd(self, deadline: float) -> None:
        # sshd writes this file when it listens.
        if Path("/run/sshd.pid").exists():
            self._arrived("sshd")
        elif time.monotonic() > deadline:
            raise TimeoutError(f"sshd did not listen within {_SSHD_SECONDS:.0f} s")
        else:
            self._after(0.003, lambda: self._await_sshd(deadline))

    def _arrived(self, what: str) -> None:
        self._waiting_for.discard(what)
        self._phase(what)
        if not self._waiting_for:
            self._channel.send({"event": "registered", "phases": self._phases})

    def _obey(self, message: Message) -> None:
        command = message["command"]
        if command == "user_data":
            self._run_user_data(message["script"])
        elif command == "run":
            self._run_task(message)
        elif command == "abort":
            self._abort(message["task_id"], message["grace"])
        else:
            raise ValueError(f"unknown command {command!r}")

    def _run_user_data(self, script: str) -> None:
        if not script.strip():
            self._arrived("user data")
            return
        console = os.open(_CONSOLE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._channel.send({"event": "output", "name": "console"}, (console,))
        if script.startswith("#cloud-config"):
            os.write(console, b"user data: emulated instances run scripts, not cloud-config; left out\n")
            os.close(console)
            self._arrived("user data")
            return
        path = Path(_USER_DATA)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o700)
        path.write_text(script)
        command = [str(path)] if script.startswith("#!") else ["/bin/bash", str(path)]
        try:
            self._user_data = tasks.spawn(command, _ROOT_ENVIRONMENT, console)
        except OSError as error:
            os.write(console, f"user data: {error}\n".encode())
            self._arrived("user data")
        finally:
            os.close(console)

    def _user_data_ended(self, code: int) -> None:
        self._user_data = 0
        # As with cloud-init, a script that fails is logged and the machine comes up all the same.
        with Path(_CONSOLE).open("a") as console:
            console.write(f"user data: exit code {code}\n")
        self._arrived("user data")

    def _run_task(self, message: Message) -> None:
        task_id = message["task_id"]
        try:
            task, output = tasks.start(
                self._machine.account,
                task_id,
                message["arguments"],
                message["data"],
                message["environment"],
            )
        except (OSError, ValueError) as error:
            self._finished(task_id, None, f"the task could not be started: {error}")
            return
        self._tasks[task.session] = task
        self._channel.send({"event": "output", "name": task_id}, (output,))
        os.close(output)
        self._channel.send({"event": "started", "task_id": task_id})

    def _finished(self, task_id: str, code: int | None, error: str | None) -> None:
        self._channel.send({"event": "finished", "task_id": task_id, "exit_code": code, "error": error})

    def _abort(self, task_id: str, grace: float) -> None:
        for task in self._tasks.values():
            if task.task_id == task_id:
                # To the one process, not to its group: bash decides what becomes of its children.
                os.kill(task.session, signal.SIGTERM)
                self._after(grace, lambda task=task: self._end_session(task))  # type: ignore[misc]

    def _end_session(self, task: tasks.Task) -> None:
        if not task.over:
            tasks.kill_session(task.session)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            code = tasks.exit_code(status)
            if process == self._user_data:
                self._user_data_ended(code)
            elif process == self._sshd and "sshd" in self._waiting_for:
                said = Path("/var/log/auth.log").read_text(errors="replace").strip()[-500:]
                raise ChildProcessError(f"sshd ended with {code}: {said}")
            elif task := self._tasks.pop(process, None):
                task.over = not tasks.session_members(task.session)
                self._finished(task.task_id, code, None)
                tasks.remove_folder(task.folder)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers_made += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, action))

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()


def instance_from(message: dict[str, Any]) -> Instance:
    """The instance that a keeper's boot message describes."""
    return Instance(message["hostname"], message["address"], message["cable"])
