"""``raydog emulator preempt|fault|calls``: arguments and printing; see `raydog.emulator.trouble`."""

from __future__ import annotations

import json
from typing import Any

import click

from raydog.cli.emulator_options import json_option, state_option
from raydog.emulator import trouble
from raydog.emulator.daemon import require_running
from raydog.emulator.faults import ACTIONS
from raydog.emulator.record import StateDir
from raydog.errors import ConfigError


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="INSTANCE...")
@click.option("--warning", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Warn so long before.")
@state_option
@json_option
def preempt(state: StateDir, names: tuple[str, ...], warning: float, as_json: bool) -> None:
    """Take instances away, as a cloud does with spot instances.

    INSTANCE is an id, host name or address, or the id of its node or of a task that runs there.
    """
    gone = trouble.preempt(require_running(state), names, warning)
    if as_json:
        click.echo(json.dumps(gone))
        return
    for one in gone:
        click.echo(f"{'warned' if warning else 'preempted'}: {one['hostname']} ({one['id']})")


@click.group()
def fault() -> None:
    """Let things go wrong: calls, outages, capacity, boots."""


@fault.command()
@click.argument("operation")
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--status", type=click.IntRange(400, 599), help="HTTP status of the answer (500).")
@click.option("--retry-after", type=click.IntRange(0), metavar="SECONDS", help="Send a Retry-After header.")
@click.option("--error-type", help="errorType of the answer (InternalServerException).")
@click.option("--message", help="Text of the answer.")
@click.option("--seconds", type=click.FloatRange(0), help="How late the answer of a delayed call is.")
@click.option("--skip", type=click.IntRange(0), help="How many calls pass unharmed before.")
@click.option("--times", type=click.IntRange(1), help="How many calls go wrong (1, unless one of the next is given).")
@click.option("--probability", type=click.FloatRange(0, 1, min_open=True), help="Of each call to go wrong.")
@click.option("--seed", type=int, help="Of the dice for --probability (0): same seed, same calls.")
@click.option("--for", "for_seconds", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="For so long.")
@state_option
def add(state: StateDir, operation: str, action: str, **settings: Any) -> None:
    """Let calls of OPERATION go wrong ("*": every call).

    OPERATION is the name of the SDK's method, such as get_tasks. The ACTION status answers with an error;
    drop_before and drop_after cut the connection before or after the call is applied; delay answers late.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    trouble.add_fault(require_running(state), {"operation": operation, "action": action, **given})


@fault.command(name="list")
@state_option
@json_option
def list_(state: StateDir, as_json: bool) -> None:
    """Print the faults that are still to happen."""
    found = trouble.faults(require_running(state))
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        often = "" if one["times"] is None else f"  {one['times']} times"
        often += "" if one["probability"] == 1 else f"  with probability {one['probability']:g}"
        click.echo(f"{one['operation']}  {one['action']}{often}")
    if not found:
        click.echo("none")


@fault.command()
@state_option
def clear(state: StateDir) -> None:
    """Let no more calls go wrong. Templates stay as they were changed."""
    trouble.clear_faults(require_running(state))


@fault.command()
@click.argument("seconds", type=click.FloatRange(0, min_open=True))
@click.option("--status", type=click.IntRange(400, 599), help="Answer with it; without, connections are dropped.")
@state_option
def outage(state: StateDir, seconds: float, status: int | None) -> None:
    """Let the whole platform be out for so long. Commands of this group still work."""
    trouble.outage(require_running(state), seconds, status)


@fault.command()
@click.argument("name")
@click.option("--capacity", metavar="N|unlimited", help="Instances of it that there are, used ones included.")
@click.option("--boot-seconds", type=click.FloatRange(0), help="How long its boots take.")
@click.option("--boots/--never-boots", default=None, help="Whether its boots ever end.")
@state_option
def template(state: StateDir, name: str, capacity: str | None, boot_seconds: float | None, boots: bool | None) -> None:
    """Change the template NAME (namespace/name) from now on: capacity that runs out, boots that hang."""
    settings: dict[str, Any] = {"boot_seconds": boot_seconds, "boots": boots}
    settings = {key: value for key, value in settings.items() if value is not None}
    if capacity is not None:
        if capacity != "unlimited" and not (capacity.isascii() and capacity.isdigit()):
            raise ConfigError(f"--capacity is a number or 'unlimited', not {capacity!r}")
        settings["capacity"] = None if capacity == "unlimited" else int(capacity)
    if not settings:
        raise ConfigError("nothing to change: give --capacity, --boot-seconds, --boots or --never-boots")
    trouble.change_template(require_running(state), name, settings)


@click.command()
@click.option("--operation", help="Only calls of this one, such as get_tasks.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="NUMBER", help="Only calls with a larger number.")
@click.option("--forget", is_flag=True, help="Forget all calls so far, and print none.")
@state_option
@json_option
def calls(state: StateDir, operation: str | None, after: int, forget: bool, as_json: bool) -> None:
    """Print the platform calls that it received (the last 20,000), oldest first."""
    emulator = require_running(state)
    if forget:
        trouble.forget_calls(emulator)
        return
    found = trouble.calls(emulator, operation, after)
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        query = f"?{one['query']}" if one["query"] else ""
        suffix = f"  fault {one['fault']}" if one["fault"] else ""
        click.echo(f"{one['number']:>6}  {one['status'] or '-':<4} {one['method']:<6} {one['path']}{query}{suffix}")
