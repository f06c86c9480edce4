# RayDog's default worker script. With node updaters on (workers have file_mounts or setup commands), Ray starts when the
# updater says so; otherwise at once. Environment: RAY_HEAD_IP and what the head script has.
if [ -n "${RAYDOG_AWAIT_GO:-}" ]; then
    until [ -e "$RAYDOG_DIR/go" ]; do sleep 0.1; done
fi
trap 'kill -TERM "$ray" 2>/dev/null' TERM
ray start --block --disable-usage-stats --address="$RAY_HEAD_IP:${RAYDOG_GCS_PORT:-6379}" &
ray=$!
wait "$ray"
status=$?
wait "$ray" 2>/dev/null # again, if a signal cut the first one short
exit "$status"
