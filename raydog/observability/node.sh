#!/usr/bin/env bash
# RayDog's observability node: a task that runs Prometheus and, where it is installed, Grafana. What to scrape and Ray's
# own dashboards come from the head (raydog/observability/head.sh), through a small receiver. All of it runs as the
# task's user, below one folder, and ends with the task. Needs prometheus and python3; grafana if you want pictures.
umask 022
dir="${RAYDOG_OBSERVABILITY_DIR:-$HOME/observability}"
prometheus_port="${RAYDOG_PROMETHEUS_PORT:-9090}"
grafana_port="${RAYDOG_GRAFANA_PORT:-3000}"
receiver_port="${RAYDOG_RECEIVER_PORT:-9089}"
datasource="${RAY_PROMETHEUS_NAME:-Prometheus}"
export PATH="$PATH:/usr/local/bin:/usr/sbin:/opt/prometheus:/opt/grafana/bin:/usr/share/grafana/bin"

say() { echo "raydog $(date -u +%H:%M:%S) $*"; }

services=()
names=()
pause=""
ending=""
end() {
    ending=yes
    if [ -n "$pause" ]; then kill "$pause" 2>/dev/null; fi
}
trap end TERM INT

keep() { # $1: name; then a command, which is started again when it ends, but not for ever
    local name="$1" program="" status began quick=0
    shift
    trap 'trap "" TERM; kill -TERM $(jobs -p) 2>/dev/null; wait; exit 0' TERM
    trap - INT
    while true; do
        began=$SECONDS
        "$@" >> "$dir/$name.log" 2>&1 &
        program=$!
        wait "$program"
        status=$?
        if [ $((SECONDS - began)) -lt 10 ]; then quick=$((quick + 1)); else quick=0; fi
        if [ "$quick" -ge 5 ]; then
            say "$name ends as soon as it is started (exit status $status); the end of its log:"
            tail -n 20 "$dir/$name.log"
            exit 1
        fi
        say "$name has ended with exit status $status and is started again"
        sleep "$quick" &
        program=$!
        wait "$program"
    done
}

start() {
    keep "$@" &
    services+=($!)
    names+=("$1")
}

listens() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

head_is_gone() { # only where the task says for how long the head may be silent: a cluster's rule, not this node's
    local limit="${RAYDOG_HEAD_SILENCE_SECONDS:-}" last
    [ -n "$limit" ] || return 1
    if [ -e "$dir/contact" ]; then
        last="$(stat -c %Y "$dir/contact")"
    else # it may not have come up yet
        last="$begun"
        limit="${RAYDOG_HEAD_FIRST_CONTACT_SECONDS:-1200}"
    fi
    [ $(($(date +%s) - last)) -gt "$limit" ]
}

# What an earlier task has left here, or in the image made of such a node, is another cluster's.
mkdir -p "$dir" && cd "$dir" || exit 1
rm -rf contact targets dashboards prometheus grafana ./*.log
exec > >(exec tee "$dir/task.log") 2>&1 # the platform has no call for what a task prints
mkdir -p targets dashboards prometheus grafana/{data,logs,plugins} \
    grafana/provisioning/{dashboards,datasources,plugins,alerting,notifiers}

command -v python3 >/dev/null 2>&1 || PATH="/opt/yellowdog/agent/venv/bin:$PATH"
for program in prometheus python3; do
    command -v "$program" >/dev/null 2>&1 || {
        say "$program is not installed on this observability node: add it to its image or user data"
        exit 1
    }
done

cat > receiver.py <<'RAYDOG_END_OF_RECEIVER'
@RECEIVER@
RAYDOG_END_OF_RECEIVER

cat > prometheus.yml <<CONF
global:
  scrape_interval: ${RAYDOG_SCRAPE_INTERVAL:-10s}
  scrape_timeout: ${RAYDOG_SCRAPE_INTERVAL:-10s}
scrape_configs:
  - job_name: ray
    file_sd_configs:
      - files: ['$dir/targets/*.json']
        refresh_interval: 5s
CONF

# As Ray's own grafana.ini: everybody may look, also inside the Ray dashboard's page, and nobody needs to log in.
cat > grafana/grafana.ini <<CONF
[server]
http_port = $grafana_port
[security]
allow_embedding = true
disable_initial_admin_creation = true
[auth]
disable_login_form = true
[auth.anonymous]
enabled = true
org_name = Main Org.
org_role = Viewer
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[paths]
data = $dir/grafana/data
logs = $dir/grafana/logs
plugins = $dir/grafana/plugins
provisioning = $dir/grafana/provisioning
CONF
cat > grafana/provisioning/datasources/ray.yml <<CONF
apiVersion: 1
datasources:
  - name: $datasource
    type: prometheus
    url: http://localhost:$prometheus_port
    access: proxy
    isDefault: true
CONF
cat > grafana/provisioning/dashboards/ray.yml <<CONF
apiVersion: 1
providers:
  - name: Ray
    folder: Ray
    type: file
    updateIntervalSeconds: 10
    options:
      path: $dir/dashboards
CONF

begun="$(date +%s)"
start receiver python3 "$dir/receiver.py" "$dir" "$receiver_port"
start prometheus prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/prometheus" \
    --web.listen-address="0.0.0.0:$prometheus_port" --storage.tsdb.retention.time="${RAYDOG_METRICS_RETENTION:-15d}"
grafana=()
if command -v grafana-server >/dev/null 2>&1; then
    grafana=(grafana-server)
elif command -v grafana >/dev/null 2>&1; then
    grafana=(grafana server)
fi
if [ "${#grafana[@]}" -gt 0 ]; then
    start grafana "${grafana[@]}" --config="$dir/grafana/grafana.ini" --homepath="${GRAFANA_HOME:-/usr/share/grafana}"
else
    say "grafana is not installed on this node: Prometheus runs alone, and the Ray dashboard shows no graphs"
fi

status=0
announced=""
while [ -z "$ending" ]; do
    for i in "${!services[@]}"; do
        if ! kill -0 "${services[$i]}" 2>/dev/null; then
            say "ending this node because of ${names[$i]}"
            ending=yes status=1
        fi
    done
    if [ -z "$announced" ] && listens "$prometheus_port" && listens "$receiver_port"; then
        announced=yes
        say "Prometheus answers on port $prometheus_port, the receiver on $receiver_port"
    fi
    if head_is_gone; then
        say "the cluster's head is silent: ending this node"
        ending=yes
    fi
    if [ -n "$ending" ]; then break; fi
    sleep 1 &
    pause=$!
    wait "$pause"
    pause=""
done

for service in "${services[@]}"; do kill -TERM "$service" 2>/dev/null; done
for _ in $(seq 80); do # Prometheus writes its last samples
    left=""
    for service in "${services[@]}"; do kill -0 "$service" 2>/dev/null && left=yes; done
    if [ -z "$left" ]; then break; fi
    sleep 0.1
done
if [ -n "$left" ]; then
    for service in "${services[@]}"; do
        pkill -KILL -P "$service"
        kill -KILL "$service" 2>/dev/null
    done
fi
say "ended"
exit "$status"
