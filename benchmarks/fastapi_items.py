"""What an event of a typed endpoint costs here and with `fastapi.sse`: `python -m benchmarks.fastapi_items`."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Any

import fastapi
import fastapi.sse
from pydantic import BaseModel

import sse_starlette.fastapi

EVENTS, ROUNDS = 6_000, 5


class Item(BaseModel):
    """Some text, a number and a list."""

    name: str
    price: float
    tags: list[str]


ITEM = Item(name="Plumbus", price=32.99, tags=["a", "b"])


def app_of(which: str, shape: str) -> Any:
    """Return the application that sends `EVENTS` items, or events with one each as data."""
    ours = sse_starlette.fastapi
    event: Any = ours.ServerSentEvent if which == "ours" else fastapi.sse.ServerSentEvent
    streamed: Any = ours.EventSourceResponse if which == "ours" else fastapi.sse.EventSourceResponse
    annotated = event[Item] if which == "ours" else event
    app: fastapi.FastAPI = ours.FastAPI() if which == "ours" else fastapi.FastAPI()
    if shape == "items":

        @app.get("/", response_class=streamed)
        async def items() -> AsyncIterable[Item]:
            for _ in range(EVENTS):
                yield ITEM
    else:

        @app.get("/", response_class=streamed)
        async def events() -> AsyncIterable[annotated]:  # type: ignore[valid-type]
            for number in range(EVENTS):
                yield event(data=ITEM, event="item", id=str(number))

    return app


async def seconds(app: Any) -> float:
    """Processor time of one stream, without a server."""
    sent = 0

    async def receive() -> dict[str, Any]:
        if sent == 0:
            return {"type": "http.request"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += message.get("body", b"").count(b"data: ")

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "asgi": {"version": "3.0", "spec_version": "2.4"},
    }
    start = time.process_time()
    await app(scope, receive, send)
    assert sent == EVENTS
    return time.process_time() - start


def main() -> None:
    """Measure both by turns, and print the best of each."""
    for shape in ("items", "events"):
        best = dict.fromkeys(("theirs", "ours"), float("inf"))
        for _ in range(ROUNDS):
            for which in best:
                took = asyncio.run(seconds(app_of(which, shape)))
                best[which] = min(best[which], took / EVENTS * 1e6)
        theirs, ours = best.values()
        print(
            f"{shape}: fastapi.sse {theirs:.1f} µs, here {ours:.1f} µs: {theirs / ours:.1f} times"
        )


if __name__ == "__main__":
    main()
