"""What a process has added to a log itself, and who waits for it."""

from __future__ import annotations

import gc
import math
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import settled, until
from tests.unit.logs import FakeLog, FakeStore, Gate
from tests.unit.replicating import FakeClient, one, tracks_of

import sse_starlette.channels._newcomers as newcomers_module
from sse_starlette.channels._replica import ReplicatedChannel
from sse_starlette.channels.channel import state_of
from sse_starlette.errors import LogUnavailable
from sse_starlette.eventlogs.base import Limits, Position

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


@pytest.mark.parametrize("newer", [0, 3])
async def test_what_this_process_publishes_after_subscribe_is_not_missed(
    store: FakeStore, log: FakeLog, newer: int
) -> None:
    """Where a new client begins is known only later; until then others may have published, too."""
    store.say("c", "before")
    async with one(log) as hub:
        channel = hub.channel("c")
        subscriptions = [channel.subscribe(), channel.subscribe()]
        await channel.publish("1")
        late = FakeClient(channel.subscribe())
        await channel.publish("2")
        store.say("c", *range(3, 3 + newer))

        for client in map(FakeClient, subscriptions):
            await client.has(*range(1, 3 + newer))
        await late.has(*range(2, 3 + newer))
        state = state_of(channel)
        assert isinstance(state, ReplicatedChannel)
        assert len(state._newcomers) == 0


async def test_publishing_does_not_listen(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        await hub.channel("c").publish("x")
        await settled()

        assert log.watched == {}
        assert store.reads == []


class LateAnswers(FakeLog):
    """A way to the store on which the answer to what is named is late."""

    def __init__(self, store: FakeStore, late: bytes) -> None:
        super().__init__(store)
        self.late = late
        self.answering = Gate()
        self.answering.shut()

    async def append(
        self, channel: str, body: bytes, *, key: str, key_seconds: float, limits: Limits
    ) -> Position:
        position = await super().append(
            channel, body, key=key, key_seconds=key_seconds, limits=limits
        )
        if self.late in body:
            await self.answering.passed()
        return position


@pytest.mark.parametrize("late", ["first", "second", "third"])
async def test_whatever_order_the_answers_come_in_the_first_subscriber_misses_nothing(
    store: FakeStore, late: str
) -> None:
    store.say("c", "before")
    log = LateAnswers(store, late.encode())
    async with one(log) as hub, anyio.create_task_group() as tasks:
        channel = hub.channel("c")
        log.joining.shut()
        client = FakeClient(channel.subscribe())
        for text in ("first", "second", "third"):
            tasks.start_soon(channel.publish, text)
            await settled()
        log.joining.open()
        await settled()

        log.answering.open()

        await client.has("first", "second", "third")


async def test_a_publish_that_is_given_up_keeps_no_new_client_waiting(
    store: FakeStore, log: FakeLog
) -> None:
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        client = FakeClient(channel.subscribe())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "never sent")
            await until(lambda: log.appending.waiting)
            await settled()
            assert client.text == ""

            tasks.cancel_scope.cancel()

        assert (await client.begun()).text == "id: e1.0\r\n\r\n"


async def test_a_position_that_is_not_known_is_asked_of_the_log(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:
        channel = hub.channel("c")
        position = await channel.position()
        assert position == "e1.2"
        store.say("c", 3)

        await FakeClient(channel.subscribe(after=position)).has(3)

        assert await channel.position() == "e1.3"
        assert await channel.publish("4") == "e1.4"
        assert await channel.position() == "e1.4"
        with pytest.raises(ValueError, match="position"):
            channel.subscribe("")
        log.go_away()
        with pytest.raises(LogUnavailable):
            await hub.channel("other").position()


@pytest.mark.parametrize("how", ["cancelled", "failed", "refused at first"])
async def test_what_was_added_though_its_publisher_does_not_know_reaches_who_was_there(
    store: FakeStore, log: FakeLog, how: str
) -> None:
    """What is published after `subscribe` belongs to the subscription, if it's there."""
    store.say("c", "before")
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        client = FakeClient(channel.subscribe())
        if how == "cancelled":
            log.appending.shut()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(channel.publish, "it", key="k"))
                await until(lambda: log.appending.waiting)
                tasks.cancel_scope.cancel()
            store.add("c", b"data: it\r\n\r\n", "k")
        else:

            def fail() -> None:
                store.on_append = lambda: None
                raise LogUnavailable("fake://", "no answer")

            store.on_append = fail
            if how == "failed":
                with pytest.raises(LogUnavailable):
                    await channel.publish("it", wait=0)
            else:
                assert await channel.publish("it") == "e1.2"
        store.say("c", "other")
        log.joining.open()

        await client.has("it", "other")


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_an_event_that_never_gets_through_keeps_nobody_from_beginning(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    async def fail(*_: object, **__: object) -> Position:
        await log.appending.passed()
        raise LogUnavailable("fake://", "no answer")

    monkeypatch.setattr(log, "append", fail)
    log.joining.shut()
    async with one(log) as hub, anyio.create_task_group() as tasks:
        channel = hub.channel("c")
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


async def test_many_doubts_are_forgotten_from_the_oldest_on(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers_module, "_DOUBTS_LIMIT", 2)
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        client = FakeClient(channel.subscribe())
        for number in range(4):

            def fail() -> None:
                raise LogUnavailable("fake://", "no answer")

            store.on_append = fail
            with pytest.raises(LogUnavailable):
                await channel.publish(number, wait=0)
        log.joining.open()

        await client.has(2, 3)


async def test_doubts_of_a_history_that_was_lost_meanwhile_are_of_no_concern(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", "before")
    log.joining.shut()
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        client = FakeClient(channel.subscribe())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "it")
            await until(lambda: log.appending.waiting)
            log.joining.open()
            await until(lambda: channel.epoch)
            await settled()
            log.deaf = True
            store.flush()
            store.say("c", "anew")
            tasks.cancel_scope.cancel()

        await client.begun()
        assert channel.last_event_id == f"{store.shelf('c').epoch}.1"


async def test_doubts_of_who_has_left_are_of_no_concern(store: FakeStore, log: FakeLog) -> None:
    log.joining.shut()
    log.appending.shut()
    async with one(log) as hub:
        channel = hub.channel("c", linger=0)
        clients = [FakeClient(channel.subscribe()) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "it")
            tasks.start_soon(hub.channel("other").publish, "it")
            await until(lambda: log.appending.waiting == 2)
            log.joining.open()
            await until(lambda: channel.epoch)
            await settled()
            log.reading.shut()
            tasks.cancel_scope.cancel()
        await until(lambda: log.reading.waiting)
        for client in clients:
            client.leave()
        del client, clients
        gc.collect()
        await anyio.sleep(0.01)
        tracks_of(hub).sweep()
        log.reading.open()
        await settled()

        assert channel.epoch == ""
        await FakeClient(channel.subscribe()).begun()
