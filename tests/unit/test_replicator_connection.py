"""The connection to a log: what is missed is caught up, and what fails is tried again."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.driving import settled, turns, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one, tracks_of

from sse_starlette.eventlogs import _tracks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_a_connection_that_breaks_time_and_again_loses_and_doubles_nothing(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        for number in range(1, 41):
            store.say("c", number)
            if number % 3 == 0:
                log.lose()
            await turns(number % 5)

        await client.has(*range(1, 41))


async def test_a_look_that_fails_is_repeated(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True
        store.say("c", 1)
        log.deaf = False
        log.cut = True
        store.say("c", 2)
        before = store.calls["read"]
        await until(lambda: store.calls["read"] > before + 3)

        log.cut = False

        await client.has(1, 2)


async def test_looks_that_fail_together_are_repeated_together(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracks, "_FIRST_PAUSE_SECONDS", 0.001)
    async with one(log) as hub:
        clients = [await FakeClient(hub.channel(name).subscribe()).begun() for name in "ab"]
        log.cut = True
        store.stirs = True
        before = store.calls["read"]
        for name in "ab":
            store.say(name, 1)
        await until(lambda: store.calls["read"] == before + 2)

        log.cut = False

        for client in clients:
            await client.has(1)


async def test_a_look_that_failed_is_not_repeated_while_nothing_is_heard(
    store: FakeStore, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tracks, "_FIRST_PAUSE_SECONDS", 0.001)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.cut = True
        store.stirs = True
        before = store.calls["read"]
        store.say("c", 1)
        await until(lambda: store.calls["read"] == before + 1)
        log.lose()
        await until(lambda: not tracks_of(hub)._failed)
        await settled()
        assert store.calls["read"] == before + 1

        log.come_back()

        await client.has(1)


async def test_many_channels_are_looked_at_a_few_at_a_time(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        clients = [FakeClient(hub.channel(f"c{number}").subscribe()) for number in range(50)]
        for client in clients:
            await client.begun()
        log.go_away()
        for number in range(50):
            store.say(f"c{number}", number)
        log.reading.shut()

        log.come_back()

        await settled()
        assert 1 < log.reading.waiting <= 8
        log.reading.open()
        for number, client in enumerate(clients):
            await client.has(number)


async def test_an_unexpected_error_of_the_log_is_logged_once_and_the_look_repeated(
    store: FakeStore,
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, errors = log.read, [ZeroDivisionError("made up"), ZeroDivisionError("made up")]

    async def read(channel: str, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await real(channel, **options)

    monkeypatch.setattr(log, "read", read)
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()

    assert caplog.text.count("channel 'c' can't be read from its log") == 1


async def test_listening_that_fails_is_begun_anew(
    store: FakeStore,
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, errors = log.listen, [ZeroDivisionError("made up")]

    async def listen(listener: Any) -> None:
        if errors:
            raise errors.pop()
        await real(listener)

    monkeypatch.setattr(log, "listen", listen)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        store.say("c", 1)
        await client.has(1)

    assert "the log can't be listened to" in caplog.text


async def test_a_connection_that_died_without_a_word_is_found_out(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log, check_every=0.01) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.deaf = True

        store.say("c", 1, 2)

        await client.has(1, 2)


async def test_a_check_that_fails_is_no_news(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.cut = True
        await tracks_of(hub).check_positions()
        log.cut = False

        store.say("c", 1)

        await client.has(1)
