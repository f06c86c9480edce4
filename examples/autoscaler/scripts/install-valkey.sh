#!/bin/bash
# Extra user data for the head, instead of install-redis.sh: Valkey, the free fork of Redis, from Ubuntu 24.04 on.
# Skips what is there already, and leaves the package's own service switched off: RayDog starts a server of its own.

if command -v valkey-server > /dev/null || command -v redis-server > /dev/null; then
    echo "tag server: already installed"
else
    echo "tag server: installing valkey-server"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -q
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends valkey-server
    systemctl disable --now valkey-server
fi
