"""The page at the emulator's root: clusters, pools, instances, tasks and events, live in a browser.

`Page` serves it. The page's own files are no secret and need no key; what it shows and does needs a token of this start
(`Page.link`) or the API key, sent as a header by the page's script. There are no cookies, so no other site can act in
a user's name, and only requests to an address of ours are answered (`raydog.emulator.page.access`).
"""

from __future__ import annotations

from raydog.emulator.page.routes import Page

__all__ = ["Page"]
