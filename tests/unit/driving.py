"""
Drives an ASGI app in memory: the server and the client do what the test says, when it says so.

The server takes each message at once, as uvicorn does while its buffer has room, unless the test
blocks it. It holds every app to the protocol, whatever else the test looks at: one send at a time,
the headers first, nothing after the last chunk.

Where events, pings and headers are what a test is about, it uses `sse_starlette.testing`, as the
tests of an application do. This is for the rest: the messages and chunks themselves, a send that
fails or never returns, a server that cancels, a `receive` of the test's own, what is sent to a client
that has left. Nor may the kit be the only judge of the response: a fault in it would hide one in the
response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from starlette.background import BackgroundTask

from sse_starlette import EventSourceResponse
from sse_starlette._runtime.loop import TaskStarter, Timer, current_loop
from sse_starlette._stream.feed import Feed
from sse_starlette.testing._clock import Clock, ServedLoop

if TYPE_CHECKING:
    import anyio.abc
    from starlette.types import ASGIApp, Message, Scope

SEAT_BELT_SECONDS = 60
"""No test needs as long as this; what is under way then is broken."""

E = TypeVar("E", bound=BaseException)

DISCONNECT = {"type": "http.disconnect"}

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
"""The loops a test can run on, as anyio's plugin wants to be told."""


def on(loop: str, *values: object, name: str = "") -> Any:
    """
    Make a row of a table for `parametrize`: this loop, and these values.

    The rows on other loops than asyncio's own are marked: they have a stage of their own.
    """
    marks = () if loop == "asyncio" else (getattr(pytest.mark, loop),)
    return pytest.param(LOOPS[loop], *values, id="-".join(filter(None, [loop, name])), marks=marks)


on_asyncio = pytest.mark.parametrize("anyio_backend", [on("asyncio"), on("uvloop")])
"""Runs a test on the loops of asyncio alone."""

each_way_to_cancel = pytest.mark.parametrize(
    ("anyio_backend", "way"),
    [
        on("asyncio", "scope", name="scope"),
        on("asyncio", "natively", name="natively"),
        on("uvloop", "scope", name="scope"),
        on("uvloop", "natively", name="natively"),
        on("trio", "scope", name="scope"),
    ],
)
"""Runs a test once for each `way` in which a server cancels an application, on each loop."""


class Exchange:
    """One request and what became of it."""

    def __init__(
        self,
        receive: Callable[[Exchange], Awaitable[Message]] | None,
        on_send: Callable[[Message], Awaitable[None]] | None,
    ) -> None:
        self.messages: list[Message] = []
        """What the server took, in its order."""
        self.offered: list[Message] = []
        """What the app has begun to send."""
        self.receives = 0
        """How often the app asked for a message."""
        self.over = False
        """The app has returned or raised."""
        self.raised: BaseException | None = None
        self.scope = anyio.CancelScope()
        """What the app runs in."""

        self._custom_receive = receive
        self._on_send = on_send
        self._task: asyncio.Task[Any] | None = None
        self._sending = 0
        self._gate: anyio.Event | None = None
        self._left = anyio.Event()
        self._faults: list[str] = []
        self._looked_at = False

    @property
    def prefix(self) -> str:
        """What the names of the messages begin with."""
        return "websocket.http" if self.offered[0]["type"].startswith("websocket") else "http"

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        raw = self.messages[0]["headers"]
        names = [name.decode() for name, _ in raw]
        assert len(names) == len(set(names)), f"a header comes twice: {names}"
        return {name.decode(): value.decode() for name, value in raw}

    @property
    def chunks(self) -> list[bytes]:
        """The body messages up to now, without the empty one that ends the body."""
        return [message["body"] for message in self.messages[1:] if message["more_body"]]

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        """The body has ended as it should."""
        return len(self.messages) > 1 and self.messages[-1]["more_body"] is False

    def block(self) -> None:
        """Take nothing from now on."""
        if self._gate is None:
            self._gate = anyio.Event()

    def unblock(self) -> None:
        """Take what is waiting, and all that follows."""
        assert self._gate is not None
        self._gate.set()
        self._gate = None

    @property
    def blocked(self) -> bool:
        """A send is under way that isn't let through."""
        return self._gate is not None and self._sending > 0

    def leave(self) -> None:
        """Let the client go away."""
        self._left.set()

    def cancel(self) -> None:
        """Cancel the app by the cancel scope around it."""
        self.scope.cancel()

    def cancel_natively(self) -> None:
        """Cancel the asyncio task of the app, as servers that know nothing of anyio do."""
        assert self._task is not None
        self._task.cancel()

    def cancel_in(self, way: str) -> None:
        """Cancel the app in one of the ways that `each_way_to_cancel` names."""
        if way == "scope":
            self.cancel()
        else:
            self.cancel_natively()

    async def until(self, fact: Callable[[], object]) -> None:
        """Let all others run until `fact` holds."""
        await until(fact)

    async def chunk(self, number: int) -> bytes:
        """Wait for the chunk of this number, from 0."""
        await until(lambda: len(self.chunks) > number or self.over)
        return self.chunks[number]

    async def contains(self, text: str) -> None:
        """Wait until the client has seen `text`."""
        await until(lambda: text in self.body.decode() or self.over)
        assert text in self.body.decode()

    async def ends(self) -> None:
        """Wait for the app to end in whatever way."""
        await until(lambda: self.over)
        self._looked_at = True

    async def returns(self) -> None:
        """Wait for the app to return."""
        await self.ends()
        if self.raised is not None:
            raise AssertionError(f"the app raised {self.raised!r}") from self.raised

    async def raises(self, kind: type[E]) -> E:
        """Wait for the app to raise."""
        await self.ends()
        assert type(self.raised) is kind, f"not {kind.__name__} but {self.raised!r}"
        return self.raised

    async def is_cancelled(self) -> None:
        """Wait until a cancellation has gone through the app."""
        await self.ends()
        assert isinstance(self.raised, anyio.get_cancelled_exc_class()), f"{self.raised!r}"

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Be the server for this one request."""
        if asyncio_is_here():
            self._task = asyncio.current_task()
        with self.scope:
            try:
                await app(scope, self.receive, self.send)
            except anyio.get_cancelled_exc_class() as exc:
                self.raised = exc
                if self.scope.cancel_called:
                    raise  # trio wants it back; a native cancellation ends here.
            except Exception as exc:
                self.raised = exc
            finally:
                self.over = True

    async def close(self) -> None:
        """See to it that everything has been looked at."""
        if not self._looked_at:
            self.leave()
            await self.returns()

    def check_protocol(self) -> None:
        assert self._faults == []

    async def receive(self) -> Message:
        self.receives += 1
        if self._custom_receive is not None:
            return await self._custom_receive(self)
        if self.receives == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return dict(DISCONNECT)

    async def gone(self) -> Message:
        """Wait for the client to leave; for a `receive` of the test's own."""
        await self._left.wait()
        return dict(DISCONNECT)

    async def send(self, message: Message) -> None:
        self._check(message)
        self.offered.append(message)
        self._sending += 1
        try:
            if self._on_send is not None:
                await self._on_send(message)
            while self._gate is not None:
                await self._gate.wait()
        finally:
            self._sending -= 1
        self.messages.append(message)

    def _check(self, message: Message) -> None:
        if self._sending:
            self._fault("two sends at a time", message)
        if self.over:
            self._fault("the app has ended", message)
        if self.complete:
            self._fault("the body is complete", message)
        # A message whose send was cancelled counts: the app can't know what became of it.
        begun = len(self.offered) > 0
        expected = "http.response.body" if begun else "http.response.start"
        if not message["type"].endswith(expected) or (
            begun and not message["type"].startswith(self.prefix)
        ):
            self._fault(f"expected {expected}", message)

    def _fault(self, what: str, message: Message) -> None:
        # Kept as well as raised: an app may catch what its `send` raises.
        self._faults.append(f"{what}: {message}")
        raise AssertionError(self._faults[-1])


def asyncio_is_here() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


async def until(fact: Callable[[], object]) -> None:
    """Let all others run until `fact` holds."""
    while not fact():
        await anyio.lowlevel.checkpoint()


async def settled() -> None:
    """Let all others run until each of them waits for something."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


async def turns(number: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


def http_scope(method: str = "GET", path: str = "/", **more: Any) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 50_000),
        "server": ("192.0.2.2", 80),
        **more,
    }


def websocket_scope() -> Scope:
    scope = http_scope()
    del scope["method"]
    extensions: dict[str, dict[str, str]] = {"websocket.http.response": {}}
    return {**scope, "type": "websocket", "scheme": "ws", "extensions": extensions}


@asynccontextmanager
async def drive(
    app: ASGIApp,
    *,
    scope: Scope | None = None,
    receive: Callable[[Exchange], Awaitable[Message]] | None = None,
    on_send: Callable[[Message], Awaitable[None]] | None = None,
    blocked: bool = False,
) -> AsyncIterator[Exchange]:
    """
    Send a request to `app` and hand out the exchange, which goes on beside the test.

    If the test doesn't say how the app is to end, its client leaves and the app has to return.

    Args:
        app: the app, a response for example.
        scope: what is asked for; None: a GET.
        receive: what the app receives, each time; None: a request, and in the end a disconnect.
        on_send: called with each message before the server takes it; it may wait, and raise.
        blocked: whether the server takes nothing until it's unblocked.
    """
    with anyio.fail_after(SEAT_BELT_SECONDS):
        exchange = Exchange(receive, on_send)
        if blocked:
            exchange.block()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.run, app, scope or http_scope())
            try:
                yield exchange
                await exchange.close()
            finally:
                tasks.cancel_scope.cancel()
        exchange.check_protocol()


class Notes:
    """The callbacks of a response, which note that they were called, and with what."""

    def __init__(self, raises: type[Exception] | None = None) -> None:
        self.calls: list[object] = []
        self.waits = 0
        """How many of them have waited, and were not cut off."""
        self._raises = raises

    async def close_handler(self, message: Message) -> None:
        await self._note(message["type"])

    async def on_close(self, reason: str) -> None:
        await self._note(reason)

    async def background(self) -> None:
        await self._note("background")

    async def _note(self, call: object) -> None:
        self.calls.append(call)
        await anyio.lowlevel.checkpoint()
        self.waits += 1
        if self._raises is not None:
            raise self._raises(call)

    def response(self, content: Any, **options: Any) -> EventSourceResponse:
        return EventSourceResponse(
            content,
            client_close_handler_callable=self.close_handler,
            on_close=self.on_close,
            background=BackgroundTask(self.background),
            **options,
        )


class Watched:
    """What is told of a source's steps; it counts how often it's about to wait."""

    def __init__(self, *, notes_waits: bool = True) -> None:
        self.time = current_loop().time
        self.runs_since = 0.0
        self.just_woke = False
        self.notes_waits = notes_waits
        self.waits = 0

    def about_to_wait(self) -> None:
        self.waits += 1


class StillLoop(ServedLoop):
    """The running loop, but its clock, that of the kit, stands still until the test moves it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timers = 0
        """How many timers have been asked for."""
        super().__init__(None, self.clock)
        self.now = 1_000.0
        self.advance = self.clock.advance

    @property
    def now(self) -> float:
        return self.clock.time()

    @now.setter
    def now(self, seconds: float) -> None:
        self.clock._now = seconds

    def timer(self, fire: Callable[[], None], starter: TaskStarter) -> Timer:
        self.timers += 1
        return super().timer(fire, starter)

    @property
    def waiting(self) -> int:
        """How many timers are set."""
        return sum(timer.when == when for when, _, timer in self.clock._due)


class HandFeed(Feed):
    """A feed that the test fills by hand."""

    unfinished = False

    def __init__(self, *frames: bytes) -> None:
        self.ready = list(frames)
        self.runs = 0
        self.stops = 0
        self.closed = False
        """`run` has come to its end."""
        self.sents = 0
        self.keep_open = False
        """Be slow to close, until `close` is called."""
        self.last_words: list[bytes] = []
        """What becomes ready when the feed is stopped."""
        self._wake: Callable[[], None] = lambda: None
        self._ending = anyio.Event()
        self._closing = anyio.Event()

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def run(self) -> None:
        self.runs += 1
        try:
            with anyio.move_on_after(SEAT_BELT_SECONDS, shield=True):
                await self._ending.wait()
                if self.keep_open:
                    await self._closing.wait()
        finally:
            if self.stops:
                self.ready += self.last_words
            self.closed = True
            self.ended = True
            self._wake()

    def stop(self) -> None:
        self.stops += 1
        self._ending.set()

    def take(self) -> bytes:
        taken = b"".join(self.ready)
        self.ready.clear()
        return taken

    def sent(self) -> None:
        self.sents += 1

    def push(self, *frames: bytes) -> None:
        self.ready += frames
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self._ending.set()

    def close(self) -> None:
        self._closing.set()
