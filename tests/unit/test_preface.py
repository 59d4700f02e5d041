"""What the application says first: snapshots, and what it makes of a gap."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import fastapi.sse
import pydantic
import pytest
from tests.unit.driving import Exchange, drive, settled
from tests.unit.following import Client, fill
from tests.unit.subscribing import MadeUpError, generated, reading

from sse_starlette.channels.channel import Channel, Gap, Subscription
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

pytestmark = pytest.mark.anyio


def filled(last: int, **options: Any) -> Channel:
    """Make a channel whose events are "1", "2", ..., up to `last`."""
    channel = Channel("c", **options)
    fill(channel, 1, last)
    return channel


async def heard(subscription: Subscription, text: str) -> Exchange:
    """Stream a subscription until its client has had `text`."""
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains(text)
    return client


async def listed(*events: object) -> list[object]:
    return list(events)


class Iterated:
    """An async iterable that can't be closed."""

    def __init__(self, *events: object) -> None:
        self._events = list(events)

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        if self._events:
            return self._events.pop(0)
        raise StopAsyncIteration


FORMS: list[Any] = [
    pytest.param(lambda *events: list(events), id="list"),
    pytest.param(lambda *events: (event for event in events), id="generator"),
    pytest.param(listed, id="async function"),
    pytest.param(generated, id="async generator"),
    pytest.param(Iterated, id="async iterable"),
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_new_client_gets_the_snapshot_first(form: Callable[..., Any]) -> None:
    channel = filled(2)
    subscription = channel.subscribe(snapshot=lambda: form({"event": "all", "data": "1, 2"}, "x"))
    fill(channel, 3, 3)

    client = await heard(subscription, "data: 3\r\n")

    assert [(one.event, one.data, one.id) for one in reading(client).got] == [
        ("all", "1, 2", ""),
        ("message", "x", ""),
        ("message", "3", f"{channel.epoch}.3"),
    ]
    assert f"data: x\r\n\r\nid: {channel.epoch}.2\r\n\r\n".encode() in client.body


class Model(pydantic.BaseModel):
    x: int = 1


@pytest.mark.parametrize(
    ("one", "data"),
    [
        ("x", "x"),
        (b"data: x\n\n", "x"),
        ({"data": "x"}, "x"),
        (ServerSentEvent("x"), "x"),
        (fastapi.sse.ServerSentEvent(raw_data="x"), "x"),
        # Python can iterate it.
        (Model(), '{"x":1}'),
    ],
)
async def test_a_snapshot_may_be_one_event(one: Any, data: str) -> None:
    subscription = Channel("c").subscribe(snapshot=lambda: one)

    assert (await anext(subscription)).data == data
    await subscription.aclose()


@pytest.mark.parametrize("made", [None, 3, len])
async def test_a_snapshot_of_no_events_says_what_a_snapshot_is(made: Any) -> None:
    subscription = Channel("c").subscribe(snapshot=lambda: made)

    with pytest.raises(TypeError, match=rf"has returned {type(made).__name__}: a snapshot and on_"):
        await anext(subscription)
    await subscription.aclose()


class Cursor(Iterated):
    """Rows of a database; it notes that it's closed."""

    def __init__(self, *rows: str) -> None:
        super().__init__(*rows)
        self.closed: list[str] = []

    def close(self) -> None:
        self.closed.append("cursor")


class Rows(AsyncIterable[object]):
    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def __aiter__(self) -> Cursor:
        return self._cursor

    def close(self) -> None:
        self._cursor.closed.append("rows")


@pytest.mark.parametrize("apart", [False, True])
async def test_a_snapshot_and_what_iterates_it_may_be_closed_without_waiting(apart: bool) -> None:
    cursor = Cursor()
    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: Rows(cursor) if apart else cursor)
    channel.publish_nowait("x")

    assert (await anext(subscription)).data == "x"
    await subscription.aclose()
    assert cursor.closed == (["cursor", "rows"] if apart else ["cursor"])


async def test_a_snapshot_whose_cleanup_fails_has_been_sent_and_the_channel_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Cursor):
        def close(self) -> None:
            raise MadeUpError

    channel = Channel("c")
    subscription = channel.subscribe(snapshot=lambda: Failing("row"))
    channel.publish_nowait("after it")

    assert [(await anext(subscription)).data for _ in range(2)] == ["row", "after it"]
    await subscription.aclose()
    assert "error in the cleanup of" in caplog.text


async def test_who_comes_back_without_a_gap_needs_no_snapshot() -> None:
    channel = filled(2)
    subscription = channel.subscribe(f"{channel.epoch}.1", snapshot=lambda: ["x"], on_gap=listed)

    client = await heard(subscription, "data: 2\r\n")

    assert reading(client).data == ["2"]
    assert channel.stats().resets == {}


async def test_who_is_told_of_a_gap_gets_the_snapshot_after_it() -> None:
    channel = filled(2)
    subscription = channel.subscribe("nonsense", snapshot=lambda: generated("snapshot"))
    fill(channel, 3, 3)

    got = reading(await heard(subscription, "data: 3\r\n")).got

    assert [(one.event, one.id) for one in got] == [
        ("reset", ""),
        ("message", ""),
        ("message", f"{channel.epoch}.3"),
    ]
    assert [one.data for one in got[1:]] == ["snapshot", "3"]


@pytest.mark.parametrize("form", FORMS)
async def test_the_events_of_on_gap_take_the_place_of_the_reset(form: Callable[..., Any]) -> None:
    channel = filled(5, history=1)
    gaps: list[Gap] = []

    def on_gap(gap: Gap) -> Any:
        gaps.append(gap)
        return form({"event": "reload", "data": gap.reason})

    subscription = channel.subscribe(
        f"{channel.epoch}.3", on_gap=on_gap, snapshot=lambda: ["not asked for"]
    )
    async with drive(EventSourceResponse(subscription)) as client:
        await client.contains(f"id: {channel.epoch}.5\r\n\r\n")
        await channel.publish("6")
        await client.contains("data: 6\r\n")

    assert gaps == [Gap("c", "trimmed", f"{channel.epoch}.5")]
    got = [(one.event, one.data) for one in reading(client).got]
    assert got == [("reload", "trimmed"), ("message", "6")]
    assert channel.stats().resets == {"trimmed": 1}


async def test_on_gap_may_say_nothing_and_the_cursor_moves_all_the_same() -> None:
    channel = filled(2)

    client = await heard(channel.subscribe("nonsense", on_gap=lambda gap: []), "\r\n\r\n")

    assert client.body == f"id: {channel.epoch}.2\r\n\r\n".encode()


@pytest.mark.parametrize("asked", [None, "nonsense"])
async def test_what_is_published_while_the_snapshot_is_at_work_follows_exactly_once(
    asked: str | None,
) -> None:
    channel = filled(2)
    at_work, go_on = anyio.Event(), anyio.Event()

    async def snapshot() -> AsyncIterator[object]:
        yield f"all up to {channel.stats().published}"
        at_work.set()
        await go_on.wait()
        yield "done"

    async with drive(EventSourceResponse(channel.subscribe(asked, snapshot=snapshot))) as client:
        await at_work.wait()
        fill(channel, 3, 5)
        await settled()
        assert b"data: all up to 2" in client.body
        assert b"data: 3" not in client.body
        go_on.set()
        await client.contains("data: 5\r\n")
        fill(channel, 6, 6)
        await client.contains("data: 6\r\n")

    data = [one.data for one in reading(client).got if one.event != "reset"]
    assert data == ["all up to 2", "done", "3", "4", "5", "6"]


async def test_a_cancelled_wait_for_the_snapshot_asks_for_it_anew() -> None:
    channel = Channel("c")
    calls = 0

    async def snapshot() -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        return ["snapshot"]

    async with channel.subscribe("nonsense", snapshot=snapshot) as subscription:
        fill(channel, 1, 1)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, subscription)
                await settled()
                scope.cancel()
        got = [(await anext(subscription)) for _ in range(3)]

    assert [(one.event, one.data) for one in got][1:] == [(None, "snapshot"), (None, "1")]
    assert got[0].event == "reset"


@pytest.mark.parametrize("hook", ["snapshot", "on_gap"])
async def test_a_client_that_leaves_while_the_application_is_at_work_stops_it(hook: str) -> None:
    channel = Channel("c")
    at_work = anyio.Event()
    cleaned: list[str] = []

    async def work(*_: Gap) -> list[object]:
        at_work.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append("up")
        return []

    hooks: Any = {hook: work}
    async with drive(EventSourceResponse(channel.subscribe("nonsense", **hooks))) as client:
        await at_work.wait()
        client.leave()
        await client.returns()

    assert cleaned == ["up"]
    # The reset that comes before a snapshot has gone out, and no cursor with it.
    assert [one.event for one in reading(client).got] == (["reset"] if hook == "snapshot" else [])
    assert b"id: " not in client.body
    assert channel.stats().subscribers == 0


async def fails(*_: Gap) -> AsyncIterator[object]:
    yield "first"
    raise MadeUpError


@pytest.mark.parametrize("asked", ["", "nonsense"])
async def test_what_the_snapshot_raises_ends_the_stream_and_moves_no_cursor(asked: str) -> None:
    channel = filled(2)

    async with drive(EventSourceResponse(channel.subscribe(asked, snapshot=fails))) as client:
        await client.raises(MadeUpError)

    assert client.complete
    assert reading(client).cut() == ""
    assert channel.stats().subscribers == 0


async def test_who_can_not_be_told_by_on_gap_gets_the_reset_and_moves_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = filled(2)
    subscription = channel.subscribe("nonsense", on_gap=fails)

    client = await heard(subscription, f"id: {channel.epoch}.2\r\n\r\n")

    assert [one.event for one in reading(client).got] == ["message", "reset"]
    assert channel.stats().failures == 1
    assert "on_gap failed" in caplog.text


async def test_what_the_snapshot_raises_is_raised_where_the_subscription_is_iterated() -> None:
    subscription = Channel("c").subscribe("nonsense", snapshot=lambda: [1 // 0])

    assert (await anext(subscription)).event == "reset"
    with pytest.raises(ZeroDivisionError):
        await anext(subscription)
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


@pytest.mark.parametrize("event", [{"data": "x", "id": "5"}, {"dta": 1}, b"data: x"])
async def test_a_snapshot_that_can_not_be_sent_is_closed(event: object) -> None:
    channel = Channel("c")
    closed: list[str] = []

    async def snapshot() -> AsyncIterator[object]:
        try:
            yield event
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append("closed")

    async with drive(EventSourceResponse(channel.subscribe(snapshot=snapshot))) as client:
        await client.ends()

    assert isinstance(client.raised, (TypeError, ValueError))
    assert closed == ["closed"]
    assert client.body == b""


async def test_who_is_cut_in_the_middle_of_a_snapshot_has_its_old_cursor() -> None:
    channel = filled(5, history=1)
    old = f"{channel.epoch}.2"
    subscription = channel.subscribe(old, snapshot=lambda: [{"data": "a", "event": "b"}, "c"])

    body = (await heard(subscription, f"id: {channel.epoch}.5\r\n\r\n")).body

    for length in range(len(body) - 1):
        cut = Client()
        cut.last_event_id = old
        cut.read(body[:length])
        assert cut.cut() == old
    whole = Client()
    assert [one.event for one in whole.read(body)] == ["reset", "b", "message"]
    assert whole.cut() == f"{channel.epoch}.5"


async def test_a_subscription_can_be_made_where_no_loop_runs() -> None:
    def subscribe() -> Subscription:
        return filled(1).subscribe(replay=1, snapshot=lambda: ["snapshot"])

    client = await heard(await anyio.to_thread.run_sync(subscribe), "data: 1\r\n")

    assert reading(client).data == ["snapshot", "1"]
