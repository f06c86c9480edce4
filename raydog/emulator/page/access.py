"""Who may see the page and act on it."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

HEADERS = {
    # `default-src 'self'` lets nothing in from elsewhere and no script or style that stands in a document.
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):  # noqa: N818 - HTTP's word
    """A request that gets no answer but ``status`` and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Access:
    """A token for this start of the emulator, and the API key."""

    def __init__(self, authorization: bytes) -> None:
        self.token = secrets.token_urlsafe(24)
        self._accepted = (f"Bearer {self.token}".encode(), authorization)

    def check_address(self, request: web.Request) -> None:
        """Refuse a request that another site's name or script led here (DNS rebinding, cross-site requests).

        Ours are the names of loopback and the address that the connection came to. Any port is: people forward it.
        """
        host = _hostname(f"//{request.headers.get('Host', '')}")
        local = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if host not in LOOPBACK_NAMES and not (local and host == local[0]):
            raise Refused(421, "this page has no such address: open it at 127.0.0.1")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.headers['Host']}":
            raise Refused(403, "another site's page asked for this")

    def check_key(self, request: web.Request) -> None:
        """Refuse a request without the token or the key."""
        sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not any([hmac.compare_digest(sent, one) for one in self._accepted]):  # noqa: C419 - always all of them
            raise Refused(401, "the token or the API key is missing, or is not this emulator's")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
