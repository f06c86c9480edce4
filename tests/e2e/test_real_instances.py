"""Real instances: boot, SSH, user data, tasks, Ray."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

import pytest

from raydog.emulator.driver import InstanceSpec, TaskSpec
from tests.support.real import (
    Machines,
    make_key,
    needs_real_instances,
    ssh,
    user_data_for,
    with_machines,
)

pytestmark = [pytest.mark.e2e, pytest.mark.root, needs_real_instances]


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


def test_task_holds_no_file_of_the_agent(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        node, _address = await machines.boot()
        said = await machines.run(node, "readlink /proc/$$/fd/* | sort")
        files = sorted({Path(line).name for line in said.splitlines()})
        assert files == ["null", "taskdata.txt", "taskoutput.txt"], said

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
        fifo = "mkfifo -m 666 /run/go; read -r word < /run/go"
        node, _address = await machines.boot(fifo, registered=False)
        await machines.run(node, "until [ -p /run/go ]; do sleep 0.02; done")
        assert machines.events.find("registered", node) is None
        await machines.run(node, "echo go > /run/go")
        await machines.events.until("registered", node)

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


def test_boot_that_fails_is_lost_with_the_reason(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        machines.driver.boot(InstanceSpec("ydid:inst:bad", "n" * 100, "local", 1, 0, 1, 0.0, "", {}))
        lost = await machines.events.until("lost", "ydid:inst:bad")
        assert "hostname 'nnn" in lost[2]

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
