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
import random
import re
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from itertools import count
from logging import getLogger
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sse_starlette._runtime.fork import leave_to_parent
from sse_starlette._runtime.loop import is_on_asyncio
from sse_starlette._wire.cursor import new_epoch
from sse_starlette.errors import ChannelClosed, LogRefused, LogUnavailable

from ..base import Backend, Beginning, Entry, NewEntry, Page, Position
from ._appender import RedisAppender
from ._faults import (
    FAILURES,
    Secrets,
    check_url,
    cluster_urls,
    explain,
    is_cluster,
    is_read_only,
)
from ._scripts import (
    APPEND,
    CHECK,
    HEAD,
    READ,
    RENEW,
    SEEK,
    Names,
    Script,
    answer_to,
    append_asked,
    appended_in,
    beginning_in,
    head_in,
    limits_asked,
    page_in,
    strange,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from types import TracebackType

    from redis.asyncio.connection import AbstractConnection

    from ..base import BlockingAppender, Limits, Listener

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
_REQUESTS_TOGETHER = 64
_BYTES_TOGETHER = 1024 * 1024
_WARNED_EVERY_SECONDS = 60.0
_LOOKS = 8
"""In how many parts the time for an answer is counted."""
# A client of the user's own may decode what it reads; bodies are bytes.
RAW: dict[str, Any] = {NEVER_DECODE: True}


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

    keeps_times = True

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
            check_url(server)
            parts = urlsplit(server)
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            client = self._make_client()
            db = _db_of(client)
            self._secrets = Secrets(_options_of(client))
        elif isinstance(server, (Redis, RedisCluster)):
            self._given = server
            where = _place_of(server)
            db = _db_of(server)
            self._secrets = Secrets(_options_of(server))
        else:
            raise TypeError(
                f"a URL or a client of redis.asyncio is needed, got: {type(server).__name__}"
            )
        self._where = where
        self._names = Names(prefix, db)
        self._watched: set[str] = set()
        self._client: _Client | None = None
        self._turns = asyncio.Semaphore(_TURNS)
        self._waiting: deque[_Request] = deque()
        self._tags = count(random.getrandbits(48))
        self._warned_at = -_WARNED_EVERY_SECONDS
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
        self._turns = asyncio.Semaphore(min(_TURNS, _connections_of(client)))
        self._waiting.clear()
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
        entry = NewEntry(body, key, key_seconds)
        (outcome,) = await self.append_many(channel, [entry], limits=limits)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Add entries; see `Backend.append_many`.

        What waits for its turn at the same time, of other channels too, is sent together.
        """
        self._opened()
        keys, arguments = append_asked(self._names, channel, entries, limits, new_epoch(channel))
        size = sum(len(entry.body) for entry in entries)
        request = _Request(channel, self._tag(), keys, arguments, size)
        self._waiting.append(request)
        try:
            while request.outcome is None:
                async with self._turns:
                    if request.outcome is None:
                        await self._send_waiting()
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        try:
            if isinstance(request.outcome, Exception):
                raise request.outcome
            found, warning = appended_in(request.tag, request.outcome, channel, len(entries))
        except Exception as error:
            raise await self._explained(error, channel) from error
        if warning:
            self._warn(channel, ResponseError(warning))
        return [
            self._explain(ResponseError(each), channel) if isinstance(each, str) else each
            for each in found
        ]

    async def read(
        self, channel: str, *, after: int, upto: int | None, most: int, limits: Limits
    ) -> Page:
        arguments: list[Any] = [new_epoch(channel), limits_asked(limits)]
        arguments += [after + 1, "+" if upto is None else upto, most]
        page: Page = await self._run(
            READ, self._names.keys(channel), *arguments, parts=4, parse=page_in, channel=channel
        )
        return page

    async def seek(self, channel: str, *, age: float, limits: Limits) -> Beginning:
        arguments: list[Any] = [new_epoch(channel), limits_asked(limits), round(age * 1000)]
        found: Beginning = await self._run(
            SEEK,
            self._names.keys(channel),
            *arguments,
            parts=3,
            parse=beginning_in,
            channel=channel,
        )
        return found

    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        found: dict[str, Position] = {}
        for start in range(0, len(channels), _HEADS_AT_ONCE):
            some = channels[start : start + _HEADS_AT_ONCE]
            async with self._asking() as client:
                found |= await self._heads(client, some, expire)
        return found

    async def _heads(
        self, client: _Client, channels: Sequence[str], expire: float | None
    ) -> dict[str, Position]:
        keys = {channel: self._names.keys(channel) for channel in channels}
        pipeline = client.pipeline(transaction=False)
        for _, meta in keys.values():
            pipeline.execute_command("HMGET", meta, *HEAD, **RAW)
        answers = await pipeline.execute(raise_on_error=False)
        found: dict[str, Position] = {}
        pipeline = client.pipeline(transaction=False)
        for channel, answer in zip(channels, answers, strict=True):
            if isinstance(answer, Exception):
                told = self._explain(answer, channel)
                if isinstance(told, LogRefused) and told.channel is not None:
                    continue  # It's told when somebody looks for this one.
                raise answer
            try:
                head = head_in(answer, expire)
            except ValueError:
                continue  # As above.
            if head is None:
                continue
            found[channel], lasts = head
            for key in keys[channel]:
                pipeline.execute_command("PEXPIRE", key, lasts)
        if found:
            await pipeline.execute()
        return found

    async def renew(self, channel: str, epoch: str) -> None:
        await self._run(RENEW, self._names.keys(channel), epoch, channel=channel)

    async def listen(self, listener: Listener) -> None:
        self._opened()
        delay = _FIRST_DELAY
        told = False
        while True:
            error: Exception
            try:
                connection = await self._connect()
            except Exception as caught:
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
                listener.lost(self._explain(error))
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
        await self._run(CHECK, self._names.probe())

    def blocking(self) -> BlockingAppender:
        """
        Return a way to append without an event loop.

        Raises:
            TypeError: the log was made with a client of `redis.asyncio`.
        """
        if not self._url:
            raise TypeError(
                "a client of redis.asyncio can't be used without an event loop: give the hub whose "
                "publisher this is the URL of the server."
            )
        return RedisAppender(
            self._url, self._names, self._explain, self._tag, self._warn, timeout=self._timeout
        )

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
        if not is_cluster(self._url):
            return Redis.from_url(self._url, **options)
        first, *others = cluster_urls(self._url)
        places = [urlsplit(url) for url in others]
        nodes = [ClusterNode(str(each.hostname), each.port or 6379) for each in places]
        return RedisCluster.from_url(first, startup_nodes=nodes, **options)

    @asynccontextmanager
    async def _asking(self, channel: str | None = None) -> AsyncIterator[_Client]:
        """Have a turn; what goes wrong in it is told as what it means."""
        try:
            # The clock of an answer begins when it's our turn to ask.
            async with self._turns, _answer_within(self._timeout):
                yield self._opened()
        except Exception as error:
            raise await self._explained(error, channel) from error

    def _opened(self) -> _Client:
        if self._client is None:
            raise NotOpenError
        return self._client

    async def _run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: Any,
        parts: int = 0,
        parse: Callable[[list[Any]], Any] = list,
        channel: str | None = None,
    ) -> Any:
        tag = self._tag()
        asked = (len(keys), *keys, tag, *arguments)
        async with self._asking(channel) as client:
            try:
                answer = await client.execute_command("EVALSHA", script.sha, *asked, **RAW)
            except NoScriptError:
                answer = await client.execute_command("EVAL", script.text, *asked, **RAW)
            found = answer_to(tag, answer, parts)
            try:
                return parse(found)
            except Exception as error:
                raise ResponseError("SSEDATA what is stored for it can't be read") from error

    async def _send_waiting(self) -> None:
        """Send what waits, and note what became of it; in a turn."""
        taken: list[_Request] = []
        size = 0
        while self._waiting and len(taken) < _REQUESTS_TOGETHER and size < _BYTES_TOGETHER:
            taken.append(self._waiting.popleft())
            size += taken[-1].size
        failed: Exception = RedisConnectionError("the attempt was given up")
        try:
            async with _answer_within(self._timeout):
                answers = await self._send(self._opened(), taken, "EVALSHA", APPEND.sha)
                unknown = [
                    number
                    for number, answer in enumerate(answers)
                    if isinstance(answer, NoScriptError)
                ]
                if unknown:
                    again = [taken[number] for number in unknown]
                    others = await self._send(self._opened(), again, "EVAL", APPEND.text)
                    for number, answer in zip(unknown, others, strict=True):
                        answers[number] = answer
            for request, answer in zip(taken, answers, strict=True):
                request.outcome = answer
        except Exception as error:
            failed = error
            # The others would each wait for the same.
            taken += self._waiting
            self._waiting.clear()
        finally:
            for request in taken:
                if request.outcome is None:
                    request.outcome = failed

    async def _send(
        self, client: _Client, requests: Sequence[_Request], command: str, script: str
    ) -> list[Any]:
        asked = [
            (command, script, len(each.keys), *each.keys, each.tag, *each.arguments)
            for each in requests
        ]
        if len(asked) == 1:
            try:
                return [await client.execute_command(*asked[0], **RAW)]
            except NoScriptError as error:
                return [error]
        pipeline = client.pipeline(transaction=False)
        for each in asked:
            pipeline.execute_command(*each, **RAW)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _tag(self) -> bytes:
        """What an answer is recognized by."""
        return b"%x" % next(self._tags)

    async def _explained(self, error: Exception, channel: str | None = None) -> Exception:
        """What callers are told of an error; connections that can't be used any more are closed."""
        client = self._client
        if isinstance(error, (NotOpenError, ChannelClosed)):
            return error
        if (
            client is not None
            and isinstance(client, Redis)
            and (
                # A replica: the name may lead to another server by now. Or an answer too many: no answer
                # on that connection is one to what was asked.
                is_read_only(error)
                or not isinstance(error, (*FAILURES, TimeoutError))
                or isinstance(error, InvalidResponse)
            )
        ):
            with suppress(*FAILURES):
                await client.connection_pool.disconnect(inuse_connections=False)
        return self._explain(error, channel)

    def _explain(self, error: Exception, channel: str | None = None) -> LogUnavailable:
        if not isinstance(error, (*FAILURES, TimeoutError)):
            # redis-py stumbles over an answer of a form that it doesn't expect.
            error = strange(error)
        return explain(
            error,
            self._where,
            self._secrets,
            timeout=self._timeout,
            channel=channel,
            keys="" if channel is None else self._names.base(channel),
        )

    def _warn(self, channel: str, error: Exception) -> None:
        """Say once a minute that something was added, but not all that belongs to it was done."""
        now = time.monotonic()
        if now - self._warned_at < _WARNED_EVERY_SECONDS:
            return
        self._warned_at = now
        told = self._explain(error)
        _logger.warning(
            "what is published to channel %r is added to the log at %s, but who listens elsewhere "
            "hears of it late, or the log isn't trimmed: %s. %s",
            channel,
            self._where,
            told.reason,
            told.remedy if isinstance(told, LogRefused) else "",
        )

    # --- Listening --------------------------------------------------------------------

    async def _connect(self) -> AbstractConnection:
        """Make a connection that nobody else uses, and that never mends itself."""
        client = self._opened()
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
            except FAILURES as caught:
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


class _answer_within:  # noqa: N801  (reads like asyncio.timeout)
    """
    Raise TimeoutError if the block takes longer.

    A part of the time counts anew if the loop was late to look: while a burst of other tasks keeps it busy,
    nobody can tell whether the server has answered.
    """

    __slots__ = ("_deadline", "_due", "_left", "_loop", "_part", "_timer")

    def __init__(self, seconds: float) -> None:
        self._part = seconds / _LOOKS
        self._left = _LOOKS - 1
        self._deadline = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._deadline.__aenter__()
        self._wait()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._deadline.__aexit__(exc_type, exc, traceback)

    def _wait(self) -> None:
        self._due = self._loop.time() + self._part
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due <= self._part:
            self._left -= 1
        if self._left >= 0:
            self._wait()
        else:
            self._deadline.reschedule(self._loop.time())


class NotOpenError(RuntimeError):
    """The log is used outside of `open`."""

    def __init__(self) -> None:
        super().__init__("the log isn't open: enter `async with log.open():` first")


class _Request:
    """Entries of a channel that wait to be added, and what was answered."""

    __slots__ = ("arguments", "channel", "keys", "outcome", "size", "tag")

    def __init__(
        self, channel: str, tag: bytes, keys: list[bytes], arguments: list[Any], size: int
    ) -> None:
        self.channel = channel
        self.tag = tag
        self.keys = keys
        self.arguments = arguments
        self.size = size
        self.outcome: Any = None


class _Line:
    """One listening connection, from its first command to its loss."""

    def __init__(
        self,
        connection: AbstractConnection,
        listener: Listener,
        watched: set[str],
        names: Names,
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
            except Exception as error:
                # redis-py may stumble over what it can't read, too.
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
            kind = message[0] if isinstance(message, list) and message else message
            if kind == b"message" and len(message) == 3:
                self._pass_on(message[1], message[2])
            elif kind in (b"subscribe", b"unsubscribe") and len(message) == 3:
                self._acknowledged(kind, message[1])
            elif kind not in (b"pong", b"PONG"):
                raise strange(message)
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
            entry = Entry(int(offset), to_text(rest[:end]), rest[end:])
        except ValueError:
            # The body was too large to be sent to all, or somebody else has published here.
            self._listener.stirred(channel)
        else:
            self._listener.heard(channel, epoch, entry)

    def _acknowledged(self, kind: bytes, topic: bytes) -> None:
        channel = self._subscribed.get(topic)
        if channel is None or channel not in self._under_way:
            raise strange(topic)
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
    with anyio.CancelScope(shield=True), suppress(*FAILURES):
        await connection.disconnect(nowait=True)


# --- What clients lead to -------------------------------------------------------------


def _db_of(client: _Client) -> int:
    if isinstance(client, RedisCluster):
        return 0
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _options_of(client: _Client) -> list[dict[str, Any]]:
    """The options of its connections."""
    if isinstance(client, RedisCluster):
        return [client.connection_kwargs]
    found: list[dict[str, Any]] = [client.connection_pool.connection_kwargs]
    sentinels = getattr(client.connection_pool, "sentinel_manager", None)
    others = getattr(sentinels, "sentinels", [])
    return found + [each.connection_pool.connection_kwargs for each in others]


def _connections_of(client: _Client) -> int:
    """How many it may have at a time; to each node, of a cluster."""
    if isinstance(client, RedisCluster):
        limits = [node.max_connections for node in client.nodes_manager.startup_nodes.values()]
        return max(1, min(limits, default=_TURNS))
    return max(1, int(client.connection_pool.max_connections))


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
