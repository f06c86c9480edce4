"""The parts behind the emulator's page: what a list shows, what an output gained, how busy an instance is."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from raydog.emulator.clock import VirtualClock
from raydog.emulator.events import REMEMBERED_EVENTS, Events
from raydog.emulator.page.feed import FIRST_OUTPUT, OutputTail
from raydog.emulator.page.load import LoadSampler
from raydog.emulator.page.view import LARGEST_WINDOW, View, snapshot
from raydog.emulator.platform import Platform
from raydog.emulator.simulated import SimulatedDriver


def test_events_are_bounded_and_numbered() -> None:
    events = Events()
    for number in range(REMEMBERED_EVENTS + 10):
        events.note(float(number), "task", f"id-{number}", "name", "owner", "EXECUTING")
    assert len(events.recent) == REMEMBERED_EVENTS
    assert (events.recent[0].number, events.recent[-1].number) == (11, REMEMBERED_EVENTS + 10)
    assert events.revision == events.count == REMEMBERED_EVENTS + 10


# A platform with one pool


async def _platform(nodes: int) -> tuple[Platform, str, str]:
    clock = VirtualClock()
    driver = SimulatedDriver(clock)
    platform = Platform(clock, driver)
    await driver.start(platform)
    group = {"name": "g", "runSpecification": {"taskTypes": ["bash"]}, "finishIfAllTasksFinished": False}
    requirement = platform.work.add({"namespace": "tests", "name": "work", "taskGroups": [group]})
    usage = {"templateId": "local/worker", "requirementNamespace": "tests", "requirementName": "pool"}
    properties = {"idleNodeShutdown": {"enabled": False}, "idlePoolShutdown": {"enabled": False}}
    pool = platform.pools.provision({"requirementTemplateUsage": usage, "provisionedProperties": properties})
    platform.tasks.add(requirement.groups[0], [{"name": f"task-{n}", "taskType": "bash"} for n in range(nodes)])
    platform.settle()
    return platform, requirement.id, pool.id


@pytest.fixture
def fleet(request: pytest.FixtureRequest) -> tuple[Platform, str, str]:
    return asyncio.run(_platform(250))


def view(**wanted: Any) -> View:
    return View.parse(wanted)


def test_a_list_is_a_window(fleet: tuple[Platform, str, str]) -> None:
    platform, _requirement, pool = fleet
    first = snapshot(platform, view(section="pools", id=pool, limit=10_000), {})["list"]
    assert (first["total"], first["matched"], len(first["rows"])) == (250, 250, LARGEST_WINDOW)
    last = snapshot(platform, view(section="pools", id=pool, offset=200, limit=100), {})["list"]
    assert (last["offset"], len(last["rows"])) == (200, 50)
    beyond = snapshot(platform, view(section="pools", id=pool, offset=900, limit=100), {})["list"]
    assert beyond == last, "a list that became shorter shows its last window"


def test_a_filter_needs_all_its_words(fleet: tuple[Platform, str, str]) -> None:
    platform, requirement, pool = fleet
    found = snapshot(platform, view(section="work", id=requirement, filter="EXECUTING task-24"), {})["list"]
    names = {row["name"] for row in found["rows"]}
    assert names == {"task-24", *(f"task-{number}" for number in range(240, 250))}
    by_task = snapshot(platform, view(section="pools", id=pool, filter="task-77 running"), {})["list"]
    assert [row["tasks"][0]["name"] for row in by_task["rows"]] == ["task-77"]
    assert snapshot(platform, view(section="instances", filter="no-such"), {})["list"]["matched"] == 0


def test_only_what_lives(fleet: tuple[Platform, str, str]) -> None:
    platform, _requirement, pool = fleet
    gone = next(iter(platform.state.instances))
    platform.preempt(gone)
    alive = snapshot(platform, view(section="pools", id=pool, live=True), {})["list"]
    assert (alive["matched"], alive["total"]) == (249, 250)
    assert gone not in {row["id"] for row in alive["rows"]}
    counts = snapshot(platform, view(), {})["counts"]
    assert counts["instances"] == {"RUNNING": 249, "TERMINATED": 1}
    assert counts["nodes"] == {"RUNNING": 249, "LOST": 1}
    assert counts["tasks"] == {"EXECUTING": 249, "FAILED": 1}


def test_events_tell_the_story_of_a_preemption_newest_first(fleet: tuple[Platform, str, str]) -> None:
    platform, _requirement, _pool = fleet
    instance = next(iter(platform.state.instances.values()))
    platform.preempt(instance.id)
    rows = snapshot(platform, view(section="events", limit=4), {})["list"]["rows"]
    told = [(row["kind"], row["status"]) for row in rows]
    assert told == [
        ("instance", "TERMINATED"),
        ("task", "FAILED"),
        ("node", "LOST"),
        ("instance", "TERMINATING"),
    ]
    assert "preempted" in rows[1]["detail"]
    assert rows[2]["detail"] == "the instance was preempted"


def test_a_task_shows_neither_its_environment_nor_its_data(fleet: tuple[Platform, str, str]) -> None:
    platform, requirement, _pool = fleet
    group = platform.state.requirements[requirement].groups[0]
    secret = {"name": "with-secret", "taskType": "bash", "environment": {"KEY": "s3cret"}, "taskData": "echo s3cret"}
    (task,) = platform.tasks.add(group, [secret])
    platform.settle()
    parts = snapshot(platform, view(section="work", id=requirement, task=task.id, filter="with-secret"), {})
    assert parts["task"]["name"] == "with-secret"
    assert "s3cret" not in repr(parts)


def test_what_is_gone_is_shown_as_nothing() -> None:
    platform, _requirement, _pool = asyncio.run(_platform(0))
    for section in ("work", "pools"):
        parts = snapshot(platform, view(section=section, id="gone", task="gone"), {})
        assert (parts["head"], parts["task"], parts["list"]["rows"]) == (None, None, [])


# Output


def test_an_output_is_sent_once() -> None:
    tail = OutputTail()
    assert tail.advance(None) is None
    assert tail.advance("one\n") == {"restart": True, "text": "one\n"}
    assert tail.advance("one\n") is None
    assert tail.advance("one\ntwo\n") == {"restart": False, "text": "two\n"}


def test_an_output_that_lost_its_beginning_goes_on() -> None:
    tail = OutputTail()
    text = "".join(f"line {number}\n" for number in range(1000))
    tail.advance(text)
    assert tail.advance(text[500:] + "more\n") == {"restart": False, "text": "more\n"}


def test_an_output_that_begins_anew_replaces_the_old_one() -> None:
    tail = OutputTail()
    tail.advance("the first try failed\n")
    assert tail.advance("the second\n") == {"restart": True, "text": "the second\n"}


def test_of_a_long_output_the_end_is_sent_first() -> None:
    gained = OutputTail().advance("x" * FIRST_OUTPUT + "end")
    assert gained is not None
    assert len(gained["text"]) == FIRST_OUTPUT
    assert gained["text"].endswith("end")


# Load


class FakeProc:
    """A /proc with processes in PID namespaces that have addresses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("self", "pid:[1]", "127.0.0.1", 0)

    def add(self, process: object, namespace: str, address: str, ticks: int) -> None:
        folder = self.root / str(process)
        (folder / "ns").mkdir(parents=True)
        (folder / "net").mkdir()
        (folder / "ns" / "pid").symlink_to(namespace)
        table = f"Local:\n        |-- 127.0.0.1\n           /32 host LOCAL\n        |-- {address}\n"
        (folder / "net" / "fib_trie").write_text(table + "           /32 host LOCAL\n")
        self.work(process, ticks)

    def work(self, process: object, ticks: int, of_children: int = 0) -> None:
        """Let it have used so many ticks of CPU time since it began, a third of them in the kernel."""
        used = [ticks - ticks // 3, ticks // 3, of_children - of_children // 3, of_children // 3]
        fields = ["S", *["0"] * 10, *map(str, used), *["0"] * 30]
        (self.root / str(process) / "stat").write_text(f"{process} (a (strange) name) {' '.join(fields)}\n")


def test_the_load_of_an_instance_is_that_of_its_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = FakeProc(tmp_path)
    proc.add(10, "pid:[1]", "192.168.0.1", 5000)
    proc.add(20, "pid:[2]", "10.1.0.10", 100)
    proc.add(21, "pid:[2]", "10.1.0.10", 200)
    proc.add(30, "pid:[3]", "10.1.0.11", 100)
    proc.add(40, "pid:[4]", "172.17.0.2", 100)
    moments = iter([100.0, 102.0])
    monkeypatch.setattr("raydog.emulator.page.load.time.monotonic", lambda: next(moments))
    sampler = LoadSampler(tmp_path)
    addresses = {"10.1.0.10": "i-one", "10.1.0.11": "i-two"}
    first = sampler.sample(addresses)
    assert {name: load.processes for name, load in first.items()} == {"i-one": 2, "i-two": 1}
    assert all(load.cpu_percent == 0 for load in first.values())
    ticks = sampler._ticks_per_second
    proc.work(20, 100 + ticks)  # one second of CPU time within two
    proc.work(10, 9000)
    second = sampler.sample(addresses)
    assert second["i-one"].cpu_percent == pytest.approx(50.0)
    assert second["i-two"].cpu_percent == 0


def test_what_a_process_used_is_not_lost_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = FakeProc(tmp_path)
    proc.add(20, "pid:[2]", "10.1.0.10", 100)
    proc.add(21, "pid:[2]", "10.1.0.10", 1000)
    moments = iter([100.0, 104.0])
    monkeypatch.setattr("raydog.emulator.page.load.time.monotonic", lambda: next(moments))
    sampler = LoadSampler(tmp_path)
    sampler.sample({"10.1.0.10": "i-one"})
    shutil.rmtree(tmp_path / "21")
    proc.work(20, 100, of_children=1000 + sampler._ticks_per_second)
    load = sampler.sample({"10.1.0.10": "i-one"})["i-one"]
    assert load.processes == 1
    assert load.cpu_percent == pytest.approx(25.0)


def test_processes_that_end_meanwhile_do_not_matter(tmp_path: Path) -> None:
    proc = FakeProc(tmp_path)
    proc.add(20, "pid:[2]", "10.1.0.10", 100)
    (tmp_path / "30").mkdir()
    (tmp_path / "20" / "stat").unlink()
    load = LoadSampler(tmp_path).sample({"10.1.0.10": "i-one"})
    assert load["i-one"].cpu_percent == 0
