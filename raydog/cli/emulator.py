"""``raydog emulator``: arguments and printing; the work is done by `raydog.emulator.daemon`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from raydog.cli import emulator_trouble
from raydog.cli.emulator_options import json_option, state_option
from raydog.emulator import daemon
from raydog.emulator.record import StateDir


def _progress(message: str) -> None:
    """Progress is for people: standard output belongs to `eval`, and a log file wants none."""
    if sys.stderr.isatty():
        click.echo(message, err=True)


def _notice(message: str) -> None:
    click.echo(message, err=True)


@click.group()
def emulator() -> None:
    """A YellowDog on this machine: the platform's API, and nodes to run on."""


@emulator.command()
@state_option
@click.option("--instances", type=click.Choice(daemon.INSTANCES), default="real", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--templates", type=click.Path(dir_okay=False, path_type=Path), help="YAML list of templates.")
@click.option("--internet", is_flag=True, help="Let real instances reach the internet.")
@click.option(
    "--expose",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="A folder that real instances see too, read-only, at its own path. May be repeated.",
)
@click.option(
    "--package",
    "packages",
    metavar="NAME",
    multiple=True,
    help="A Debian package whose programs real instances have too; it is not installed here. May be repeated.",
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl+C.")
@json_option
def start(
    state: StateDir,
    instances: str,
    port: int,
    templates: Path | None,
    internet: bool,
    expose: tuple[Path, ...],
    packages: tuple[str, ...],
    foreground: bool,
    as_json: bool,
) -> None:
    """Start it, if it does not run yet, and print its settings: eval "$(raydog emulator start)"."""
    settings = daemon.Settings(instances, port, templates, internet, expose, packages)
    if foreground:
        daemon.run_in_foreground(state, settings, _notice, click.echo)
        return
    found = daemon.start(state, settings, _progress, _notice)
    if as_json:
        details = {"url": found.url, "pageUrl": found.page(), "pid": found.record.pid, "stateDir": str(state.path)}
        click.echo(json.dumps({**details, "instanceKind": found.record.instances, "environment": found.environment}))
    else:
        click.echo(found.exports())
        if sys.stderr.isatty():  # its token is for the owner's eyes, not for logs
            _progress(f"watch it: {found.page()}")


@emulator.command()
@state_option
@json_option
def stop(state: StateDir, as_json: bool) -> None:
    """End it and all that it runs."""
    ended = daemon.stop(state)
    if as_json:
        click.echo(json.dumps({"ended": ended}))
        return
    for one in ended:
        click.echo(f"ended: {one}")
    if not ended:
        click.echo("no emulator runs")


@emulator.command()
@state_option
@json_option
def status(state: StateDir, as_json: bool) -> None:
    """Say whether it runs and what it runs."""
    found = daemon.status(state)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found["running"]:
        crashed = "; the last one crashed: raydog emulator clean" if found["crashed"] else ""
        click.echo(f"no emulator runs in {found['stateDir']}{crashed}")
        return
    click.echo(f"{found['url']}  process {found['pid']}  {found['instanceKind']} instances")
    click.echo(
        f"{found['liveInstances']} instances, {found['unfinishedPools']} worker pools, "
        f"{found['unfinishedWorkRequirements']} work requirements, {found['unfinishedTasks']} tasks"
    )
    click.echo(f"page: {found['pageUrl']}")
    if found["diskFull"]:
        click.echo(f"the disk with {found['stateDir']} is full: its log and the outputs of tasks are cut")
    for one in found["instances"]:
        address = one["privateIpAddress"] or "-"
        click.echo(f"  {one['hostname']:<16}{address:<16}{one['status']:<12}{one['workerPool'] or '-'}")


@emulator.command()
@state_option
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes.")
@click.option("--task", help="The output of the task with this id, while its node is there.")
def logs(state: StateDir, follow: bool, task: str | None) -> None:
    """Print its log, or what a task printed."""
    pieces = daemon.follow_task(state, task, follow) if task else daemon.follow_log(state, follow)
    for piece in pieces:
        click.echo(piece, nl=False)


@emulator.command()
@state_option
def clean(state: StateDir) -> None:
    """Remove what an emulator that crashed has left."""
    removed = daemon.clean(state)
    for one in removed:
        click.echo(f"removed: {one}")
    if not removed:
        click.echo("nothing was left")


for _command in (emulator_trouble.preempt, emulator_trouble.fault, emulator_trouble.calls):
    emulator.add_command(_command)
