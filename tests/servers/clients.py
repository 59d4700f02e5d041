"""Clients of one channel that many processes serve: strict about every id, whatever its epoch.

A `Client` comes back as `EventSource` does, to whichever process it's led to. The next event it takes
must be the next offset of the same epoch, or it has been told (`reset`). What it has been told is kept,
to be compared in the end with what the publishers know.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.servers.crowd import END, LONGEST, Connection, read_block

EPOCH = 10**9
"""A place in the histories of a channel is one number: that of the epoch times this, and the offset."""


@dataclass(frozen=True)
class Reset:
    """What a client was told: why, and from which place to which it went."""

    reason: str
    before: int
    after: int


class Channel:
    """What all clients of a channel know together."""

    def __init__(self, port: int, name: str, *, away: float = 0.3) -> None:
        """
        Know nothing yet.

        Args:
            port: whom they ask.
            name: the name of the channel.
            away: the longest time, in seconds, until somebody comes back.
        """
        self.port = port
        self.name = name
        self.away = away
        self.random = random.Random(20)
        self.events: dict[int, tuple[str, int]] = {}
        """What is at each place: whose event, and which of them."""
        self.acknowledged: dict[int, tuple[str, int]] = {}
        """The same, as publishers know it."""
        self.faults: list[str] = []
        self.goal: int | None = None
        """Where the history ends: who has got so far has everything."""
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

    def saw(self, raw: bytes, place: int, publisher: str, number: int) -> None:
        """Somebody is the first to read this."""
        if self.events.setdefault(place, (publisher, number)) != (publisher, number):
            self.faults.append(f"{raw!r} has the id that {self.events[place]} had")
        self.known[raw] = place


class Client:
    """One client; see above."""

    def __init__(
        self, channel: Channel, *, stalls_at: int | None = None, first_port: int | None = None
    ) -> None:
        """
        Begin nowhere.

        Args:
            channel: what it follows.
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
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Follow the channel until the goal is reached."""
        self._loop = loop = asyncio.get_running_loop()
        channel = self.channel
        while not self._done():
            self._rest = b""
            self._connection = connection = Connection(self._take)
            self.connections += 1
            with socket.socket() as made:
                if self._stalls_at is not None:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                made.setblocking(False)
                await loop.sock_connect(made, ("127.0.0.1", self._port))
                self._port = channel.port
                self._transport, _ = await loop.create_connection(
                    lambda: connection,  # noqa: B023  (called at once)
                    sock=made.dup(),
                )
            resume = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
            head = f"GET /stream/{channel.name} HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n"
            self._transport.write(head.encode())
            await connection.over
            if connection.status not in (0, 200):
                # For this an EventSource gives up for ever.
                self.faults.append(f"status {connection.status}")
                break
            if connection.completed and self._rest:
                self.faults.append(f"the body ended in mid-event: {self._rest[:200]!r}")
            if not self._done():
                await asyncio.sleep(channel.random.uniform(0, channel.away))
        self._end_stretch()

    def read_on(self) -> None:
        """Don't stall any more; any thread may call this."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        self._stalls_at = None
        if self.stalled and self._transport is not None:
            self.stalled = False
            self._transport.resume_reading()

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
            assert self._transport is not None
            self.stalled = True
            self._transport.pause_reading()
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
        elif block.kind == "message" and place == self.place + 1 > 0:
            fields = block.fields
            self.channel.saw(raw, place, fields["publisher"], fields["number"])
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


def silent_gaps(clients: Iterable[Client]) -> list[tuple[int, int]]:
    """The events that somebody neither got nor was told of: the number of the client, and the place."""
    return [
        (number, place)
        for number, client in enumerate(clients)
        for place in sorted(client.channel.acknowledged.keys() - client.had())
        if not client.was_told_of(place)
    ]
