"""A stream that the test feeds by hand, on a loop whose clock stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.driving import HandFeed, StillLoop

from sse_starlette._stream.options import StreamOptions
from sse_starlette._stream.run import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Message, Receive, Scope, Send

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PING = b": ping\n\n"
FAREWELL = b"event: farewell\n\n"
SORRY = b"data: sorry\n\n"


class MadeUpError(Exception):
    pass


def failing_at(number: int, failure: Exception) -> Callable[[Message], Awaitable[None]]:
    """Let the send with this number, from 0, fail."""
    sends = 0

    async def on_send(message: Message) -> None:
        nonlocal sends
        sends += 1
        if sends == number + 1:
            raise failure

    return on_send


async def sorry(failure: Exception) -> bytes:
    return SORRY


class Run:
    """One run of a response, as an ASGI app. If nothing else is said: no pings, no time limits."""

    stream: Stream

    def __init__(self, *frames: bytes, head: bool = False, **options: Any) -> None:
        self.feed = HandFeed(*frames)
        self.loop = StillLoop()
        self.told = 0
        """How often the source has been told that the stream is to end."""
        self._head = head
        self._options: dict[str, Any] = {
            "ping_interval": 0,
            "ping_message_factory": lambda: PING,
            "shutdown_event": self,
            "farewell": FAREWELL,
            "cleanup_timeout": None,
            "start_alone": True,
            **options,
        }

    def set(self) -> None:
        """Be the event that tells the source."""
        self.told += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A message of its own: what is sent may be written to by whoever takes it.
        options = StreamOptions(**self._options)
        self.stream = Stream(self.feed, self.loop, receive, send, dict(START), options)
        await self.stream.run(head=self._head)

    def drain(
        self, delay: float = 0.0, grace: float | None = None, *, automatic: bool = False
    ) -> None:
        self.stream.drain(delay, grace, automatic=automatic)
