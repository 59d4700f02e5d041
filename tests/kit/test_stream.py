"""What a test does to a stream, and what is found without being asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.kit.apps import HASTE, answering, fail, numbers, sending
from tests.kit.seeded import ending, writing
from tests.kit.seeded.writing import END, START, body

from sse_starlette import EventSourceResponse
from sse_starlette.errors import SendTimeoutError
from sse_starlette.testing import (
    CHECKS,
    Clock,
    Event,
    StreamFailure,
    StreamingASGITransport,
    connect,
)
from sse_starlette.testing._clock import settled

pytestmark = pytest.mark.anyio


async def test_stream_can_be_iterated_to_its_end() -> None:
    async with connect(EventSourceResponse(numbers(3, ends=True))) as stream:
        assert [event.id async for event in stream] == ["0", "1", "2"]
        assert stream.ended
        with pytest.raises(StreamFailure, match="stream ended: there is no next event"):
            await stream.next()


async def test_expected_event_is_returned() -> None:
    source = [{"event": "e", "data": '{"a": [1]}', "id": "7"}, "plain"]

    async with connect(EventSourceResponse(source)) as stream:
        event = await stream.expect(event="e", data={"a": [1]}, id="7")
        await stream.expect(event="message", data="plain", id="7", within=1)

    assert event == Event("e", '{"a": [1]}', "7", own_id=True)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"event": "x"}, "expected event='x', got Event"),
        ({"data": "1", "id": "x"}, "expected data='1', id='x', got"),
        ({"data": 2}, "expected data=2"),
        ({"data": {"a": 1}}, r"expected data=\{'a': 1\}"),
    ],
)
async def test_unexpected_event_is_shown_with_what_arrived(
    expected: dict[str, Any], said: str
) -> None:
    async with connect(EventSourceResponse([{"data": "0"}, "text"])) as stream:
        with pytest.raises(StreamFailure, match=rf"unexpected event: {said}") as caught:
            await stream.expect(**expected)
        with pytest.raises(StreamFailure, match="unexpected event"):
            await stream.expect(data=1)

    assert "GET / -> 200" in str(caught.value)
    assert "content-type: text/event-stream" in str(caught.value)
    assert r"b'data: 0\r\n\r\n" in str(caught.value)


async def test_event_that_does_not_come_is_missed_within_its_time() -> None:
    async with connect(EventSourceResponse(numbers(0)), "/path?a=b") as stream:
        with pytest.raises(StreamFailure, match=r"no event: none within 0.05 s") as caught:
            await stream.next(within=HASTE)

    assert "GET /path?a=b -> 200" in caught.value.arrived
    assert "nothing" in caught.value.arrived
    assert "the app still runs" in caught.value.arrived


async def test_event_is_not_lost_when_the_wait_for_it_is_cancelled() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    async with connect(EventSourceResponse(receive)) as stream, send:
        with anyio.move_on_after(0):
            await stream.next()
        send.send_nowait("kept")

        await stream.expect(data="kept")


async def test_what_arrived_is_shown_in_part_when_it_is_much() -> None:
    frames = [f"data: {number} {'x' * 1000}\n\n".encode() for number in range(60)]

    async with connect(EventSourceResponse(frames, join_events=False)) as stream:
        await stream.until_ended()
        shown = StreamFailure("x", "y", stream._exchange.shown())

    assert "... 20 before these" in str(shown)
    assert "... 611 more" in str(shown)
    assert len(str(shown)) < 30_000


async def test_app_that_has_failed_comes_before_the_failure_of_the_test() -> None:
    event = anyio.Event()

    async def fail_later() -> None:
        await event.wait()
        await fail()

    async def judge() -> None:
        async with connect(sending(START, then=fail_later)) as stream:
            event.set()
            await settled()
            assert len(stream.events) == 1

    with pytest.raises(KeyError, match="made up") as caught:
        await judge()

    assert isinstance(caught.value.__context__, AssertionError)


async def test_what_is_wrong_with_the_stream_is_added_to_the_failure_of_the_test() -> None:
    async def judge() -> None:
        async with connect(sending(START, body("evil\n\n"), END)):
            await settled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await judge()

    (note,) = caught.value.__notes__
    assert "injected field: the line b'evil'" in note


async def test_error_of_the_app_is_raised_where_the_test_waits_or_at_the_end() -> None:
    app = sending(START, body("data: 1\n\n"), then=fail)

    async with connect(app) as stream:
        await stream.next()
        with pytest.raises(KeyError, match="made up"):
            await stream.next()
    with pytest.raises(KeyError, match="made up"):
        async with connect(app) as stream:
            await stream.next()


async def test_leaving_ends_the_app() -> None:
    app = EventSourceResponse(numbers(1))

    async with connect(app) as stream:
        await stream.next()
        stream.leave()
        stream.leave()
        await stream.until_ended()
        assert not app.active
        with pytest.raises(StreamFailure, match="stream ended"):
            await stream.next()


async def test_stalled_client_blocks_the_writer_until_it_reads_again() -> None:
    send, receive = anyio.create_memory_object_stream[str](10)

    async with connect(EventSourceResponse(receive)) as stream, send:
        stream.stall()
        send.send_nowait("1")
        await stream.until_blocked()
        assert stream.blocked
        assert stream.events == []

        stream.resume()
        await stream.expect(data="1")
        assert not stream.blocked


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "is given up"])
async def test_stalled_client_that_leaves_or_is_given_up_releases_the_writer(leaves: bool) -> None:
    stalled = anyio.Event()

    async def source() -> AsyncIterator[int]:
        await stalled.wait()
        yield 0
        await anyio.sleep_forever()

    app = EventSourceResponse(source(), send_timeout=None if leaves else HASTE)

    async with connect(app) as stream:
        stream.stall()
        stalled.set()
        if leaves:
            await stream.until_blocked()
            stream.leave()
            await stream.until_ended()
        else:
            with pytest.raises(SendTimeoutError):
                await stream.until_ended()

    assert not app.active


async def test_events_nobody_reads_fill_the_socket() -> None:
    frame = b"data: " + b"x" * 1016 + b"\n\n"

    async with connect(EventSourceResponse([frame] * 200, join_events=False)) as stream:
        await stream.until_blocked()
        assert len(stream.events) == 64

        await stream.next()
        await settled()
        assert len(stream.events) == 65

        await stream.until_ended()
        assert len(stream.events) == 200
        assert len([event async for event in stream]) == 199


async def test_blocked_writer_of_another_client_is_named_when_nothing_comes() -> None:
    listeners: list[Send] = []

    async def broadcasting(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        listeners.append(send)
        await receive()
        await receive()
        listeners.remove(send)

    async def broadcast() -> None:
        for send in [*listeners]:
            await send(body("data: 1\n\n"))

    async with (
        StreamingASGITransport(broadcasting) as transport,
        connect(transport) as stalled,
        connect(transport) as other,
        anyio.create_task_group() as tasks,
    ):
        stalled.stall()
        tasks.start_soon(broadcast)
        with pytest.raises(StreamFailure, match=r"^stalled writer: .* another client"):
            await other.next(within=HASTE)
        stalled.leave()


async def test_wait_for_a_block_that_does_not_come_is_in_vain() -> None:
    async with connect(EventSourceResponse(numbers(1))) as stream:
        with pytest.raises(StreamFailure, match=r"not blocked: .* 0.05 s"):
            await stream.until_blocked(within=HASTE)


async def test_wait_for_an_end_that_does_not_come_is_in_vain() -> None:
    app = sending(START, then=anyio.sleep_forever)

    async with (
        StreamingASGITransport(app) as transport,
        connect(transport, unchecked={"leaked task"}) as stream,
    ):
        transport.patience = HASTE
        with pytest.raises(StreamFailure, match=r"stream goes on: .* 0.05 s"):
            await stream.until_ended()
        stream.leave()
        with pytest.raises(StreamFailure, match="leaked task: the app still runs"):
            await stream.until_ended()


async def test_wait_ends_in_time_beside_an_app_that_sends_and_sends() -> None:
    app = ending.without_end(gives_up_after=None)

    async with StreamingASGITransport(app) as transport, connect(transport) as stream:
        transport.patience = HASTE
        with pytest.raises(StreamFailure, match="stream goes on"):
            await stream.until_ended()
        with pytest.raises(StreamFailure, match="leaked task"):
            await stream.__aexit__(None, None, None)


async def test_draining_ends_the_streams_of_this_app_only() -> None:
    draining = EventSourceResponse(numbers(1), farewell={"event": "bye", "data": ""})

    async with connect(EventSourceResponse(numbers(1))) as other, connect(draining) as stream:
        await stream.next()
        stream.drain()
        await stream.expect(event="bye")
        await stream.until_ended()

        assert not other.ended


async def test_grace_of_draining_passes_on_the_clock() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        stream.drain(grace=30)
        await clock.advance(29)
        assert not stream.ended
        await clock.advance(1)
        assert stream.ended


async def test_reconnecting_takes_the_cursor_and_the_time_that_the_server_gave() -> None:
    clock = Clock()
    came: list[tuple[float, str | None]] = []

    seen = anyio.Event()

    async def one(number: int) -> AsyncIterator[dict[str, object]]:
        if number > 1:
            await seen.wait()
        yield {"id": f"ü{number}", "data": "", "retry": 7000}

    def answer(request: Request) -> Response:
        came.append((clock.time(), request.headers.get("last-event-id")))
        return EventSourceResponse(one(len(came)))

    async with connect(answering(answer), clock=clock) as stream:
        await stream.next()
        assert (stream.last_event_id, stream.retry_ms) == ("ü1", 7000)
        await stream.reconnect()
        assert stream.last_event_id == "ü1"
        seen.set()
        await stream.next()
        assert stream.last_event_id == "ü2"

    assert [(at, None if id is None else id.encode("latin-1").decode()) for at, id in came] == [
        (0.0, None),
        (7.0, "ü1"),
    ]


async def test_reconnecting_leaves_a_stream_that_goes_on_and_waits_for_its_end() -> None:
    apps: list[EventSourceResponse] = []

    def answer(request: Request) -> Response:
        assert not any(app.active for app in apps)
        apps.append(EventSourceResponse(numbers(2)))
        return apps[-1]

    async with connect(answering(answer)) as stream:
        await stream.next()
        await settled()
        await stream.reconnect()
        assert [(await stream.next()).data for _ in range(3)] == ["1", "0", "1"]

    assert len(apps) == 2


@pytest.mark.parametrize("status", [204, 503])
async def test_response_that_a_browser_refuses_is_reported_with_what_it_says(status: int) -> None:
    responses = [EventSourceResponse(numbers(1)), PlainTextResponse("gone", status_code=status)]

    async with connect(answering(lambda _: responses.pop(0))) as stream:
        await stream.next()
        with pytest.raises(StreamFailure, match=f"wrong status: {status}") as caught:
            await stream.reconnect()

    assert "gone" in caught.value.arrived


async def test_redirect_is_followed() -> None:
    def answer(request: Request) -> Response:
        if request.url.path == "/old":
            return RedirectResponse("/new")
        return EventSourceResponse([request.url.path])

    async with connect(answering(answer), "/old") as stream:
        await stream.expect(data="/new")


async def test_request_is_made_as_asked() -> None:
    async def answer(request: Request) -> Response:
        headers = ("accept", "cache-control", "last-event-id", "x-token", "cookie")
        said: list[object] = [request.headers[name] for name in headers]
        return EventSourceResponse([*said, request.method, request.url.query, await request.json()])

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    asked: dict[str, Any] = {"method": "POST", "params": {"a": "b"}, "cookies": {"c": "d"}}
    asked |= {"headers": {"X-Token": "secret"}, "json": [1]}
    async with connect(app, last_event_id="7", **asked) as stream:
        for data in ("text/event-stream", "no-store", "7", "secret", "c=d", "POST", "a=b", [1]):
            await stream.expect(data=data)


def test_connect_checks_its_arguments() -> None:
    with pytest.raises(ValueError, match=r"unchecked has \['x'\]"):
        connect(sending(), unchecked={"x"})
    with pytest.raises(ValueError, match="are the transport's"):
        connect(StreamingASGITransport(sending()), clock=Clock())


async def test_what_is_unchecked_is_not_reported() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send(body("evil\n\ndata: 1"))

    async with connect(app, unchecked=CHECKS) as stream:
        await stream.until_ended()


# What is found without being asked


def test_page_lists_what_is_checked() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "testing.md").read_text("utf-8")
    _, _, table = page.partition("| `bug` | what was found |\n")

    rows = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()[1:]]

    assert set(re.findall(r"`(.+?)`", "".join(rows))) == CHECKS


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    for _ in range(20):
        await send(body("data: " + "x" * 60_000 + "\n"))
    while (await receive())["type"] != "http.disconnect":
        pass


async def in_between(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(body("data: half\n"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writing.write, send, ": ping\n\n")
    await send(END)


def breach(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(RuntimeError):
            for message in messages:
                await send(message)

    return app


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (sending(START, body("data: 1\n"), END), "unfinished event: the body ended"),
        (endless, "endless event: 10"),
        (in_between, "two writers: another task wrote b': ping"),
        (breach(END), "broken protocol: expected http.response.start"),
        (breach(START, START), "broken protocol: expected http.response.body"),
        (breach(START, END, END), "broken protocol: sent after the end of the body"),
        (breach(START, {**END, "body": "text"}), "broken protocol: a body is bytes"),
    ],
)
async def test_bug_of_the_app_is_reported_and_the_app_is_left(app: ASGIApp, said: str) -> None:
    with pytest.raises(StreamFailure, match=f"^{said}"):
        async with connect(app) as stream:
            await stream.until_ended()


async def test_event_in_pieces_of_one_writer_is_an_event() -> None:
    async with connect(sending(START, body("data: a"), body("b\n"), body("\n"), END)) as stream:
        await stream.expect(data="ab")
