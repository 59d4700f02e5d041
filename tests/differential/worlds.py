"""
Runs a program against one version of the package, and returns what came of it.

The event loop has a clock that moves only when nobody has anything left to do, and so have `time` and
with it the package: the same program takes the same course each time. Threads have no part in it.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import secrets
import selectors
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio
from starlette.background import BackgroundTask

from .programs import PUBLISHED, SHAPES, Client, Program

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Message

Trace = list[tuple[Any, ...]]

BEGINNING = 1_000.0
"""What the manual clock says when a program begins."""
PATIENCE = 400.0
"""Seconds of the manual clock after which those who are still there leave; and again, are cancelled."""


class ManualClock:
    """Stands for the clocks of `time`."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def __call__(self) -> float:
        """Return what the time is."""
        return self.now


CLOCK = ManualClock()


class NobodyIsLeftError(Exception):
    """All tasks wait, and no timer runs."""


class _ManualSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise NobodyIsLeftError
            # At least as far as the loop's own resolution: else it would ask again, for ever.
            CLOCK.now += max(timeout, 1e-9) if timeout > 0 else 0
        return ready


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: where nothing is left to do, its clock moves to the next timer."""

    def __init__(self) -> None:
        super().__init__(_ManualSelector())

    def time(self) -> float:
        """Return what the clock says."""
        return CLOCK.now


@contextmanager
def manual_time() -> Iterator[None]:
    """Let the whole process go by the manual clock."""
    real = {name: getattr(time, name) for name in ("time", "monotonic", "perf_counter")}
    for name in real:
        setattr(time, name, CLOCK)
    try:
        yield
    finally:
        for name, clock in real.items():
            setattr(time, name, clock)


def load(source: Path, name: str) -> ModuleType:
    """Import a copy of the package under another name, beside others."""
    sys.path.insert(0, str(source.parent))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(source.parent))


class KeyboardLike(BaseException):
    """Neither an Exception nor a cancellation."""


RAISED: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "OSError": OSError,
    "CancelledError": asyncio.CancelledError,
    "KeyboardLike": KeyboardLike,
}


class _Records(logging.Handler):
    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note("log", record.levelname)


class World:
    """One run of a program: the server, the clients, what the application does."""

    def __init__(self, package: ModuleType, program: Program) -> None:
        self.trace: Trace = []
        self._package = package
        self._program = program
        self._started = CLOCK.now
        self._channel: Any = None
        self._ids: list[str] = []

    def note(self, *what: Any) -> None:
        self.trace.append((round(CLOCK.now - self._started, 6), *what))

    async def run(self) -> None:
        if self._program.channel:
            options = dict(self._program.channel)
            if options.get("slow") == "latest":
                options["latest_by"] = lambda event: event.data
            self._channel = self._package.Hub().channel("shared", **options)
        names = [f"client {number}" for number in range(len(self._program.clients))]
        runs = [
            asyncio.create_task(_Exchange(self, name, client).run())
            for name, client in zip(names, self._program.clients, strict=True)
        ]
        publishing = asyncio.create_task(self._publish())
        await asyncio.wait([*runs, publishing])
        for task in (*runs, publishing):
            task.result()
        if self._channel is not None:
            await asyncio.sleep(0)
            self.note("stats", asdict(self._channel.stats()))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        self.note("tasks left", len(left))

    async def _publish(self) -> None:
        for at, what, *arguments in self._program.published:
            await asyncio.sleep(max(0.0, at - (CLOCK.now - self._started)))
            try:
                if what == "close":
                    self._channel.close()
                elif what == "burst":
                    for number in range(arguments[0]):
                        self._ids.append(self._channel.publish_nowait(f"{what} {number}"))
                elif what == "await":
                    self._ids.append(await self._channel.publish(PUBLISHED[arguments[0]]))
                else:
                    value, key = arguments
                    self._ids.append(self._channel.publish_nowait(PUBLISHED[value], key=key))
            except Exception as error:
                self.note("publish", type(error).__name__)
        self.note("ids", len(self._ids), self._ids[-1:])

    def subscription(self, client: Client, name: str) -> Any:
        arguments: dict[str, Any] = dict(client.steps)
        returns = arguments.pop("returns", "none")
        if returns != "none":
            known = self._ids[-1] if self._ids else self._channel.last_event_id
            epoch, _, offset = known.rpartition(".")
            cursors = {
                "last": known,
                "older": f"{epoch}.{int(offset or 0) // 2}",
                "future": f"{epoch}.{int(offset or 0) + 9}",
                "other": "abcdefgh.4",
                "nonsense": "nonsense",
            }
            arguments["request"] = cursors[returns]
        ways: dict[str, Callable[[str], Callable[..., Any]]] = {
            "filter": self._filter,
            "snapshot": lambda way: self._makes_events(way, name, "snapshot"),
            "on_gap": lambda way: self._makes_events(way, name, "on_gap"),
        }
        for key, make in ways.items():
            if key in arguments:
                arguments[key] = make(arguments[key])
        return self._channel.subscribe(arguments.pop("request", None), **arguments)

    def _filter(self, way: str) -> Callable[[Any], bool]:
        def some(event: Any) -> bool:
            if way == "raises" and event.data == "text":
                raise ValueError(way)
            return "1" not in str(event.data)

        return some

    def _makes_events(self, way: str, name: str, what: str) -> Callable[..., Any]:
        async def generator(wait: float) -> AsyncIterator[str]:
            try:
                yield f"{what} 1"
                await asyncio.sleep(wait)
                yield f"{what} 2"
            finally:
                self.note(name, what, "closed")

        def make(gap: Any = None) -> Any:
            self.note(name, what, getattr(gap, "reason", None))
            if way == "raises":
                raise ValueError(way)
            if way == "list":
                return [f"{what} 1", {"event": what, "data": 2}]
            return generator(3 if way == "slow" else 0)

        # Only `on_gap` is given something.
        return make if what == "on_gap" else partial(make, None)


class _Exchange:
    """One request: the server's side, the response's arguments, and its source."""

    def __init__(self, world: World, name: str, client: Client) -> None:
        self._world = world
        self._name = name
        self._client = client
        self._left = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._broken = False
        self._asked = 0
        self._sending = 0
        self._answering: asyncio.Task[None]
        self._event: anyio.Event | None = None

    def note(self, *what: Any) -> None:
        self._world.note(self._name, *what)

    async def run(self) -> None:
        if self._client.begins:
            await asyncio.sleep(self._client.begins)
        self._answering = asyncio.create_task(self._answer())
        happening = asyncio.create_task(self._happen())
        await asyncio.wait([self._answering], timeout=PATIENCE)
        if not self._answering.done():
            self.note("is told to leave")
            self._free.set()
            self._left.set()
            await asyncio.wait([self._answering], timeout=PATIENCE)
        if not self._answering.done():
            self.note("is cancelled")
            self._answering.cancel()
            await asyncio.wait([self._answering], timeout=PATIENCE)
        self.note("over", self._answering.done())
        happening.cancel()
        await asyncio.wait([happening])

    async def _answer(self) -> None:
        try:
            response = self._response()
        except Exception as error:
            self.note("refused", type(error).__name__)
            return
        headers = [(b"content-length", b"4")] if self._client.body else []
        method = self._client.method
        scope = {"type": "http", "method": method, "path": "/", "headers": headers}
        try:
            await response(scope, self._receive, self._send)
        except BaseException as error:
            self.note("raised", type(error).__name__)
        else:
            self.note("returned", response.active)

    # --- The server and the network

    async def _happen(self) -> None:
        started = CLOCK.now
        for at, what, *arguments in self._client.world:
            await asyncio.sleep(max(0.0, at - (CLOCK.now - started)))
            self.note("happens", what)
            if what == "leave":
                self._left.set()
            elif what == "cancel":
                self._answering.cancel()
            elif what == "drain":
                self._world._package.drain(*arguments)
            elif what == "stall":
                self._free.clear()
                asyncio.get_running_loop().call_later(arguments[0], self._free.set)
            elif what == "break":
                self._broken = True
            else:
                CLOCK.now += arguments[0]

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            self.note("receive")
            return {"type": "http.request", "body": b"body" if self._client.body else b""}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self._sending += 1
        shown = {key: value for key, value in message.items() if key != "headers"}
        self.note("send", self._sending, shown)
        try:
            if self._broken:
                raise OSError
            await self._free.wait()
        except asyncio.CancelledError:
            self.note("send", "cancelled")
            raise
        finally:
            self._sending -= 1

    # --- What the application gives

    def _response(self) -> Any:
        options: dict[str, Any] = dict(self._client.options)
        producer = options.pop("data_sender_callable", None)
        source = self._source()
        if options.get("ping"):
            options["ping_message_factory"] = lambda: ": ping"
        if options.get("farewell") == "raises":
            options["farewell"] = self._fails("farewell")
        if options.pop("shutdown_event", False):
            self._event = options["shutdown_event"] = anyio.Event()
        for name in ("on_close", "client_close_handler_callable", "background"):
            if name in options:
                options[name] = self._callback(name, options[name])
        if "background" in options:
            options["background"] = BackgroundTask(options["background"])
        if "on_error" in options:
            options["on_error"] = self._on_error(options["on_error"])
        if producer is not None:
            options["data_sender_callable"] = self._producer(producer)
        return self._world._package.EventSourceResponse(source, **options)

    def _source(self) -> Any:
        if self._client.kind == "subscription":
            return self._world.subscription(self._client, self._name)
        if self._client.kind == "memory":
            self._entrance, exit_ = anyio.create_memory_object_stream[Any](1)
            return exit_
        if self._client.kind == "iterator":
            return _Iterator(self._generator(), self.note)
        return self._generator()

    async def _generator(self) -> AsyncIterator[Any]:
        self.note("source", "begins")
        try:
            async for value in self._values():
                yield value
            self.note("source", "has ended")
        except BaseException as error:
            self.note("source", type(error).__name__)
            raise
        finally:
            for what, *arguments in self._client.ending:
                if what == "swallow":
                    self.note("source", "goes on")
                    return  # noqa: B012  (what a source may do by mistake)
                try:
                    await self._step(what, *arguments)
                except BaseException as error:
                    self.note("cleanup", type(error).__name__)
                    raise
            self.note("source", "closed")

    async def _values(self) -> AsyncIterator[Any]:
        for what, *arguments in self._client.steps:
            if what == "yield":
                yield SHAPES[arguments[0]]
            elif what == "burst":
                for number in range(arguments[0]):
                    yield f"burst {number}"
            else:
                await self._step(what, *arguments)

    async def _step(self, what: str, *arguments: Any) -> None:
        if what == "sleep":
            await asyncio.sleep(arguments[0])
        elif what == "spend":
            CLOCK.now += arguments[0]
        elif what == "turn":
            await asyncio.sleep(0)
        elif what == "wait":
            if self._event is not None:
                await self._event.wait()
                self.note("source", "was told")
            else:
                await asyncio.sleep(PATIENCE * 10)
        else:
            raise RAISED[arguments[0]](what)

    def _producer(self, way: str) -> Callable[[], Awaitable[None]]:
        async def produce() -> None:
            self.note("producer", "begins")
            try:
                if way == "raises":
                    raise ValueError(way)
                if way == "waits" or self._client.kind != "memory":
                    await asyncio.sleep(PATIENCE * 10)
                    return
                async with self._entrance:
                    async for value in self._values():
                        await self._entrance.send(value)
            except BaseException as error:
                self.note("producer", type(error).__name__)
                raise
            self.note("producer", "has ended")

        return produce

    def _callback(self, name: str, way: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> None:
            self.note(name, *(str(each) for each in arguments))
            if way == "raises":
                raise ValueError(name)
            if way == "awaits":
                await asyncio.sleep(0.5)
                self.note(name, "has ended")

        return call

    def _fails(self, name: str) -> Callable[[], Any]:
        def fail() -> Any:
            self.note(name)
            raise ValueError(name)

        return fail

    def _on_error(self, way: str) -> Callable[[Exception], Any]:
        async def waits() -> Any:
            await asyncio.sleep(0.5)
            self.note("on_error", "has ended")
            return "sorry, late"

        def on_error(error: Exception) -> Any:
            self.note("on_error", type(error).__name__)
            if way == "raises":
                raise KeyError(way)
            if way in {"waits", "awaits"}:
                return waits()
            return None if way == "none" else {"event": "error", "data": "sorry"}

        return on_error


class _Iterator:
    """A source that is no generator, and has `close` in place of `aclose`."""

    def __init__(self, generator: Any, note: Callable[..., None]) -> None:
        self._generator = generator
        self._note = note

    def __aiter__(self) -> _Iterator:
        return self

    async def __anext__(self) -> Any:
        return await self._generator.__anext__()

    async def close(self) -> None:
        self._note("close")
        await self._generator.aclose()


def trace_of(package: ModuleType, program: Program) -> Trace:
    """Run a program to its end, and return what was sent, called, closed and raised, each at its time."""
    CLOCK.now = BEGINNING
    world = World(package, program)
    records = _Records(world.note)
    logger = logging.getLogger("sse_starlette")
    logger.addHandler(records)
    logger.propagate = False
    real_bits = secrets.randbits
    setattr(secrets, "randbits", random.Random(program.seed).getrandbits)  # noqa: B010
    random.seed(program.seed)
    loop = ManualLoop()
    loop.set_exception_handler(lambda _, context: world.note("loop", context["message"][:40]))
    try:
        loop.run_until_complete(world.run())
    except BaseException as error:
        world.note("world", type(error).__name__, str(error))
    finally:
        # What is left is cancelled in no particular order.
        trace = list(world.trace)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        try:
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            secrets.randbits = real_bits
            logger.removeHandler(records)
            logger.propagate = True
    # Which of several clients is served first at the same moment is left open.
    return sorted(trace, key=lambda what: what[:2])
