"""``raydog tunnel``: arguments and printing; the tunnels are `raydog.tunnels`'."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from raydog.autoscaler.reach import Reach, find_reach
from raydog.autoscaler.status import load_config
from raydog.errors import ConfigError, RayDogError
from raydog.tunnels import RayTunnels, SSHTunnelSpec
from raydog.tunnels.ray_tunnels import CLIENT_PORT, DASHBOARD_PORT, GRAFANA_PORT, PROMETHEUS_PORT


def _parsed(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> tuple[SSHTunnelSpec, ...]:
    try:
        return tuple(SSHTunnelSpec.parse(value) for value in values)
    except ConfigError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command()
@click.argument("cluster_config_file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--cluster-name", "-n", help="Instead of the name in the YAML.")
@click.option(
    "--port",
    "-p",
    "ports",
    metavar="LOCAL[:HOST]:REMOTE",
    callback=_parsed,
    multiple=True,
    help="One more tunnel, to HOST as the head sees it (the head itself if left out). One that leads to the same place "
    "as a tunnel from the start replaces it: 18265:8265 moves the dashboard. LOCAL 0 is any free port. Repeatable.",
)
@click.option("--only", is_flag=True, help="Open the tunnels of --port and no others.")
@click.option("--json", "as_json", is_flag=True, help="When ready, print one line of JSON instead.")
def tunnel(
    cluster_config_file: Path, cluster_name: str | None, ports: tuple[SSHTunnelSpec, ...], only: bool, as_json: bool
) -> None:
    """Open a cluster's ports on this machine, until Ctrl+C.

    These are the Ray client's (10001) and the dashboard's (8265), and Grafana's (3000) and Prometheus' (9090) if the
    cluster has an observability node. One SSH login carries them all, and is made anew when it is lost.

    Exits with 0 when it is told to end (Ctrl+C, SIGTERM), and with 1 if the tunnels cannot be opened or kept.
    """
    if only and not ports:
        raise click.UsageError("--only needs at least one --port")
    with _ending_by_signal() as ending:
        reach = find_reach(load_config(cluster_config_file, cluster_name))
        tunnels = RayTunnels.to(reach.head, tunnel_specs(reach, ports, only), on_change=_say)
        try:
            tunnels.start_tunnels()
        except ConfigError as error:
            raise _for_people(error, tunnels) from error
        with tunnels:
            ending.ready = True
            click.echo(json.dumps(_as_json(reach, tunnels.specs)) if as_json else _as_text(reach, tunnels.specs))
            tunnels.wait()
            if tunnels.fault is not None:
                raise tunnels.fault


class _Ending:
    """What a signal does: before the tunnels are ready it is an interruption, afterwards the way to end."""

    ready = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0 if self.ready else 128 + number)


@contextmanager
def _ending_by_signal() -> Iterator[_Ending]:
    ending = _Ending()
    previous = {
        number: signal.signal(number, ending.handle)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as a shell's background job has it
    }
    try:
        yield ending
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def tunnel_specs(reach: Reach, ports: Sequence[SSHTunnelSpec], only: bool) -> list[SSHTunnelSpec]:
    """The tunnels from the start, without those that one of ``ports`` replaces, and ``ports``."""
    if only:
        return list(ports)
    usual = [RayTunnels.basic_port_forward(port) for port in (CLIENT_PORT, DASHBOARD_PORT)]
    if reach.observability_ip:
        usual += RayTunnels.observability(reach.observability_ip)
    moved = {_place(spec) for spec in ports}
    return [*(spec for spec in usual if _place(spec) not in moved), *ports]


def _place(spec: SSHTunnelSpec) -> tuple[str, int]:
    """Where a tunnel leads; the head has several names."""
    return ("localhost" if spec.remote_host in ("localhost", "127.0.0.1") else spec.remote_host), spec.remote_port


def _for_people(error: ConfigError, tunnels: RayTunnels) -> RayDogError:
    """The same fault with this command's way out of it."""
    text = str(error).partition(" In Python:")[0]
    busy = next((spec for spec in tunnels.specs if f"local port {spec.local_port} " in text), None)
    if busy is None:
        return ConfigError(text, error.faults)
    host, port = _place(busy)
    place = f"{port}" if host == "localhost" else f"{host}:{port}"
    other = busy.local_port + 10000 if busy.local_port < 50000 else 0
    return ConfigError(f"{text} For example: --port {other}:{place}", error.faults)


def _purpose(spec: SSHTunnelSpec, reach: Reach) -> str | None:
    place = _place(spec)
    names = {("localhost", CLIENT_PORT): "ray_client", ("localhost", DASHBOARD_PORT): "dashboard"}
    if reach.observability_ip:
        names[reach.observability_ip, GRAFANA_PORT] = "grafana"
        names[reach.observability_ip, PROMETHEUS_PORT] = "prometheus"
    return names.get(place)


def _url(spec: SSHTunnelSpec, purpose: str) -> str:
    return f"{'ray' if purpose == 'ray_client' else 'http'}://{spec.url_host}:{spec.local_port}"


def _as_json(reach: Reach, specs: Sequence[SSHTunnelSpec]) -> dict[str, Any]:
    result: dict[str, Any] = {"cluster": reach.cluster, "head": reach.head.host}
    for spec in specs:
        if (purpose := _purpose(spec, reach)) is not None:
            result.setdefault(purpose, _url(spec, purpose))
    names = ("local_host", "local_port", "remote_host", "remote_port")
    result["tunnels"] = [{name: getattr(spec, name) for name in names} for spec in specs]
    return result


_EXPLANATIONS = {
    "ray_client": "Ray client, for ray.init(...)",
    "dashboard": "dashboard; also for ray job submit --address",
    "grafana": "Grafana",
    "prometheus": "Prometheus",
}


def _as_text(reach: Reach, specs: Sequence[SSHTunnelSpec]) -> str:
    rows = []
    for spec in specs:
        purpose = _purpose(spec, reach)
        if purpose is None:
            rows.append((f"{spec.url_host}:{spec.local_port}", f"{spec.remote_host}:{spec.remote_port}, from the head"))
        else:
            rows.append((_url(spec, purpose), _EXPLANATIONS[purpose]))
    width = max(len(local) for local, _ in rows)
    lines = [f"Cluster {reach.cluster}, through {reach.head}:"]
    lines += [f"  {local:<{width}}  {leads}" for local, leads in rows]
    return "\n".join([*lines, "Ctrl+C closes them."])


def _say(text: str) -> None:
    click.echo(f"RayDog: {text}", err=True)
