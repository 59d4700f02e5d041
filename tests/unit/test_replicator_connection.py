"""The connection to a log: what is missed is caught up, and what fails is tried again."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.driving import settled, turns, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, Process, one, tracks_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]


async def test_a_connection_that_breaks_time_and_again_loses_and_doubles_nothing(
    process: Process,
) -> None:
    client = await process.client()
    for number in range(1, 41):
        process.say(number)
        if number % 3 == 0:
            process.log.lose()
        await turns(number % 5)

    await client.has(*range(1, 41))


async def test_a_look_that_fails_is_repeated(process: Process) -> None:
    client = await process.client()
    process.log.deaf = True
    process.say(1)
    process.log.deaf = False
    process.log.cut = True
    process.say(2)
    before = process.store.calls["read"]
    await until(lambda: process.store.calls["read"] > before + 3)

    process.log.cut = False

    await client.has(1, 2)


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "lost"])
async def test_looks_that_fail_together_are_repeated_together_once_the_log_is_heard(
    store: FakeStore, log: FakeLog, *, heard: bool
) -> None:
    async with one(log, read_pauses=(0.001, 0.0)) as hub:
        clients = [await FakeClient(hub.channel(name).subscribe()).begun() for name in "ab"]
        log.cut = True
        store.stirs = True
        before = store.calls["read"]
        for name in "ab":
            store.say(name, 1)
        await until(lambda: store.calls["read"] == before + 2)
        if not heard:
            log.lose()
            await until(lambda: not tracks_of(hub)._failed)
            await settled()
            assert store.calls["read"] == before + 2

        log.come_back()

        for client in clients:
            await client.has(1)


async def test_many_channels_are_looked_at_a_few_at_a_time(process: Process) -> None:
    channels = [process.hub.channel(f"c{number}") for number in range(50)]
    clients = [await FakeClient(channel.subscribe()).begun() for channel in channels]
    process.log.go_away()
    for number in range(50):
        process.store.say(f"c{number}", number)
    process.log.reading.shut()

    process.log.come_back()

    await settled()
    assert 1 < process.log.reading.waiting <= 8
    process.log.reading.open()
    for number, client in enumerate(clients):
        await client.has(number)


@pytest.mark.parametrize(
    ("what", "times", "told"),
    [
        ("read", 2, "channel 'c' can't be read from its log"),
        ("listen", 1, "the log can't be listened to"),
    ],
)
async def test_an_unexpected_error_of_the_log_is_logged_once_and_what_failed_begun_anew(
    log: FakeLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
    times: int,
    told: str,
) -> None:
    real, errors = getattr(log, what), [ZeroDivisionError("made up")] * times

    async def fail(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return await real(*arguments, **options)

    monkeypatch.setattr(log, what, fail)
    async with one(log) as hub:
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        log.store.say("c", 1)
        await client.has(1)

    assert caplog.text.count(told) == 1
