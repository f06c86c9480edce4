"""A login that is kept: looked after, and made anew when it is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from paramiko import ChannelException, SSHException, Transport

from raydog.errors import ProvisioningError, RayDogError
from raydog.ssh import PortForwarding

PROBE_SECONDS = 15.0
"""Between questions to the server. Keep-alive messages want no answer, so they do not tell a dead connection."""
PROBE_TIMEOUT_SECONDS = 15.0
"""A server that says nothing for so long is taken for lost."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0

_log = logging.getLogger("raydog.tunnels")


class Keeper:
    """Watches a `PortForwarding` from a daemon thread, and logs in again whenever the login is lost.

    It tries for as long as that may help, with growing pauses. What cannot help (the login is refused, or another
    machine answers at this address) ends the ports; ``fault`` then says why. ``report`` gets a line for each change.
    """

    def __init__(self, forwarding: PortForwarding, report: Callable[[str], None] | None = None) -> None:
        self._forwarding = forwarding
        self._report = report or _log.warning
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raydog-tunnel-keeper", daemon=True)
        self.fault: RayDogError | None = None
        self.ended = threading.Event()
        """Set when the ports are closed for good, by `stop` or by a ``fault``."""

    def start(self) -> Keeper:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the ports. A login that is being made at this moment ends by itself, within its own time limits."""
        self._stop.set()
        self._forwarding.close()
        self.ended.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            transport = self._forwarding.transport
            why = "the login was lost"
            if transport is not None:
                why = _watch(transport)
                transport.close()  # one that merely fell silent, too
            if self._stop.is_set():
                return
            began = time.monotonic()
            self._report(f"the connection to {self._forwarding.target} is lost ({why}); connecting again")
            try:
                self._connect_again()
            except RayDogError as error:
                if self._stop.is_set():
                    return
                self.fault = error
                self._forwarding.close()
                self.ended.set()
                self._report(f"the tunnels are closed: {error}")
                return
            if not self._stop.is_set():
                self._report(f"connected again to {self._forwarding.target} after {time.monotonic() - began:.0f} s")

    def _connect_again(self) -> None:
        """Raises what makes it useless to go on."""
        pause = FIRST_PAUSE_SECONDS
        seen = ""
        while not self._stop.is_set():
            try:
                self._forwarding.connect()
            except ProvisioningError as error:
                if str(error) != seen:
                    seen = str(error)
                    self._report(f"not yet: {seen}")
                self._stop.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            return


def _watch(transport: Transport) -> str:
    """Return when the login is lost, with what was seen."""
    while True:
        transport.join(PROBE_SECONDS)  # its thread ends with the connection
        if not transport.is_active():
            return "closed by the other side"
        if not _answers(transport):
            return f"no answer for {PROBE_TIMEOUT_SECONDS:g} s" if transport.is_active() else "closed by the other side"


def _answers(transport: Transport) -> bool:
    """Ask for a channel, and for nothing on it. A refusal is an answer too."""
    try:
        transport.open_session(timeout=PROBE_TIMEOUT_SECONDS).close()
    except ChannelException:
        return True
    except (SSHException, OSError, EOFError):
        return False
    return True
