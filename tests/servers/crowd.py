"""Clients by the hundred on bare sockets in this process, strict about what they read.

`Follower`s come back as `EventSource` does, with the id of the last event that was complete, to whichever process
they're led to: the next event they take must be the next offset of the same epoch, or they have been told (`reset`).
They may be cut off at any byte, and stop reading for a while. `Listener`s stay, and compare what they get byte by byte.
Neither keeps more than one unfinished event.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httptools
from tests.servers.serving import Server, get
from tests.unit.parsers import read_by_the_standard

END = b"\r\n\r\n"
LONGEST = 64 * 1024
"""No event of the tests has more bytes: without an end by then, a stream is out of order."""
EPOCH = 10**9
"""A place in the histories of a channel is one number: that of the epoch times this, and the offset."""


def ask(server: Server, path: str, **query: object) -> Any:
    """Have the application do something; return what it says, decoded."""
    texts = {name: str(value) for name, value in query.items()}
    answer = get(f"{server.url}{path}", seconds=90, **texts)
    assert answer.status_code == 200, (path, answer.text)
    return answer.json() if answer.content else None


@dataclass(frozen=True)
class Block:
    """What stands between two blank lines."""

    kind: str
    """The type of the event; `"cursor"` for an id by itself, `"setting"` for what has not even that."""
    id: str
    fields: Any

    @property
    def offset(self) -> int:
        return int(self.id.partition(".")[2] or -1)


def read_block(raw: bytes) -> Block:
    """Read one block to the letter of the standard; what a sound channel never sends is an error."""
    reading = read_by_the_standard([raw + END])
    names = [name for name, _ in reading.lines]
    assert reading.blocks == 1, raw
    assert len(set(names)) == len(names), f"a field twice: {raw!r}"
    assert set(names) <= {"id", "event", "data", "retry"}, raw
    if not reading.fired:
        return Block("cursor" if "id" in names else "setting", reading.last_event_id, {})
    (fired,) = reading.fired
    return Block(fired.type, fired.last_event_id, json.loads(fired.data))


class Connection(asyncio.Protocol):
    """One connection of a client: takes the response apart, and ends when the bytes run out."""

    transport: asyncio.Transport

    def __init__(self, take: Callable[[bytes], None], budget: float = float("inf")) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.completed = False
        self.cut = False
        self.left = False
        self.budget = budget
        """After so many further bytes it's cut."""
        self._take = take
        self._response = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def on_headers_complete(self) -> None:
        self.status = self._response.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._take(body)

    def on_message_complete(self) -> None:
        self.completed = True
        self.leave()

    def leave(self) -> None:
        """Close the connection, having got all one wants."""
        self.left = True
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.cut or self.left:
            return
        try:
            if len(data) < self.budget:
                self.budget -= len(data)
                self._response.feed_data(data)
            else:
                self.cut = True
                self._response.feed_data(data[: int(self.budget)])
                self._crash()
        except Exception as failure:
            if not self.over.done():
                self.over.set_exception(failure)
            self.transport.abort()

    def _crash(self) -> None:
        """Break off, every other time with a TCP reset."""
        connection: socket.socket = self.transport.get_extra_info("socket")
        if connection.fileno() % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def connect(
    take: Callable[[bytes], None],
    port: int,
    path: str,
    cursor: str = "",
    *,
    budget: float = float("inf"),
    window: int | None = None,
) -> Connection:
    """Ask for a stream; of what isn't read the kernel takes `window` bytes, if that is given."""
    loop = asyncio.get_running_loop()
    with socket.socket() as made:
        if window is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made.setblocking(False)
        await loop.sock_connect(made, ("127.0.0.1", port))
        _, connection = await loop.create_connection(
            lambda: Connection(take, budget), sock=made.dup()
        )
    resume = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
    connection.transport.write(f"{head}{resume}\r\n".encode())
    return connection


# --- Who comes back -------------------------------------------------------------------


@dataclass(frozen=True)
class Reset:
    """What a client was told: why, and from which place to which it went."""

    reason: str
    before: int
    after: int


class Channel:
    """What all followers of a channel know together."""

    def __init__(
        self, name: str, port: int, path: str, *, away: float = 0.3, goal: int | None = None
    ) -> None:
        """
        Know nothing yet.

        Args:
            name: what publishers call it.
            port: whom they ask.
            path: what they ask for.
            away: the longest time, in seconds, until somebody comes back.
            goal: where the history ends: who has got so far has everything.
        """
        self.name, self.port, self.path, self.away, self.goal = name, port, path, away, goal
        self.random = random.Random(20)
        self.events: dict[int, tuple[str, int]] = {}
        """What is at each place: whose event, and which of them."""
        self.acknowledged: dict[int, tuple[str, int]] = {}
        """The same, as publishers know it."""
        self.faults: list[str] = []
        self.known: dict[bytes, int] = {}
        """The places of blocks that somebody has read: most blocks come to everybody."""
        self._epochs: dict[str, int] = {}

    def place(self, event_id: str) -> int:
        epoch, _, offset = event_id.partition(".")
        return self._epochs.setdefault(epoch, len(self._epochs)) * EPOCH + int(offset)

    def acknowledge(self, event_id: str, publisher: str, number: int) -> None:
        """A publisher has been told where its event is."""
        place = self.place(event_id)
        if self.acknowledged.setdefault(place, (publisher, number)) != (publisher, number):
            self.faults.append(f"two publishers have been given {event_id}")

    def saw(self, raw: bytes, place: int, fields: dict[str, Any]) -> None:
        """Somebody is the first to read this."""
        event = (fields["publisher"], fields["number"])
        if self.events.setdefault(place, event) != event:
            self.faults.append(f"{raw!r} has the id that {self.events[place]} had")
        self.known[raw] = place


class Follower:
    """A client that comes back; see above."""

    def __init__(
        self,
        channel: Channel,
        *,
        cuts: Sequence[int] = (),
        stalls_at: int | None = None,
        first_port: int | None = None,
    ) -> None:
        """
        Begin nowhere.

        Args:
            channel: what it follows.
            cuts: distances in bytes on its way at which it's cut off, from its first cursor on.
            stalls_at: after so many events it stops reading, until `read_on`, and the kernel takes
                little for it.
            first_port: whom it asks at first; whom all ask, if it isn't given.
        """
        self.channel = channel
        self._port = channel.port if first_port is None else first_port
        self.place = -1
        self.cursor = ""
        self.got = 0
        self.connections = 0
        self.broken = 0
        """How many of them the server has broken off."""
        self.cuts_left = list(cuts)
        self.cuts_in_mid_block = 0
        self.resets: list[Reset] = []
        self.stretches: list[tuple[int, int]] = []
        """What it has got, from which place to which, in order."""
        self.comments: Counter[str] = Counter()
        self.faults: list[str] = []
        self.began = asyncio.Event()
        self.stalled = False
        self._stalls_at = stalls_at
        self._rest = b""
        self._from = -1
        self._visited: set[int] = set()
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Follow the channel until the goal is reached."""
        self._loop = asyncio.get_running_loop()
        channel = self.channel
        while not self._done():
            self._rest = b""
            self._connection = connection = await connect(
                self._take,
                self._port,
                channel.path,
                self.cursor,
                budget=self._budget() if self.place >= 0 else float("inf"),
                window=None if self._stalls_at is None else 4096,
            )
            self._port = channel.port
            self.connections += 1
            await connection.over
            if connection.cut:
                self.cuts_left.pop(0)
                self.cuts_in_mid_block += self._rest != b""
            elif connection.status not in (0, 200):
                # For this an EventSource gives up for ever.
                self.faults.append(f"status {connection.status}")
                break
            elif connection.completed and self._rest:
                self.faults.append(f"the body ended in mid-event: {self._rest[:200]!r}")
            else:
                self.broken += not connection.left
            if not self._done():
                await asyncio.sleep(channel.random.uniform(0, channel.away))
        self._end_stretch()

    def _budget(self) -> float:
        return self.cuts_left[0] if self.cuts_left else float("inf")

    def read_on(self) -> None:
        """Don't stall any more; any thread may call this."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._stalls_at = None
        if self.stalled and self._connection is not None:
            self.stalled = False
            self._connection.transport.resume_reading()

    def leave_if_done(self) -> None:
        if self._done() and self._connection is not None and not self._connection.over.done():
            self._connection.leave()

    def _done(self) -> bool:
        return bool(self.faults) or self.place == self.channel.goal

    def _take(self, body: bytes) -> None:
        rest = self._rest + body if self._rest else body
        *blocks, self._rest = rest.split(END)
        assert len(self._rest) < LONGEST
        known, place, got = self.channel.known, self.place, self.got
        for block in blocks:
            if known.get(block) == place + 1 > 0:
                place += 1
                got += 1
            else:
                self.place, self.got = place, got
                self._take_other(block)
                place, got = self.place, self.got
        if place != self.place:
            self.cursor = f"{self.cursor.partition('.')[0]}.{place % EPOCH}"
            self.place, self.got = place, got
        if self._stalls_at is not None and got >= self._stalls_at and not self.stalled:
            assert self._connection is not None
            self.stalled = True
            self._connection.transport.pause_reading()
        self.leave_if_done()

    def _take_other(self, raw: bytes) -> None:
        if raw.startswith(b":"):
            self.comments[raw.decode().partition("since")[0].strip()] += 1
            return
        block = read_block(raw)
        place = self.channel.place(block.id)
        if block.kind == "cursor" and self.place < 0:
            self._go_on(place, block.id)
            self.began.set()
            assert self._connection is not None
            self._connection.budget = self._budget()
        elif block.kind == "message" and place == self.place + 1 > 0:
            self.channel.saw(raw, place, block.fields)
            self.got += 1
            self.place, self.cursor = place, block.id
        elif block.kind == "reset" and block.fields["cursor"] == block.id:
            self.resets.append(Reset(block.fields["reason"], self.place, place))
            ahead = place > self.place
            same = place // EPOCH == self.place // EPOCH
            if same and not ahead:
                self.faults.append(f"a reset back to {block.id} after {self.cursor}")
            if not same and place // EPOCH in self._visited:
                self.faults.append(f"a reset to {block.id}, which is of a history that was lost")
            self._go_on(place, block.id)
        else:
            self.faults.append(f"{raw!r} after {self.cursor}")

    def _go_on(self, place: int, event_id: str) -> None:
        self._end_stretch()
        self.place, self.cursor, self._from = place, event_id, place
        self._visited.add(place // EPOCH)

    def _end_stretch(self) -> None:
        if self.place > self._from:
            self.stretches.append((self._from + 1, self.place))

    # What it has got, in the end.

    def had(self) -> set[int]:
        return {place for first, last in self.stretches for place in range(first, last + 1)}

    def was_told_of(self, place: int) -> bool:
        """Whether a reset has said that the event at this place would not come."""
        if place // EPOCH not in self._visited:
            return bool(self.resets)  # A history that came and went between two of them.
        for reset in self.resets:
            left, entered = reset.before // EPOCH, reset.after // EPOCH
            after_leaving = place // EPOCH != left or place > reset.before
            before_entering = place // EPOCH != entered or place <= reset.after
            if after_leaving and before_entering and place // EPOCH in (left, entered):
                return True
        return False


def silent_gaps(followers: Iterable[Follower]) -> list[tuple[int, int]]:
    """The events that somebody neither got nor was told of: the number of the client, and the place."""
    return [
        (number, place)
        for number, follower in enumerate(followers)
        for place in sorted(follower.channel.acknowledged.keys() - follower.had())
        if not follower.was_told_of(place)
    ]


# --- Who stays ------------------------------------------------------------------------


class Reader:
    """A client for one connection that keeps what it gets; to be used with `async with`."""

    def __init__(self, port: int, path: str, cursor: str = "") -> None:
        self.blocks: list[Block] = []
        self.connection: Connection
        self._asks = (port, path, cursor)
        self._rest = b""
        self._more = asyncio.Event()

    async def until(self, count: int) -> list[Block]:
        """Wait until there are so many blocks, or the stream has ended."""
        self.connection.over.add_done_callback(lambda _: self._more.set())
        while len(self.blocks) < count and not self.connection.over.done():
            self._more.clear()
            await self._more.wait()
        if self.connection.over.done():
            self.connection.over.result()
        return self.blocks

    def _take(self, body: bytes) -> None:
        *blocks, self._rest = (self._rest + body).split(END)
        self.blocks += map(read_block, blocks)
        self._more.set()

    async def __aenter__(self) -> Self:
        self.connection = await connect(self._take, *self._asks)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.leave()


class Listener:
    """
    A client that stays, and reads whatever comes at once.

    Whoever is ahead writes the script, and all others are held to it; the script is read when all
    is over, so that many clients leave the machine time for the server.
    """

    def __init__(self, script: bytearray) -> None:
        self.place = 0
        self.faults: list[str] = []
        self._script = script

    def take(self, body: bytes) -> None:
        text = self._script
        place, self.place = self.place, self.place + len(body)
        if text[place : self.place] != body[: len(text) - place]:
            self.faults.append(f"at {place} came {body[:200]!r}")
        if self.place > len(text):
            text += body[len(text) - self.place :]
