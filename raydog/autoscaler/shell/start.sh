# RayDog: what Ray's start commands run on a node, over SSH. Lets the node's task start Ray and returns when Ray answers,
# or prints why it does not and fails.
dir="$HOME/.raydog"
port="${RAYDOG_GCS_PORT:-6379}"
mkdir -p "$dir" && touch "$dir/go"
for ((i = 0; i < ${RAYDOG_START_TIMEOUT:-300} * 10; i++)); do
    if [ -e "$dir/exit_status" ]; then
        echo "RayDog: the node's script ended with exit status $(cat "$dir/exit_status"); its last output:" >&2
        tail -n 40 "$dir/task.log" >&2
        exit 1
    fi
    if grep -q 'Ray runtime started' "$dir/task.log" 2>/dev/null; then exit 0; fi
    # A script of the user's own may keep its output elsewhere. Ray's port opens before Ray is usable, and this file is
    # written afterwards; only where it stays unseen (a container's) must a port that has been open for a while do.
    if [ -e "$dir/own_script" ] && timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2>/dev/null; then
        open=$((${open:-0} + 1))
        if [ -s /tmp/ray/ray_current_cluster ] || [ "$open" -ge 150 ]; then exit 0; fi
    fi
    sleep 0.1
done
echo "RayDog: Ray did not start within ${RAYDOG_START_TIMEOUT:-300} s; the node's last output:" >&2
tail -n 40 "$dir/task.log" >&2
exit 1
