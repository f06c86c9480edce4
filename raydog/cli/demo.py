"""``raydog demo``: the doing is `raydog.demo.run`'s."""

from __future__ import annotations

import signal
from types import FrameType

import click


@click.command()
@click.option("--no-floor", is_flag=True, help="Leave out the comparison with a head that is booted beforehand.")
def demo(no_floor: bool) -> None:
    """Show the main job, for real, on this machine, with no account and at no cost.

    Starts an emulated YellowDog, then runs Ray's own commands: ray up, ray submit of a job that needs three workers,
    ray down. Ends with proof that nothing is left. Ctrl+C at any moment cleans up. Needs Linux and root.
    """
    from raydog.demo.run import run_demo  # noqa: PLC0415 - brings Ray

    signal.signal(signal.SIGTERM, _interrupt)
    run_demo(with_floor=not no_floor)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
