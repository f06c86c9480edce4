"""Platform calls beside each other, of which none is still under way when somebody cleans up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")
_PARALLEL_CALLS = 8  # a session keeps ten connections


class Calls:
    """Runs calls in threads, also single ones: an interruption hits the main thread, and so never a call half-way."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def run(self, calls: Sequence[Callable[[], T]], on_done: Callable[[int], None] | None = None) -> list[T]:
        """Make the calls; return their results in order. ``on_done`` gets how many are done, in the caller's thread.

        The first failure is raised; calls that have not begun by then are not made.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix="raydog-builder")
        futures: list[Future[T]] = []
        try:
            for call in calls:
                futures.append(self._executor.submit(call))
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if on_done is not None:
                    on_done(done)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def one(self, call: Callable[[], T]) -> T:
        """Make one call; return its result."""
        return self.run([call])[0]

    def join(self) -> None:
        """Return when no call is under way any more and the threads have ended. More calls may follow."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
