"""The suite for event logs finds out logs that break their contract, and says what it has found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.unit.logs import FakeLog, FakeStore

from sse_starlette.eventlogs.base import Entry, Page, Position
from sse_starlette.testing.eventlogs import EventLogContract, RecordingListener


class ForgetsKeys(FakeLog):
    async def append(self, channel: str, body: bytes, **options: Any) -> Position:
        self.store.shelf(channel).keys.clear()
        return await super().append(channel, body, **options)


class SkipsOffsets(FakeLog):
    async def append(self, channel: str, body: bytes, **options: Any) -> Position:
        self.store.shelf(channel).head += 1
        return await super().append(channel, body, **options)


class GoesOnAfterTheEnd(FakeLog):
    async def append(self, channel: str, body: bytes, **options: Any) -> Position:
        self.store.shelf(channel).closed = False
        return await super().append(channel, body, **options)


class HasOneChannel(FakeLog):
    async def append(self, channel: str, body: bytes, **options: Any) -> Position:
        return await super().append("the only one", body, **options)


class ReadsTooMuch(FakeLog):
    async def read(self, channel: str, *, limit: int, **options: Any) -> Page:
        return await super().read(channel, limit=limit + 1, **options)


class KnowsEveryChannel(FakeLog):
    async def heads(self, channels: Sequence[str], *, expire: float | None) -> dict[str, Position]:
        return {name: Position("e1", 0) for name in channels}


class KeepsAFalseHistory(FakeLog):
    async def renew(self, channel: str, epoch: str) -> None:
        pass


class WorksWithoutBeingOpen(FakeLog):
    async def check(self) -> None:
        pass


@pytest.mark.parametrize(
    ("log", "test"),
    [
        (ForgetsKeys, EventLogContract.test_key_seen_before_appends_nothing),
        (SkipsOffsets, EventLogContract.test_offsets_count_from_one_without_a_gap),
        (GoesOnAfterTheEnd, EventLogContract.test_empty_body_closes_the_channel),
        (HasOneChannel, EventLogContract.test_channels_know_nothing_of_each_other),
        (ReadsTooMuch, EventLogContract.test_page_has_what_was_asked_for),
        (KnowsEveryChannel, EventLogContract.test_heads_are_told_of_channels_that_exist),
        (KeepsAFalseHistory, EventLogContract.test_history_is_renewed_if_it_is_still_that_one),
        (WorksWithoutBeingOpen, EventLogContract.test_log_that_is_not_open_says_so),
    ],
)
@pytest.mark.anyio
async def test_a_log_that_breaks_its_contract_is_found_out(
    log: type[FakeLog], test: Callable[..., Any]
) -> None:
    store = FakeStore()

    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        await test(EventLogContract(), lambda: log(store))

    # pytest has rewritten the assert: it says what the values were.
    assert "assert " in str(caught.value) or "DID NOT RAISE" in str(caught.value)


@pytest.mark.anyio
async def test_what_the_listener_waited_for_in_vain_is_told_with_what_it_heard() -> None:
    listener = RecordingListener(patience=0)
    listener.subscribed("prices")
    listener.received("prices", "e1", Entry(7, "k", b"x"))
    listener.notified("news")
    listener.lost(ConnectionError("reset"))

    with pytest.raises(
        AssertionError, match=r"subscribed: \['prices'\]; .*\('prices', 7\).*news.*reset"
    ):
        await listener.until(lambda: listener.has("prices", 8))
