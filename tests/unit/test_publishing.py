"""What may be published, from where, and what comes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from enum import Enum
from functools import partial
from uuid import UUID

import anyio
import anyio.lowlevel
import anyio.to_thread
import fastapi.sse
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, settled
from tests.unit.following import FakeClock, ManualLoop, numbers, opened, read, taken
from tests.unit.subscribing import Promise, allow, at_once, data_of, streaming

from sse_starlette.channels._ring import Ring
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import ChannelClosed
from sse_starlette.event import JSONServerSentEvent, ServerSentEvent

pytestmark = pytest.mark.anyio


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
    pytest.param(
        fastapi.sse.ServerSentEvent(data={"a": 1}, event="e"),
        b'event: e\r\ndata: {"a":1}',
        id="event of FastAPI",
    ),
    pytest.param(JSONServerSentEvent("x"), b'data: "x"', id="JSON event"),
    pytest.param(Shouting("hi"), b"event: shout\r\ndata: HI", id="event with an encode of its own"),
    pytest.param(b"data: x\n\n", b"data: x", id="bytes"),
    pytest.param(bytearray(b"event:e\rdata:x\r\r"), b"event: e\r\ndata: x", id="bytearray"),
    pytest.param(memoryview(b": c\r\n\r\n"), b": c", id="memoryview"),
    pytest.param(b"data: a\ndata: b\nretry: 5\n\n", b"data: a\r\ndata: b\r\nretry: 5", id="lines"),
]


@pytest.mark.parametrize(("value", "lines"), VALUES)
def test_whatever_a_stream_may_yield_can_be_published_and_is_not_written_to(
    loop: ManualLoop, value: object, lines: bytes
) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe())
    taken(subscription)
    before = repr(value)

    event_id = channel.publish_nowait(value)

    body = lines + b"\r\n" if lines else b""
    assert taken(subscription) == f"id: {event_id}\r\n".encode() + body + b"\r\n"
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
    loop: ManualLoop, event: Callable[[object], object]
) -> None:
    channel = Channel("c")
    subscriptions = [opened(channel.subscribe()) for _ in range(5)]
    for subscription in subscriptions:
        taken(subscription)
    data = Counting()

    channel.publish_nowait(event(data))

    frames = [subscription._feed.take() for subscription in subscriptions]
    assert data.times == 1
    assert b"data: data" in frames[0]
    assert all(frame is frames[0] for frame in frames)


class Unnameable(Enum):
    NAME = "a\nb"


NOT_ONE = "is not one event"
HAS_ID = "a channel numbers its events itself"
REFUSED: list[tuple[object, type[Exception], str]] = [
    ({"data": "x", "id": "5"}, ValueError, HAS_ID),
    ({"data": "x", "id": 0}, ValueError, HAS_ID),
    ({"data": "x", "id": ""}, ValueError, HAS_ID),
    (ServerSentEvent("x", id="5"), ValueError, HAS_ID),
    (fastapi.sse.ServerSentEvent(data="x", id="7"), ValueError, "the event has the id '7'"),
    (b"id: 5\ndata: x\n\n", ValueError, HAS_ID),
    (b"data: x\nid\n\n", ValueError, HAS_ID),
    *(
        (event, ValueError, "event holds (CR|LF|NUL)")
        for name in ("a\rdata: evil", "a\ndata: evil", "a\0data: evil", "a\r\ndata: evil")
        for event in (
            {"data": "x", "event": name},
            {"data": "x", "event": name, "retry": 5},
            ServerSentEvent("x", event=name),
        )
    ),
    (b"event: a\0b\ndata: x\n\n", ValueError, "event holds NUL"),
    ({"data": {1, 2}, "dta": 1}, TypeError, "unknown key .*: 'dta'"),
    ({1: 2}, TypeError, "unknown key .*: 1"),
    ({"data": {"a": object()}}, TypeError, "not JSON serializable"),
    ({"data": {"a": float("nan")}}, ValueError, "not JSON compliant"),
    ({"data": "x", "retry": -1}, ValueError, "must be >= 0"),
    ({"data": "x", "retry": "5"}, TypeError, "must be int"),
    ({"data": "x", "event": b"e"}, TypeError, "event is bytes, not text"),
    ({"data": "x", "event": True}, TypeError, "event is True"),
    ({"data": "x", "event": Unnameable.NAME}, ValueError, "event holds LF"),
    ({"data": "x", "sep": "x"}, ValueError, "sep must be one of"),
    (b"data: x", ValueError, NOT_ONE),
    (b"data: x\n\ndata: y\n\n", ValueError, NOT_ONE),
    (b"", ValueError, NOT_ONE),
]


@pytest.mark.parametrize(("value", "error", "said"), REFUSED)
def test_what_would_not_arrive_as_it_is_raises_and_takes_no_offset(
    value: object, error: type[Exception], said: str
) -> None:
    channel = Channel("c")

    with pytest.raises(error, match=said):
        channel.publish_nowait(value, key="k")

    assert channel.stats().published == 0
    assert channel.publish_nowait("fine", key="k") == f"{channel.epoch}.1"


@pytest.mark.parametrize(
    ("latest_by", "error", "said"),
    [
        (lambda event: [event.data], TypeError, "unhashable"),
        (lambda event: 1 / 0, ZeroDivisionError, "by zero"),
        (lambda event: allow(ServerSentEvent(event)), TypeError, "coroutine, which has to be"),
        (lambda event: Promise(), TypeError, "latest_by returned Promise, which has to be awaited"),
    ],
)
def test_what_has_no_key_is_not_published(
    latest_by: Callable[[ServerSentEvent], object], error: type[Exception], said: str
) -> None:
    channel = Channel("c", slow="latest", latest_by=latest_by)

    with pytest.raises(error, match=said):
        channel.publish_nowait("x")

    assert channel.stats().published == 0
    assert channel.last_event_id == f"{channel.epoch}.0"


@pytest.mark.parametrize(
    ("script", "offsets"),
    [
        pytest.param("k k l", [1, 1, 2], id="not twice"),
        pytest.param("k +60 l +59.9 k +0.1 k l", [1, 2, 1, 3, 2], id="again after 120 s"),
        pytest.param("k +100 k +100 k", [1, 1, 2], id="no later if it was tried again"),
        pytest.param("k close k", [1, 1], id="not when the channel has been closed"),
    ],
)
def test_a_key_is_published_once(
    loop: ManualLoop, clock: FakeClock, script: str, offsets: list[int]
) -> None:
    channel = Channel("c")
    ids: list[str] = []
    for word in script.split():
        if word == "close":
            channel.close()
        elif word[0] == "+":
            clock.now += float(word)
        else:
            ids.append(channel.publish_nowait(len(ids), key=word))

    assert ids == [f"{channel.epoch}.{offset}" for offset in offsets]
    firsts = [str(offsets.index(offset)) for offset in sorted(set(offsets))]
    assert data_of(channel.subscribe(f"{channel.epoch}.0")) == firsts
    assert vars(state_of(channel))["_ids_by_key"].keys() == set(script.split()) & {"k", "l"}


def test_threads_that_try_the_same_key_publish_it_once() -> None:
    channel = Channel("c")

    answers = at_once(
        [lambda: [channel.publish_nowait(key, key=str(key)) for key in range(200)]] * 4
    )

    assert channel.stats().published == 200
    assert answers == [answers[0]] * 4
    assert len(set(answers[0])) == 200


def test_threads_that_publish_at_the_same_time_leave_no_gap(loop: ManualLoop) -> None:
    channel = Channel("c")
    subscription = channel.subscribe()

    def publish(name: str) -> list[str]:
        return [channel.publish_nowait(f"{name} {number}") for number in range(200)]

    ids = at_once([partial(publish, name) for name in "abcd"])

    got = read(opened(subscription))
    assert [one.id for one in got] == [f"{channel.epoch}.{n}" for n in range(1, 801)]
    assert {one.id for one in got} == set().union(*ids)
    for name in "abcd":
        mine = [one.data for one in got if one.data.startswith(name)]
        assert mine == [f"{name} {number}" for number in range(200)]


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


async def test_a_cancelled_publish_has_published_nothing() -> None:
    channel = Channel("c")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await channel.publish("x")

    assert scope.cancelled_caught
    assert channel.stats().published == 0
    assert await channel.publish("y") == f"{channel.epoch}.1"


async def test_publish_has_the_same_contract_as_publish_nowait() -> None:
    channel = Channel("c")

    event_id = await channel.publish("x", key="k")

    assert await channel.publish("x", key="k") == event_id
    assert channel.publish_nowait("x", key="k") == event_id
    assert channel.publish_threadsafe("x", key="k").result(0) == event_id
    with pytest.raises(TypeError):
        await channel.publish({"dta": 1})
    assert isinstance(channel.publish_threadsafe({"dta": 1}).exception(0), TypeError)
    channel.close()
    with pytest.raises(ChannelClosed):
        await channel.publish("y")


async def test_what_a_thread_publishes_wakes_who_waits_and_nobody_looks_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel("c")
    reads = 0
    state = state_of(channel)
    real = state.read

    def counted(ring: Ring, after: int) -> tuple[bytes, int] | None:
        nonlocal reads
        reads += 1
        return real(ring, after)

    monkeypatch.setattr(state, "read", counted)
    async with streaming(channel.subscribe()) as client:
        await settled()
        before = reads
        await settled()
        await settled()
        assert reads == before
        future = await anyio.to_thread.run_sync(channel.publish_threadsafe, "news")
        await client.contains("news")

    assert future.result(0) == f"{channel.epoch}.1"


def test_loops_in_several_threads_share_a_channel() -> None:
    channel = Channel("c")
    ready = threading.Barrier(4)

    async def follow() -> list[str]:
        subscription = channel.subscribe()
        with anyio.fail_after(SEAT_BELT_SECONDS):
            await anyio.to_thread.run_sync(ready.wait, SEAT_BELT_SECONDS)
            return [event.data async for event in subscription]

    async def publish() -> list[str]:
        await anyio.to_thread.run_sync(ready.wait, SEAT_BELT_SECONDS)
        for number in range(300):
            await channel.publish(number)
        channel.close()
        return numbers(0, 299)

    got = at_once(
        [
            partial(anyio.run, follow),
            partial(anyio.run, follow, backend_options={"use_uvloop": True}),
            partial(anyio.run, follow, backend="trio"),
            partial(anyio.run, publish),
        ]
    )

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
