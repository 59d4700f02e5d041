"""A log in Redis: one server, one behind Sentinel, or a cluster.

A stream keeps the entries, a hash says where the channel is, Pub/Sub tells of what is new. What a
change here must keep:

- Each look and each change is one script: nobody sees half of it, and a connection that breaks leaves
  all of it done or nothing.
- Whatever is asked may be asked twice. redis-py repeats commands, and so do our callers.
- All keys of a channel share a hash tag, so that one script may use them on a cluster.
- What is published on a connection that broke is lost, so no connection is ever mended behind our
  back: a new one is made, and every subscription acknowledged anew before `subscribed` is called.
- The number of connections depends on neither channels nor publishers: one listens, and as many as
  there are turns ask.
"""

from __future__ import annotations

import random
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from ..._runtime.fork import leave_to_parent
from ..._runtime.loop import is_on_asyncio
from ..._wire.cursor import new_epoch
from ..base import BatchingBackend, Beginning, NewEntry, Page, Position
from ._appender import RedisAppender
from ._clients import db_of, make_client, open_connection, options_of, place_of
from ._commands import Commands, NotOpenError
from ._faults import Explainer, Secrets
from ._lease_scripts import APPEND_LEASED
from ._leases import RedisLeases
from ._protocol import Names, append_asked, beginning_in, limits_asked, page_in
from ._pubsub import PubSubConnection
from ._scripts import APPEND, CHECK, READ, RENEW, SEEK
from ._urls import check_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ..base import BlockingAppender, ChannelFigures, Limits, Listener
    from ._clients import Client
    from ._scripts import Script

__all__ = ["RedisLog"]

_HEADS_AT_ONCE = 300
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0


class RedisLog(RedisLeases, BatchingBackend):
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
        self._given: Client | None = None
        self._forked = False
        """Whether the client we were given is the parent's."""
        self._url = ""
        if isinstance(server, str):
            self._url = server
            check_url(server)
            parts = urlsplit(server)
            where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            client = make_client(server, timeout=timeout)
        elif isinstance(server, (Redis, RedisCluster)):
            self._given = client = server
            where = place_of(server)
        else:
            raise TypeError(
                f"a URL or a client of redis.asyncio is needed, got: {type(server).__name__}"
            )
        db = db_of(client)
        self._names = Names(prefix, db)
        self._shown = f"<RedisLog {where}, database {db}, prefix {prefix!r}>"
        self._faults = Explainer(where, Secrets(options_of(client)), self._names, timeout=timeout)
        self._watched: set[str] = set()
        self._commands: Commands | None = None
        self._connection: PubSubConnection | None = None

    def __repr__(self) -> str:
        return self._shown

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
        client = self._given or make_client(self._url, timeout=self._timeout)
        self._commands = commands = Commands(
            client, self._names, self._faults, timeout=self._timeout
        )
        try:
            yield
        finally:
            commands.close()
            if self._commands is commands:
                self._commands = None
            if self._given is None:
                with anyio.move_on_after(self._timeout, shield=True):
                    await client.aclose()

    async def append_many(
        self, channel: str, entries: Sequence[NewEntry], *, limits: Limits
    ) -> Sequence[Position | Exception]:
        """
        Add entries; see `Backend.append_many`.

        What waits for its turn at the same time, of other channels too, is sent together.
        """
        return await self._append(APPEND, channel, entries, limits)

    async def append_leased(
        self, channel: str, entries: Sequence[NewEntry], *, holder: str, limits: Limits
    ) -> Sequence[Position | Exception]:
        """Add entries in the name of the holder of the lease, who is their writer; see `Leases`."""
        assert all(entry.writer == holder for entry in entries)  # noqa: S101  (the script looks there)
        return await self._append(APPEND_LEASED, channel, entries, limits)

    async def _append(
        self, script: Script, channel: str, entries: Sequence[NewEntry], limits: Limits
    ) -> Sequence[Position | Exception]:
        commands = self._opened()
        keys, arguments = append_asked(self._names, channel, entries, limits, new_epoch(channel))
        size = sum(len(entry.body) for entry in entries)
        found, warning = await commands.append(
            channel, keys, arguments, size=size, count=len(entries), script=script
        )
        if warning:
            self._faults.warn(channel, ResponseError(warning))
        return [
            self._faults.explain(ResponseError(each), channel) if isinstance(each, str) else each
            for each in found
        ]

    async def read(
        self, channel: str, *, after: int, until: int | None, limit: int, limits: Limits
    ) -> Page:
        arguments: list[Any] = [new_epoch(channel), limits_asked(limits)]
        arguments += [after + 1, "+" if until is None else until, limit]
        page: Page = await self._opened().run(
            READ, self._names.keys(channel), *arguments, parts=4, parse=page_in, channel=channel
        )
        return page

    async def seek(self, channel: str, *, age: float, limits: Limits) -> Beginning:
        arguments: list[Any] = [new_epoch(channel), limits_asked(limits), round(age * 1000)]
        found: Beginning = await self._opened().run(
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
            found |= await self._opened().find_heads(some, expire)
        return found

    async def figures(self, channels: Sequence[str] | None = None) -> list[ChannelFigures]:
        return await self._opened().look_on(channels)

    async def renew(self, channel: str, epoch: str) -> None:
        await self._opened().run(RENEW, self._names.keys(channel), epoch, channel=channel)

    async def listen(self, listener: Listener) -> None:
        self._opened()
        delay = _FIRST_DELAY
        told = False
        while True:
            error: Exception
            try:
                connection = await open_connection(self._opened().client, within=self._timeout)
            except Exception as caught:
                error = caught
            else:
                self._connection = listening = PubSubConnection(
                    connection,
                    listener,
                    self._watched,
                    self._names,
                    timeout=self._timeout,
                    probe=self._probe,
                )
                try:
                    error = await listening.run()
                finally:
                    self._connection = None
                if listening.answered:
                    delay, told = _FIRST_DELAY, False
            if not told:
                told = True
                listener.lost(self._faults.explain(error))
            # Many processes lose the same server at the same moment.
            await anyio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311  (nobody is to guess it)
            delay = min(2 * delay, _LONGEST_DELAY)

    def watch(self, channel: str) -> None:
        if channel not in self._watched:
            self._watched.add(channel)
            if self._connection is not None:
                self._connection.change(channel)

    def unwatch(self, channel: str) -> None:
        self._watched.discard(channel)
        if self._connection is not None:
            self._connection.change(channel)

    async def check(self) -> None:
        await self._opened().run(CHECK, self._names.probe())

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
        return RedisAppender(self._url, self._names, self._faults, timeout=self._timeout)

    def after_fork(self) -> None:
        leave_to_parent(self._commands, self._connection)
        if self._commands is not None and self._given is not None:
            # It's the application's; what its pool holds is the parent's.
            if isinstance(self._given, Redis):
                pool: Any = self._given.connection_pool
                leave_to_parent(dict(vars(pool)))
                pool.reset()
            else:
                self._forked = True
        self._commands = self._connection = None
        self._watched = set()

    def _opened(self) -> Commands:
        if self._commands is None:
            raise NotOpenError
        return self._commands
