"""What breaks around an emulator with real nodes: itself, its nodes, their agents, the disk. Nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from yellowdog_client import PlatformClient
from yellowdog_client.model import ApiKey, RetryProperties, ServicesSchema, Task

from raydog.demo.proof import Footprint, footprint, left_of, network_links
from raydog.emulator import Emulator
from raydog.emulator.real.host import interface_name
from raydog.emulator.real.image import find_program, program_environment
from raydog.emulator.record import process_start
from tests.support.daemon import hostname_of, links_of
from tests.support.emulator import NEVER, Yellowdog
from tests.support.ray_cli import SCRIPTS, eventually
from tests.support.real import children, needs_real_instances, processes_with

pytestmark = [pytest.mark.e2e, needs_real_instances]

RAYDOG = (str(SCRIPTS / "raydog"), "emulator")

STUBBORN = """
trap '' TERM HUP INT
setsid bash -c 'trap "" TERM HUP INT; sleep {seconds}; sleep {seconds}' &
echo ready
sleep {seconds}; sleep {seconds}
"""
"""A task whose processes ignore what they are told, one of them out of its session."""

ON_SMALL_DISK = """
import os, sys
from raydog.emulator.real.guest import syscalls
folder, size, *command = sys.argv[1:]
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("small", folder, "tmpfs", 0, f"size={size},mode=700")
os.execv(command[0], command)
"""
"""Runs a command in a mount namespace of its own, where the folder is a disk of its own that is soon full."""


KILLED_WITH_A_WAY_OUT = r"""
ip link set lo up
state=$1 raydog=$2 nft=$3
look() { echo "$("$nft" list tables | grep -c rd_) $(cat /proc/sys/net/ipv4/ip_forward)"; }
look
"$raydog" emulator start --internet --state-dir "$state" > /dev/null
look
kill -9 "$(grep -o '"pid": [0-9]*' "$state/emulator.json" | grep -o '[0-9]*')"
while "$raydog" emulator status --state-dir "$state" | grep -q process; do :; done
look
"$raydog" emulator clean --state-dir "$state" | grep -c -e 'nftables table' -e 'IPv4 forwarding'
look
"""
"""Prints whether there are rules of an emulator, and IPv4 forwarding: before, with it, after its death, cleaned."""


class Daemon:
    """``raydog emulator`` with real instances in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside: tuple[str, ...] = ()
        """What to put before a command so that it sees the folder as the daemon does."""

    def command(self, *arguments: str, code: int = 0, wrapped: tuple[str, ...] = ()) -> str:
        """Standard output and errors of ``raydog emulator ARGUMENTS``."""
        done = subprocess.run(
            [*wrapped, *self.inside, *RAYDOG, *arguments, "--state-dir", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "NO_PROXY": "*"},
        )
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def start(self, wrapped: tuple[str, ...] = ()) -> list[str]:
        """Start it; what it said before its settings."""
        *said, settings = self.command("start", "--json", wrapped=wrapped).splitlines()
        self.settings: dict[str, Any] = json.loads(settings)
        self.pid: int = self.settings["pid"]
        return said

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json"))
        return found

    @contextmanager
    def platform(self) -> Iterator[Yellowdog]:
        """The real SDK on it."""
        environment = self.settings["environment"]
        quick = RetryProperties(maxAttempts=1, initialInterval=timedelta(0), maxInterval=timedelta(0))
        client = PlatformClient.create(
            ServicesSchema(defaultUrl=environment["YD_API_URL"], retry=quick),
            ApiKey(environment["YD_API_KEY_ID"], environment["YD_API_KEY_SECRET"]),
        )
        try:
            yield Yellowdog(cast(Emulator, None), client)  # the emulator is in another process
        finally:
            client.close()

    @property
    def keeper(self) -> int:
        """The process that holds the instances."""
        return children(self.pid)[0]

    @property
    def agents(self) -> list[int]:
        """PID 1 of each instance, which is its agent too."""
        return children(self.keeper)

    def output(self, task: Task) -> str:
        return self.command("logs", "--task", str(task.id))


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Nothing runs yet; after the test nothing does."""
    monkeypatch.setenv("NO_PROXY", "*")
    one = Daemon(tmp_path / "emulator")
    yield one
    one.command("stop")
    assert one.command("clean") == "nothing was left\n"
    assert interface_name(one.folder) not in network_links()


def work(platform: Yellowdog, script: str, count: int = 1, name: str = "work") -> list[Task]:
    """A pool and tasks that run on its nodes."""
    requirement = platform.requirement(name)
    platform.pool(name, target=count, idle_node=NEVER)
    group = str((requirement.taskGroups or [])[0].id)
    tasks = [
        Task(name=f"task-{number}", taskType="bash", arguments=["taskdata.txt"], taskData=script)
        for number in range(count)
    ]
    return list(platform.client.work_client.add_tasks_to_task_group_by_id(group, tasks))


def await_status(platform: Yellowdog, task: Task, *wanted: str) -> None:
    eventually(lambda: platform.status_of(task) in wanted, f"the task is {wanted}", 60)


@pytest.mark.parametrize("next_command", ["clean", "start", "stop"])
def test_killed_emulator_leaves_nothing_after_the_next_command(daemon: Daemon, next_command: str) -> None:
    daemon.start()
    seconds = str(100_000 + os.getpid())
    with daemon.platform() as platform:
        tasks = work(platform, STUBBORN.format(seconds=seconds), count=2)
        for task in tasks:
            await_status(platform, task, "EXECUTING")
        eventually(lambda: len(processes_with(seconds)) == 4, "the tasks' processes run")
    seen, links = footprint(daemon.pid), links_of(daemon.settings["environment"]["YD_API_URL"])
    assert len(seen.processes) >= 10, "emulator, keeper, agents, sshds, tasks"
    crashed = daemon.pid
    os.kill(crashed, signal.SIGKILL)
    eventually(lambda: process_start(crashed) is None, "the emulator is dead")

    assert daemon.status() == {"running": False, "stateDir": str(daemon.folder), "crashed": True}
    if next_command == "start":
        said = daemon.start()
        assert f"left by a crash, removed: the record of the dead process {crashed}" in said
    else:
        assert f"the record of the dead process {crashed}" in daemon.command(next_command)
        assert left_of(seen, daemon.folder, links) == []
        left = sorted(path.name for path in daemon.folder.iterdir())
        assert left == ["emulator.log", "key.json", "lock"]
    # A new one's namespaces may have the old ones' numbers.
    assert left_of(Footprint(seen.processes), daemon.folder, frozenset()) == []
    assert processes_with(seconds) == []
    if next_command == "start":
        with daemon.platform() as platform:
            (task,) = work(platform, "echo works again")
            await_status(platform, task, "COMPLETED")


def test_killed_instance_is_lost_and_the_others_go_on(daemon: Daemon) -> None:
    daemon.start()
    with daemon.platform() as platform:
        first, second = work(platform, "echo ready; sleep 1234", count=2)
        for task in (first, second):
            await_status(platform, task, "EXECUTING")
        (victim,) = [one for one in daemon.status()["instances"] if one["taskIds"] == [first.id]]
        seen = footprint(daemon.pid)
        agent = next(pid for pid in daemon.agents if hostname_of(pid) == victim["hostname"])
        killed = footprint(agent)
        os.kill(agent, signal.SIGKILL)

        await_status(platform, first, "FAILED")
        lost = platform.task(first)
        assert [error.errorType for error in lost.errors or []] == ["ALLOCATION_LOST"]
        assert "signal 9" in str((lost.errors or [])[0].error)
        node = platform.client.worker_pool_client.get_node_by_id(victim["nodeId"])
        assert str(node.status) == "LOST"
        assert platform.status_of(second) == "EXECUTING"
        assert left_of(killed, daemon.folder, frozenset()) == []
        assert left_of(seen, daemon.folder, frozenset()), "the others go on"
        assert "ready" in daemon.output(second)
        (third,) = work(platform, "echo a new node", name="more")
        await_status(platform, third, "COMPLETED")
    assert "first process ended (signal 9)" in daemon.command("logs")


def test_killed_keeper_loses_all_nodes_and_the_emulator_gets_another(daemon: Daemon) -> None:
    daemon.start()
    with daemon.platform() as platform:
        (task,) = work(platform, "sleep 1234")
        await_status(platform, task, "EXECUTING")
        killed = footprint(daemon.keeper)
        os.kill(daemon.keeper, signal.SIGKILL)
        await_status(platform, task, "FAILED")
        gone = Footprint(killed.processes)  # the next keeper's namespaces may have the old ones' numbers
        eventually(lambda: left_of(gone, daemon.folder, frozenset()) == [], "all processes end", 10)
        (task,) = work(platform, "echo a new node", name="more")
        await_status(platform, task, "COMPLETED")
    log = daemon.command("logs")
    assert "is lost: the process that holds the instances died" in log
    assert "instances can be made again" in log


def test_way_out_of_a_killed_emulator_is_closed_by_clean(tmp_path: Path) -> None:
    """In a network namespace of the test's own: rules and forwarding are all that a crash can leave on a host."""
    own = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = [
        "bash",
        "-c",
        KILLED_WITH_A_WAY_OUT,
        "world",
        str(tmp_path / "state"),
        RAYDOG[0],
        str(find_program("nft")),
    ]
    environment = {**os.environ, **program_environment(), "NO_PROXY": "*"}
    done = subprocess.run([*own, *script], capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.stdout.splitlines() == ["0 0", "1 1", "1 1", "2", "0 0"], done.stdout + done.stderr


def test_full_disk_is_survived_and_said(daemon: Daemon) -> None:
    daemon.folder.mkdir(mode=0o700)
    small = (sys.executable, "-c", ON_SMALL_DISK, str(daemon.folder), "512k")
    daemon.start(wrapped=small)
    daemon.inside = ("nsenter", "--target", str(daemon.pid), "--mount")
    seen, links = footprint(daemon.pid), links_of(daemon.settings["environment"]["YD_API_URL"])
    assert daemon.status()["diskFull"] is False
    with daemon.platform() as platform:
        before, long = work(platform, "[ $YD_WORKER_SLOT ] && echo $YD_TASK_ID; sleep 1234", count=2)
        await_status(platform, before, "EXECUTING")
        await_status(platform, long, "EXECUTING")
        fill(Path(f"/proc/{daemon.pid}/root{daemon.folder}/fill"))

        (one,) = work(platform, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo the end", name="more")
        await_status(platform, one, "COMPLETED")
        output = daemon.output(one)
        assert output.endswith("xxx\nthe end\n")
        assert output.startswith("(only the last 16384 of 100009 bytes were kept: No space left on device)\n")
        platform.abort(before)
        await_status(platform, before, "ABORTED")
        assert str(before.id) in daemon.output(before)
        assert daemon.status()["diskFull"] is True
        assert f"the disk with {daemon.folder} is full" in daemon.command("status")
        pool = platform.client.worker_pool_client.get_worker_pool_by_name("tests", "more")
        platform.client.worker_pool_client.shutdown_worker_pool_by_id(str(pool.id))
        eventually(lambda: daemon.status()["liveInstances"] == 2, "an instance ends")
    seen |= footprint(daemon.pid)
    # Its namespace, and the small disk with it, end with the emulator; so this looks at the host's own folder.
    daemon.command("stop")
    daemon.inside = ()
    assert left_of(seen, daemon.folder, links) == []
    assert list(daemon.folder.iterdir()) == []


def test_start_on_a_full_disk_says_so_in_one_line_and_leaves_nothing(daemon: Daemon) -> None:
    daemon.folder.mkdir(mode=0o700)
    filled = textwrap.dedent(ON_SMALL_DISK).replace(
        "os.execv(", "open(folder + '/fill', 'wb').write(b'x' * 4096)\nos.execv("
    )
    small = (sys.executable, "-c", filled, str(daemon.folder), "4k")
    said = daemon.command("start", code=1, wrapped=small)
    assert "No space left on device" in said
    assert len(said.strip().splitlines()) == 1


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return
