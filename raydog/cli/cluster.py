"""``raydog cluster``: arguments and printing; the looking and ending is done by `raydog.builder`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import click

from raydog.builder.proxy import end_saved
from raydog.builder.reporting import Reporter
from raydog.builder.show import ClusterLife, look
from raydog.builder.state import SavedState
from raydog.yellowdog.credentials import load_credentials
from raydog.yellowdog.gateway import Gateway

_COLUMNS = 80

_state_file = click.argument("state_file", metavar="STATE.JSON", type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def cluster() -> None:
    """A builder's cluster, from the state that its program has saved with save_state_to_json_file().

    The YellowDog application key comes from YD_API_KEY_ID and YD_API_KEY_SECRET, or from a .env file.
    """


@cluster.command()
@_state_file
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(state_file: Path, as_json: bool) -> None:
    """Show what still lives of a cluster.

    Exits with 1 if the platform does not know its work requirement.
    """
    saved = SavedState.from_file(state_file)
    gateway = Gateway(load_credentials())
    try:
        life = look(gateway, saved)
    finally:
        gateway.close()
    if as_json:
        click.echo(json.dumps(life.as_json(), indent=2))
    else:
        _print(life)
    if not life.known:
        _explain_unknown()
        raise SystemExit(1)


@cluster.command(name="shut-down")
@_state_file
def shut_down(state_file: Path) -> None:
    """End a cluster and wait until nothing is left.

    Worker pools that were added after the state was saved are ended too. What was gone already is listed. Exits with
    1 if anything is left, or if the platform does not know the cluster's work requirement.
    """
    saved = SavedState.from_file(state_file)
    gateway = Gateway(load_credentials())
    report = Reporter(None)
    try:
        gone = end_saved(gateway, saved, report)
        report.update("looking whether anything is left")
        life = look(gateway, saved)
    finally:
        report.close()
        gateway.close()
    for text in gone:
        click.echo(textwrap.fill(f"gone already: {text}", _COLUMNS, subsequent_indent="  ", break_on_hyphens=False))
    if not life.known:
        _explain_unknown()
    elif life.over:
        click.echo(f"Nothing is left of cluster {life.cluster}.")
    else:
        click.echo("Still there:")
        _print(life)
    if not (life.known and life.over):
        raise SystemExit(1)


def _explain_unknown() -> None:
    text = (
        "The platform does not know the work requirement in this file. Is it the right YD_API_URL, and a key of the "
        "account that the cluster belongs to?"
    )
    click.echo(textwrap.fill(f"Error: {text}", _COLUMNS), err=True)


def _print(life: ClusterLife) -> None:
    click.echo(f"Cluster {life.cluster or '(without a name)'}, namespace {life.namespace or '(unknown)'}")
    click.echo("\nWork requirement")
    click.echo(f"  {life.work_requirement_status or 'unknown':<11} {life.work_requirement or life.work_requirement_id}")
    if life.pools:
        click.echo("\nWorker pools, with their live nodes")
        for pool in life.pools:
            click.echo(f"  {pool.status or 'unknown':<11} {pool.nodes:>4} {pool.name or pool.worker_pool_id}")
    if life.tasks:
        click.echo("\nTasks (each is a node)")
        for status, count in sorted(life.tasks.items()):
            click.echo(f"  {status:<11} {count:>4}")
