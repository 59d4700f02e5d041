"""A relay between the log and a real Redis spoils one answer: nothing is lost, and nothing doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from tests.eventlogs.stores import ON_ASYNCIO, followed
from tests.servers.redis_servers import RedisServer
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette import Hub, LogUnavailable
from sse_starlette.eventlogs.redis import RedisLog

pytestmark = [pytest.mark.anyio, ON_ASYNCIO]

SPOILS = ["late", "twice", "cut", "nonsense", "another type", "an error"]


class Relay:
    """Passes on what both say; the answer to one command is spoilt as often as the test says."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.spoils: list[str] = []
        self.command = b""
        self.spoilt = 0
        self.url = ""
        self._served: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served.append(asyncio.current_task())
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        asked = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(65_536):
                if self.spoils and self.command in data:
                    asked.set()
                to_server.write(data)
            to_server.close()

        async def back() -> None:
            while data := await from_server.read(65_536):
                if asked.is_set() and self.spoils:
                    asked.clear()
                    self.spoilt += 1
                    match self.spoils.pop(0):
                        case "late":
                            await asyncio.sleep(0.6)
                        case "twice":
                            data += data
                        case "cut":
                            writer.write(data[: len(data) // 2])
                            break
                        case "nonsense":
                            data = b"HTTP/1.1 400 Bad Request\r\n\r\n"
                        case "another type":
                            data = b":5\r\n"
                        case _:
                            data = b"-ERR made up\r\n"
                writer.write(data)
            writer.close()

        with suppress(OSError):
            await asyncio.gather(there(), back())
        for each in (writer, to_server):
            each.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        listening = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        try:
            yield
        finally:
            listening.close()
            await asyncio.wait([each for each in self._served if each is not None])


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("command", [b"EVALSHA", b"HMGET", b"SUBSCRIBE"])
async def test_a_spoilt_answer_loses_and_doubles_nothing(
    empty_server: RedisServer, command: bytes, spoil: str
) -> None:
    relay = Relay(empty_server.port)
    async with relay.running():
        hub = Hub(RedisLog(relay.url, timeout=0.3), check_every=0.05)
        async with hub.lifespan():
            channel = hub.channel("c")

            async def publish(text: str) -> None:
                while True:
                    with suppress(LogUnavailable):
                        await channel.publish(text, key=text)
                        return

            async with followed(channel) as client:
                relay.command, relay.spoils = command, [spoil]
                if command == b"SUBSCRIBE":
                    hub.channel("d").subscribe()
                for text in (*"0123456789", "last"):
                    await publish(text)
                    await anyio.sleep(0.02)
                await client.until("last")
                with anyio.fail_after(SEAT_BELT_SECONDS):
                    while not await hub.ready():  # noqa: ASYNC110  (there is nothing to wait for)
                        await anyio.sleep(0.02)

    assert relay.spoilt == 1
    assert client.data == ["first", *"0123456789", "last"]
