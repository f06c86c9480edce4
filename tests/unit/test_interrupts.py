"""What an interruption of ``ray up`` does at each stage."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from raydog.errors import TeardownError
from raydog.interrupts import InterruptGuard


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Python's own handlers before each test, and those of the test's runner afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.default_int_handler)  # an unguarded one must not end the tests
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Cleaning:
    """Counts; on request it fails, leaves something, or is interrupted itself."""

    def __init__(self) -> None:
        self.calls = 0
        self.going: list[str] = []
        self.error: Exception | None = None
        self.interrupted_by: signal.Signals | None = None

    def __call__(self) -> list[str]:
        self.calls += 1
        if self.interrupted_by is not None:
            signal.raise_signal(self.interrupted_by)
        if self.error is not None:
            raise self.error
        return self.going


@pytest.fixture
def cleaning() -> Cleaning:
    return Cleaning()


def test_nothing_is_cleaned_up_before_anything_is_made(cleaning: Cleaning) -> None:
    InterruptGuard(cleaning)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert cleaning.calls == 0


def test_while_a_head_is_made_whoever_makes_it_cleans_up(cleaning: Cleaning) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    with pytest.raises(KeyboardInterrupt), guard.making():
        signal.raise_signal(signal.SIGINT)
    assert cleaning.calls == 0
    guard.clean_up_now()
    guard.clean_up_now()
    assert cleaning.calls == 1


def test_while_ray_sets_the_head_up_the_handler_cleans_up(
    cleaning: Cleaning, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert cleaning.calls == 1
    assert guard.interrupted
    assert "nothing is left" in capsys.readouterr().err


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interruption_does_not_stop_the_cleaning_up(again: signal.Signals, cleaning: Cleaning) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    cleaning.interrupted_by = again
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert cleaning.calls == 1


def test_what_is_still_ending_or_cannot_be_ended_is_said(
    cleaning: Cleaning, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    cleaning.going = ["a pool TERMINATING"]
    guard.clean_up_now()
    assert "a pool TERMINATING" in capsys.readouterr().err
    guard.arm()
    cleaning.error = TeardownError("left: a pool", ["a pool"])
    guard.clean_up_now()
    assert "left: a pool" in capsys.readouterr().err


def test_a_cluster_that_is_usable_is_not_touched(cleaning: Cleaning) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    guard.disarm()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert cleaning.calls == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signals_that_the_shell_has_switched_off_stay_off(cleaning: Cleaning) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard = InterruptGuard(cleaning)
    guard.arm()
    signal.raise_signal(signal.SIGINT)
    assert cleaning.calls == 0


def test_an_interruption_does_not_stop_a_shielded_clean_up(cleaning: Cleaning) -> None:
    guard = InterruptGuard(cleaning)
    guard.arm()
    with guard.shielded():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert not guard.interrupted
    with pytest.raises(KeyboardInterrupt), guard.making():
        signal.raise_signal(signal.SIGINT)


def test_a_terminal_that_is_closed_is_an_interruption_though_nothing_can_be_said(
    cleaning: Cleaning, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("click.echo", gone)
    guard = InterruptGuard(cleaning)
    guard.arm()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
    assert cleaning.calls == 1
