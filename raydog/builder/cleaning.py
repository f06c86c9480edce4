"""Nothing is left behind: what a failure or an interruption ends before it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raydog.builder.parallel import Calls
from raydog.builder.reporting import Reporter
from raydog.errors import RayDogError
from raydog.interrupts import InterruptGuard
from raydog.waiting import Pending, Ready, WaitTimeout, wait_until

logger = logging.getLogger(__name__)

_CLEAN_UP_SECONDS = 60.0


@contextmanager
def ending_on_failure(end: Callable[[], None], calls: Calls, report: Reporter) -> Iterator[None]:
    """Whatever goes wrong inside, SIGINT and SIGTERM too, ``end`` ends what was made before it is raised.

    By then no call is under way any more, and no further interruption stops it. If it does not succeed for a minute,
    the error says so.
    """
    guard = InterruptGuard(list)
    begun = False

    def clean_up(error: BaseException) -> None:
        nonlocal begun
        if begun:
            return
        with guard.shielded():
            begun = True
            report.unstoppable("ending what was made")
            calls.join()
            _insist(end, error)

    try:
        with guard.making():
            try:
                guard.arm()
                try:
                    yield
                except BaseException as error:
                    clean_up(error)
                    raise
            except BaseException as error:  # an interruption that came before the shield was up
                clean_up(error)
                raise
            finally:
                guard.disarm()
    finally:
        calls.join()
        report.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM are ignored meanwhile."""
    with InterruptGuard(list).shielded():
        yield


def _insist(end: Callable[[], None], error: BaseException) -> None:
    """Call ``end`` until it succeeds or a minute is over; ``error``, which brought us here, then says what is left."""

    def ended() -> Ready[None] | Pending:
        try:
            end()
        except RayDogError as failure:
            return Pending(str(failure))
        return Ready(None)

    try:
        wait_until(ended, _CLEAN_UP_SECONDS, interval=1.0, max_interval=10.0)
    except WaitTimeout as timeout:
        if isinstance(error, RayDogError):
            error.also(timeout.observed)
        else:
            logger.error("not everything could be ended: %s", timeout.observed)  # noqa: TRY400 - `error` goes on
