"""Histories that a log has lost, trimmed or written anew: clients are told."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from tests.unit.driving import settled, until
from tests.unit.following import numbers
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, tracks_of

from sse_starlette.eventlogs import _track

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_a_history_that_was_lost_is_told_once_to_everyone(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        clients = [await FakeClient(channel.subscribe()).begun() for _ in range(3)]
        store.say("c", 1, 2)
        for client in clients:
            await client.has(1, 2)

        store.flush()
        log.lose()
        await until(lambda: channel.epoch == "e4")
        store.say("c", 3)

        for client in clients:
            await client.has(1, 2, "reset epoch", 3)
            assert client.client.got[-2].reset["cursor"] == client.client.got[-2].id == "e4.0"
        assert channel.stats().resets == {"epoch": 3}


async def test_a_new_history_is_known_by_the_first_event_that_is_heard_of_it(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await client.has(1)

        store.flush()
        store.say("c", 2)

        await client.has(1, "reset epoch")
        assert client.client.last_event_id == "e3.1"
        store.say("c", 3)
        await client.has(1, "reset epoch", 3)


async def test_who_has_not_taken_the_old_history_yet_is_told_and_goes_on_with_the_new_one(
    store: FakeStore, log: FakeLog
) -> None:
    """Its position is that of an offset the new history has, too: with other events."""
    async with one(log) as hub:
        channel = hub.channel("c")
        client = await FakeClient(channel.subscribe()).begun()
        store.say("c", 1, 2)
        await client.has(1, 2)
        client.subscription._wake = lambda: None
        store.flush()
        store.say("c", "a", "b", "c", "d")
        await until(lambda: channel.epoch == "e4")
        client._woken = True

        await client.has(1, 2, "reset epoch")
        assert client.client.last_event_id == "e4.4"


async def test_who_looks_too_late_at_a_new_history_goes_on_at_its_end(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c", history=2)
        client = await FakeClient(channel.subscribe()).begun()
        client.subscription._wake = lambda: None
        store.flush()
        log.lose()
        await until(lambda: channel.epoch == "e2")
        store.say("c", *range(1, 6))
        await until(lambda: channel.head == 5)
        client._woken = True

        await client.has("reset epoch")
        assert client.client.last_event_id == "e2.5"


async def test_who_was_told_has_the_place_that_is_true_in_the_new_history(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.flush()
        store.say("c", 1, 2)
        await client.has("reset epoch")
        asked = client.leave()
        store.say("c", 3)

        await FakeClient(hub.channel("c").subscribe(asked), client.client).has("reset epoch", 3)


async def test_what_was_trimmed_while_the_connection_was_lost_is_told_and_what_is_left_is_live(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        channel = hub.channel("c")
        client = await FakeClient(channel.subscribe()).begun()
        store.say("c", 1, 2)
        await client.has(1, 2)

        log.go_away()
        store.say("c", *range(3, 9))
        store.trim("c", 5)
        log.come_back()

        await client.has(1, 2, "reset trimmed", 6, 7, 8)
        assert client.client.got[2].reset["cursor"] == "e1.5"
        store.say("c", 9)
        await client.has(1, 2, "reset trimmed", 6, 7, 8, 9)
        assert client.subscription.close_reason is None
        assert channel.stats().resets == {"trimmed": 1}
        await FakeClient(channel.subscribe("e1.5")).has(6, 7, 8, 9)
        await FakeClient(channel.subscribe("e1.4")).has("reset trimmed")


@pytest.mark.parametrize("known", [True, False], ids=["heard", "never heard"])
async def test_when_nothing_is_left_of_what_was_missed_it_is_told(
    store: FakeStore, log: FakeLog, known: bool
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        if known:
            store.say("c", 1)
            await until(lambda: client.data)
        log.go_away()
        store.say("c", 2, 3)
        store.trim("c", 3)
        log.come_back()

        await until(lambda: "reset trimmed" in client.data)
        store.say("c", 4)
        await until(lambda: client.data[-1] == "4")


async def test_who_misses_nothing_of_what_was_trimmed_is_not_told(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2, 3)
        await client.has(1, 2, 3)
        log.go_away()
        store.trim("c", 3)
        store.say("c", 4)

        log.come_back()

        await client.has(1, 2, 3, 4)


@pytest.mark.parametrize("since", [0, 1, 2, 5], ids="{} newer events".format)
@pytest.mark.parametrize("how", ["lost", "heard", "checked"])
async def test_a_history_that_was_written_anew_is_given_up(
    store: FakeStore, log: FakeLog, since: int, how: str
) -> None:
    """A server that took over lacks the newest events, and their numbers are given out again."""
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2, 3)
        await client.has(1, 2, 3)

        if how == "lost":
            log.go_away()
        log.deaf = how == "checked"
        store.fall_back("c", 1)
        for number in range(since):
            store.say("c", f"other {number}")
        if how == "lost":
            log.come_back()
        elif how == "checked":
            await tracks_of(hub).check_positions()

        if (how == "checked" and since >= 2) or (how == "heard" and since < 2):
            # The numbers look fine; the next look finds out.
            log.lose()
        await client.has(1, 2, 3, "reset epoch")
        assert store.calls["renew"] == 1
        log.deaf = False
        store.say("c", "live")
        await client.has(1, 2, 3, "reset epoch", "live")


async def test_nothing_is_delivered_between_a_loss_and_the_proof_that_the_history_is_the_same(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1, 2)
        await client.has(1, 2)
        log.reading.shut()
        log.go_away()
        store.fall_back("c", 1)
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.say("c", "other 2", "other 3")
        await settled()
        assert client.data == ["1", "2"]

        log.reading.open()

        await client.has(1, 2, "reset epoch")


async def test_a_history_that_is_written_anew_while_it_is_read_is_given_up(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await client.has(1)
        log.go_away()
        store.say("c", *range(2, 12))
        log.reading.shut()
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.fall_back("c", 1)

        log.reading.open()

        await until(lambda: "reset epoch" in client.data)


async def test_a_history_that_is_lost_while_it_is_read_is_told(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_track, "_PAGE", 3)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.go_away()
        store.say("c", *range(1, 12))
        log.reading.shut()
        log.come_back()
        await until(lambda: log.reading.waiting)
        store.flush()
        log.reading.open()

        await until(lambda: "reset epoch" in client.data)
        assert client.data in ([*numbers(1, 3), "reset epoch"], ["reset epoch"])


async def test_a_history_that_is_lost_while_older_events_are_read_is_told(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2, 3)
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.flush()
        store.say("c", *range(1, 6))

        client = FakeClient(hub.channel("c").subscribe("e1.1"))

        await client.has("reset epoch")


async def test_only_the_channel_that_was_lost_is_reset(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.subscribe(["a", "b"])).begun()
        store.say("a", "a1")
        store.say("b", "b1")
        # Between channels there's no order.
        await until(lambda: len(client.data) == 2)

        store.flush("b")
        log.lose()
        await until(lambda: len(client.data) == 3)
        store.say("a", "a2")
        store.say("b", "b2")

        await until(lambda: len(client.data) == 5)
        assert sorted(client.data[:2]) == ["a1", "b1"]
        assert client.data[2] == "reset epoch"
        assert sorted(client.data[3:]) == ["a2", "b2"]
        assert client.client.got[2].reset["channel"] == "b"
        asked = client.leave()
        epochs = [hub.channel(name).epoch for name in "ab"]
        assert asked == f"{epochs[0]}.2-{epochs[1]}.1"


async def test_an_event_of_the_old_history_is_not_taken_for_one_of_the_new(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(
            hub.channel("c").subscribe(filter=lambda event: event.data != "no")
        ).begun()
        store.say("c", "old")
        await client.has("old")
        store.flush()
        log.lose()
        await client.has("old", "reset epoch")

        store.say("c", "no")
        store.say("c", "new")

        await client.has("old", "reset epoch", "new")


async def test_the_application_is_asked_when_a_history_breaks(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        subscription = hub.channel("c").subscribe(snapshot=lambda: ["snapshot"])
        got: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                async for event in subscription:
                    got.append(str(event.event or event.data))  # noqa: PERF401

            tasks.start_soon(follow)
            await until(lambda: got == ["snapshot"])
            store.flush()
            log.lose()
            await until(lambda: got == ["snapshot", "reset", "snapshot"])
            store.say("c", 1)
            await until(lambda: got[-1] == "1")
            await subscription.aclose()
