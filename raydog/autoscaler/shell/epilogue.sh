
[ -z "$ending" ] || finish 143
say "starting Ray on this $RAYDOG_ROLE"
setsid bash "$RAYDOG_DIR/node.sh" & child=$!
wait "$child"
status=$?
if [ -n "$ending" ]; then # the first wait was cut short by the signal; now let the script end
    for _ in $(seq 100); do
        kill -0 "$child" 2>/dev/null || break
        sleep 0.1
    done
fi
kill -KILL -- "-$child" 2>/dev/null # what the script left behind, in its own group
finish "$status"
