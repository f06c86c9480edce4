"""``raydog status``: arguments and printing; the looking is done by `raydog.autoscaler.status`."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import click

from raydog.autoscaler.failures import Failure
from raydog.autoscaler.status import ClusterStatus, NodeStatus, PoolStatus, cluster_status, load_config
from raydog.progress import Progress

_SHOWN_NODES = 40
_SHOWN_FAILURES = 5
_STATE_WORDS = {"waiting": "waiting for a machine"}


@click.command()
@click.argument("cluster_config_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--cluster-name", "-n", help="Instead of the name in the YAML.")
@click.option("--no-head", is_flag=True, help="Ask the platform only, not the head over SSH.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all nodes, all failures that are kept.")
def status(cluster_config_file: Path, cluster_name: str | None, no_head: bool, as_json: bool) -> None:
    """Show a cluster as YellowDog and Ray see it: nodes, pools, and what has failed and why.

    Exits with 1 if there is no such cluster (or the YAML or the key is wrong), with 2 if something could not be found
    out or is not as it should be: the platform or the head does not answer, or the head has ended.
    """
    config = load_config(cluster_config_file, cluster_name)
    progress = Progress()
    try:
        found = cluster_status(config, ask_head=not no_head, report=progress.update)
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        width = shutil.get_terminal_size((80, 24)).columns
        for line in _lines(found, width):
            # On a terminal what nodes have printed is cut; wrapped, it would be hard to read.
            click.echo(_cut(line, width) if sys.stdout.isatty() else line)
    for problem in found.problems:
        click.echo(f"Warning: {problem}", err=True)
    if found.missing:
        raise SystemExit(1)
    if found.problems:
        raise SystemExit(2)


def _lines(found: ClusterStatus, width: int) -> Iterator[str]:
    yield from _summary(found)
    if found.nodes:
        yield from _nodes(found.nodes, f"{found.requirement}-")
    if found.pools:
        yield from _pools(found.pools, width)
    if found.failures:
        yield from _failures(found.failures[-_SHOWN_FAILURES:], width)
    if found.ray_status:
        yield from ("", "Ray's own status")
        yield from (f"  {line}".rstrip() for line in found.ray_status.strip().splitlines())


def _summary(found: ClusterStatus) -> Iterator[str]:
    where = f"cluster {found.cluster} in namespace {found.namespace}"
    if found.missing:
        yield f"No {where}."
        return
    if not found.platform.answers:
        yield f"{where[0].upper()}{where[1:]}: the platform does not answer"
    if found.requirement is None:
        return
    if found.platform.answers:
        yield f"{where[0].upper()}{where[1:]}: {found.requirement_status}"
    yield f"  Work requirement {found.requirement}, {_duration(found.age_seconds or 0.0)} old"
    left = _duration(found.lifetime_left_seconds or 0.0)
    yield f"  Ends by itself in {left} (cluster_lifetime_hours)"


def _nodes(nodes: Sequence[NodeStatus], prefix: str) -> Iterator[str]:
    counts = Counter(node.state for node in nodes)
    yield ""
    yield "Nodes: " + ", ".join(f"{count} {_STATE_WORDS.get(state, state)}" for state, count in counts.items())
    rows = [("NAME", "TYPE", "STATE", "ADDRESS", "AGE")]
    for node in nodes[:_SHOWN_NODES]:
        address = node.public_ip or node.private_ip or "-"
        age = "-" if node.age_seconds is None else _duration(node.age_seconds)
        rows.append((node.node_id.removeprefix(prefix), node.node_type, node.state, address, age))
    most = (30, 16, 8, 15)
    widths = [min(max(len(row[i]) for row in rows), most[i]) for i in range(4)]
    for row in rows:
        cells = [_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  " + "  ".join((*cells, row[4]))
    if len(nodes) > _SHOWN_NODES:
        yield f"  and {len(nodes) - _SHOWN_NODES} more (--json shows all)"
    yield f"  On the platform these are tasks named {prefix}NAME"


def _pools(pools: Sequence[PoolStatus], width: int) -> Iterator[str]:
    yield from ("", "Worker pools")
    for pool in pools:
        yield f"  {pool.status:<10} {pool.name}"
        for message in pool.messages:
            yield from _wrapped(message, "    ", min(width, 100))


def _failures(failures: Sequence[Failure], width: int) -> Iterator[str]:
    yield from ("", "Latest failures")
    shown: set[str] = set()
    blocks = []
    for failure in reversed(failures):  # of those alike, the output of the latest is enough
        block = [f"  {_moment(failure.time)}  {failure.node_type or '-'}  {failure.category}"]
        block += _wrapped(failure.message, "    ", min(width, 100))
        if failure.output and failure.node_type not in shown:
            shown.add(failure.node_type)
            block.append("    Its last output:")
            block += [f"    | {line}".rstrip() for line in failure.output]
        elif failure.output:
            block.append("    (--json shows its last output)")
        blocks.append(block)
    for block in reversed(blocks):
        yield from block


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    lines = text.splitlines() or [""]
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def _moment(time: str) -> str:
    """A time in the list of failures, as a clock here shows it; with the date unless it was today."""
    try:
        moment = datetime.fromisoformat(time).astimezone()
    except ValueError:
        return time
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {int(seconds % 60):02d} s" if minutes else f"{int(seconds)} s"
