"""Endpoints of FastAPI as applications write them."""

from collections.abc import AsyncIterable, Iterable
from typing import Annotated, assert_type

import fastapi
from fastapi import Depends, HTTPException, Request, Response
from pydantic import BaseModel

import sse_starlette
from sse_starlette import Channel, Hub, Subscription
from sse_starlette.fastapi import (
    APIRouter,
    EventSourceResponse,
    EventSourceRoute,
    FastAPI,
    LastEventID,
    ServerSentEvent,
    Subscribe,
)

app = FastAPI(title="Prices", lifespan=Hub().lifespan)
router = APIRouter(prefix="/more", tags=["more"])
given = fastapi.APIRouter(route_class=EventSourceRoute)
hub = Hub()


class Price(BaseModel):
    amount: float


class Tick(ServerSentEvent[Price], event="tick"):
    pass


class Done(ServerSentEvent[str], event="done"):
    pass


prices = hub.channel("prices", type=Price)
Patient = EventSourceResponse.with_options(ping=5, send_timeout=30)
app.include_router(router)
app.include_router(given, prefix="/given")


@app.get("/items", response_class=EventSourceResponse)
async def items() -> AsyncIterable[Price]:
    yield Price(amount=1)
    yield "text"  # type: ignore[misc]  # pyright: ignore[reportReturnType]


@router.get("/sync", response_class=Patient)
def sync() -> Iterable[Price]:
    yield Price(amount=1)


@app.get("/events", response_class=EventSourceResponse)
async def events(last_event_id: LastEventID, request: Request) -> AsyncIterable[Tick | Done]:
    assert_type(last_event_id, str | None)
    yield Tick(Price(amount=1), id=last_event_id)
    yield Done("over")
    yield Tick("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield Done(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yield ServerSentEvent(5)  # type: ignore[misc]  # pyright: ignore[reportReturnType]


@app.post("/generic", response_class=EventSourceResponse)
async def generic(price: Price) -> AsyncIterable[ServerSentEvent[Price]]:
    yield ServerSentEvent(comment="c")
    yield ServerSentEvent(data=price, event="price")
    yield Tick(price)
    yield ServerSentEvent(raw_data="[DONE]")
    yield Done("over")  # type: ignore[misc]  # pyright: ignore[reportReturnType]


def room(name: str) -> Channel[Price]:
    if not name:
        raise HTTPException(404)
    return hub.channel(name)


@app.get("/channel", response_class=EventSourceResponse)
async def channel(
    subscription: Annotated[Subscription[Price], Subscribe(prices, replay=5)], response: Response
) -> Subscription[Price]:
    response.headers["X-Room"] = "one"
    return subscription


@app.get("/rooms/{name}", response_class=EventSourceResponse)
async def iterated(
    subscription: Annotated[Subscription[Price], Subscribe(room)],
    found: Annotated[Channel[Price], Depends(room)],
) -> AsyncIterable[sse_starlette.ServerSentEvent[Price]]:
    await found.publish(Price(amount=1))
    async for event in subscription:
        yield event


@app.get("/returned")
async def returned() -> EventSourceResponse:
    return EventSourceResponse(items(), ping=5, headers={"X-A": "b"})


def wrong() -> None:
    EventSourceResponse.with_options(pings=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    EventSourceResponse.with_options(ping="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventSourceResponse(items(), ping="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Subscribe("prices")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FastAPI(titel="Prices")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    APIRouter(prefix=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
