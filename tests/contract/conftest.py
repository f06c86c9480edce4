"""A simulated platform, and clusters on it whose head is this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raydog.emulator import Emulator
from tests.support.head_room import HeadRoom


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Emulator(instances="simulated") as running:
        yield running


@pytest.fixture
def make_room(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., HeadRoom]]:
    """Makes clusters with a head each; their providers' threads end with the test."""
    rooms: list[HeadRoom] = []

    def make(**settings: object) -> HeadRoom:
        rooms.append(HeadRoom(emulator, monkeypatch, tmp_path, **settings))  # type: ignore[arg-type]
        return rooms[-1]

    try:
        yield make
    finally:
        emulator.clear_faults()
        for room in rooms:
            room.close()


@pytest.fixture
def room(make_room: Callable[..., HeadRoom]) -> HeadRoom:
    """A cluster ``demo`` without a tag server."""
    return make_room()
