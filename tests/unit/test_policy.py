"""How many streams may be open, for how long, and who may listen."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.authentication import UnauthenticatedUser
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp
from tests.unit.driving import DISCONNECT, Exchange, StillLoop, drive, http_scope, settled, until

from sse_starlette import EventSourceResponse, Hub, StreamPolicy, StreamPolicyMiddleware
from sse_starlette._runtime.loop import loop_override
from sse_starlette.observe import Observer, StreamRecord, observe
from sse_starlette.policy import Slots
from sse_starlette.sse import CloseReason

pytestmark = pytest.mark.anyio


class Source:
    """Sends one event, and no more until the stream ends."""

    def __init__(self) -> None:
        self.closed = 0
        self.begun = 0
        self.reasons: list[CloseReason] = []

    async def events(self) -> AsyncIterator[str]:
        self.begun += 1
        try:
            yield "first"
            await anyio.sleep_forever()
        finally:
            self.closed += 1

    def response(self, policy: StreamPolicy | None = None, **options: Any) -> EventSourceResponse:
        options.setdefault("on_close", self.reasons.append)
        return EventSourceResponse(self.events(), policy=policy, **options)


def still_loop() -> StillLoop:
    """The loop of this test from here on; its clock stands still."""
    loop = StillLoop()
    loop_override.set(loop)
    return loop


class Right:
    """Says whether somebody may listen still, and notes who was asked about."""

    def __init__(self) -> None:
        self.lasts = True
        self.asked: list[str | None] = []

    async def __call__(self, request: HTTPConnection) -> bool:
        self.asked.append(request.headers.get("user"))
        return self.lasts


@asynccontextmanager
async def streaming(app: ASGIApp, **options: Any) -> AsyncIterator[Exchange]:
    """A stream whose client has had the first event."""
    async with drive(app, **options) as exchange:
        await exchange.contains("first")
        yield exchange


async def answer_of(app: ASGIApp, **options: Any) -> Exchange:
    """What comes to its end by itself."""
    async with drive(app, **options) as exchange:
        await exchange.returns()
    return exchange


async def test_refused_stream_is_told_when_to_come_back_and_ends() -> None:
    policy = StreamPolicy(total=1)
    source = Source()
    async with streaming(Source().response(policy)):
        second = await answer_of(source.response(policy))

        assert (second.status, second.complete) == (200, True)
        assert second.headers["content-type"] == "text/event-stream; charset=utf-8"
        field, _, wait = second.body.decode().strip().partition(": ")
        assert field == "retry"
        assert 5_000 <= int(wait) <= 30_000
        assert (source.begun, source.reasons) == (0, ["refused"])
        assert (policy.open, policy.refused) == (1, 1)
    assert policy.open == 0


async def test_refused_clients_are_told_times_that_differ() -> None:
    policy = StreamPolicy(total=1, retry_ms=(1_000, 1_000_000))
    async with streaming(Source().response(policy)):
        bodies = {(await answer_of(Source().response(policy))).body for _ in range(20)}

    assert len(bodies) > 10


@pytest.mark.parametrize(
    ("limits", "status"), [({"total": 1}, 503), ({"per_listener": 1}, 429)], ids=["total", "own"]
)
async def test_client_of_an_api_is_rejected_with_the_time_to_wait(
    limits: dict[str, int], status: int
) -> None:
    policy = StreamPolicy(**limits, refusal="reject", retry_ms=(1_500, 1_500))  # type: ignore[arg-type]
    async with streaming(Source().response(policy, listener="a")):
        second = await answer_of(Source().response(policy, listener="a"))

    assert second.status == status
    assert second.headers["retry-after"] == "2"
    assert second.headers["content-type"] == "text/plain; charset=utf-8"
    assert b"Retry-After" in second.body
    assert second.complete


async def test_limit_for_a_listener_counts_each_alone_and_nobody_without_a_name() -> None:
    policy = StreamPolicy(per_listener=1)
    async with (
        streaming(Source().response(policy, listener="a")),
        streaming(Source().response(policy, listener="b")),
        streaming(Source().response(policy)),
        streaming(Source().response(policy)),
        streaming(Source().response(policy, listener="")),
        streaming(Source().response(policy, listener="")),
    ):
        assert (policy.open, policy.open_of("a"), policy.open_of("c")) == (6, 1, 0)
        second = await answer_of(Source().response(policy, listener="a"))
        assert b"first" not in second.body
    assert (policy.open, policy.open_of("a")) == (0, 0)


async def test_listener_is_named_by_the_policy_unless_the_response_does() -> None:
    policy = StreamPolicy(per_listener=1, listener=lambda request: request.headers["user"])
    scope = http_scope(headers=[(b"user", b"ann")])
    async with (
        streaming(Source().response(policy), scope=scope),
        streaming(Source().response(policy, listener="bob"), scope=scope),
    ):
        assert (policy.open_of("ann"), policy.open_of("bob")) == (1, 1)


async def test_user_who_is_not_signed_in_is_nobody_in_particular() -> None:
    policy = StreamPolicy(per_listener=1, listener=lambda request: request.user.display_name)
    scope = {**http_scope(), "user": UnauthenticatedUser()}
    told: list[str | None] = []

    class Names(Observer):
        def stream_began(self, stream: StreamRecord) -> None:
            told.append(stream.listener)

    end = observe(Names())
    async with (
        streaming(Source().response(policy), scope=scope),
        streaming(Source().response(policy, listener=""), scope=scope),
    ):
        end()
        assert (policy.open, policy.open_of("")) == (2, 0)
    assert told == [None, None]


def failing(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(message_or_exchange: Any) -> Any:
        if isinstance(message_or_exchange, Exchange) or message_or_exchange.get("body"):
            raise error

    return fail


async def has_left(exchange: Exchange) -> Any:
    return dict(DISCONNECT)


async def end_by(way: str, exchange: Exchange) -> None:
    if way in {"leaves", "cancelled"}:
        await exchange.contains("first")
    if way == "cancelled while blocked":
        exchange.block()
    if way == "leaves":
        exchange.leave()
    elif "cancelled" in way:
        exchange.cancel()
    await exchange.ends()


@pytest.mark.parametrize(
    ("way", "driven"),
    [
        ("leaves", {}),
        ("cancelled", {}),
        ("cancelled at once", {}),
        ("cancelled while blocked", {}),
        ("send fails", {"on_send": failing(OSError("the transport is closed"))}),
        ("send raises", {"on_send": failing(RuntimeError("a server's own mistake"))}),
        ("receive raises", {"receive": failing(RuntimeError("a server's own mistake"))}),
        ("has left before", {"receive": has_left}),
        ("HEAD", {"scope": http_scope("HEAD")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_slot_is_free_again_whatever_ends_the_stream(
    way: str, driven: dict[str, Any]
) -> None:
    policy = StreamPolicy(total=1, per_listener=1)
    source = Source()

    async with drive(source.response(policy, listener="a"), **driven) as exchange:
        await end_by(way, exchange)

    assert (policy.open, policy.open_of("a"), policy.refused) == (0, 0, 0)
    assert source.begun == source.closed
    assert len(source.reasons) == 1


async def test_slot_is_free_when_callbacks_run() -> None:
    policy = StreamPolicy(total=1)
    seen = []

    async with streaming(Source().response(policy, on_close=lambda _: seen.append(policy.open))):
        pass

    assert seen == [0]


async def test_headers_alone_need_no_slot() -> None:
    policy = StreamPolicy(total=1, refusal="reject")
    async with streaming(Source().response(policy)):
        head = await answer_of(Source().response(policy), scope=http_scope("HEAD"))

    assert head.status == 200


async def test_refused_subscription_moves_nobodys_cursor() -> None:
    channel = Hub().channel("news")
    channel.publish_nowait("missed")
    policy = StreamPolicy(total=1)
    async with streaming(Source().response(policy)):
        refused = await answer_of(EventSourceResponse(channel.subscribe(), policy=policy))

    assert b"id" not in refused.body
    assert channel.stats().subscribers == 0


async def test_limit_holds_and_no_slot_is_lost_while_clients_come_and_go_at_random() -> None:
    rolls = random.Random(17)
    policy = StreamPolicy(total=20, per_listener=3)
    most = 0

    async def one(listener: str) -> None:
        nonlocal most
        async with drive(Source().response(policy, listener=listener)) as exchange:
            for _ in range(rolls.randrange(12)):
                await anyio.lowlevel.checkpoint()
                most = max(most, policy.open)
                assert policy.open_of(listener) <= 3
            way = rolls.choice(["leave", "cancel", "cancel while blocked", "leave"])
            if way == "cancel while blocked":
                exchange.block()
            (exchange.leave if way == "leave" else exchange.cancel)()
            await exchange.ends()

    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            tasks.start_soon(one, f"user {rolls.randrange(12)}")
            for _ in range(rolls.randrange(3)):
                await anyio.lowlevel.checkpoint()

    assert most == 20
    assert (policy.open, [policy.open_of(f"user {n}") for n in range(12)]) == (0, [0] * 12)


async def test_policy_of_the_application_holds_for_streams_that_have_none() -> None:
    policy = StreamPolicy(total=1)
    own = StreamPolicy()

    async def stream(request: Request) -> EventSourceResponse:
        return Source().response(own if request.url.path == "/own" else None)

    async def plain(request: object) -> PlainTextResponse:
        return PlainTextResponse("plain")

    app = Starlette(
        routes=[Route("/", stream), Route("/own", stream), Route("/plain", plain)],
        middleware=[Middleware(StreamPolicyMiddleware, policy=policy)],
    )
    async with streaming(app), streaming(app, scope=http_scope(path="/own")):
        assert b"retry" in (await answer_of(app)).body
        assert (await answer_of(app, scope=http_scope(path="/plain"))).body == b"plain"
        assert (policy.open, own.open) == (1, 1)


async def test_stream_that_is_of_age_ends_for_its_client_to_come_back() -> None:
    loop = still_loop()
    source = Source()
    async with streaming(source.response(StreamPolicy(max_age=100), ping=0)) as exchange:
        await loop.advance(89)
        assert not exchange.over
        await loop.advance(12)
        await exchange.returns()

    assert exchange.complete
    assert exchange.body == b"data: first\r\n\r\n"
    assert (source.closed, source.reasons) == (1, ["expired"])


async def test_streams_that_began_together_do_not_end_together() -> None:
    loop = still_loop()
    ends = set()
    async with AsyncExitStack() as streams:
        for _ in range(30):
            response = Source().response(
                StreamPolicy(max_age=100), ping=0, on_close=lambda _: ends.add(int(loop.now))
            )
            await streams.enter_async_context(drive(response))
        for _ in range(101):
            await loop.advance(1)

    assert len(ends) > 3


async def test_client_that_reads_nothing_holds_up_no_stream_that_is_of_age() -> None:
    loop = still_loop()
    source = Source()
    response = source.response(StreamPolicy(max_age=100, send_timeout=None))
    async with drive(response, blocked=True) as exchange:
        await loop.advance(100)
        await loop.advance(2)
        await exchange.returns()

    assert (source.closed, source.reasons) == (1, ["expired"])


async def test_client_resumes_without_a_loss_after_its_stream_was_of_age() -> None:
    loop = still_loop()
    channel = Hub().channel("news")
    policy = StreamPolicy(max_age=100)
    async with drive(EventSourceResponse(channel.subscribe(), policy=policy)) as first:
        channel.publish_nowait("one")
        await first.contains("one")
        await loop.advance(101)
        await first.returns()
    channel.publish_nowait("two")

    last_id = first.body.decode().rpartition("id: ")[2].split()[0]
    async with drive(EventSourceResponse(channel.subscribe(last_id), policy=policy)) as second:
        await second.contains("two")

    assert b"one" not in second.body
    assert b"reset" not in second.body


@pytest.mark.parametrize(("ping", "interval"), [(None, 15), (5, 5), (0, 15)])
async def test_listener_that_may_not_listen_any_more_is_told_and_the_stream_ends(
    ping: float | None, interval: int
) -> None:
    loop = still_loop()
    right, source = Right(), Source()
    response = source.response(StreamPolicy(revalidate=right), ping=ping)
    async with streaming(response, scope=http_scope(headers=[(b"user", b"ann")])) as exchange:
        await loop.advance(interval)
        await loop.advance(interval)
        assert right.asked == ["ann", "ann"]
        right.lasts = False
        await loop.advance(interval)
        await exchange.returns()

    assert exchange.body.endswith(b"event: revoked\r\ndata: revoked\r\n\r\n")
    assert exchange.complete
    assert (source.closed, source.reasons) == (1, ["revoked"])


async def test_what_was_made_before_the_listener_lost_its_right_is_not_sent_after_it() -> None:
    loop = still_loop()
    channel = Hub().channel("news")

    async def may_listen(request: HTTPConnection) -> bool:
        channel.publish_nowait("private")
        return False

    response = EventSourceResponse(
        channel.subscribe(), policy=StreamPolicy(revalidate=may_listen, send_timeout=None)
    )
    async with drive(response) as exchange:
        await exchange.chunk(0)
        exchange.block()
        channel.publish_nowait("under way")
        await loop.advance(15)
        exchange.unblock()
        await exchange.returns()

    assert b"private" not in exchange.body
    assert b"revoked" in exchange.body


async def raises(request: HTTPConnection) -> bool:
    raise LookupError("no session")


async def never_says(request: HTTPConnection) -> bool:
    await anyio.sleep_forever()
    return True


@pytest.mark.parametrize(("check", "error"), [(raises, LookupError), (never_says, TimeoutError)])
async def test_check_that_raises_or_takes_too_long_is_an_error_of_the_stream(
    check: Callable[[HTTPConnection], Awaitable[bool]], error: type[Exception]
) -> None:
    source, failures = Source(), []

    def sorry(failure: Exception) -> str:
        failures.append(type(failure))
        return "sorry"

    response = source.response(StreamPolicy(revalidate=check), on_error=sorry, ping=0.001)
    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body.endswith(b"data: sorry\r\n\r\n")
    assert failures == [error]
    assert (source.closed, source.reasons) == (1, ["error"])


async def test_check_that_is_under_way_ends_with_its_stream() -> None:
    loop = still_loop()
    ended = []

    async def may_listen(request: HTTPConnection) -> bool:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)
        return True

    async with streaming(Source().response(StreamPolicy(revalidate=may_listen))):
        await loop.advance(15)
        assert ended == []

    assert ended == [1]


async def test_stream_that_is_ending_is_not_asked_about_again() -> None:
    loop = still_loop()
    right = Right()
    cleaned_up = anyio.Event()

    async def slow_to_close() -> AsyncIterator[str]:
        try:
            yield "first"
            await anyio.sleep_forever()
        finally:
            await cleaned_up.wait()

    policy = StreamPolicy(revalidate=right, listener=lambda _: None)
    async with streaming(EventSourceResponse(slow_to_close(), policy=policy)) as exchange:
        exchange.leave()
        await loop.advance(20)
        cleaned_up.set()
        await exchange.returns()

    assert right.asked == []


async def test_send_timeout_is_the_policys_unless_the_response_has_its_own() -> None:
    loop = still_loop()
    policy = StreamPolicy()
    patient = Source().response(policy, send_timeout=90)
    async with (
        drive(patient, blocked=True) as own,
        drive(Source().response(policy), blocked=True) as other,
    ):
        await loop.advance(31)
        await until(lambda: other.over)
        await settled()
        assert not own.over
        own.unblock()
        own.leave()
        await own.returns()
        assert type(other.raised).__name__ == "SendTimeoutError"
        await other.ends()


async def test_policy_that_cannot_name_its_listener_fails_that_request_alone() -> None:
    policy = StreamPolicy(total=1, listener=lambda request: 17)  # type: ignore[arg-type, return-value]
    source = Source()
    async with drive(source.response(policy)) as exchange:
        error = await exchange.raises(TypeError)

    assert "listener is int" in str(error)
    assert exchange.messages == []
    assert (policy.open, source.begun, source.reasons) == (0, 0, ["error"])


async def name_later(request: HTTPConnection) -> str:
    return "ann"


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"total": 0}, ValueError, "at least 1"),
        ({"total": True}, TypeError, "total is bool"),
        ({"per_listener": 1.5}, TypeError, "per_listener is float"),
        ({"refusal": "politely"}, ValueError, "refusal must be one of"),
        ({"retry_ms": (2, 1)}, ValueError, "retry_ms"),
        ({"max_age": 0}, ValueError, "max_age must be > 0"),
        ({"max_age": "10"}, TypeError, "max_age is str"),
        ({"send_timeout": -1}, ValueError, "send_timeout"),
        ({"listener": "ann"}, TypeError, "listener is str"),
        ({"listener": name_later}, TypeError, "listener is the async function"),
        ({"revalidate": True}, TypeError, "revalidate is bool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_policy_is_refused_where_it_is_written(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        StreamPolicy(**options)


@pytest.mark.parametrize("wrong", [{"policy": 100}, {"listener": 17}], ids=str)
def test_wrong_policy_or_listener_of_a_response_is_refused_where_it_is_written(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(TypeError, match="give"):
        EventSourceResponse([], **wrong)
    if "policy" in wrong:
        with pytest.raises(TypeError, match="give a StreamPolicy"):
            StreamPolicyMiddleware(Starlette(), **wrong)


def test_policy_tells_its_figures() -> None:
    assert repr(StreamPolicy(total=3)) == "<StreamPolicy total=3 per_listener=None open=0>"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
def test_child_of_a_fork_counts_its_own_streams() -> None:
    slots = Slots()
    slots.take("a", None, None)
    slots.after_fork()

    assert slots.take("a", 1, 1) is None
    slots.give_back("a")
    slots.give_back("a")
    assert (slots.taken, slots.of) == (0, {})


def test_policy_that_is_the_last_of_several_sees_the_scope_of_a_lifespan_untouched() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: object, send: object) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    middleware: Any = StreamPolicyMiddleware(app, StreamPolicy())
    anyio.run(middleware, scope, None, None)

    assert seen[0] is scope
