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
@PUSHER@
RAYDOG_END_OF_PUSHER
    pusher=$!
fi
