"""What may be the source of a response, what to write instead, and `body_iterator`."""

from __future__ import annotations

import asyncio
import inspect
import io
import queue
import re
from collections import UserDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import fastapi.sse
import httpx2
import msgspec
import pydantic
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from tests.unit.driving import drive, http_scope

from sse_starlette import Channel, EventSourceResponse, Hub, ServerSentEvent
from sse_starlette._stream.content import as_body_iterator, check_source, claim

pytestmark = pytest.mark.anyio


async def body_of(response: EventSourceResponse, method: str = "GET") -> bytes:
    """Serve `response` to its end."""
    async with drive(response, scope=http_scope(method)) as exchange:
        await exchange.returns()
    return exchange.body


async def events(*items: object) -> AsyncGenerator[object, None]:
    for item in items or ("a", "b"):
        yield item


async def endless() -> AsyncIterator[object]:
    yield 1
    await anyio.sleep_forever()


def sync_events(*items: object) -> Iterator[object]:
    yield from items or ("a", "b")


async def no_events() -> None:
    raise AssertionError


class Asynchronous:
    """Async iterable, and no iterator."""

    def __init__(self, *items: object) -> None:
        self.items = items
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[object]:
        for item in self.items:
            yield item

    async def aclose(self) -> None:
        self.closed += 1


class AwaitableToo(Asynchronous):
    """As clients of language models have it: to be awaited, or iterated as it is."""

    def __await__(self) -> Iterator[Any]:
        raise AssertionError


class CallableToo(Asynchronous):
    def __call__(self) -> None:
        raise AssertionError


class Model(pydantic.BaseModel):
    a: int = 1


class Struct(msgspec.Struct):
    a: int = 1


class Indexed:
    """Iterable as Python has it for whatever has no `__iter__`: by 0, 1, 2, ..."""

    def __getitem__(self, index: int) -> str:
        return ["a", "b"][index]


def untouched(*_: object) -> None:
    raise AssertionError


def having(*methods: str) -> Any:
    """Make an object that has these methods, and none of them may be called."""
    return type("Something", (), dict.fromkeys(methods, untouched))()


@pytest.mark.parametrize(
    "make",
    [
        AwaitableToo,
        CallableToo,
        lambda: iter(["a"]),
        lambda: ("a",),
        lambda: {"a"},
        lambda: deque(["a"]),
        lambda: range(2),
        lambda: map(str, [1]),
        lambda: iter(queue.Queue[str]().get, None),
        lambda: io.StringIO("a\nb\n"),
        lambda: Hub().subscribe(["a", "b"]),
        lambda: 1.5,
    ],
)
def test_a_source_is_taken(make: Callable[[], Any]) -> None:
    """As are those that are streamed below."""
    EventSourceResponse(make())


@pytest.mark.parametrize(
    ("wrong", "found", "instead"),
    [
        (events, "function", "call the generator function .* EventSourceResponse(events(...))"),
        (sync_events, "function", "EventSourceResponse(sync_events(...))"),
        (partial(events, "a"), "partial", "EventSourceResponse(events(...))"),
        (no_events, "function", "EventSourceResponse(no_events(...))"),
        (lambda: events("a"), "function", "EventSourceResponse(it(...))"),
        (io.StringIO("a").readline, "builtin_function_or_method", "readline(...)"),
        (Asynchronous, "the class Asynchronous", "EventSourceResponse(Asynchronous(...))"),
        ("text", "str", "EventSourceResponse([event])"),
        (b"data: a\n\n", "bytes", "EventSourceResponse([event])"),
        (bytearray(b"a"), "bytearray", "EventSourceResponse([event])"),
        (memoryview(b"a"), "memoryview", "EventSourceResponse([event])"),
        ({"data": "a"}, "dict", 'EventSourceResponse([{"data": ...}])'),
        (UserDict(data="a"), "UserDict", 'EventSourceResponse([{"data": ...}])'),
        (None, "NoneType", "has no `return`, or no `yield`"),
        (ServerSentEvent("a"), "ServerSentEvent", "EventSourceResponse([event])"),
        (fastapi.sse.ServerSentEvent(data=1), "ServerSentEvent", "EventSourceResponse([event])"),
        (Model(), "Model", "EventSourceResponse([model])"),
        (pydantic.RootModel[list[int]]([1]), "RootModel", "EventSourceResponse([model])"),
        (Struct(), "Struct", "EventSourceResponse([it])"),
        (object(), "object", "EventSourceResponse([it])"),
        (Channel("c"), "Channel", "EventSourceResponse(channel.subscribe(request))"),
        (Hub(), "Hub", 'EventSourceResponse(hub.channel("name").subscribe(request))'),
        (PlainTextResponse("a"), "PlainTextResponse", "return it by itself"),
        (StreamingResponse(iter("a")), "StreamingResponse", "its body_iterator"),
        (Request(http_scope()), "Request", "a request is no source of events"),
        (asyncio.Queue(), "Queue", "yield await queue.get()"),
        (queue.SimpleQueue(), "SimpleQueue", "EventSourceResponse(iter(queue.get, None))"),
        (having("__next__"), "Something", "give it `def __iter__(self): return self`"),
        (having("__anext__"), "Something", "give it `def __aiter__(self): return self`"),
        (having("keys", "__getitem__"), "Something", "EventSourceResponse([it])"),
        (having("__aenter__", "__aexit__"), "Something", "async with it as source"),
        (asynccontextmanager(events)(), "GeneratorContextManager", "async with it as source"),
        (httpx2.Response(200), "Response", "EventSourceResponse(response.aiter_bytes())"),
        (anyio.Event(), "Event", "EventSourceResponse([it])"),
    ],
)
def test_what_is_no_source_is_refused_with_the_line_to_write(
    wrong: Any, found: str, instead: str
) -> None:
    with pytest.raises(TypeError) as caught:
        EventSourceResponse(wrong)

    text = str(caught.value)
    assert text.startswith("EventSourceResponse needs an async or sync iterable of events, got ")
    assert found in text.partition(": ")[0]
    for part in instead.split(" .* "):
        assert part in text


def test_a_text_that_was_given_for_a_source_is_not_shown() -> None:
    with pytest.raises(TypeError) as caught:
        EventSourceResponse("a secret")

    assert "secret" not in str(caught.value)


def test_the_sending_end_of_a_memory_stream_is_refused() -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    with pytest.raises(TypeError, match="give the receiving end of the stream"):
        EventSourceResponse(send)  # type: ignore[arg-type]

    send.close()
    receive.close()


def test_a_coroutine_is_refused_and_nothing_else_is_said_of_it() -> None:
    """The warning that it was never awaited would come on top, as an error in this suite."""
    coroutine = no_events()

    with pytest.raises(TypeError, match=r"got coroutine: await it, .*await no_events\(...\)"):
        EventSourceResponse(coroutine)  # type: ignore[arg-type]

    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_a_future_is_refused_though_python_can_iterate_it() -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(
            TypeError, match=r"got Future: await it, .*EventSourceResponse\(await it\)"
        ):
            check_source(loop.create_future())
    finally:
        loop.close()


async def test_a_generator_that_was_used_up_is_refused() -> None:
    closed, read = events(), sync_events()
    await closed.aclose()
    list(read)

    for source, name in ((closed, "events"), (read, "sync_events")):
        with pytest.raises(ValueError, match=f"{name!r} has been used up") as caught:
            EventSourceResponse(source)
        assert f"EventSourceResponse({name}(...))" in str(caught.value)


async def test_a_generator_that_is_in_use_is_refused() -> None:
    async def given_to_itself() -> AsyncIterator[object]:
        with pytest.raises(ValueError, match="'given_to_itself' is in use"):
            EventSourceResponse(source)
        yield "refused"

    source = given_to_itself()

    assert [one async for one in source] == ["refused"]


async def test_a_generator_that_another_response_has_is_refused_before_its_first_step() -> None:
    source = events()
    claim(source)

    with pytest.raises(ValueError, match="is in use"):
        claim(source)

    await source.aclose()


async def test_a_generator_whose_first_event_was_taken_beforehand_is_a_source() -> None:
    source = events("a", "b")
    assert await anext(source) == "a"

    assert await body_of(EventSourceResponse(source)) == b"data: b\r\n\r\n"


async def test_a_source_that_has_getitem_alone_is_streamed() -> None:
    response = EventSourceResponse(Indexed(), sep="\n")  # type: ignore[arg-type]

    assert await body_of(response) == b"data: a\n\ndata: b\n\n"


class AsyncDef:
    async def __aiter__(self) -> AsyncIterator[object]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> object:
        raise AssertionError


class NoAsyncIterator:
    def __aiter__(self) -> Iterator[object]:
        return iter("a")


@pytest.mark.parametrize(
    ("source", "found"), [(AsyncDef(), "coroutine"), (NoAsyncIterator(), "str_.*iterator")]
)
async def test_an_aiter_that_returns_no_async_iterator_is_named(source: Any, found: str) -> None:
    async with drive(EventSourceResponse(source)) as exchange:
        error = await exchange.raises(TypeError)

    assert re.match(rf"{type(source).__name__}\.__aiter__ has returned {found}, which", str(error))
    assert "write it as a plain `def`" in str(error)


@pytest.mark.parametrize("make", [events, sync_events])
async def test_a_response_that_is_returned_twice_does_not_stream_nothing(
    make: Callable[..., Any],
) -> None:
    response = EventSourceResponse(make())
    assert await body_of(response) == b"data: a\r\n\r\ndata: b\r\n\r\n"

    async with drive(response) as again:
        error = await again.raises(ValueError)

    assert "has been used up" in str(error)
    assert again.messages == []


@pytest.mark.parametrize("replaced", [False, True])
async def test_two_responses_do_not_share_a_generator(*, replaced: bool) -> None:
    source = endless()
    first, second = EventSourceResponse(source), EventSourceResponse(source)
    if replaced:
        first, second = EventSourceResponse([]), EventSourceResponse([])
        first.body_iterator = second.body_iterator = source

    async with drive(first) as exchange:
        await exchange.contains("data: 1")
        async with drive(second) as other:
            error = await other.raises(ValueError)
        assert other.messages == []
        exchange.leave()
        await exchange.returns()

    assert "'endless' is in use: each response needs one of its own" in str(error)


async def test_a_list_may_be_streamed_again() -> None:
    response = EventSourceResponse(["a"])

    for _ in range(2):
        assert await body_of(response) == b"data: a\r\n\r\n"


async def test_a_generator_that_a_middleware_has_read_and_replaced_is_no_mistake() -> None:
    response = EventSourceResponse(events())
    response.body_iterator = as_body_iterator([one async for one in response.body_iterator])

    assert await body_of(response) == b"data: a\r\n\r\ndata: b\r\n\r\n"


# body_iterator


class Closing:
    """A sync iterable that notes that it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[object]:
        yield from ("a", "b")

    def close(self) -> None:
        self.closed += 1


each_kind = pytest.mark.parametrize(
    "make", [lambda: ["a", "b"], sync_events, events, lambda: Asynchronous("a", "b"), Closing]
)


@each_kind
async def test_body_iterator_is_an_async_iterator_whatever_was_given(
    make: Callable[[], Any],
) -> None:
    assert [one async for one in EventSourceResponse(make()).body_iterator] == ["a", "b"]
    body: Any = EventSourceResponse(make()).body_iterator
    assert await anext(body) == "a"
    await body.aclose()


def test_an_async_iterator_is_the_body_iterator_itself() -> None:
    source = events()

    assert EventSourceResponse(source).body_iterator is source


async def in_capitals(body: Any) -> AsyncIterator[object]:
    async for one in body:
        yield one.upper()


def wrapped(content: Any) -> EventSourceResponse:
    response = EventSourceResponse(content, sep="\n")
    response.body_iterator = in_capitals(response.body_iterator)
    return response


@each_kind
async def test_a_body_iterator_that_wraps_the_one_before_is_what_is_sent(
    make: Callable[[], Any],
) -> None:
    assert await body_of(wrapped(make())) == b"data: A\n\ndata: B\n\n"


async def test_a_list_may_take_the_place_of_the_body_iterator() -> None:
    source = Asynchronous("a")
    response = EventSourceResponse(source, sep="\n")
    response.body_iterator = ["x"]  # type: ignore[assignment]

    assert await body_of(response) == b"data: x\n\n"
    assert source.closed == 1


class Endless(Asynchronous):
    """Never ends by itself, and closes after its generator has."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    async def __aiter__(self) -> AsyncIterator[object]:
        try:
            yield "a"
            await anyio.sleep_forever()
        finally:
            self.steps.append("left")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("wraps", [True, False])
async def test_a_source_behind_another_body_iterator_is_closed_in_every_ending(
    method: str, *, wraps: bool
) -> None:
    source = Endless()
    response = wrapped(source) if wraps else EventSourceResponse(source)
    if not wraps:
        response.body_iterator = Endless()

    async with drive(response, scope=http_scope(method)) as exchange:
        if method == "GET":
            await exchange.contains("data: ")
            exchange.leave()
        await exchange.returns()

    assert source.closed == 1
    assert source.steps == (["left"] if wraps and method == "GET" else [])


async def test_an_error_in_the_cleanup_of_a_wrapper_does_not_keep_the_source_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Asynchronous):
        def close(self) -> None:
            raise AssertionError

        async def aclose(self) -> None:
            await super().aclose()
            raise ValueError("of the wrapper")

    source = Asynchronous("a")
    response = EventSourceResponse(source)
    response.body_iterator = Failing("b")

    await body_of(response)

    assert source.closed == 1
    assert "error in the cleanup" in caplog.text


class Upstream:
    """A source as clients of HTTP have it, that can't be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[object]:
        return self

    async def __anext__(self) -> object:
        raise StopAsyncIteration


class WithClose(Upstream):
    def close(self) -> None:
        self.closed += 1


class WithAsyncClose(Upstream):
    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("kind", "closed"), [(Closing, 1), (Upstream, 0), (WithClose, 1), (WithAsyncClose, 1)]
)
async def test_a_source_without_aclose_is_closed_by_close_behind_another_body_iterator(
    kind: type[Any], closed: int, method: str
) -> None:
    source = kind()

    await body_of(wrapped(source), method)

    assert source.closed == closed


async def test_events_of_a_body_that_was_begun_beforehand_go_on_from_there() -> None:
    response = EventSourceResponse(["a", "b"])
    body: Any = response.body_iterator
    assert await anext(body) == "a"
    assert "['a', 'b']" in repr(body)

    assert await body_of(response) == b"data: b\r\n\r\n"


async def test_a_subscription_behind_another_body_iterator_is_left_with_it() -> None:
    channel = Channel("c", history=5)
    response = EventSourceResponse(channel.subscribe(replay=1))
    seen: list[object] = []

    async def noting(body: Any) -> AsyncIterator[object]:
        async for one in body:
            seen.append(one.data)
            yield one

    response.body_iterator = noting(response.body_iterator)
    channel.publish_nowait({"data": "a"})

    async with drive(response) as exchange:
        await exchange.contains(f"id: {channel.epoch}.1\r\ndata: a")
        exchange.leave()
        await exchange.returns()

    assert seen == ["a"]
    assert channel.stats().subscribers == 0


async def test_a_number_is_a_source_only_as_long_as_nobody_asks_it_for_an_event() -> None:
    response = EventSourceResponse(0)  # type: ignore[arg-type]

    await response.body_iterator.aclose()  # type: ignore[attr-defined]
    async with drive(response) as exchange:
        error = await exchange.raises(TypeError)

    assert "needs an async or sync iterable of events, got int" in str(error)
    assert exchange.complete
