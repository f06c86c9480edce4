
if [ "$RAYDOG_SCRIPT" = default ]; then
    serve_tags & tags=$!
fi
# The wait runs as a child, so that an abort is heard meanwhile.
await_credentials & child=$!
wait "$child" || finish $?
. "$RAYDOG_DIR/credentials.env"
. "$RAYDOG_DIR/profile"
