"""
What must always hold, however a stream ends: the points of the design, seen from outside.

Each ending below is one way in which a stream comes to its end; each point is tried with all of them.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from tests.unit.driving import (
    LOOPS,
    Exchange,
    Notes,
    drive,
    http_scope,
    on,
    settled,
    turns,
)
from tests.unit.parsers import read_by_the_standard

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import CloseReason, SendTimeoutError

pytestmark = pytest.mark.anyio


class MadeUpError(Exception):
    pass


_in_source = contextvars.ContextVar("_in_source", default=False)


class Case(Notes):
    """One response with a source and callbacks that note whatever happens to them."""

    def __init__(self, raises: type[Exception] | None = None) -> None:
        super().__init__(raises)
        self.steps: list[str] = []
        self.tasks: list[int] = []
        self.faults: list[BaseException] = []
        self.released = 0
        self.then: Callable[[], Awaitable[object]] = anyio.sleep_forever
        self.items: list[object] = ["1"]

    async def __aiter__(self) -> AsyncIterator[object]:
        self.steps.append("begun")
        self.tasks.append(anyio.get_current_task().id)
        token = _in_source.set(True)
        failure: MadeUpError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0)
                for item in self.items:
                    yield item
                    await anyio.lowlevel.checkpoint()
                try:
                    await self.then()
                except MadeUpError as exc:
                    failure = exc
            if failure is not None:
                raise failure
        finally:
            self.tasks.append(anyio.get_current_task().id)
            self.steps.append("closed")
            try:
                _in_source.reset(token)
            except ValueError as exc:
                self.faults.append(exc)
            await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.released += 1

    async def fail(self) -> None:
        raise MadeUpError

    async def end(self) -> None:
        pass

    def check(self) -> None:
        """See that all of it holds."""
        assert self.released == 1
        assert self.steps in (["begun", "closed"], [])
        assert len(set(self.tasks)) <= 1
        assert self.faults == []
        (reason,) = [call for call in self.calls if call in REASONS]
        assert self.calls.count("background") == (reason not in FAILURES)


FAILURES = ("error", "timeout", "cancelled")
REASONS = ("end", "client", *FAILURES)


async def wait_for_first_event(exchange: Exchange) -> None:
    await exchange.contains("data: 1")


@dataclass
class Ending:
    """One way to end, what the server sees of it, and what `on_close` is told."""

    name: str
    reason: CloseReason
    raises: type[BaseException] | None = None
    complete: bool = True
    begun: bool = True
    then: str | None = None
    """What the source does after its first event."""
    items: list[object] = field(default_factory=lambda: ["1"])
    act: Callable[[Exchange], Any] | None = None
    """What happens then, outside."""
    first: Callable[[Exchange], Awaitable[None]] = wait_for_first_event
    options: dict[str, Any] = field(default_factory=dict)
    blocked: bool = False
    head: bool = False
    on_send: Callable[[Message], Awaitable[None]] | None = None
    receive: Callable[[Exchange], Awaitable[Message]] | None = None

    async def play(self, case: Case, content: Any = None) -> Exchange:
        """Let the response of `case` end this way."""
        case.items = self.items
        if self.then is not None:
            case.then = getattr(case, self.then)
        app = case.response(case if content is None else content, **self.options)
        async with drive(
            app,
            scope=http_scope("HEAD" if self.head else "GET"),
            blocked=self.blocked,
            on_send=self.on_send,
            receive=self.receive,
        ) as exchange:
            if self.act is not None:
                await self.first(exchange)
                self.act(exchange)
            await exchange.ends()
        return exchange


async def nothing_to_wait_for(exchange: Exchange) -> None:
    await settled()


def at_data(act: Callable[[], Awaitable[None]]) -> Callable[[Message], Awaitable[None]]:
    """Do so when the first event is sent."""

    async def on_send(message: Message) -> None:
        if message.get("body"):
            await act()

    return on_send


async def break_off() -> None:
    raise BrokenPipeError


async def fail() -> None:
    raise MadeUpError


async def receive_failure(exchange: Exchange) -> Message:
    await exchange.contains("data: 1")
    raise MadeUpError


async def sorry(failure: Exception) -> str:
    await anyio.lowlevel.checkpoint()
    return "sorry"


WAITS = {"first_event_timeout": math.inf}

ENDINGS = [
    Ending("source ends", "end", then="end"),
    Ending("source raises", "error", MadeUpError, then="fail"),
    Ending("source raises, on_error speaks", "error", then="fail", options={"on_error": sorry}),
    Ending("source raises before its first event", "error", MadeUpError, complete=False, then="fail",
           items=[], options=WAITS),
    Ending("value cannot be encoded", "error", TypeError, items=["1", {"no": "event"}]),
    Ending("data sender raises", "error", MadeUpError, begun=False,
           options={"data_sender_callable": fail}),
    Ending("receive raises", "error", MadeUpError, receive=receive_failure),
    Ending("send raises", "error", MadeUpError, complete=False, on_send=at_data(fail)),
    Ending("send says the client has gone", "client", complete=False, on_send=at_data(break_off)),
    Ending("send takes too long", "timeout", SendTimeoutError, complete=False,
           on_send=at_data(anyio.sleep_forever), options={"send_timeout": 0}),
    Ending("client leaves", "client", complete=False, act=Exchange.leave),
    Ending("client leaves before the headers are out", "client", complete=False, begun=False,
           act=Exchange.leave, first=nothing_to_wait_for, blocked=True),
    Ending("client leaves before the first event", "client", complete=False, items=[],
           act=Exchange.leave, first=nothing_to_wait_for, options=WAITS),
    Ending("cancelled", "cancelled", asyncio.CancelledError, act=Exchange.cancel),
    Ending("cancelled natively", "cancelled", asyncio.CancelledError,
           act=Exchange.cancel_natively),
    Ending("HEAD", "end", begun=False, head=True),
]  # fmt: skip


def each(endings: list[Ending]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("anyio_backend", "ending"),
        [
            on(loop, ending, name=ending.name)
            for loop in LOOPS
            for ending in endings
            if (loop, ending.name) != ("trio", "cancelled natively")
        ],
    )


each_ending = each(ENDINGS)


# 1. The body


@each_ending
async def test_1_body_is_complete_whenever_the_transport_still_takes_it(ending: Ending) -> None:
    exchange = await ending.play(Case())

    assert exchange.complete is ending.complete
    if ending.raises is None:
        assert exchange.raised is None
    elif issubclass(ending.raises, asyncio.CancelledError):
        assert isinstance(exchange.raised, anyio.get_cancelled_exc_class())
    else:
        assert type(exchange.raised) is ending.raises


# 2. The source


@each_ending
async def test_2_source_is_closed_once_in_every_ending(ending: Ending) -> None:
    case = Case()

    await ending.play(case)

    assert case.released == 1
    assert case.steps in (["begun", "closed"], [])
    if ending.begun:
        assert case.steps


@each_ending
async def test_2_source_is_driven_in_one_task_and_one_context(ending: Ending) -> None:
    case = Case()

    await ending.play(case)

    assert len(set(case.tasks)) <= 1
    assert case.faults == []


@each([ending for ending in ENDINGS if ending.then != "fail"])
async def test_2_memory_stream_is_closed_in_every_ending(ending: Ending) -> None:
    case = Case()
    send, receive = anyio.create_memory_object_stream[object](math.inf)
    for item in ending.items:
        send.send_nowait(item)
    if ending.then == "end":
        send.close()

    await ending.play(case, receive)

    assert send.statistics().open_receive_streams == 0
    send.close()


@each_ending
async def test_2_cleanup_has_its_time_and_no_more_in_every_ending(
    ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case()

    async def hang() -> None:
        case.released += 1
        await anyio.sleep_forever()

    case.aclose = hang  # type: ignore[method-assign]
    ending = copy.copy(ending)
    ending.options = {**ending.options, "cleanup_timeout": 0}

    exchange = await ending.play(case)

    assert case.released == 1
    assert exchange.complete is ending.complete
    assert any("cleanup" in record.getMessage() for record in caplog.records)


# 3. The callbacks


@each_ending
async def test_3_callbacks_run_once_in_every_ending_but_background_after_a_failure(
    ending: Ending,
) -> None:
    case = Case()

    await ending.play(case)

    gone = ["http.disconnect"] if ending.reason == "client" else []
    background = [] if ending.reason in FAILURES else ["background"]
    assert case.calls == [*gone, ending.reason, *background]
    assert case.waits == len(case.calls)


@each_ending
async def test_3_callbacks_that_raise_change_no_ending(
    ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(raises=ValueError)

    exchange = await ending.play(case)

    assert exchange.complete is ending.complete
    assert not isinstance(exchange.raised, ValueError)
    assert (exchange.raised is None) is (ending.raises is None)
    assert len(case.calls) == len(caplog.records)


# 4. Errors


@each_ending
async def test_4_end_of_one_stream_is_none_of_another(ending: Ending) -> None:
    other = Case()

    async with drive(other.response(other)) as healthy:
        await healthy.chunk(0)
        await ending.play(Case())
        await settled()

        assert not healthy.over
        assert other.steps == ["begun"]


# 5. What was passed in


async def test_5_nothing_that_was_passed_in_is_written_to() -> None:
    fields = {"event": "tick", "data": {"deep": [1]}, "id": 1, "retry": 5, "comment": "c"}
    event = ServerSentEvent("1", id="2")
    headers = {"Connection": "close", "X-Mine": "1"}
    content = [fields, event, {"data": None}, bytearray(b"data: raw\n\n")]
    before = copy.deepcopy((fields, vars(event), headers, content[2:]))

    response = EventSourceResponse(content, headers=headers, sep="\n")
    async with drive(response) as exchange:
        await exchange.returns()

    assert exchange.body.startswith(b": c\nid: 1\nevent: tick\n")
    assert (fields, vars(event), headers, content[2:]) == before
    assert len(content) == 4


# 6. Text from outside

HOSTILE = [
    "a\rdata: evil",
    "a\ndata: evil",
    "a\r\ndata: evil",
    "a\n\ndata: evil",
    "a\r\revent: evil",
    "a\0b",
    "a\u2028data: evil",
    "a\x85data: evil",
    "\ufeffdata: evil",
]


@pytest.mark.parametrize("sep", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("text", HOSTILE)
async def test_6_no_text_adds_a_field_or_an_event(text: str, sep: str) -> None:
    made = [
        {"data": text},
        {"comment": text, "data": "-"},
        {"event": text, "data": "-"},
        {"id": text, "data": "-"},
        text,
        {"data": {"text": text}},
    ]

    async with drive(EventSourceResponse(made, sep=sep)) as exchange:
        await exchange.returns()

    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    glued = text.translate(dict.fromkeys(map(ord, "\r\n\0")))
    events = read_by_the_standard([exchange.body]).fired
    assert [event.data for event in events[:5]] == [plain, "-", "-", "-", plain]
    assert [event.type for event in events] == ["message", "message", glued, *["message"] * 3]
    assert {event.last_event_id for event in events} == {"", glued}
    assert len(events) == len(made)


@pytest.mark.parametrize("retry", ["1\ndata: evil", True, 1.5, -1])
async def test_6_retry_that_is_no_number_of_milliseconds_does_not_reach_the_wire(
    retry: object,
) -> None:
    async with drive(EventSourceResponse([{"retry": retry}])) as exchange:
        await exchange.ends()

    assert isinstance(exchange.raised, (TypeError, ValueError))
    assert (exchange.body, exchange.complete) == (b"", True)


# 7. Nothing is left


@each_ending
async def test_7_no_task_outlives_the_stream(ending: Ending) -> None:
    before = len(anyio.get_running_tasks())

    await ending.play(Case())

    assert len(anyio.get_running_tasks()) == before


def stream_once(backend: tuple[str, dict[str, Any]]) -> Exchange:
    async def main() -> Exchange:
        case = Case()
        async with drive(case.response(case, ping=0.001)) as exchange:
            await exchange.contains(": ping")
            exchange.leave()
            await exchange.returns()
        assert case.calls == ["http.disconnect", "client", "background"]
        return exchange

    name, options = backend
    return anyio.run(main, backend=name, backend_options=options)


def test_7_three_loops_in_one_thread_work_one_after_the_other() -> None:
    for backend in LOOPS.values():
        exchange = stream_once(backend)

        assert b"data: 1" in exchange.body


def test_7_loops_in_several_threads_work_side_by_side() -> None:
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda backend=backend: bodies.append(stream_once(backend).body))
        for backend in LOOPS.values()
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(bodies) == 3
    assert all(b"data: 1" in body for body in bodies)


# All of it, whenever


async def checkpoint(message: Message) -> None:
    await anyio.lowlevel.checkpoint()


HITS: dict[str, Callable[[Exchange], None]] = {
    "client leaves": Exchange.leave,
    "cancelled": Exchange.cancel,
    "cancelled natively": Exchange.cancel_natively,
}

each_hit = pytest.mark.parametrize(
    ("anyio_backend", "hit"),
    [
        on(loop, hit, name=hit)
        for loop in LOOPS
        for hit in HITS
        if (loop, hit) != ("trio", "cancelled natively")
    ],
)


@each_hit
@pytest.mark.parametrize("options", [{}, WAITS], ids=["headers first", "first event first"])
@pytest.mark.parametrize("then", ["end", "fail"])
async def test_all_of_it_holds_at_whatever_moment_the_stream_is_hit(
    hit: str, options: dict[str, Any], then: str
) -> None:
    for moment in range(1, 60):  # Before, there is nothing to hit.
        case = Case()
        case.then = getattr(case, then)
        case.items = ["1", "2"]

        async with drive(
            case.response(case, on_error=sorry, **options), on_send=checkpoint
        ) as exchange:
            await turns(moment)
            too_late = exchange.over
            HITS[hit](exchange)
            await exchange.ends()

        case.check()
        if hit != "client leaves":
            # A send that was hit itself may have got through or not.
            assert exchange.offered == [] or not exchange.offered[-1].get("more_body", True)
        if too_late:
            return
    raise AssertionError("the stream never came to its end")


@pytest.mark.parametrize("failure", [BrokenPipeError, MadeUpError])
@pytest.mark.parametrize("then", ["end", "fail"])
async def test_all_of_it_holds_whichever_send_fails(failure: type[Exception], then: str) -> None:
    for number in range(10):
        case = Case()
        case.then = getattr(case, then)
        sends = 0

        async def on_send(message: Message) -> None:
            nonlocal sends
            sends += 1
            if sends > number:  # noqa: B023  (called in this turn only)
                raise failure

        async with drive(case.response(case, on_error=sorry), on_send=on_send) as exchange:
            await exchange.ends()

        case.check()
        if sends <= number:
            assert exchange.complete
            return
        assert len(exchange.offered) == number + 1
        assert not exchange.complete
    raise AssertionError("the stream never came to its end")
