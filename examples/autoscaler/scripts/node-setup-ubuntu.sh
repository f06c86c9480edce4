#!/bin/bash
# User data: makes a plain Ubuntu 22.04 or 24.04 instance into a node for RayDog. It runs as root at boot and skips
# what is there already, so an image that was set up with it boots fast and needs no way out to the internet.

set -euo pipefail

# Node and client must have the same Ray, and the same Python up to the second number. Change them together.
RAY_VERSION="${RAY_VERSION:-2.60.0}"
PYTHON_VERSION="${PYTHON_VERSION:-3.11}"

AGENT_USER=yd-agent
AGENT_HOME=/opt/yellowdog/agent
VENV=$AGENT_HOME/venv
AGENT_INSTALLER=https://raw.githubusercontent.com/yellowdog/resources/refs/heads/main/agent-install/linux/yd-agent-installer.sh
UV_INSTALLER=https://astral.sh/uv/install.sh

say() { echo "node set-up: $*"; }

as_agent() { runuser -u "$AGENT_USER" -- env HOME="$AGENT_HOME" PATH="$AGENT_HOME/.local/bin:$PATH" "$@"; }

missing_packages() {
    command -v curl > /dev/null || echo curl ca-certificates
    command -v rsync > /dev/null || echo rsync # Ray copies files with it
    [ -x /usr/sbin/sshd ] || echo openssh-server
}

packages=$(missing_packages)
if [ -n "$packages" ]; then
    say "installing ${packages//$'\n'/ }"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -q
    # shellcheck disable=SC2086 # a list of words
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $packages
fi

if ! getent passwd "$AGENT_USER" > /dev/null; then
    say "installing the YellowDog agent"
    curl -LsSf --retry 5 "$AGENT_INSTALLER" | bash
fi

ray_version() { "$VENV/bin/python" -c 'import ray; print(ray.__version__)' 2> /dev/null || true; }

if [ "$(ray_version)" != "$RAY_VERSION" ]; then
    say "installing Python $PYTHON_VERSION and Ray $RAY_VERSION into $VENV"
    if ! [ -x "$AGENT_HOME/.local/bin/uv" ]; then
        curl -LsSf --retry 5 "$UV_INSTALLER" | as_agent sh
    fi
    as_agent uv venv --seed --clear --python "$PYTHON_VERSION" "$VENV"
    # What the head needs besides Ray; RayDog itself is brought by `ray up`, and finds this folder by itself.
    as_agent uv pip install --python "$VENV/bin/python" \
        "ray[default]==$RAY_VERSION" "yellowdog-sdk>=15.9,<16" "redis>=5" paramiko sshtunnel python-dotenv
fi

# Ray's processes talk to each other on many ports. Leave it to the cloud's security groups who else may.
if command -v ufw > /dev/null && ufw status | grep -q '^Status: active'; then
    say "switching the host's firewall off"
    ufw disable
fi

say "done"
