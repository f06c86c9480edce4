"""The scripts that RayDog runs on nodes, and the commands with which Ray triggers them.

Everything of ours on a node lives in ``$HOME/.raydog`` of the user that runs tasks (``yd-agent``).
"""

from __future__ import annotations

HEAD_START_COMMANDS: tuple[str, ...] = ("true",)
"""``head_start_ray_commands``: lets the head's task start Ray, and returns when Ray answers."""

WORKER_START_COMMANDS: tuple[str, ...] = ("true",)
"""``worker_start_ray_commands`` where node updaters are on: lets the worker's task start Ray."""


def default_head_script() -> str:
    """The head's task script that is used when the YAML names none."""
    return ""


def default_worker_script() -> str:
    """The workers' task script that is used when the YAML names none."""
    return ""
