
. "$RAYDOG_DIR/profile"
watch_head & watcher=$!
