
rm -f "$RAYDOG_DIR/go" # of an earlier task on the same machine

# A worker: when the head is gone, so is the cluster. Once the head's GCS has answered, 30 s of silence end this node.
watch_head() {
    local last="" port="${RAYDOG_GCS_PORT:-6379}"
    while true; do
        if timeout 3 bash -c "exec 3<>/dev/tcp/$RAY_HEAD_IP/$port" 2>/dev/null; then
            last=$SECONDS
        elif [ -n "$last" ] && [ $((SECONDS - last)) -ge "${RAYDOG_HEAD_SILENCE_SECONDS:-30}" ]; then
            say "the head ($RAY_HEAD_IP:$port) has not answered for $((SECONDS - last)) s: ending this worker"
            kill -TERM $$
            return
        fi
        sleep 2
    done
}
