"""Clients of all manners: they read, leave, break off, stop reading, come back, and check what they get."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections import Counter
from contextlib import suppress

_ID = re.compile(rb"^id: (\w+)\.(\d+)\r?$", re.MULTILINE)
MANNERS = {
    "reads": 56,
    "comes back": 12,
    "breaks off": 10,
    "leaves at once": 10,
    "asks for the headers": 5,
    "stops reading": 4,
    "asks half": 3,
}
"""What clients do, and how often."""


class Crowd:
    """So many clients at a time, each replaced by another when it leaves."""

    def __init__(self, port: int, *, seed: int, stay_seconds: float) -> None:
        """
        Be nobody yet.

        Args:
            port: of the server.
            seed: of what clients do.
            stay_seconds: how long a reader stays, on average.
        """
        self.rolls = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """What a client has seen that mustn't be."""
        self._port = port
        self._stay = stay_seconds
        self._opening = asyncio.Semaphore(200)

    async def visit(self, number: int, until: asyncio.Event, visits: int | None = None) -> None:
        """Be one client after the other, until the event is set, or so many."""
        while not until.is_set() and visits != 0:
            manner = self.rolls.choices(list(MANNERS), list(MANNERS.values()))[0]
            self.counts[manner] += 1
            try:
                await self._be(manner, number, until)
            except OSError:
                self.counts["connection refused or reset"] += 1
                await asyncio.sleep(self.rolls.random())
            if visits is not None:
                visits -= 1

    async def _be(self, manner: str, number: int, until: asyncio.Event) -> None:
        path = self.rolls.choice(["/channel", "/channel", "/source"])
        if manner == "comes back":
            last_id = await self._read("/channel", number, until, b"")
            if last_id and not until.is_set():
                await self._read("/channel", number, until, last_id)
        elif manner == "reads":
            await self._read(path, number, until, b"")
        else:
            await self._misbehave(manner, path, number, until)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._opening:
            return await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)

    def _request(self, path: str, number: int, last_id: bytes = b"", method: str = "GET") -> bytes:
        resume = b"Last-Event-ID: " + last_id + b"\r\n" if last_id else b""
        line = f"{method} {path}?who=client-{number} HTTP/1.1\r\nHost: localhost\r\n".encode()
        return line + resume + b"Connection: close\r\n\r\n"

    async def _read(self, path: str, number: int, until: asyncio.Event, last_id: bytes) -> bytes:
        reader, writer = await self._open()
        loop = asyncio.get_running_loop()
        leaves_at = loop.time() + self.rolls.expovariate(1 / self._stay)
        rest = b""
        try:
            writer.write(self._request(path, number, last_id))
            while not until.is_set() and (left := leaves_at - loop.time()) > 0:
                try:
                    async with asyncio.timeout(min(left, 1.0)):
                        chunk = await reader.read(65_536)
                except TimeoutError:
                    continue
                if not chunk:
                    self.counts["ended by the server"] += 1
                    break
                self.counts["bytes"] += len(chunk)
                if path == "/channel":
                    lines, _, rest = (rest + chunk).rpartition(b"\n\r\n")
                    last_id = self._check(lines, last_id)
        finally:
            writer.close()
        return last_id

    def _check(self, text: bytes, last_id: bytes) -> bytes:
        """The next event is the next offset of the same history, unless the client has been told."""
        for block in text.split(b"\r\n\r\n"):
            found = _ID.search(block)
            if found is None:
                continue
            if last_id and b"event: reset" not in block and b"data: " in block:
                epoch, _, offset = last_id.rpartition(b".")
                if found[1] != epoch or int(found[2]) != int(offset) + 1:
                    self.wrong.append(f"after {last_id!r} came {found[0]!r}")
                self.counts["events in their order"] += 1
            last_id = found[1] + b"." + found[2]
        return last_id

    async def _misbehave(self, manner: str, path: str, number: int, until: asyncio.Event) -> None:
        reader, writer = await self._open()
        try:
            if manner == "asks half":
                writer.write(self._request(path, number)[:20])
            elif manner == "asks for the headers":
                writer.write(self._request(path, number, method="HEAD"))
                await reader.read()
            elif manner == "leaves at once":
                writer.write(self._request(path, number))
            else:
                if manner == "stops reading":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                    writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(self._request(path, number))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.rolls.expovariate(1 / self._stay)):
                        await until.wait()
                if manner == "breaks off":
                    linger = struct.pack("ii", 1, 0)
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
        finally:
            writer.close()
