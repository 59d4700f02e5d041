"""What the tests of channels and subscriptions share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Barrier
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
from starlette.requests import HTTPConnection
from tests.unit.driving import SEAT_BELT_SECONDS, Exchange, drive, http_scope
from tests.unit.following import Client, opened, read

from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels.channel import Channel, Subscription, state_of
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

T = TypeVar("T")


def reading(exchange: Exchange) -> Client:
    client = Client()
    client.read(exchange.body)
    return client


@asynccontextmanager
async def streaming(subscription: Subscription, **options: Any) -> AsyncIterator[Exchange]:
    """Stream a subscription; the client has had its first block."""
    async with drive(EventSourceResponse(subscription, **options)) as client:
        await client.chunk(0)
        yield client


async def streamed(subscription: Subscription, **options: Any) -> Exchange:
    """Stream a subscription to its end."""
    async with drive(EventSourceResponse(subscription, **options)) as client:
        await client.returns()
    return client


async def fall_behind(channel: Channel) -> Exchange:
    """Be a client of a channel that reads nothing while four events are published, and is told."""
    async with streaming(channel.subscribe()) as client:
        client.block()
        for number in range(4):
            channel.publish_nowait(number)
        client.unblock()
        await client.until(lambda: client.over or b"reset" in client.body)
    return client


def data_of(subscription: Subscription) -> list[str]:
    """What a client gets that takes all that is ready."""
    return [one.data for one in read(opened(subscription))]


async def some_of(subscription: Subscription, count: int) -> list[str]:
    """Iterate for so many events, and close."""
    async with subscription:
        return [(await anext(subscription)).data for _ in range(count)]


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make each call in a thread of its own, all at the same time."""
    together = Barrier(len(calls))

    def make(call: Callable[[], T]) -> T:
        together.wait(SEAT_BELT_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


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
