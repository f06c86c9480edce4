"""The process that holds an emulator's private namespaces and is the parent of all its instances.

Messages from the driver: ``setup`` (see `_setup`), ``boot(id, hostname, address, +socket)``, ``kill(id)``.
Messages to it: ``ready``, ``failed(error)``, ``exited(id, status)``. When the driver's end closes, be it in
order or by SIGKILL, the keeper ends every instance, removes the network and goes too.

In its mount namespace lies one tmpfs with the image layer; in its network namespace a bridge with all
instances. The host sees neither: only one cable to the bridge, which vanishes with this namespace.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from . import init, python_environment, root, syscalls
from .channel import Channel, Message
from .layer import Layer
from .netlink import Netlink
from .tasks import DATA, HOME, Account

_BRIDGE = "instances"
_UPLINK = "host"


def main(descriptor: int) -> None:
    """Serve the driver that holds the other end of the socket ``descriptor``."""
    syscalls.set_process_name("raydog-keeper")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl+C in the emulator's terminal is for the driver
    os.chdir("/")
    os.umask(0o022)
    Keeper(Channel(socket.socket(fileno=descriptor))).serve()


class Keeper:
    """The keeper's loop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._machine: init.Machine | None = None
        self._instances: dict[int, tuple[str, str]] = {}
        """Process id to the instance's id and its cable."""
        self._cables = 0
        self._own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            try:
                while True:
                    for key, _events in selector.select():
                        if key.fd == self._wake_reader:
                            os.read(self._wake_reader, 4096)
                        else:
                            for message, files in self._channel.receive():
                                self._obey(message, files)
                    self._reap(os.WNOHANG)
            except (EOFError, BrokenPipeError):
                self._end_all()

    def _obey(self, message: Message, files: list[int]) -> None:
        command = message["command"]
        if command == "setup":
            try:
                self._machine = _setup(message)
            except Exception as error:  # noqa: BLE001 - the driver raises it, with a remedy
                detail = getattr(error, "stderr", None) or b""
                said = f"{type(error).__name__}: {error} {detail.decode(errors='replace')}".strip()
                self._channel.send({"event": "failed", "error": said})
            else:
                self._channel.send({"event": "ready"})
        elif command == "boot":
            self._boot(message, files[0])
        elif command == "kill":
            for process, (instance_id, _cable) in self._instances.items():
                if instance_id == message["id"]:
                    os.kill(process, signal.SIGKILL)
        else:
            raise ValueError(f"unknown command {command!r}")

    def _boot(self, message: Message, end: int) -> None:
        if self._machine is None:
            raise ValueError("boot before setup")
        self._cables += 1
        cable = f"i{self._cables}"
        instance = init.instance_from({**message, "cable": cable})
        # Only children are born into the new PID namespace; afterwards this process asks for its own again.
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            process = os.fork()
            if process == 0:
                _close_all_but(end)
                init.run(self._machine, instance, Channel(socket.socket(fileno=end)))
        finally:
            syscalls.setns(self._own_processes, syscalls.CLONE_NEWPID)
        os.close(end)
        self._instances[process] = (message["id"], cable)

    def _reap(self, flags: int) -> None:
        while self._instances:
            process, status = os.waitpid(-1, flags)
            if process == 0:
                return
            # The kernel lets go of PID 1 only after every process of its namespace has ended.
            instance_id, cable = self._instances.pop(process)
            _remove(cable)
            self._channel.send({"event": "exited", "id": instance_id, "status": status})

    def _end_all(self) -> None:
        for process in self._instances:
            os.kill(process, signal.SIGKILL)
        for process in self._instances:
            os.waitpid(process, 0)


def _remove(cable: str) -> None:
    network = Netlink()
    try:
        network.delete(cable)
    except OSError:
        # It went with the instance's namespace, or was never made.
        return
    finally:
        network.close()


def _close_all_but(kept: int) -> None:
    signal.set_wakeup_fd(-1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for standard in range(3):  # the keeper's error file is the host's
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir would hold one more open
        number = int(name)
        if number > 2 and number != kept:
            try:
                os.close(number)
            except OSError:
                continue  # the listing's own


def _setup(message: dict[str, Any]) -> init.Machine:
    """Make the namespaces, the network and the image layer.

    ``workplace`` (an empty folder of the host to mount on), ``interface``, ``gateway``, ``prefix``, ``trees``
    (unpacked packages), ``visible`` and ``hidden`` (folders of the host), ``account`` (name, number),
    ``python`` (see `python_environment.build`), ``keygen`` (program, library folders).
    """
    bridge = _network(message["interface"], message["gateway"], message["prefix"])
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    split = root.split_mounts()
    workplace = Path(message["workplace"])
    syscalls.mount("raydog", str(workplace), "tmpfs", syscalls.MS_NOSUID, "mode=700")
    for name in ("layer", "upper", "root"):
        (workplace / name).mkdir(mode=0o755)
    layer = Layer(workplace / "layer")
    layer.root.chmod(0o755)
    account = Account(*message["account"])
    owner = (account.number, account.number)
    for tree in message["trees"]:
        layer.add_tree(Path(tree))
    layer.hide_private(message["hidden"], message["visible"])
    layer.accounts(account.name, account.number, HOME)
    layer.ssh_server(message["keygen"], {"LD_LIBRARY_PATH": message["libraries"]})
    layer.home(HOME, account.number)
    for path in (DATA, f"{DATA}/workers"):
        os.chown(layer.folder(path), *owner)
    python_environment.build(layer, message["python"], owner)
    for path in split:
        layer.folder(path)
    return init.Machine(workplace, message["visible"], split, account, bridge, message["gateway"], message["prefix"])


def _network(interface: str, gateway: str, prefix: int) -> int:
    host = Netlink()
    syscalls.unshare(syscalls.CLONE_NEWNET)
    inside = Netlink()
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inside.switch_on(1)
    inside.add_bridge(_BRIDGE)
    bridge = socket.if_nametoindex(_BRIDGE)
    host.add_cable(interface, _UPLINK, namespace)
    uplink = socket.if_nametoindex(_UPLINK)
    inside.join(uplink, bridge)
    inside.switch_on(uplink)
    host.add_address(host.index(interface), gateway, prefix)
    os.close(namespace)
    host.close()
    inside.close()
    return bridge


if __name__ == "__main__":
    main(int(sys.argv[1]))
