"""The list of failures that the head keeps for people who ask why."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from raydog.autoscaler.failures import Failure, FailureLog, PlatformLog, PlatformSight, read_failures, read_sight
from raydog.errors import RayDogError, StateError

START = datetime(2030, 1, 1, tzinfo=timezone.utc)


def read(path: Path) -> list[Failure]:
    return read_failures(path.read_text())


def test_failures_are_kept_in_order_in_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "new" / "failures.json"
    log = FailureLog(path, lambda: START)
    log.add("worker", "TemplateRefused", "no such template")
    log.add("gpu", "NodeFailed", "exit 3", START - timedelta(hours=1))
    assert read(path) == [
        Failure("2030-01-01T00:00:00+00:00", "worker", "TemplateRefused", "no such template"),
        Failure("2029-12-31T23:00:00+00:00", "gpu", "NodeFailed", "exit 3"),
    ]


def test_same_failure_again_does_not_push_others_out(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    times = iter(START + timedelta(seconds=n) for n in range(1000))
    log = FailureLog(path, lambda: next(times))
    log.add("gpu", "NodeFailed", "the interesting one")
    for _ in range(200):
        log.add("worker", "PlatformUnavailable", "no answer")
    assert [entry.message for entry in read(path)] == ["the interesting one", "no answer"]
    assert read(path)[1].time == "2030-01-01T00:03:20+00:00"


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    log = FailureLog(path)
    for number in range(60):
        log.add("worker", "NodeFailed", str(number))
    assert [entry.message for entry in read(path)] == [str(number) for number in range(10, 60)]


def test_what_an_earlier_autoscaler_noted_stays(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    FailureLog(path).add("worker", "NodeFailed", "before the restart")
    FailureLog(path).add("worker", "NodeFailed", "after it")
    assert [entry.message for entry in read(path)] == ["before the restart", "after it"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"time": 1}]', "null"])
def test_unreadable_list_is_an_error_to_readers_and_does_not_stop_the_next_entry(tmp_path: Path, text: str) -> None:
    path = tmp_path / "failures.json"
    path.write_text(text)
    with pytest.raises(RayDogError):
        read_failures(text)
    FailureLog(path).add("worker", "NodeFailed", "new")
    assert [entry.message for entry in read(path)] == ["new"]


def test_file_that_cannot_be_written_says_which(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"failures\.json"):
        FailureLog(tmp_path / "file" / "failures.json").add("worker", "NodeFailed", "x")


def test_threads_lose_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    log = FailureLog(path)
    threads = [
        threading.Thread(target=log.add, args=("worker", "NodeFailed", str(number)), daemon=True)
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.message for entry in read(path)} == {str(number) for number in range(20)}


def test_node_fails_once_and_its_output_is_added_whoever_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    times = iter(START + timedelta(seconds=n) for n in range(10))
    log = FailureLog(path, lambda: next(times))
    log.add("worker", "NodeFailed", "demo-1: exit status 7", node="demo-1", output=["out"])
    log.add("worker", "NodeFailed", "demo-2: (exit 3)", node="demo-2")
    log.add("worker", "NodeLost", "demo-1: its machine has gone", node="demo-1")
    log.add("worker", "NodeFailed", "demo-2: exit status 3", node="demo-2", output=["other"])
    assert [(entry.message, entry.output) for entry in read(path)] == [
        ("demo-1: exit status 7", ("out",)),
        ("demo-2: (exit 3)", ("other",)),
    ]
    assert [entry.time for entry in read(path)] == ["2030-01-01T00:00:00+00:00", "2030-01-01T00:00:01+00:00"]


def test_list_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (entry,) = read_failures('[{"time": "t", "node_type": "worker", "category": "c", "message": "m"}]')
    assert (entry.node, entry.output) == ("", ())


# Whether the platform answers


def test_platform_that_does_not_answer_is_noted_with_the_time_since_when(tmp_path: Path) -> None:
    path = tmp_path / "new" / "platform.json"
    times = [START + timedelta(seconds=n) for n in range(4)]
    log = PlatformLog(path, lambda: times.pop(0))
    log.note(None)
    log.note("no answer")
    log.note("no answer at all")
    assert read_sight(path.read_text()) == PlatformSight("2030-01-01T00:00:01+00:00", "no answer at all")
    log.note(None)
    assert read_sight(path.read_text()) == PlatformSight("2030-01-01T00:00:02+00:00", None)


def test_platform_note_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "platform.json"
    log = PlatformLog(path)
    log.note("no answer")
    path.unlink()
    log.note("no answer")
    assert not path.exists()
    log.note(None)
    assert path.exists()


def test_platform_note_that_cannot_be_written_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    PlatformLog(tmp_path / "file" / "platform.json").note(None)
    assert "platform.json" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"since": 1, "other": 2}', "null"])
def test_unreadable_platform_note_is_an_error_to_readers(text: str) -> None:
    with pytest.raises(RayDogError):
        read_sight(text)
