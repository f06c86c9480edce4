
# A worker: when the head is gone, so is the cluster. Once the head's GCS has answered, 30 s of silence end this node; one
# that comes when the head has gone already gets no answer at all, and is given longer.
watch_head() {
    local answer met="" last=$SECONDS limit="${RAYDOG_HEAD_FIRST_CONTACT_SECONDS:-120}" port="${RAYDOG_GCS_PORT:-6379}"
    while true; do
        if answer="$(LC_ALL=C timeout 3 bash -c "exec 3<>/dev/tcp/$RAY_HEAD_IP/$port" 2>&1)"; then
            met=yes last=$SECONDS limit="${RAYDOG_HEAD_SILENCE_SECONDS:-30}"
        elif [ -z "$met" ] && [ "$RAYDOG_SCRIPT" = own ] && [[ $answer == *refused* ]]; then
            last=$SECONDS # the machine lives, and scripts of the user's own may use another port
        elif [ $((SECONDS - last)) -ge "$limit" ]; then
            say "the head ($RAY_HEAD_IP:$port) has not answered for $((SECONDS - last)) s: ending this worker"
            kill -TERM $$ # as an abort does: nothing is held, since this is no failure to look into
            return
        fi
        sleep 2
    done
}
