#!/usr/bin/env bash
# The task of a cluster's head node, with Ray in a container: runs Ray's head until the task is aborted.
#
# The machine needs Docker, and the agent's user the right to use it (node-setup-userdata.sh with INSTALL_DOCKER=yes).
# The image must have the Ray version, and the Python, of the program that uses the cluster.
#
# RayDog sets OBSERVABILITY_HOST if the cluster has an observability node. A program may put `export NAME=value` lines
# before this text: RAY_IMAGE, RAY_START_OPTIONS (more options of `ray start`), DOCKER_OPTIONS (of `docker run`, such as
# --gpus=all), RAY_PORT, RAY_CLIENT_PORT, RAY_DASHBOARD_PORT.
set -euo pipefail

IMAGE="${RAY_IMAGE:-rayproject/ray:2.60.0-py311}"
CONTAINER="ray-head-$$"

stop_container() {
    local status=$?
    trap : TERM INT # a second signal does not cut this short
    docker stop --time 15 "$CONTAINER" > /dev/null 2>&1 || true # it may have ended by itself
    kill $(jobs -p) 2> /dev/null || true
    wait
    echo "Ray's container stopped"
    exit "$status"
}
trap stop_container EXIT
trap 'exit 143' TERM INT

# ---- begin of what `python -m raydog.observability head` prints
# RayDog: metrics. With an observability node in the cluster ($OBSERVABILITY_HOST), Ray's dashboard on this head gets told
# where Prometheus and Grafana are, and Ray's own scrape targets and dashboards are brought there whenever they change.
# Must stand before `ray start`. $pusher is the process that does it; it ends with this shell.
pusher=""
if [ -n "${OBSERVABILITY_HOST:-}" ]; then
    export RAY_PROMETHEUS_HOST="${RAY_PROMETHEUS_HOST:-http://$OBSERVABILITY_HOST:${RAYDOG_PROMETHEUS_PORT:-9090}}"
    export RAY_PROMETHEUS_NAME="${RAY_PROMETHEUS_NAME:-Prometheus}"
    export RAY_GRAFANA_HOST="${RAY_GRAFANA_HOST:-http://$OBSERVABILITY_HOST:${RAYDOG_GRAFANA_PORT:-3000}}"
    # what the browser asks that shows the dashboard: its own machine, through an SSH tunnel
    export RAY_GRAFANA_IFRAME_HOST="${RAY_GRAFANA_IFRAME_HOST:-http://localhost:3000}"
    raydog_shell=$BASHPID
    python3 - "$OBSERVABILITY_HOST" "${RAYDOG_RECEIVER_PORT:-9089}" "$raydog_shell" <<'RAYDOG_END_OF_PUSHER' &
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
RAYDOG_END_OF_PUSHER
    pusher=$!
fi
# ---- end of it

# Ray's client server forks a process for each client. gRPC's fork handlers start gRPC's threads again in it, and such a
# thread may abort it before it has become that client's server: "Starting Ray client server failed" (Ray's issue 63202).
# The handlers are for forks without an exec.
export GRPC_ENABLE_FORK_SUPPORT="${GRPC_ENABLE_FORK_SUPPORT:-0}"

# The host's network, since Ray's processes talk to each other on many ports; /tmp/ray, where Ray keeps its logs and what
# it generates, is the host's as well. Docker's own default of 64 MiB for /dev/shm is too little for Ray's objects.
# `--init` passes the signal on that `docker stop` sends.
mkdir -p /tmp/ray && chmod 777 /tmp/ray
# shellcheck disable=SC2086 # lists of options
docker run --rm --init --name "$CONTAINER" --network host --ulimit nofile=65536:65536 \
    --shm-size="$(($(awk '/^MemTotal:/ { print $2 }' /proc/meminfo) / 3))k" \
    --volume /tmp/ray:/tmp/ray \
    --env RAY_PROMETHEUS_HOST --env RAY_PROMETHEUS_NAME --env RAY_GRAFANA_HOST --env RAY_GRAFANA_IFRAME_HOST \
    --env GRPC_ENABLE_FORK_SUPPORT \
    ${DOCKER_OPTIONS:-} "$IMAGE" \
    ray start --head --block --disable-usage-stats \
    --port="${RAY_PORT:-6379}" \
    --num-cpus=0 \
    --ray-client-server-port="${RAY_CLIENT_PORT:-10001}" \
    --dashboard-host=127.0.0.1 \
    --dashboard-port="${RAY_DASHBOARD_PORT:-8265}" \
    ${RAY_START_OPTIONS:-} &
wait $!
