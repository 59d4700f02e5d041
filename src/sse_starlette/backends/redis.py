"""A log in Redis: one server, one behind Sentinel, or a cluster.

A stream keeps the entries, a hash says where the channel is, Pub/Sub tells of what is new. What a
change here must keep:

- Each look and each change is one script: nobody sees half of it, and a connection that breaks leaves
  all of it done or nothing.
- Whatever is asked may be asked twice. redis-py repeats commands, and so do our callers.
- All keys of a channel share a hash tag, so that one script may use them on a cluster.
- What is published on a connection that broke is lost, so no connection is ever mended behind our
  back: a new one is made, and every subscription acknowledged anew before `joined` is called.
- The number of connections depends on neither channels nor publishers: one listens, and as many as
  there are turns ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from contextlib import asynccontextmanager, suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sse_starlette._cursor import new_epoch
from sse_starlette._fork import leave_to_parent
from sse_starlette._loop import is_on_asyncio
from sse_starlette.errors import ChannelClosed, LogUnavailable

from .base import Backend, Entry, Page, Position, last_stretch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio.connection import AbstractConnection

    from .base import Limits, Listener

__all__ = ["RedisLog"]

_Client: TypeAlias = "Redis | RedisCluster"

_logger = getLogger(__name__)

_TURNS = 4
"""Commands under way at a time. More don't make one server faster, and each costs a connection."""
_HEADS_AT_ONCE = 300
_NAMES_AT_ONCE = 1_000
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
_MOST_HEARD_AT_A_STRETCH = 64
_LARGEST_PUBLISHED = 256 * 1024
"""
Bytes of a body that is still sent to those who listen; a larger one they read from the log.

Redis cuts off a listener for which 32 MiB are waiting, so a few of the largest would do.
"""

# A client of the user's own may decode what it reads; bodies are bytes.
_RAW: dict[str, Any] = {NEVER_DECODE: True}

# What a server says that can't do it now, but may be able to soon. Inside a script Redis 6 puts
# words in front of it.
_NOT_NOW = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN)\b"
)
_OUTAGES = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
_FAILURES = (RedisError, RedisClusterException, OSError)


# --- Scripts --------------------------------------------------------------------------
#
# The id of an entry in the stream is `offset-time`: the offset alone orders them, and the time, in ms,
# takes no room of its own. Trimming by age is exact when somebody reads, and now and then otherwise.

_DROP_EXPIRED = """
local function drop_expired(stream, now, seconds)
    while seconds > 0 do
        local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 16)
        local expired = 0
        for _, entry in ipairs(oldest) do
            if tonumber(string.match(entry[1], '%-(%d+)$')) >= now - seconds then break end
            expired = expired + 1
        end
        if expired > 0 then
            redis.call('XTRIM', stream, 'MAXLEN', redis.call('XLEN', stream) - expired)
        end
        if expired < 16 then return end
    end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# A hash that was evicted leaves a stream behind, whose offsets mean nothing to the new epoch.
_NAME_EPOCH = """
if not epoch then
    epoch = new_epoch
    redis.call('DEL', stream)
    redis.call('HSET', meta, 'e', epoch)
end
"""


class _Script:
    """A script, and the name under which a server that has run it knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_APPEND = _Script(
    _DROP_EXPIRED
    + """
local stream, meta, marker = KEYS[1], KEYS[2], KEYS[3]
local body, key, new_epoch, topic = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local remembered, expire = ARGV[5], ARGV[6]
local events, seconds, largest = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])

local before = redis.call('GET', marker)
if before then return before end
local found = redis.call('HMGET', meta, 'e', 'n', 'c')
local epoch = found[1]
if epoch and found[3] then return false end
"""
    + _NAME_EPOCH
    + """
local n = string.format('%.0f', (epoch == found[1] and found[2] or 0) + 1)
-- First what may be refused: an offset that was given out has an entry.
redis.call('XADD', stream, 'MAXLEN', '~', events,
    n .. '-' .. string.format('%.0f', now), 'k', key, 'b', body)
redis.call('HSET', meta, 'n', n)
if body == '' then redis.call('HSET', meta, 'c', n) end
if n % 16 == 0 then drop_expired(stream, now, seconds) end
redis.call('PEXPIRE', stream, expire)
redis.call('PEXPIRE', meta, expire)
local position = epoch .. ' ' .. n
redis.call('SET', marker, position, 'PX', remembered)
if #body > largest then
    redis.call('PUBLISH', topic, '')
else
    redis.call('PUBLISH', topic, position .. ' ' .. #key .. ' ' .. key .. body)
end
return position
"""
)

_READ = _Script(
    _DROP_EXPIRED
    + """
local stream, meta = KEYS[1], KEYS[2]
local new_epoch, expire, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first, last, most = ARGV[4], ARGV[5], tonumber(ARGV[6])

local found = redis.call('HMGET', meta, 'e', 'n', 'c')
local epoch = found[1]
"""
    + _NAME_EPOCH
    + """
drop_expired(stream, now, seconds)
redis.call('PEXPIRE', stream, expire)
redis.call('PEXPIRE', meta, expire)
local entries = {}
if most > 0 then entries = redis.call('XRANGE', stream, first, last, 'COUNT', most) end
return {epoch, found[2] or '0', found[3] and 1 or 0, entries}
"""
)

# What was appended keeps its key: whoever repeats it is given the position that it had.
_RENEW = _Script("""
if redis.call('HGET', KEYS[2], 'e') == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2]) end
""")


# --- Names ----------------------------------------------------------------------------


def _bytes(text: str) -> bytes:
    # Any text may be a name, half of a surrogate pair too.
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


class _Names:
    """What the things of a channel are called in Redis."""

    def __init__(self, prefix: str, db: int) -> None:
        self._prefix = prefix
        # Who publishes in one database is heard in all of them.
        self._topic = f":p{db}"

    def base(self, channel: str) -> str:
        # Only the brace of ours may close the hash tag.
        escaped = channel.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{{{self._prefix}:{escaped}}}"

    def keys(self, channel: str) -> tuple[bytes, bytes]:
        """The stream and the hash."""
        base = _bytes(self.base(channel))
        return base + b":s", base + b":m"

    def marker(self, channel: str, key: str) -> bytes:
        """What remembers a key that something was appended with."""
        return _bytes(f"{self.base(channel)}:k:{key}")

    def topic(self, channel: str) -> bytes:
        """Where one hears of what is appended."""
        return _bytes(self.base(channel) + self._topic)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


# --- The log --------------------------------------------------------------------------


class RedisLog(Backend):
    """
    A log in Redis 5 or newer, for processes on many hosts; asyncio only.

    ```python
    RedisLog("redis://localhost:6379/0")
    RedisLog("rediss://user:secret@example.org")
    RedisLog("unix:///run/redis.sock")
    RedisLog("redis+cluster://10.0.0.1:6379,10.0.0.2:6379")  # or rediss+cluster
    RedisLog(Sentinel([("10.0.0.1", 26379)]).master_for("events"))
    ```

    On a cluster it listens with `SUBSCRIBE` at any one node, and not with `SSUBSCRIBE`: a sharded
    channel is told only at the shard that has it, so listening to channels everywhere would take a
    connection to each shard, and moving them whenever a slot moves. The nodes pass on what is
    published, which costs them some traffic and us nothing.
    """

    def __init__(
        self,
        server: str | Redis | RedisCluster,
        *,
        prefix: str = "sse",
        timeout: float = 5.0,
        probe: float = 15.0,
    ) -> None:
        """
        Name the server; it isn't connected to before `open`.

        Args:
            server: a URL, or a client of `redis.asyncio`, which is not closed at the end. A client
                may decode responses; what its own retries repeat does no harm.
            prefix: what all keys begin with, after a brace. Give each application its own, and those
                that are to share channels the same.
            timeout: seconds after which a server that doesn't answer is taken to be out of reach.
            probe: seconds of silence after which the listening connection is tried. A server that
                has vanished without a word is noticed after `probe + timeout` seconds.

        Raises:
            TypeError: `server` is neither.
            ValueError: the URL can't be understood, or an argument is out of range.
        """
        if not prefix or re.search(r"[{}:%]", prefix):
            raise ValueError(f"prefix must be a text without any of {{ }} : %, got: {prefix!r}")
        for name, seconds in (("timeout", timeout), ("probe", probe)):
            if not seconds > 0:
                raise ValueError(f"{name} must be > 0 seconds, got: {seconds}")
        self._timeout = timeout
        self._probe = probe
        self._given: _Client | None = None
        self._forked = False
        """Whether the client we were given is the parent's."""
        self._url = ""
        if isinstance(server, str):
            self._url = server
            _check_url(server)
            parts = urlsplit(server)
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            db = 0 if _is_cluster(server) else _db_of(self._make_client())
        elif isinstance(server, (Redis, RedisCluster)):
            self._given = server
            where = _place_of(server)
            db = _db_of(server)
        else:
            raise TypeError(
                f"a URL or a client of redis.asyncio is needed, got: {type(server).__name__}"
            )
        self._where = where
        self._names = _Names(prefix, db)
        self._watched: set[str] = set()
        self._client: _Client | None = None
        self._turns = asyncio.Semaphore(_TURNS)
        self._line: _Line | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """
        Hold the connections; see `Backend.open`.

        Raises:
            RuntimeError: the loop isn't asyncio's.
        """
        if not is_on_asyncio():
            raise RuntimeError("RedisLog needs asyncio: redis-py runs on no other event loop.")
        if self._forked:
            raise RuntimeError(
                "the RedisCluster that RedisLog was given was in use when this process was forked: "
                "give RedisLog a URL, or make the client and the hub after the fork."
            )
        self._client = client = self._given or self._make_client()
        self._turns = asyncio.Semaphore(_TURNS)
        try:
            yield
        finally:
            if self._client is client:
                self._client = None
            if self._given is None:
                with anyio.move_on_after(self._timeout, shield=True):
                    await client.aclose()

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        answer = await self._run(
            _APPEND,
            (*self._names.keys(channel), self._names.marker(channel, key)),
            body,
            _bytes(key),
            new_epoch(),
            self._names.topic(channel),
            _milliseconds(key_seconds),
            _milliseconds(limits.expire),
            limits.events,
            0 if limits.seconds is None else _milliseconds(limits.seconds),
            _LARGEST_PUBLISHED,
        )
        if answer is None:
            raise ChannelClosed(channel)
        epoch, offset = answer.split()
        return Position(epoch.decode(), int(offset))

    async def read(
        self, channel: str, *, after: int, upto: int | None, most: int, limits: Limits
    ) -> Page:
        epoch, head, closed, found = await self._run(
            _READ,
            self._names.keys(channel),
            new_epoch(),
            _milliseconds(limits.expire),
            0 if limits.seconds is None else _milliseconds(limits.seconds),
            after + 1,
            "+" if upto is None else upto,
            most,
        )
        entries = [
            Entry(int(id.partition(b"-")[0]), _text(key), body) for id, (_, key, _, body) in found
        ]
        return Page(epoch.decode(), int(head), bool(closed), last_stretch(entries))

    async def heads(self, channels: Sequence[str], *, expire: float) -> dict[str, Position]:
        found: dict[str, Position] = {}
        for start in range(0, len(channels), _HEADS_AT_ONCE):
            some = channels[start : start + _HEADS_AT_ONCE]
            async with self._asking() as client:
                pipeline = client.pipeline(transaction=False)
                for channel in some:
                    stream, meta = self._names.keys(channel)
                    pipeline.execute_command("HMGET", meta, "e", "n", **_RAW)
                    # These do nothing where there's no such channel.
                    pipeline.execute_command("PEXPIRE", meta, _milliseconds(expire))
                    pipeline.execute_command("PEXPIRE", stream, _milliseconds(expire))
                answers = await pipeline.execute()
            for channel, (epoch, offset) in zip(some, answers[::3], strict=True):
                if epoch is not None:
                    found[channel] = Position(epoch.decode(), int(offset or 0))
        return found

    async def renew(self, channel: str, epoch: str) -> None:
        await self._run(_RENEW, self._names.keys(channel), epoch)

    async def listen(self, listener: Listener) -> None:
        delay = _FIRST_DELAY
        told = False
        while True:
            error: Exception
            try:
                connection = await self._connect()
            except _FAILURES as caught:
                error = caught
            else:
                self._line = line = _Line(
                    connection,
                    listener,
                    self._watched,
                    self._names,
                    timeout=self._timeout,
                    probe=self._probe,
                )
                try:
                    error = await line.run()
                finally:
                    self._line = None
                if line.answered:
                    delay, told = _FIRST_DELAY, False
            if not told:
                told = True
                if _is_outage(error):
                    error = self._unavailable(error)
                else:
                    _logger.warning("Can't listen to the log at %s: %s", self._where, error)
                listener.lost(error)
            # Many processes lose the same server at the same moment.
            await anyio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311  (nobody is to guess it)
            delay = min(2 * delay, _LONGEST_DELAY)

    def watch(self, channel: str) -> None:
        if channel not in self._watched:
            self._watched.add(channel)
            if self._line is not None:
                self._line.change(channel)

    def unwatch(self, channel: str) -> None:
        self._watched.discard(channel)
        if self._line is not None:
            self._line.change(channel)

    async def check(self) -> None:
        # Of a key, and not PING: a cluster that is down answers to that.
        async with self._asking() as client:
            await client.execute_command("EXISTS", self._names.keys("")[1])

    def after_fork(self) -> None:
        leave_to_parent(self._client, self._line)
        if self._client is not None and self._given is not None:
            # It's the application's; what its pool holds is the parent's.
            if isinstance(self._given, Redis):
                pool: Any = self._given.connection_pool
                leave_to_parent(dict(vars(pool)))
                pool.reset()
            else:
                self._forked = True
        self._client = self._line = None
        self._watched = set()

    # --- Asking -----------------------------------------------------------------------

    def _make_client(self) -> _Client:
        options: dict[str, Any] = {
            # The same with every version of redis-py, and quicker to read.
            "protocol": 2,
            # There's a deadline for the whole of it, and only one clock has to be set then.
            "socket_timeout": None,
            "socket_connect_timeout": self._timeout,
            # For a connection that turns out to be broken when it's used next.
            "retry": Retry(NoBackoff(), 1),
        }
        if not _is_cluster(self._url):
            return Redis.from_url(self._url, **options)
        first, *others = _cluster_urls(self._url)
        places = [urlsplit(url) for url in others]
        nodes = [ClusterNode(str(each.hostname), each.port or 6379) for each in places]
        return RedisCluster.from_url(first, startup_nodes=nodes, **options)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[_Client]:
        if self._client is None:
            raise RuntimeError("the log isn't open: enter `async with log.open():` first")
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                yield self._client
        except _FAILURES as error:
            if not _is_outage(error):
                raise
            if _is_read_only(error) and isinstance(self._client, Redis):
                # The server has become a replica: the name may lead to another one by now.
                await self._client.connection_pool.disconnect(inuse_connections=False)
            raise self._unavailable(error) from error

    async def _run(self, script: _Script, keys: Sequence[bytes], *arguments: Any) -> Any:
        parts = (len(keys), *keys, *arguments)
        async with self._asking() as client:
            try:
                return await client.execute_command("EVALSHA", script.sha, *parts, **_RAW)
            except NoScriptError:
                return await client.execute_command("EVAL", script.text, *parts, **_RAW)

    def _unavailable(self, error: Exception) -> LogUnavailable:
        # A deadline has no words of its own.
        reason = str(error) or f"no answer within {self._timeout:g} s"
        unavailable = LogUnavailable(self._where, reason)
        unavailable.__cause__ = error
        return unavailable

    # --- Listening --------------------------------------------------------------------

    async def _connect(self) -> AbstractConnection:
        """Make a connection that nobody else uses, and that never mends itself."""
        client = self._client
        if client is None:
            raise RuntimeError("the log isn't open: enter `async with log.open():` first")
        if isinstance(client, Redis):
            pool = client.connection_pool
            return await self._connected(pool.connection_class, pool.connection_kwargs)
        async with asyncio.timeout(self._timeout):
            await client.initialize()
        nodes = client.get_nodes()
        random.shuffle(nodes)
        error: Exception | None = None
        for node in nodes:
            try:
                return await self._connected(node.connection_class, node.connection_kwargs)
            except _FAILURES as caught:
                error = caught
        # None of the nodes we know is there: ask those we began with for others.
        async with asyncio.timeout(self._timeout):
            await client.aclose()
        raise error or RedisConnectionError("the cluster has no nodes")

    async def _connected(
        self, kind: Callable[..., Any], given: dict[str, Any]
    ) -> AbstractConnection:
        # Notices of maintenance need the newer protocol; a server that is gone is noticed anyway.
        options = {name: value for name, value in given.items() if not name.startswith("maint")}
        connection = kind(
            **{
                **options,
                "protocol": 2,
                "socket_timeout": None,
                "socket_connect_timeout": self._timeout,
                "health_check_interval": 0,
                "retry": None,
                "retry_on_error": [],
                "retry_on_timeout": False,
            }
        )
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
        except BaseException:
            await _hang_up(connection)
            raise
        made: AbstractConnection = connection
        return made


class _Line:
    """One listening connection, from its first command to its loss."""

    def __init__(
        self,
        connection: AbstractConnection,
        listener: Listener,
        watched: set[str],
        names: _Names,
        *,
        timeout: float,
        probe: float,
    ) -> None:
        self.answered = False
        """Whether the server has said anything."""
        self._connection = connection
        self._listener = listener
        self._watched = watched
        self._names = names
        self._timeout = timeout
        self._probe = probe
        # A channel is under way until the server has acknowledged the last command about it. Only
        # then is the next one sent, so that an acknowledgement is never that of an older one.
        self._changed: set[str] = set(self._watched)
        self._under_way: set[str] = set()
        self._subscribed: dict[bytes, str] = {}
        self._joined: set[str] = set()
        self._stirred = asyncio.Event()
        self._time = asyncio.get_running_loop().time
        self._heard_at = self._time()
        self._asked_at: float | None = None

    def change(self, channel: str) -> None:
        """Look anew whether `channel` is watched."""
        self._joined.discard(channel)
        self._changed.add(channel)
        self._stirred.set()

    async def run(self) -> Exception:
        """Listen until the connection fails; return what was the matter."""
        failures: list[Exception] = []

        async def until_it_fails(part: Callable[[], Awaitable[None]]) -> None:
            try:
                await part()
            except _FAILURES as error:
                failures.append(error)
                both.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as both:
                both.start_soon(until_it_fails, self._hear)
                both.start_soon(until_it_fails, self._ask)
        finally:
            await _hang_up(self._connection)
        return failures[0]

    async def _ask(self) -> None:
        while True:
            await self._follow_changes()
            now = self._time()
            if self._asked_at is None:
                due = self._heard_at + self._probe
                if now >= due:
                    await self._send("PING")
                    continue
            else:
                due = self._asked_at + self._timeout
                if now >= due:
                    raise RedisTimeoutError(f"no answer within {self._timeout:g} s")
            with anyio.move_on_after(due - now):
                await self._stirred.wait()

    async def _follow_changes(self) -> None:
        """Ask for what has changed, many channels at a time."""
        self._stirred.clear()
        topic_of = self._names.topic
        subscribe: dict[bytes, str] = {}
        unsubscribe: list[bytes] = []
        for channel in self._changed - self._under_way:
            self._changed.discard(channel)
            topic = topic_of(channel)
            wanted, there = channel in self._watched, topic in self._subscribed
            if wanted and not there:
                subscribe[topic] = channel
            elif there and not wanted:
                unsubscribe.append(topic)
            elif wanted and channel not in self._joined:
                # It has come back before it had gone.
                self._join(channel)
                continue
            else:
                continue
            self._under_way.add(channel)
        self._subscribed |= subscribe
        for command, topics in (("SUBSCRIBE", list(subscribe)), ("UNSUBSCRIBE", unsubscribe)):
            for start in range(0, len(topics), _NAMES_AT_ONCE):
                await self._send(command, *topics[start : start + _NAMES_AT_ONCE])

    async def _send(self, *command: str | bytes) -> None:
        if self._asked_at is None:
            self._asked_at = self._time()
        async with asyncio.timeout(self._timeout):
            await self._connection.send_command(*command)

    async def _hear(self) -> None:
        heard = 0
        while True:
            message = await self._connection.read_response(disable_decoding=True)
            self.answered = True
            self._heard_at = now = self._time()
            # PONG is a list only as long as anything is subscribed to.
            kind = message[0] if isinstance(message, list) else b"pong"
            if kind == b"message":
                self._pass_on(message[1], message[2])
            elif kind != b"pong":
                self._acknowledged(kind, message[1])
            if self._under_way:
                self._asked_at = now
            elif self._asked_at is not None:
                self._asked_at = None
                self._stirred.set()  # The next try is due before the answer to this one was.
            # What has arrived together is read without waiting, and others want to run, too.
            heard += 1
            if heard % _MOST_HEARD_AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()

    def _pass_on(self, topic: bytes, payload: bytes) -> None:
        channel = self._subscribed.get(topic)
        if channel is None or channel not in self._watched:
            return
        try:
            name, offset, length, rest = payload.split(b" ", 3)
            epoch, end = name.decode(), int(length)
            entry = Entry(int(offset), _text(rest[:end]), rest[end:])
        except ValueError:
            # The body was too large to be sent to all, or somebody else has published here.
            self._listener.stirred(channel)
        else:
            self._listener.heard(channel, epoch, entry)

    def _acknowledged(self, kind: bytes, topic: bytes) -> None:
        channel = self._subscribed[topic]
        self._under_way.discard(channel)
        if kind == b"unsubscribe":
            del self._subscribed[topic]
        elif channel in self._watched:
            self._join(channel)
        if channel in self._changed:
            self._stirred.set()

    def _join(self, channel: str) -> None:
        self._joined.add(channel)
        self._listener.joined(channel)


async def _hang_up(connection: AbstractConnection) -> None:
    # It may have been broken before.
    with anyio.CancelScope(shield=True), suppress(*_FAILURES):
        await connection.disconnect(nowait=True)


# --- What redis-py says ---------------------------------------------------------------


def _is_outage(error: Exception) -> bool:
    """Whether the server is to blame, or the way to it, and not what was asked."""
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return False
    return isinstance(error, _OUTAGES) or _NOT_NOW.search(str(error)) is not None


def _is_read_only(error: Exception) -> bool:
    return isinstance(error, ReadOnlyError) or "READONLY" in str(error)


_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


def _is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")


def _cluster_urls(url: str) -> list[str]:
    """One URL for each node, all with the same password and options."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    scheme = parts.scheme.removesuffix("+cluster")
    return [
        parts._replace(scheme=scheme, netloc=f"{user}{at}{host}").geturl()
        for host in hosts.split(",")
    ]


def _check_url(url: str) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        known = ", ".join(f"{each}://" for each in _SCHEMES)
        raise ValueError(
            f"a log in Redis has a URL that begins with one of {known}, not {scheme!r}"
        )
    for each in _cluster_urls(url) if _is_cluster(url) else [url]:
        try:
            pool: Any = ConnectionPool.from_url(each)
            pool.make_connection()
        except (TypeError, ValueError) as error:
            # The cause names the option, never the password.
            raise ValueError(f"the URL of the log in Redis can't be understood: {error}") from None


def _db_of(client: _Client) -> int:
    if isinstance(client, RedisCluster):
        return 0
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _place_of(client: _Client) -> str:
    """Where a client of the user's own leads to."""
    if isinstance(client, RedisCluster):
        nodes = client.nodes_manager.startup_nodes.values()
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in nodes)
    pool = client.connection_pool
    options = pool.connection_kwargs
    if (service := getattr(pool, "service_name", None)) is not None:
        return f"{service} (by Sentinel)"
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
