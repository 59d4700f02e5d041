"""One request to an app in memory: the server's side of ASGI.

The app's task begins in `Exchange.begin` and has ended when `Exchange.close` returns, whatever happens.
As with a real server it is no child of the task that sends the request: a cancelled test reaches the
app as a client that leaves. Nothing here knows what an event stream is.

Invariants a change must keep:
- What the app does wrong is noted in `findings`, also where it is raised in the app too: an app may
  catch what its `send` raises.
- What the app raises reaches the test once, as it was raised.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from sse_starlette._runtime.loop import loop_override

from ._app_task import Changes, spawn
from ._clock import ServedLoop, settled
from ._failures import StreamFailure
from ._left_behind import Watch
from ._socket import Chunk, Socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from starlette.types import ASGIApp, Message, Scope

_TURNS_TO_RAISE = 40
"""How often the loop turns for an app that has sent everything, until it's not waited for any longer."""
_LOOK_AGAIN_SECONDS = 0.01

# RFC 9113, 8.2.2.
_FORBIDDEN_ON_HTTP_2 = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)


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
        self.socket = Socket(self.changes.tell)
        self.complete = False
        """The body has ended as it should."""
        self.over = False
        """The app has returned or raised."""
        self.closed = False
        """The client has left and the app has ended."""
        self.peers = peers

        self._app = app
        self._scope = scope
        # None: it has been read.
        self._request_body: AsyncIterable[bytes] | None = request_body
        self._patience = patience
        self._keeps_error = keeps_error
        self._began = loop.time()
        self._writers = 0
        self._scope_of_app = anyio.CancelScope()
        self._task: object = None

    # --- What the client does

    def begin(self) -> None:
        """Let the app begin."""
        self.peers.append(self)
        self._task = spawn(self._run)

    async def read(self) -> bytes | None:
        """
        Wait for the next piece of the body; None: it has ended.

        Raises:
            StreamFailure: the app has returned in the middle of it.
            Exception: what the app raised.
        """
        await self.changes.until(lambda: self.socket.readable or self.finished)
        if self.socket.readable:
            return self.socket.take()
        await self.may_raise()
        self.raise_what_was_found()
        return None

    @property
    def finished(self) -> bool:
        """Whether nothing more can arrive."""
        return self.complete or self.over or self.socket.left

    @property
    def blocked(self) -> bool:
        """Whether a send is under way that the client does not let through."""
        return self._writers > 0 and self.socket.full

    @property
    def a_peer_is_stalled(self) -> bool:
        """Whether another client of the same server has stopped reading, and a send waits for it."""
        return any(peer.socket.stalled and peer.blocked for peer in self.peers if peer is not self)

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
            self.socket.leave()
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
        lines += self.socket.shown(self._began)
        state = [
            "the body is complete" if self.complete else "",
            "the client has left" if self.socket.left else "",
            "the client does not read" if self.socket.stalled else "",
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
        if not self.socket.left and not self.complete and not self.socket.stalled:
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
        pieces, self._request_body = self._request_body, None
        if pieces is not None:
            body = b"".join([piece async for piece in pieces])
            return {"type": "http.request", "body": body, "more_body": False}
        await self.changes.until(lambda: self.socket.left or self.complete)
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
            await self.changes.until(lambda: not self.socket.full)
            # As uvicorn does: what is sent to nobody is dropped.
            if not self.socket.left:
                self._take(message)
        finally:
            self._writers -= 1

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
                writer = anyio.get_current_task().id
                self.socket.deliver(Chunk(self.loop.time(), bytes(body), writer))
            self.complete = not message.get("more_body", False)
        self.changes.tell()

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
