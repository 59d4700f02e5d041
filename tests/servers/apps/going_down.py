"""The streams that tests have open when a server goes down, and two programs that run uvicorn in theirs.

What happens on the server's side goes into the file that JOURNAL names, one JSON object a line: the
processes that write there are gone when a test looks at it. Times are CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from sse_starlette import EventSourceResponse, drain

Event = dict[str, Any]

_journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what: str, **facts: Any) -> None:
    told = {"what": what, "pid": os.getpid(), "at": time.monotonic(), **facts}
    # One write, so that the lines of several processes don't mix.
    os.write(_journal, json.dumps(told).encode() + b"\n")


@contextlib.contextmanager
def noted(request: Request) -> Iterator[None]:
    """Note how a generator began and ended."""
    note("began", client=request.client)
    try:
        yield
    except anyio.get_cancelled_exc_class():
        note("cancelled")
        raise
    finally:
        note("finally")


def note_the_end(reason: str) -> None:
    note("closed", reason=reason)


FAREWELL = {"event": "farewell", "data": "back soon"}


async def idle(request: Request) -> EventSourceResponse:
    """One event, then nothing for ever."""

    async def events() -> AsyncIterator[Event]:
        with noted(request):
            yield {"data": "hello", "retry": 200}
            await anyio.sleep_forever()

    return EventSourceResponse(events(), ping=0, on_close=note_the_end, farewell=FAREWELL)


async def spread(request: Request) -> EventSourceResponse:
    """The same, and at a shutdown each client is told another time to wait."""

    async def events() -> AsyncIterator[Event]:
        yield {"data": "hello"}
        await anyio.sleep_forever()

    return EventSourceResponse(events(), farewell=FAREWELL, shutdown_retry_ms=(1_000, 1_000_000))


async def finishing(request: Request) -> EventSourceResponse:
    """Chatters until the server goes down, and then has ten events left, which take 2 seconds."""
    going_down = anyio.Event()

    async def events() -> AsyncIterator[Event]:
        with noted(request):
            yield {"data": "hello"}
            await going_down.wait()
            for left in range(10):
                await anyio.sleep(0.2)
                yield {"event": "left", "data": left}

    return EventSourceResponse(
        events(),
        on_close=note_the_end,
        farewell=FAREWELL,
        shutdown_event=going_down,
        shutdown_grace_period=5,
    )


async def stubborn(request: Request) -> EventSourceResponse:
    """Has a second to come to an end, and doesn't."""

    async def events() -> AsyncIterator[Event]:
        with noted(request):
            yield {"data": "hello"}
            while True:
                await anyio.sleep(0.05)
                yield {"event": "more", "data": "and more"}

    return EventSourceResponse(
        events(), on_close=note_the_end, farewell=FAREWELL, shutdown_grace_period=1
    )


async def flood(request: Request) -> EventSourceResponse:
    """More than any client can take."""

    async def events() -> AsyncIterator[Event]:
        with noted(request):
            while True:
                yield {"data": "x" * 65_536}
                note("sent")

    return EventSourceResponse(events(), on_close=note_the_end, farewell=FAREWELL)


async def blocked(request: Request) -> EventSourceResponse:
    """A sync source that waits in a thread for what never comes."""

    def events() -> Iterator[Event]:
        yield {"data": "hello"}
        queue.Queue[Event]().get()

    return EventSourceResponse(events(), farewell=FAREWELL, cleanup_timeout=None)


async def drain_now(request: Request) -> PlainTextResponse:
    note("drain")
    drain(spread=float(request.query_params.get("spread", 0)))
    return PlainTextResponse("as you wish")


async def who(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(os.getpid()))


async def blank(request: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html><link rel=icon href='data:,'><title>blank</title>")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    note("lifespan started")
    yield
    note("lifespan stopped")


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


app = Starlette(
    routes=[
        Route("/idle", idle),
        Route("/spread", spread),
        Route("/finishing", finishing),
        Route("/stubborn", stubborn),
        Route("/flood", flood),
        Route("/blocked", blocked),
        Route("/drain", drain_now),
        Route("/who", who),
        Route("/blank", blank),
    ],
    lifespan=lifespan,
)
behind_middleware = BaseHTTPMiddleware(app, dispatch=pass_on)


def listen_for_the_signal(call: Callable[[], None]) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: call())


def run_in_a_thread() -> None:
    """Run uvicorn in a thread, as a notebook or a test does."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, use_colors=False))
    thread = threading.Thread(target=server.run)
    told = threading.Event()
    listen_for_the_signal(told.set)
    thread.start()
    told.wait()
    server.should_exit = True
    thread.join()


class WithoutSignals(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_without_signals() -> None:
    """Run uvicorn, but handle the signals otherwise, as programs with more than a server do."""
    server = WithoutSignals(uvicorn.Config(app, port=0, use_colors=False))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, partial(setattr, server, "should_exit", True))
        await server.serve()

    asyncio.run(main())


if __name__ == "__main__":
    {"thread": run_in_a_thread, "without-signals": run_without_signals}[sys.argv[1]]()
