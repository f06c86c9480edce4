#!/usr/bin/env bash
# The task of a worker node: joins the head's cluster and runs Ray until the task is aborted, or the head is gone.
#
# Ray runs in the background and the script waits for it, since bash hears a signal only then: an abort is a SIGTERM to
# this bash, and Ray must not be left behind. `--block` makes the task end when Ray ends.
#
# RayDog sets RAY_HEAD_IP (older name: RAY_HEAD_NODE_PRIVATE_IP). A program may put `export NAME=value` lines before
# this text: RAY_LABELS (name=value,...), RAY_START_OPTIONS (more options of `ray start`, such as --num-cpus=1), RAY_VENV,
# RAY_PORT, RAY_HEAD_SECONDS.
set -euo pipefail

HEAD="${RAY_HEAD_IP:-${RAY_HEAD_NODE_PRIVATE_IP:?this task has no address of the head node}}"
PORT="${RAY_PORT:-6379}"
VENV="${RAY_VENV:-/opt/yellowdog/agent/venv}"
if [ -f "$VENV/bin/activate" ]; then . "$VENV/bin/activate"; fi
ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -Hn)" # Ray opens many files; as many as this machine allows

stop_ray() {
    local status=$?
    trap : TERM INT # a second signal does not cut this short
    ray stop || true # without Ray on this machine there is nothing to stop
    kill $(jobs -p) 2> /dev/null || true
    wait
    echo "Ray stopped"
    exit "$status"
}
trap stop_ray EXIT
trap 'exit 143' TERM INT

# The head may still be starting.
await_head() {
    until timeout 3 bash -c "exec 3<> /dev/tcp/$HEAD/$PORT" 2> /dev/null; do
        if [ "$SECONDS" -ge "${RAY_HEAD_SECONDS:-300}" ]; then
            echo "the head node ($HEAD:$PORT) has not answered for $SECONDS s" >&2
            return 1
        fi
        sleep 0.2
    done
}
await_head & # as a child, so that an abort is heard meanwhile
wait $!

# Labels, for tasks that choose where they run: @ray.remote(label_selector={"instance-type": "..."}).
labels="${RAY_LABELS:-}"
if [ -n "${YD_INSTANCE_TYPE:-}" ]; then # the agent says it; a label has only these letters
    labels="instance-type=${YD_INSTANCE_TYPE//[!A-Za-z0-9._-]/-}${labels:+,$labels}"
fi

# shellcheck disable=SC2086 # a list of options
ray start --block --disable-usage-stats --address="$HEAD:$PORT" --labels="$labels" ${RAY_START_OPTIONS:-} &
wait $!
