"""Clients by the hundred on bare sockets in this process, strict about what they read.

`Follower`s come back as `EventSource` does, with the id of the last event that was complete, and
are cut off at the byte, wherever that is in a frame. `Listener`s stay, and compare what they get
byte by byte. Both keep no more than one unfinished event each.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httptools
from tests.servers.serving import Server, get
from tests.unit.parsers import read_by_the_standard

END = b"\r\n\r\n"
LONGEST = 64 * 1024
"""No event of the tests has more bytes: without an end by then, a stream is out of order."""


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
    offset: int
    fields: Any


def read_block(raw: bytes) -> Block:
    """Read one block to the letter of the standard; what a sound channel never sends is an error."""
    reading = read_by_the_standard([raw + END])
    names = [name for name, _ in reading.lines]
    assert reading.blocks == 1, raw
    assert len(set(names)) == len(names), f"a field twice: {raw!r}"
    assert set(names) <= {"id", "event", "data", "retry"}, raw
    if not reading.fired:
        return Block("cursor" if "id" in names else "setting", *position(reading.last_event_id), {})
    (fired,) = reading.fired
    return Block(fired.type, *position(fired.last_event_id), json.loads(fired.data))


def position(event_id: str) -> tuple[str, int]:
    return event_id, int(event_id.partition(".")[2] or -1)


class Crowd:
    """What the clients of one channel have in common."""

    def __init__(self, host: str, port: int, path: str, *, goal: int, seed: int = 20) -> None:
        """With the event `goal` a client has got all it came for."""
        self.host, self.port, self.path, self.goal = host, port, path, goal
        self.random = random.Random(seed)
        self.offsets: dict[bytes, int] = {}
        """Of blocks that were read before, by anyone: most blocks come to every client."""

    async def connect(self, connection: Connection, cursor: str) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: connection, self.host, self.port)
        resume = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        head = f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\nAccept: text/event-stream\r\n"
        transport.write(f"{head}{resume}\r\n".encode())


class Connection(asyncio.Protocol):
    """One connection of a client: takes the response apart, and ends when the bytes run out."""

    def __init__(self, take: Callable[[bytes], None], budget: float = float("inf")) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.completed = False
        self.cut = False
        self.left = False
        self._take = take
        self._budget = budget
        self._response = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

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
        assert self._transport is not None
        self.left = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self.cut or self.left:
            return
        try:
            if len(data) < self._budget:
                self._budget -= len(data)
                self._response.feed_data(data)
            else:
                self.cut = True
                self._response.feed_data(data[: int(self._budget)])
                self._crash()
        except Exception as failure:
            if not self.over.done():
                self.over.set_exception(failure)
            self._transport.abort()

    def limit(self, more_bytes: int) -> None:
        """Cut the connection after so many further bytes."""
        self._budget = more_bytes

    def _crash(self) -> None:
        """Break off, every other time with a TCP reset."""
        assert self._transport is not None
        connection: socket.socket = self._transport.get_extra_info("socket")
        if connection.fileno() % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class Follower:
    """A client that is cut off at the given bytes of its way, and comes back each time."""

    def __init__(self, crowd: Crowd, cuts: Sequence[int], *, away: float) -> None:
        """`cuts` are distances in bytes; `away` is the longest time until it comes back."""
        self.crowd = crowd
        self.cursor = ""
        self.offset = -1
        self.got = 0
        self.announced: dict[str, int] = {}
        """How often it was told of a gap, by reason."""
        self.missed = 0
        """The events in these gaps."""
        self.cuts_in_mid_block = 0
        self.cuts_left = list(cuts)
        self.resumed = 0
        self.faults: list[str] = []
        self.began = asyncio.Event()
        """Set when it has its first cursor."""
        self._away = away
        self._rest = b""
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Follow the channel until the goal."""
        while self.offset < self.crowd.goal:
            self._rest = b""
            budget = self.cuts_left[0] if self.cuts_left and self.offset >= 0 else float("inf")
            self._connection = connection = Connection(self._take, budget)
            await self.crowd.connect(connection, self.cursor)
            self.resumed += self.cursor != ""
            await connection.over
            if connection.cut:
                self.cuts_left.pop(0)
                self.cuts_in_mid_block += self._rest != b""
            elif connection.status != 200 or not connection.left:
                self.faults.append(f"status {connection.status}, and the body was cut off")
                return
            elif self._rest and connection.completed:
                self.faults.append(f"the body ended in mid-event: {self._rest[:200]!r}")
            if self.offset < self.crowd.goal:
                await asyncio.sleep(self.crowd.random.uniform(0, self._away))

    def _take(self, body: bytes) -> None:
        rest = self._rest + body if self._rest else body
        *blocks, self._rest = rest.split(END)
        assert len(self._rest) < LONGEST
        offset = self.offset
        known = self.crowd.offsets
        for block in blocks:
            if known.get(block) == offset + 1 > 0:
                offset += 1
            else:
                self.got += offset - self.offset
                self.offset = offset
                self._take_other(block)
                offset = self.offset
        if offset != self.offset:
            self.got += offset - self.offset
            self.offset = offset
            self.cursor = f"{self.cursor.partition('.')[0]}.{offset}"
        if offset >= self.crowd.goal and self._connection is not None:
            self._connection.leave()

    def _take_other(self, raw: bytes) -> None:
        block = read_block(raw)
        match block.kind:
            case "message" if block.fields["number"] != block.offset:
                self.faults.append(f"{block.fields['number']} came as {block.id}")
            case "message":
                self.crowd.offsets[raw] = block.offset
                if self.offset < 0:
                    self.faults.append(f"no cursor before {block.id}")
                elif block.id.partition(".")[0] != self.cursor.partition(".")[0]:
                    self.faults.append(f"another epoch: {block.id} after {self.cursor}")
                elif block.offset != self.offset + 1:
                    self.faults.append(f"{block.id} after {self.offset}")
                self.got += 1
                self._go_on(block)
            case "cursor" if self.offset >= 0:
                self.faults.append(f"a cursor in the middle: {block.id} after {self.offset}")
            case "cursor":
                self._go_on(block)
                self.began.set()
                if self.cuts_left and self._connection is not None:
                    self._connection.limit(self.cuts_left[0])
            case "reset":
                reason = block.fields["reason"]
                self.announced[reason] = self.announced.get(reason, 0) + 1
                self.missed += block.offset - self.offset
                if block.fields["cursor"] != block.id or block.offset <= self.offset:
                    self.faults.append(f"{raw!r} after {self.offset}")
                self._go_on(block)
            case _:
                self.faults.append(f"unexpected: {raw!r}")

    def _go_on(self, block: Block) -> None:
        self.cursor, self.offset = block.id, block.offset


class Reader:
    """A client for one connection that keeps what it gets; to be used with `async with`."""

    def __init__(self, crowd: Crowd, cursor: str = "") -> None:
        self.blocks: list[Block] = []
        self.came: list[float] = []
        """When each block came."""
        self.connection = Connection(self._take)
        self._crowd = crowd
        self._cursor = cursor
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
        self.came += [time.monotonic()] * len(blocks)
        self._more.set()

    async def __aenter__(self) -> Self:
        await self._crowd.connect(self.connection, self._cursor)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.leave()


class Script:
    """The body that all `Listener`s who began together must get, byte by byte."""

    def __init__(self) -> None:
        self.text = bytearray()

    def blocks(self) -> list[tuple[int, Block]]:
        """Each block, with the place where it ends."""
        found: list[tuple[int, Block]] = []
        place = 0
        for raw in bytes(self.text).split(END)[:-1]:
            place += len(raw) + len(END)
            found.append((place, read_block(raw)))
        return found


class Listener:
    """
    A client that stays, and reads whatever comes at once.

    Whoever is ahead writes the script, and all others are held to it; the script is read when all
    is over, so that a thousand clients leave the machine time for the server.
    """

    def __init__(self, crowd: Crowd, script: Script, *, timed: bool) -> None:
        self.place = 0
        self.faults: list[str] = []
        self.arrivals: list[tuple[int, float]] = []
        """For those that are timed: the places that were reached, and when."""
        self._crowd = crowd
        self._script = script
        self._timed = timed
        self._connection: Connection | None = None

    async def connect(self) -> None:
        self._connection = connection = Connection(self._take)
        await self._crowd.connect(connection, "")

    def leave(self) -> None:
        if self._connection is not None and not self._connection.over.done():
            self._connection.leave()

    @property
    def gone(self) -> bool:
        """Whether its connection has ended."""
        return self._connection is None or self._connection.over.done()

    def _take(self, body: bytes) -> None:
        text = self._script.text
        place, self.place = self.place, self.place + len(body)
        if text[place : self.place] != body[: len(text) - place]:
            self.faults.append(f"at {place} came {body[:200]!r}")
        if self.place > len(text):
            text += body[len(text) - self.place :]
        if self._timed:
            self.arrivals.append((self.place, time.monotonic()))
