"""Reading typed values out of a parsed YAML, noting every fault with the path to it instead of stopping at one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raydog.errors import ConfigError


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a YAML. ``in_file`` marks a file that is missing or unreadable, the YAML being right."""

    path: str
    what: str
    in_file: bool = False

    def __str__(self) -> str:
        return on_one_line(f"{self.path}: {self.what}")


def on_one_line(text: str) -> str:
    """``text`` with line breaks, terminal codes and the like shown as escapes: a YAML may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Findings:
    """All faults and warnings of one reading, in the order in which they were met."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fault(self, path: str, what: str, *, in_file: bool = False) -> None:
        """Note something that must be put right."""
        self.faults.append(Fault(path, what, in_file))

    def warn(self, path: str, what: str) -> None:
        """Note something that works but is not as it should be."""
        self.warnings.append(on_one_line(f"{path}: {what}"))

    def raise_if_faulty(self, subject: str) -> None:
        """Raise one `ConfigError` with every fault, if there is one. ``subject`` says what was read."""
        if self.faults:
            raise fault_report(subject, self.faults)


def fault_report(subject: str, faults: Iterable[Fault]) -> ConfigError:
    """One error that lists all ``faults`` of ``subject``, each on its own line."""
    lines = list(dict.fromkeys(str(fault) for fault in faults))
    count = "1 fault" if len(lines) == 1 else f"{len(lines)} faults"
    return ConfigError("\n  ".join([f"{subject} has {count}:", *lines]), lines)


def kind_of(value: Any) -> str:
    """What a YAML value is, in a YAML writer's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def as_mapping(value: Any) -> Mapping[Any, Any]:
    """``value`` if it is a mapping, otherwise an empty one: for parts whose type is reported elsewhere."""
    return value if isinstance(value, Mapping) else {}


def suggestion(key: str, known: Iterable[str], hints: Mapping[str, str]) -> str:
    """What to write instead of an unknown key."""
    known = sorted(known)
    if key in hints:
        return hints[key]
    close = difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known here: {', '.join(known)}"


class Section:
    """A mapping of a YAML, read key by key.

    An absent key and an empty one (``key:``) both give the default. A faulty value is noted in ``findings`` and
    gives the default too, so that reading goes on.
    """

    def __init__(self, values: Mapping[Any, Any], path: str, findings: Findings) -> None:
        self._values = values
        self._path = path
        self._findings = findings

    def path(self, key: str) -> str:
        """The full path of a key, for messages."""
        return f"{self._path}.{key}" if self._path else str(key)

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        return self._values.get(key) is not None

    def raw(self, key: str) -> Any:
        """The value as the YAML has it, or None."""
        return self._values.get(key)

    def fault(self, key: str, what: str, *, in_file: bool = False) -> None:
        """Note a fault of a key."""
        self._findings.fault(self.path(key), what, in_file=in_file)

    def warn(self, key: str, what: str) -> None:
        """Note a warning about a key."""
        self._findings.warn(self.path(key), what)

    def renamed(self, name: str, old: str) -> str:
        """The key to read for a property that was called ``old``: warns if the YAML still calls it so."""
        if not self.has(old):
            return name
        if self.has(name):
            self.fault(old, f"is the older name of '{name}', which is there too; remove one of them")
            return name
        self.warn(old, f"is now called '{name}'; the old name still works")
        return old

    def text(self, key: str, check: Callable[[str], str | None] | None = None) -> str | None:
        """A text. ``check`` gets it and returns what is wrong with it, or None."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fault(key, f"must be a text, not {kind_of(value)}; put it in quotes")
            return None
        if not value.strip():
            self.fault(key, "is an empty text; remove it or fill it in")
            return None
        what = check(value) if check else None
        if what is not None:
            self.fault(key, f"'{value}' {what}")
            return None
        return value

    def required_text(self, key: str, meaning: str, check: Callable[[str], str | None] | None = None) -> str | None:
        """A text that must be there; ``meaning`` tells the reader what to write."""
        if not self.has(key):
            self.fault(key, f"missing; {meaning}")
            return None
        return self.text(key, check)

    def number(self, key: str, default: float | None, *, within: tuple[float, float], unit: str) -> float | None:
        """A number that lies ``within`` the two limits; also one in quotes, which old YAMLs may have."""
        value = self.raw(key)
        if value is None:
            return default
        number = _as_number(value)
        if number is None:
            self.fault(key, f"must be a number of {unit}, not {shown(value)}")
            return default
        minimum, maximum = within
        if not minimum <= number <= maximum:
            self.fault(key, f"must be from {minimum:g} to {maximum:g} {unit}, not {shown(value)}")
            return default
        return number

    def port(self, key: str, default: int) -> int:
        """A TCP port."""
        value = self.raw(key)
        if value is None:
            return default
        number = _as_number(value)
        if number is None or number != int(number) or not 0 < number < 65536:
            self.fault(key, f"must be a port from 1 to 65535, not {shown(value)}")
            return default
        return int(number)

    def boolean(self, key: str, *, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self.optional_boolean(key)
        return default if value is None else value

    def optional_boolean(self, key: str) -> bool | None:
        """``true``, ``false``, or None where the YAML is silent."""
        value = self.raw(key)
        if value is None or isinstance(value, bool):
            return value
        self.fault(key, f"must be true or false, not {shown(value)}")
        return None

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of ``choices``; the first is the default."""
        value = self.raw(key)
        if value is None:
            return choices[0]
        if value in choices:
            return str(value)
        self.fault(key, f"must be {' or '.join(choices)}, not {shown(value)}")
        return choices[0]

    def texts(self, key: str) -> tuple[str, ...]:
        """A text or a list of texts."""
        value = self.raw(key)
        values = [] if value is None else value if isinstance(value, list | tuple) else [value]
        for index, item in enumerate(values):
            if not isinstance(item, str) or not item.strip():
                where = f"{key}[{index}]" if isinstance(value, list | tuple) else key
                self.fault(where, f"must be a text that is not empty, not {shown(item)}")
        return tuple(item for item in values if isinstance(item, str) and item.strip())

    def text_map(self, key: str) -> dict[str, str] | None:
        """A mapping of texts to texts, or None."""
        values = self.mapping(key)
        if values is None:
            return None
        result = {}
        for name, value in values.items():
            if isinstance(name, str) and isinstance(value, str):
                result[name] = value
            else:
                self.fault(f"{key}.{name}", f"must be a text, not {shown(value)}; put it in quotes")
        return result

    def mapping(self, key: str) -> Mapping[Any, Any] | None:
        """A mapping, or None."""
        value = self.raw(key)
        if value is None or isinstance(value, Mapping):
            return value
        self.fault(key, f"must be a mapping, not {shown(value)}")
        return None

    def section(self, key: str) -> Section:
        """A mapping to read key by key; an empty one where the YAML has none."""
        return Section(self.mapping(key) or {}, self.path(key), self._findings)

    def refuse_unknown(self, known: Iterable[str], hints: Mapping[str, str]) -> None:
        """Note every key that is not ``known``. Keys with an underscore in front are RayDog's and Ray's own."""
        known = list(known)
        for key in self._values:
            if not isinstance(key, str):
                self.fault(str(key), "is no text, so it can be no property's name")
            elif key not in known and not key.startswith("_"):
                self.fault(key, f"unknown property; {suggestion(key, known, hints)}")


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """A value as a message shows it: short, and a mapping or list only by its kind."""
    if isinstance(value, str | int | float):
        text = repr(value) if isinstance(value, str) else str(value).lower()
        return text if len(text) <= 40 else f"{text[:37]}..."
    return kind_of(value)
