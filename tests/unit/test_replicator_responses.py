"""Streams of channels on a log, and what they say while it's away."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.unit.driving import drive, settled
from tests.unit.following import numbers
from tests.unit.logs import FakeLog
from tests.unit.replicating import FakeClient, Process, one, raising, tracks_of

from sse_starlette.errors import LogRefused
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


# --- Through responses


@pytest.mark.parametrize("app", [None, "snapshot"], ids=["", "snapshot"])
async def test_a_response_streams_from_the_log(process: Process, app: str | None) -> None:
    process.say(1, 2)
    hooks: dict[str, Any] = {"snapshot": lambda: [app]} if app else {}
    response = EventSourceResponse(process.channel.subscribe(replay=1, **hooks))
    async with drive(response) as client:
        await client.contains("data: 2")
        await process.channel.publish("3")
        await client.contains("data: 3")

    assert ("data: snapshot" in client.body.decode()) == bool(app)


async def test_a_client_that_leaves_before_it_is_known_where_to_begin_leaves_nothing_behind(
    process: Process,
) -> None:
    process.log.joining.shut()
    subscription = process.channel.subscribe(snapshot=lambda: ["x"])
    async with drive(EventSourceResponse(subscription)) as client:
        await client.chunk(0) if client.chunks else await settled()
        client.leave()
        await client.returns()

    assert process.channel.stats().subscribers == 0


async def test_a_wait_for_the_first_event_that_is_cancelled_loses_nothing(
    process: Process,
) -> None:
    process.log.joining.shut()
    async with process.channel.subscribe("e1.0") as subscription:
        with anyio.move_on_after(0):
            await anext(subscription)
        assert subscription.last_event_id == "e1.0"
        process.say(1)

        process.log.joining.open()

        assert (await anext(subscription)).data == "1"


async def test_the_id_of_who_begins_anew_is_empty_until_it_is_known(process: Process) -> None:
    channel = process.channel
    subscription = channel.subscribe()
    assert (subscription.last_event_id, channel.last_event_id, channel.epoch) == ("", "", "")

    await FakeClient(subscription).begun()

    assert subscription.last_event_id == channel.last_event_id == "e1.0"


# --- The log is away


async def test_a_stream_says_once_that_the_log_is_away_and_once_that_it_is_back(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.hub.channel("d")
    # Of many channels, too.
    for subscribe in (process.channel.subscribe, partial(process.hub.subscribe, ["c", "d"])):
        client = await FakeClient(subscribe()).begun()
        before = client.text
        process.log.go_away()
        process.log.lose()
        await client.reads("out of reach")
        await settled()

        away = client.text.removeprefix(before)
        assert away.startswith(": the log is out of reach since 2")
        assert away.endswith("Z\r\n\r\n")
        assert away.count(": ") == 1
        assert client.subscription._feed.ping() == away.encode()
        process.log.come_back()
        await client.reads("in reach")
        await settled()
        assert client.text.removeprefix(before + away) == ": the log is in reach again\r\n\r\n"
        assert client.subscription._feed.ping() == b""
    assert process.hub.stats().losses == 2
    assert caplog.text.count("the log is out of reach: ") == 2


async def test_what_is_here_is_replayed_while_the_log_is_away_and_the_rest_waits(
    process: Process,
) -> None:
    process.say(*range(1, 11))
    await FakeClient(process.channel.subscribe("e1.5")).has(*range(6, 11))
    process.log.go_away()

    covered, older = (FakeClient(process.channel.subscribe(each)) for each in ("e1.7", "e1.3"))
    other = FakeClient(process.hub.channel("d").subscribe())
    for client in (covered, older, other):
        await client.reads("the log is out of reach")

    assert covered.data == numbers(8, 10)
    assert older.data == other.data == []
    assert older.subscription._feed.ping().startswith(b": the log is out of reach")
    process.log.come_back()
    await older.has(*range(4, 11))
    process.store.say("d", 1)
    await other.has(1)


async def test_a_log_that_is_away_at_the_beginning_is_waited_for(log: FakeLog) -> None:
    log.cut = True
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe())
        await settled()
        log.lose()
        await client.reads("out of reach")
        assert not await hub.ready()

        log.come_back()

        await client.reads("id: e1.0")
        assert await hub.ready()


async def test_ready_says_whether_channels_can_be_used(log: FakeLog) -> None:
    assert await Hub().ready()
    hub = Hub(log)
    assert not await hub.ready()
    async with hub.lifespan():
        assert await hub.ready()
        log.cut = True
        assert not await hub.ready()
        log.cut = False
        log.lose()  # Nothing is watched, so nothing says that it's back.
        assert not hub.stats().connected
        assert await hub.ready()
        assert hub.stats().connected
        log.lose()
        await tracks_of(hub).check_positions()
        assert hub.stats().connected
    assert not await hub.ready()
    assert not hub.stats().connected


async def test_a_log_that_does_not_answer_in_time_is_not_ready(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.log, "check", anyio.sleep_forever)

    assert not await process.hub.ready(timeout=0)
    assert "no answer within 0 s" in process.hub.stats().reason
    monkeypatch.undo()
    assert await process.hub.ready()
    assert process.hub.stats().reason == ""


async def test_what_is_refused_stays_the_reason_while_positions_can_be_asked_for(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = LogRefused("fake", "no XTRIM", "Give the user its rights.")
    await process.client()
    with monkeypatch.context() as patched:
        patched.setattr(process.log, "check", raising(refused))
        assert not await process.hub.ready()
    await process.tracks.check_positions()
    assert "Give the user its rights" in process.hub.stats().reason
    assert await process.hub.ready()
    assert process.hub.stats().reason == ""


async def test_a_stall_of_the_own_loop_is_no_silence_of_the_log(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = anyio.Event(), anyio.Event()
    ready: list[bool] = []

    async def check() -> None:
        asked.set()
        await answered.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    async def ask() -> None:
        ready.append(await process.hub.ready(timeout=0.2))

    monkeypatch.setattr(process.log, "check", check)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await asked.wait()
        time.sleep(0.5)  # noqa: ASYNC251  (the loop is to stall)
        answered.set()

    assert ready == [True]


async def test_a_loss_during_the_question_counts(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.client()

    async def check() -> None:
        process.log.go_away()

    monkeypatch.setattr(process.log, "check", check)
    assert not await process.hub.ready()
