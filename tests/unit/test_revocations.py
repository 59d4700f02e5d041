"""A listener's streams end, in all processes that share an event log, when it may not listen any more."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import anyio
import pytest
from tests.unit.driving import Exchange, drive, settled, until
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import one
from tests.unit.test_shutdown import Told

from sse_starlette import EventSourceResponse, Hub
from sse_starlette._shutdown.streams import State, end_streams, stream_begins, stream_ended
from sse_starlette.channels import _revocations
from sse_starlette.errors import LogUnavailable
from sse_starlette.sse import CloseReason

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]

REVOKED = "sse_starlette:revoked"
SAID = b"event: revoked\r\ndata: revoked\r\n\r\n"


async def endless() -> AsyncIterator[str]:
    yield "first"
    await anyio.sleep_forever()


@asynccontextmanager
async def stream_to(
    listener: str | None, content: Any = None
) -> AsyncIterator[tuple[Exchange, list[CloseReason]]]:
    """Stream to this listener; what comes out is also why the stream has ended, once it has."""
    reasons: list[CloseReason] = []
    response = EventSourceResponse(
        endless() if content is None else content, listener=listener, on_close=reasons.append
    )
    async with drive(response) as exchange:
        await exchange.chunk(0)
        yield exchange, reasons


def said(listener: str, *, seconds_ago: float = 0.0) -> str:
    """What another process has published."""
    return json.dumps({"listener": listener, "at": time.time() - seconds_ago})


def heard(hub: Hub) -> str:
    """The position up to which the hub has heard what others revoke."""
    subscription = hub._parts.revocations._subscription
    return "" if subscription is None else subscription.last_event_id


async def test_all_streams_of_a_listener_end_and_no_others() -> None:
    hub = Hub()
    async with (
        stream_to("ann") as first,
        stream_to("ann", hub.channel("news").subscribe()) as second,
        stream_to("bob") as (bob, _),
        stream_to(None) as (nobody, _),
    ):
        await hub.revoke("ann")

        for exchange, reasons in (first, second):
            await exchange.returns()
            assert exchange.body.endswith(SAID)
            assert (exchange.complete, reasons) == (True, ["revoked"])
        await settled()
        assert not bob.over
        assert not nobody.over


async def test_client_that_reads_nothing_is_not_waited_for_for_long() -> None:
    async with stream_to("ann") as (exchange, reasons):
        exchange.block()
        await Hub().revoke("ann")
        await exchange.returns()

    assert reasons == ["revoked"]


async def test_what_another_process_revokes_ends_streams_here(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        async with stream_to("ann") as (ann, reasons), stream_to("bob") as (bob, _):
            await settled()
            store.say(REVOKED, said("ann"))
            await ann.returns()
            assert not bob.over
            # It goes on listening.
            store.say(REVOKED, said("bob"))
            await bob.returns()
            assert bob.body.endswith(SAID)
        assert hub.stats().channels == {}

    assert reasons == ["revoked"]


@pytest.mark.parametrize("reachable", [True, False], ids=["told to the others", "told of"])
async def test_what_is_revoked_ends_the_streams_here_whether_or_not_the_log_is_in_reach(
    store: FakeStore, log: FakeLog, *, reachable: bool
) -> None:
    async with one(log, publish_wait=0) as hub, stream_to("ann") as (exchange, _):
        store.down = not reachable
        with nullcontext() if reachable else pytest.raises(LogUnavailable):
            await hub.revoke("ann")
        await exchange.returns()
        store.down = False

    assert not reachable or b"ann" in store.shelves[REVOKED].entries[-1].body


async def test_revocation_that_came_just_before_the_first_stream_counts_and_an_older_one_does_not(
    store: FakeStore, log: FakeLog
) -> None:
    store.say(REVOKED, said("bob", seconds_ago=3_600), said("ann", seconds_ago=1))
    async with one(log), stream_to("ann") as (ann, _), stream_to("bob") as (bob, _):
        await ann.returns()
        await settled()
        assert not bob.over


async def test_who_has_come_after_a_revocation_is_not_taken_for_revoked(
    store: FakeStore, log: FakeLog
) -> None:
    """Neither by the process that has said it, nor for good by another, whose clock may differ."""
    async with one(log) as hub, one(FakeLog(store)):
        await hub.revoke("ann")
        async with stream_to("ann") as (ann, reasons):
            await ann.returns()
    assert reasons == ["expired"]

    async with one(log) as hub:
        await hub.revoke("bob")
        async with stream_to("bob") as (bob, _):
            await until(lambda: heard(hub))
            await settled()
            assert not bob.over


async def test_nothing_is_listened_to_until_a_stream_says_who_listens(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub, stream_to(None):
        await settled()
        assert REVOKED not in log.watched
        async with stream_to("ann"):
            await until(lambda: REVOKED in log.watched)
        subscription = hub._parts.revocations._subscription

    assert subscription is not None
    assert subscription.stopped  # With the lifespan.


async def test_all_listeners_are_asked_anew_who_they_are_when_a_revocation_may_be_missing(
    store: FakeStore, log: FakeLog
) -> None:
    async with (
        one(log) as hub,
        stream_to("ann") as (exchange, reasons),
        stream_to(None) as (nobody, _),
    ):
        await settled()
        store.say(REVOKED, said("somebody"))
        await until(lambda: heard(hub) == f"{store.shelf(REVOKED).epoch}.1")
        log.go_away()
        store.flush()
        store.say(REVOKED, said("somebody"))
        log.come_back()
        await exchange.returns()
        assert not nobody.over

    assert reasons == ["expired"]
    assert SAID not in exchange.body


@pytest.mark.parametrize("wrong", ["no JSON", "[]", "{}", '{"listener": "a", "at": "now"}'])
async def test_what_is_no_revocation_is_logged_and_all_listeners_are_asked_anew(
    store: FakeStore, log: FakeLog, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with one(log), stream_to("ann") as (exchange, reasons):
        await settled()
        store.say(REVOKED, wrong)
        await exchange.returns()

    assert reasons == ["expired"]
    assert "is no revocation" in caplog.text


async def test_lifespan_may_end_before_following_begins(store: FakeStore, log: FakeLog) -> None:
    async with stream_to(None):
        async with one(log) as hub:
            hub._parts.revocations._listener_came()
        await settled()
        hub._parts.revocations._follow()  # As the loop does, if it comes to it only then.
        assert log.watched == {}
        # A subscription that was looking forward to be looked at is none any more.
        hub._parts.revocations._look_soon()
        hub._parts.revocations._listener_came()
        # Nor is it told any more of streams that begin.
        assert State.listener_calls == ()


async def test_loop_that_was_closed_in_mid_stream_is_left_alone() -> None:
    class Closed:
        key: object = "closed"

        def call_soon_threadsafe(self, call: object) -> None:
            raise RuntimeError("Event loop is closed")

    stream = Told()
    stream.listener = "ann"
    stream_begins(stream)
    loop, stream.loop = stream.loop, Closed()  # type: ignore[assignment]
    end_streams("revoked", "ann")
    stream.loop = loop
    stream_ended(stream)


async def test_listener_that_is_no_name_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="listener is int"):
        await Hub().revoke(17)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"listener is empty, .* name who may not listen any more"):
        await Hub().revoke("")


def test_names_of_the_librarys_own_channels_are_refused() -> None:
    assert _revocations._NAME == REVOKED
    with pytest.raises(ValueError, match="are the library's own"):
        Hub().channel(REVOKED)
    with pytest.raises(ValueError, match="are the library's own"):
        Hub().subscribe(["news", REVOKED])
