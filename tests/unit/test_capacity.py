"""When a pool counts as short of machines, and in which order templates are tried."""

from __future__ import annotations

import pytest

from raydog.autoscaler.capacity import Patience, Shortages, shortage
from raydog.yellowdog.records import Supply

PATIENCE = Patience(confirm=5, silent=90, rest=120)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("supply", "registered", "waited", "short"),
    [
        (Supply(0, True, ("no capacity",)), 0, 1, True),
        (Supply(3, True, ("no capacity",)), 3, 1, True),
        (Supply(4, True, ("no capacity",)), 3, 1000, False),  # one boots
        (Supply(0, False), 0, 89, False),
        (Supply(0, False), 0, 90, True),
        (Supply(0, False, ("asking the cloud",)), 0, 89, False),  # told, but not as an error
        (Supply(None, False), 0, 90, True),
        (Supply(None, True, ("quota",)), 0, 1, True),
        (Supply(1, False), 2, 90, True),  # read a moment apart
    ],
)
def test_pool_is_short_if_nothing_boots_and_the_platform_says_so_or_is_silent_for_long(
    supply: Supply, registered: int, waited: float, short: bool
) -> None:
    reason = shortage(supply, registered, waited, PATIENCE)
    assert (reason is not None) == short
    for message in supply.messages:
        assert reason is None or message in reason


def test_shortage_counts_once_it_is_seen_again_later() -> None:
    time = Time()
    shortages = Shortages(PATIENCE, time)
    assert not shortages.confirmed("pool", "why")
    time.now += 4.9
    assert not shortages.confirmed("pool", "why")
    assert not shortages.confirmed("other", "why")
    time.now += 0.1
    assert shortages.confirmed("pool", "why")
    assert not shortages.confirmed("pool", None)
    assert not shortages.confirmed("pool", "why")


def test_templates_that_had_no_machines_rest_and_then_come_in_their_order_again() -> None:
    time = Time()
    shortages = Shortages(PATIENCE, time)
    templates = ("a", "b", "c")
    assert shortages.order(templates) == ["a", "b", "c"]
    shortages.note("b")
    time.now += 1
    shortages.note("a")
    assert shortages.fresh(templates) == ["c"]
    assert shortages.order(templates) == ["c", "b", "a"]
    time.now += 119
    assert shortages.fresh(templates) == ["b", "c"]
    time.now += 1
    assert shortages.order(templates) == ["a", "b", "c"]
