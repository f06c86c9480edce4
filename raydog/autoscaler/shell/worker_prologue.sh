
# A worker: when the head is gone, so is the cluster. Once the head's GCS has answered, 30 s of silence end this node; one
# that comes when the head has gone already gets no answer at all, and is given longer.
watch_head() {
    local answer met="" last=$SECONDS limit="${RAYDOG_HEAD_FIRST_CONTACT_SECONDS:-45}" port="${RAYDOG_GCS_PORT:-6379}"
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

tell_head() { # $1: exit status. The end of the log, for `raydog status`: soon nobody can look here any more.
    local words="$RAYDOG_DIR/last_words" answer
    [ -n "${RAYDOG_LAST_WORDS_PORT:-}" ] || return
    for _ in $(seq 20); do # what was printed comes to the log through another process
        grep -q '^raydog .* failed with exit status' "$RAYDOG_DIR/task.log" && break
        sleep 0.1
    done
    # Without the tables of statistics that Ray prints by the hundred lines when it ends.
    grep -av '^\[state-dump\]' "$RAYDOG_DIR/task.log" | tail -n 50 | tail -c 16000 > "$words"
    for _ in $(seq 10); do # a node that failed at once is not known to the head yet
        answer="$(timeout 10 bash -c '
            exec 3<>"/dev/tcp/$0/$1" || exit
            { printf "raydog-output %s %s %s\n" "$2" "$3" "$(wc -c < "$4")"; cat "$4"; } >&3
            read -r answer <&3; echo "$answer"
        ' "$RAY_HEAD_IP" "$RAYDOG_LAST_WORDS_PORT" "$RAY_CLOUD_INSTANCE_ID" "$1" "$words" 2>/dev/null)"
        case "$answer" in ok | no) return ;; esac
        sleep 2
    done
}
