"""What a test may ask of a stream: order, pings and headers."""

from __future__ import annotations

import pytest
from tests.kit.apps import answering, fail, numbers, sending
from tests.kit.seeded.writing import END, START, body

from sse_starlette import EventSourceResponse
from sse_starlette.testing import Clock, Stream, StreamFailure, connect
from sse_starlette.testing._clock import settled

pytestmark = pytest.mark.anyio

# Order


def block(id: str, event: str = "message", data: str | None = "") -> bytes:
    lines = [f"id: {id}", f"event: {event}"] + ([] if data is None else [f"data: {data}"])
    return ("\n".join(lines) + "\n\n").encode()


def cursor(id: str) -> bytes:
    return f"id: {id}\n\n".encode()


async def story(*frames: bytes, last_event_id: str = "") -> Stream:
    async with connect(EventSourceResponse(list(frames)), last_event_id=last_event_id) as stream:
        await stream.until_ended()
    return stream


@pytest.mark.parametrize(
    ("frames", "last_event_id"),
    [
        ([], ""),
        ([block("7"), block("8")], ""),
        ([block("e.7"), b"data: farewell\n\n", block("e.8")], "e.6"),
        ([cursor("e.7"), block("e.8"), cursor("e.8")], ""),
        ([cursor("e.7"), block("e.8")], "e.7"),
        ([block("e.7"), block("f.3", "reset"), block("f.4")], "e.6"),
        ([block("f.3", "reset"), block("f.4")], "made up"),
        ([block("a.b.1"), block("a.b.2")], ""),
    ],
)
async def test_contiguous_streams_pass(frames: list[bytes], last_event_id: str) -> None:
    stream = await story(*frames, last_event_id=last_event_id)

    stream.assert_contiguous()


@pytest.mark.parametrize(
    ("frames", "last_event_id", "said"),
    [
        (["e.1", "e.3"], "", "gap: after id 'e.1' came 'e.3'; missing: 'e.2'"),
        (["1", "5"], "", r"gap: after id '1' came '5'; missing: '2' to '4' \(3 events\)"),
        (["e.1", "f.2"], "", "gap: after id 'e.1' came 'f.2' of another epoch"),
        (["e.1", "e.1"], "", "duplicate: after id 'e.1' came 'e.1', which is not new"),
        (["e.2", "e.1"], "", "duplicate: after id 'e.2' came 'e.1'"),
        (["e.3"], "e.1", "wrong cursor: the client came back with 'e.1', and got: .* 'e.2'"),
        (["e.1"], "e.1", "wrong cursor: the client came back with 'e.1', and got: .* not new"),
        (["e.2", "e.4"], "e.1", "gap: after id 'e.2'"),
        (["x"], "", "unordered ids: id 'x' is neither"),
        (["e.²"], "", "unordered ids"),
    ],
)
async def test_streams_that_are_not_contiguous_are_told_what_is_wrong(
    frames: list[str], last_event_id: str, said: str
) -> None:
    stream = await story(*map(block, frames), last_event_id=last_event_id)

    with pytest.raises(StreamFailure, match=said):
        stream.assert_contiguous()


async def test_cursor_that_moves_by_itself_hides_a_gap() -> None:
    stream = await story(cursor("e.1"), block("e.2"), cursor("e.5"), block("e.6"))

    with pytest.raises(StreamFailure, match=r"gap: .* 'e.3' to 'e.5' \(3 events\)"):
        stream.assert_contiguous()


async def test_error_of_the_app_comes_before_what_a_check_says() -> None:
    frames = (body(block(id).decode()) for id in ("1", "3"))

    async with connect(sending(START, *frames, then=fail)) as stream:
        await settled()
        with pytest.raises(KeyError, match="made up"):
            stream.assert_contiguous()


async def test_reset_may_have_another_name() -> None:
    stream = await story(block("e.1"), block("e.9", "resync"), block("e.10"))

    stream.assert_contiguous(reset_event="resync")
    with pytest.raises(StreamFailure, match="gap"):
        stream.assert_contiguous()


# Pings


async def test_ping_comes_when_the_clock_says_so() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        await clock.advance(14.999)
        assert stream.comments == []
        await clock.advance(0.001)
        assert [comment.text.split(" - ")[0] for comment in stream.comments] == ["ping"]
        await clock.advance(45)
        assert len(stream.comments) == 4

        stream.assert_pings(every=15)
        with pytest.raises(StreamFailure, match="missing ping: 15 s of silence from 0 s on"):
            stream.assert_pings(every=10)
        with pytest.raises(StreamFailure, match="ping under data: at 15 s, 15 s after an event"):
            stream.assert_pings(every=30)


async def test_ping_that_has_not_come_yet_is_missing() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1), ping=60), clock=clock) as stream:
        await clock.advance(14)
        stream.assert_pings(every=15)
        await clock.advance(1)
        with pytest.raises(StreamFailure, match="missing ping: 15 s of silence from 0 s on"):
            stream.assert_pings(every=15)


async def test_nobody_owes_a_ping_to_who_does_not_read_or_has_gone() -> None:
    clock = Clock()

    async with connect(EventSourceResponse(numbers(1)), clock=clock) as stream:
        stream.stall()
        await clock.advance(100)
        stream.assert_pings(every=15)
        stream.leave()
        await clock.advance(100)
        stream.assert_pings(every=15)


async def test_silence_between_two_connections_is_none() -> None:
    clock = Clock()
    app = answering(lambda _: EventSourceResponse([{"data": "", "retry": 60_000}]))

    async with connect(app, clock=clock) as stream:
        await stream.until_ended()
        await stream.reconnect()
        await stream.until_ended()

        stream.assert_pings(every=15)


async def test_greeting_is_no_ping_under_data_and_real_pings_may_be_late() -> None:
    app = sending(START, body(": hello\n\n"), body("data: 1\n\n"), END)

    async with connect(app) as stream:
        await stream.until_ended()
        stream.assert_pings(every=100)
        stream.assert_pings(every=100, tolerance=1)


# Headers


async def test_headers_that_get_a_stream_through_proxies_pass() -> None:
    async with connect(EventSourceResponse(numbers(1))) as stream:
        stream.assert_headers()
        stream.assert_headers({"Cache-Control": "no-store", "X-None": None})


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "missing header: x-accel-buffering: no"),
        ({"x-accel-buffering": "yes"}, "missing header: x-accel-buffering: no; it is 'yes'"),
        ({"x-accel-buffering": "no"}, "missing header: cache-control: no-store; it is ''"),
        ({"x-accel-buffering": "no", "content-length": "3"}, "forbidden header: content-length"),
    ],
)
async def test_header_that_a_proxy_needs_is_missed(headers: dict[str, str], said: str) -> None:
    start = {**START, "headers": [*START["headers"]]}
    start["headers"] += [(name.encode(), value.encode()) for name, value in headers.items()]

    async with connect(sending(start, END)) as stream:
        with pytest.raises(StreamFailure, match=f"^{said}"):
            stream.assert_headers()
