"""Channels as dependencies: where a client begins, what closes its subscription, and who may not have one."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

from collections.abc import AsyncIterable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, HTTPException, Request
from pydantic import BaseModel
from tests.unit.driving import drive, until
from tests.unit.fastapi_apps import app_of, ask, data, fired

from sse_starlette import Channel, Hub, ServerSentEvent, Subscription
from sse_starlette.fastapi import EventSourceResponse, FastAPI, LastEventID, Subscribe

pytestmark = pytest.mark.anyio


class Price(BaseModel):
    amount: float


def published(*amounts: float) -> Channel[Price]:
    channel: Channel[Price] = Hub().channel("prices", type=Price)
    for amount in amounts:
        channel.publish_nowait(Price(amount=amount))
    return channel


def app_with(channel: Any, **options: Any) -> FastAPI:
    async def stream(
        subscription: Annotated[Subscription[Price], Subscribe(channel, **options)],
    ) -> Subscription[Price]:
        return subscription

    return app_of(stream)


@pytest.mark.parametrize(
    ("query", "header", "amounts"),
    [
        ("", None, []),
        ("", "1", [2.0, 3.0]),
        ("?last_event_id={}.2", None, [3.0]),
        ("?last_event_id={}.2", "0", [1.0, 2.0, 3.0]),
    ],
)
async def test_a_client_goes_on_where_it_left_off(
    query: str, header: str | None, amounts: list[float]
) -> None:
    channel = published(1, 2, 3)
    channel.close()
    headers = {} if header is None else {"Last-Event-ID": f"{channel.epoch}.{header}"}

    response = await ask(app_with(channel), "/" + query.format(channel.epoch), headers=headers)

    assert response.status_code == (200 if amounts else 204)
    assert response.text.count("data: ") == len(amounts)
    for amount in amounts:
        assert f'data: {{"amount":{amount}}}' in response.text


async def test_options_are_those_of_a_subscription() -> None:
    channel = published(1, 2, 3)

    async with drive(app_with(channel, replay=2)) as exchange:
        await until(lambda: b"3.0" in exchange.body)

    assert exchange.body.count(b"data: ") == 2


async def test_a_subscription_is_closed_in_every_ending() -> None:
    channel = published()

    async with drive(app_with(channel)) as exchange:  # The client leaves.
        await until(lambda: exchange.body)
        assert channel.stats().subscribers == 1
    assert channel.stats().subscribers == 0

    def refuse(subscription: Annotated[Subscription[Price], Subscribe(channel)]) -> None:
        raise HTTPException(409)

    async def stream(it: Annotated[None, Depends(refuse)]) -> AsyncIterable[int]:
        yield 1

    assert (await ask(app_of(stream), "/")).status_code == 409
    assert channel.stats().subscribers == 0


async def test_who_may_not_listen_is_told_before_the_stream() -> None:
    hub = Hub()
    closed: list[str] = []

    def user(request: Request) -> Iterator[str]:
        if "authorization" not in request.headers:
            raise HTTPException(401)
        yield request.headers["authorization"]
        closed.append("user")

    async def room(name: str, user: Annotated[str, Depends(user)]) -> Channel[str]:
        if user != name:
            raise HTTPException(403, "another room")
        channel: Channel[str] = hub.channel(f"room-{name}")
        channel.publish_nowait("hello")
        channel.close()
        return channel

    app = FastAPI()

    @app.get("/rooms/{name}", response_class=EventSourceResponse)
    async def stream(
        messages: Annotated[Subscription[str], Subscribe(room, after="start")],
    ) -> Subscription[str]:
        return messages

    assert (await ask(app, "/rooms/a")).status_code == 401
    refused = await ask(app, "/rooms/a", headers={"Authorization": "b"})
    assert (refused.status_code, refused.json()) == (403, {"detail": "another room"})
    assert await data(app, "/rooms/a", headers={"Authorization": "a"}) == ["hello"]
    assert closed == ["user"]


async def test_a_dependency_may_subscribe_by_itself() -> None:
    hub = Hub()
    for name in ("a", "b"):
        hub.channel(name, linger=60).publish_nowait(name)
        hub.channel(name).close()

    def both(request: Request) -> Subscription:
        return hub.subscribe(["a", "b"], request, after="start", name_channels=True)

    assert [one.event for one in await fired(app_with(both), "/")] == ["a", "b"]


async def test_an_endpoint_may_yield_what_it_gets() -> None:
    channel = published(1, 2)
    channel.close()

    async def stream(
        subscription: Annotated[Subscription[Price], Subscribe(channel, after="start")],
    ) -> AsyncIterable[ServerSentEvent[Price]]:  # That of channels, not of FastAPI.
        async for event in subscription:
            yield event

    assert await data(app_of(stream), "/") == ['{"amount":1.0}', '{"amount":2.0}']


async def test_the_last_id_may_be_asked_for_alone() -> None:
    async def stream(last_event_id: LastEventID) -> AsyncIterable[str | None]:
        yield last_event_id

    app = app_of(stream)

    assert await data(app, "/") == ["null"]
    assert await data(app, "/?last_event_id=5") == ['"5"']
    assert await data(app, "/?last_event_id=5", headers={"Last-Event-ID": "6"}) == ['"6"']


@pytest.mark.parametrize("wrong", ["prices", None, Hub()])
def test_what_is_no_channel_is_refused_where_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r'Subscribe\(hub\.channel\("name"\)\)'):
        Subscribe(wrong)


def test_a_wrong_option_is_refused_where_it_is_given() -> None:
    with pytest.raises(ValueError, match="replay"):
        Subscribe(Hub().channel("c"), replay=-1)


async def test_a_dependency_that_returns_something_else_is_told_so() -> None:
    def prices() -> str:
        return "prices"

    with pytest.raises(TypeError, match=r"Subscribe\(prices\) needs a Channel"):
        await ask(app_with(prices), "/", raising=True)
