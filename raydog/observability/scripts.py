"""The scripts as text: bash with the Python programs that it runs written into it."""

from __future__ import annotations

from functools import cache
from importlib import resources

PROMETHEUS_PORT = 9090
GRAFANA_PORT = 3000
RECEIVER_PORT = 9089
"""Ports of the observability node. Its environment may say otherwise (``RAYDOG_PROMETHEUS_PORT`` and so on)."""

_MARK = "@{}@"


@cache
def node_script() -> str:
    """The observability node's task script, for ``bash``. Runs until it gets SIGTERM."""
    return _with_program("node.sh", "receiver")


@cache
def head_part() -> str:
    """What a head's script needs before ``ray start``. Sets ``$pusher`` to the id of the process that it starts."""
    return _with_program("head.sh", "pusher")


def _with_program(script: str, program: str) -> str:
    lines = _text(script).splitlines(keepends=True)
    mark = lines.index(f"{_MARK.format(program.upper())}\n")
    return "".join((*lines[:mark], _text(f"{program}.py"), *lines[mark + 1 :]))


def _text(name: str) -> str:
    return resources.files("raydog.observability").joinpath(name).read_text(encoding="utf-8")
