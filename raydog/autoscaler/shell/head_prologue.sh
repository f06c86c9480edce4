
# The head: whoever runs `ray up` brings the platform's credentials and RayDog itself over SSH, and then says "ready".
redis_password() {
    local file="$RAYDOG_DIR/redis.password"
    [ -s "$file" ] || head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' > "$file"
    cat "$file"
}

serve_tags() { # Ray's node tags live in this Redis; it is started again whenever it dies
    local server data="$RAYDOG_DIR/redis"
    server="$(command -v redis-server || command -v valkey-server)" || {
        say "neither redis-server nor valkey-server is installed on this node: add one to its image or user data" \
            "(examples/autoscaler/scripts/install-redis.sh)"
        return 1
    }
    mkdir -p "$data"
    cat > "$RAYDOG_DIR/redis.conf" <<CONF
bind 127.0.0.1
port ${RAYDOG_TAG_PORT:-16667}
requirepass $(redis_password)
dir $data
appendonly yes
save ""
daemonize no
logfile $RAYDOG_DIR/redis.log
CONF
    trap 'kill "$!" 2>/dev/null; exit 0' TERM
    while true; do
        "$server" "$RAYDOG_DIR/redis.conf" &
        wait "$!"
        # An append-only file that cannot be read any more must not keep tags from being served; they are rebuilt.
        if tail -n 5 "$RAYDOG_DIR/redis.log" 2>/dev/null | grep -q 'Bad file format'; then
            mv "$data" "$data.unreadable.$(date +%s)" && mkdir -p "$data"
        fi
        sleep 0.5
    done
}

await_credentials() {
    local waited=0
    while [ ! -e "$RAYDOG_DIR/ready" ]; do
        if [ "$waited" -ge "$((${RAYDOG_BUILD_TIMEOUT:-900} * 5))" ]; then
            say "nobody brought the credentials over SSH within ${RAYDOG_BUILD_TIMEOUT:-900} s; is ray up still running?"
            return 1
        fi
        waited=$((waited + 1))
        sleep 0.2
    done
}
