"""Twenty endpoints of FastAPI that stream, each written in another way, and their pages of documentation."""

# No `from __future__ import annotations`: FastAPI reads these annotations.

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import Annotated, Any

import fastapi.sse
from fastapi import BackgroundTasks, Depends, Header, HTTPException, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

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
    openapi_with_streams,
)


class Item(BaseModel):
    name: str
    price: float = Field(serialization_alias="amount")


class Question(BaseModel):
    text: str


class Tick(ServerSentEvent[Item], event="tick"):
    """A price has changed."""


class Done(ServerSentEvent[str], event="done"):
    """No more will come."""


ITEM = Item(name="lamp", price=1.5)
app = FastAPI(title="Streams", docs_url=None)
router = APIRouter(prefix="/more", tags=["router"])
given = fastapi.APIRouter(route_class=EventSourceRoute)
sub = FastAPI(title="Sub-application", docs_url=None)
hub = Hub()
notes: list[str] = []

prices = hub.channel("prices", type=Item)
prices.publish_nowait(ITEM)
prices.publish_nowait(sse_starlette.ServerSentEvent(ITEM, event="tick"))
prices.close()


async def held() -> AsyncIterator[str]:
    notes.append("opened")
    try:
        yield "held"
    finally:
        notes.append("closed")


def user(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user is None:
        raise HTTPException(401)
    return x_user


def room(name: str, user: Annotated[str, Depends(user)]) -> Channel[Item]:
    if user != "ada":
        raise HTTPException(403)
    return prices


@app.get("/items", response_class=EventSourceResponse)
async def items() -> AsyncIterable[Item]:
    yield ITEM


@app.get("/sync", response_class=EventSourceResponse)
def sync() -> Iterable[Item]:
    yield ITEM


@app.get("/untyped", response_class=EventSourceResponse)
async def untyped():  # type: ignore[no-untyped-def]  # noqa: ANN201
    yield {"a": [1, None]}
    yield "text"


@app.get("/events", response_class=EventSourceResponse)
async def events() -> AsyncIterable[Tick | Done]:
    """A union of events, by their names."""
    yield Tick(ITEM, id=1)
    yield Done("over")


@app.get("/generic", response_class=EventSourceResponse)
async def generic() -> AsyncIterable[ServerSentEvent[Item]]:
    yield ServerSentEvent(comment="what follows")
    yield ServerSentEvent(ITEM, event="item", retry=60_000)


@app.get("/raw", response_class=EventSourceResponse)
async def raw() -> AsyncIterable[ServerSentEvent]:
    yield ServerSentEvent(raw_data="<b>raw</b>\nline")


@app.post("/chat", response_class=EventSourceResponse)
async def chat(question: Question) -> AsyncIterable[ServerSentEvent[str]]:
    for word in question.text.split():
        yield ServerSentEvent(word, event="token")


@app.get("/dependency", response_class=EventSourceResponse)
async def dependency(it: Annotated[str, Depends(held)]) -> AsyncIterable[str]:
    yield f"{it}, {notes[-1]}"


@app.get("/function-scope", response_class=EventSourceResponse)
async def function_scope(
    it: Annotated[str, Depends(held, scope="function")],
) -> AsyncIterable[str]:
    yield f"{it}, {notes[-1]}"


@app.get("/refused/{number}", response_class=EventSourceResponse)
async def refused(number: int) -> AsyncIterable[int]:
    if number:
        raise HTTPException(404, "no such number")
    yield number


@app.get("/background", response_class=EventSourceResponse)
async def background(tasks: BackgroundTasks) -> AsyncIterable[int]:
    tasks.add_task(notes.append, "background")
    yield 1


@app.get("/headers", response_class=EventSourceResponse, status_code=200)
async def headers(response: Response, request: Request) -> AsyncIterable[str]:
    yield request.method


@app.get("/resume", response_class=EventSourceResponse)
async def resume(last_event_id: LastEventID) -> AsyncIterable[ServerSentEvent[int]]:
    for number in range(int(last_event_id or 0) + 1, 4):
        yield ServerSentEvent(number, id=number)


@app.get("/channel", response_class=EventSourceResponse)
async def channel(
    subscription: Annotated[Subscription[Item], Subscribe(prices, after="start")],
) -> Subscription[Item]:
    return subscription


@app.get("/rooms/{name}", response_class=EventSourceResponse)
async def rooms(
    subscription: Annotated[Subscription[Item], Subscribe(room, after="start")],
) -> Subscription[Item]:
    return subscription


@app.get("/iterated", response_class=EventSourceResponse)
async def iterated(
    subscription: Annotated[Subscription[Item], Subscribe(prices, after="start")],
) -> AsyncIterable[sse_starlette.ServerSentEvent[Item]]:
    async for event in subscription:
        yield event


@app.get("/returned", response_class=EventSourceResponse)
async def returned() -> EventSourceResponse:
    return EventSourceResponse([1, "two"], headers={"X-A": "b"})


@app.get("/options", response_class=EventSourceResponse.with_options(ping=1, sep="\n"))
async def options(many: Annotated[int, Query(ge=1)] = 2) -> AsyncIterable[int]:
    for number in range(many):
        yield number


@app.get("/fastapi", response_class=fastapi.sse.EventSourceResponse)
async def theirs() -> AsyncIterable[fastapi.sse.ServerSentEvent]:
    yield fastapi.sse.ServerSentEvent(data="theirs", event="e")


@router.get("/items", response_class=EventSourceResponse)
async def more() -> AsyncIterable[Item | int]:
    yield ITEM
    yield 5


@given.get("/given", response_class=EventSourceResponse)
def on_a_router_of_fastapi() -> Iterable[int]:
    yield 1


@sub.get("/items", response_class=EventSourceResponse)
async def below() -> AsyncIterable[Item]:
    yield ITEM


@app.get("/notes", include_in_schema=False)
async def noted() -> list[str]:
    return notes


@app.get("/openapi-3.2.json", include_in_schema=False)
async def openapi_3_2() -> dict[str, Any]:
    return openapi_with_streams({**app.openapi(), "openapi": "3.2.0"})


@app.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Streams",
        swagger_js_url="/swagger/swagger-ui-bundle.js",
        swagger_css_url="/swagger/swagger-ui.css",
        swagger_favicon_url="/swagger/favicon-32x32.png",
    )


app.include_router(router)
app.include_router(given)
app.mount("/sub", sub)
modules = Path(__file__).resolve().parents[2] / "node" / "node_modules"
app.mount("/swagger", StaticFiles(directory=modules / "swagger-ui-dist", check_dir=False))
