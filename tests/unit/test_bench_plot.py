"""The picture and the table that ``make bench`` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot

TICK: dict[str, Any] = {
    "name": "tick at 1,000 nodes",
    "unit": "ms",
    "ours": 3.0,
    "peer": 90.0,
    "floor": 1.5,
    "goal": 20.0,
    "met": True,
    "nodes": 1_000,
}
LARGE = {**TICK, "name": "tick at 10,000 nodes", "ours": 40.0, "peer": 900.0, "floor": 15.0, "nodes": 10_000}
UP: dict[str, Any] = {
    "name": "ray up <now>",
    "unit": "s",
    "ours": 6.0,
    "peer": 20.0,
    "floor": 5.0,
    "goal": 6.0,
    "met": False,
    "runs": {"ours": [5.0, 6.0, 9.0], "peer": [20.0], "floor": [5.0]},
}


@pytest.mark.parametrize("rows", [[], [TICK], [UP], [TICK, LARGE, UP], [{**UP, "peer": None}]])
def test_picture_is_well_formed_whatever_was_measured(rows: list[dict[str, Any]]) -> None:
    assert ElementTree.fromstring(plot.svg(rows)).tag.endswith("svg")  # noqa: S314 - our own text


def test_picture_has_a_bar_and_its_runs_for_each_contender() -> None:
    text = plot.svg([UP])
    assert text.count('fill-opacity="0.75"') == 3
    assert text.count('r="2"') == 5


def test_larger_figures_lie_higher_on_the_ticks_panel() -> None:
    picture = ElementTree.fromstring(plot.svg([TICK, LARGE]))  # noqa: S314 - our own text
    small, large = picture.findall("{*}circle[@fill='#0072b2']")
    assert float(small.attrib["cy"]) > float(large.attrib["cy"])


def test_table_stands_between_its_marks_and_the_rest_of_the_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{plot._BEGIN}\nold\n{plot._END}\nafter\n")
    monkeypatch.setattr(plot, "PAGE", page)
    monkeypatch.setattr(plot, "PICTURE", tmp_path / "performance.svg")
    plot.write([TICK, UP])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| ray up <now> | s | 6 | 20 | 5 | 6 | **missed** |" in text
