"""Histories that are read from a log: from a time on, or without listening."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest
from tests.unit.driving import drive, settled, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, Process, in_a_loop_of_its_own, running

from sse_starlette.errors import HistoryGap
from sse_starlette.eventlogs.base import Backend, Limits
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def aged(process: Process, *ages: float) -> None:
    """Add an event of each age: its data is its age."""
    process.say(*(f"{age:g}" for age in ages))
    process.store.shelf("c").times = [time.monotonic() - age for age in ages]


async def test_a_client_begins_in_the_log_at_a_time(process: Process) -> None:
    aged(process, 300, 200, 100)

    async def told(since: float | timedelta, *data: object) -> None:
        client = FakeClient(process.channel.subscribe(since=since))
        await client.has(*data)
        client.leave()

    await told(seconds(150), 100)
    await told(time.time() - 150, 100)
    await told(seconds(250), 200, 100)
    await told(timedelta(days=1), 300, 200, 100)
    await told(seconds(50))
    process.say("new")
    await told(seconds(50), "new")
    process.store.trim("c", 2)
    await told(seconds(150), "reset trimmed", 100, "new")


async def test_who_has_an_id_goes_on_from_there_whatever_time_is_asked_for(
    process: Process,
) -> None:
    aged(process, 300, 200, 100)
    await FakeClient(process.channel.subscribe("e1.2", since=timedelta(days=1))).has(100)
    assert not process.store.calls["seek"]


@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
async def test_what_is_published_while_the_log_is_asked_for_a_time_belongs_to_the_subscription(
    process: Process, *, known: bool
) -> None:
    aged(process, 300, 200)
    if known:
        await process.client()
    process.log.reading.shut()
    # Both begin at a time that is still to come for the log, whose clock is another one.
    clients = [FakeClient(process.channel.subscribe(since=seconds(-60))) for _ in range(2)]
    await process.channel.publish("new")
    process.log.reading.open()

    for client in clients:
        await client.has("new")


async def test_a_time_is_asked_for_anew_if_the_history_is_another_one(process: Process) -> None:
    log, store = process.log, process.store
    aged(process, 300, 200)
    await process.client()
    log.deaf = True
    store.flush()
    aged(process, 150, 50)
    await FakeClient(process.channel.subscribe(since=seconds(100))).has(50)

    log.deaf = False
    log.seeking.shut()
    second = FakeClient(process.channel.subscribe(since=seconds(100)))
    await until(lambda: log.seeking.waiting)
    store.flush()
    aged(process, 90, 40)
    log.lose()
    await settled()
    log.seeking.open()

    await second.has(90, 40)


async def test_a_time_that_was_asked_for_in_vain_is_of_no_concern(process: Process) -> None:
    log, channel = process.log, process.hub.channel("c", linger=0)
    aged(process, 300, 200)
    log.seeking.shut()
    client = FakeClient(channel.subscribe(since=seconds(250)))
    await until(lambda: log.seeking.waiting)
    client.leave()
    process.tracks.sweep()
    process.store.flush()
    log.seeking.open()
    await settled()

    await process.client()
    assert channel.last_event_id == f"{process.store.shelf('c').epoch}.0"


async def test_a_log_without_times_refuses_to_begin_at_one(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLog, "keeps_times", False)
    with pytest.raises(ValueError, match=r"'c', a FakeLog, keeps no times .* use after"):
        process.channel.subscribe(since=0)
    with pytest.raises(TypeError, match="FakeLog keeps no times"):
        await Backend.seek(process.log, "c", age=0, limits=Limits())


async def test_a_history_can_be_read_from_the_log_without_listening(process: Process) -> None:
    channel = process.channel
    process.say(*range(1, 8))
    process.store.trim("c", 2)

    events = await channel.history(limit=2)
    found = [(event.data, event.id, event.channel) for event in events]
    assert found == [("6", "e1.6", "c"), ("7", "e1.7", "c")]
    assert [event.data for event in await channel.history(after="e1.3", limit=2)] == ["4", "5"]
    assert [event.data for event in await channel.history()] == [*"34567"]
    assert await channel.history(after=7) == []
    with pytest.raises(ValueError, match="limit must be at least 1 event, got: 0"):
        await channel.history(limit=0)
    with pytest.raises(HistoryGap, match="trimmed"):
        await channel.history(after="start")
    assert process.log.watched == {}
    process.store.trim("c", 7)
    assert await channel.history() == []


async def test_a_history_can_be_read_from_another_loop(process: Process) -> None:
    process.say(1, 2)

    async def elsewhere() -> list[str]:
        return [event.data for event in await process.channel.history()]

    assert await anyio.to_thread.run_sync(in_a_loop_of_its_own, elsewhere) == ["1", "2"]


async def test_a_history_that_is_lost_between_two_questions_is_not_read_on(
    process: Process,
) -> None:
    process.say(1)
    process.log.reading.shut()

    async def read_it() -> None:
        with pytest.raises(HistoryGap) as caught:
            await process.channel.history()
        assert caught.value.reason == "epoch"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_it)
        await until(lambda: process.log.reading.waiting)
        process.store.flush()
        process.log.reading.open()


async def test_who_takes_no_ids_stays_away_from_a_closed_channel_whose_events_it_has(
    process: Process,
) -> None:
    process.say(1, 2)
    process.store.add("c", b"")
    await FakeClient(process.channel.subscribe("e1.0")).ends()

    response = EventSourceResponse(process.channel.subscribe("e1.2", id_blocks=False))
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


async def test_reset_names_no_event_on_a_log_and_may_be_said_in_one(process: Process) -> None:
    with pytest.raises(ValueError, match="`reset`"):
        await process.channel.publish({"event": "reset", "data": "x"})

    assert await process.channel.publish("event: reset") == "e1.1"
