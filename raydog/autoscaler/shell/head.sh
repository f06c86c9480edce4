# RayDog's default head script. Ray starts when `ray up` says so (the go-file), which is after file_mounts and setup
# commands. Environment: RAY_CLOUD_INSTANCE_ID, RAY_NODE_TYPE_NAME, RAY_OVERRIDE_RESOURCES, RAY_OVERRIDE_LABELS.
python3 -c '
import importlib.util, sys
needed = ("raydog", "ray", "yellowdog_client", "redis", "dotenv", "click")
missing = [name for name in needed if not importlib.util.find_spec(name)]
sys.exit("missing Python packages: " + ", ".join(missing) if missing else 0)
' || {
    echo "The autoscaler cannot run in this node's Python environment: install ray[default], yellowdog-sdk, redis and" \
        "python-dotenv there (examples/autoscaler/scripts/node-setup-ubuntu.sh)"
    exit 1
}
until [ -e "$RAYDOG_DIR/go" ]; do sleep 0.05; done
trap 'kill -TERM "$ray" 2>/dev/null' TERM
ray start --head --block --disable-usage-stats \
    --port="${RAYDOG_GCS_PORT:-6379}" \
    --dashboard-host=127.0.0.1 \
    --autoscaling-config="$HOME/ray_bootstrap_config.yaml" &
ray=$!
wait "$ray"
status=$?
wait "$ray" 2>/dev/null # again, if a signal cut the first one short
exit "$status"
