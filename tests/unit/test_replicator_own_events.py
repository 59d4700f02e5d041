"""What a process has added to a log itself, and who waits for it."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from tests.unit.driving import settled, until
from tests.unit.logs import Gate
from tests.unit.replicating import FakeClient, Process

from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import state_of
from sse_starlette.errors import LogUnavailable
from sse_starlette.eventlogs.base import Position

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


@asynccontextmanager
async def given_up(process: Process, *names: str) -> AsyncIterator[None]:
    """Publish to these channels, and give up in the middle of it when the block ends."""
    process.log.appending.shut()
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(partial(process.hub.channel(name).publish, "it", key="k"))
        await until(lambda: process.log.appending.waiting == len(names))
        yield
        tasks.cancel_scope.cancel()


def fail() -> None:
    raise LogUnavailable("fake://", "no answer")


@pytest.mark.parametrize("newer", [0, 3])
async def test_what_this_process_publishes_after_subscribe_is_not_missed(
    process: Process, newer: int
) -> None:
    """Where a new client begins is known only later; until then others may have published, too."""
    process.say("before")
    channel = process.channel
    subscriptions = [channel.subscribe(), channel.subscribe()]
    await channel.publish("1")
    late = FakeClient(channel.subscribe())
    await channel.publish("2")
    process.say(*range(3, 3 + newer))

    for client in map(FakeClient, subscriptions):
        await client.has(*range(1, 3 + newer))
    await late.has(*range(2, 3 + newer))
    state = state_of(channel)
    assert isinstance(state, ReplicatedChannel)
    assert len(state._newcomers) == 0


@pytest.mark.parametrize("late", ["first", "second", "third"])
async def test_whatever_order_the_answers_come_in_the_first_subscriber_misses_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    answering, real = Gate(), process.log.append

    async def append(channel: str, body: bytes, **options: Any) -> Position:
        position = await real(channel, body, **options)
        if late.encode() in body:
            await answering.passed()
        return position

    monkeypatch.setattr(process.log, "append", append)
    process.say("before")
    process.log.joining.shut()
    answering.shut()
    async with anyio.create_task_group() as tasks:
        client = FakeClient(process.channel.subscribe())
        for text in ("first", "second", "third"):
            tasks.start_soon(process.channel.publish, text)
            await settled()
        process.log.joining.open()
        await settled()

        answering.open()

        await client.has("first", "second", "third")


async def test_a_publish_that_is_given_up_keeps_no_new_client_waiting(process: Process) -> None:
    client = FakeClient(process.channel.subscribe())
    async with given_up(process, "c"):
        await settled()
        assert client.text == ""

    assert (await client.begun()).text == "id: e1.0\r\n\r\n"


async def test_a_position_that_is_not_known_is_asked_of_the_log(process: Process) -> None:
    process.say(1, 2)
    channel = process.channel
    position = await channel.position()
    assert position == "e1.2"
    process.say(3)

    await FakeClient(channel.subscribe(after=position)).has(3)

    assert await channel.position() == "e1.3"
    assert await channel.publish("4") == "e1.4"
    assert await channel.position() == "e1.4"
    with pytest.raises(ValueError, match="position"):
        channel.subscribe("")
    process.log.go_away()
    with pytest.raises(LogUnavailable):
        await process.hub.channel("other").position()


@pytest.mark.parametrize("before", [[], ["before"]], ids=["the first", "a later one"])
@pytest.mark.parametrize("how", ["cancelled", "failed", "refused at first"])
async def test_what_was_added_though_its_publisher_does_not_know_reaches_who_was_there(
    process: Process, how: str, before: list[str]
) -> None:
    """What is published after `subscribe` belongs to the subscription, if it's there."""
    store, channel = process.store, process.channel
    process.say(*before)
    process.log.joining.shut()
    client = FakeClient(channel.subscribe())

    def fail_once() -> None:
        store.on_append = lambda: None
        fail()

    match how:
        case "cancelled":
            async with given_up(process, "c"):
                pass
            store.add("c", b"data: it\r\n\r\n", "k")
        case "failed":
            store.on_append = fail_once
            with pytest.raises(LogUnavailable):
                await channel.publish("it", wait=0)
        case _:
            store.on_append = fail_once
            assert await channel.publish("it") == f"e1.{len(before) + 1}"
    process.say("other")
    process.log.joining.open()

    await client.has("it", "other")


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_an_event_that_never_gets_through_keeps_nobody_from_beginning(
    process: Process, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    log, channel = process.log, process.channel

    async def append(*_: object, **__: object) -> Position:
        await log.appending.passed()
        raise LogUnavailable("fake://", "no answer")

    monkeypatch.setattr(log, "append", append)
    log.joining.shut()
    async with anyio.create_task_group() as tasks:
        client = FakeClient(channel.subscribe())
        with pytest.raises(LogUnavailable):
            await channel.publish("never", wait=0)
        if fails == "after":
            log.appending.shut()
        tasks.start_soon(partial(channel.publish, "never", wait=math.inf))
        await settled()
        log.joining.open()
        if fails == "after":
            await until(lambda: channel.epoch)
            await settled()
            assert client.text == ""
            log.appending.open()

        await client.begun()
        tasks.cancel_scope.cancel()


async def test_many_doubts_are_forgotten_from_the_oldest_on(process: Process) -> None:
    process.log.joining.shut()
    process.store.on_append = fail
    client = FakeClient(process.channel.subscribe())
    for number in range(502):
        with pytest.raises(LogUnavailable):
            await process.channel.publish(number, wait=0)
    process.log.joining.open()

    await client.has(*range(2, 502))


async def test_doubts_of_a_history_that_was_lost_meanwhile_are_of_no_concern(
    process: Process,
) -> None:
    process.say("before")
    process.log.joining.shut()
    client = FakeClient(process.channel.subscribe())
    async with given_up(process, "c"):
        process.log.joining.open()
        await until(lambda: process.channel.epoch)
        await settled()
        process.log.deaf = True
        process.store.flush()
        process.say("anew")

    await client.begun()
    assert process.channel.last_event_id == f"{process.store.shelf('c').epoch}.1"


async def test_doubts_of_who_has_left_are_of_no_concern(process: Process) -> None:
    log, channel = process.log, process.hub.channel("c", linger=0)
    log.joining.shut()
    clients = [FakeClient(channel.subscribe()) for _ in range(2)]
    async with given_up(process, "c", "other"):
        log.joining.open()
        await until(lambda: channel.epoch)
        await settled()
        log.reading.shut()
    await until(lambda: log.reading.waiting)
    while clients:
        clients.pop().leave()
    gc.collect()
    await anyio.sleep(0.01)
    process.tracks.sweep()
    log.reading.open()
    await settled()

    assert channel.epoch == ""
    await process.client()
