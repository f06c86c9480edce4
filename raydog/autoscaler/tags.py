"""The tags that Ray gives to nodes, kept in the Redis on the head node, served from memory.

Nothing here waits for long: a server that does not answer costs at most one time-out (a second) and is then left
alone for 1 to 5 s, while reads are served from what is known and writes are kept. Ray's loop calls these methods.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import redis

from raydog.autoscaler.redis_tags import Operation, Reading, RedisTags, Seen, Written, connect_redis
from raydog.errors import RayDogError
from raydog.waiting import Clock, SystemClock

__all__ = ["TagStore", "connect_redis"]

_log = logging.getLogger(__name__)

_BACK_OFF = (1.0, 2.0, 4.0, 5.0)
"""Seconds without another attempt after the first, second, ... failure in a row."""

_PATIENCE = 0.05
"""Seconds that a call waits for another thread that is talking to the server; it usually takes 0.2 ms."""

_FLUSH_PATIENCE = 5.0
"""The same for calls at the end of a command. Never for ever: the other thread may wait for a lock of the caller's."""

_MAX_PENDING = 100_000
"""Nodes with unsent writes that are kept. Beyond, the oldest removals go first: they leave only garbage."""

Tags = Mapping[str, str]
_NONE: Tags = MappingProxyType({})


@dataclass
class _Unsent:
    """What the server has not got yet for one node: tags to forget first, then launch tags, then newer ones."""

    remove: bool = False
    fill: dict[str, str] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)

    def operations(self, node: str) -> Iterator[Operation]:
        if self.remove:
            yield Operation("remove", node, {})
        if self.fill:
            yield Operation("fill", node, self.fill)
        if self.merge or not (self.remove or self.fill):
            yield Operation("merge", node, self.merge)

    def copy(self) -> _Unsent:
        return _Unsent(self.remove, dict(self.fill), dict(self.merge))

    def settle(self, sent: _Unsent) -> bool:
        """Drop what ``sent``, an earlier copy, has delivered; tags that came meanwhile stay. True if none did."""
        self.remove = False
        self.fill = {name: value for name, value in self.fill.items() if name not in sent.fill}
        self.merge = {name: value for name, value in self.merge.items() if sent.merge.get(name) != value}
        return not self.fill and not self.merge

    def applied_to(self, tags: Tags) -> dict[str, str]:
        return {**self.fill, **({} if self.remove else tags), **self.merge}


class TagStore:
    """A cluster's tags: node id -> tags. All methods may be called from any thread; none raises for the server.

    ``connect`` gives a connected client (see `connect_redis`); it is called at first use and after failures, and
    may raise redis-py's errors, `OSError` or `RayDogError`. ``key_prefix`` keeps clusters apart:
    ``raydog:<work requirement's name>``. The constructor does no I/O.
    """

    def __init__(self, connect: Callable[[], redis.Redis], key_prefix: str, clock: Clock | None = None) -> None:
        self._connect = connect
        self._key_prefix = key_prefix
        self._clock = clock or SystemClock()
        self._talking = threading.Lock()  # held while talking to the server
        self._data = threading.Lock()  # held for moments; protects everything below
        self._server: RedisTags | None = None
        self._seen: Seen | None = None
        self._known: dict[str, Tags] = {}
        self._unsent: dict[str, _Unsent] = {}
        self._snapshot: Mapping[str, Tags] | None = None
        self._lost = False
        self._dropped = 0
        self._failures = 0
        self._next_attempt = 0.0
        self._error: str | None = None

    @property
    def available(self) -> bool:
        """Whether the last contact with the server succeeded."""
        with self._data:
            return self._seen is not None and self._error is None

    @property
    def last_error(self) -> str | None:
        """Why the server was not available at the last attempt; None if it was."""
        with self._data:
            return self._error

    @property
    def data_lost(self) -> bool:
        """Whether the server lost its data since they were last complete, or never had any: call `rebuild`.

        A new cluster's server has none, so the first user of a new store calls it too.
        """
        with self._data:
            return self._lost

    @property
    def unsent(self) -> int:
        """How many nodes have writes that the server has not got yet."""
        with self._data:
            return len(self._unsent)

    def read(self) -> Mapping[str, Tags]:
        """All tags, as of now if the server answers, else as known. An immutable snapshot.

        Own writes always show, sent or not.
        """
        self._exchange(fetch=True)
        return self.known()

    def known(self) -> Mapping[str, Tags]:
        """All tags as of the last `read`, and own writes since, without asking the server. An immutable snapshot."""
        snapshot = self._snapshot
        if snapshot is not None:  # Ray asks for each node's tags, so this is worth a look without the lock
            return snapshot
        with self._data:
            if self._snapshot is None:
                merged = dict(self._known)
                for node, unsent in self._unsent.items():
                    _put(merged, node, unsent)
                self._snapshot = MappingProxyType(merged)
            return self._snapshot

    def update(self, node: str, tags: Tags) -> None:
        """Merge ``tags`` into the node's, as Ray's ``set_node_tags`` does."""
        self.set_many({node: tags})

    def set_many(self, tags: Mapping[str, Tags]) -> None:
        """Merge tags into those of many nodes. Atomic for each thousand nodes."""
        with self._data:
            for node, new in tags.items():
                self._unsent.setdefault(node, _Unsent()).merge.update(new)
            self._changed()
        self._exchange()

    def remove(self, nodes: Iterable[str]) -> None:
        """Forget nodes. Unknown ones are no error."""
        with self._data:
            for node in nodes:
                self._unsent.pop(node, None)
                self._unsent[node] = _Unsent(remove=True)
            self._changed()
        self._exchange()

    def rebuild(self, known: Mapping[str, Tags]) -> bool:
        """Put back what the server lost: the launch tags in ``known``, and over them all that is in memory here.

        Values that any writer has stored since the loss win. Does nothing unless `data_lost`. Returns whether the
        server has it all.
        """
        if not self._exchange(fetch=True):
            return False
        with self._data:
            if not self._lost:
                return True
            for node in {**known, **self._known}:
                unsent = self._unsent.setdefault(node, _Unsent())
                if not unsent.remove:
                    unsent.fill = {**known.get(node, _NONE), **self._known.get(node, _NONE)}
            self._changed()
        return self._exchange(complete=True) and not self.data_lost

    def flush(self) -> bool:
        """Try to send what is unsent, back-off or not. Returns whether nothing is left. For the end of a command."""
        with self._data:
            self._next_attempt = 0.0
        self._exchange(patience=_FLUSH_PATIENCE)
        return self.unsent == 0

    def close(self) -> None:
        """Send what is unsent, if the server answers, and close the connection."""
        self.flush()
        if self._talking.acquire(timeout=_FLUSH_PATIENCE):
            try:
                self._disconnect()
            finally:
                self._talking.release()

    def _changed(self) -> None:
        self._snapshot = None
        while len(self._unsent) > _MAX_PENDING:
            removals = (node for node, unsent in self._unsent.items() if unsent.remove and not unsent.merge)
            del self._unsent[next(removals, None) or next(iter(self._unsent))]
            self._dropped += 1
            if self._dropped == 1:
                _log.warning("tag server away for too long: more than %d unsent writes", _MAX_PENDING)

    def _exchange(self, *, patience: float = _PATIENCE, fetch: bool = False, complete: bool = False) -> bool:
        """Send what is unsent, and fetch what changed if wanted, unless the server is being left alone.

        Returns whether it was done.
        """
        if not self._talking.acquire(timeout=patience):
            return False  # Another thread waits for the server; what is known is served meanwhile.
        try:
            if self._clock.monotonic() < self._next_attempt:
                return False
            try:
                self._talk(fetch, complete)
            except (redis.RedisError, OSError, RayDogError, ValueError) as error:
                self._note_failure(error)
                return False
            self._note_success()
            return True
        finally:
            self._talking.release()

    def _note_failure(self, error: Exception) -> None:
        self._disconnect()
        with self._data:
            pause = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
            self._next_attempt = self._clock.monotonic() + pause
            self._failures += 1
            self._error = f"{type(error).__name__}: {error}"
            level = logging.WARNING if self._failures == 1 else logging.DEBUG
        _log.log(level, "tag server not available, serving what is known: %s", error)

    def _note_success(self) -> None:
        with self._data:
            back, self._failures, self._error, self._next_attempt = self._failures > 0, 0, None, 0.0
        if back:
            _log.info("tag server available again")

    def _talk(self, fetch: bool, complete: bool) -> None:
        fresh = self._server is None
        try:
            self._send_and_fetch(fetch, complete)
        except redis.ConnectionError:
            if fresh:
                raise
            # A connection from before a restart of the server: one new one, at once. Writes may arrive twice,
            # which has the effect of once.
            self._disconnect()
            self._send_and_fetch(fetch, complete)

    def _send_and_fetch(self, fetch: bool, complete: bool) -> None:
        server = self._server
        if server is None:
            server = self._server = RedisTags(self._connect(), self._key_prefix)
        with self._data:
            seen = self._seen
        if seen is None:
            # Look before writing: later the server would no longer be seen to be empty.
            self._note_read(server.read(Seen()))
        with self._data:
            batch = {node: (unsent, unsent.copy()) for node, unsent in self._unsent.items()}
        if batch or complete:
            operations = [op for node, (_, sent) in batch.items() for op in sent.operations(node)]
            self._note_written(batch, server.write(operations, complete), complete)
        if fetch:
            with self._data:
                seen = self._seen or Seen()
            self._note_read(server.read(seen))

    def _note_written(
        self, batch: Mapping[str, tuple[_Unsent, _Unsent]], results: list[Written], complete: bool
    ) -> None:
        with self._data:
            for node, (unsent, sent) in batch.items():
                if self._unsent.get(node) is unsent and unsent.settle(sent):
                    del self._unsent[node]
                _put(self._known, node, sent)
            self._snapshot = None
            first = results[0].before
            if self._seen is None or first.epoch != self._seen.epoch or first.version < self._seen.version:
                self._lost = True  # The next read sees it too, and fetches everything.
                return
            for written in results:
                alone = written.before == self._seen  # Nobody else wrote meanwhile: nothing to fetch.
                version = written.after.version if alone else self._seen.version
                self._seen = Seen(written.after.epoch, version)
            if complete:
                self._lost = False

    def _note_read(self, reading: Reading) -> None:
        with self._data:
            now, before = reading.now, self._seen
            lost = now.epoch == "" or (
                before is not None and (now.epoch != before.epoch or now.version < before.version)
            )
            if not reading.complete or lost:
                # After a loss what we know stays, and what the server has wins.
                for node, tags in reading.tags.items():
                    kept = self._known.get(node, _NONE) if lost else _NONE
                    self._known[node] = MappingProxyType({**kept, **tags})
                for node in reading.gone:
                    self._known.pop(node, None)
            else:
                self._known = {node: MappingProxyType(tags) for node, tags in reading.tags.items()}
            if reading.complete or reading.tags or reading.gone:
                self._snapshot = None
            self._seen = now
            self._lost = self._lost or lost

    def _disconnect(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _put(known: dict[str, Tags], node: str, unsent: _Unsent) -> None:
    tags = unsent.applied_to(known.get(node, _NONE))
    if unsent.remove and not tags:
        known.pop(node, None)
    else:
        known[node] = MappingProxyType(tags)
