
# The head: whoever runs `ray up` brings the platform's credentials and RayDog itself over SSH, and then says "ready".

# Ray's client server forks a process for each client. gRPC's fork handlers start gRPC's threads again in it, and when it
# closes its files, before it becomes the server of this client, such a thread may abort it: the client gets "Starting Ray
# client server failed" (Ray's issue 63202). The handlers are for forks without an exec.
export GRPC_ENABLE_FORK_SUPPORT="${GRPC_ENABLE_FORK_SUPPORT:-0}"

redis_password() {
    local file="$RAYDOG_DIR/redis.password"
    [ -s "$file" ] || head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' > "$file"
    cat "$file"
}

serve_tags() { # Ray's node tags live in this Redis; it is started again whenever it dies
    local server data="$RAYDOG_DIR/redis" log="$RAYDOG_DIR/redis.log"
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
logfile $log
CONF
    trap 'kill "$!" 2>/dev/null; exit 0' TERM
    while true; do
        if [ -e "$log" ]; then mv -f "$log" "$log.previous"; fi
        "$server" "$RAYDOG_DIR/redis.conf" &
        wait "$!"
        case "$?" in
            0 | 137 | 143) ;; # somebody has ended it
            *) # Data that it cannot start from must not keep tags from being served; they are rebuilt.
                if ! grep -qiE 'address already in use|cannot assign requested address' "$log"; then
                    rm -rf "$data.unreadable"
                    mv "$data" "$data.unreadable"
                    mkdir -p "$data"
                fi
                ;;
        esac
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
