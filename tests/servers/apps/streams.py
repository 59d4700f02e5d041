"""The streams that the tests run on real servers: prompt, silent, greedy, asleep, failing.

Times are CLOCK_MONOTONIC, which all processes of a machine share: a test compares the moment it got
an event with the moment the event was made. What happens on the server's side only goes into the
journal, and a test asks for it there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from sse_starlette import EventSourceResponse, ServerSentEvent

Event = dict[str, Any]


class Journal:
    """What has happened, in order, for tests to wait for."""

    def __init__(self) -> None:
        self._notes: list[dict[str, Any]] = []
        self._changed = anyio.Event()

    def note(self, what: str, **facts: Any) -> None:
        self._notes.append({"what": what, "at": time.monotonic(), **facts})
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_for(self, what: str, count: int, seconds: float) -> list[dict[str, Any]]:
        """Return the notes of this kind, as soon as there are `count` of them or the time is up."""
        with anyio.move_on_after(seconds):
            while sum(note["what"] == what for note in self._notes) < count:
                await self._changed.wait()
        return [note for note in self._notes if note["what"] == what]


journal = Journal()


async def read_journal(request: Request) -> JSONResponse:
    query = request.query_params
    count, seconds = int(query["count"]), float(query["seconds_to_wait"])
    notes = await journal.wait_for(query["what"], count, seconds)
    return JSONResponse(notes)


async def blank(request: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html><link rel=icon href='data:,'><title>blank</title>")


def number(request: Request, name: str, default: float) -> float:
    return float(request.query_params.get(name, default))


def made(number: int) -> Event:
    return {"id": number, "data": {"number": number}}


def is_heard(request: Request, count: int) -> bool:
    """Whether the client has got so many events: it writes a file as long, named by `heard`."""
    file = Path(request.query_params["heard"])
    return file.exists() and file.stat().st_size >= count


GIVES_UP_SECONDS = 60
"""A client that hears nothing for so long never will."""


async def until_heard(request: Request, count: int) -> None:
    with anyio.fail_after(GIVES_UP_SECONDS):
        while not is_heard(request, count):  # noqa: ASYNC110  (nobody tells of a file)
            await anyio.sleep(0.005)


def block_until_heard(request: Request, count: int, *, at_least: float = 0.0) -> None:
    time.sleep(at_least)
    gives_up = time.monotonic() + GIVES_UP_SECONDS
    while not is_heard(request, count):
        if time.monotonic() > gives_up:
            raise TimeoutError(f"the client has not got event {count - 1}")
        time.sleep(0.005)


async def paced(request: Request) -> EventSourceResponse:
    """`count` events, each made when the one before is `heard`, if it's asked for."""

    async def events() -> AsyncIterator[Event]:
        for each in range(int(number(request, "count", 4))):
            yield made(each)
            if "heard" in request.query_params:
                await until_heard(request, each + 1)
            else:
                await anyio.sleep(0.1)

    return EventSourceResponse(events())


class Counted(EventSourceResponse):
    """A response that counts the events that the server has been given."""

    given = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: Message) -> None:
            await send(message)
            self.given += message.get("body", b"").count(b"data:")

        await super().__call__(scope, receive, count)


MILLISECOND = 0.001


async def computing(request: Request) -> EventSourceResponse:
    """
    A burst of `quick` events, then single ones; after each the generator computes, and keeps the event loop.

    It does so until the client has `heard` all that the server was given; what was held back by then is in
    the journal, and whether that was made within a millisecond.
    """

    async def events() -> AsyncIterator[Event]:
        made_at: list[float] = []
        for burst in (int(number(request, "quick", 1)), 1, 1, 1):
            for _ in range(burst):
                made_at.append(time.perf_counter())
                yield made(len(made_at) - 1)
                if request.query_params.get("awaits"):
                    await anyio.lowlevel.checkpoint()
            held = made_at[response.given :]
            # Longer than a source that is quick would, however soon the client has heard all.
            block_until_heard(request, response.given, at_least=0.05)
            together = not held or held[-1] - held[0] <= MILLISECOND
            journal.note("computed", held=len(held), together=together)

    response = Counted(events())
    return response


async def computing_in_thread(request: Request) -> EventSourceResponse:
    """The same from a sync generator, in which to block is nobody's business."""

    def events() -> Iterator[Event]:
        for each in range(4):
            if each:
                block_until_heard(request, each)
            yield made(each)

    return EventSourceResponse(events())


async def greedy(request: Request) -> EventSourceResponse:
    """A generator that never waits and never ends."""

    async def events() -> AsyncIterator[Event]:
        count = 0
        journal.note("greedy started")
        try:
            while True:
                yield {"data": "more"}
                count += 1
        finally:
            journal.note("greedy closed", count=count)

    return EventSourceResponse(events())


async def chatter(request: Request) -> EventSourceResponse:
    """An event every 0.2 seconds, for ever."""

    async def events() -> AsyncIterator[Event]:
        while True:
            yield {"data": "x" * int(number(request, "size", 1))}
            await anyio.sleep(number(request, "seconds", 0.2))

    async def note_the_end(reason: str) -> None:
        journal.note("chatter ended", reason=reason)

    return EventSourceResponse(events(), on_close=note_the_end)


async def silent(request: Request) -> EventSourceResponse:
    """No event, ever; `ping` as in the query, the default without it."""

    async def events() -> AsyncIterator[Event]:
        await anyio.sleep_forever()
        yield {}

    ping = request.query_params.get("ping")
    return EventSourceResponse(events(), ping=None if ping is None else float(ping))


async def asleep(request: Request) -> EventSourceResponse:
    """One event, then 1000 seconds of sleep without a ping; `cleanup` seconds of cleanup."""

    async def events() -> AsyncIterator[Event]:
        journal.note("asleep started")
        try:
            yield made(0)
            await anyio.sleep(1000)
        finally:
            journal.note("cleanup started")
            await anyio.sleep(number(request, "cleanup", 0))
            journal.note("cleanup completed")

    def note_the_end(reason: str) -> None:
        journal.note("asleep ended", reason=reason)

    return EventSourceResponse(events(), ping=0, on_close=note_the_end)


async def failing(request: Request) -> EventSourceResponse:
    """Three events, then an error; with `told` in the query the client hears of it."""

    async def events() -> AsyncIterator[Event]:
        for each in range(3):
            yield made(each)
        raise RuntimeError("the disk is full")

    def tell(failure: Exception) -> ServerSentEvent:
        return ServerSentEvent("sorry", event="failed")

    return EventSourceResponse(events(), on_error=tell if "told" in request.query_params else None)


class InSingleBytes(EventSourceResponse):
    """Leaves in pieces of one byte, as a proxy may cut it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_bytes(message: Message) -> None:
            body = message.get("body", b"")
            for at in range(len(body) - 1):
                await send({**message, "body": body[at : at + 1], "more_body": True})
                await anyio.lowlevel.checkpoint()
            await send({**message, "body": body[-1:]} if body else message)

        await super().__call__(scope, receive, send_bytes)


MANY_LINES = "one\ntwo\r\nthree\rfour\n\n six \n"
UNICODE = "Grüße, 世界 🎈 a\u2028b\u0085c\u000bd\ufeffe"


async def assorted(request: Request) -> EventSourceResponse:
    """One of each kind of event; then the stream stays open. `sep`, `cut`: see the query."""

    async def events() -> AsyncIterator[Event | ServerSentEvent | str | bytes]:
        yield "plain"
        yield {"data": MANY_LINES}
        yield {"data": UNICODE, "event": "größe"}
        yield ServerSentEvent({"nested": [1, "ü"]}, event="json", id=7)
        yield {"comment": "nobody sees this", "data": "after a comment"}
        yield {"data": "", "event": "empty"}
        yield b": bytes as they are\r\n\r\n"
        yield {"data": "last", "id": "änd"}
        await anyio.sleep_forever()

    response = InSingleBytes if "cut" in request.query_params else EventSourceResponse
    # With CR alone some readers show an event only when the next byte is there, be it a ping's.
    return response(events(), sep=request.query_params.get("sep"), ping=1)


async def resuming(request: Request) -> EventSourceResponse:
    """Three events after the one that the client had last; `retry` as in the query."""
    cursor = request.headers.get("last-event-id")
    retry = int(request.query_params["retry"])
    journal.note("came", last_event_id=cursor, retry=retry)

    async def events() -> AsyncIterator[Event]:
        yield {"retry": retry}
        first = 0 if cursor is None else int(cursor) + 1
        for each in range(first, first + 3):
            yield {"id": each, "data": each}

    def note_the_end(reason: str) -> None:
        journal.note("went", reason=reason)

    return EventSourceResponse(events(), on_close=note_the_end)


app = Starlette(
    routes=[
        Route("/journal", read_journal),
        Route("/blank", blank),
        Route("/paced", paced),
        Route("/computing", computing),
        Route("/computing-in-thread", computing_in_thread),
        Route("/greedy", greedy),
        Route("/chatter", chatter),
        Route("/silent", silent),
        Route("/asleep", asleep),
        Route("/failing", failing),
        Route("/assorted", assorted),
        Route("/resuming", resuming),
    ]
)
