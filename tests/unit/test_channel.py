"""Channels: publish once, every subscriber gets it, and who comes back gets exactly what it missed."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import fastapi.sse
import pydantic
import pytest
from starlette.requests import HTTPConnection
from tests.unit.driving import (
    SEAT_BELT_SECONDS,
    Exchange,
    StillLoop,
    drive,
    http_scope,
    settled,
    until,
)
from tests.unit.following import (
    Client,
    Got,
    HandLoop,
    Hands,
    fill,
    numbers,
    on_loop,
    opened,
    read,
    stop_the_clock,
    taken,
)
from tests.unit.parsers import read_by_the_standard

import sse_starlette._stream.batching as batching_module
import sse_starlette._stream.source as source_module
import sse_starlette.channels._parsed as parsed_module
import sse_starlette.channels._reader as reader_module
from sse_starlette._stream.feed import JOINED_BYTES
from sse_starlette.channels._options import SubscribeOptions
from sse_starlette.channels._ring import Ring
from sse_starlette.channels._stats import ChannelStats
from sse_starlette.channels.channel import Channel, Gap, Subscription, state_of
from sse_starlette.errors import ChannelClosed, HistoryGap, SubscriberTooSlow
from sse_starlette.event import JSONServerSentEvent, ServerSentEvent, parse_frame
from sse_starlette.sse import EventSourceResponse


@pytest.fixture
def loop() -> Iterator[HandLoop]:
    with on_loop(HandLoop()) as loop:
        yield loop


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return stop_the_clock(monkeypatch)


def reading(exchange: Exchange) -> Client:
    client = Client()
    client.read(exchange.body)
    return client


def asking(header: str = "", **query: str) -> HTTPConnection:
    headers = [(b"last-event-id", header.encode())] if header else []
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return HTTPConnection(http_scope(headers=headers, query_string=text.encode()))


class MadeUpError(Exception):
    pass


async def note(subscription: Subscription, data: list[str]) -> None:
    """Iterate, so that others see at any time what has come."""
    async for event in subscription:
        data.append(event.data)  # noqa: PERF401


# --- Publishing


class Color(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Shouting(ServerSentEvent):
    def encode(self) -> bytes:
        return f"event: shout\ndata: {str(self.data).upper()}\n\n".encode()


VALUES = [
    pytest.param("text", b"data: text", id="text"),
    pytest.param("two\nlines", b"data: two\r\ndata: lines", id="two lines"),
    pytest.param("", b"data: ", id="empty text"),
    pytest.param(5, b"data: 5", id="number"),
    pytest.param(None, b"data: None", id="None"),
    pytest.param({"data": {"a": [1]}}, b'data: {"a":[1]}', id="dict"),
    pytest.param({"data": "x", "event": "tick"}, b"event: tick\r\ndata: x", id="named"),
    pytest.param({"data": "x", "event": None, "id": None}, b"data: x", id="None in fields"),
    pytest.param({"data": "x", "event": "a\tb"}, b"event: a\tb\r\ndata: x", id="tab in name"),
    pytest.param({"data": "x", "event": 5}, b"event: 5\r\ndata: x", id="number as name"),
    pytest.param({"data": "x", "sep": "\n"}, b"data: x", id="other line ends"),
    pytest.param({"data": "x", "event": Color.RED}, b"event: red\r\ndata: x", id="Enum as name"),
    pytest.param({"retry": 500}, b"retry: 500", id="only retry"),
    pytest.param({"comment": "hi\r\nyou"}, b": hi\r\n: you", id="only a comment"),
    pytest.param({}, b"", id="nothing"),
    pytest.param(["a", 1], b'data: ["a",1]', id="list"),
    pytest.param(Point(1, 2), b'data: {"x":1,"y":2}', id="dataclass"),
    pytest.param(UUID(int=0), b"data: 00000000-0000-0000-0000-000000000000", id="UUID"),
    pytest.param("\ud800", "data: \ufffd".encode(), id="lone surrogate"),
    pytest.param(ServerSentEvent("x", event="e", sep="\n"), b"event: e\r\ndata: x", id="event"),
    pytest.param(ServerSentEvent(), b"", id="empty event"),
    pytest.param(JSONServerSentEvent("x"), b'data: "x"', id="JSON event"),
    pytest.param(Shouting("hi"), b"event: shout\r\ndata: HI", id="event with an encode of its own"),
    pytest.param(b"data: x\n\n", b"data: x", id="bytes"),
    pytest.param(bytearray(b"event:e\rdata:x\r\r"), b"event: e\r\ndata: x", id="bytearray"),
    pytest.param(memoryview(b": c\r\n\r\n"), b": c", id="memoryview"),
    pytest.param(b"data: a\ndata: b\nretry: 5\n\n", b"data: a\r\ndata: b\r\nretry: 5", id="lines"),
]


@pytest.mark.parametrize(("value", "lines"), VALUES)
def test_whatever_a_stream_may_yield_can_be_published(
    loop: HandLoop, value: object, lines: bytes
) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe())
    taken(subscription)

    event_id = channel.publish_nowait(value)

    body = lines + b"\r\n" if lines else b""
    assert taken(subscription) == f"id: {event_id}\r\n".encode() + body + b"\r\n"


@pytest.mark.parametrize(("value", "lines"), VALUES)
def test_what_is_published_is_not_written_to(value: object, lines: bytes) -> None:
    before = repr(value)

    Channel("c").publish_nowait(value)

    assert repr(value) == before


def test_ids_count_from_one_without_a_gap() -> None:
    channel = Channel("c")

    ids = [channel.publish_nowait(number) for number in range(3)]

    assert ids == [f"{channel.epoch}.{offset}" for offset in (1, 2, 3)]
    assert channel.last_event_id == ids[-1]
    assert ids[-1] in repr(channel)


def test_no_two_channels_have_the_same_epoch() -> None:
    assert len({Channel("c").epoch for _ in range(50)}) == 50


class Counting:
    """Data that knows how often it was turned into text."""

    def __init__(self) -> None:
        self.times = 0

    def __str__(self) -> str:
        self.times += 1
        return "data"


@pytest.mark.parametrize(
    "event",
    [
        lambda data: data,
        lambda data: {"data": data},
        lambda data: {"data": data, "event": "e"},
        lambda data: {"data": data, "event": 5, "sep": "\n"},
        lambda data: ServerSentEvent(data, event="e"),
    ],
    ids=["data", "dict", "named", "unusual", "event"],
)
def test_an_event_is_encoded_once_whoever_listens(
    loop: HandLoop, event: Callable[[object], object]
) -> None:
    channel = Channel("c")
    subscriptions = [opened(channel.subscribe()) for _ in range(5)]
    for subscription in subscriptions:
        taken(subscription)
    data = Counting()

    channel.publish_nowait(event(data))

    frames = [subscription.take() for subscription in subscriptions]
    assert data.times == 1
    assert b"data: data" in frames[0]
    assert all(frame is frames[0] for frame in frames)


@pytest.mark.parametrize(
    "value",
    [
        {"data": "x", "id": "5"},
        {"data": "x", "id": 0},
        {"data": "x", "id": ""},
        ServerSentEvent("x", id="5"),
        b"id: 5\ndata: x\n\n",
        b"data: x\nid\n\n",
    ],
)
def test_an_event_with_an_id_of_its_own_is_refused(value: object) -> None:
    channel = Channel("c")

    with pytest.raises(ValueError, match="a channel numbers its events itself"):
        channel.publish_nowait(value)

    assert channel.stats().published == 0


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\r\n"])
@pytest.mark.parametrize(
    "event",
    [
        lambda name: {"data": "x", "event": name},
        lambda name: {"data": "x", "event": name, "retry": 5},
        lambda name: ServerSentEvent("x", event=name),
    ],
    ids=["dict", "larger dict", "event"],
)
def test_a_name_that_would_not_arrive_as_it_is_is_refused(
    character: str, event: Callable[[str], object]
) -> None:
    channel = Channel("c")

    with pytest.raises(ValueError, match=r"event holds (CR|LF|NUL)"):
        channel.publish_nowait(event(f"a{character}data: evil"))

    assert channel.stats().published == 0


def test_a_nul_in_the_name_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="event holds NUL"):
        Channel("c").publish_nowait(b"event: a\0b\ndata: x\n\n")


class Unnameable(Enum):
    NAME = "a\nb"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"data": {1, 2}, "dta": 1}, TypeError),
        ({1: 2}, TypeError),
        ({"data": {"a": object()}}, TypeError),
        ({"data": {"a": float("nan")}}, ValueError),
        ({"data": "x", "retry": -1}, ValueError),
        ({"data": "x", "retry": "5"}, TypeError),
        ({"data": "x", "event": b"e"}, TypeError),
        ({"data": "x", "event": True}, TypeError),
        ({"data": "x", "event": Unnameable.NAME}, ValueError),
        ({"data": "x", "sep": "x"}, ValueError),
        (b"data: x", ValueError),
        (b"data: x\n\ndata: y\n\n", ValueError),
        (b"", ValueError),
    ],
)
def test_what_can_not_be_encoded_raises_and_takes_no_offset(
    value: object, error: type[Exception]
) -> None:
    channel = Channel("c")

    with pytest.raises(error):
        channel.publish_nowait(value, key="k")

    assert channel.publish_nowait("fine", key="k") == f"{channel.epoch}.1"


@pytest.mark.parametrize(
    "latest_by",
    [lambda event: [event.data], lambda event: 1 / 0, lambda event: allow(ServerSentEvent(event))],
)
def test_what_has_no_key_is_not_published(latest_by: Callable[[ServerSentEvent], object]) -> None:
    channel = Channel("c", slow="latest", latest_by=latest_by)

    with pytest.raises((TypeError, ZeroDivisionError)):
        channel.publish_nowait("x")

    assert channel.stats().published == 0
    assert channel.last_event_id == f"{channel.epoch}.0"


def test_a_key_of_the_newest_that_has_to_be_awaited_is_refused() -> None:
    channel = Channel("c", slow="latest", latest_by=lambda event: Promise())

    with pytest.raises(TypeError, match="latest_by returned Promise, which has to be awaited"):
        channel.publish_nowait("x")


def test_the_same_key_is_not_published_twice(loop: HandLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe())

    ids = [channel.publish_nowait(text, key="k") for text in ("one", "two")]
    other = channel.publish_nowait("three", key="another")

    assert ids[0] == ids[1] != other
    assert [one.data for one in read(subscription)] == ["one", "three"]


def test_a_key_is_forgotten_after_120_seconds(hands: Hands) -> None:
    channel = Channel("c")
    first = channel.publish_nowait("x", key="k")
    hands.now += 60
    later = channel.publish_nowait("y", key="l")

    hands.now += 59.9
    assert channel.publish_nowait("x", key="k") == first
    hands.now += 0.1
    again = channel.publish_nowait("x", key="k")

    assert again == f"{channel.epoch}.3"
    assert channel.publish_nowait("y", key="l") == later
    assert vars(state_of(channel))["_ids_by_key"].keys() == {"k", "l"}


def test_a_key_that_is_tried_again_does_not_live_longer(hands: Hands) -> None:
    channel = Channel("c")
    channel.publish_nowait("x", key="k")

    hands.now += 100
    channel.publish_nowait("x", key="k")
    hands.now += 100

    assert channel.publish_nowait("x", key="k") == f"{channel.epoch}.2"


def test_the_answer_to_a_second_try_is_the_same_when_the_channel_has_been_closed() -> None:
    channel = Channel("c")
    event_id = channel.publish_nowait("x", key="k")

    channel.close()

    assert channel.publish_nowait("x", key="k") == event_id


def test_threads_that_try_the_same_key_publish_it_once() -> None:
    channel = Channel("c")
    together = threading.Barrier(4)

    def publish() -> list[str]:
        together.wait(SEAT_BELT_SECONDS)
        return [channel.publish_nowait(key, key=str(key)) for key in range(200)]

    with ThreadPoolExecutor(4) as pool:
        answers = [future.result() for future in [pool.submit(publish) for _ in range(4)]]

    assert channel.stats().published == 200
    assert all(answer == answers[0] for answer in answers)
    assert len(set(answers[0])) == 200


def test_threads_that_publish_at_the_same_time_leave_no_gap(loop: HandLoop) -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    together = threading.Barrier(4)

    def publish(name: str) -> list[str]:
        together.wait(SEAT_BELT_SECONDS)
        return [channel.publish_nowait(f"{name} {number}") for number in range(200)]

    with ThreadPoolExecutor(4) as pool:
        ids = [
            event_id
            for future in [pool.submit(publish, name) for name in "abcd"]
            for event_id in future.result()
        ]

    got = read(opened(subscription))
    assert [one.id for one in got] == [f"{channel.epoch}.{n}" for n in range(1, 801)]
    assert {one.id for one in got} == set(ids)
    for name in "abcd":
        mine = [one.data for one in got if one.data.startswith(name)]
        assert mine == [f"{name} {number}" for number in range(200)]


@pytest.mark.anyio
async def test_publish_gives_others_a_turn() -> None:
    channel = Channel("c")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            while turns < 3:
                await channel.publish("x")
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_cancelled_publish_has_published_nothing() -> None:
    channel = Channel("c")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await channel.publish("x")

    assert scope.cancelled_caught
    assert channel.stats().published == 0
    assert await channel.publish("y") == f"{channel.epoch}.1"


@pytest.mark.anyio
async def test_publish_has_the_same_contract_as_publish_nowait() -> None:
    channel = Channel("c")

    event_id = await channel.publish("x", key="k")

    assert await channel.publish("x", key="k") == event_id
    assert channel.publish_nowait("x", key="k") == event_id
    assert channel.publish_threadsafe("x", key="k").result(0) == event_id
    with pytest.raises(TypeError):
        await channel.publish({"dta": 1})
    channel.close()
    with pytest.raises(ChannelClosed):
        await channel.publish("y")


def test_publish_nowait_does_not_suspend_and_needs_no_loop() -> None:
    assert isinstance(Channel("c").publish_nowait("x"), str)


def test_publish_threadsafe_hands_out_what_publish_raises() -> None:
    channel = Channel("c")

    future = channel.publish_threadsafe({"dta": 1})

    assert isinstance(future.exception(0), TypeError)


@pytest.mark.anyio
async def test_publishing_in_a_thread_wakes_who_waits() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    got: list[str] = []

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note, subscription, got)
            await settled()
            future = await anyio.to_thread.run_sync(channel.publish_threadsafe, "from a thread")
            await until(lambda: got)
            channel.close()

    assert got == ["from a thread"]
    assert future.result(0) == f"{channel.epoch}.1"


@pytest.mark.anyio
async def test_nobody_looks_for_news_while_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel("c")
    reads = 0
    state = state_of(channel)
    real = state.read

    def counted(ring: Ring, after: int) -> tuple[bytes, int] | None:
        nonlocal reads
        reads += 1
        return real(ring, after)

    monkeypatch.setattr(state, "read", counted)
    async with drive(EventSourceResponse(channel.subscribe())) as client:
        await settled()
        before = reads
        await settled()
        await settled()
        assert reads == before
        await anyio.to_thread.run_sync(channel.publish_nowait, "news")
        await client.contains("news")


def test_loops_in_several_threads_share_a_channel() -> None:
    channel = Channel("c")
    ready = threading.Barrier(4)

    async def follow() -> list[str]:
        subscription = channel.subscribe()
        await anyio.to_thread.run_sync(ready.wait, SEAT_BELT_SECONDS)
        with anyio.fail_after(SEAT_BELT_SECONDS):
            return [event.data async for event in subscription]

    async def publish() -> list[str]:
        await anyio.to_thread.run_sync(ready.wait, SEAT_BELT_SECONDS)
        for number in range(300):
            await channel.publish(number)
        channel.close()
        return numbers(0, 299)

    def run(
        program: Callable[[], Awaitable[list[str]]], backend: str, **options: bool
    ) -> list[str]:
        return anyio.run(program, backend=backend, backend_options=options)

    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(run, follow, "asyncio"),
            pool.submit(run, follow, "asyncio", use_uvloop=True),
            pool.submit(run, follow, "trio"),
            pool.submit(run, publish, "asyncio"),
        ]
        got = [run.result(2 * SEAT_BELT_SECONDS) for run in runs]

    assert got == [numbers(0, 299)] * 4
    assert channel.stats().subscribers == 0
    assert channel.stats().delivered == 900


def test_a_loop_that_was_closed_in_mid_stream_is_forgotten() -> None:
    channel = Channel("c")
    loop = asyncio.new_event_loop()
    subscription = channel.subscribe()

    async def begin() -> None:
        task = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        task.cancel()

    loop.run_until_complete(begin())
    loop.close()
    assert channel.stats().subscribers == 1

    channel.publish_nowait("x")

    assert channel.stats().subscribers == 0
    channel.publish_nowait("y")


def test_two_loops_one_after_the_other_share_a_channel() -> None:
    channel = Channel("c")

    async def follow(number: int) -> str:
        async with channel.subscribe() as subscription:
            await channel.publish(number)
            return str((await anext(subscription)).data)

    assert [anyio.run(follow, number) for number in range(3)] == ["0", "1", "2"]


# --- Where a subscription begins


def test_a_new_client_gets_what_is_published_from_now_on(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 3)

    subscription = opened(channel.subscribe())
    fill(channel, 4, 5)

    assert [one.data for one in read(subscription)] == ["4", "5"]


def test_nothing_that_is_published_after_subscribe_is_missed_however_late_it_is_streamed(
    loop: HandLoop,
) -> None:
    channel = Channel("c")
    subscription = channel.subscribe()

    fill(channel, 1, 500)

    assert [one.data for one in read(opened(subscription))] == numbers(1, 500)


def test_the_first_block_is_an_id_that_fires_no_event(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    first = opened(channel.subscribe()).take()

    assert first == f"id: {channel.epoch}.2\r\n\r\n".encode()
    reading = read_by_the_standard([first])
    assert (reading.fired, reading.last_event_id) == ([], f"{channel.epoch}.2")


def test_a_client_that_got_nothing_and_was_cut_gets_exactly_what_it_missed(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 7)
    client = Client()
    subscription = opened(channel.subscribe())
    assert read(subscription, client) == []
    subscription.stop()

    fill(channel, 8, 10)

    read(opened(channel.subscribe(client.cut())), client)
    assert client.data == ["8", "9", "10"]


def test_who_comes_back_gets_what_it_missed_at_the_first_look(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 20)

    subscription = opened(channel.subscribe(f"{channel.epoch}.4"))

    assert not subscription.has_work
    client = Client()
    client.read(subscription.take())
    assert client.data == numbers(5, 20)
    assert [one.id for one in client.got] == [f"{channel.epoch}.{n}" for n in range(5, 21)]
    assert subscription.take() == b""


def test_who_has_everything_is_sent_nothing_first(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 3)

    subscription = opened(channel.subscribe(channel.last_event_id))

    assert subscription.take() == b""
    assert subscription.ping() == b""
    fill(channel, 4, 4)
    assert read(subscription) == [Got("message", "4", f"{channel.epoch}.4")]


def test_where_a_client_left_off_is_read_from_its_request(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 5)

    def first(request: HTTPConnection) -> list[str]:
        return [one.data for one in read(opened(channel.subscribe(request)))]

    at = [f"{channel.epoch}.{offset}" for offset in range(6)]
    assert first(asking()) == []
    assert first(asking(at[3])) == ["4", "5"]
    assert first(asking(last_event_id=at[3])) == ["4", "5"]
    assert first(asking(at[4], last_event_id=at[1])) == ["5"]
    assert first(asking(lastEventId=at[4])) == ["5"]
    assert first(asking(lastEventId=at[1])) == numbers(2, 5)


@pytest.mark.parametrize(
    ("last_event_id", "reason"),
    [
        pytest.param("nonsense", "unknown", id="malformed"),
        pytest.param("x" * 1_000_000, "unknown", id="a megabyte"),
        pytest.param("{epoch}.\u0661", "unknown", id="digits of Arabic"),
        pytest.param("{epoch}.-1", "unknown", id="negative"),
        pytest.param("{epoch}." + "9" * 5_000, "unknown", id="endless"),
        pytest.param("\r\nid: 5\r\n\r\n", "unknown", id="line breaks"),
        pytest.param("\0", "unknown", id="NUL"),
        pytest.param("{other}.2", "epoch", id="another channel"),
        pytest.param("00000000.2", "epoch", id="another epoch"),
        pytest.param("{other}.2-00000000.3", "epoch", id="other channels"),
        pytest.param("{epoch}.6", "future", id="the future"),
        pytest.param("{epoch}.999999999999999999", "future", id="the far future"),
        pytest.param("{epoch}.1", "trimmed", id="trimmed away"),
        pytest.param("{epoch}.0", "trimmed", id="before all"),
        pytest.param("{other}.2-{epoch}.1", "trimmed", id="trimmed away, of several"),
    ],
)
def test_an_id_that_can_not_be_resumed_leads_to_one_reset_and_then_live(
    loop: HandLoop, last_event_id: str, reason: str
) -> None:
    channel = Channel("c", history=3)
    fill(channel, 1, 5)
    other = Channel("other")
    fill(other, 101, 103)
    asked = last_event_id.replace("{epoch}", channel.epoch).replace("{other}", other.epoch)
    client = Client()

    subscription = opened(channel.subscribe(asked))

    (reset,) = read(subscription, client)
    cursor = f"{channel.epoch}.5"
    assert reset.reset == {"reason": reason, "channel": "c", "cursor": cursor}
    assert (reset.id, client.last_event_id, client.blocks) == (cursor, cursor, 1)
    fill(channel, 6, 7)
    fill(other, 104, 104)
    assert [one.data for one in read(subscription, client)] == ["6", "7"]
    assert channel.stats().resets == {reason: 1}
    again = opened(channel.subscribe(client.cut()))
    assert taken(again) == b""


def test_the_last_position_that_can_be_resumed_is_the_one_before_the_oldest_kept(
    loop: HandLoop,
) -> None:
    channel = Channel("c", history=3)
    fill(channel, 1, 5)

    assert [one.data for one in read(opened(channel.subscribe(f"{channel.epoch}.2")))] == [
        "3",
        "4",
        "5",
    ]
    assert channel.stats().resets == {}


def test_an_id_of_several_channels_is_good_for_each_of_them(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 5)

    subscription = opened(channel.subscribe(f"00000000.7-{channel.epoch}.3"))

    assert [one.data for one in read(subscription)] == ["4", "5"]


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_id_is_that_of_a_new_client(loop: HandLoop, nothing: str | None) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    assert read(opened(channel.subscribe(nothing))) == []
    assert channel.stats().resets == {}


@pytest.mark.parametrize(
    ("replay", "data"),
    [(0, []), (1, ["5"]), (3, ["3", "4", "5"]), (4, ["3", "4", "5"]), (10**30, ["3", "4", "5"])],
    ids=["none", "one", "all that are kept", "more", "far more"],
)
def test_a_new_client_can_have_the_newest_events_first(
    loop: HandLoop, replay: int, data: list[str]
) -> None:
    channel = Channel("c", history=3)
    fill(channel, 1, 5)

    assert [one.data for one in read(opened(channel.subscribe(replay=replay)))] == data


@pytest.mark.parametrize(("replay", "first"), [(0, 6), (1, 5), (5, 1), (6, 1), (10**30, 1)])
def test_replayed_events_come_before_the_live_ones(loop: HandLoop, replay: int, first: int) -> None:
    channel = Channel("c")
    fill(channel, 1, 5)

    subscription = opened(channel.subscribe(replay=replay))
    fill(channel, 6, 7)

    first_block = subscription.take()
    assert first_block == f"id: {channel.epoch}.{first - 1}\r\n\r\n".encode()
    assert [one.data for one in read(subscription)] == numbers(first, 7)


def test_who_comes_back_gets_no_replay(loop: HandLoop) -> None:
    channel = Channel("c")
    fill(channel, 1, 5)

    assert read(opened(channel.subscribe(channel.last_event_id, replay=3))) == []
    (reset,) = read(opened(channel.subscribe("nonsense", replay=3)))
    assert reset.event == "reset"


def test_a_replay_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="replay must be >= 0 events, got: -1"):
        Channel("c").subscribe(replay=-1)


def test_an_id_that_is_no_text_is_refused_where_it_was_written() -> None:
    with pytest.raises((TypeError, AttributeError)):
        Channel("c").subscribe(b"ab.1")  # type: ignore[arg-type]


# --- One response


@pytest.mark.anyio
async def test_a_subscription_is_streamed_by_a_response() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    async with drive(EventSourceResponse(channel.subscribe(f"{channel.epoch}.1"))) as client:
        await client.contains("data: 2\r\n")
        await channel.publish("3")
        await client.contains("data: 3\r\n")
        channel.close()
        await client.returns()

    assert (client.status, client.complete) == (200, True)
    assert reading(client).data == ["2", "3"]


@pytest.mark.anyio
async def test_events_of_one_turn_leave_together_and_one_leaves_at_once() -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe())) as client:
        await client.chunk(0)
        fill(channel, 1, 50)
        await client.contains("data: 50\r\n")
        await settled()
        before = len(client.chunks)
        fill(channel, 51, 51)
        await client.contains("data: 51\r\n")

    assert before <= 3
    assert reading(client).data == numbers(1, 51)


@pytest.mark.anyio
async def test_events_that_must_not_be_joined_leave_one_by_one() -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    response = EventSourceResponse(channel.subscribe("nonsense"), join_events=False)
    fill(channel, 4, 8)

    async with drive(response) as client:
        await client.contains("data: 8\r\n")

    assert [chunk.count(b"\r\n\r\n") for chunk in client.chunks] == [1] * 6


@pytest.mark.anyio
async def test_a_snapshot_that_must_not_be_joined_leaves_in_single_events() -> None:
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: ["a", "b"])

    async with drive(EventSourceResponse(subscription, join_events=False)) as client:
        await client.contains(f"id: {channel.epoch}.0\r\n\r\n")

    assert [chunk.count(b"\r\n\r\n") for chunk in client.chunks] == [1, 1, 1]


@pytest.mark.anyio
async def test_a_client_that_leaves_is_a_subscriber_no_more() -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe())) as client:
        await client.chunk(0)
        assert channel.stats().subscribers == 1
        client.leave()
        await client.returns()

    assert channel.stats().subscribers == 0
    assert state_of(channel)._fanouts == {}


@pytest.mark.anyio
async def test_the_answer_to_head_has_no_body_and_leaves_nothing_behind() -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    asked: list[str] = []

    def snapshot() -> list[str]:
        asked.append("snapshot")
        return ["snapshot"]

    for subscription in (
        channel.subscribe(),
        channel.subscribe(f"{channel.epoch}.1"),
        channel.subscribe("nonsense", snapshot=snapshot),
    ):
        async with drive(
            EventSourceResponse(subscription), scope=http_scope(method="HEAD")
        ) as client:
            await client.returns()
        assert (client.status, client.body, client.complete) == (200, b"", True)

    assert asked == []
    assert channel.stats().subscribers == 0
    assert channel.stats().delivered == 0


@pytest.mark.anyio
@pytest.mark.parametrize("first", ["streamed", "iterated", "closed"])
@pytest.mark.parametrize("then", ["streamed", "iterated"])
async def test_a_subscription_can_be_used_once(first: str, then: str) -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    channel.publish_nowait("x")
    if first == "streamed":
        async with drive(EventSourceResponse(subscription)) as client:
            await client.contains("data: x\r\n")
    elif first == "iterated":
        await anext(subscription)
    else:
        await subscription.aclose()

    if then == "streamed":
        async with drive(EventSourceResponse(subscription)) as client:
            error = await client.raises(RuntimeError)
        assert "once" in str(error)
    elif first != "iterated":
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)

    await subscription.aclose()
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
async def test_what_is_being_streamed_can_not_be_iterated_too() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    async with drive(EventSourceResponse(subscription)) as client:
        await client.chunk(0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can be streamed or iterated once"):
                await anext(subscription)
        await channel.publish("x")
        await client.contains("data: x\r\n")


# --- Iteration


@pytest.mark.anyio
async def test_a_subscription_yields_events_with_their_ids() -> None:
    channel = Channel("c")
    fill(channel, 1, 2, event="number")

    async with channel.subscribe("nonsense", filter=None) as subscription:
        fill(channel, 3, 4, event="number")
        channel.close()
        got = [event async for event in subscription]
        assert subscription.last_event_id == f"{channel.epoch}.4"

    assert [(one.event, one.data, one.id) for one in got[1:]] == [
        ("number", "3", f"{channel.epoch}.3"),
        ("number", "4", f"{channel.epoch}.4"),
    ]
    assert got[0].event == "reset"
    assert json.loads(got[0].data)["reason"] == "unknown"
    assert got[0].id == f"{channel.epoch}.2"


@pytest.mark.anyio
async def test_blocks_that_fire_no_event_are_not_yielded() -> None:
    channel = Channel("c")
    async with channel.subscribe() as subscription:
        for value in ({"retry": 5}, {"comment": "x"}, ServerSentEvent(), "x", {"event": "y"}):
            channel.publish_nowait(value)
        channel.close()

        got = [(event.event, event.data) async for event in subscription]

    assert got == [(None, "x"), ("y", None)]


@pytest.mark.anyio
async def test_a_cancelled_wait_loses_no_event() -> None:
    channel = Channel("c")
    got: list[str] = []

    async with channel.subscribe() as subscription:
        for number in range(1, 30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def publish_and_cancel(
                        number: int = number, scope: anyio.CancelScope = scope
                    ) -> None:
                        for _ in range(number % 4):
                            await anyio.lowlevel.checkpoint()
                        fill(channel, number, number)
                        scope.cancel()

                    tasks.start_soon(publish_and_cancel)
                    await note(subscription, got)
        channel.close()
        got += [event.data async for event in subscription]

    assert got == numbers(1, 29)


@pytest.mark.anyio
async def test_closing_a_subscription_ends_the_wait_for_its_next_event() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    ended = anyio.Event()

    async def follow() -> None:
        async for _ in subscription:
            raise AssertionError
        ended.set()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await settled()
            await subscription.aclose()
            await ended.wait()


@pytest.mark.anyio
async def test_a_closed_subscription_yields_nothing_more() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    fill(channel, 1, 3)
    assert (await anext(subscription)).data == "1"

    await subscription.aclose()
    await subscription.aclose()

    with pytest.raises(StopAsyncIteration):
        await anext(subscription)
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
async def test_a_streamed_subscription_that_is_closed_ends_its_response() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    async with drive(EventSourceResponse(subscription)) as client:
        await client.chunk(0)
        await subscription.aclose()
        await client.returns()

    assert client.complete


@pytest.mark.anyio
async def test_a_subscription_that_was_never_opened_is_not_kept_alive() -> None:
    channel = Channel("c")
    gone = weakref.ref(channel.subscribe(filter=bool, snapshot=list))

    gc.collect()

    assert gone() is None
    assert not state_of(channel)._subscriptions


@pytest.mark.anyio
async def test_an_iteration_that_was_abandoned_is_not_kept_alive() -> None:
    channel = Channel("c")
    subscription = channel.subscribe()
    channel.publish_nowait("x")
    await anext(subscription)
    gone = weakref.ref(subscription)

    del subscription
    gc.collect()

    assert gone() is None
    assert channel.stats().subscribers == 0
    channel.publish_nowait("y")


# --- Filters


def even(event: ServerSentEvent) -> bool:
    return int(event.data) % 2 == 0


def test_what_a_filter_leaves_out_makes_no_gap(loop: HandLoop) -> None:
    channel = Channel("c")
    client = Client()
    subscription = opened(channel.subscribe(filter=even))

    fill(channel, 1, 5)

    assert [one.id for one in read(subscription, client)] == [
        f"{channel.epoch}.2",
        f"{channel.epoch}.4",
    ]
    assert channel.stats().delivered == 2
    subscription.stop()
    fill(channel, 6, 7)
    read(opened(channel.subscribe(client.cut(), filter=even)), client)
    assert client.data == ["2", "4", "6"]


def test_a_client_whose_filter_takes_nothing_does_not_fall_behind(loop: HandLoop) -> None:
    channel = Channel("c", history=10)
    subscription = opened(channel.subscribe(filter=lambda event: False))
    client = Client()
    read(subscription, client)

    for first in range(1, 100, 10):
        fill(channel, first, first + 9)
        assert subscription.take() == b""

    assert not subscription.ended
    client.read(subscription.ping())
    assert client.last_event_id == f"{channel.epoch}.100"
    assert subscription.ping() == b""
    assert read(opened(channel.subscribe(client.cut())), client) == []


def test_a_filter_gets_each_event_with_its_fields_and_its_id(loop: HandLoop) -> None:
    channel = Channel("c")
    seen: list[ServerSentEvent] = []
    subscription = opened(channel.subscribe(filter=seen.append))
    channel.publish_nowait({"data": {"a": 1}, "event": "e", "retry": 5, "comment": "c"})

    taken(subscription)

    (event,) = seen
    assert (event.data, event.event, event.id) == ('{"a":1}', "e", f"{channel.epoch}.1")
    assert (event.retry, event.comment) == (5, "c")


def test_an_event_is_parsed_once_for_all_filters(
    loop: HandLoop, monkeypatch: pytest.MonkeyPatch
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
def test_parsed_events_are_soon_let_go(loop: HandLoop, events: int, size: int) -> None:
    channel = Channel("c", history=10)
    subscription = opened(channel.subscribe(filter=lambda event: False))

    for _ in range(events):
        channel.publish_nowait("x" * size)
        taken(subscription)

    parsed = state_of(channel).parsed._events
    assert len(parsed) <= 256
    assert sum(len(event.data) for _, event in parsed.values()) < 2_000_000


@pytest.mark.anyio
@pytest.mark.parametrize("join", [True, False])
async def test_an_event_for_which_the_filter_raises_is_left_out_counted_and_passed(
    caplog: pytest.LogCaptureFixture, *, join: bool
) -> None:
    channel = Channel("c")

    def picky(event: ServerSentEvent) -> bool:
        if event.data in ("2", "3"):
            raise MadeUpError
        return True

    response = EventSourceResponse(channel.subscribe(filter=picky), join_events=join)
    async with drive(response) as exchange:
        await exchange.chunk(0)
        fill(channel, 1, 5)
        await exchange.contains("data: 5\r\n")

    assert reading(exchange).data == ["1", "4", "5"]
    assert (channel.stats().failures, channel.stats().delivered) == (2, 3)
    assert caplog.text.count("the filter failed") == 1


async def allow(event: ServerSentEvent) -> bool:
    return True


class Promise:
    """What has to be awaited and is no coroutine, as a future is."""

    def __await__(self) -> Iterator[None]:
        raise NotImplementedError


@pytest.mark.anyio
async def test_a_filter_whose_answer_has_to_be_awaited_lets_nothing_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel("c")
    answers = iter([allow(ServerSentEvent("x")), Promise(), True])
    async with channel.subscribe(filter=lambda event: next(answers)) as subscription:
        fill(channel, 1, 3)
        assert (await anext(subscription)).data == "3"

    assert channel.stats().failures == 2
    assert "has to be awaited" in caplog.text


@pytest.mark.anyio
async def test_a_filter_and_single_sends_go_together() -> None:
    channel = Channel("c")
    response = EventSourceResponse(channel.subscribe(filter=even), join_events=False)

    async with drive(response) as client:
        await client.chunk(0)
        fill(channel, 1, 9)
        await client.contains("data: 8\r\n")

    assert [chunk.count(b"data: ") for chunk in client.chunks] == [0, 1, 1, 1, 1]
    assert reading(client).data == ["2", "4", "6", "8"]


def test_filtered_events_are_joined_up_to_about_one_write(loop: HandLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(filter=lambda event: True))
    assert taken(subscription)
    for _ in range(10):
        channel.publish_nowait("x" * (JOINED_BYTES // 4))

    sizes = [subscription.take().count(b"data: ") for _ in range(4)]

    assert sizes == [4, 4, 2, 0]


@pytest.mark.anyio
async def test_a_ping_carries_the_cursor_when_something_was_left_out() -> None:
    channel = Channel("c")
    with on_loop(StillLoop()) as clock:
        async with drive(EventSourceResponse(channel.subscribe(filter=even), ping=15)) as client:
            await client.chunk(0)
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
            assert b"id:" not in client.chunks[before + 1]

    assert reading(client).last_event_id == f"{channel.epoch}.3"


@pytest.mark.anyio
async def test_a_ping_that_must_not_be_joined_carries_the_cursor_too() -> None:
    channel = Channel("c")
    response = EventSourceResponse(channel.subscribe(filter=even), ping=15, join_events=False)
    with on_loop(StillLoop()) as clock:
        async with drive(response) as client:
            await client.chunk(0)
            fill(channel, 1, 3)
            await client.contains("data: 2\r\n")
            await settled()
            await clock.advance(15)

    assert reading(client).last_event_id == f"{channel.epoch}.3"


def test_no_ping_carries_a_cursor_that_the_client_may_not_have_yet(loop: HandLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(filter=even, snapshot=lambda: ["x"]))

    assert subscription.ping() == b""


# --- What the application says first


async def listed(*events: object) -> list[object]:
    return list(events)


async def generated(*events: object) -> AsyncIterator[object]:
    for event in events:
        await anyio.lowlevel.checkpoint()
        yield event


class Iterated:
    """An async iterable that can't be closed."""

    def __init__(self, *events: object) -> None:
        self._events = list(events)

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        if self._events:
            return self._events.pop(0)
        raise StopAsyncIteration


FORMS: list[Any] = [
    pytest.param(lambda *events: list(events), id="list"),
    pytest.param(lambda *events: (event for event in events), id="generator"),
    pytest.param(listed, id="async function"),
    pytest.param(generated, id="async generator"),
    pytest.param(Iterated, id="async iterable"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_a_new_client_gets_the_snapshot_first(form: Callable[..., Any]) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe(snapshot=lambda: form({"event": "all", "data": "1, 2"}, "x"))
    fill(channel, 3, 3)

    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains("data: 3\r\n")

    got = reading(client).got
    assert [(one.event, one.data) for one in got] == [
        ("all", "1, 2"),
        ("message", "x"),
        ("message", "3"),
    ]
    assert [one.id for one in got] == ["", "", f"{channel.epoch}.3"]
    assert f"data: x\r\n\r\nid: {channel.epoch}.2\r\n\r\n".encode() in client.body


@pytest.mark.anyio
@pytest.mark.parametrize(
    "one",
    [
        "x",
        b"data: x\n\n",
        {"data": "x"},
        ServerSentEvent("x"),
        fastapi.sse.ServerSentEvent(raw_data="x"),
    ],
)
async def test_a_snapshot_may_be_one_event(one: Any) -> None:
    subscription = Channel("c").subscribe(snapshot=lambda: one)

    assert (await anext(subscription)).data == "x"
    await subscription.aclose()


class Model(pydantic.BaseModel):
    x: int = 1


@pytest.mark.anyio
async def test_a_snapshot_may_be_a_model_which_python_can_iterate() -> None:
    subscription = Channel("c").subscribe(snapshot=Model)

    assert (await anext(subscription)).data == '{"x":1}'
    await subscription.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("made", [None, 3, len])
async def test_a_snapshot_of_no_events_says_what_a_snapshot_is(made: Any) -> None:
    subscription = Channel("c").subscribe(snapshot=lambda: made)

    with pytest.raises(TypeError, match=rf"has returned {type(made).__name__}: a snapshot and on_"):
        await anext(subscription)
    await subscription.aclose()


@pytest.mark.anyio
async def test_a_snapshot_whose_cleanup_fails_has_been_sent_and_the_channel_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Rows(AsyncIterator[str]):
        left = 1

        async def __anext__(self) -> str:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return "row"

        def close(self) -> None:
            raise ZeroDivisionError("made up")

    channel = Channel("c")
    subscription = channel.subscribe(snapshot=Rows)
    channel.publish_nowait("after it")

    assert [(await anext(subscription)).data for _ in range(2)] == ["row", "after it"]
    await subscription.aclose()
    assert "error in the cleanup of" in caplog.text


@pytest.mark.anyio
async def test_a_snapshot_may_be_closed_without_waiting() -> None:
    closed: list[str] = []

    class Rows(AsyncIterator[str]):
        async def __anext__(self) -> str:
            raise StopAsyncIteration

        def close(self) -> None:
            closed.append("rows")

    channel = Channel("c")
    subscription = channel.subscribe(snapshot=Rows)
    channel.publish_nowait("x")

    assert (await anext(subscription)).data == "x"
    await subscription.aclose()
    assert closed


@pytest.mark.anyio
async def test_who_comes_back_without_a_gap_needs_no_snapshot() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe(f"{channel.epoch}.1", snapshot=lambda: ["x"], on_gap=listed)

    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains("data: 2\r\n")

    assert reading(client).data == ["2"]
    assert channel.stats().resets == {}


@pytest.mark.anyio
async def test_who_is_told_of_a_gap_gets_the_snapshot_after_it() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe("nonsense", snapshot=lambda: generated("snapshot"))
    fill(channel, 3, 3)

    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains("data: 3\r\n")

    got = reading(client).got
    assert [one.event for one in got] == ["reset", "message", "message"]
    assert [one.data for one in got[1:]] == ["snapshot", "3"]
    assert [one.id for one in got] == ["", "", f"{channel.epoch}.3"]


@pytest.mark.anyio
@pytest.mark.parametrize("form", FORMS)
async def test_the_events_of_on_gap_take_the_place_of_the_reset(form: Callable[..., Any]) -> None:
    channel = Channel("c", history=1)
    fill(channel, 1, 5)
    gaps: list[Gap] = []

    def on_gap(gap: Gap) -> Any:
        gaps.append(gap)
        return form({"event": "reload", "data": gap.reason})

    subscription = channel.subscribe(
        f"{channel.epoch}.3", on_gap=on_gap, snapshot=lambda: ["not asked for"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains(f"id: {channel.epoch}.5\r\n\r\n")
        await channel.publish("6")
        await client.contains("data: 6\r\n")

    assert gaps == [Gap("c", "trimmed", f"{channel.epoch}.5")]
    assert [(one.event, one.data) for one in reading(client).got] == [
        ("reload", "trimmed"),
        ("message", "6"),
    ]
    assert channel.stats().resets == {"trimmed": 1}


@pytest.mark.anyio
async def test_on_gap_may_say_nothing_and_the_cursor_moves_all_the_same() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe("nonsense", on_gap=lambda gap: [])

    async with drive(EventSourceResponse(subscription)) as client:
        await client.chunk(0)

    assert client.body == f"id: {channel.epoch}.2\r\n\r\n".encode()


@pytest.mark.anyio
@pytest.mark.parametrize("asked", [None, "nonsense"])
async def test_what_is_published_while_the_snapshot_is_at_work_follows_exactly_once(
    asked: str | None,
) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    at_work, go_on = anyio.Event(), anyio.Event()

    async def snapshot() -> AsyncIterator[object]:
        yield f"all up to {channel.stats().published}"
        at_work.set()
        await go_on.wait()
        yield "done"

    async with drive(EventSourceResponse(channel.subscribe(asked, snapshot=snapshot))) as client:
        await at_work.wait()
        fill(channel, 3, 5)
        await settled()
        assert b"data: all up to 2" in client.body
        assert b"data: 3" not in client.body
        go_on.set()
        await client.contains("data: 5\r\n")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    data = [one.data for one in reading(client).got if one.event != "reset"]
    assert data == ["all up to 2", "done", "3", "4", "5", "6"]


@pytest.mark.anyio
async def test_a_cancelled_wait_for_the_snapshot_asks_for_it_anew() -> None:
    channel = Channel("c")
    calls = 0

    async def snapshot() -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        return ["snapshot"]

    async with channel.subscribe("nonsense", snapshot=snapshot) as subscription:
        fill(channel, 1, 1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, subscription)
                await settled()
                scope.cancel()
        got = [(await anext(subscription)) for _ in range(3)]

    assert [(one.event, one.data) for one in got][1:] == [(None, "snapshot"), (None, "1")]
    assert got[0].event == "reset"


@pytest.mark.anyio
@pytest.mark.parametrize("hook", ["snapshot", "on_gap"])
async def test_a_client_that_leaves_while_the_application_is_at_work_stops_it(hook: str) -> None:
    channel = Channel("c")
    at_work = anyio.Event()
    cleaned: list[str] = []

    async def work(*_: Gap) -> list[object]:
        at_work.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append("up")
        return []

    hooks: Any = {hook: work}
    async with drive(EventSourceResponse(channel.subscribe("nonsense", **hooks))) as client:
        await at_work.wait()
        client.leave()
        await client.returns()

    assert cleaned == ["up"]
    # The reset that comes before a snapshot has gone out, and no cursor with it.
    assert [one.event for one in reading(client).got] == (["reset"] if hook == "snapshot" else [])
    assert b"id: " not in client.body
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
@pytest.mark.parametrize("asked", ["", "nonsense"])
@pytest.mark.parametrize("hook", ["snapshot"])
async def test_what_the_application_raises_ends_the_stream_and_moves_no_cursor(
    asked: str, hook: str
) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    async def fails(*_: Gap) -> AsyncIterator[object]:
        yield "first"
        raise MadeUpError

    hooks: Any = {hook: fails}
    subscription = channel.subscribe(asked, **hooks)
    async with drive(EventSourceResponse(subscription)) as client:
        await client.raises(MadeUpError)

    assert client.complete
    assert reading(client).cut() == ""
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
async def test_who_can_not_be_told_by_on_gap_gets_the_reset_and_moves_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel("c")
    fill(channel, 1, 2)

    async def fails(gap: Gap) -> AsyncIterator[object]:
        yield "first"
        raise MadeUpError

    async with drive(EventSourceResponse(channel.subscribe("nonsense", on_gap=fails))) as client:
        await client.contains(f"id: {channel.epoch}.2\r\n\r\n")

    assert [one.event for one in reading(client).got] == ["message", "reset"]
    assert channel.stats().failures == 1
    assert "on_gap failed" in caplog.text


@pytest.mark.anyio
async def test_what_the_snapshot_raises_is_raised_where_the_subscription_is_iterated() -> None:
    channel = Channel("c")
    subscription = channel.subscribe("nonsense", snapshot=lambda: [1 // 0])

    assert (await anext(subscription)).event == "reset"
    with pytest.raises(ZeroDivisionError):
        await anext(subscription)
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


@pytest.mark.anyio
@pytest.mark.parametrize("event", [{"data": "x", "id": "5"}, {"dta": 1}, b"data: x"])
async def test_a_snapshot_that_can_not_be_sent_is_closed(event: object) -> None:
    channel = Channel("c")
    closed: list[str] = []

    async def snapshot() -> AsyncIterator[object]:
        try:
            yield event
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append("closed")

    async with drive(EventSourceResponse(channel.subscribe(snapshot=snapshot))) as client:
        await client.ends()

    assert isinstance(client.raised, (TypeError, ValueError))
    assert closed == ["closed"]
    assert client.body == b""


@pytest.mark.anyio
async def test_who_is_cut_in_the_middle_of_a_snapshot_has_its_old_cursor() -> None:
    channel = Channel("c", history=1)
    fill(channel, 1, 5)
    old = f"{channel.epoch}.2"
    subscription = channel.subscribe(old, snapshot=lambda: [{"data": "a", "event": "b"}, "c"])
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains(f"id: {channel.epoch}.5\r\n\r\n")
    body = client.body

    for length in range(len(body) - 1):
        cut = Client()
        cut.last_event_id = old
        cut.read(body[:length])
        assert cut.cut() == old

    whole = Client()
    assert [one.event for one in whole.read(body)] == ["reset", "b", "message"]
    assert whole.cut() == f"{channel.epoch}.5"


@pytest.mark.anyio
async def test_a_subscription_can_be_made_where_no_loop_runs() -> None:
    channel = Channel("c")
    fill(channel, 1, 1)

    def endpoint() -> EventSourceResponse:
        return EventSourceResponse(channel.subscribe(replay=1, snapshot=lambda: ["snapshot"]))

    async with drive(await anyio.to_thread.run_sync(endpoint)) as client:
        await client.contains("data: 1\r\n")

    assert reading(client).data == ["snapshot", "1"]


# --- What is kept


def test_no_more_events_are_kept_than_history_says() -> None:
    channel = Channel("c", history=3)

    fill(channel, 1, 10)

    assert (channel.stats().kept_events, channel.stats().published) == (3, 10)


def test_no_more_bytes_are_kept_than_history_bytes_says_but_the_newest_event_is() -> None:
    channel = Channel("c", history_bytes=500)
    for _ in range(20):
        channel.publish_nowait("x" * 100)
        assert channel.stats().kept_bytes <= 500
    assert channel.stats().kept_events >= 3

    channel.publish_nowait("x" * 10_000)

    assert channel.stats().kept_events == 1
    assert channel.stats().kept_bytes > 10_000


def test_an_event_is_kept_no_longer_than_history_seconds_says(loop: HandLoop, hands: Hands) -> None:
    channel = Channel("c", history_seconds=60)
    fill(channel, 1, 2)
    hands.now += 30
    fill(channel, 3, 3)
    hands.now += 31

    assert channel.stats().kept_events == 1
    assert [one.data for one in read(opened(channel.subscribe(f"{channel.epoch}.2")))] == ["3"]
    (reset,) = read(opened(channel.subscribe(f"{channel.epoch}.1")))
    assert reset.reset["reason"] == "trimmed"
    hands.now += 30
    assert channel.stats().kept_events == 0
    assert taken(opened(channel.subscribe(channel.last_event_id))) == b""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"history": 0}, "history must be at least 1 event, got: 0"),
        ({"history": -1}, "history must be at least 1 event, got: -1"),
        ({"history_bytes": 0}, "history_bytes must be at least 1, got: 0"),
        ({"history_seconds": 0}, "history_seconds must be > 0, got: 0"),
        ({"history_seconds": float("nan")}, "history_seconds must be > 0, got: nan"),
        ({"slow": "ignore"}, "slow must be one of .* got: 'ignore'"),
        ({"slow": "latest"}, "give both or neither"),
        ({"latest_by": len}, "give both or neither"),
        ({"slow": "reset", "latest_by": len}, "give both or neither"),
        ({"linger": -1}, "linger must be >= 0 seconds, got: -1"),
        ({"linger": float("nan")}, "linger must be >= 0 seconds, got: nan"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Channel("c", **options)


# --- Clients that read too slowly


def test_a_slow_client_is_disconnected_by_default(loop: HandLoop) -> None:
    channel = Channel("c", history=3)
    client = Client()
    subscription = opened(channel.subscribe())
    read(subscription, client)
    fill(channel, 1, 2)
    read(subscription, client)

    fill(channel, 3, 6)

    assert taken(subscription) == b""
    assert (subscription.ended, subscription.close_reason) == (True, "lagging")
    assert subscription.error is None
    assert channel.stats().disconnected == 1
    (reset,) = read(opened(channel.subscribe(client.cut())), client)
    assert reset.reset["reason"] == "trimmed"


def test_a_client_may_be_as_far_behind_as_events_are_kept(loop: HandLoop) -> None:
    channel = Channel("c", history=3)
    subscription = opened(channel.subscribe())
    taken(subscription)

    fill(channel, 1, 3)

    assert [one.data for one in read(subscription)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_the_stream_of_a_slow_client_is_completed_and_can_be_resumed_from() -> None:
    channel = Channel("c", history=3)
    reasons: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=reasons.append)

    async with drive(response) as client:
        await client.chunk(0)
        client.block()
        fill(channel, 1, 1)
        await until(lambda: client.blocked)
        fill(channel, 2, 9)
        client.unblock()
        await client.returns()

    assert (client.complete, reasons) == (True, ["lagging"])
    reader = reading(client)
    assert (reader.data, reader.cut()) == (["1"], f"{channel.epoch}.1")
    fill(channel, 10, 10)
    async with drive(EventSourceResponse(channel.subscribe(reader.cut()))) as client:
        await client.chunk(0)
    (reset,) = reading(client).got
    assert reset.reset["reason"] == "trimmed"


@pytest.mark.anyio
async def test_a_stalled_client_delays_nobody() -> None:
    channel = Channel("c", history=10)
    async with (
        drive(EventSourceResponse(channel.subscribe())) as stalled,
        drive(EventSourceResponse(channel.subscribe())) as healthy,
    ):
        await stalled.chunk(0)
        stalled.block()
        for number in range(1, 101):
            await channel.publish(number)
            await healthy.contains(f"data: {number}\r\n")
        stats = channel.stats()
        stalled.unblock()
        await stalled.returns()

    assert reading(healthy).data == numbers(1, 100)
    assert (stats.kept_events, stats.subscribers) == (10, 2)
    assert stats.lag >= 99


@pytest.mark.anyio
async def test_iterating_too_slowly_raises_what_was_found() -> None:
    channel = Channel("c", history=3)
    subscription = channel.subscribe()
    fill(channel, 1, 1)
    assert (await anext(subscription)).data == "1"
    fill(channel, 2, 9)

    with pytest.raises(SubscriberTooSlow) as raised:
        await anext(subscription)

    assert raised.value.channels == ["c"]
    assert raised.value.last_event_id == f"{channel.epoch}.1"
    assert channel.stats().subscribers == 0
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


def test_a_slow_client_can_be_told_and_go_on(loop: HandLoop) -> None:
    channel = Channel("c", history=3, slow="reset")
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)
    fill(channel, 1, 1)
    read(subscription, client)

    fill(channel, 2, 6)
    (reset,) = read(subscription, client)
    fill(channel, 7, 8)
    read(subscription, client)

    cursor = f"{channel.epoch}.6"
    assert reset.reset == {"reason": "lagging", "channel": "c", "cursor": cursor}
    assert reset.id == cursor
    assert client.data[0:1] + client.data[2:] == ["1", "7", "8"]
    stats = channel.stats()
    assert (stats.dropped, stats.delivered, stats.disconnected) == (5, 3, 0)
    assert stats.resets == {"lagging": 1}


def key(event: ServerSentEvent) -> object:
    return event.event


def publish(channel: Channel, *events: str) -> None:
    """Publish "a1" as event "a" with data "1"."""
    for event in events:
        channel.publish_nowait({"event": event[0], "data": event[1:]})


def test_a_slow_client_can_have_the_newest_event_of_every_key(loop: HandLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    publish(channel, "z0")
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)

    publish(channel, "a1", "b2", "c3", "a4", "b5", "b6")
    frames = subscription.take()

    reset, *latest = client.read(frames)
    assert reset.reset["reason"] == "lagging"
    assert [(one.event, one.data, one.id) for one in latest] == [
        ("c", "3", f"{channel.epoch}.4"),
        ("a", "4", f"{channel.epoch}.5"),
        ("b", "6", f"{channel.epoch}.7"),
    ]
    assert frames.endswith(f"id: {channel.epoch}.7\r\n\r\n".encode())
    publish(channel, "c7")
    assert [one.data for one in read(subscription, client)] == ["7"]
    stats = channel.stats()
    assert (stats.dropped, stats.delivered, stats.resets) == (3, 4, {"lagging": 1})


def test_the_newest_events_are_filtered_too(loop: HandLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe(filter=lambda event: event.event == "a"))
    client = Client()
    read(subscription, client)

    publish(channel, "a1", "b2", "a3", "c4", "b5")
    reset, *latest = read(subscription, client)

    assert reset.event == "reset"
    assert [(one.event, one.data) for one in latest] == [("a", "3")]
    assert client.cut() == f"{channel.epoch}.5"
    assert channel.stats().delivered == 1


def test_a_filter_that_raises_at_the_newest_events_leaves_them_out(loop: HandLoop) -> None:
    channel = Channel("c", history=2, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe(filter=lambda event: 1 / 0))
    taken(subscription)

    publish(channel, "a1", "b2", "a3")

    (reset,) = read(subscription)
    assert reset.event == "reset"
    assert channel.stats().failures == 2
    assert not subscription.ended


def test_who_is_cut_among_the_newest_events_gets_the_rest_when_it_comes_back(
    loop: HandLoop,
) -> None:
    channel = Channel("c", history=4, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe())
    client = Client()
    read(subscription, client)
    publish(channel, "a1", "b2", "c3", "a4", "d5", "b6")
    frames = subscription.take()

    client.read(frames[: frames.index(b"data: 4") + 11])
    subscription.stop()
    read(opened(channel.subscribe(client.cut())), client)

    assert [one.data for one in client.got[1:]] == ["3", "4", "5", "6"]


def test_the_newest_event_is_kept_of_as_many_keys_as_history_says(loop: HandLoop) -> None:
    channel = Channel("c", history=3, slow="latest", latest_by=key)
    subscription = opened(channel.subscribe())
    taken(subscription)

    publish(channel, *(f"{name}1" for name in "abcdefgb"))

    assert [one.event for one in read(subscription)] == ["reset", "f", "g", "b"]
    latest = state_of(channel)._latest
    assert latest is not None
    assert list(latest.frames) == ["f", "g", "b"]


def test_the_newest_events_of_all_keys_take_no_more_bytes_than_history(loop: HandLoop) -> None:
    channel = Channel("c", history_bytes=1_100, slow="latest", latest_by=key)

    for name in "abcdefgha":
        channel.publish_nowait({"event": name, "data": "x" * 300})

    latest = state_of(channel)._latest
    assert latest is not None
    assert list(latest.frames) == ["g", "h", "a"]
    assert latest.size == sum(len(frame) for _, frame in latest.frames.values())
    channel.publish_nowait({"event": "huge", "data": "x" * 5_000})
    assert list(latest.frames) == ["huge"]
    publish(channel, "a1")
    assert list(latest.frames) == ["a"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["streamed", "iterated"])
async def test_a_slow_client_gets_the_snapshot_after_the_reset(way: str) -> None:
    channel = Channel("c", history=2, slow="latest", latest_by=key)
    subscription = channel.subscribe(channel.last_event_id, snapshot=lambda: generated("snapshot"))

    got: list[tuple[object, str]]
    if way == "streamed":
        async with drive(EventSourceResponse(subscription)) as client:
            await settled()
            publish(channel, "a1", "b2", "a3")
            await client.contains("data: 3\r\n")
            publish(channel, "b4")
            await client.contains("data: 4\r\n")
        got = [(one.event, one.data) for one in reading(client).got]
    else:
        publish(channel, "a1", "b2", "a3")
        async with subscription:
            got = [((one := await anext(subscription)).event or "message", one.data)]
            publish(channel, "b4")
            for _ in range(4):
                one = await anext(subscription)
                got.append((one.event or "message", one.data))

    assert got[0][0] == "reset"
    assert got[1:] == [("message", "snapshot"), ("b", "2"), ("a", "3"), ("b", "4")]


@pytest.mark.anyio
async def test_a_slow_client_is_dealt_with_by_on_gap() -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = channel.subscribe(
        channel.last_event_id, on_gap=lambda gap: [f"{gap.reason} {gap.cursor}"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await settled()
        fill(channel, 1, 5)
        await client.contains("lagging")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert reading(client).data == [f"lagging {channel.epoch}.5", "6"]


@pytest.mark.anyio
async def test_a_client_that_falls_behind_later_is_no_new_client() -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = channel.subscribe(
        snapshot=lambda: ["snapshot"], on_gap=lambda gap: [f"gap: {gap.reason}"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains("id: ")
        await settled()  # The snapshot has come to its end, and its generator has been closed.
        fill(channel, 1, 5)
        await client.contains("lagging")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert reading(client).data == ["snapshot", "gap: lagging", "6"]


# --- What is counted


def test_what_happened_is_counted(loop: HandLoop) -> None:
    channel = Channel("c", history=5, slow="reset")
    assert channel.stats() == ChannelStats(
        subscribers=0,
        published=0,
        delivered=0,
        dropped=0,
        disconnected=0,
        resets={},
        lag=0,
        kept_events=0,
        kept_bytes=0,
    )
    fast, slow = opened(channel.subscribe()), opened(channel.subscribe())
    waiting = channel.subscribe()
    for _ in range(4):
        fill(channel, 1, 2)
        taken(fast)

    stats = channel.stats()
    assert (stats.subscribers, stats.published, stats.delivered) == (2, 8, 8)
    assert (stats.lag, stats.dropped) == (8, 0)
    assert stats.kept_events == 5
    assert stats.kept_bytes == 5 * len(f"id: {channel.epoch}.1\r\ndata: 1\r\n\r\n")

    taken(slow)
    stats = channel.stats()
    assert (stats.lag, stats.dropped, stats.delivered) == (0, 8, 8)
    assert stats.resets == {"lagging": 1}

    fast.stop()
    fast.stop()
    stats = channel.stats()
    assert stats.subscribers == 1
    taken(opened(channel.subscribe("nonsense")))
    taken(opened(channel.subscribe("00000000.1")))
    assert channel.stats().resets == {"lagging": 1, "unknown": 1, "epoch": 1}
    assert waiting.last_event_id.endswith(".0")


def test_figures_that_were_handed_out_do_not_change() -> None:
    channel = Channel("c")
    channel.subscribe("nonsense")
    stats = channel.stats()

    channel.subscribe("nonsense")

    assert stats.resets == {"unknown": 1}


# --- The end of a channel


def test_nothing_can_be_published_to_a_closed_channel(loop: HandLoop) -> None:
    channel = Channel("c")
    assert not channel.closed
    channel.close()
    channel.close()

    with pytest.raises(ChannelClosed) as raised:
        channel.publish_nowait("x")

    assert raised.value.channel == "c"
    assert isinstance(channel.publish_threadsafe("x").exception(0), ChannelClosed)
    assert channel.closed
    assert channel.stats().published == 0


@pytest.mark.anyio
async def test_what_was_published_before_the_close_is_delivered_and_then_the_stream_ends() -> None:
    channel = Channel("c", history=2_000)
    reasons: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=reasons.append)

    async with drive(response) as client:
        await client.chunk(0)
        fill(channel, 1, 2_000)
        channel.close()
        await client.returns()

    assert reading(client).data == numbers(1, 2_000)
    assert (client.complete, reasons) == (True, ["end"])


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"filter": lambda event: True}], ids=["all", "filtered"])
async def test_close_from_another_thread_ends_the_streams(options: dict[str, Any]) -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe(**options))) as client:
        await client.chunk(0)

        def publish_and_close() -> None:
            fill(channel, 1, 3)
            channel.close()

        await anyio.to_thread.run_sync(publish_and_close)
        await client.returns()

    assert reading(client).data == ["1", "2", "3"]
    assert channel.stats().subscribers == 0


@pytest.mark.parametrize("options", [{}, {"filter": lambda event: True}], ids=["all", "filtered"])
def test_what_is_published_between_a_look_and_the_close_is_not_lost(
    loop: HandLoop, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe(**options))
    taken(subscription)

    def meanwhile(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(*position: Any) -> Any:
            found = real(*position)
            if not channel.closed:
                channel.publish_nowait("last")
                channel.close()
            return found

        return look

    state = state_of(channel)
    monkeypatch.setattr(state, "read", meanwhile(state.read))
    monkeypatch.setattr(state, "read_each", meanwhile(state.read_each))

    got = [*read(subscription), *read(subscription)]

    assert [one.data for one in got] == ["last"]
    assert taken(subscription) == b""
    assert subscription.ended


@pytest.mark.anyio
async def test_the_answer_to_the_reconnect_of_who_has_everything_is_204() -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    channel.close()

    for asked in (channel.last_event_id, None):
        response = EventSourceResponse(channel.subscribe(asked))
        async with drive(response) as client:
            await client.returns()
        assert (client.status, client.body, client.complete) == (204, b"", True)
    assert channel.stats().subscribers == 0


@pytest.mark.anyio
@pytest.mark.parametrize("asked", ["{epoch}.1", "nonsense"])
async def test_who_lacks_events_of_a_closed_channel_gets_them_and_then_204(asked: str) -> None:
    channel = Channel("c")
    fill(channel, 1, 3)
    channel.close()
    response = EventSourceResponse(channel.subscribe(asked.replace("{epoch}", channel.epoch)))
    async with drive(response) as client:
        await client.returns()
    reader = reading(client)

    assert (client.status, client.complete) == (200, True)
    assert reader.data == ["2", "3"] or reader.got[0].reset["reason"] == "unknown"
    async with drive(EventSourceResponse(channel.subscribe(reader.cut()))) as client:
        await client.returns()
    assert client.status == 204


@pytest.mark.anyio
async def test_who_had_the_last_events_left_out_is_answered_with_204_too() -> None:
    channel = Channel("c")
    async with drive(EventSourceResponse(channel.subscribe(filter=even))) as client:
        await client.chunk(0)
        fill(channel, 1, 3)
        await client.contains("data: 2\r\n")
        channel.close()
        await client.returns()
    reader = reading(client)

    async with drive(EventSourceResponse(channel.subscribe(reader.cut(), filter=even))) as client:
        await client.returns()

    assert reader.data == ["2"]
    assert client.status == 204


@pytest.mark.anyio
async def test_iteration_ends_with_the_channel() -> None:
    channel = Channel("c")
    fill(channel, 1, 2)
    subscription = channel.subscribe(f"{channel.epoch}.0")
    channel.close()

    assert [event.data async for event in subscription] == ["1", "2"]
    assert [event async for event in subscription] == []
    assert [event async for event in channel.subscribe()] == []


# --- What a channel shows


def test_a_channel_shows_what_is_for_users_and_nothing_else() -> None:
    assert [name for name in dir(Channel("c")) if not name.startswith("_")] == [
        "aclose",
        "close",
        "closed",
        "epoch",
        "head",
        "history",
        "last_event_id",
        "name",
        "position",
        "publish",
        "publish_nowait",
        "publish_threadsafe",
        "stats",
        "subscribe",
    ]


# --- For whom a channel is kept


def test_a_channel_is_idle_when_nobody_has_used_it_for_its_linger_time(
    loop: HandLoop, hands: Hands
) -> None:
    channel = Channel("c", linger=30)

    def idle_after(seconds: float) -> bool:
        return state_of(channel).idle_since(hands.now + seconds)

    assert (idle_after(30), idle_after(30.1)) == (False, True)
    hands.now += 100
    uses: list[Callable[[], object]] = [
        state_of(channel).touch,
        lambda: channel.publish_nowait("x"),
        lambda: channel.subscribe().last_event_id,
        channel.close,
    ]
    for use in uses:
        hands.now += 100
        use()
        gc.collect()
        assert (idle_after(30), idle_after(30.1)) == (False, True)


def test_a_channel_with_a_subscription_is_not_idle_and_lingers_after_it(
    loop: HandLoop, hands: Hands
) -> None:
    channel = Channel("c", linger=30)
    subscription = channel.subscribe()
    hands.now += 100
    assert not state_of(channel).idle_since(hands.now)
    subscription.open(lambda: None)
    assert not state_of(channel).idle_since(hands.now)

    subscription.stop()

    assert not state_of(channel).idle_since(hands.now + 30)
    assert state_of(channel).idle_since(hands.now + 31)


# --- Several channels on one stream


def both(*channels: Channel, asked: str | None = None, **options: Any) -> Subscription:
    """Subscribe to several channels, as `Hub.subscribe` does it."""
    return opened(Subscription(list(map(state_of, channels)), asked, SubscribeOptions(**options)))


def test_one_cursor_holds_the_position_in_each_channel(loop: HandLoop) -> None:
    a, b = Channel("a"), Channel("b")
    fill(a, 1, 2)
    subscription = both(a, b)

    first = subscription.take()
    b.publish_nowait("b1")
    a.publish_nowait("a3")
    got = read(subscription)

    assert first == f"id: {a.epoch}.2-{b.epoch}.0\r\n\r\n".encode()
    assert {one.data for one in got} == {"a3", "b1"}
    assert got[-1].id == f"{a.epoch}.3-{b.epoch}.1"
    assert (a.stats().delivered, b.stats().delivered) == (1, 1)


def test_the_newest_events_of_one_channel_move_no_position_in_another(loop: HandLoop) -> None:
    a, b = Channel("a"), Channel("b", history=2, slow="latest", latest_by=key)
    fill(a, 1, 7)
    subscription = both(a, b)
    taken(subscription)

    publish(b, "x1", "y2", "x3")
    reset, *latest = read(subscription)

    assert reset.reset["channel"] == "b"
    assert [one.id for one in latest] == [f"{a.epoch}.7-{b.epoch}.{offset}" for offset in (2, 3)]


def test_what_is_ready_in_one_channel_goes_out_before_the_gap_in_another(loop: HandLoop) -> None:
    a, b = Channel("a"), Channel("b", history=2, slow="reset")
    subscription = both(a, b)
    client = Client()
    read(subscription, client)
    a.publish_nowait("a1")
    fill(b, 1, 3)

    client.read(subscription.take())
    assert (client.data, client.last_event_id) == (["a1"], f"{a.epoch}.1-{b.epoch}.0")
    (reset,) = read(subscription, client)

    assert reset.reset["channel"] == "b"
    assert reset.id == f"{a.epoch}.1-{b.epoch}.3"


@pytest.mark.anyio
async def test_who_is_not_opened_has_nothing_to_run() -> None:
    with anyio.fail_after(SEAT_BELT_SECONDS):
        await Channel("c").subscribe(snapshot=list).run()


@pytest.mark.anyio
async def test_who_is_stopped_before_its_task_began_has_nothing_made_for_it() -> None:
    asked: list[str] = []

    def snapshot() -> list[str]:
        asked.append("snapshot")
        return []

    subscription = Channel("c").subscribe(snapshot=snapshot)
    subscription.open(lambda: None)
    assert subscription.take() == b""
    subscription.stop()

    with anyio.fail_after(SEAT_BELT_SECONDS):
        await subscription.run()

    assert asked == []


@pytest.mark.anyio
async def test_the_task_of_a_subscription_ends_with_it() -> None:
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: ["snapshot"])
    subscription.open(lambda: None)

    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscription.run)
            await settled()
            channel.close()
            assert b"snapshot" in taken(subscription)
            while not subscription.ended:
                await settled()
                taken(subscription)

    subscription.stop()


def test_each_gap_is_told_once(loop: HandLoop) -> None:
    channel = Channel("c", history=2, slow="reset")
    subscription = opened(channel.subscribe("nonsense"))
    client = Client()

    for _ in range(3):
        read(subscription, client)
        fill(channel, 1, 3)
    read(subscription, client)

    assert [one.reset["reason"] for one in client.got] == ["unknown", *["lagging"] * 3]


@pytest.mark.anyio
async def test_a_publisher_that_lets_go_of_the_loop_overtakes_nobody() -> None:
    channel = Channel("burst", history=100)
    ended: list[str] = []
    response = EventSourceResponse(channel.subscribe(), on_close=ended.append)

    async with drive(response) as exchange:
        await exchange.chunk(0)
        for number in range(5_000):
            channel.publish_nowait({"data": number})
            await anyio.lowlevel.checkpoint()
        await exchange.until(lambda: exchange.body.count(b"data:") == 5_000)
        exchange.leave()
        await exchange.returns()

    assert ended == ["client"]
    assert channel.stats().disconnected == 0


def test_an_event_of_fastapi_is_published_as_an_event() -> None:
    channel = Channel("c")

    channel.publish_nowait(fastapi.sse.ServerSentEvent(data={"a": 1}, event="e"))

    frame = f'id: {channel.epoch}.1\r\nevent: e\r\ndata: {{"a":1}}\r\n\r\n'
    assert state_of(channel)._ring.frames(0, 1) == [frame.encode()]
    with pytest.raises(ValueError, match="the event has the id '7'"):
        channel.publish_nowait(fastapi.sse.ServerSentEvent(data="a", id="7"))


@pytest.mark.anyio
async def test_a_snapshot_that_takes_longer_than_the_history_lasts_is_made_once() -> None:
    channel = Channel("c", history=2)
    made: list[int] = []

    async def snapshot() -> AsyncIterator[object]:
        made.append(1)
        yield "snapshot"
        fill(channel, 1, 5)

    async with drive(EventSourceResponse(channel.subscribe(snapshot=snapshot))) as client:
        await client.contains("event: reset")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    assert [one.event for one in reading(client).got] == ["message", "reset", "message"]
    assert made == [1]


@pytest.mark.anyio
async def test_a_large_snapshot_is_sent_as_the_client_takes_it_and_cleaned_up_in_its_time() -> None:
    channel = Channel("c")
    made: list[int] = []
    cleaned: list[str] = []

    async def snapshot() -> AsyncIterator[object]:
        try:
            for number in range(1_000):
                made.append(number)
                yield "x" * 20_000
        finally:
            await anyio.lowlevel.checkpoint()
            cleaned.append("up")

    response = EventSourceResponse(channel.subscribe(snapshot=snapshot))
    async with drive(response, blocked=True) as client:
        client.unblock()
        await client.chunk(0)
        client.block()
        await settled()
        assert len(made) < 100
        client.leave()
        await client.returns()

    assert cleaned == ["up"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["streamed", "iterated"])
async def test_a_new_client_of_a_closed_channel_gets_the_snapshot_and_then_the_end(
    way: str,
) -> None:
    channel = Channel("c")
    channel.close()
    subscription = channel.subscribe(snapshot=lambda: "all")

    if way == "iterated":
        assert [event.data async for event in subscription] == ["all"]
    else:
        async with drive(EventSourceResponse(subscription)) as client:
            await client.returns()
        assert (client.status, reading(client).data) == (200, ["all"])


@pytest.mark.anyio
async def test_where_blocks_of_an_id_alone_are_unwanted_there_are_none() -> None:
    channel = Channel("c")
    subscription = opened(
        channel.subscribe(id_blocks=False, filter=lambda event: event.data != "2")
    )
    assert taken(subscription) == b""
    fill(channel, 1, 2)

    assert taken(subscription) == f"id: {channel.epoch}.1\r\ndata: 1\r\n\r\n".encode()
    assert subscription.ping() == b""


def test_events_may_be_named_after_their_channels(loop: HandLoop) -> None:
    a, b = Channel("a"), Channel("b")
    subscription = both(a, b, name_channels=True)
    taken(subscription)
    a.publish_nowait({"data": "1", "event": "tick"})
    b.publish_nowait("event: none")
    b.publish_nowait({"comment": "only"})

    frames = taken(subscription)

    got = Client().read(frames)
    assert [(one.event, one.data) for one in got] == [("a:tick", "1"), ("b", "event: none")]


@pytest.mark.anyio
async def test_what_is_kept_can_be_read_without_a_subscription() -> None:
    channel = Channel("c", history=4)
    fill(channel, 1, 6)

    async def data(**options: Any) -> list[str]:
        events = await channel.history(**options)
        assert all(event.channel == "c" and event.id for event in events)
        return [event.data for event in events]

    assert await data() == ["3", "4", "5", "6"]
    assert await data(limit=2) == ["5", "6"]
    assert await data(after=3, limit=2) == ["4", "5"]
    assert await data(after=f"{channel.epoch}.5") == ["6"]
    for after, reason in (("start", "trimmed"), (7, "future"), ("e.1", "epoch"), ("x", "unknown")):
        with pytest.raises(HistoryGap, match=reason) as caught:
            await data(after=after)
        assert (caught.value.channel, caught.value.reason) == ("c", reason)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["filtered", "one by one", "joined"])
async def test_much_that_is_read_leaves_the_loop_its_turns(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(reader_module, "_TURN_SECONDS", 0.0)
    channel = Channel("c", history=3_000)
    fill(channel, 1, 2_000, comment="x" * 100)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    options: Any = {"filter": lambda event: event.data == "2000"} if way == "filtered" else {}
    subscription = channel.subscribe(f"{channel.epoch}.0", **options)
    response = EventSourceResponse(subscription, join_events=way == "joined")
    async with anyio.create_task_group() as tasks, drive(response) as client:
        tasks.start_soon(other)
        await client.contains("data: 2000\r\n")
        tasks.cancel_scope.cancel()

    assert turns > 2


def test_what_takes_no_time_is_read_in_one_turn(loop: HandLoop) -> None:
    channel = Channel("c", history=3_000)
    fill(channel, 1, 2_000, comment="x" * 100)
    subscription = opened(channel.subscribe(f"{channel.epoch}.0"))
    subscription.joins = True

    assert [one.data for one in read(subscription)] == numbers(1, 2_000)
    assert not loop.calls


@pytest.mark.anyio
async def test_a_subscription_that_is_closed_while_a_snapshot_is_made_closes_the_snapshot() -> None:
    channel = Channel("c")
    asked, answered = anyio.Event(), anyio.Event()
    closed: list[bool] = []

    async def snapshot() -> AsyncIterator[str]:
        try:
            asked.set()
            await answered.wait()
            yield "all"
            yield "more"
        finally:
            closed.append(True)

    subscription = channel.subscribe(snapshot=snapshot)
    got: list[str] = []
    with anyio.fail_after(SEAT_BELT_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note, subscription, got)
            await asked.wait()
            subscription.stop()
            answered.set()

    assert closed == [True]


def test_a_channel_that_has_news_is_not_behind_because_another_one_is(loop: HandLoop) -> None:
    behind, other = Channel("behind", history=2, slow="reset"), Channel("other")
    subscription = both(behind, other)
    subscription.take()

    fill(behind, 1, 5)
    other.publish_nowait("news")
    loop.settle()
    client = Client()
    while frames := subscription.take():
        client.read(frames)

    assert [one.event for one in client.got] == ["reset", "message"]
    assert client.got[0].gaps == {"behind": "lagging"}
    assert client.got[1].data == "news"
    assert other.stats().resets == {}


@pytest.mark.anyio
async def test_what_is_left_of_a_snapshot_when_it_ends_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was quick, so its last events were held for further ones, and the writer is at a send."""
    for module in (batching_module, source_module):
        monkeypatch.setattr(module, "HELD_SECONDS", 1e9)
    monkeypatch.setattr(batching_module, "SLOW_SECONDS", 1e9)
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: list(map(str, range(300))))
    taken: list[bytes] = []

    def take() -> None:
        first = subscription._sending_first
        if first is not None and not first.ended:
            taken.append(subscription.take())
            subscription.sent()

    async with anyio.create_task_group() as tasks:
        subscription.open(take)
        tasks.start_soon(subscription.run)
        await until(lambda: not subscription._to_prepare)
        left = subscription.take()
        subscription.stop()

    client = Client()
    client.read(b"".join(taken))
    before = len(client.data)
    client.read(left)
    assert before < 300
    assert client.data == numbers(0, 299)
