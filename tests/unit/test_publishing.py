"""What may be published, from where, and what comes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from uuid import UUID

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS, drive, settled, until
from tests.unit.following import FakeClock, ManualLoop, numbers, opened, read, taken
from tests.unit.subscribing import Promise, allow, note

from sse_starlette.channels._ring import Ring
from sse_starlette.channels.channel import Channel, state_of
from sse_starlette.errors import ChannelClosed
from sse_starlette.event import JSONServerSentEvent, ServerSentEvent
from sse_starlette.sse import EventSourceResponse


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
    loop: ManualLoop, value: object, lines: bytes
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


def test_the_same_key_is_not_published_twice(loop: ManualLoop) -> None:
    channel = Channel("c")
    subscription = opened(channel.subscribe())

    ids = [channel.publish_nowait(text, key="k") for text in ("one", "two")]
    other = channel.publish_nowait("three", key="another")

    assert ids[0] == ids[1] != other
    assert [one.data for one in read(subscription)] == ["one", "three"]


def test_a_key_is_forgotten_after_120_seconds(clock: FakeClock) -> None:
    channel = Channel("c")
    first = channel.publish_nowait("x", key="k")
    clock.now += 60
    later = channel.publish_nowait("y", key="l")

    clock.now += 59.9
    assert channel.publish_nowait("x", key="k") == first
    clock.now += 0.1
    again = channel.publish_nowait("x", key="k")

    assert again == f"{channel.epoch}.3"
    assert channel.publish_nowait("y", key="l") == later
    assert vars(state_of(channel))["_ids_by_key"].keys() == {"k", "l"}


def test_a_key_that_is_tried_again_does_not_live_longer(clock: FakeClock) -> None:
    channel = Channel("c")
    channel.publish_nowait("x", key="k")

    clock.now += 100
    channel.publish_nowait("x", key="k")
    clock.now += 100

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


def test_threads_that_publish_at_the_same_time_leave_no_gap(loop: ManualLoop) -> None:
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
