"""The cable between a browser and a server: it can be pulled, and it breaks at any byte.

A relay in a thread of its own, since playwright keeps the test's. It listens on several ports,
because a browser opens no more than six connections to one origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Cable:
    """Passes connections on to a server until told otherwise."""

    def __init__(self, port: int, breaks: Mapping[int, list[int]]) -> None:
        """For the client of each number `breaks` has the bytes of bodies after which a connection breaks."""
        self.origins: list[str] = []
        self.broken = 0
        """How many connections broke by themselves."""
        self.passed_on = b""
        """The first bytes that the server said on the newest connection."""
        self._port = port
        self._breaks = {number: list(bytes_) for number, bytes_ in breaks.items()}
        self._plugged = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def pull(self) -> None:
        """End all connections, and every new one at once, until `plug` is called."""
        self._do(self._pull())

    def plug(self) -> None:
        self._plugged = True

    @property
    def breaks_left(self) -> int:
        return sum(map(len, self._breaks.values()))

    async def _pull(self) -> None:
        self._plugged = False
        for writer in list(self._writers):
            writer.close()

    async def _listen(self, origins: int) -> list[asyncio.Server]:
        servers = [
            await asyncio.start_server(self._pass_on, "127.0.0.1", 0) for _ in range(origins)
        ]
        self.origins = [f"http://127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in servers]
        return servers

    async def _pass_on(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        if not self._plugged:
            to_client.close()
            return
        try:
            head = await from_client.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            to_client.close()  # A connection that the browser opened for later.
            return
        number = re.search(rb"client=(\d+)", head)
        breaks = self._breaks.get(int(number[1]), []) if number else []
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        # A cable holds little: what is under way is lost when it breaks.
        near: socket.socket = to_client.get_extra_info("socket")
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        ends = {to_client, to_server}
        self._writers |= ends
        to_server.write(head)
        up = asyncio.create_task(self._copy(from_client, to_server))
        try:
            await self._copy_until_it_breaks(from_server, to_client, breaks)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            up.cancel()
            self._writers -= ends
            for end in ends:
                end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _copy_until_it_breaks(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, breaks: list[int]
    ) -> None:
        # Not in the headers: Chromium takes those that end early for complete ones, misses the
        # content type, and closes the EventSource for good.
        writer.write(await reader.readuntil(b"\r\n\r\n"))
        self.passed_on = b""
        while data := await reader.read(65536):
            if breaks and len(data) >= breaks[0]:
                writer.write(data[: breaks.pop(0)])
                self.broken += 1
                if self.broken % 2:
                    writer.transport.abort()
                return
            if breaks:
                breaks[0] -= len(data)
            writer.write(data)
            await writer.drain()
            if len(self.passed_on) < 4096:
                self.passed_on += data

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=90)

    @contextlib.contextmanager
    def laid(self, origins: int) -> Iterator[None]:
        """Listen on so many ports."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        servers: list[asyncio.Server] = []
        try:
            servers = self._do(self._listen(origins))
            yield
        finally:
            self._do(self._end(servers))
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(20)
            self._loop.close()

    async def _end(self, servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        await self._pull()
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110  (they are the streams module's own)
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def cable(
    port: int, *, origins: int = 1, breaks: Mapping[int, list[int]] | None = None
) -> Iterator[Cable]:
    """Lay a cable to the server at `port`."""
    made = Cable(port, breaks or {})
    with made.laid(origins):
        yield made
