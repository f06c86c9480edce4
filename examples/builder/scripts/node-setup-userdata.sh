#!/bin/bash
# User data: makes a plain Ubuntu 22.04 or 24.04 instance into a node for RayDog's builder. It runs as root at boot and
# skips what is there already, so an image that was set up with it boots fast and needs no way out to the internet.
#
# A program may put `export NAME=value` lines after the first line: RAY_VERSION, PYTHON_VERSION,
# INSTALL_OBSERVABILITY=yes (Prometheus and Grafana, for the observability node), INSTALL_DOCKER=yes (for the scripts
# that run Ray in a container).

set -euo pipefail

# Nodes and the program that uses the cluster must have the same Ray, and the same Python up to the second number.
RAY_VERSION="${RAY_VERSION:-2.60.0}"
PYTHON_VERSION="${PYTHON_VERSION:-3.11}"

AGENT_USER=yd-agent
AGENT_HOME=/opt/yellowdog/agent
VENV=$AGENT_HOME/venv
AGENT_INSTALLER=https://raw.githubusercontent.com/yellowdog/resources/refs/heads/main/agent-install/linux/yd-agent-installer.sh
UV_INSTALLER=https://astral.sh/uv/install.sh
GRAFANA_KEY=https://apt.grafana.com/gpg.key
GRAFANA_PACKAGES=https://apt.grafana.com

say() { echo "node set-up: $*"; }

as_agent() { runuser -u "$AGENT_USER" -- env HOME="$AGENT_HOME" PATH="$AGENT_HOME/.local/bin:$PATH" "$@"; }

install_packages() { # all that are missing, in one go
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -q &&
        apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@"
}

has_agent() { getent passwd "$AGENT_USER" > /dev/null; }

has_ray() { # of the right version; looked up, since importing Ray would take seconds at every boot
    local version='import importlib.metadata; print(importlib.metadata.version("ray"))'
    [ "$("$VENV/bin/python" -c "$version" 2> /dev/null)" = "$RAY_VERSION" ]
}

missing_packages() {
    if ! has_agent || ! has_ray; then
        command -v curl > /dev/null || echo curl ca-certificates
    fi
    if [ "${INSTALL_DOCKER:-}" = yes ]; then
        command -v docker > /dev/null || echo docker.io
    fi
    [ -x /usr/sbin/sshd ] || echo openssh-server # tunnels to the head need it
}

packages=$(missing_packages)
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086 # a list of words
    install_packages $packages
fi

if ! has_agent; then
    say "installing the YellowDog agent"
    curl -LsSf --retry 5 "$AGENT_INSTALLER" | bash
fi

if [ "${INSTALL_DOCKER:-}" = yes ] && ! id -nG "$AGENT_USER" | grep -qw docker; then
    say "letting the agent's tasks use Docker"
    usermod -aG docker "$AGENT_USER" # the agent starts when this script has ended
fi

if ! has_ray; then
    say "installing Python $PYTHON_VERSION and Ray $RAY_VERSION into $VENV"
    if ! [ -x "$AGENT_HOME/.local/bin/uv" ]; then
        curl -LsSf --retry 5 "$UV_INSTALLER" | as_agent sh
    fi
    as_agent uv venv --seed --clear --python "$PYTHON_VERSION" "$VENV"
    as_agent uv pip install --python "$VENV/bin/python" "ray[default]==$RAY_VERSION"
fi

install_grafana() { # from its makers, since distributions have none
    timeout 3 getent hosts "${GRAFANA_PACKAGES#https://}" > /dev/null || return 1 # there is no way out to wait for
    command -v curl > /dev/null || install_packages curl ca-certificates || return 1
    mkdir -p /etc/apt/keyrings
    curl -LsSf --connect-timeout 10 --retry 2 "$GRAFANA_KEY" -o /etc/apt/keyrings/grafana.asc || return 1
    echo "deb [signed-by=/etc/apt/keyrings/grafana.asc] $GRAFANA_PACKAGES stable main" \
        > /etc/apt/sources.list.d/grafana.list
    install_packages grafana
}

# What cannot be had is no reason to have no node: its task says what it lacks, and does without Grafana.
if [ "${INSTALL_OBSERVABILITY:-}" = yes ]; then
    command -v prometheus > /dev/null || install_packages prometheus || say "there is no Prometheus on this node"
    command -v grafana-server grafana > /dev/null || install_grafana || say "there is no Grafana on this node"
    for service in prometheus prometheus-node-exporter grafana-server; do # the task starts them, as its own user
        if systemctl is-active --quiet "$service" 2> /dev/null; then systemctl disable --now "$service"; fi
    done
fi

# Ray's processes talk to each other on many ports. Leave it to the cloud's security groups who else may.
if command -v ufw > /dev/null && ufw status | grep -q '^Status: active'; then
    say "switching the host's firewall off"
    ufw disable
fi

say "done"
