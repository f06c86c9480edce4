"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples on every run, so that a red test stays red; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
