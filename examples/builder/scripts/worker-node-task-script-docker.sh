#!/usr/bin/env bash
# The task of a worker node, with Ray in a container: joins the head's cluster until the task is aborted, or the head is
# gone.
#
# The machine needs Docker, and the agent's user the right to use it (node-setup-userdata.sh with INSTALL_DOCKER=yes).
# The image must have the Ray version, and the Python, of the program that uses the cluster.
#
# RayDog sets RAY_HEAD_IP (older name: RAY_HEAD_NODE_PRIVATE_IP). A program may put `export NAME=value` lines before
# this text: RAY_IMAGE, RAY_LABELS (name=value,...), RAY_START_OPTIONS (more options of `ray start`), DOCKER_OPTIONS (of
# `docker run`, such as --gpus=all), RAY_PORT, RAY_HEAD_SECONDS.
set -euo pipefail

HEAD="${RAY_HEAD_IP:-${RAY_HEAD_NODE_PRIVATE_IP:?this task has no address of the head node}}"
PORT="${RAY_PORT:-6379}"
IMAGE="${RAY_IMAGE:-rayproject/ray:2.60.0-py311}"
CONTAINER="ray-worker-$$"

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

# The host's network, since Ray's processes talk to each other on many ports. Docker's own default of 64 MiB for /dev/shm
# is too little for Ray's objects. `--init` passes the signal on that `docker stop` sends.
# shellcheck disable=SC2086 # lists of options
docker run --rm --init --name "$CONTAINER" --network host --ulimit nofile=65536:65536 \
    --shm-size="$(($(awk '/^MemTotal:/ { print $2 }' /proc/meminfo) / 3))k" \
    ${DOCKER_OPTIONS:-} "$IMAGE" \
    ray start --block --disable-usage-stats --address="$HEAD:$PORT" --labels="$labels" ${RAY_START_OPTIONS:-} &
wait $!
