"""Orders out of a pretend database, streamed by FastAPI with a dependency.

Start it with `python fastapi_dependency.py`, then look at it:

    curl -N http://localhost:8000/orders/ada       # a stream of three orders
    curl -i http://localhost:8000/orders/mallory   # a plain 403: no stream begins
    curl http://localhost:8000/sessions            # how many sessions are open just now

The session comes from a dependency with `yield`. It stays open as long as the stream uses it, and
is given back when the stream has ended, also if the client leaves in the middle.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

from sse_starlette import EventSourceResponse, ServerSentEvent


class Order(BaseModel):
    """What a customer has ordered."""

    number: int
    item: str


class Session:
    """A session of a pretend database."""

    opened = 0
    closed = 0

    async def orders_of(self, customer: str) -> AsyncIterator[Order]:
        """Wait for the orders of a customer."""
        if customer != "ada":
            raise PermissionError(customer)
        for number, item in enumerate(["a lamp", "two chairs", "a table"], start=1):
            yield Order(number=number, item=item)
            await asyncio.sleep(0.5)


async def open_session() -> AsyncIterator[Session]:
    Session.opened += 1
    try:
        yield Session()
    finally:
        Session.closed += 1
        print("the session has been given back")


app = FastAPI()


@app.get("/orders/{customer}")
async def stream_orders(
    customer: str, session: Annotated[Session, Depends(open_session)]
) -> EventSourceResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            async for order in session.orders_of(customer):
                yield ServerSentEvent(order, event="order", id=order.number)
        except PermissionError:
            raise HTTPException(403, f"no access to the orders of {customer}") from None

    # The response waits for the first order, so that an error until then is an ordinary response.
    return EventSourceResponse(events(), first_event_timeout=5)


@app.get("/sessions")
async def count_sessions() -> dict[str, int]:
    return {"open": Session.opened - Session.closed, "given_back": Session.closed}


if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000)
