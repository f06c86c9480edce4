#!/bin/bash
# Extra user data for the head: the Redis server in which RayDog keeps Ray's tags. Skips what is there already.
# The service that the package starts is switched off: RayDog starts a server of its own, with a password, on the
# loopback address. (A Valkey server serves as well: install-valkey.sh.)

if command -v redis-server > /dev/null || command -v valkey-server > /dev/null; then
    echo "tag server: already installed"
else
    echo "tag server: installing redis-server"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -q
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends redis-server
    systemctl disable --now redis-server
fi
