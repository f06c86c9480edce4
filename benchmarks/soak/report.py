"""A soak's result for people: a text for the terminal, and a table for ``docs/performance.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
_BEGIN, _END = "<!-- soak: written by make soak -->", "<!-- end of soak -->"
_VERDICTS = {True: "steady", False: "NOT STEADY", None: "too few samples"}


def text(result: dict[str, Any]) -> str:
    """What is printed at the end."""
    lines = [_summary(result), "", f"{'process':<16}{'MB, first third':>16}{'last':>8}{'descriptors':>14}{'last':>8}"]
    for name, one in result["processes"].items():
        memory, descriptors = one["memory_mb"], one["descriptors"]
        numbers = f"{memory[0]:>16.1f}{memory[1]:>8.1f}{descriptors[0]:>14.0f}{descriptors[1]:>8.0f}"
        lines.append(f"{name:<16}{numbers}  {_VERDICTS[one['steady']]}")
    lines += [f"\nPROBLEM: {problem}" for problem in result["problems"]]
    outcome = "passed: every result right, all steady, nothing left" if result["passed"] else "FAILED"
    return "\n".join([*lines, "", f"{outcome}; seed {result['seed']}"])


def write(result: dict[str, Any], page: Path = PAGE) -> None:
    """Put summary and table between their marks on the page."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if mark and end:
        page.write_text(f"{before}{_BEGIN}\n{_markdown(result)}{_END}{after}", encoding="utf-8")


def _summary(result: dict[str, Any]) -> str:
    waves = result["waves"]
    right = sum(one["problem"] is None for one in waves)
    again = sum(one["submits"] - 1 for one in waves)
    troubles = ", ".join(f"{count} {kind}" for kind, count in sorted(result["troubles"].items()))
    return (
        f"{result['minutes']:g} minutes, seed {result['seed']}: {right} of {len(waves)} jobs right, "
        f"{again} sent again, {sum(result['troubles'].values())} troubles ({troubles})"
    )


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        f"{_summary(result)}. {'Nothing was left.' if result['passed'] else '**It failed.**'}",
        "",
        "| Process | MB, first third | last third | descriptors, first third | last third | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, one in result["processes"].items():
        memory, descriptors = one["memory_mb"], one["descriptors"]
        numbers = f"{memory[0]:.1f} | {memory[1]:.1f} | {descriptors[0]:.0f} | {descriptors[1]:.0f}"
        lines.append(f"| {name} | {numbers} | {_VERDICTS[one['steady']]} |")
    return "\n".join(lines) + "\n"
