"""An observability node from outside: what Prometheus answers, which files lie there, whether dashboards are whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.support.real import ssh_command

OWN_DATASOURCES = ("-- Grafana --", "-- Mixed --", "-- Dashboard --")
"""What Grafana itself brings."""


class Prometheus:
    """Asks a Prometheus server over its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.trust_env = False

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = self._http.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=10)
        answer.raise_for_status()
        body = answer.json()
        assert body["status"] == "success", body
        data: dict[str, Any] = body["data"]
        return data

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, with what came of it."""
        found: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return found

    def healthy(self) -> set[str]:
        """The hosts of targets that are up."""
        return {_host(target["labels"]["instance"]) for target in self.targets() if target["health"] == "up"}

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def addresses_in(self, metric: str) -> set[str]:
        """The hosts from which samples of a metric came."""
        return {_host(sample["metric"]["instance"]) for sample in self.query(metric)}

    def close(self) -> None:
        self._http.close()


def _host(instance: str) -> str:
    return instance.rpartition(":")[0]


def on_node(key: Path, address: str, command: str) -> str:
    """What a shell command on the node prints."""
    done = subprocess.run(ssh_command(key, address, command), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def files_below(key: Path, address: str, folder: str) -> dict[str, str]:
    """The text files below ``observability/FOLDER`` of the node, by their paths there."""
    program = (
        "import json, pathlib; "
        f"print(json.dumps({{str(p): p.read_text() for p in pathlib.Path({folder!r}).rglob('*') "
        "if p.suffix in ('.json', '.yml', '.ini')}))"
    )
    found: dict[str, str] = json.loads(on_node(key, address, f'cd observability && python3 -c "{program}"'))
    return found


def datasource_faults(dashboard: dict[str, Any], sources: Sequence[dict[str, Any]]) -> list[str]:
    """The panels of a dashboard, rows' and targets' included, whose datasource does not exist; and if there is none."""
    known = {*OWN_DATASOURCES, *(str(source["name"]) for source in sources)}
    kinds = {str(source["type"]) for source in sources}
    for variable in dashboard.get("templating", {}).get("list", []):
        if variable.get("type") == "datasource" and variable.get("query") in kinds:
            known |= {f"${{{variable['name']}}}", f"${variable['name']}"}
    panels = [panel for panel in _panels(dashboard) if panel.get("type") != "row"]
    faults = [] if panels else ["no panel at all"]
    for panel in panels:
        used = [panel.get("datasource"), *(target.get("datasource", "") for target in panel.get("targets", []))]
        names = [one.get("uid") if isinstance(one, dict) else one for one in used]
        faults += [f"{panel.get('title')}: {name!r}" for name in names if name != "" and name not in known]
    return faults


def _panels(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in part.get("panels", []):
        yield panel
        yield from _panels(panel)
