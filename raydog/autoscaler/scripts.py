"""The scripts that RayDog runs on nodes, and the commands with which Ray triggers them.

Everything of ours on a node lives in ``$HOME/.raydog`` of the user that runs tasks (``yd-agent``)::

    task.log          what the task printed             redis.password   of the head's tag store
    exit_status       of a script that has ended        credentials.env  the platform's, brought over SSH
    go                says: start Ray now               ready            says: everything has been brought
    site/             RayDog itself, the client's       start.sh         see `HEAD_START_COMMANDS`
    task              whose all this is: a node's id    failures.json    see `FailureLog`
    observability.env where the observability node is, if the cluster has one
    last_words        what a failed worker sends        platform.json    see `PlatformLog`

A task that finds another's id in ``task``, or none, begins with an empty folder.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from raydog.errors import ConfigError
from raydog.observability import head_part

REMOTE_DIR = ".raydog"
"""Our folder on a node, below the home folder of the user that runs tasks."""

# Ray warns about start commands that do not say these words, though they need not (`warn_about_bad_start_command`).
HEAD_START_COMMANDS: tuple[str, ...] = (
    f": 'RayDog starts Ray in the task, as ray start --head --autoscaling-config'; bash ~/{REMOTE_DIR}/start.sh",
)
"""``head_start_ray_commands``: lets the head's task start Ray, and returns when Ray answers."""

WORKER_START_COMMANDS: tuple[str, ...] = (
    f"mkdir -p ~/{REMOTE_DIR} && touch ~/{REMOTE_DIR}/go; : 'RayDog does the ray start in the task'",
)
"""``worker_start_ray_commands`` where node updaters are on: lets the worker's task start Ray."""

OBSERVABILITY_FILE = f"{REMOTE_DIR}/observability.env"
"""Tells the head's wrapper where the observability node is."""

_END = "RAYDOG_END_OF_NODE_SCRIPT"


@cache
def _shell(name: str) -> str:
    return resources.files("raydog.autoscaler").joinpath("shell").joinpath(f"{name}.sh").read_text()


def default_head_script() -> str:
    """The head's script that is used when the YAML names none."""
    return _shell("head")


def default_worker_script() -> str:
    """The workers' script that is used when the YAML names none."""
    return _shell("worker")


def start_script() -> str:
    """The text of ``start.sh``."""
    return _shell("start")


def head_task(script: str | None, *, observed: bool = False) -> str:
    """The head's whole task: ``script`` (the default one if None) in RayDog's wrapper.

    ``observed``: the cluster has an observability node, which gets Ray's scrape targets and dashboards.
    """
    return _task("head", script, default_head_script(), head_part() if observed else "")


def worker_task(script: str | None) -> str:
    """A worker's whole task: ``script`` (the default one if None) in RayDog's wrapper."""
    return _task("worker", script, default_worker_script())


def _task(role: str, script: str | None, default: str, addition: str = "") -> str:
    text = default if script is None else script
    if _END in text.splitlines():
        raise ConfigError(f"the {role} script contains the line {_END}, which RayDog's wrapper ends with: remove it")
    kind = "default" if script is None else "own"
    own = "" if script is None else 'touch "$RAYDOG_DIR/own_script"\n'
    return "".join(
        (
            _shell("prologue"),
            f"\nexport RAYDOG_ROLE={role} RAYDOG_SCRIPT={kind}\n{own}",
            f"cat > \"$RAYDOG_DIR/node.sh\" <<'{_END}'\n{text.rstrip()}\n{_END}\n",
            _shell(f"{role}_prologue"),
            _shell(f"{role}_epilogue"),
            addition,
            _shell("epilogue"),
        )
    )
