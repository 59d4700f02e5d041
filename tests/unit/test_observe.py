"""What observers are told, and what it costs where there are none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tests.unit.driving import Exchange, drive, http_scope, settled
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one
from tests.unit.subscribing import fall_behind, publish, streamed, streaming

from sse_starlette import Channel, EventSourceResponse, Hub, StreamPolicy
from sse_starlette.channels.channel import state_of
from sse_starlette.metrics._tally import Tally
from sse_starlette.observe import Observer, StreamRecord, is_observed, observe

pytestmark = pytest.mark.anyio


class Told(Observer):
    """Keeps what it's told."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []
        self.began: list[StreamRecord] = []
        self.ended: list[StreamRecord] = []
        self.completed: list[str | None] = []

    def stream_began(self, stream: StreamRecord) -> None:
        self.began.append(stream)

    def stream_completes(self, stream: StreamRecord) -> None:
        self.completed.append(stream.reason)

    def stream_ended(self, stream: StreamRecord) -> None:
        self.ended.append(stream)

    def subscriber_lagged(self, channel: str, dropped: int, *, ended: bool) -> None:
        self.all.append(("lagged", channel, dropped, ended))

    def gap_told(self, channel: str, reason: str) -> None:
        self.all.append(("gap", channel, reason))

    def log_lost(self, log: str, reason: str) -> None:
        self.all.append(("lost", log, reason))

    def log_found(self, log: str) -> None:
        self.all.append(("found", log))


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    end = observe(observer)
    try:
        yield
    finally:
        end()


async def two_events() -> AsyncIterator[str]:
    yield "one"
    yield "two"


async def endpoint(request: object) -> EventSourceResponse:
    return EventSourceResponse(two_events(), listener="ann", ping=0)


APP = Starlette(routes=[Route("/", endpoint)])


async def ask(**scope: Any) -> Exchange:
    async with drive(APP, scope=http_scope(**scope)) as exchange:
        await exchange.returns()
    return exchange


async def test_observer_is_told_of_a_stream_and_of_what_it_has_sent() -> None:
    told = Told()
    with observing(told):
        exchange = await ask()

    (stream,) = told.ended
    assert told.began == [stream]
    assert (stream.endpoint, stream.listener, stream.reason) == ("endpoint", "ann", "end")
    assert (stream.events, stream.sends) == (2, len([chunk for chunk in exchange.chunks if chunk]))
    assert stream.sent_bytes == len(exchange.body)
    assert stream.seconds is not None
    assert repr(stream) == "<StreamRecord 'endpoint' end>"


async def test_observer_is_told_why_each_stream_ended() -> None:
    told = Told()
    policy = StreamPolicy(total=1)

    async def fails() -> AsyncIterator[str]:
        yield "one"
        raise ValueError("a mistake")

    with observing(told):
        async with drive(EventSourceResponse(fails(), policy=policy)) as exchange:
            await exchange.raises(ValueError)
        channel = Hub().channel("news")
        async with streaming(channel.subscribe(), policy=policy):
            await streamed(channel.subscribe(), policy=policy)

    assert [one.reason for one in told.ended] == ["error", "refused", "client"]
    assert told.completed == ["error", "refused"]
    assert {one.endpoint for one in told.ended} == {""}


async def test_stream_that_could_not_begin_is_not_told_of() -> None:
    told = Told()
    generator = two_events()
    responses = [EventSourceResponse(generator), EventSourceResponse(generator)]
    with observing(told):
        async with drive(responses[0]) as first:
            await first.returns()
        async with drive(responses[1]) as second:
            await second.raises(ValueError)

    assert len(told.began) == len(told.ended) == 1


async def test_observer_is_told_of_gaps_and_of_clients_that_are_too_slow() -> None:
    told = Told()
    hub = Hub()
    with observing(told):
        hub.channel("strict", history=1).subscribe("another.5")
        await fall_behind(hub.channel("strict"))
        await fall_behind(hub.channel("lenient", history=1, slow="reset"))

    assert told.all == [
        ("gap", "strict", "epoch"),
        ("lagged", "strict", 0, True),
        ("lagged", "lenient", 4, False),
        ("gap", "lenient", "lagging"),
    ]


async def test_gap_by_a_lost_history_is_nobodys_lag() -> None:
    told = Told()
    before = state_of(Channel("news"))._ring
    with observing(told):
        state_of(Channel("news")).on_lag(before, 0)

    assert told.all == [("gap", "news", "epoch")]


async def test_observer_that_raises_harms_nobody_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaks(Observer):
        def stream_began(self, stream: StreamRecord) -> None:
            raise ValueError("a mistake")

    told = Told()
    with observing(Breaks()), observing(told), caplog.at_level(logging.ERROR):
        await ask()

    assert len(told.ended) == 1
    assert "stream_began of" in caplog.text


async def test_observer_that_has_ended_is_told_nothing_more() -> None:
    told, other = Told(), Told()
    end = observe(told)
    with observing(other):
        end()
        end()
        await ask()

    assert (told.began, len(other.began)) == ([], 1)
    assert not is_observed()


async def test_each_end_ends_its_own_observing() -> None:
    told = Told()
    end = observe(told)
    with observing(told):
        end()
        end()
        await ask()

    assert len(told.began) == 1
    assert not is_observed()


def test_what_is_no_observer_is_refused() -> None:
    with pytest.raises(TypeError, match="derives from Observer, got: type"):
        observe(Told)  # type: ignore[arg-type]


async def test_observer_need_not_override_anything() -> None:
    channel = Hub().channel("news", history=1)
    with observing(Observer()):
        channel.subscribe("another.5")
        await fall_behind(channel)
    Observer().log_lost("log", "why")
    Observer().log_found("log")


async def test_head_is_a_stream_of_no_bytes() -> None:
    told = Told()
    with observing(told):
        await ask(method="HEAD")

    (stream,) = told.ended
    assert (stream.reason, stream.sends, stream.events) == ("end", 0, 0)


async def test_tally_sums_up_open_and_ended_streams() -> None:
    tally = Tally()
    with observing(tally):
        await ask()
        sent = tally.sent_by_endpoint()["endpoint"]
        assert tally.open_by_endpoint() == {"endpoint": 0}
        response = EventSourceResponse(Hub().channel("news").subscribe())
        async with drive(response, scope=http_scope(endpoint=endpoint)) as open_stream:
            await open_stream.chunk(0)
            assert tally.open_by_endpoint() == {"endpoint": 1}
            both = tally.sent_by_endpoint()["endpoint"]
            assert both.sent_bytes == sent.sent_bytes + len(open_stream.body)

    assert tally.ended == {("endpoint", "end"): 1, ("endpoint", "client"): 1}
    assert sent.events == 2
    assert tally.hub_figures() is None


async def test_tally_leaves_out_streams_that_began_before_it() -> None:
    tally = Tally()
    tally.stream_ended(StreamRecord("endpoint"))

    assert tally.ended == {}


def test_tally_counts_gaps_and_lags() -> None:
    tally = Tally()
    tally.subscriber_lagged("news", 3, ended=False)
    tally.subscriber_lagged("news", 0, ended=True)
    tally.gap_told("news", "trimmed")

    assert (tally.lagged, tally.dropped) == ({False: 1, True: 1}, 3)
    assert tally.gaps == {"trimmed": 1}


def test_counters_of_channels_never_go_back_when_one_is_forgotten() -> None:
    hub = Hub(linger=0)
    tally = Tally(hub)

    def published() -> int:
        figures = tally.hub_figures()
        assert figures is not None
        return figures.published

    channel = hub.channel("news")
    publish(channel, "one", "two")
    assert published() == 2
    del channel
    assert published() == 2
    publish(hub.channel("news"), "three")
    channel = hub.channel("news")
    publish(channel, "four")
    assert published() >= 3


@pytest.mark.usefixtures("without_pauses")
async def test_observer_is_told_when_an_event_log_is_lost_and_found(
    store: FakeStore, log: FakeLog
) -> None:
    told = Told()
    with observing(told):
        async with one(log) as hub:
            assert hub.log == "FakeLog"
            await settled()
            # Nobody listens: whether it's there again, only a question tells.
            log.go_away()
            assert not await hub.ready()
            log.come_back()
            assert await hub.ready()
            assert await hub.ready()
            client = await FakeClient(hub.channel("c").subscribe()).begun()
            log.go_away()
            log.lose()
            log.come_back()
            store.say("c", 1)
            await client.has(1)

    assert told.all == [("lost", "FakeLog", "connection reset"), ("found", "FakeLog")] * 2


@pytest.mark.usefixtures("without_pauses")
async def test_what_an_event_log_held_before_is_not_counted_as_published(
    store: FakeStore, log: FakeLog
) -> None:
    store.say("c", 1, 2)
    async with one(log) as hub:
        tally = Tally(hub)
        client = await FakeClient(hub.channel("c").subscribe()).begun()
        before = tally.hub_figures()
        store.say("c", 3)
        await client.has(3)
        after = tally.hub_figures()

    assert before is not None
    assert after is not None
    assert (before.published, after.published) == (0, 1)
