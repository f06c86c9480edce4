"""The figures for people: a picture (SVG, written by hand) and a table, both from the rows of the last runs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PICTURE, PAGE = DOCS / "performance.svg", DOCS / "performance.md"
_BEGIN, _END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
_COLOURS = {"ours": "#0072b2", "peer": "#d55e00", "floor": "#777777"}  # told apart by the colour-blind too
_CALLED = {"ours": "RayDog", "peer": "yellowdog-ray 2.0.0", "floor": "floor"}
_WIDTH, _HEIGHT = 960, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 440, 60, 340
"""The left panel: a tick's time over the number of nodes, both logarithmic. The right one begins at `_BARS`."""
_BARS = 640
_Row = dict[str, Any]


def write(rows: Sequence[_Row]) -> None:
    """Write picture and table. What was not measured is not shown."""
    PICTURE.write_text(svg(rows), encoding="utf-8")
    if PAGE.exists():
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        if rest and after:
            PAGE.write_text(f"{before}{_BEGIN}\n{table(rows)}{_END}{after}", encoding="utf-8")


def table(rows: Sequence[_Row]) -> str:
    """All rows in Markdown."""
    lines = ["| Measure | unit | RayDog | peer | floor | goal | |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows:
        met = {True: "met", False: "**missed**", None: ""}[row["met"]]
        numbers = " | ".join(number(row[key]) for key in ("ours", "peer", "floor", "goal"))
        lines.append(f"| {row['name']} | {row['unit']} | {numbers} | {met} |")
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def svg(rows: Sequence[_Row]) -> str:
    """The picture."""
    font = 'font-family="sans-serif" font-size="12" fill="#222222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {font}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for index, (key, called) in enumerate(_CALLED.items()):
        x = _LEFT + 190 * index
        parts.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{_COLOURS[key]}"/>')
        parts.append(_text(x + 18, 23, called))
    parts += _ticks([row for row in rows if "nodes" in row])
    parts += _bars([row for row in rows if "runs" in row])
    return "\n".join([*parts, "</svg>", ""])


def _ticks(rows: Sequence[_Row]) -> list[str]:
    """One tick's reads: a line each."""
    values = [row[key] for row in rows for key in _COLOURS if row[key]]
    if not values:
        return []
    sizes = sorted(row["nodes"] for row in rows)
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    parts = [_text(_LEFT, 48, "One autoscaler tick in steady state: milliseconds over nodes", bold=True)]

    def at(size: float, value: float) -> tuple[float, float]:
        return (
            _scaled(size, sizes[0], sizes[-1], _LEFT, _RIGHT),
            _scaled(value, low, high, _BOTTOM, _TOP),
        )

    line = low
    while line <= high:
        _, y = at(sizes[0], line)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{line:g}", anchor="end"))
        line *= 10
    parts += [_text(at(size, low)[0], _BOTTOM + 20, f"{size:,}", anchor="middle") for size in sizes]
    for key, colour in _COLOURS.items():
        points = [at(row["nodes"], row[key]) for row in sorted(rows, key=lambda row: row["nodes"]) if row[key]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    for row in rows:
        if row["goal"]:
            x, y = at(row["nodes"], row["goal"])
            parts.append(f'<line x1="{x - 14:.1f}" y1="{y:.1f}" x2="{x + 14:.1f}" y2="{y:.1f}" stroke="#222222"/>')
            parts.append(_text(x - 16, y - 5, f"goal {row['goal']:g} ms", anchor="end"))
    return parts


def _bars(rows: Sequence[_Row]) -> list[str]:
    """Real instances: a bar each with its median, and a dot for each run."""
    if not rows:
        return []
    parts = [_text(_BARS - 150, 48, "Real instances: seconds (bar: median, dots: runs)", bold=True)]
    longest = max(time for row in rows for times in row["runs"].values() for time in times)
    height = (_BOTTOM - _TOP) / len(rows)
    for index, row in enumerate(rows):
        top = _TOP + index * height
        parts.append(_text(_BARS - 10, top + height / 2, row["name"], anchor="end"))
        for place, key in enumerate(_COLOURS):
            if row[key] is None:
                continue
            y = top + 8 + place * (height - 16) / 3
            width = row[key] / longest * (_WIDTH - _BARS - 60)
            thick = (height - 16) / 3 - 3
            bar = f'x="{_BARS}" y="{y:.1f}" width="{width:.1f}" height="{thick:.1f}"'
            parts.append(f'<rect {bar} fill="{_COLOURS[key]}" fill-opacity="0.75"/>')
            for time in row["runs"].get(key, ()):
                x = _BARS + time / longest * (_WIDTH - _BARS - 60)
                parts.append(f'<circle cx="{x:.1f}" cy="{y + thick / 2:.1f}" r="2" fill="#222222"/>')
            parts.append(_text(_WIDTH - 10, y + thick - 3, f"{row[key]:.1f}", anchor="end"))
    return parts


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    """A place between ``start`` and ``end`` on a logarithmic scale."""
    if low == high:
        return start
    return start + (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low)) * (end - start)


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    escaped = re.sub("[&<>]", lambda found: f"&#{ord(found[0])};", text)
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escaped}</text>'
