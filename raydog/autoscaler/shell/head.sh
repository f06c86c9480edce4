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
trap 'kill -TERM "$ray" 2>/dev/null' TERM
# This is `ray start`. It takes a second to load, on a machine that has just booted several; here it does so while it waits.
python3 -c '
import os, sys, time
from ray.scripts.scripts import main
while not os.path.exists(os.path.join(os.environ["RAYDOG_DIR"], "go")):
    time.sleep(0.03)
sys.argv[0] = "ray"
sys.exit(main())
' start --head --block --disable-usage-stats \
    --port="${RAYDOG_GCS_PORT:-6379}" \
    --dashboard-host=127.0.0.1 \
    --autoscaling-config="$HOME/ray_bootstrap_config.yaml" &
ray=$!
wait "$ray"
status=$?
wait "$ray" 2>/dev/null # again, if a signal cut the first one short
exit "$status"
