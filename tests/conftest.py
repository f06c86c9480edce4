"""Settings of all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# The same examples on every run, so that a red test stays red; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# A shell starts background jobs with SIGINT ignored, and that would be handed on to the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
