"""
A client of an ASGI application, in memory and on asyncio.

It imports nothing of this package, because the tests here run on sse-starlette 3.7.0 as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

SEAT_BELT_SECONDS = 60
"""Nothing here takes as long, however busy the machine is."""


class Client:
    """Calls `app` in a task of its own and notes what it sends, from `async with` on."""

    def __init__(
        self,
        app: App,
        *,
        method: str = "GET",
        kind: str = "http",
        blocks_at: bytes | None = None,
        breaks: bool = False,
    ) -> None:
        self._app = app
        self._scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": "/",
            "raw_path": b"/",
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        self._blocks_at = blocks_at
        self._breaks = breaks
        self._asked = False
        self._left = asyncio.Event()
        self._sent = asyncio.Event()
        self.messages: list[Message] = []

    async def __aenter__(self) -> Self:
        self.task = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._blocks_at is not None and self._blocks_at in message.get("body", b""):
            await asyncio.Event().wait()
        if self._breaks and message["type"] == "http.response.body":
            raise OSError("connection reset")
        self.messages.append(message)
        self._sent.set()
        # A server's `send` lets others have their turn.
        await asyncio.sleep(0)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def is_complete(self) -> bool:
        """Whether the body's end was sent."""
        return len(self.messages) > 1 and not self.messages[-1].get("more_body", False)

    async def until(self, wanted: bytes, times: int = 1) -> None:
        """Wait until the body holds something so many times."""
        async with asyncio.timeout(SEAT_BELT_SECONDS):
            while self.body.count(wanted) < times:
                assert not self.task.done(), f"the response ended after {self.body!r}"
                self._sent.clear()
                sent = asyncio.ensure_future(self._sent.wait())
                await asyncio.wait({sent, self.task}, return_when=asyncio.FIRST_COMPLETED)
                sent.cancel()

    def leave(self) -> None:
        self._left.set()

    async def end(self) -> bytes:
        """Wait for the response's end; raise what it raises, return the whole body."""
        async with asyncio.timeout(SEAT_BELT_SECONDS):
            await asyncio.shield(self.task)
        return self.body


async def body_of(app: App, *, method: str = "GET") -> bytes:
    """Return the whole body of a response that ends by itself."""
    async with Client(app, method=method) as client:
        return await client.end()
