"""Histories that are read from a log: from a time on, or without listening."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import drive, settled, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, in_a_loop_of_its_own, one, running, tracks_of

from sse_starlette.errors import HistoryGap
from sse_starlette.eventlogs.base import Backend, Limits
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


def aged(store: FakeStore, channel: str, *ages: float) -> None:
    """Add an event of each age: its data is its age."""
    store.say(channel, *(f"{age:g}" for age in ages))
    store.shelf(channel).times = [time.monotonic() - age for age in ages]


async def test_a_client_begins_in_the_log_at_a_time(store: FakeStore, log: FakeLog) -> None:
    aged(store, "c", 300, 200, 100)
    async with one(log) as hub:
        channel = hub.channel("c")

        async def told(age: float | timedelta, *data: object) -> None:
            client = FakeClient(
                channel.subscribe(since=time.time() - age if type(age) is int else age)
            )
            await client.has(*data)
            client.leave()

        await told(timedelta(seconds=150), 100)
        await told(150, 100)
        await told(timedelta(seconds=250), 200, 100)
        await told(timedelta(days=1), 300, 200, 100)
        await told(timedelta(seconds=50))
        store.say("c", "new")
        await told(timedelta(seconds=50), "new")
        store.trim("c", 2)
        await told(timedelta(seconds=150), "reset trimmed", 100, "new")


async def test_who_has_an_id_goes_on_from_there_whatever_time_is_asked_for(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200, 100)
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe("e1.2", since=timedelta(days=1))).has(100)
    assert not store.calls["seek"]


@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
async def test_what_is_published_while_the_log_is_asked_for_a_time_belongs_to_the_subscription(
    store: FakeStore, log: FakeLog, *, known: bool
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c")
        if known:
            await FakeClient(channel.subscribe()).begun()
        log.reading.shut()
        # Both begin at a time that is still to come for the log, whose clock is another one.
        clients = [FakeClient(channel.subscribe(since=timedelta(seconds=-60))) for _ in range(2)]
        await channel.publish("new")
        log.reading.open()

        for client in clients:
            await client.has("new")


async def test_a_time_is_asked_for_anew_if_the_history_is_another_one(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c")
        await FakeClient(channel.subscribe()).begun()
        log.deaf = True
        store.flush()
        aged(store, "c", 150, 50)
        first = FakeClient(channel.subscribe(since=timedelta(seconds=100)))
        await first.has(50)

        log.deaf = False
        log.seeking.shut()
        second = FakeClient(channel.subscribe(since=timedelta(seconds=100)))
        await until(lambda: log.seeking.waiting)
        store.flush()
        aged(store, "c", 90, 40)
        log.lose()
        await settled()
        log.seeking.open()

        await second.has(90, 40)


async def test_a_time_that_was_asked_for_in_vain_is_of_no_concern(
    store: FakeStore, log: FakeLog
) -> None:
    aged(store, "c", 300, 200)
    async with one(log) as hub:
        channel = hub.channel("c", linger=0)
        log.seeking.shut()
        client = FakeClient(channel.subscribe(since=timedelta(seconds=250)))
        await until(lambda: log.seeking.waiting)
        client.leave()
        tracks_of(hub).sweep()
        store.flush()
        log.seeking.open()
        await settled()

        await FakeClient(channel.subscribe()).begun()
        assert channel.last_event_id == f"{store.shelf('c').epoch}.0"


async def test_a_log_without_times_refuses_to_begin_at_one(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLog, "keeps_times", False)
    async with one(log) as hub:
        with pytest.raises(ValueError, match=r"'c', a FakeLog, keeps no times .* use after"):
            hub.channel("c").subscribe(since=0)
        with pytest.raises(TypeError, match="FakeLog keeps no times"):
            await Backend.seek(log, "c", age=0, limits=Limits())


async def test_a_history_can_be_read_from_the_log_without_listening(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 8))
    store.trim("c", 2)
    async with one(log) as hub:
        channel = hub.channel("c")

        events = await channel.history(limit=2)
        assert [(event.data, event.id, event.channel) for event in events] == [
            ("6", "e1.6", "c"),
            ("7", "e1.7", "c"),
        ]
        assert [event.data for event in await channel.history(after="e1.3", limit=2)] == ["4", "5"]
        assert [event.data for event in await channel.history()] == ["3", "4", "5", "6", "7"]
        assert await channel.history(after=7) == []
        with pytest.raises(ValueError, match="limit must be at least 1 event, got: 0"):
            await channel.history(limit=0)
        with pytest.raises(HistoryGap, match="trimmed"):
            await channel.history(after="start")
        assert log.watched == {}


async def test_a_history_can_be_read_from_another_loop(store: FakeStore, log: FakeLog) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:

        async def elsewhere() -> list[str]:
            return [event.data for event in await hub.channel("c").history()]

        found = await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere)

    assert found == ["1", "2"]


async def test_a_history_that_is_lost_between_two_questions_is_not_read_on(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1)
    async with one(log) as hub:
        channel = hub.channel("c")
        async with anyio.create_task_group() as tasks:

            async def read_it() -> None:
                with pytest.raises(HistoryGap) as caught:
                    await channel.history()
                assert caught.value.reason == "epoch"

            log.reading.shut()
            tasks.start_soon(read_it)
            await until(lambda: log.reading.waiting)
            store.flush()
            log.reading.open()


async def test_the_newest_events_of_a_log_that_has_trimmed_them_are_none(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    store.trim("c", 2)
    async with one(log) as hub:
        assert await hub.channel("c").history() == []


async def test_who_takes_no_ids_stays_away_from_a_closed_channel_whose_events_it_has(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    store.add("c", b"")
    async with one(log) as hub:
        channel = hub.channel("c")
        await FakeClient(channel.subscribe("e1.0")).ends()

        response = EventSourceResponse(channel.subscribe("e1.2", id_blocks=False))
        async with drive(response) as client:
            await client.returns()

    assert client.status == 204


async def test_an_id_of_the_other_channels_waits_until_those_are_known(
    store: FakeStore, log: FakeLog
) -> None:
    for name in "abc":
        store.say(name, 1)
    async with running(log, FakeLog(store)) as (hub, other):
        asked = (await FakeClient(other.subscribe(["b", "c"])).begun()).leave()
        known = await FakeClient(hub.channel("a").subscribe()).begun()
        log.joining.shut()
        client = FakeClient(hub.subscribe(["a", "b", "c"], asked))
        await settled()
        assert client.data == []
        log.joining.open()
        await settled()

        store.say("b", 2)
        await client.has(2)
        store.say("a", 3)

        await client.has(2, 3)
        assert known.data == ["3"]


async def test_reset_names_no_event_on_a_log_and_may_be_said_in_one(log: FakeLog) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        with pytest.raises(ValueError, match="`reset`"):
            await channel.publish({"event": "reset", "data": "x"})

        assert await channel.publish("event: reset") == "e1.1"
