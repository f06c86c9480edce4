"""Real instances see nothing of the host, the host nothing of them, and nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydog.emulator.driver import InstanceSpec
from raydog.emulator.real import RealDriver
from raydog.emulator.real.host import interface_name
from raydog.errors import StateError
from tests.support.real import (
    WAIT,
    Machines,
    Recorder,
    children,
    descendants,
    needs_real_instances,
    parent,
    processes_with,
    with_machines,
)

pytestmark = [pytest.mark.e2e, pytest.mark.root, needs_real_instances]

PRIVATE = "what only this host's root may know"


def shown_of(state: Path) -> list[str]:
    """What this host shows of an emulator: its interface, mounts below its folder. Others may run beside it."""
    shown = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    name = interface_name(state)
    return [*shown, name] if Path("/sys/class/net", name).exists() else shown


def test_instance_sees_nothing_of_the_host(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "secret").write_text(PRIVATE)
    look = (
        "#!/bin/bash\n"
        "ps -e -o pid=,comm= | sort -n\n"
        "echo ---; ls -A /root /home /tmp /mnt /var/tmp /etc/ssh\n"
        f"echo ---; cat {state}/secret; ls -A {state}\n"
        "echo ---; ls /dev\n"
        "echo ---; umount /proc/sys; mount -t tmpfs none /mnt; mknod /tmp/disk b 254 0"
        "; echo 1 > /proc/sys/vm/swappiness; mount -o remount,rw /proc/sys"
        "; chroot /proc/1/root ls /old_root; date -s 2001-01-01; dmesg\n"
        "echo ---; cut -d: -f2 /etc/shadow | sort -u\n"
        "echo ---; cat /proc/1/environ | tr '\\0' '\\n' | cut -d= -f1 | sort\n"
    )

    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot(look)
        said = machines.driver.console_output(node) or ""
        processes, folders, secret, devices, attacks, passwords, variables = said.split("---\n")
        assert processes.split()[0] == "1"
        assert len(processes.splitlines()) < 8
        # Python, its environment and the checkout may lie below /root; then the folder that leads there shows.
        bases = (Path(sys.base_prefix), Path(sys.prefix), Path(__file__))
        needed = {base.parts[2] for base in bases if base.parts[1] == "root"}
        for path in Path("/root").iterdir():
            assert path.name in needed or path.name not in folders.split()
        assert "secret" not in secret.replace("/secret", "")
        assert set(devices.split()) == {
            "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        }  # fmt: skip
        refused = ("Read-only", "not permitted", "ermission denied", "must be superuser", "No such file")
        assert sum(any(word in line for word in refused) for line in attacks.splitlines()) >= 6, attacks
        assert passwords.split() == ["*"]
        assert PRIVATE not in said, "not even in the first process's environment"
        assert "ermission denied" in variables
        assert shown_of(state) == [interface_name(state)], "the host sees none of an instance's mounts"

    os.environ["YD_API_KEY_SECRET"] = PRIVATE
    try:
        with_machines(state, scenario)
    finally:
        del os.environ["YD_API_KEY_SECRET"]


def test_instances_share_nothing_but_the_network(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        one, address = await machines.boot("echo mine > /opt/one; echo mine > /dev/shm/one; sleep 4321 & disown")
        two, other = await machines.boot()
        assert address != other
        seen = await machines.run(two, "ls /opt/one /dev/shm/one 2>&1; pgrep -f 'sleep 432[1]'; true")
        assert seen.count("No such file") == 2
        assert len(seen.splitlines()) == 2
        assert not Path("/opt/one").exists()
        banner = f"exec 3<> /dev/tcp/{address}/22; head -c 7 <&3"
        assert await machines.run(two, banner) == "SSH-2.0"
        assert await machines.run(one, "cat /opt/one") == "mine\n"

    with_machines(tmp_path / "state", scenario)


def test_terminated_instance_leaves_nothing(tmp_path: Path) -> None:

    async def scenario(machines: Machines) -> None:
        node, address = await machines.boot()
        task = machines.start(node, "setsid sleep 98765 & echo ready; wait")
        await machines.printed(node, task, "ready")
        (sleeper,) = processes_with("98765")
        machines.driver.terminate(node)
        await machines.events.until("terminated", node)
        assert not Path("/proc", str(sleeper)).exists()
        with pytest.raises(OSError):
            await asyncio.wait_for(asyncio.open_connection(address, 22), 3.5)
        assert machines.events.find("finished", task) is None
        assert shown_of(tmp_path / "state") == [interface_name(tmp_path / "state")]

    with_machines(tmp_path / "state", scenario)
    assert shown_of(tmp_path / "state") == []
    assert list((tmp_path / "state").iterdir()) == []


def test_instance_that_dies_is_lost(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        task = machines.start(node, "echo ready; sleep 98764")
        await machines.printed(node, task, "ready")
        (sleeper,) = processes_with("98764")
        bash = parent(sleeper)
        os.kill(parent(bash), signal.SIGKILL)
        lost = await machines.events.until("lost", node)
        assert "signal 9" in lost[2]
        assert processes_with("98764") == []
        assert machines.output(node, task) == "ready\n"

    with_machines(tmp_path / "state", scenario)


def test_keeper_that_dies_loses_all_instances_and_is_replaced(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        machines.driver.boot(InstanceSpec("ydid:inst:slow", "slow", "local", 1, 0, 1, 3600.0, "", {}))
        (keeper,) = [child for child in children(os.getpid()) if "raydog-keeper" in name_of(child)]
        os.kill(keeper, signal.SIGKILL)
        assert "died" in (await machines.events.until("lost", node))[2]
        await machines.events.until("lost", "ydid:inst:slow")
        machines.driver.boot(InstanceSpec("ydid:inst:late", "late", "local", 1, 0, 1, 0.0, "", {}))
        assert "no other yet" in (await machines.events.until("lost", "ydid:inst:late"))[2]
        while not [child for child in children(os.getpid()) if child != keeper and "keeper" in name_of(child)]:
            await asyncio.sleep(0.01)
        node, _address = await machines.boot()
        assert await machines.run(node, "hostname -I > /dev/null; echo again") == "again\n"

    with_machines(tmp_path / "state", scenario)


def name_of(process: int) -> str:
    return Path("/proc", str(process), "comm").read_text()


def test_root_split_over_several_mounts(tmp_path: Path) -> None:
    """On such a host every part gets its own overlay; tried in a mount namespace of the test's own."""
    split = 'mount --bind /usr /usr && mount --bind /var /var && exec "$0" "$@"'
    command = [
        sys.executable,
        "-c",
        HOST_OF_A_DRIVER,
        str(tmp_path / "state"),
        "rsync --version | head -1; ls -d /var/log/*",
    ]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", split, *command], capture_output=True, text=True, timeout=WAIT, check=True
    )
    version, *logs = done.stdout.splitlines()
    assert version.startswith("rsync")
    assert "/var/log/auth.log" in logs
    assert "/var/log/apt" not in logs, "blank there too"


def test_one_emulator_a_state_folder_and_two_beside_each_other(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        with pytest.raises(StateError, match="another emulator"):
            await RealDriver(tmp_path / "state").start(Recorder())
        with pytest.raises(StateError, match="is running"):
            RealDriver.clean(tmp_path / "state")
        second = RealDriver(tmp_path / "second")
        await second.start(Recorder())
        try:
            assert second.gateway_ip.rsplit(".", 2)[0] + "." != machines.driver.gateway_ip
            assert second.gateway_ip != machines.driver.gateway_ip
        finally:
            await second.close()
        node, _address = await machines.boot()
        assert node in {event[1] for event in machines.events.seen}

    with_machines(tmp_path / "state", scenario)


HOST_OF_A_DRIVER = """
import asyncio, sys
from pathlib import Path
from raydog.emulator.driver import InstanceSpec, TaskSpec
from raydog.emulator.real import RealDriver
from tests.support.real import Machines, Recorder

async def main():
    driver, events = RealDriver(Path(sys.argv[1]), internet="internet" in sys.argv[3:]), Recorder()
    await driver.start(events)
    machines = Machines(driver, events)
    node, address = await machines.boot()
    if len(sys.argv) > 2:
        print(await machines.run(node, sys.argv[2]), end="")
        return await driver.close()
    task = machines.start(node, "sleep 87654")
    await events.until("started", task)
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("keeper_too", [False, True])
def test_killed_emulator_leaves_no_process_and_no_interface(tmp_path: Path, *, keeper_too: bool) -> None:
    state = tmp_path / "state"
    emulator = subprocess.Popen([sys.executable, "-c", HOST_OF_A_DRIVER, str(state)], stdout=subprocess.PIPE)
    try:
        assert emulator.stdout is not None
        assert emulator.stdout.readline() == b"up\n"
        (keeper,) = children(emulator.pid)
        processes = {keeper, *descendants(keeper)}
        assert len(processes) >= 4, "keeper, first process, sshd, the task"
        if keeper_too:
            os.kill(emulator.pid, signal.SIGSTOP)  # so that it cannot notice
            os.kill(keeper, signal.SIGKILL)
    finally:
        emulator.kill()
        emulator.communicate()
    _wait_until_gone(processes, state)
    assert shown_of(state) == []
    RealDriver.clean(state)
    assert list(state.iterdir()) == []
    assert RealDriver.clean(state) == []


WORLD = r"""
set -e
ip link set lo up
unshare --net sleep 300 & outside=$!
trap 'kill $outside' EXIT
until [ "$(readlink /proc/$outside/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
ip link add uplink type veth peer name out netns $outside
ip address add 198.51.100.1/24 dev uplink
ip link set uplink up
there="nsenter --net=/proc/$outside/ns/net"
$there ip address add 198.51.100.2/24 dev out
$there ip link set out up
$there "$1" -c '
import socket
server = socket.create_server(("198.51.100.2", 80))
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
    connection.close()
' & server=$!
trap 'kill $outside $server' EXIT
ip route add default via 198.51.100.2
"$1" -c "$2" "$3" "$4" $5
echo
cat /proc/sys/net/ipv4/ip_forward
ip -brief link | grep -c ^rd- || true
"""


@pytest.mark.parametrize(("way_out", "seen"), [("internet", "198.51.100.1"), ("", "")])
def test_internet_only_when_asked_for_and_undone(tmp_path: Path, way_out: str, seen: str) -> None:
    """In a network namespace of the test's own, where the internet is one machine at 198.51.100.2."""
    look = "timeout 2 bash -c 'cat < /dev/tcp/198.51.100.2/80' 2> /dev/null || true"
    command = ["bash", "-c", WORLD, "world", sys.executable, HOST_OF_A_DRIVER, str(tmp_path / "state"), look, way_out]
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]  # nothing of it outlives the test
    done = subprocess.run([*own, *command], capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.stdout.split() == [*seen.split(), "0", "0"], done.stderr


def _wait_until_gone(processes: set[int], state: Path) -> None:
    deadline = time.monotonic() + WAIT
    while any(Path("/proc", str(pid)).exists() for pid in processes) or shown_of(state):
        assert time.monotonic() < deadline, "something of the killed emulator is still there"
        time.sleep(0.02)
