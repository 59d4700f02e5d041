"""Streams of channels on a log, and what they say while it's away."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import drive, settled, until
from tests.unit.following import numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, tracks_of

from sse_starlette.errors import LogRefused
from sse_starlette.hub import Hub
from sse_starlette.sse import EventSourceResponse

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


# --- Through responses


@pytest.mark.parametrize("app", [None, "snapshot"], ids=["", "snapshot"])
async def test_a_response_streams_from_the_log(
    store: FakeStore, log: FakeLog, app: str | None
) -> None:
    store.say("c", 1, 2)
    hooks: dict[str, Any] = {"snapshot": lambda: [app]} if app else {}
    async with one(log) as hub:
        response = EventSourceResponse(hub.channel("c").subscribe(replay=1, **hooks))
        async with drive(response) as client:
            await client.contains("data: 2")
            await hub.channel("c").publish("3")
            await client.contains("data: 3")

    assert ("data: snapshot" in client.body.decode()) == bool(app)


async def test_a_client_that_leaves_before_it_is_known_where_to_begin_leaves_nothing_behind(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub:
        channel = hub.channel("c")
        subscription = channel.subscribe(snapshot=lambda: ["x"])
        async with drive(EventSourceResponse(subscription)) as client:
            await client.chunk(0) if client.chunks else await settled()
            client.leave()
            await client.returns()

        assert channel.stats().subscribers == 0


async def test_a_wait_for_the_first_event_that_is_cancelled_loses_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    log.joining.shut()
    async with one(log) as hub, hub.channel("c").subscribe("e1.0") as subscription:
        with anyio.move_on_after(0):
            await anext(subscription)
        assert subscription.last_event_id == "e1.0"
        store.say("c", 1)

        log.joining.open()

        assert (await anext(subscription)).data == "1"


async def test_the_id_of_who_begins_anew_is_empty_until_it_is_known(log: FakeLog) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        subscription = channel.subscribe()
        assert (subscription.last_event_id, channel.last_event_id, channel.epoch) == ("", "", "")

        await FakeClient(subscription).begun()

        assert subscription.last_event_id == channel.last_event_id == "e1.0"


# --- The log is away


async def test_a_stream_says_once_that_the_log_is_away_and_once_that_it_is_back(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        before = client.text
        log.go_away()
        log.lose()
        await client.reads("out of reach")

        away = client.text.removeprefix(before)
        assert away.startswith(": the log is out of reach since 2")
        assert away.endswith("Z\r\n\r\n")
        assert away.count(": ") == 1
        assert client.subscription._feed.ping() == away.encode()
        log.come_back()
        await until(lambda: client.text.endswith(": the log is in reach again\r\n\r\n"))
        assert client.subscription._feed.ping() == b""
        assert hub.stats().losses == 1


async def test_many_channels_on_one_stream_say_it_once(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        hub.channel("b")
        client = await FakeClient(hub.subscribe(["a", "b"])).begun()
        log.go_away()
        await client.reads("out of reach")
        await settled()
        log.come_back()
        await client.reads("in reach")

        assert client.text.count(": the log is") == 2


async def test_what_is_here_is_replayed_while_the_log_is_away_and_the_rest_waits(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", *range(1, 11))
    async with one(log) as hub:
        channel = hub.channel("c")
        await FakeClient(channel.subscribe("e1.5")).has(*range(6, 11))
        log.go_away()

        covered = FakeClient(channel.subscribe("e1.7"))
        older = FakeClient(channel.subscribe("e1.3"))
        other = FakeClient(hub.channel("d").subscribe())
        for client in (covered, older, other):
            await client.reads("the log is out of reach")

        assert covered.data == numbers(8, 10)
        assert older.data == other.data == []
        assert older.subscription._feed.ping().startswith(b": the log is out of reach")
        log.come_back()
        await older.has(*range(4, 11))
        store.say("d", 1)
        await other.has(1)


async def test_a_log_that_is_away_at_the_beginning_is_waited_for(
    store: FakeStore, log: FakeLog
) -> None:
    log.cut = True
    async with one(log) as hub:
        client = FakeClient(hub.channel("c").subscribe())
        await settled()
        log.lose()
        await client.reads("out of reach")
        assert not await hub.ready()

        log.come_back()

        await until(lambda: "id: e1.0" in client.text)
        assert await hub.ready()


async def test_ready_says_whether_channels_can_be_used(store: FakeStore, log: FakeLog) -> None:
    assert await Hub().ready()
    hub = Hub(log)
    assert not await hub.ready()
    async with hub.lifespan():
        assert await hub.ready()
        store.down = True
        assert not await hub.ready()
        store.down = False
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
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "check", anyio.sleep_forever)
    async with one(log) as hub:
        assert not await hub.ready(timeout=0)


async def test_what_is_refused_stays_the_reason_while_positions_can_be_asked_for(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        raise LogRefused("fake", "no XTRIM", "Give the user its rights.")

    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        with monkeypatch.context() as patched:
            patched.setattr(log, "check", check)
            assert not await hub.ready()
        await tracks_of(hub).check_positions()
        assert "Give the user its rights" in hub.stats().reason
        assert await hub.ready()
        assert hub.stats().reason == ""


async def test_a_stall_of_the_own_loop_is_no_silence_of_the_log(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = anyio.Event(), anyio.Event()
    ready: list[bool] = []

    async def check() -> None:
        asked.set()
        await answered.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(log, "check", check)
    async with one(log) as hub, anyio.create_task_group() as tasks:

        async def ask() -> None:
            ready.append(await hub.ready(timeout=0.2))

        tasks.start_soon(ask)
        await asked.wait()
        time.sleep(0.5)  # noqa: ASYNC251  (the loop is to stall)
        answered.set()

    assert ready == [True]


async def test_a_loss_during_the_question_counts(
    log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()

        async def check() -> None:
            log.go_away()

        monkeypatch.setattr(log, "check", check)
        assert not await hub.ready()
