"""A way out to the internet for instances (``--internet``): address translation on this host, undone at the end.

One table of nftables' that is this emulator's own, and IPv4 forwarding, which is global: it is switched off
again only if it was off before.
"""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from typing import Any

from raydog.errors import ProvisioningError

from . import image

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_log = logging.getLogger("raydog.emulator")


def plan(interface: str) -> dict[str, Any]:
    """What `close_way_out` needs: written down before anything changes."""
    return {"table": interface.replace("-", "_"), "forwarding": _FORWARDING.read_text().strip()}


def open_way_out(planned: dict[str, Any], interface: str, subnet: str) -> None:
    """Let packets of ``subnet`` out, in this host's name. ProvisioningError if the kernel or nft refuses."""
    rules = f"""\
table ip {planned["table"]} {{
    chain out {{
        type nat hook postrouting priority srcnat
        ip saddr {subnet} oifname != "{interface}" masquerade
    }}
}}
"""
    done = _nft("-f", "-", rules=rules)
    if done.returncode != 0:
        cause = f"instances get no way out to the internet, nft says: {done.stderr.strip()}"
        raise ProvisioningError(f"{cause}. Start the emulator without --internet", "Internet")
    if planned["forwarding"] == "0":
        _FORWARDING.write_text("1")
    if "policy drop" in _nft("list", "chain", "ip", "filter", "FORWARD").stdout:
        _log.warning(
            "this host's firewall drops what it forwards (Docker sets that): for --internet, allow %s with "
            "`iptables -I FORWARD -i %s -j ACCEPT; iptables -I FORWARD -o %s -j ACCEPT`",
            *(interface,) * 3,
        )


def close_way_out(planned: dict[str, Any]) -> list[str]:
    """Undo what `open_way_out` did; one line for each thing undone."""
    undone = []
    if _nft("delete", "table", "ip", planned["table"]).returncode == 0:
        undone.append(f"nftables table {planned['table']}")
    if planned["forwarding"] == "0" and _FORWARDING.read_text().strip() != "0":
        _FORWARDING.write_text("0")
        undone.append("IPv4 forwarding")
    return undone


def _nft(*arguments: str, rules: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **image.program_environment()}
    command = [str(image.find_program("nft")), *arguments]
    return subprocess.run(command, env=environment, input=rules, capture_output=True, text=True, check=False)
