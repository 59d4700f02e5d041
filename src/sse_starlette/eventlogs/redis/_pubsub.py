"""One listening connection: from its first command, through all that it subscribes to, to its loss.

What is published on a connection that broke is lost, so none is ever mended: a new one is made, and every
subscription acknowledged anew before the listener is told that it stands.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._stored_text import to_text
from ..base import Entry
from ._clients import hang_up
from ._protocol import strange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection

    from ..base import Listener
    from ._protocol import Names

_NAMES_AT_ONCE = 1_000
_MOST_RECEIVED_AT_A_STRETCH = 64


class PubSubConnection:
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
        self._topics: dict[bytes, str] = {}
        self._subscribed: set[str] = set()
        self._wake = asyncio.Event()
        self._time = asyncio.get_running_loop().time
        self._received_at = self._time()
        self._asked_at: float | None = None

    def change(self, channel: str) -> None:
        """Look anew whether `channel` is watched."""
        self._subscribed.discard(channel)
        self._changed.add(channel)
        self._wake.set()

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
                both.start_soon(until_it_fails, self._receive)
                both.start_soon(until_it_fails, self._ask)
        finally:
            await hang_up(self._connection)
        return failures[0]

    async def _ask(self) -> None:
        while True:
            await self._follow_changes()
            now = self._time()
            if self._asked_at is None:
                due = self._received_at + self._probe
                if now >= due:
                    await self._send("PING")
                    continue
            else:
                due = self._asked_at + self._timeout
                if now >= due:
                    raise RedisTimeoutError(f"no answer within {self._timeout:g} s")
            with anyio.move_on_after(due - now):
                await self._wake.wait()

    async def _follow_changes(self) -> None:
        """Ask for what has changed, many channels at a time."""
        self._wake.clear()
        topic_of = self._names.topic
        subscribe: dict[bytes, str] = {}
        unsubscribe: list[bytes] = []
        for channel in self._changed - self._under_way:
            self._changed.discard(channel)
            topic = topic_of(channel)
            wanted, there = channel in self._watched, topic in self._topics
            if wanted and not there:
                subscribe[topic] = channel
            elif there and not wanted:
                unsubscribe.append(topic)
            elif wanted and channel not in self._subscribed:
                # It has come back before it had gone.
                self._tell_subscribed(channel)
                continue
            else:
                continue
            self._under_way.add(channel)
        self._topics |= subscribe
        for command, topics in (("SUBSCRIBE", list(subscribe)), ("UNSUBSCRIBE", unsubscribe)):
            for start in range(0, len(topics), _NAMES_AT_ONCE):
                await self._send(command, *topics[start : start + _NAMES_AT_ONCE])

    async def _send(self, *command: str | bytes) -> None:
        if self._asked_at is None:
            self._asked_at = self._time()
        async with asyncio.timeout(self._timeout):
            await self._connection.send_command(*command)

    async def _receive(self) -> None:
        received = 0
        while True:
            message = await self._connection.read_response(disable_decoding=True)
            self.answered = True
            self._received_at = now = self._time()
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
                self._wake.set()  # The next try is due before the answer to this one was.
            # What has arrived together is read without waiting, and others want to run, too.
            received += 1
            if received % _MOST_RECEIVED_AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()

    def _pass_on(self, topic: bytes, payload: bytes) -> None:
        channel = self._topics.get(topic)
        if channel is None or channel not in self._watched:
            return
        try:
            name, offset, length, rest = payload.split(b" ", 3)
            epoch, end = name.decode(), int(length)
            entry = Entry(int(offset), to_text(rest[:end]), rest[end:])
        except ValueError:
            # The body was too large to be sent to all, or somebody else has published here.
            self._listener.notified(channel)
        else:
            self._listener.received(channel, epoch, entry)

    def _acknowledged(self, kind: bytes, topic: bytes) -> None:
        channel = self._topics.get(topic)
        if channel is None or channel not in self._under_way:
            raise strange(topic)
        self._under_way.discard(channel)
        if kind == b"unsubscribe":
            del self._topics[topic]
        elif channel in self._watched:
            self._tell_subscribed(channel)
        if channel in self._changed:
            self._wake.set()

    def _tell_subscribed(self, channel: str) -> None:
        self._subscribed.add(channel)
        self._listener.subscribed(channel)
