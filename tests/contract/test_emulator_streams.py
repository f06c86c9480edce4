"""Event streams: the SDK's helpers and listeners, and the bare stream (contract, section 1.6)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from raydog.emulator import VirtualClock
from raydog.emulator.rest.streams import KEEP_ALIVE_SECONDS
from tests.support.emulator import Yellowdog, task_group, yellowdog
from tests.support.sdk_waiting import Waiting

SECONDS = 20.0
PATHS = {"work": "/work/requirements", "pool": "/workerPools", "compute": "/compute/requirements"}


@pytest.fixture
def yd() -> Iterator[Yellowdog]:
    with yellowdog(clock=VirtualClock()) as running:
        yield running


class Stream:
    """A bare event stream, read line by line."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        self._lines = response.iter_lines(chunk_size=1)

    def lines(self) -> list[str]:
        """The lines of the next event or comment."""
        found: list[str] = []
        for line in self._lines:
            if not line:
                return found
            found.append(line.decode())
        raise EOFError("the stream has ended")

    def event(self) -> dict[str, Any]:
        """The entity of the next event."""
        while True:
            found = self.lines()
            if not found[0].startswith(":"):
                entity: dict[str, Any] = json.loads(found[-1].removeprefix("data:"))
                assert found[:-1] == [f"id:{entity['id']}", "event:entity_updated"]
                return entity

    def rest(self) -> list[dict[str, Any]]:
        """All events until the server ends the stream."""
        events = []
        try:
            while True:
                events.append(self.event())
        except EOFError:
            return events


@contextmanager
def stream(yd: Yellowdog, kind: str, entity_id: object) -> Iterator[Stream]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    with yd.http("GET", f"{PATHS[kind]}/{entity_id}/updates", stream=True, headers=headers) as response:
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


def watching(yd: Yellowdog) -> int:
    return yd.emulator.call(lambda server: len(server.platform.state.watchers))


def test_first_event_is_the_state_now_and_changes_follow(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    with stream(yd, "work", requirement.id) as one:
        first = one.event()
        assert first == yd.http("GET", f"/work/requirements/{requirement.id}").json()
        yd.client.work_client.hold_work_requirement(requirement)
        assert one.event()["status"] == "HELD"


def test_stream_ends_with_the_entity_and_a_finished_one_is_shown_once(yd: Yellowdog) -> None:
    requirement = yd.requirement()
    with stream(yd, "work", requirement.id) as one:
        one.event()
        yd.client.work_client.cancel_work_requirement(requirement)
        assert [event["status"] for event in one.rest()] == ["CANCELLED"]
    with stream(yd, "work", requirement.id) as again:
        assert [event["status"] for event in again.rest()] == ["CANCELLED"]
    assert watching(yd) == 0


def test_pool_and_compute_streams_tell_of_nodes_and_end_with_them(yd: Yellowdog) -> None:
    pool = yd.pool(minNodes=0)
    with stream(yd, "pool", pool.id) as pools, stream(yd, "compute", pool.computeRequirementId) as computes:
        assert (pools.event()["status"], computes.event()["targetInstanceCount"]) == ("PENDING", 0)
        requirement = yd.requirement("work", task_group(finishIfAllTasksFinished=False))
        yd.add(requirement, 3)
        grown, started = pools.event(), computes.event()
        assert (grown["status"], grown["nodeSummary"]["statusCounts"]) == ("RUNNING", {"RUNNING": 3})
        assert started["provisionStrategy"]["sources"][0]["instanceSummary"]["aliveCount"] == 3
        yd.client.compute_client.terminate_compute_requirement_by_id(str(pool.computeRequirementId))
        assert pools.rest()[-1]["status"] == "TERMINATED"
        assert computes.rest()[-1]["status"] == "TERMINATED"


def test_changes_of_one_moment_are_one_event(yd: Yellowdog) -> None:
    yd.pool()
    requirement = yd.requirement("work", task_group(finishIfAllTasksFinished=False))
    with stream(yd, "work", requirement.id) as one:
        one.event()
        yd.add(requirement, 100)
        counts = one.event()["taskGroups"][0]["taskSummary"]["statusCounts"]
        assert counts == {"EXECUTING": 100}


def test_events_hold_what_the_command_line_prints(yd: Yellowdog) -> None:
    pool = yd.pool(target=1)
    requirement = yd.requirement()
    with stream(yd, "work", requirement.id) as one:
        (group,) = one.event()["taskGroups"]
        assert {"name", "status", "starved", "waitingOnDependency"} <= set(group)
        assert {"taskCount", "statusCounts"} <= set(group["taskSummary"])
    with stream(yd, "pool", pool.id) as one:
        event = one.event()
        assert {"statusCounts", "actionQueueStatuses"} <= set(event["nodeSummary"])
        assert "statusCounts" in event["workerSummary"]
    with stream(yd, "compute", pool.computeRequirementId) as one:
        event = one.event()
        (source,) = event["provisionStrategy"]["sources"]
        assert {"targetInstanceCount", "expectedInstanceCount", "status"} <= set(event)
        assert {"aliveCount", "statusCounts"} <= set(source["instanceSummary"])


def test_silent_stream_is_kept_alive_well_before_the_sdk_gives_up(yd: Yellowdog) -> None:
    assert KEEP_ALIVE_SECONDS <= 45
    yd.emulator.call(lambda server: setattr(server.api.streams, "keep_alive", 0.05))
    with stream(yd, "work", yd.requirement().id) as one:
        one.event()
        assert [one.lines() for _ in range(3)] == [[":keep-alive"]] * 3


def test_client_that_went_away_is_forgotten(yd: Yellowdog) -> None:
    yd.emulator.call(lambda server: setattr(server.api.streams, "keep_alive", 0.05))
    with stream(yd, "work", yd.requirement().id) as one:
        one.event()
        assert watching(yd) == 1
    deadline = time.monotonic() + SECONDS
    while watching(yd):
        assert time.monotonic() < deadline


def test_stopping_emulator_ends_its_streams() -> None:
    with yellowdog() as yd:
        requirement = yd.requirement()
        with stream(yd, "work", requirement.id) as one:
            one.event()
            began = time.monotonic()
            stopping = threading.Thread(target=yd.emulator.stop)
            stopping.start()
            assert one.rest() == []
            stopping.join(SECONDS)
            assert time.monotonic() - began < 5


def test_unknown_entities_have_no_stream(yd: Yellowdog) -> None:
    for path in PATHS.values():
        assert yd.http("GET", f"{path}/ydid:unknown/updates").status_code == 404


def test_outage_breaks_open_streams(yd: Yellowdog) -> None:
    with stream(yd, "work", yd.requirement().id) as one:
        one.event()
        yd.emulator.outage(30)
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            one.event()
    yd.emulator.advance(30)
    assert yd.requirement("after").id


def test_helpers_of_the_sdk_wait_for_statuses(yd: Yellowdog) -> None:
    requirement, pool = yd.requirement(), yd.pool()
    waits = [
        Waiting(yd.emulator, "work", requirement.id, "COMPLETED"),
        Waiting(yd.emulator, "pool", pool.id, "RUNNING"),
        Waiting(yd.emulator, "compute", pool.computeRequirementId, "TERMINATED"),
    ]
    yd.add(requirement, 1, environment={"SIMULATED_RUN_SECONDS": "5"})
    assert waits[1].result() == "RUNNING"
    yd.emulator.advance(5)
    assert waits[0].result() == "COMPLETED"
    yd.client.worker_pool_client.shutdown_worker_pool_by_id(str(pool.id))
    assert waits[2].result() == "TERMINATED"
