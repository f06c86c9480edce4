"""Ray's dashboard, asked which nodes Ray itself takes for alive."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from raydog.errors import ConfigError, CredentialsError

_SECONDS = 10.0
_REFUSED = (401, 403)
_LOOPBACK = ("localhost", "127.0.0.1")


def nodes_url(address: str) -> str:
    """The page that lists nodes, of a dashboard at ``host:port`` or a URL. Raises `ConfigError`."""
    url = address if "://" in address else f"http://{address}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"dashboard_address: {address!r} is not host:port")
    # Without nocache Ray gives its previous answer, however old that is.
    return f"{url.rstrip('/')}/nodes?view=summary&nocache=1"


def alive_workers(url: str) -> int:
    """How many nodes other than heads are alive.

    Ray's token, where Ray's own commands find it, is sent only to a dashboard that wants one. Raises `OSError`,
    `ValueError`, `http.client.HTTPException`, and for want of a token `CredentialsError`.
    """
    try:
        data = _get(url, {})
    except urllib.error.HTTPError as error:
        if error.code not in _REFUSED:
            raise
        data = _get_with_token(url)
    try:
        nodes = [node["raylet"] for node in data["data"]["summary"]]
        return sum(node.get("state") == "ALIVE" and not node.get("isHeadNode") for node in nodes)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its answer is not understood ({error!r})") from error


def _get(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `nodes_url` lets only HTTP pass
    # a proxy in the environment is for elsewhere, whether or not NO_PROXY says so: tunnels end on this machine
    proxies = {} if (request.host or "").partition(":")[0] in _LOOPBACK else urllib.request.getproxies()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _get_with_token(url: str) -> Any:
    token = _token()
    if token is None:
        raise CredentialsError(
            "Ray's dashboard wants a token: give the cluster's in RAY_AUTH_TOKEN, in a file named by "
            "RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token"
        )
    try:
        return _get(url, {"Authorization": f"Bearer {token}"})
    except urllib.error.HTTPError as error:
        if error.code not in _REFUSED:
            raise
        raise CredentialsError("Ray's dashboard refuses the token that this machine has for it") from error


def _token() -> str | None:
    """In Ray's order (ray/_private/authentication): the variable, the file that a variable names, the default file."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(file) if file else Path.home() / ".ray" / "auth_token"
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
