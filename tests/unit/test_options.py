"""What may be asked of hubs, channels and subscriptions, and what is said in the call that asks for less."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from sse_starlette._wire.cursor import last_event_id
from sse_starlette.channels._checks import check_flag, check_function, required_arguments
from sse_starlette.channels.channel import Channel
from sse_starlette.event import ServerSentEvent
from sse_starlette.hub import Hub

from .driving import http_scope

NAN = float("nan")


async def waits(event: ServerSentEvent) -> bool:
    return True


async def yields_later(event: ServerSentEvent) -> AsyncIterator[bool]:
    yield True


def yields(event: ServerSentEvent) -> Iterator[bool]:
    yield True


def nothing() -> bool:
    return True


class Waiting:
    async def __call__(self, event: ServerSentEvent) -> bool:
        return True

    async def check(self, event: ServerSentEvent) -> bool:
        return True


class Plain:
    def __call__(self, event: ServerSentEvent, more: int = 0) -> bool:
        return True

    def check(self, *events: ServerSentEvent) -> bool:
        return True


WRONG: list[tuple[str, Callable[[Hub], object], type[Exception], str]] = [
    ("a number to subscribe with", lambda hub: hub.channel("c").subscribe(5), TypeError, "after=5"),  # type: ignore[arg-type]
    ("bytes", lambda hub: hub.channel("c").subscribe(b"x"), TypeError, "bytes"),  # type: ignore[arg-type]
    ("True", lambda hub: hub.channel("c").subscribe(True), TypeError, "bool"),  # type: ignore[arg-type]
    ("a scope", lambda hub: hub.channel("c").subscribe({"type": "http"}), TypeError, "Request"),  # type: ignore[arg-type]
    *(
        (f"filter: {name}", partial(_ := lambda wrong, hub: hub.channel("c").subscribe(filter=wrong), wrong), TypeError, text)
        for name, wrong, text in (
            ("async def", waits, "plain function"),
            ("async generator", yields_later, "plain function"),
            ("generator", yields, "plain function"),
            ("object", Waiting(), "plain function"),
            ("method", Waiting().check, "plain function"),
            ("partial", partial(waits), "plain function"),
            ("partial of an object", partial(Waiting()), "plain function"),
            ("no function", "name", "got: 'name'$"),
            ("no argument", nothing, "called with one event"),
            ("two arguments", lambda one, two: True, "called with one event"),
            ("keyword", lambda one, *, two: True, "called with one event"),
        )
    ),
    ("on_gap without argument", lambda hub: hub.channel("c").subscribe(on_gap=nothing), TypeError, "one Gap"),  # type: ignore[arg-type]
    ("a generator as snapshot", lambda hub: hub.channel("c").subscribe(snapshot=yields(ServerSentEvent())), TypeError, "without calling it"),  # type: ignore[arg-type]
    ("snapshot of two", lambda hub: hub.channel("c").subscribe(snapshot=lambda a, b: []), TypeError, "no argument"),  # type: ignore[arg-type]
    ("replay=True", lambda hub: hub.channel("c").subscribe(replay=True), TypeError, "replay"),
    ("replay of text", lambda hub: hub.channel("c").subscribe(replay="5"), TypeError, "replay"),  # type: ignore[arg-type]
    ("after=''", lambda hub: hub.channel("c").subscribe(after=""), ValueError, "position"),
    ("after=1.5", lambda hub: hub.channel("c").subscribe(after=1.5), TypeError, "offset"),  # type: ignore[arg-type]
    ("after=True", lambda hub: hub.channel("c").subscribe(after=True), TypeError, "offset"),
    ("after=-1", lambda hub: hub.channel("c").subscribe(after=-1), ValueError, ">= 0"),
    ("after and replay", lambda hub: hub.channel("c").subscribe(after=1, replay=1), ValueError, "give one"),
    ("since without zone", lambda hub: hub.channel("c").subscribe(since=datetime(2031, 1, 1)), ValueError, "time zone"),  # noqa: DTZ001
    ("since as text", lambda hub: hub.channel("c").subscribe(since="now"), TypeError, "timedelta"),  # type: ignore[arg-type]
    ("since too large", lambda hub: hub.channel("c").subscribe(since=10**400), ValueError, "a time"),
    ("since=NaN", lambda hub: hub.channel("c").subscribe(since=NAN), ValueError, "a time"),
    ("name_channels=1", lambda hub: hub.channel("c").subscribe(name_channels=1), TypeError, "True or False"),  # type: ignore[arg-type]
    ("id_blocks=0", lambda hub: hub.channel("c").subscribe(id_blocks=0), TypeError, "True or False"),  # type: ignore[arg-type]
    ("a name that no event can have", lambda hub: hub.channel("a\nb").subscribe(name_channels=True), ValueError, "LF"),
    ("one name", lambda hub: hub.subscribe("name"), TypeError, "give a list"),
    ("one channel", lambda hub: hub.subscribe(hub.channel("c")), TypeError, "give a list"),  # type: ignore[arg-type]
    ("no list", lambda hub: hub.subscribe(5), TypeError, "list of channels"),  # type: ignore[arg-type]
    ("numbers", lambda hub: hub.subscribe([5]), TypeError, "got: int 5"),  # type: ignore[list-item]
    ("a request that is none", lambda hub: hub.channel("c").subscribe(1.5), TypeError, r"got: float 1\.5$"),  # type: ignore[arg-type]
    ("twice", lambda hub: hub.subscribe(["c", hub.channel("c")]), ValueError, "different"),
    ("too many", lambda hub: hub.subscribe([str(n) for n in range(201)]), ValueError, "200 channels"),
    ("an offset in two", lambda hub: hub.subscribe("ab", after=3) if False else hub.subscribe(["a", "b"], after=3), TypeError, "one channel"),  # type: ignore[arg-type]
    ("a name that is no text", lambda hub: hub.channel(5), TypeError, "must be a str"),  # type: ignore[arg-type]
    ("history of text", lambda hub: hub.channel("c", history="x"), TypeError, "history"),  # type: ignore[arg-type]
    ("history=True", lambda hub: hub.channel("c", history=True), TypeError, "history"),
    ("linger of text", lambda hub: hub.channel("c", linger="x"), TypeError, "linger"),  # type: ignore[arg-type]
    ("linger=NaN", lambda hub: hub.channel("c", linger=NAN), ValueError, "linger"),
    ("latest_by asynchronous", lambda hub: hub.channel("c", slow="latest", latest_by=waits), TypeError, "latest_by"),
    ("expire of text", lambda hub: Hub(expire="x"), TypeError, "expire"),  # type: ignore[arg-type]
    ("key=5", lambda hub: hub.channel("c").publish_nowait("x", key=5), TypeError, "key"),  # type: ignore[arg-type]
    ("key=''", lambda hub: hub.channel("c").publish_nowait("x", key=""), ValueError, "key"),
    ("an event of the name reset", lambda hub: hub.channel("c").publish_nowait({"event": "reset"}), ValueError, "another one"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])  # fmt: skip
def test_what_is_wrong_is_said_in_the_call(
    call: Callable[[Hub], object], error: type[Exception], text: str
) -> None:
    hub = Hub()

    with pytest.raises(error, match=text):
        call(hub)

    assert hub.stats().published == 0


@pytest.mark.parametrize(
    "right",
    [bool, len, Plain(), Plain().check, partial(Plain(), more=1), lambda *events: True, print],
)
def test_whatever_can_answer_at_once_may_be_a_filter(right: Any) -> None:
    check_function("filter", right, "one event", may_wait=False)


def test_what_does_not_say_what_it_takes_is_called() -> None:
    check_function("filter", dict.fromkeys, "one event", may_wait=False)
    check_function("filter", type, "one event", may_wait=False)
    assert required_arguments(type) == 0
    check_flag("flag", value=True)


@pytest.mark.parametrize(
    ("headers", "query", "found"),
    [
        (["aaa.1", "bbb.2"], "", "bbb.2"),
        (["aaa.1, bbb.2"], "", "bbb.2"),
        (["aaa.1,nonsense"], "", "aaa.1"),
        (["aaa.1", "nonsense"], "", "aaa.1"),
        (["", "aaa.1", ""], "", "aaa.1"),
        (["one", "two"], "", "two"),
        (["one, two"], "", "one, two"),
        (["x," * 9_000], "", "x," * 9_000),
        ([], "last_event_id=aaa.1&last_event_id=bbb.2", "bbb.2"),
    ],
)
def test_of_many_ids_the_last_one_of_ours_counts(
    headers: list[str], query: str, found: str
) -> None:
    from starlette.requests import Request

    raw = [(b"last-event-id", value.encode()) for value in headers]
    request = Request(http_scope(headers=raw, query_string=query.encode()))

    assert last_event_id(request) == found


@pytest.mark.anyio
async def test_a_client_may_begin_after_a_position_from_the_start_or_at_a_time() -> None:
    channel = Channel("c", history=4)
    for number in range(1, 4):
        channel.publish_nowait(number)

    async def first(**where: Any) -> tuple[object, Any]:
        async with channel.subscribe(**where) as subscription:
            event = await anext(subscription)
            assert event.channel in (None, "c")
            return event.event, event.data

    position = await channel.position()
    assert position == f"{channel.epoch}.3"
    assert await first(after=f"{channel.epoch}.1") == (None, "2")
    assert await first(after=2) == (None, "3")
    assert await first(after="start") == (None, "1")
    assert await first(since=timedelta(hours=1)) == (None, "1")
    assert await first(since=datetime.now(UTC) - timedelta(hours=1)) == (None, "1")
    assert await first(since=0) == (None, "1")
    assert (await first(after=4))[0] == "reset"
    assert (await first(after="nonsense"))[0] == "reset"
    channel.publish_nowait(4)
    channel.publish_nowait(5)
    assert await first(after=position) == (None, "4")
    async with channel.subscribe(after="start") as subscription:
        assert (await anext(subscription)).event == "reset"
        assert (await anext(subscription)).data == "2"
    async with channel.subscribe(since=0) as subscription:
        assert (await anext(subscription)).event == "reset"
        assert (await anext(subscription)).data == "2"
