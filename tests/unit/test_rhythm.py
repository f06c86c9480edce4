"""When the head asks the platform: before Ray looks, and more often while nodes come or go."""

from __future__ import annotations

import threading

import pytest

from raydog.autoscaler.rhythm import Rhythm

OFTEN = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rhythm(clock: Clock) -> Rhythm:
    return Rhythm(OFTEN, clock)


def test_until_rays_pace_is_known_the_platform_is_asked_often(rhythm: Rhythm, clock: Clock) -> None:
    assert rhythm.pause(busy=False, took=0.0) == OFTEN
    rhythm.ray_looks()
    assert rhythm.pause(busy=False, took=0.0) == OFTEN


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 2.4, 4.4, 4.6, 4.9])
def test_sweep_begins_once_a_tick_half_a_second_before_ray_looks(rhythm: Rhythm, clock: Clock, delay: float) -> None:
    rhythm.ray_looks()
    clock.now += 5.0
    rhythm.ray_looks()
    looked = clock.now
    clock.now += delay
    sweep = clock.now + rhythm.pause(busy=False, took=0.01)
    assert (sweep - looked) % 5.0 == pytest.approx(4.5)
    assert 2.5 <= sweep - clock.now <= 7.5


def test_long_sweep_begins_earlier(rhythm: Rhythm, clock: Clock) -> None:
    rhythm.ray_looks()
    clock.now += 5.0
    rhythm.ray_looks()
    assert rhythm.pause(busy=False, took=1.0) == pytest.approx(3.0)


def test_while_nodes_come_or_go_the_platform_is_asked_often(rhythm: Rhythm, clock: Clock) -> None:
    for _ in range(3):
        rhythm.ray_looks()
        clock.now += 5.0
    assert rhythm.pause(busy=True, took=0.01) == OFTEN


def test_several_looks_of_one_tick_count_once(rhythm: Rhythm, clock: Clock) -> None:
    for _ in range(2):
        for _ in range(4):
            rhythm.ray_looks()
            clock.now += 0.01
        clock.now += 4.96
    assert rhythm.pause(busy=False, took=0.01) == pytest.approx(4.5)


def test_looks_in_quick_succession_do_not_make_sweeps_more_frequent(rhythm: Rhythm, clock: Clock) -> None:
    for _ in range(5):
        rhythm.ray_looks()
        clock.now += 1.1
    assert rhythm.pause(busy=False, took=0.01) == OFTEN


def test_ray_that_has_not_looked_for_long_has_no_pace(rhythm: Rhythm, clock: Clock) -> None:
    rhythm.ray_looks()
    clock.now += 300.0
    rhythm.ray_looks()
    assert rhythm.pause(busy=False, took=0.01) == OFTEN


def test_sweeps_go_on_when_ray_looks_no_more(rhythm: Rhythm, clock: Clock) -> None:
    rhythm.ray_looks()
    clock.now += 5.0
    rhythm.ray_looks()
    clock.now += 3600.0
    assert 2.5 <= rhythm.pause(busy=False, took=0.01) <= 7.5


@pytest.mark.parametrize("begin", [Rhythm.hurry, Rhythm.stop])
def test_waiting_ends_early_when_something_begins_or_all_ends(begin: object) -> None:
    rhythm = Rhythm(0.0)
    waiting = threading.Thread(target=rhythm.wait, args=(3600.0,))
    waiting.start()
    begin(rhythm)  # type: ignore[operator]
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_hurry_during_a_sweep_shortens_the_wait_after_it() -> None:
    rhythm = Rhythm(0.0)
    rhythm.hurry()
    rhythm.wait(3600.0)


def test_those_in_a_hurry_never_make_a_wait_longer(rhythm: Rhythm, clock: Clock) -> None:
    rhythm.hurry()
    rhythm.wait(0.0)
    rhythm.wait(0.0)
