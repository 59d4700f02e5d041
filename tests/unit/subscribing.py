"""What the tests of channels and subscriptions share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
from starlette.requests import HTTPConnection
from tests.unit.driving import (
    Exchange,
    http_scope,
)
from tests.unit.following import (
    Client,
    opened,
)

from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, Subscription, state_of
from sse_starlette.event import ServerSentEvent


def reading(exchange: Exchange) -> Client:
    client = Client()
    client.read(exchange.body)
    return client


def asking(header: str = "", **query: str) -> HTTPConnection:
    headers = [(b"last-event-id", header.encode())] if header else []
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return HTTPConnection(http_scope(headers=headers, query_string=text.encode()))


class MadeUpError(Exception):
    pass


async def note(subscription: Subscription, data: list[str]) -> None:
    """Iterate, so that others see at any time what has come."""
    async for event in subscription:
        data.append(event.data)  # noqa: PERF401


def even(event: ServerSentEvent) -> bool:
    return int(event.data) % 2 == 0


async def generated(*events: object) -> AsyncIterator[object]:
    for event in events:
        await anyio.lowlevel.checkpoint()
        yield event


def key(event: ServerSentEvent) -> object:
    return event.event


def publish(channel: Channel, *events: str) -> None:
    """Publish "a1" as event "a" with data "1"."""
    for event in events:
        channel.publish_nowait({"event": event[0], "data": event[1:]})


def both(*channels: Channel, asked: str | None = None, **options: Any) -> Subscription:
    """Subscribe to several channels, as `Hub.subscribe` does it."""
    return opened(Subscription(list(map(state_of, channels)), asked, SubscribeOptions(**options)))


async def allow(event: ServerSentEvent) -> bool:
    return True


class Promise:
    """What has to be awaited and is no coroutine, as a future is."""

    def __await__(self) -> Iterator[None]:
        raise NotImplementedError
