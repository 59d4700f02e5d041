"""Filters: which events a client gets. See also test_channel_scenarios.py."""

from __future__ import annotations

import pytest
from tests.unit.driving import StillLoop, settled
from tests.unit.following import ManualLoop, fill, on_loop, opened, taken
from tests.unit.subscribing import MadeUpError, Promise, allow, even, reading, some_of, streaming

import sse_starlette.channels._parsed as parsed_module
from sse_starlette._stream.feed import JOINED_BYTES
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.event import ServerSentEvent, parse_frame

pytestmark = pytest.mark.anyio


def test_a_filter_gets_each_event_with_its_fields_and_its_id(loop: ManualLoop) -> None:
    channel = Channel("c")
    seen: list[ServerSentEvent] = []
    subscription = opened(channel.subscribe(filter=seen.append))
    channel.publish_nowait({"data": {"a": 1}, "event": "e", "retry": 5, "comment": "c"})

    taken(subscription)

    (event,) = seen
    assert (event.data, event.event, event.id) == ('{"a":1}', "e", f"{channel.epoch}.1")
    assert (event.retry, event.comment) == (5, "c")


def test_an_event_is_parsed_once_for_all_filters(
    loop: ManualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel("c")
    parsed: list[bytes] = []

    def parse(frame: bytes) -> ServerSentEvent:
        parsed.append(frame)
        return parse_frame(frame)

    monkeypatch.setattr(parsed_module, "parse_frame", parse)
    subscriptions = [opened(channel.subscribe(filter=even)) for _ in range(5)]

    fill(channel, 1, 10)

    for subscription in subscriptions:
        taken(subscription)
    assert len(parsed) == 10


@pytest.mark.parametrize(("events", "size"), [(2_000, 1), (20, 500_000)])
def test_parsed_events_are_soon_let_go(loop: ManualLoop, events: int, size: int) -> None:
    channel = Channel("c", history=10)
    subscription = opened(channel.subscribe(filter=lambda event: False))

    for _ in range(events):
        channel.publish_nowait("x" * size)
        taken(subscription)

    parsed = state_of(channel).parsed._events
    assert len(parsed) <= 256
    assert sum(len(event.data) for _, event in parsed.values()) < 2_000_000


@pytest.mark.parametrize("join", [True, False])
async def test_an_event_for_which_the_filter_raises_is_left_out_counted_and_passed(
    caplog: pytest.LogCaptureFixture, *, join: bool
) -> None:
    channel = Channel("c")

    def picky(event: ServerSentEvent) -> bool:
        if event.data in ("2", "3"):
            raise MadeUpError
        return True

    async with streaming(channel.subscribe(filter=picky), join_events=join) as exchange:
        fill(channel, 1, 5)
        await exchange.contains("data: 5\r\n")

    assert reading(exchange).data == ["1", "4", "5"]
    assert join or [chunk.count(b"data: ") for chunk in exchange.chunks] == [0, 1, 1, 1]
    assert (channel.stats().failures, channel.stats().delivered) == (2, 3)
    assert caplog.text.count("the filter failed") == 1


async def test_a_filter_whose_answer_has_to_be_awaited_lets_nothing_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel("c")
    answers = iter([allow(ServerSentEvent("x")), Promise(), True])
    subscription = channel.subscribe(filter=lambda event: next(answers))
    fill(channel, 1, 3)

    assert await some_of(subscription, 1) == ["3"]
    assert channel.stats().failures == 2
    assert "has to be awaited" in caplog.text


def test_filtered_events_are_joined_up_to_about_one_write(loop: ManualLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(filter=lambda event: True))
    assert taken(subscription)
    for _ in range(10):
        channel.publish_nowait("x" * (JOINED_BYTES // 4))

    sizes = [subscription._feed.take().count(b"data: ") for _ in range(4)]

    assert sizes == [4, 4, 2, 0]


@pytest.mark.parametrize("join", [True, False])
async def test_a_ping_carries_the_cursor_when_something_was_left_out(*, join: bool) -> None:
    channel = Channel("c")
    with on_loop(StillLoop()) as clock:
        async with streaming(channel.subscribe(filter=even), ping=15, join_events=join) as client:
            await clock.advance(15)
            assert client.chunks[-1].startswith(b": ping")
            assert b"id:" not in client.chunks[-1]

            fill(channel, 1, 3)
            await client.contains("data: 2\r\n")
            await settled()
            before = len(client.chunks)
            await clock.advance(15)
            assert f"id: {channel.epoch}.3\r\n\r\n".encode() in client.chunks[before]

            await clock.advance(15)
            assert b"id:" not in client.chunks[-1]

    assert reading(client).last_event_id == f"{channel.epoch}.3"


def test_no_ping_carries_a_cursor_that_the_client_may_not_have_yet(loop: ManualLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(filter=even, snapshot=lambda: ["x"]))

    assert subscription._feed.ping() == b""
