"""A call, its search filters and its page of results (contract, section 1.4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from multidict import MultiMapping

from raydog.emulator.entities import Json
from raydog.emulator.platform import Platform
from raydog.emulator.problems import invalid
from raydog.emulator.wire import parse_instant

T = TypeVar("T")

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000


@dataclass(frozen=True)
class PlainText:
    """An answer that is not JSON."""

    text: str


@dataclass(frozen=True)
class Updates:
    """An answer that goes on: the entity now, and again whenever it changed, until ``ended``."""

    entity_id: str
    read: Callable[[], Json]
    ended: Callable[[], bool]


@dataclass(frozen=True)
class Call:
    """One request: the platform it is for, the names in its path, its query and its body (None if absent)."""

    platform: Platform
    path: dict[str, str]
    query: MultiMapping[str]
    body: object

    @property
    def now(self) -> float:
        return self.platform.clock.now()

    def text(self, key: str) -> str | None:
        """A filter's value; an empty one filters nothing, as an absent one."""
        return self.query.get(key) or None

    def texts(self, *keys: str) -> frozenset[str]:
        """All values of a repeated filter, under any of its names."""
        return frozenset(value for key in keys for value in self.query.getall(key, ()) if value)

    def flag(self, key: str) -> bool | None:
        value = self.text(key)
        if value is None:
            return None
        if value.lower() not in {"true", "false"}:
            raise invalid(f"{key} is not true or false: {value!r}")
        return value.lower() == "true"

    def number(self, key: str) -> int | None:
        value = self.text(key)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()):
            raise invalid(f"{key} is not a whole number: {value!r}")
        return int(value)

    def numbers(self, key: str) -> Callable[[float], bool] | None:
        """The filter ``key.min`` to ``key.max``, both included."""
        bounds: list[float | None] = []
        for end in ("min", "max"):
            value = self.text(f"{key}.{end}")
            try:
                bounds.append(None if value is None else float(value))
            except ValueError:
                raise invalid(f"{key}.{end} is not a number: {value!r}") from None
        low, high = bounds
        if low is None and high is None:
            return None
        return lambda number: (low is None or number >= low) and (high is None or number <= high)

    def instants(self, key: str) -> Callable[[float | None], bool] | None:
        """The filter ``key.min`` to ``key.max``, both included; it drops what has no such time."""
        low, high = self.text(f"{key}.min"), self.text(f"{key}.max")
        if low is None and high is None:
            return None
        first = parse_instant(low) if low is not None else float("-inf")
        last = parse_instant(high) if high is not None else float("inf")
        return lambda moment: moment is not None and first <= moment <= last

    def page(
        self,
        items: Sequence[T],
        filters: Sequence[Callable[[T], bool]],
        encode: Callable[[T], Json],
        sort_keys: dict[str, Callable[[T], Any]] | None = None,
    ) -> Json | list[Json]:
        """One slice: at most ``size`` items and, if there are more, the id of the next slice.

        Without ``sortField`` the order is that of creation, and the id says where in ``items`` to go on: it stays
        right when items are added meanwhile, and no page looks at an item twice.
        """
        size = self.number("size") or DEFAULT_PAGE
        if size > LARGEST_PAGE:
            raise invalid(f"size is between 1 and {LARGEST_PAGE}: {size}")
        items, filters = self._sorted(items, filters, sort_keys or {})
        position = _position(self.text("sliceId"))
        kept: list[Json] = []
        following: str | None = None
        for index in range(position, len(items)):
            item = items[index]
            if all(keep(item) for keep in filters):
                if len(kept) == size:
                    following = _slice_id(index)
                    break
                kept.append(encode(item))
        return {"items": kept, "nextSliceId": following}

    def _sorted(
        self,
        items: Sequence[T],
        filters: Sequence[Callable[[T], bool]],
        sort_keys: dict[str, Callable[[T], Any]],
    ) -> tuple[Sequence[T], Sequence[Callable[[T], bool]]]:
        field, direction = self.text("sortField"), self.text("sortDirection")
        if direction not in {None, "ASCENDING", "DESCENDING"}:
            raise invalid(f"sortDirection is ASCENDING or DESCENDING: {direction!r}")
        if field is None:
            return (items, filters) if direction != "DESCENDING" else (list(reversed(items)), filters)
        if field not in sort_keys:
            raise invalid(f"sortField {field!r} is unknown; known here: {', '.join(sorted(sort_keys))}")
        kept = [item for item in items if all(keep(item) for keep in filters)]
        kept.sort(key=sort_keys[field], reverse=direction == "DESCENDING")
        return kept, ()


def _slice_id(index: int) -> str:
    return base64.urlsafe_b64encode(f"at:{index}".encode()).decode().rstrip("=")


def _position(slice_id: str | None) -> int:
    if slice_id is None:
        return 0
    try:
        decoded = base64.urlsafe_b64decode(slice_id + "=" * (-len(slice_id) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        decoded = ""
    prefix, _, index = decoded.partition(":")
    if prefix != "at" or not index.isdigit():
        raise invalid(f"sliceId {slice_id!r} is not one of ours")
    return int(index)
