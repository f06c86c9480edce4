"""Instants, durations and names as they travel (contract, sections 1.3 and 3.8)."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from raydog.emulator.problems import invalid

_DURATION = re.compile(
    r"(?P<sign>-)?P(?:(?P<w>\d+(?:\.\d+)?)W)?(?:(?P<d>\d+(?:\.\d+)?)D)?"
    r"(?:T(?:(?P<h>\d+(?:\.\d+)?)H)?(?:(?P<m>\d+(?:\.\d+)?)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_FRACTION = re.compile(r"\.(\d+)")
_NAME = re.compile(r"[a-z](?:[a-z0-9_-]{0,58}[a-z0-9])?")
MAX_TAG_LENGTH = 200


def format_instant(seconds: float) -> str:
    """``2026-11-21T02:01:34.285Z``."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def format_duration(seconds: float) -> str:
    """``PT83.285S``; zero is ``P0D``, as the SDK itself writes it."""
    return f"PT{seconds:.3f}S" if seconds > 0 else "P0D"


def parse_instant(text: str) -> float:
    """Seconds since 1970 from ISO-8601 with any fraction and ``Z`` or an offset; refused otherwise."""

    def micros(match: re.Match[str]) -> str:
        return "." + match.group(1)[:6].ljust(6, "0")

    plain = _FRACTION.sub(micros, text.strip().replace("Z", "+00:00").replace(" ", "+"))
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        raise invalid(f"not an ISO-8601 instant: {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp(), 3)


def parse_duration(text: object, field: str) -> float:
    """Seconds from an ISO-8601 duration such as ``PT10M``, ``P1DT2H30.5S``, ``P0D``; refused otherwise."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or not any(match[key] for key in _SECONDS):
        raise invalid(f"{field} is not an ISO-8601 duration: {text!r}")
    if match["sign"]:
        raise invalid(f"{field} is negative: {text!r}")
    return sum(float(match[key]) * unit for key, unit in _SECONDS.items() if match[key])


def check_name(name: object, what: str) -> str:
    """A platform name: lower case, digits, ``-``, ``_``; starts with a letter; at most 60 characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(
            f"{what} {name!r} is invalid: lower-case letters, digits, '-' and '_', starting with a letter, "
            "ending with a letter or digit, at most 60 characters"
        )
    return name


def check_tag(tag: object, what: str) -> str | None:
    """A tag: up to 200 characters; may be empty."""
    if tag is None:
        return None
    if not isinstance(tag, str) or len(tag) > MAX_TAG_LENGTH:
        raise invalid(f"the tag of {what} is not a text of at most {MAX_TAG_LENGTH} characters")
    return tag
