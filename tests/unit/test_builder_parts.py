"""The builder's parts by themselves: saved states, parallel calls, progress, Ray's dashboard, makers' tags."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raydog.builder.dashboard import alive_workers, nodes_url
from raydog.builder.parallel import Calls
from raydog.builder.reporting import Reporter
from raydog.builder.state import SavedState
from raydog.errors import ConfigError, CredentialsError, MissingFileError, ProvisioningTimeoutError
from raydog.progress import bar
from raydog.yellowdog import ownership
from raydog.yellowdog.naming import Maker, worker_tag

STATE = SavedState("demo", "tests", None, "ydid:workreq:000000:1-2", ("ydid:wrkrpool:000000:3-4",), "a1b2c3d4")


# The saved state


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text(STATE.to_json())
    assert SavedState.from_file(file) == STATE
    assert SavedState.from_json(STATE.to_json()) == STATE


def test_a_state_of_yellowdog_ray_has_no_cluster_id_and_may_have_nulls() -> None:
    fields = json.loads(STATE.to_json())
    del fields["cluster_id"]
    fields["worker_pool_ids"].append(None)
    state = SavedState.from_json(json.dumps(fields))
    assert (state.cluster_id, state.worker_pool_ids) == (None, STATE.worker_pool_ids)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "work_requirement_id: None"),
        ('{"work_requirement_id": "../x", "worker_pool_ids": []}', "work_requirement_id"),
        ('{"work_requirement_id": "ydid:x", "worker_pool_ids": "ydid:y"}', "worker_pool_ids"),
        ('{"work_requirement_id": "ydid:x", "worker_pool_ids": [1]}', "worker_pool_ids"),
        ('{"work_requirement_id": "ydid:x", "worker_pool_ids": [], "cluster_id": "?"}', "cluster_id"),
    ],
)
def test_what_is_no_state_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SavedState.from_json(text)


def test_a_file_that_is_missing_or_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no\.json"):
        SavedState.from_file(tmp_path / "no.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        SavedState.from_file(tmp_path / "binary")


# Parallel calls


def test_results_come_in_order_and_progress_in_the_callers_thread() -> None:
    calls, done, first = Calls(), [], threading.Event()

    def second() -> bool:
        first.set()
        return False

    try:
        answers = calls.run(
            [lambda: first.wait(5), second],
            lambda count: done.append((count, threading.current_thread())),
        )
        assert answers == [True, False]
        assert done == [(1, threading.main_thread()), (2, threading.main_thread())]
        assert calls.one(lambda: 7) == 7
    finally:
        calls.join()


def test_after_a_failure_no_call_begins_and_join_waits_for_those_under_way() -> None:
    calls, begun, finished, release = Calls(), [], [], threading.Event()

    def slow() -> None:
        begun.append(1)
        release.wait(5)
        finished.append(1)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        calls.run([fail, *[slow] * 30])
    under_way = len(begun)
    assert under_way < 30
    assert finished == []
    threading.Timer(0.05, release.set).start()
    calls.join()
    assert len(begun) == len(finished)
    assert len(begun) < 30


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "drawn"),
    [(0, 4, "[--------]"), (1, 4, "[##------]"), (4, 4, "[########]"), (9, 4, "[########]"), (0, 0, "[########]")],
)
def test_bar(done: int, total: int, drawn: str) -> None:
    assert bar(done, total, width=8) == drawn


def test_a_terminal_gets_a_bar_and_a_program_each_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    shown = Reporter(None)
    shown.count("workers are there", 3, 4)
    shown.close()
    assert "[###############-----] 3 of 4 workers are there" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    texts: list[str] = []
    told = Reporter(texts.append)
    for count in (1, 1, 2):
        told.count("workers are there", count, 2)
    told.done("all is well")
    assert texts == ["1 of 2 workers are there", "2 of 2 workers are there", "all is well"]


def test_a_terminals_line_has_room_for_the_seconds_whatever_a_dashboard_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    shown = Reporter(None)
    note = f" in Ray (its dashboard does not answer: {'long ' * 20})"
    shown.count("workers are there", 0, 4, note)
    shown.close()
    assert "0 of 4 workers are there in Ray (0 s)" in terminal.getvalue()
    texts: list[str] = []
    Reporter(texts.append).count("workers are there", 0, 4, note)
    assert texts == [f"0 of 4 workers are there{note}"]


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.StringIO()
    monkeypatch.setattr("sys.stderr", piped)
    report = Reporter(None)
    report.update("making")
    report.done("made")
    assert piped.getvalue() == ""


def test_cleaning_up_goes_on_when_the_programs_function_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(text: str) -> None:
        raise ZeroDivisionError(text)

    Reporter(fail).unstoppable("ending")
    assert "ZeroDivisionError" in caplog.text


# Ray's dashboard


@contextmanager
def dashboard(answer: object, token: str | None = None, seen: list[str | None] | None = None) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            if seen is not None:
                seen.append(given)
            body = json.dumps(answer).encode() if self.path == "/nodes?view=summary&nocache=1" else b"what?"
            refusal = 401 if given is None else 403
            self.send_response(200 if token is None or given == f"Bearer {token}" else refusal)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def node(state: str, *, head: bool = False) -> dict[str, Any]:
    return {"ip": "10.0.0.1", "raylet": {"state": state, "isHeadNode": head}}


def test_workers_alive_in_ray_are_counted_without_the_head() -> None:
    nodes = [node("ALIVE", head=True), node("ALIVE"), node("DEAD"), node("ALIVE")]
    with dashboard({"result": True, "data": {"summary": nodes}}) as address:
        assert alive_workers(nodes_url(address)) == 2
        assert alive_workers(nodes_url(f"http://{address}/")) == 2


def test_a_token_goes_only_to_a_dashboard_that_wants_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = {"data": {"summary": [node("ALIVE")]}}
    with dashboard(answer, "right") as address:
        with pytest.raises(CredentialsError, match="wants a token"):
            alive_workers(nodes_url(address))
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("right\n")
        assert alive_workers(nodes_url(address)) == 1
        (tmp_path / "other").write_text("wrong")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
        with pytest.raises(CredentialsError, match="refuses"):
            alive_workers(nodes_url(address))
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        assert alive_workers(nodes_url(address)) == 1
    seen: list[str | None] = []
    with dashboard(answer, seen=seen) as address:
        alive_workers(nodes_url(address))
    assert seen == [None]


def test_a_dashboard_of_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with dashboard({"data": {"summary": [node("ALIVE")]}}) as address:
        assert alive_workers(nodes_url(address)) == 1


@pytest.mark.parametrize("answer", [{}, [], {"data": {"summary": [{}]}}, {"data": None}])
def test_an_answer_that_is_no_dashboards_is_a_value_error(answer: object) -> None:
    with dashboard(answer) as address, pytest.raises(ValueError, match="not understood"):
        alive_workers(nodes_url(address))


def test_a_dashboard_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="dashboard_address"):
        nodes_url("file:///etc/passwd")


# Who has made what


@pytest.mark.parametrize("node_type", ["head", "01-small", "builder-abcdefgh-x"])
def test_makers_never_take_each_others_tags_for_theirs(node_type: str) -> None:
    for maker in Maker:
        tag = worker_tag("a1b2c3d4", node_type, maker)
        for other in Maker:
            assert ownership.tag_belongs(tag, "a1b2c3d4", other) == (other is maker)
            pool = f"demo-a1b2c3d4-{node_type}"
            assert ownership.pool_belongs(pool, tag, "demo", other) == (other is maker)


def test_an_error_can_say_more_behind_its_message() -> None:
    error = ProvisioningTimeoutError("too slow")
    assert str(error) == "too slow"
    error.also("and a pool is left")
    assert str(error) == error.format_message() == "too slow\nand a pool is left"
    assert isinstance(error, TimeoutError)
