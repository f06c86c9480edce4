"""``raydog status``: arguments and printing; the looking is done by `raydog.autoscaler.status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from raydog.autoscaler.status import ClusterStatus, cluster_status, load_config


@click.command()
@click.argument("cluster_config_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--cluster-name", "-n", help="Instead of the name in the YAML.")
@click.option("--no-head", is_flag=True, help="Ask the platform only, not the head over SSH.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(cluster_config_file: Path, cluster_name: str | None, no_head: bool, as_json: bool) -> None:
    """Show a cluster as YellowDog and Ray see it: nodes, pools, and why launches have failed.

    Exits with 1 if there is no such cluster, with 2 if something could not be found out.
    """
    found = cluster_status(load_config(cluster_config_file, cluster_name), ask_head=not no_head)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)
    if found.requirement is None:
        raise SystemExit(1)
    if found.problems:
        raise SystemExit(2)


def _print(found: ClusterStatus) -> None:
    where = f"cluster {found.cluster} in namespace {found.namespace}"
    if found.requirement is None:
        click.echo(f"No {where}.")
    else:
        click.echo(f"{where[0].upper()}{where[1:]}: work requirement {found.requirement} {found.requirement_status}")
        age, left = found.age_seconds or 0.0, found.lifetime_left_seconds or 0.0
        click.echo(f"  up for {_duration(age)}; ends by itself in {_duration(left)} (cluster_lifetime_hours)")
    if found.nodes:
        click.echo("\nNodes")
        width = max(len(node.kind) for node in found.nodes)
        for node in sorted(found.nodes, key=lambda n: (n.kind, n.node_id)):
            # the observability node is reached through the head
            public_ip = None if node.kind == "observability" else node.public_ip
            address = public_ip or node.private_ip or "-"
            click.echo(f"  {node.kind:<{width}} {node.status:<10} {address:<15} {node.node_id}")
    if found.pools:
        click.echo("\nWorker pools")
        for pool in found.pools:
            click.echo(f"  {pool.status:<10} {pool.name}")
            for message in pool.messages:
                click.echo(f"    {message}")
    if found.failures:
        click.echo("\nLatest failures")
        for failure in found.failures[-5:]:
            click.echo(f"  {failure.time} {failure.node_type} {failure.category}: {failure.message}")
    if found.ray_status:
        click.echo("\nRay's own status")
        click.echo("\n".join(f"  {line}" for line in found.ray_status.strip().splitlines()))
    for problem in found.problems:
        click.echo(f"Warning: {problem}", err=True)


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
