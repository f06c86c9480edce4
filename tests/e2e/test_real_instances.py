"""Real instances: boot, SSH, tasks, isolation, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raydog.emulator.driver import InstanceSpec, TaskSpec
from raydog.emulator.real import RealDriver
from raydog.emulator.real.host import interface_name
from raydog.errors import ProvisioningError, StateError
from tests.support.real import (
    WAIT,
    Machines,
    Recorder,
    children,
    descendants,
    make_key,
    needs_real_instances,
    parent,
    processes_with,
    ssh,
    user_data_for,
    with_machines,
)

pytestmark = [pytest.mark.e2e, pytest.mark.root, needs_real_instances]

PRIVATE = "what only this host's root may know"


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_node_is_the_agents_machine(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, address = await machines.boot()
        said = await machines.run(
            node,
            "id -un; id -G; pwd; echo $HOME $USER $LOGNAME $SHELL; hostname; hostname -I; cat taskdata.txt | wc -l;"
            "echo $YD_TASK_ID $YD_INSTANCE_ID $YD_WORKER_SLOT $COLOUR; stat -c '%U %a' .\n",
            COLOUR="blue",
        )
        user, groups, folder, names, host, own, size, variables, mode = said.splitlines()
        task = f"ydid:task:{int(node.rsplit(':')[-1]) + 1}"
        assert user == "yd-agent"
        assert groups.split() == [groups]
        assert groups != "0"
        assert folder == f"/var/opt/yellowdog/agent/data/workers/{task.replace(':', '_')}"
        assert names == "/opt/yellowdog/agent yd-agent yd-agent /bin/bash"
        assert host == "node-1"
        assert own.split() == [address]
        assert size == "1"
        assert variables == f"{task} {node} 1 blue"
        assert mode == "yd-agent 700"
        again = await machines.run(node, f"ls -A {Path(folder).parent}; echo listed")
        assert folder not in again, "the folder of an ended task is gone"

    with_machines(tmp_path / "state", scenario)


def test_boot_takes_well_under_a_second(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        await machines.boot()  # warms the page cache
        start = time.monotonic()
        node, _address = await machines.boot()
        took = time.monotonic() - start
        assert took < 1.0, machines.driver.boot_phases(node)

    with_machines(tmp_path / "state", scenario)


def test_exit_codes_and_failures_to_start(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        failing = machines.start(node, "exit 7")
        killed = machines.start(node, "kill -KILL $$")
        assert (await machines.events.until("finished", failing))[2:] == (7, None)
        assert (await machines.events.until("finished", killed))[2:] == (137, None)
        machines.driver.run_task(node, TaskSpec("ydid:task:x", "docker", (), None, {}, 1))
        _event, _task, code, error = await machines.events.until("finished", "ydid:task:x")
        assert code is None
        assert "'docker'" in error
        inline = TaskSpec("ydid:task:y", "bash", ("-c", 'echo "$0-$1"', "zero", "one"), None, {}, 1)
        machines.driver.run_task(node, inline)
        await machines.events.until("finished", "ydid:task:y")
        assert machines.output(node, "ydid:task:y") == "zero-one\n"

    with_machines(tmp_path / "state", scenario)


def test_login_with_the_key_that_user_data_brought_and_with_no_other(tmp_path: Path) -> None:
    key, public = make_key(tmp_path)
    (tmp_path / "other").mkdir()
    other, _public = make_key(tmp_path / "other")

    async def scenario(machines: Machines) -> None:
        node, address = await machines.boot(user_data_for(public))
        assert (await ssh(key, address, "id -un; echo $HOME")).split() == ["yd-agent", "/opt/yellowdog/agent"]
        assert await ssh(key, address, "bash --login -c 'source ~/.bashrc && echo fine'") == "fine\n"
        with pytest.raises(AssertionError, match="Permission denied"):
            await ssh(other, address, "true")
        assert "exit code 0" in (machines.driver.console_output(node) or "")

    with_machines(tmp_path / "state", scenario)


def test_user_data_that_fails_is_logged_and_the_node_comes_up(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot("#!/bin/bash\nid -un; echo to stderr >&2; exit 3\n")
        assert machines.driver.console_output(node) == "root\nto stderr\nuser data: exit code 3\n"
        log = state / "instances" / node.replace(":", "_") / "console.log"
        assert log.stat().st_mode & 0o777 == 0o600
        broken, _address = await machines.boot("#!/no/such/interpreter\n")
        assert "No such file" in (machines.driver.console_output(broken) or "")

    with_machines(state, scenario)


def test_node_registers_only_after_user_data(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        fifo = "mkfifo -m 666 /run/go; read word < /run/go"
        node, _address = await machines.boot(fifo, registered=False)
        task = machines.start(node, "until [ -p /run/go ]; do sleep 0.02; done; echo go > /run/go")
        await machines.events.until("finished", task)
        await machines.events.until("registered", node)
        names = [event[0] for event in machines.events.seen]
        assert names.index("finished") < names.index("registered")

    with_machines(tmp_path / "state", scenario)


def test_abort_ends_bash_at_once_and_its_orphans_after_the_grace(tmp_path: Path) -> None:
    """Platform contract 4.2: SIGTERM to bash alone; its EXIT trap runs, its foreground child stays behind."""

    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        task = machines.start(node, "trap 'echo trapped' EXIT\necho ready\nsleep 1234\n")
        await machines.printed(node, task, "ready")
        machines.driver.abort_task(node, task, 0.5)
        assert (await machines.events.until("finished", task))[2:] == (143, None)
        assert machines.output(node, task) == "ready\ntrapped\n"
        assert await machines.run(node, "pgrep -f 'sleep 123[4]' > /dev/null && echo orphan") == "orphan\n"
        await machines.run(node, "while pgrep -f 'sleep 123[4]' > /dev/null; do sleep 0.05; done")

    with_machines(tmp_path / "state", scenario)


def test_abort_kills_what_ignores_it_after_the_grace(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        task = machines.start(node, "trap '' TERM\necho ready\nsleep 1234\n")
        await machines.printed(node, task, "ready")
        start = time.monotonic()
        machines.driver.abort_task(node, task, 0.5)
        assert (await machines.events.until("finished", task))[2:] == (137, None)
        assert time.monotonic() - start >= 0.5

    with_machines(tmp_path / "state", scenario)


def test_output_is_readable_while_running_and_bounded(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        task = machines.start(node, "echo early; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo late; sleep 1234")
        await machines.printed(node, task, "late\n")
        output = machines.output(node, task)
        assert len(output) == 1 << 20
        machines.driver.terminate(node)
        await machines.events.until("terminated", node)
        assert machines.output(node, task) == output, "kept after the instance's end"
        assert machines.driver.task_output(node, "ydid:task:unknown") is None

    with_machines(tmp_path / "state", scenario)


def test_instance_sees_nothing_of_the_host(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "secret").write_text(PRIVATE)
    before = mounts()
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
        for path in Path("/root").iterdir():
            assert path.name == ".pyenv" or path.name not in folders.split()
        assert "secret" not in secret.replace("/secret", "")
        assert set(devices.split()) == {
            "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        }  # fmt: skip
        refused = ("Read-only", "not permitted", "ermission denied", "must be superuser", "No such file")
        assert sum(any(word in line for word in refused) for line in attacks.splitlines()) >= 6, attacks
        assert passwords.split() == ["*"]
        assert PRIVATE not in said, "not even in the first process's environment"
        assert "ermission denied" in variables
        assert mounts() == before, "the host sees none of an instance's mounts"

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
    before = interfaces(), mounts()

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
        assert interfaces() - before[0] == {interface_name(tmp_path / "state")}

    with_machines(tmp_path / "state", scenario)
    assert (interfaces(), mounts()) == before
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


def test_boot_that_fails_is_lost_with_the_reason(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        machines.driver.boot(InstanceSpec("ydid:inst:bad", "n" * 100, "local", 1, 0, 1, 0.0, "", {}))
        lost = await machines.events.until("lost", "ydid:inst:bad")
        assert "too long" in lost[2]

    with_machines(tmp_path / "state", scenario)


def test_nodes_reach_the_emulator_at_the_gateway(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello from the platform\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        gateway = machines.driver.gateway_ip
        server = await asyncio.start_server(greet, gateway, 0)
        port = server.sockets[0].getsockname()[1]
        node, _address = await machines.boot()
        assert await machines.run(node, f"cat < /dev/tcp/{gateway}/{port}") == "hello from the platform\n"
        server.close()
        await server.wait_closed()

    with_machines(tmp_path / "state", scenario)


def test_keeper_that_dies_loses_all_instances_and_later_ones(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        machines.driver.boot(InstanceSpec("ydid:inst:slow", "slow", "local", 1, 0, 1, 3600.0, "", {}))
        (keeper,) = [child for child in children(os.getpid()) if "raydog-keeper" in name_of(child)]
        os.kill(keeper, signal.SIGKILL)
        assert "died" in (await machines.events.until("lost", node))[2]
        await machines.events.until("lost", "ydid:inst:slow")
        machines.driver.boot(InstanceSpec("ydid:inst:late", "late", "local", 1, 0, 1, 0.0, "", {}))
        assert "restart" in (await machines.events.until("lost", "ydid:inst:late"))[2]

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
        "rsync --version | head -1; ls /var/log",
    ]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", split, *command], capture_output=True, text=True, timeout=WAIT, check=True
    )
    assert done.stdout.startswith("rsync  version"), done.stdout
    assert done.stdout.splitlines()[1:] == ["auth.log"]


def test_slow_template_boots_late_and_can_be_terminated_before(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        spec = InstanceSpec("ydid:inst:slow", "slow", "local", 1, 0, 1, 3600.0, "", {})
        machines.driver.boot(spec)
        machines.driver.terminate("ydid:inst:slow")
        await machines.events.until("terminated", "ydid:inst:slow")
        start = time.monotonic()
        await machines.boot(boot_seconds=0.4)
        assert time.monotonic() - start >= 0.4
        assert machines.events.find("running", "ydid:inst:slow") is None

    with_machines(tmp_path / "state", scenario)


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
    driver, events = RealDriver(Path(sys.argv[1])), Recorder()
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
    before = interfaces(), mounts()
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
    _wait_until_gone(processes, interfaces=before[0])
    assert (interfaces(), mounts()) == before
    RealDriver.clean(state)
    assert list(state.iterdir()) == []
    assert RealDriver.clean(state) == []


def test_ray_cluster_over_two_instances(tmp_path: Path) -> None:
    activate = "source /opt/yellowdog/agent/venv/bin/activate\n"

    async def scenario(machines: Machines) -> None:
        (one, head), (two, _address) = await asyncio.gather(machines.boot(), machines.boot())
        start_head = "ray start --head --num-cpus 1 --include-dashboard=false --disable-usage-stats --block"
        head_task = machines.start(one, f"{activate}{start_head}")
        join = f"until ray health-check --address {head}:6379 2> /dev/null; do sleep 0.2; done\n"
        join += f"ray start --address {head}:6379 --num-cpus 2 --block"
        machines.start(two, f"{activate}{join}")
        program = """cat > job.py <<'END'
import socket, sys, time
import ray
ray.init(address="auto", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[1]):
    time.sleep(0.1)
print(ray.get(ray.remote(num_cpus=int(sys.argv[1]))(lambda: socket.gethostname()).remote()))
END
python job.py {nodes} 2> job.log || cat job.log"""
        await machines.printed(one, head_task, "Ray runtime started")
        assert await machines.run(one, activate + program.format(nodes=2)) == "node-2\n"
        await machines.run(two, activate + "ray stop")
        # It stays inside its own node: the head lives on, alone.
        assert await machines.run(one, activate + program.format(nodes=1)) == "node-1\n"

    with_machines(tmp_path / "state", scenario)


def test_user_data_can_take_raydog_away(tmp_path: Path) -> None:
    use = "/opt/yellowdog/agent/venv/bin/python -c 'import importlib.metadata as m; print(m.version(\"raydog\"))'"

    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        assert await machines.run(node, use + "; /opt/yellowdog/agent/venv/bin/python -c 'import raydog'")
        bare, _address = await machines.boot("rm /opt/yellowdog/agent/venv/lib/python*/site-packages/raydog.pth")
        assert "PackageNotFoundError" in await machines.run(bare, f"{use} 2>&1; true")
        assert "No module named" in await machines.run(
            bare, "/opt/yellowdog/agent/venv/bin/python -c 'import raydog' 2>&1; true"
        )
        assert await machines.run(bare, "/opt/yellowdog/agent/venv/bin/python -c 'import ray, redis'") == ""

    with_machines(tmp_path / "state", scenario)


def test_programs_that_nodes_need_are_there(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        await machines.run(node, "redis-server --version && rsync --version && ps && ip address")
        assert await machines.run(node, "command -v redis-server redis-cli rsync ps ip ssh | wc -l") == "6\n"
        redis = "redis-server --port 6399 --daemonize yes > /dev/null; until redis-cli -p 6399 ping; do sleep 0.1; done"
        assert "PONG" in await machines.run(node, f"{redis} 2> /dev/null; redis-cli -p 6399 shutdown nosave")
        assert int(await machines.run(node, "ulimit -n")) == min(65536, hard_limit())
        assert await machines.run(node, ". /opt/yellowdog/agent/venv/bin/activate; command -v ray") == (
            "/opt/yellowdog/agent/venv/bin/ray\n"
        )

    with_machines(tmp_path / "state", scenario)


def hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_internet_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match="internet"):
        asyncio.run(RealDriver(tmp_path / "state", internet=True).start(Recorder()))


def _wait_until_gone(processes: set[int], *, interfaces: set[str]) -> None:
    deadline = time.monotonic() + WAIT
    while any(Path("/proc", str(pid)).exists() for pid in processes) or _interfaces() - interfaces:
        assert time.monotonic() < deadline, "something of the killed emulator is still there"
        time.sleep(0.02)


_interfaces = interfaces
