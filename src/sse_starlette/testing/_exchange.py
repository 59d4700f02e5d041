"""One request to an app in memory: the server's side of ASGI, and the socket to the client.

The app's task begins in `Exchange.begin` and has ended when `Exchange.close` returns, whatever happens.
As with a real server it is no child of the task that sends the request: a cancelled test reaches the
app as a client that leaves. Nothing here knows what an event stream is.

Invariants a change must keep:
- What the app does wrong is noted in `findings`, also where it is raised in the app too: an app may
  catch what its `send` raises.
- What the app raises reaches the test once, as it was raised.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from sse_starlette._runtime.loop import loop_override

from ._clock import ServedLoop, settled
from ._failures import StreamFailure
from ._left_behind import Watch, on_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Coroutine

    from starlette.types import ASGIApp, Message, Scope

SOCKET_BYTES = 65_536
"""What a client may leave unread before sends block: about what uvicorn buffers."""

_SHOWN_CHUNKS = 40
_SHOWN_BYTES = 400
_TURNS_TO_RAISE = 40
"""How often the loop turns for an app that has sent everything, until it's not waited for any longer."""
_LOOK_AGAIN_SECONDS = 0.01

# RFC 9113, 8.2.2.
_FORBIDDEN_ON_HTTP_2 = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)


class Changes:
    """Tells everyone who waits that something has happened."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def tell(self) -> None:
        """Let all who wait look again."""
        self._next.set()
        self._next = anyio.Event()

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until `fact` holds."""
        while not fact():
            if anyio.current_effective_deadline() <= anyio.current_time():
                # On asyncio a cancellation never reaches a task that is woken at each turn of the
                # loop, as by an app that sends and sends.
                await anyio.sleep_forever()
            await self._next.wait()


@dataclass(frozen=True)
class Chunk:
    """A piece of a body."""

    at: float
    """When it arrived, on the app's clock, in seconds."""
    data: bytes
    writer: int
    """The task that sent it."""


def spawn(run: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """
    Start a task that is nobody's child; who calls this keeps what it returns and sees to its end.

    Not a task group: fixtures may be set up in one task and torn down in another.
    """
    if on_asyncio():
        return asyncio.create_task(run())
    import trio.lowlevel  # noqa: PLC0415  (whoever runs on asyncio needn't have it)

    return trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())


class Exchange:
    """A request and what becomes of it."""

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        request_body: AsyncIterable[bytes],
        loop: ServedLoop,
        patience: Callable[[], float],
        peers: list[Exchange],
        *,
        keeps_error: bool,
    ) -> None:
        """
        Prepare a request; it's sent in `begin`.

        Args:
            app: who answers.
            scope: what is asked for.
            request_body: the body of the request.
            loop: the loop that the app sees.
            patience: says how many real seconds things may take which should take no time.
            peers: the open exchanges of the same server; this one is among them until it's closed.
            keeps_error: whether what the app raises is for the test.
        """
        self.loop = loop
        self.changes = Changes()
        """Told whenever anything below has changed."""
        self.findings: list[StreamFailure] = []
        """What the app has done wrong, and nobody has been told yet."""
        self.error: BaseException | None = None
        """What the app raised, until somebody has been told."""
        self.watch = Watch()
        self.start: Message | None = None
        """The headers, once they have been sent."""
        self.complete = False
        """The body has ended as it should."""
        self.over = False
        """The app has returned or raised."""
        self.left = False
        """The client has gone."""
        self.stalled = False
        """The client does not read."""
        self.unread = 0
        """Bytes that the client has not read yet."""
        self.socket_bytes: float = SOCKET_BYTES
        """How many there may be before sends block."""
        self.closed = False
        """The client has left and the app has ended."""
        self.peers = peers

        self._app = app
        self._scope = scope
        self._request_body = request_body
        self._request_read = False
        self._patience = patience
        self._keeps_error = keeps_error
        self._began = loop.time()
        self._writers = 0
        self._chunks: deque[Chunk] = deque()
        self._listener: Callable[[Chunk], None] | None = None
        self._shown: deque[Chunk] = deque(maxlen=_SHOWN_CHUNKS)
        self._count = 0
        self._scope_of_app = anyio.CancelScope()
        self._task: object = None

    # --- What the client does

    def begin(self) -> None:
        """Let the app begin."""
        self.peers.append(self)
        self._task = spawn(self._run)

    def listen(self, listener: Callable[[Chunk], None]) -> None:
        """Hand each chunk to `listener` as it arrives, in place of `read`; first what is here."""
        self._listener = listener
        while self._chunks:
            listener(self._chunks.popleft())

    async def read(self) -> bytes | None:
        """
        Wait for the next piece of the body; None: it has ended.

        Raises:
            StreamFailure: the app has returned in the middle of it.
            Exception: what the app raised.
        """
        await self.changes.until(lambda: self._chunks or self.finished)
        if self._chunks:
            chunk = self._chunks.popleft()
            self.has_read(len(chunk.data))
            return chunk.data
        await self.may_raise()
        self.raise_what_was_found()
        return None

    def has_read(self, size: int) -> None:
        """Make room for further bytes."""
        self.unread -= size
        self.changes.tell()

    def leave(self) -> None:
        """Let the client go away, without a word."""
        self.left = True
        self.changes.tell()

    def stall(self, *, stalled: bool) -> None:
        """Read nothing from now on, or go on reading."""
        self.stalled = stalled
        self.changes.tell()

    @property
    def finished(self) -> bool:
        """Whether nothing more can arrive."""
        return self.complete or self.over or self.left

    @property
    def blocked(self) -> bool:
        """Whether a send is under way that the client does not let through."""
        return self._writers > 0 and self._full()

    @property
    def a_peer_is_stalled(self) -> bool:
        """Whether another client of the same server has stopped reading, and a send waits for it."""
        return any(peer.stalled and peer.blocked for peer in self.peers if peer is not self)

    def found(self, bug: str, details: str) -> None:
        """Take note of a bug."""
        self.findings.append(StreamFailure(bug, details, self.shown()))

    def raise_what_was_found(self) -> None:
        """Raise what the app raised, or else what it did wrong; each only once."""
        self.raise_error()
        if self.findings:
            raise self.findings.pop(0)

    def raise_error(self) -> None:
        """Raise what the app raised, once."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    async def may_raise(self) -> None:
        """Wait for an app that has sent everything to return or raise, as long as it does so soon."""
        for _ in range(_TURNS_TO_RAISE):
            if self.over:
                break
            await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        """
        Leave, and wait for the app to end; if it doesn't, note it and cancel it. Not cancellable.

        May be called twice.
        """
        with anyio.CancelScope(shield=True):
            self.leave()
            patience = self._patience()
            with anyio.move_on_after(patience):
                await self.changes.until(lambda: self.over)
            if not self.over:
                since = "its body was complete" if self.complete else "the client had left"
                self.found(
                    "leaked task",
                    f"the app still ran {patience:g} s after {since}, and had to be cancelled",
                )
                self._scope_of_app.cancel()
                await self.changes.until(lambda: self.over)
        if not self.closed:
            self.closed = True
            self.peers.remove(self)

    async def look_for_what_is_left(self) -> None:
        """Note the tasks and generators that outlive the app; those on their way out may take a while."""
        watch = self.watch
        with anyio.CancelScope(shield=True):
            if watch.tasks() or watch.generators():
                await settled()
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._patience()):
            while watch.tasks() or watch.generators():
                # What is only kept by a cycle has been let go of.
                gc.collect()
                await anyio.sleep(_LOOK_AGAIN_SECONDS)
        if tasks := watch.tasks():
            self.found(
                "leaked task",
                f"the app has ended, but what it started still runs: {', '.join(tasks)}",
            )
        if generators := watch.generators():
            self.found(
                "source not closed",
                f"the app has ended, but nobody has closed {', '.join(generators)}",
            )

    def shown(self) -> str:
        """Show what has arrived."""
        scope = self._scope
        query = scope["query_string"].decode("ascii", "replace")
        lines = [f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"]
        if self.start is None:
            return f"{lines[0]}: no response has started"
        lines[0] += f" -> {self.start['status']}"
        lines += [
            f"    {name.decode('latin-1')}: {value.decode('latin-1')}"
            for name, value in self.start.get("headers", [])
        ]
        lines.append("what arrived (seconds, bytes):")
        if self._count > len(self._shown):
            lines.append(f"    ... {self._count - len(self._shown)} before these")
        for chunk in self._shown:
            more = len(chunk.data) - _SHOWN_BYTES
            text = f"{chunk.data[:_SHOWN_BYTES]!r}" + (f" ... {more} more" if more > 0 else "")
            lines.append(f"{chunk.at - self._began:9.3f}  {text}")
        if not self._shown:
            lines.append("    nothing")
        state = [
            "the body is complete" if self.complete else "",
            "the client has left" if self.left else "",
            "the client does not read" if self.stalled else "",
            "a send is blocked" if self.blocked else "",
            "the app has ended" if self.over else "the app still runs",
        ]
        lines.append(f"{self.loop.time() - self._began:9.3f}  " + ", ".join(filter(None, state)))
        return "\n".join(lines)

    # --- What the server does

    async def _run(self) -> None:
        loop_override.set(self.loop)
        self.watch.begin()
        try:
            with self._scope_of_app:
                try:
                    await self._app(self._scope, self._receive, self._send)
                except Exception as exc:
                    self.error = exc if self._keeps_error else None
                else:
                    self._look_at_the_end()
        except anyio.get_cancelled_exc_class():
            self.found("broken protocol", "the app was cancelled from within")
            raise
        except BaseException as exc:
            # Nobody above would know what to do with it; the test does.
            self.error = exc
        finally:
            self.over = True
            self.watch.end()
            self.changes.tell()

    def _look_at_the_end(self) -> None:
        # Whoever doesn't read can't be sent the end either.
        if not self.left and not self.complete and not self.stalled:
            self.found(
                "unfinished body",
                "the app returned without having sent "
                + (
                    "a response"
                    if self.start is None
                    else "the last body message (more_body false)"
                ),
            )

    async def _receive(self) -> Message:
        if not self._request_read:
            self._request_read = True
            body = b"".join([piece async for piece in self._request_body])
            return {"type": "http.request", "body": body, "more_body": False}
        await self.changes.until(lambda: self.left or self.complete)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._writers:
            self.found("two writers", f"a send began while another was under way: {message!r:.200}")
        self._writers += 1
        self.changes.tell()
        try:
            # A real send lets others run now and then; this one always does, so that a second writer
            # has its chance to show up. Before the message is taken: once the client has it, the app
            # goes on to wherever it waits next, and is there when the client leaves.
            await anyio.lowlevel.checkpoint()
            await self.changes.until(lambda: not self._full())
            # As uvicorn does: what is sent to nobody is dropped.
            if not self.left:
                self._take(message)
        finally:
            self._writers -= 1

    def _full(self) -> bool:
        if self.left:
            return False
        return self.stalled or self.unread >= self.socket_bytes

    def _take(self, message: Message) -> None:
        fault = self._fault(message)
        if fault is not None:
            self.found("broken protocol", f"{fault}: {message!r:.200}")
            raise RuntimeError(f"{fault}: {message!r:.200}")
        if message["type"] == "http.response.start":
            self.start = message
            self._look_at_headers(message)
        else:
            body = message.get("body", b"")
            if body and self._scope["method"] != "HEAD":
                self._deliver(Chunk(self.loop.time(), bytes(body), anyio.get_current_task().id))
            self.complete = not message.get("more_body", False)
        self.changes.tell()

    def _deliver(self, chunk: Chunk) -> None:
        self._shown.append(chunk)
        self._count += 1
        self.unread += len(chunk.data)
        if self._listener is None:
            self._chunks.append(chunk)
        else:
            self._listener(chunk)

    def _fault(self, message: Message) -> str | None:
        kind = message["type"]
        if self.complete:
            return "sent after the end of the body"
        expected = "http.response.start" if self.start is None else "http.response.body"
        if kind != expected:
            return f"expected {expected}"
        if kind == "http.response.body" and not isinstance(message.get("body", b""), bytes):
            return "a body is bytes"
        return None

    def _look_at_headers(self, start: Message) -> None:
        if self._scope["http_version"] >= "2":
            for name, _ in start.get("headers", []):
                if name.lower() in _FORBIDDEN_ON_HTTP_2:
                    self.found("forbidden header", f"{name.decode('latin-1')} on HTTP/2")


class Lifespan:
    """The startup and shutdown of an app. Its task begins in `startup`, and has ended after `shutdown`."""

    def __init__(self, app: ASGIApp, loop: ServedLoop) -> None:
        self.state: dict[str, Any] = {}
        """What the app hands on to its requests."""
        self._app = app
        self._loop = loop
        self._changes = Changes()
        self._scope_of_app = anyio.CancelScope()
        self._task: object = None
        self._answer: Message | None = None
        self._error: BaseException | None = None
        self._over = False
        self._asked = 0
        self._told = 0

    async def startup(self) -> None:
        """
        Start the app up. If that fails or is cancelled, its task ends.

        Raises:
            RuntimeError: the app says that it failed, or has no lifespan.
            Exception: what it raised.
        """
        self._task = spawn(self._run)
        try:
            await self._ask("startup")
        except BaseException:
            with anyio.CancelScope(shield=True):
                self._scope_of_app.cancel()
                await self._changes.until(lambda: self._over)
            raise

    async def shutdown(self) -> None:
        """Shut the app down; raises as `startup` does. Not cancellable."""
        with anyio.CancelScope(shield=True):
            await self._ask("shutdown")
            await self._end()

    async def _ask(self, what: str) -> None:
        self._answer = None
        self._asked += 1
        self._changes.tell()
        await self._changes.until(lambda: self._answer is not None or self._over)
        if self._answer is None or self._answer["type"] != f"lifespan.{what}.complete":
            # A framework says that it failed, and then raises why.
            await self._end()
            raise RuntimeError(f"the app's lifespan {what} failed: it answered {self._answer}")

    async def _end(self) -> None:
        await self._changes.until(lambda: self._over)
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        loop_override.set(self._loop)
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            with self._scope_of_app:
                await self._app({**scope, "state": self.state}, self._receive, self._send)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as exc:
            self._error = exc
        finally:
            self._over = True
            self._changes.tell()

    async def _receive(self) -> Message:
        await self._changes.until(lambda: self._told < self._asked)
        self._told += 1
        return {"type": "lifespan.startup" if self._told == 1 else "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        self._answer = message
        self._changes.tell()
