"""How tags lie in Redis, and the two scripts that read and write them.

``<prefix>:tags``     hash: node id -> ``"node id":{tags}``, a member of a JSON object, so that all are one text by
                      joining them
``<prefix>:changes``  sorted set: node id, scored with the version that last changed it (removed ones stay)
``<prefix>:state``    hash: ``epoch``, a random name of the data, given when they are complete; ``version``, one
                      more with every change; ``floor``, the version below which ``changes`` does not reach

A reader names the epoch and version that it has seen and gets what changed since, or all. An epoch that differs
or is missing, or a version that went backwards, means that the server lost its data. Each script runs as a whole,
so writers in several processes never lose each other's tags.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError
from redis.retry import Retry

from raydog.errors import CredentialsError

_BATCH = 1000
"""Operations in one run of the script: Redis serves nobody else meanwhile (about 10 ms)."""

_READ = """
local state = redis.call('HMGET', KEYS[3], 'epoch', 'version', 'floor')
local epoch, version, floor = state[1] or '', tonumber(state[2] or '0'), tonumber(state[3] or '0')
local since = tonumber(ARGV[2])
if epoch == ARGV[1] and version == since then return {epoch, version} end
local parts, gone = {}, {}
if epoch == ARGV[1] and since >= floor and since < version then
  local nodes = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf')
  for _, node in ipairs(nodes) do
    local tags = redis.call('HGET', KEYS[1], node)
    if tags then parts[#parts + 1] = tags else gone[#gone + 1] = node end
  end
  return {epoch, version, 0, '{' .. table.concat(parts, ',') .. '}', gone}
end
return {epoch, version, 1, '{' .. table.concat(redis.call('HVALS', KEYS[1]), ',') .. '}', gone}
"""
"""One JSON text instead of a reply per field: the client's parser needs 3 us for each of those."""

_WRITE = """
local state = redis.call('HMGET', KEYS[3], 'epoch', 'version')
local epoch, before = state[1] or '', tonumber(state[2] or '0')
local named = epoch
if epoch == '' and ARGV[1] ~= '' then
  named = ARGV[1]
  redis.call('HSET', KEYS[3], 'epoch', named)
end
local version, changed = before + 1, false
for i = 2, #ARGV, 3 do
  local kind, node, touched = ARGV[i], ARGV[i + 1], false
  if kind == 'remove' then
    touched = redis.call('HDEL', KEYS[1], node) == 1
  else
    local new = cjson.decode(ARGV[i + 2])
    local old = redis.call('HGET', KEYS[1], node)
    if old then
      local tags = cjson.decode('{' .. old .. '}')[node]
      for name, value in pairs(new) do
        if tags[name] == nil or (kind == 'merge' and tags[name] ~= value) then
          tags[name] = value
          touched = true
        end
      end
      new = tags
    else
      touched = true
    end
    if touched then redis.call('HSET', KEYS[1], node, cjson.encode(node) .. ':' .. cjson.encode(new)) end
  end
  if touched then
    changed = true
    redis.call('ZADD', KEYS[2], version, node)
  end
end
if not changed then return {epoch, before, named, before} end
redis.call('HSET', KEYS[3], 'version', version)
if redis.call('ZCARD', KEYS[2]) > redis.call('HLEN', KEYS[1]) + 1000 then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[3], 'floor', version)
end
return {epoch, before, named, version}
"""


@dataclass(frozen=True)
class Operation:
    """One write. ``merge``: these tags win over those in the store; ``fill``: they lose; ``remove``: no tags."""

    kind: Literal["merge", "fill", "remove"]
    node: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """What a reader knows: the data's epoch (empty: there is none) and version."""

    epoch: str = ""
    version: int = 0


@dataclass(frozen=True)
class Reading:
    """The store's state now, and what changed since: everything if ``complete``, else only the difference."""

    now: Seen
    complete: bool
    tags: Mapping[str, Mapping[str, str]]
    gone: Sequence[str]


@dataclass(frozen=True)
class Written:
    """A batch's effect. ``before.version == after.version`` if it changed nothing."""

    before: Seen
    after: Seen


class RedisTags:
    """The two operations on one cluster's tags. Errors are redis-py's. Not thread-safe; `TagStore` is."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._keys = (f"{prefix}:tags", f"{prefix}:changes", f"{prefix}:state")
        self._hashes: dict[str, str] = {}

    def read(self, seen: Seen) -> Reading:
        """What changed since ``seen``. One round trip; about 0.1 ms if nothing did."""
        answer = self._run(_READ, seen.epoch, seen.version)
        now = Seen(_text(answer[0]), int(answer[1]))
        if len(answer) == 2:
            return Reading(now, False, {}, ())
        return Reading(now, bool(answer[2]), json.loads(answer[3]), [_text(node) for node in answer[4]])

    def write(self, operations: Sequence[Operation], complete: bool = False) -> list[Written]:
        """Apply the operations in order, in atomic batches: one round trip for each thousand.

        ``complete``: after these the store has everything; its data get an epoch if they have none.
        """
        results = []
        starts = range(0, max(len(operations), 1), _BATCH)
        for start in starts:
            epoch = secrets.token_hex(8) if complete and start == starts[-1] else ""
            arguments = [epoch]
            for operation in operations[start : start + _BATCH]:
                arguments += (operation.kind, operation.node, json.dumps(dict(operation.tags)))
            answer = self._run(_WRITE, *arguments)
            before, after = (Seen(_text(answer[i]), int(answer[i + 1])) for i in (0, 2))
            results.append(Written(before, after))
        return results

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _run(self, script: str, *arguments: str | int) -> Any:
        digest = self._hashes.get(script)
        if digest is not None:
            try:
                return self._client.evalsha(digest, len(self._keys), *self._keys, *arguments)
            except NoScriptError:
                pass  # The server was restarted and has forgotten it: below it is sent again.
        self._hashes[script] = _text(self._client.script_load(script))
        return self._client.evalsha(self._hashes[script], len(self._keys), *self._keys, *arguments)


def connect_redis(host: str, port: int, password: str | None, timeout: float = 1.0) -> redis.Redis:
    """A connected client that never waits longer than ``timeout`` seconds and never tries twice by itself.

    With a password only a server that wants it is accepted: another one on the port is not this cluster's, and what it
    holds, or is given to hold, is not ours. Head scripts of users' own may start a server without a password; then none
    is given. Raises `CredentialsError` if the server wants another password or none, else redis-py's errors.
    """
    client = redis.Redis(
        host=host,
        port=port,
        password=password,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        # The client opens new connections by itself, when it finds the old one closed. Each is looked at.
        redis_connect_func=partial(_greet, password),
    )
    try:
        client.ping()
    except AuthenticationError as error:
        client.close()
        raise _refused(host, port, password) from error
    except redis.ResponseError as error:
        client.close()
        if "NOAUTH" in str(error).upper() or "authentication required" in str(error).lower():
            raise _refused(host, port, password) from error
        raise
    except BaseException:
        client.close()
        raise
    return client


def _greet(password: str | None, connection: Any) -> None:
    """Log in on a new connection. A server without a password takes any, so it is asked for its own."""
    connection.on_connect()
    if password is not None:
        connection.send_command("CONFIG", "GET", "requirepass")
        answer = connection.read_response()
        has = answer.values() if isinstance(answer, dict) else answer[1::2]
        if [_text(value) for value in has] != [password]:
            raise AuthenticationError("the server has another password, or none")


def _refused(host: str, port: int, password: str | None) -> CredentialsError:
    given = "wants a password, and none was given" if password is None else "does not have the password that was given"
    return CredentialsError(
        f"Redis at {host}:{port} {given}. Is it this cluster's tag server, and not another server on the "
        f"same port ('head_node_tag_server_port')?"
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
