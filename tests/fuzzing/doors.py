"""
The public ways by which a text from outside gets onto the wire: each is given events, and tells what came out.

What should have come out is said by a model of its own, not by the code under test. A door that lets a field
in, loses one, or raises what it shouldn't, fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request
from tests.fuzzing.inputs import Fields, Picks, cursor_from
from tests.thorough.test_event_properties import expected_lines, field_of, scalar_text

from sse_starlette import EventSourceResponse, Hub, JSONServerSentEvent, ServerSentEvent
from sse_starlette._shutdown.streams import current_streams, drain_streams
from sse_starlette._wire.cursor import parse_cursor
from sse_starlette.channels.channel import Channel
from sse_starlette.event import encode

Line = tuple[str, str]
Blocks = list[list[Line]]

SEAT_BELT_SECONDS = 600
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [],
}
CONTROLS = re.compile("[\r\n\0]")


def blocks_in(wire: bytes) -> Blocks:
    """The blocks of a stream and their lines, as the standard cuts them; what isn't UTF-8 is an error."""
    lines = re.split("\r\n|\r|\n", wire.decode())
    assert lines[-1] == "", "the last line has no end"
    blocks: Blocks = [[]]
    for line in lines[:-1]:
        if line:
            name, _, value = line.partition(":")
            blocks[-1].append((name, value.removeprefix(" ")))
        else:
            blocks.append([])
    assert blocks[-1] == [], "the last block has no end"
    return blocks[:-1]


def refuses(fields: Fields) -> bool:
    """Whether a channel refuses an event for what is in its name: it could not arrive as it is."""
    return CONTROLS.search(fields.get("event", "")) is not None


async def serve(response: EventSourceResponse, *, pieces: int | None = None) -> list[bytes]:
    """Have a response answer, to its end or until so many pieces have come; what it sent."""
    body: list[bytes] = []
    left = anyio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            body.append(message["body"])
            if len(body) == pieces:
                left.set()

    await response(SCOPE, receive, send)
    return body


async def serve_all(
    responses: Sequence[EventSourceResponse], *, pieces: int | None = None
) -> list[list[bytes]]:
    """Serve many at a time."""
    found: list[list[bytes]] = [[]] * len(responses)

    async def one(number: int, response: EventSourceResponse) -> None:
        found[number] = await serve(response, pieces=pieces)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number, response in enumerate(responses):
                tasks.start_soon(one, number, response)
    return found


async def blocks_of(content: Any) -> Blocks:
    """The blocks of the stream of this content."""
    with anyio.fail_after(SEAT_BELT_SECONDS):
        return blocks_in(b"".join(await serve(EventSourceResponse(content, ping=0))))


async def each(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def endless() -> AsyncIterator[Any]:
    await anyio.sleep_forever()
    yield


# --- One stream -----------------------------------------------------------------------


async def dicts(events: Sequence[Fields]) -> None:
    assert await blocks_of(each(events)) == [expected_lines(fields) for fields in events]


async def event_objects(events: Sequence[Fields]) -> None:
    made = [ServerSentEvent(**fields) for fields in events]
    assert await blocks_of(each(made)) == [expected_lines(fields) for fields in events]


async def texts(events: Sequence[Fields]) -> None:
    given = [fields.get("data", "") for fields in events]
    assert await blocks_of(each(given)) == [expected_lines({"data": text}) for text in given]


async def json_events(events: Sequence[Fields]) -> None:
    """The text is within a value, and the key of another."""
    values = [[text := fields.get("data", ""), {text: None}] for fields in events]
    made = [
        JSONServerSentEvent(**{**fields, "data": value})
        for fields, value in zip(events, values, strict=True)
    ]
    for block, fields, value in zip(await blocks_of(each(made)), events, values, strict=True):
        (data,) = [text for name, text in block if name == "data"]
        text = scalar_text(str(value[0]))
        read = json.loads(data)
        assert [scalar_text(read[0]), {scalar_text(key): None for key in read[1]}] == [
            text,
            {text: None},
        ]
        rest = [line for line in block if line[0] != "data"]
        assert rest == [line for line in expected_lines(fields) if line[0] != "data"]


def one_by_one(events: Sequence[Fields]) -> Callable[[], ServerSentEvent]:
    """One after the other, at each call, and round again."""
    left = cycle(events)
    return lambda: ServerSentEvent(**next(left))


async def pings(events: Sequence[Fields]) -> None:
    """Many pings of a few streams at a time, for each waits until it's due."""
    groups = [list(events[start : start + 20]) for start in range(0, len(events), 20)]
    for size in {len(group) for group in groups}:
        alike = [group for group in groups if len(group) == size]
        responses = [
            EventSourceResponse(endless(), ping=0.001, ping_message_factory=one_by_one(group))
            for group in alike
        ]
        for body, group in zip(await serve_all(responses, pieces=size), alike, strict=True):
            expected = [expected_lines(fields) for fields in group]
            assert blocks_in(b"".join(body[:size])) == expected


async def farewells(events: Sequence[Fields]) -> None:
    responses = [EventSourceResponse(endless(), ping=0, farewell=fields) for fields in events]

    async def drain() -> None:
        while len(current_streams()) < len(responses):
            await anyio.lowlevel.checkpoint()
        drain_streams(current_streams())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        found = await serve_all(responses)
    for body, fields in zip(found, events, strict=True):
        assert blocks_in(b"".join(body)) == [expected_lines(fields)]


async def error_events(events: Sequence[Fields]) -> None:
    async def failing() -> AsyncIterator[Any]:
        raise LookupError
        yield

    for fields in events:

        def on_error(_: Exception, fields: Fields = fields) -> Any:
            return fields

        body = await serve(EventSourceResponse(failing(), ping=0, on_error=on_error))
        assert blocks_in(b"".join(body)) == [expected_lines(fields)]


# --- Channels -------------------------------------------------------------------------


def new_channel(events: int) -> Channel[Any]:
    return Hub().channel("c", history=events + 1)


async def publish_all(channel: Channel[Any], events: Sequence[Fields]) -> Blocks:
    """Publish what isn't refused; what clients should get."""
    expected: Blocks = []
    for fields in events:
        own = {name: value for name, value in fields.items() if name != "id"}
        try:
            event_id = await channel.publish(own)
        except ValueError:
            assert refuses(fields)
            continue
        assert not refuses(fields)
        comments = [line for line in expected_lines(own) if line[0] == ""]
        others = [line for line in expected_lines(own) if line[0] != ""]
        expected.append([*comments, ("id", event_id), *others])
    await channel.aclose()
    return expected


def ordered(blocks: Blocks) -> Blocks:
    """With the id in front: where it stands among the fields doesn't matter."""
    return [sorted(block, key=lambda line: line[0] != "id") for block in blocks]


async def published(events: Sequence[Fields]) -> None:
    await blocks_published(events)


async def filtered(events: Sequence[Fields]) -> None:
    seen: list[ServerSentEvent] = []

    def note(event: ServerSentEvent) -> bool:
        seen.append(event)
        return True

    expected = await blocks_published(events, filter=note)
    for event, block in zip(seen, expected, strict=True):
        told = [("data", line) for line in event.data.split("\n")] if event.data is not None else []
        assert told == [line for line in block if line[0] == "data"]
        assert (event.event or "") == next((text for name, text in block if name == "event"), "")


async def blocks_published(events: Sequence[Fields], **options: Any) -> Blocks:
    """Publish events; the blocks that a subscriber should get, and gets."""
    channel = new_channel(len(events))
    subscription = channel.subscribe(after="start", id_blocks=False, **options)
    expected = await publish_all(channel, events)
    assert ordered(await blocks_of(subscription)) == ordered(expected)
    return expected


async def snapshots(events: Sequence[Fields]) -> None:
    await at_the_beginning(events, lambda given: {"snapshot": lambda: given})


async def gaps(events: Sequence[Fields]) -> None:
    await at_the_beginning(events, lambda given: {"request": "lost.1", "on_gap": lambda _: given})


async def at_the_beginning(
    events: Sequence[Fields], options: Callable[[list[Fields]], dict[str, Any]]
) -> None:
    """What isn't refused comes before the events of the channel."""
    own = [{name: value for name, value in each.items() if name != "id"} for each in events]
    given = [fields for fields in own if not refuses(fields)]
    channel = new_channel(1)
    await channel.publish("x")
    subscription = channel.subscribe(**options(given))
    await channel.aclose()
    found = [[line for line in block if line[0] != "id"] for block in await blocks_of(subscription)]
    expected = [expected_lines(fields) for fields in given]
    assert list(filter(None, found)) == list(filter(None, expected))


async def named_after_channels(events: Sequence[Fields]) -> None:
    """The text is the name of a channel."""
    for start in range(0, len(events), 100):
        hub = Hub()
        names = list(dict.fromkeys(each.get("data", "") for each in events[start : start + 100]))
        for name in filter(CONTROLS.search, names):
            with pytest.raises(ValueError, match="for name_channels, holds"):
                hub.subscribe([name], name_channels=True)
        names = [name for name in names if not CONTROLS.search(name)]
        subscription = hub.subscribe(names, name_channels=True, id_blocks=False)
        for name in names:
            await hub.channel(name).publish("x")
            await hub.channel(name).aclose()
        found = [
            [line for line in block if line[0] != "id"] for block in await blocks_of(subscription)
        ]
        told = sorted(text for block in found for name, text in block if name == "event" and text)
        assert told == sorted(filter(None, map(field_of, names)))
        assert all(len(block) <= 2 and ("data", "x") in block for block in found)


async def frames_published(events: Sequence[Fields]) -> None:
    """A frame of somebody else's, as bytes: it's one event, or it's refused."""
    channel = new_channel(len(events))
    subscription = channel.subscribe(after="start", id_blocks=False)
    count = 0
    texts = [fields.get("data", "").encode("utf-8", "surrogatepass") for fields in events]
    for raw in texts:
        for frame in (raw, b"data: " + raw, b"data: a\n" + raw + b"\n\n"):
            # No more than the channel keeps.
            with suppress(ValueError):
                if count < len(events):
                    await channel.publish(frame)
                    count += 1
    await channel.aclose()
    found = await blocks_of(subscription)
    assert len(found) == count
    for block in found:
        names = [name for name, _ in block]
        assert names.count("id") == 1
        assert set(names) <= {"", "id", "event", "data", "retry"}
        assert all(names.count(name) <= 1 for name in ("event", "retry"))


DOORS: dict[str, Callable[[Sequence[Fields]], Awaitable[None]]] = {
    "dict": dicts,
    "event": event_objects,
    "text": texts,
    "JSON event": json_events,
    "ping": pings,
    "farewell": farewells,
    "on_error": error_events,
    "publish": published,
    "publish of bytes": frames_published,
    "filter": filtered,
    "snapshot": snapshots,
    "on_gap": gaps,
    "name_channels": named_after_channels,
}


# --- Values of any type ---------------------------------------------------------------


def check_odd(fields: Fields) -> None:
    """What can't be sent is refused; what is sent is one event with these fields."""
    try:
        frame = encode(fields, "\n")
    except (TypeError, ValueError):
        return
    (block,) = blocks_in(frame)
    names = [name for name, _ in block]
    given = {"" if name == "comment" else name for name in fields}
    assert set(names) <= given & {"", "id", "event", "data", "retry"}
    assert all(names.count(name) <= 1 for name in ("id", "event", "retry"))


# --- Ids that clients send ------------------------------------------------------------


async def cursors(picks: Picks, count: int) -> None:
    """Clients come back with any ids, in a header, twice, in the query, or in both."""
    channel = new_channel(3)
    for _ in range(3):
        await channel.publish("x")
    epoch = channel.last_event_id.partition(".")[0]
    subscriptions = []
    for number in range(count):
        raw = cursor_from(picks, epoch).encode("utf-8", "surrogatepass")
        scope = dict(SCOPE)
        if number % 3:
            scope["headers"] = [(b"last-event-id", raw)] * (number % 3)
        if number % 2:
            scope["query_string"] = b"last_event_id=" + quote(raw).encode()
        subscriptions.append(channel.subscribe(Request(scope)))
    await channel.aclose()
    for subscription in subscriptions:
        blocks = blocks_in(b"".join(await serve(EventSourceResponse(subscription, ping=0))))
        # Whoever comes back to an id gets what came after it, or is told that it can't be had.
        assert len(blocks) <= 4
        for block in blocks:
            told = dict(block)
            assert len(told) == len(block)
            assert parse_cursor(told["id"]) is not None
            assert set(told) in ({"id"}, {"id", "data"}, {"id", "event", "data"})
            assert told.get("event", "reset") == "reset"
            assert told.get("data", "x") == "x" or told["event"] == "reset"
