"""Events, channels and responses as applications write them."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import assert_type

from starlette.requests import Request
from starlette.responses import Response

from sse_starlette import (
    Channel,
    EventSourceResponse,
    Hub,
    JSONServerSentEvent,
    ServerSentEvent,
    Subscription,
)


@dataclass
class Price:
    amount: float


@dataclass
class Discount(Price):
    rate: float


class Shouting(ServerSentEvent[str]):
    def encode(self) -> bytes:
        return self.data.upper().encode()


async def typed() -> AsyncIterator[ServerSentEvent[Price]]:
    yield ServerSentEvent(comment="what follows")
    yield ServerSentEvent(Price(1), event="price", id=1, retry=5_000)
    yield ServerSentEvent(Discount(1, 0.5))
    yield ServerSentEvent("text")  # type: ignore[arg-type]  # pyright: ignore[reportReturnType]


def untyped() -> Iterator[ServerSentEvent]:
    yield ServerSentEvent(1)
    yield JSONServerSentEvent({"a": 1})
    yield Shouting("text")


def fields() -> None:
    assert_type(ServerSentEvent("text"), ServerSentEvent[str])
    assert_type(ServerSentEvent(Price(1)).data, Price)
    ServerSentEvent(1, retry="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ServerSentEvent(1, evnt="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ServerSentEvent(1, "x")  # type: ignore[call-arg,misc,unused-ignore]  # pyright: ignore[reportCallIssue]


hub = Hub()
prices: Channel[Price] = hub.channel("prices")
checked = hub.channel("checked", type=Price)
anything = hub.channel("anything")
either: Channel[int | str] = hub.channel("either", type=int | str)


async def publish() -> None:
    assert_type(checked, Channel[Price])
    await prices.publish(Price(1))
    await prices.publish(Discount(1, 0.5), key="k")
    await checked.publish(ServerSentEvent(Price(1), event="price"))
    await anything.publish({"event": "price", "data": 1})
    await either.publish("text")
    prices.publish_nowait(Price(1))
    await prices.publish("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await prices.publish({"data": 1})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    checked.publish_nowait(ServerSentEvent("text"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    checked.publish_threadsafe(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await either.publish(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def endpoint(request: Request) -> Response:
    subscription: Subscription[Price] = prices.subscribe(request)
    other: Subscription[int] = prices.subscribe(request)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    async for event in subscription:
        assert_type(event, ServerSentEvent)
    return EventSourceResponse(other, ping=5)


def wrong_options() -> None:
    EventSourceResponse(typed(), ping="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventSourceResponse(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    hub.channel("prices", slow="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
