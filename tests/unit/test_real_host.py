"""Decisions of real instances that need neither root nor Linux namespaces."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydog.emulator.real import host, image, leftovers
from raydog.emulator.real.guest import tasks
from raydog.emulator.real.guest.channel import Channel, Message
from raydog.emulator.real.guest.root import split_mounts
from raydog.emulator.real.outputs import KEPT, LIMIT, Outputs
from raydog.errors import ConfigError, ProvisioningError, StateError


def test_interface_name_fits_the_kernel_and_differs_by_state_folder(tmp_path: Path) -> None:
    one, two = host.interface_name(tmp_path / "one"), host.interface_name(tmp_path / "two")
    assert len(one) <= 15
    assert one != two
    assert one == host.interface_name(tmp_path / "two" / ".." / "one")


def test_emulators_at_the_same_time_take_different_subnets_free_of_routes(tmp_path: Path) -> None:
    first, hold = host.take_subnet(tmp_path)
    with hold:
        second, other = host.take_subnet(tmp_path)
        other.close()
    again, third = host.take_subnet(tmp_path)
    third.close()
    assert first == again
    assert not first.overlaps(second)
    assert first.num_addresses >= 1000
    for subnet in (first, second):
        assert ipaddress.IPv4Address("10.180.0.0") <= subnet.network_address < ipaddress.IPv4Address("10.250.0.0")


def test_routes_of_this_host_are_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, hold = host.take_subnet(tmp_path)
    hold.close()
    around = wanted.supernet(new_prefix=16)
    monkeypatch.setattr(host, "_routes", lambda: iter([around]))
    other, hold = host.take_subnet(tmp_path)
    hold.close()
    assert not other.overlaps(around)
    monkeypatch.setattr(host, "_routes", lambda: iter([ipaddress.ip_network("10.0.0.0/8")]))
    with pytest.raises(ProvisioningError, match="no free subnet"):
        host.take_subnet(tmp_path)


def test_without_root_the_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ProvisioningError, match=r"sudo.*--instances simulated"):
        host.check_machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ProvisioningError, match="not Linux"):
        host.check_machine()


def test_agents_account_is_free_on_this_host() -> None:
    name, number = host.account()
    assert name == "yd-agent"
    assert f":{number}:" not in "".join(line.split(":", 2)[2] for line in Path("/etc/passwd").read_text().splitlines())


def test_python_of_instances_is_this_one() -> None:
    python = host.python_description()
    assert Path(python["raydog"]["raydog"], "errors.py").is_file()
    assert sysconfig.get_path("purelib") in python["site_packages"]
    assert Path(python["executable"]).is_file()
    visible = host.visible_folders(python)
    for one in visible:
        assert not any(one != other and Path(one).is_relative_to(other) for other in visible), "no nested mounts"
        assert not Path(one).is_relative_to("/usr")


def test_folder_that_tasks_could_not_read_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="chmod"):
        host.visible_folders({"site_packages": [str(closed)], "raydog": {}})


def test_split_mounts_are_folders_of_the_operating_system() -> None:
    assert all(path.split("/")[1] in {"usr", "etc", "opt", "var", "lib", "bin", "sbin"} for path in split_mounts())


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    ends = Channel(here), Channel(there)
    yield ends
    for end in ends:
        end.close()


def test_messages_and_files_arrive_together(channels: tuple[Channel, Channel], tmp_path: Path) -> None:
    here, there = channels
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        here.send({"a": 1})
        here.send({"b": "line\nbreak"}, (file.fileno(),))
    received: list[tuple[Message, list[int]]] = []
    while len(received) < 2:
        received += there.receive()
    messages = {key: files for message, files in received for key in message}
    assert messages["a"] == []
    (number,) = messages["b"]
    assert os.read(number, 100) == b"content"
    assert not os.get_inheritable(number)
    os.close(number)


def test_message_larger_than_the_sockets_buffer(channels: tuple[Channel, Channel]) -> None:
    here, there = channels
    here.send({"data": "x" * 3_000_000})
    messages: list[tuple[Message, list[int]]] = []
    while not messages:
        here.flush()
        messages = there.receive()
    assert len(messages[0][0]["data"]) == 3_000_000
    assert there.receive() == []
    here.close()
    with pytest.raises(EOFError):
        there.receive()


def test_output_keeps_the_end_in_a_private_file(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "instance")
    source = tmp_path / "out"
    source.write_bytes(b"early" + b"x" * LIMIT)
    outputs.follow("ydid:task:../1", os.open(source, os.O_RDONLY))
    with source.open("ab") as file:
        file.write(b"late")
    running = outputs.read("ydid:task:../1")
    source.unlink()
    outputs.finish("ydid:task:../1")
    assert running == outputs.read("ydid:task:../1")
    assert running is not None
    assert running.endswith("xlate")
    assert len(running) == LIMIT
    (copy,) = (tmp_path / "instance").iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert outputs.read("other") is None


def test_outputs_are_bounded_in_number(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "instance")
    for number in range(KEPT + 3):
        outputs.follow(f"task{number}", os.open(os.devnull, os.O_RDONLY))
        outputs.finish(f"task{number}")
    assert len(list((tmp_path / "instance").iterdir())) == KEPT
    assert outputs.read("task0") is None
    assert outputs.read(f"task{KEPT}") == ""
    outputs.forget()
    assert not (tmp_path / "instance").exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the keeper has one thread
def test_program_runs_in_a_session_of_its_own_and_the_session_can_be_killed(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        session = tasks.spawn(
            ["/bin/sh", "-c", "sleep 1000 & echo ready; wait"], {"PATH": os.environ["PATH"]}, out.fileno()
        )
    assert os.getsid(session) == session
    while not (tmp_path / "out").read_text():
        os.sched_yield()
    assert tasks.kill_session(session)
    _process, status = os.waitpid(session, 0)
    assert tasks.exit_code(status) == 128 + signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the keeper has one thread
def test_program_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, pytest.raises(FileNotFoundError, match="cannot start /no/such"):
        tasks.spawn(["/no/such"], {}, out.fileno())


def test_clean_without_leftovers_says_nothing(tmp_path: Path) -> None:
    assert leftovers.clean(tmp_path / "never used") == []
    assert not (tmp_path / "never used").exists()


def test_clean_never_ends_a_process_that_only_has_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_ALONE_SECONDS", 0.05)  # this one does not end by itself
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        record = {"keeper": bystander.pid, "started": "1", "interface": "rd-none"}
        (tmp_path / "real.json").write_text(json.dumps(record))
        assert leftovers.clean(tmp_path) == []
        assert bystander.poll() is None
        leftovers.Record(tmp_path).write(bystander.pid, "rd-none")
        assert leftovers.clean(tmp_path) == [f"process {bystander.pid} (keeper of the instances)"]
        assert bystander.wait() == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []
    finally:
        bystander.kill()
        bystander.wait()


def test_state_folder_is_claimed_by_one(tmp_path: Path) -> None:
    record = leftovers.Record(tmp_path)
    record.take()
    with pytest.raises(StateError, match="another emulator"):
        leftovers.Record(tmp_path).take()
    record.release()
    again = leftovers.Record(tmp_path)
    again.take()
    again.release()


def test_tidy_merges_folders_that_are_links_and_clears_set_user_id(tmp_path: Path) -> None:
    (tmp_path / "lib/systemd").mkdir(parents=True)
    (tmp_path / "lib/systemd/unit").write_text("unit")
    program = tmp_path / "usr/bin/program"
    program.parent.mkdir(parents=True)
    program.touch()
    program.chmod(0o4755)
    image.tidy(tmp_path)
    assert program.stat().st_mode & 0o7777 == 0o755
    merged = Path("/lib").is_symlink()
    assert (tmp_path / "usr/lib/systemd/unit").exists() == merged
    assert (tmp_path / "lib").exists() != merged


def test_image_is_reused_and_its_failure_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "_packages_of_host", frozenset)
    tree = image.ensure_packages(tmp_path)
    assert tree == image.ensure_packages(tmp_path)
    assert not list(tree.iterdir()), "a host that has all packages needs no download"
    assert image.ensure_packages(tmp_path, packages=["prometheus"]).parent == tree.parent
    assert image.ensure_packages(tmp_path, packages=["prometheus"]) != tree, "who asks for more pays for it alone"
    monkeypatch.setattr(image, "_packages_of_host", lambda _packages: frozenset())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProvisioningError, match="apt-get"):
        image.ensure_packages(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set(), "no half-made folder"


def test_programs_of_the_host_come_first() -> None:
    assert image.find_program("sh") in {Path("/bin/sh"), Path("/usr/bin/sh")}
