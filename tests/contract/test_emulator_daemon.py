"""``raydog emulator``: the daemon as people and scripts meet it (simulated instances)."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from raydog.emulator.record import Record, StateDir, process_start
from raydog.waiting import Pending, Ready, wait_until

RAYDOG = [sys.executable, "-c", "from raydog.cli import main; main()", "emulator"]


class Cli:
    """The command line on a state folder of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(folder)
        self.environment = {**os.environ, "RAYDOG_EMULATOR_DIR": str(folder), "NO_PROXY": "*"}

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [*RAYDOG, *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == expect, done.stderr
        self.stderr = done.stderr
        return done.stdout

    def start(self, *arguments: str) -> dict[str, str]:
        """Start with simulated instances; the exported settings."""
        lines = self("start", "--instances", "simulated", *arguments).splitlines()
        assert len(lines) == 3
        assert all(line.startswith("export YD_API_") for line in lines)
        return dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self("status", "--json"))
        return found

    @property
    def record(self) -> Record:
        record = self.state.read()
        assert record is not None
        return record


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    one = Cli(tmp_path / "state")
    yield one
    one("stop")


def answers(settings: dict[str, str]) -> bool:
    headers = {"Authorization": f"yd-key {settings['YD_API_KEY_ID']}:{settings['YD_API_KEY_SECRET']}"}
    with requests.Session() as session:
        session.trust_env = False
        url = settings["YD_API_URL"] + "/emulator/status"
        return session.get(url, headers=headers, timeout=10).status_code == 200


def wait_gone(record: Record) -> None:
    wait_until(lambda: Pending("alive") if record.alive else Ready(None), 30)


def test_start_prints_the_three_settings_and_leaves_it_running(cli: Cli) -> None:
    settings = cli.start()
    assert list(settings) == ["YD_API_URL", "YD_API_KEY_ID", "YD_API_KEY_SECRET"]
    assert cli.stderr == ""
    assert answers(settings)
    status = cli.status()
    assert (status["running"], status["liveInstances"], status["instanceKind"]) == (True, 0, "simulated")


def test_shell_can_eval_what_start_prints(cli: Cli) -> None:
    command = " ".join(f"'{word}'" for word in RAYDOG)
    script = f'eval "$({command} start --instances simulated)" && echo "$YD_API_URL"'
    done = subprocess.run(
        ["bash", "-c", script], env=cli.environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")


def test_start_twice_gives_the_same_emulator(cli: Cli) -> None:
    first, pid = cli.start(), cli.record.pid
    assert cli.start() == first
    assert cli.record.pid == pid


def test_starts_at_the_same_moment_make_one_emulator(cli: Cli) -> None:
    starts = [
        subprocess.Popen(
            [*RAYDOG, "start", "--instances", "simulated"],
            env=cli.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [one.communicate(timeout=60) for one in starts]
    assert {one.returncode for one in starts} == {0}, outputs
    assert len({stdout for stdout, _ in outputs}) == 1


def test_stop_says_what_it_ended_and_is_harmless_when_nothing_runs(cli: Cli) -> None:
    settings = cli.start()
    headers = {"Authorization": f"yd-key {settings['YD_API_KEY_ID']}:{settings['YD_API_KEY_SECRET']}"}
    body = {"namespace": "tests", "name": "demo", "taskGroups": []}
    with requests.Session() as session:
        session.trust_env = False
        url = settings["YD_API_URL"] + "/work/requirements"
        assert session.post(url, json=body, headers=headers, timeout=10).status_code == 200
    record = cli.record
    assert "work requirement demo" in cli("stop")
    assert not record.alive
    assert cli("stop") == "no emulator runs\n"
    assert cli.status()["running"] is False


def test_key_is_kept_for_its_owner_only_and_shows_in_no_log(cli: Cli) -> None:
    settings = cli.start()
    cli("stop")
    assert cli.start()["YD_API_KEY_SECRET"] == settings["YD_API_KEY_SECRET"]
    key = cli.state.path / "key.json"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(cli.state.path.stat().st_mode) == 0o700
    assert settings["YD_API_KEY_SECRET"] not in cli("logs")
    assert "answers at" in cli("logs")


def test_two_emulators_do_not_disturb_each_other(cli: Cli, tmp_path: Path) -> None:
    other = Cli(tmp_path / "other")
    first, second = cli.start(), other.start()
    assert first["YD_API_URL"] != second["YD_API_URL"]
    assert first["YD_API_KEY_SECRET"] != second["YD_API_KEY_SECRET"]
    other("stop")
    assert answers(first)
    assert not other.status()["running"]


def test_sigterm_is_a_clean_stop(cli: Cli) -> None:
    cli.start()
    record = cli.record
    os.kill(record.pid, signal.SIGTERM)
    wait_gone(record)
    assert cli.state.read() is None
    assert "nothing is left" in cli("logs")


def test_crash_is_reported_and_cleaned_and_the_next_start_works(cli: Cli) -> None:
    cli.start()
    record = cli.record
    os.kill(record.pid, signal.SIGKILL)
    wait_gone(record)
    assert cli.status()["crashed"] is True
    assert f"dead process {record.pid}" in cli("clean")
    assert cli("clean") == "nothing was left\n"
    cli.start()
    second = cli.record
    os.kill(second.pid, signal.SIGKILL)
    wait_gone(second)
    assert answers(cli.start())
    assert cli.record.pid != second.pid


def test_running_emulator_is_not_cleaned(cli: Cli) -> None:
    settings = cli.start()
    cli("clean", expect=1)
    assert "runs in" in cli.stderr
    assert answers(settings)


def test_recycled_process_id_is_never_killed(cli: Cli) -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        try:
            cli.state.make()
            assert process_start(innocent.pid) is not None
            cli.state.write(Record(innocent.pid, "another start time", "simulated", "http://127.0.0.1:1"))
            cli("stop")
            assert innocent.poll() is None
            assert cli.state.read() is None
        finally:
            innocent.kill()


def test_wrong_templates_and_busy_ports_are_one_clean_line(cli: Cli, tmp_path: Path) -> None:
    templates = tmp_path / "templates.yaml"
    templates.write_text("- {name: local/big, cpus: many}\n- {name: Local, colour: red}\n", encoding="utf-8")
    cli("start", "--instances", "simulated", "--templates", str(templates), expect=1)
    assert "Traceback" not in cli.stderr
    assert "cpus" in cli.stderr
    assert "namespace/name" in cli.stderr
    url = cli.start()["YD_API_URL"]
    other = Cli(tmp_path / "other")
    other("start", "--instances", "simulated", "--port", url.rpartition(":")[2], expect=1)
    assert "--port" in other.stderr
    assert "Traceback" not in other.stderr
    assert other.status()["crashed"] is False


def test_interrupted_start_leaves_no_daemon(cli: Cli, tmp_path: Path) -> None:
    templates = tmp_path / "templates.yaml"
    os.mkfifo(templates)  # the daemon waits here for as long as nobody writes
    command = [*RAYDOG, "start", "--instances", "simulated", "--templates", str(templates)]
    with subprocess.Popen(command, env=cli.environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        descriptor = wait_until(lambda: _open_for_writing(templates), 30)
        try:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
            assert process.returncode == 1
            with pytest.raises(BrokenPipeError):  # nobody reads any more: the daemon is gone
                os.write(descriptor, b"[]")
        finally:
            os.close(descriptor)
    assert cli.status()["running"] is False


def _open_for_writing(fifo: Path) -> Ready[int] | Pending:
    try:
        return Ready(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return Pending(str(error))


def test_templates_of_a_file_can_be_provisioned(cli: Cli, tmp_path: Path) -> None:
    templates = tmp_path / "templates.yaml"
    templates.write_text("- {name: cloud/gpu, cpus: 8, gpus: 1, ram_gb: 64, spot: true}\n", encoding="utf-8")
    settings = cli.start("--templates", str(templates))
    headers = {"Authorization": f"yd-key {settings['YD_API_KEY_ID']}:{settings['YD_API_KEY_SECRET']}"}
    with requests.Session() as session:
        session.trust_env = False
        url = settings["YD_API_URL"] + "/compute/templates/requirements"
        names = [one["name"] for one in session.get(url, headers=headers, timeout=10).json()]
    assert names == ["head", "worker", "gpu"]


def test_foreground_stays_until_interrupted(cli: Cli) -> None:
    with subprocess.Popen(
        [*RAYDOG, "start", "--instances", "simulated", "--foreground"],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            assert all(line.startswith("export YD_API_") for line in lines)
            assert cli.status()["pid"] == process.pid
            assert cli.start()["YD_API_URL"] in lines[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert cli.status()["running"] is False
