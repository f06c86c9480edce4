
if [ "$RAYDOG_SCRIPT" = default ]; then
    serve_tags & tags=$!
fi
# The wait runs as a child, so that an abort is heard meanwhile.
await_credentials & child=$!
wait "$child" || finish $?
# The autoscaler reads that file itself. Ray's other processes, and people's jobs, need no key; an own script may.
if [ "$RAYDOG_SCRIPT" = own ]; then . "$RAYDOG_DIR/credentials.env"; fi
. "$RAYDOG_DIR/profile"
if [ -e "$RAYDOG_DIR/observability.env" ]; then . "$RAYDOG_DIR/observability.env"; fi
