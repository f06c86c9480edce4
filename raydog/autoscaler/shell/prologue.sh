#!/usr/bin/env bash
# RayDog: every node's task begins with this. It keeps the output where SSH finds it (the platform has no call for task
# output), runs the node's own script, passes an abort on to it, and holds a failed node for half a minute so that somebody
# can look. The task's environment says what kind of node this is (RAYDOG_ROLE) and all else.
umask 077
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
export RAYDOG_DIR="$HOME/.raydog"
# What another task has left, on this machine or in the image made of it, must neither steer this one nor pass for it.
if [ "$(cat "$RAYDOG_DIR/task" 2>/dev/null)" != "${RAY_CLOUD_INSTANCE_ID:-}" ]; then
    rm -rf "$RAYDOG_DIR"
fi
mkdir -p "$RAYDOG_DIR"
rm -f "$RAYDOG_DIR/exit_status" # of an earlier run of this task
exec > >(tee "$RAYDOG_DIR/task.log") 2>&1
echo "${RAY_CLOUD_INSTANCE_ID:-}" > "$RAYDOG_DIR/task" # from here on, what lies here is this task's

say() { echo "raydog $(date -u +%H:%M:%S) $*"; }

# Interactive shells (ray exec, ray attach) and scripts find Ray where it usually lives on a YellowDog node.
cat > "$RAYDOG_DIR/profile" <<'PROFILE'
if ! command -v ray >/dev/null 2>&1 && [ -f /opt/yellowdog/agent/venv/bin/activate ]; then
    . /opt/yellowdog/agent/venv/bin/activate
fi
if [ -d "$HOME/.raydog/site" ]; then
    export PYTHONPATH="$HOME/.raydog/site${PYTHONPATH:+:$PYTHONPATH}"
fi
PROFILE
grep -qs '/.raydog/profile' "$HOME/.bashrc" ||
    echo '[ -f "$HOME/.raydog/profile" ] && . "$HOME/.raydog/profile"' >> "$HOME/.bashrc"

child=""
ending=""
end() { # an abort: the script's own traps get their time, then its group is killed
    ending=yes
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap end TERM INT

finish() { # $1: exit status of the script
    echo "$1" > "$RAYDOG_DIR/exit_status"
    if [ "$1" -ne 0 ] && [ -z "$ending" ]; then
        say "failed with exit status $1; held for ${RAYDOG_HOLD_SECONDS:-30} s so that its log can be fetched"
        if [ "$RAYDOG_ROLE" = worker ]; then
            tell_head "$1" & child=$!
            wait "$child"
        fi
        sleep "${RAYDOG_HOLD_SECONDS:-30}" & child=$!
        if [ -n "$ending" ]; then kill -TERM "$child"; fi
        wait "$child"
    fi
    for helper in ${tags:-} ${watcher:-} ${pusher:-}; do kill -TERM "$helper" 2>/dev/null; done
    exit "$1"
}
