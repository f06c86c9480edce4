"""Brings Ray's scrape targets and dashboards to the observability node: ``pusher.py HOST PORT PARENT``, on the head.

Looks every two seconds (``$RAYDOG_PUSH_SECONDS``) what the other side has and sends what differs, so it does not matter
which side was started again. Ends when its parent process does. Python 3.8 or newer and nothing else.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import threading
from pathlib import Path

SECONDS = float(os.environ.get("RAYDOG_PUSH_SECONDS") or 2)
TIMEOUT_SECONDS = 10.0
TARGETS = "prom_metrics_service_discovery.json"


def ray_folder(environ: dict[str, str]) -> Path:
    """Ray's folder for temporary files (``ray/_common/utils.py``)."""
    return Path(environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp") / "ray"


def dashboards_folder(environ: dict[str, str]) -> Path:
    """Where Ray writes its dashboards (``ray/dashboard/modules/metrics/metrics_head.py``)."""
    if environ.get("RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"):
        return Path(environ["RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"])
    latest = ray_folder(environ) / "session_latest" / "metrics"
    return Path(environ.get("RAY_METRICS_OUTPUT_ROOT") or latest) / "grafana" / "dashboards"


def files_of_ray(environ: dict[str, str]) -> dict[str, bytes]:
    """What Ray has written so far, by name."""
    found = [ray_folder(environ) / TARGETS, *sorted(dashboards_folder(environ).glob("*_grafana_dashboard.json"))]
    contents = {}
    for path in found:
        try:
            contents[path.name] = path.read_bytes()
        except FileNotFoundError:
            continue  # Ray has not come to it yet
    return contents


def push(host: str, port: int, files: dict[str, bytes]) -> list[str]:
    """Send what differs from what is there; what was sent and refused, a line each.

    Raises OSError or HTTPException when the other side cannot be talked to.
    """
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/files")
        answer = connection.getresponse()
        present = json.loads(answer.read()) if answer.status == 200 else {}
        notes = []
        for name, content in files.items():
            if present.get(name) == hashlib.sha256(content).hexdigest():
                continue
            connection.close()
            connection.request("PUT", f"/files/{name}", body=content)
            answer = connection.getresponse()
            said = answer.read(500).decode(errors="replace")
            if answer.status != 200:
                notes.append(f"{name} was refused: {said}")
            elif name not in present:
                notes.append(f"{name} has arrived")
        return notes
    finally:
        connection.close()


def main(host: str, port: int, parent: int) -> None:
    """Push until the parent process has ended. Says on standard output what is new, and never the same twice."""
    never = threading.Event()
    said: list[str] = []
    while os.getppid() == parent:
        try:
            notes = push(host, port, files_of_ray(dict(os.environ)))
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            notes = [f"metrics are not passed on: {error!r}"]
        for note in notes:
            if note not in said:
                print(f"raydog: {host}:{port}: {note}", flush=True)
        said = notes or said
        never.wait(SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
