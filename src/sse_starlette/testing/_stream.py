"""What a test does to one stream, and what it is told about it.

A `Stream` is the client: it may connect several times, one exchange after the other. It has no task
of its own: what arrives is read in the app's `send`, and so has the time at which it was sent.
"""

from __future__ import annotations

import json as jsonlib
from collections import deque
from typing import TYPE_CHECKING, NoReturn

import anyio
import httpx2

from ._checks import Arrival, Asked, gap_or_duplicate, missing_header, wrong_ping
from ._failures import CHECKS, StreamFailure
from ._parser import Comment, Cursor, Event, EventStreamParser
from ._transport import PATIENCE, StreamingASGITransport, exchange_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType
    from typing import Self

    from starlette.types import ASGIApp

    from ._clock import Clock
    from ._exchange import Chunk, Exchange

RECONNECTION_MS = 3_000
"""Chromium's reconnection time where the server names none."""

PROXY_HEADERS: Mapping[str, str | None] = {
    "content-type": "text/event-stream",
    "x-accel-buffering": "no",
    "content-length": None,
    "content-encoding": None,
}
"""Headers with which a stream gets through proxies; see `Stream.assert_headers`."""

INJECTION = (
    "text\ninjected: LF\rinjected: CR\r\ninjected: CRLF\n\nevent: injected\ndata: injected\n\n"
)
"""
Text that tries to add fields and events to a stream; give it to an app wherever it takes text.

An app that sends any of its lines as a line of the stream is reported: `"injected field"`.
"""


def connect(
    app: ASGIApp | StreamingASGITransport,
    url: str = "/",
    *,
    last_event_id: str = "",
    method: str = "GET",
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    json: object = None,
    lifespan: bool = False,
    http_version: str = "1.1",
    clock: Clock | None = None,
    patience: float = PATIENCE,
    unchecked: Collection[str] = (),
) -> Stream:
    """
    Open a stream of an ASGI app, in memory.

    ```python
    async with connect(app, "/events") as stream:
        await stream.expect(event="number", data="1")
    ```

    At the end of the block the client leaves, the app has to end, and the stream is looked through
    for what no correct server does (`CHECKS`): a body or an event left unfinished, sends that overlap,
    lines that are no fields, tasks and async generators left behind, and so on. If the app has raised,
    that is raised instead; if the test has failed, it's added to the failure.

    Args:
        app: any ASGI app; a response is one too. Or a transport, for several streams of one app, which
            stays open.
        url: what to ask for, a path or a whole URL.
        last_event_id: the cursor to begin with, as if the client came back.
        method: the method; a browser's `EventSource` knows GET only.
        params: the query, if it's not in `url`.
        headers: further headers.
        cookies: cookies.
        json: a body, which is sent as JSON; None: none.
        lifespan: as for `StreamingASGITransport`, like the following; only for an app.
        http_version: what the app is told.
        clock: what pings and drain delays go by; None: real time.
        patience: seconds, in real time, that the app has for anything that should take no time.
        unchecked: names of `CHECKS` that are not to be reported.

    Returns:
        The stream, which connects when it's entered.

    Raises:
        ValueError: an argument is not what it should be.
    """
    if unknown := set(unchecked) - CHECKS:
        raise ValueError(f"unchecked has {sorted(unknown)}; there are {sorted(CHECKS)}")
    owned = not isinstance(app, StreamingASGITransport)
    if isinstance(app, StreamingASGITransport):
        if lifespan or http_version != "1.1" or clock is not None or patience != PATIENCE:
            raise ValueError(
                "lifespan, http_version, clock and patience are the transport's: give them to it"
            )
        transport = app
    else:
        transport = StreamingASGITransport(
            app, lifespan=lifespan, http_version=http_version, clock=clock, patience=patience
        )
    client = httpx2.AsyncClient(
        transport=transport,
        base_url="http://testserver",
        cookies=None if cookies is None else dict(cookies),
        follow_redirects=True,
        timeout=transport.patience,
        trust_env=False,
    )

    def request(cursor: str) -> httpx2.Request:
        # What a browser's EventSource sends (WHATWG HTML 9.2.2 and 9.2.3).
        sent = httpx2.Headers({"Accept": "text/event-stream", "Cache-Control": "no-store"})
        sent.update(headers)
        if cursor:
            sent = httpx2.Headers([*sent.raw, (b"Last-Event-ID", cursor.encode())])
        return client.build_request(
            method, url, params=None if params is None else dict(params), headers=sent, json=json
        )

    return Stream(
        transport, client, request, owned=owned, last_event_id=last_event_id, unchecked=unchecked
    )


class Stream:
    """
    An open stream, and the client that reads it. Made by `connect`.

    Wherever a method waits, `within` is in seconds of real time, whatever the clock is, and None
    stands for the `patience` of the transport. If a wait is cancelled, no event is lost.

    A method that has nothing to return, or nothing good to say, raises first what the app raised, as it
    was raised, and then what was found to be wrong, as a `StreamFailure`.
    """

    def __init__(
        self,
        transport: StreamingASGITransport,
        client: httpx2.AsyncClient,
        request: Callable[[str], httpx2.Request],
        *,
        owned: bool,
        last_event_id: str,
        unchecked: Collection[str],
    ) -> None:
        """
        Prepare a client; it connects when it's entered.

        Args:
            transport: where to.
            client: sends the requests.
            request: makes a request with a cursor.
            owned: whether to open and close the transport.
            last_event_id: the first cursor.
            unchecked: names of `CHECKS` that are not to be reported.
        """
        self.response: httpx2.Response
        """The response, of the last connection if there were several: its status, its headers."""
        self.events: list[Event] = []
        """All events that have arrived, whether `next` has returned them or not."""
        self.comments: list[Comment] = []
        """All comments that have arrived, pings among them."""
        self.retry_ms: int = RECONNECTION_MS
        """How long a client waits before it reconnects, in milliseconds: as the server said, or 3000."""

        self._transport = transport
        self._client = client
        self._request = request
        self._owned = owned
        self._unchecked = unchecked
        self._parser = EventStreamParser(last_event_id=last_event_id)
        self._exchange: Exchange
        self._unread: deque[tuple[int, Event]] = deque()
        self._story: list[Asked | Event | Cursor] = []
        self._arrivals: list[list[Arrival]] = []
        self._writer: int | None = None

    async def __aenter__(self) -> Self:
        """
        Connect.

        Raises:
            StreamFailure: the response is none that a browser would take.
            Exception: what the app raised.
        """
        if self._owned:
            await self._transport.__aenter__()
        try:
            await self._connect()
        except BaseException:
            await self._close_transport()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """
        Leave, wait until the app has ended, and look for what is wrong. Not cancellable.

        Raises:
            StreamFailure: something is.
            Exception: what the app raised.
        """
        try:
            await self._disconnect()
            if exc_value is None:
                self._raise_what_was_found()
            elif isinstance(exc_value, Exception):
                self._add_what_was_found(exc_value)
        finally:
            await self._close_transport()

    @property
    def last_event_id(self) -> str:
        """The cursor: what a browser would come back with."""
        return self._parser.last_event_id

    @property
    def ended(self) -> bool:
        """Whether nothing more can arrive: the body is complete, the app has ended, or we have left."""
        return self._exchange.finished

    @property
    def blocked(self) -> bool:
        """Whether a send of the app waits for us to read."""
        return self._exchange.blocked

    # --- Reading

    async def next(self, *, within: float | None = None) -> Event:
        """
        Wait for the next event; comments and blocks without data are none.

        Raises:
            StreamFailure: none came, or the stream has ended.
            Exception: what the app raised.
        """
        if not await self._has_next(within):
            self._fail("stream ended", "there is no next event")
        size, event = self._unread.popleft()
        self._exchange.has_read(size)
        return event

    async def expect(
        self,
        *,
        event: str | None = None,
        data: object = None,
        id: str | None = None,
        within: float | None = None,
    ) -> Event:
        """
        Wait for the next event, which has to be this one; return it.

        Args:
            event: its type; `"message"` is that of events without one. None: any.
            data: its data: a string, or what its JSON decodes to. None: any.
            id: the last event id with it. None: any.
            within: as in `next`.

        Raises:
            StreamFailure: it was another one, or none came.
            Exception: what the app raised.
        """
        found = await self.next(within=within)
        expected = {"event": event, "data": data, "id": id}
        wrong = [
            f"{name}={value!r}"
            for name, value in expected.items()
            if value is not None and not _matches(getattr(found, name), value)
        ]
        if wrong:
            self._raise_what_was_found()
            self._fail("unexpected event", f"expected {', '.join(wrong)}, got {found}")
        return found

    def __aiter__(self) -> Self:
        """Iterate over the events until the stream ends; each comes within the patience."""
        return self

    async def __anext__(self) -> Event:
        if not await self._has_next(None):
            raise StopAsyncIteration
        return await self.next()

    async def until_ended(self, *, within: float | None = None) -> None:
        """
        Wait until the app has ended; read along meanwhile, unless `stall` was called.

        What has not been returned by `next` still can be.

        Raises:
            StreamFailure: it did not end. `"stalled writer"` if we don't read, `"leaked task"` if we
                have left, else `"stream goes on"`.
            Exception: what the app raised.
        """
        exchange = self._exchange
        exchange.socket_bytes = float("inf")
        exchange.changes.tell()
        await self._until(lambda: exchange.over, within, self._did_not_end)
        self._raise_what_was_found()

    async def until_blocked(self, *, within: float | None = None) -> None:
        """
        Wait until a send of the app waits for us to read, which only `stall` or 64 KiB unread cause.

        Raises:
            StreamFailure: `"not blocked"`.
            Exception: what the app raised.
        """
        await self._until(lambda: self.blocked, within, self._not_blocked)

    # --- What clients, networks and servers do

    def leave(self) -> None:
        """Go away without a word, as a browser does whose tab is closed. May be called twice."""
        self._exchange.leave()

    def stall(self) -> None:
        """Read nothing from now on: sends block, as with a socket that is full."""
        self._exchange.stall(stalled=True)

    def resume(self) -> None:
        """Read again. The opposite of `stall`; may be called twice."""
        self._exchange.stall(stalled=False)

    def drain(self, grace: float | None = None, spread: float = 0.0) -> None:
        """Let the streams of this app end as when the server goes down; see the transport's `drain`."""
        self._transport.drain(grace, spread)

    async def reconnect(self) -> None:
        """
        Leave, if the stream has not ended, and come back with the cursor, as a browser does.

        The app has ended before the new request begins. A browser waits `retry_ms` between the two;
        here the clock is moved by as much, and without a clock nobody waits. Events that `next` has
        not returned are still returned.

        Raises:
            StreamFailure: the stream was wrong up to now, or the response to the new request is none
                that a browser would take.
            Exception: what the app raised.
        """
        await self._disconnect()
        self._raise_what_was_found()
        if self._transport.clock is not None:
            await self._transport.clock.advance(self.retry_ms / 1000)
        await self._connect()

    # --- Asking whether all is well

    def assert_contiguous(self, *, reset_event: str = "reset") -> None:
        """
        See that no event is missing and none came twice, in all that has arrived up to now.

        Ids are `epoch.offset`, or whole numbers. Each event that has an id of its own is the next of
        the same epoch, also after a reconnect, or a reset event has come before. A block that has an
        id only must not move the cursor, but for the first of a connection without one.

        Args:
            reset_event: the type of the event that tells the client that it has missed something; its
                id says where it goes on.

        Raises:
            StreamFailure: `"gap"`, `"duplicate"`, `"wrong cursor"` or `"unordered ids"`.
        """
        self._fail_if(gap_or_duplicate(self._story, reset_event))

    def assert_pings(self, *, every: float, tolerance: float | None = None) -> None:
        """
        See that a ping came whenever there was silence, and none right after an event, up to now.

        A ping is a chunk of the body that has comments and no part of an event.

        Args:
            every: seconds of silence after which one is due, on the clock.
            tolerance: seconds by which one may be late, or early. None: none with a `Clock`, else a
                tenth of `every`.

        Raises:
            StreamFailure: `"missing ping"` or `"ping under data"`.
        """
        if tolerance is None:
            tolerance = every / 10 if self._transport.clock is None else 0.0
        exchange = self._exchange
        may_come = not exchange.finished and not exchange.stalled
        now = exchange.loop.time() if may_come else None
        for arrivals in self._arrivals:
            is_last = arrivals is self._arrivals[-1]
            self._fail_if(wrong_ping(arrivals, now if is_last else None, every, tolerance))

    def assert_headers(self, expected: Mapping[str, str | None] = PROXY_HEADERS) -> None:
        """
        See that the headers are as they should be.

        Args:
            expected: names and values; a value is also found in a list of them, and without its
                parameters. None as a value: the header must not be there. By default those that get a
                stream through proxies, and `Cache-Control` with `no-store` or `no-cache`.

        Raises:
            StreamFailure: `"missing header"` or `"forbidden header"`.
        """
        headers = self.response.headers
        self._fail_if(missing_header(headers, expected))
        if expected is PROXY_HEADERS:
            cache = headers.get("cache-control", "")
            if "no-store" not in cache and "no-cache" not in cache:
                self._fail("missing header", f"cache-control: no-store; it is {cache!r}")

    # --- The connection

    async def _connect(self) -> None:
        """Send the request, and see that the response is one that a browser would take."""
        cursor = self.last_event_id
        response = await self._client.send(self._request(cursor), stream=True)
        self.response = response
        self._exchange = exchange = exchange_of(response)
        retry_ms = self._parser.retry_ms
        self._parser = EventStreamParser(last_event_id=cursor)
        self._parser.retry_ms = retry_ms
        self._writer = None
        self._story.append(Asked(cursor))
        self._arrivals.append([Arrival(exchange.loop.time(), dispatches=False, comments=False)])
        bug = missing_header(response.headers, {"content-type": "text/event-stream"})
        if response.status_code != 200:
            bug = ("wrong status", str(response.status_code))
        if bug is not None and bug[0] not in self._unchecked:
            # What it says instead is worth showing.
            await exchange.may_raise()
            await exchange.close()
            self._fail(bug[0], f"{bug[1]}: a browser takes nothing else, and gives up")
        exchange.listen(self._take)

    async def _disconnect(self) -> None:
        exchange = self._exchange
        if exchange.closed:
            return
        if exchange.complete and self._parser.unfinished:
            exchange.found(
                "unfinished event", "the body ended without the blank line that ends an event"
            )
        await exchange.close()
        await exchange.look_for_what_is_left()

    async def _close_transport(self) -> None:
        if self._owned:
            await self._transport.aclose()

    def _take(self, chunk: Chunk) -> None:
        exchange = self._exchange
        parser = self._parser
        if self._writer is not None and parser.unfinished and chunk.writer != self._writer:
            exchange.found(
                "two writers",
                f"another task wrote {chunk.data[:200]!r} in the middle of an event",
            )
        self._writer = chunk.writer
        try:
            parsed = parser.feed(chunk.data)
        except StreamFailure as failure:
            exchange.found(failure.bug, failure.details)
            exchange.leave()
            return
        for bug, details in parser.faults:
            exchange.found(bug, details)
        parser.faults.clear()
        if parser.retry_ms is not None:
            self.retry_ms = parser.retry_ms
        comments = [one for one in parsed if isinstance(one, Comment)]
        events = [one for one in parsed if isinstance(one, Event)]
        self.comments += comments
        self.events += events
        self._story += [one for one in parsed if not isinstance(one, Comment)]
        self._arrivals[-1].append(
            Arrival(chunk.at, dispatches=bool(events) or parser.unfinished, comments=bool(comments))
        )
        # The last event of a chunk stands for all its bytes; a chunk without one is read at once.
        self._unread += [(0, event) for event in events[:-1]]
        self._unread += [(len(chunk.data), event) for event in events[-1:]]
        if not events:
            exchange.has_read(len(chunk.data))

    # --- Waiting, and saying what is wrong

    async def _has_next(self, within: float | None) -> bool:
        await self._until(lambda: self._unread or self.ended, within, self._nothing_came)
        if not self._unread:
            await self._exchange.may_raise()
            self._raise_what_was_found()
        return bool(self._unread)

    async def _until(
        self,
        fact: Callable[[], object],
        within: float | None,
        otherwise: Callable[[float], NoReturn],
    ) -> None:
        seconds = self._transport.patience if within is None else within
        with anyio.move_on_after(seconds):
            await self._exchange.changes.until(lambda: fact() or self._findings())
        # What has arrived comes before what is wrong, or a test would depend on who is faster.
        if not fact():
            self._raise_what_was_found()
            otherwise(seconds)

    def _nothing_came(self, seconds: float) -> NoReturn:
        if self._exchange.a_peer_is_stalled:
            self._fail(
                "stalled writer",
                f"no event within {seconds:g} s, while another client of this app does not read",
            )
        clock = self._transport.clock
        stands = "" if clock is None else f"; the clock stands at {clock.time():g} s"
        self._fail("no event", f"none within {seconds:g} s{stands}")

    def _did_not_end(self, seconds: float) -> NoReturn:
        if self._exchange.left:
            self._fail("leaked task", f"the app still runs {seconds:g} s after the client has left")
        if self._exchange.stalled:
            self._fail(
                "stalled writer",
                f"the app has not given up a client that has read nothing for {seconds:g} s",
            )
        self._fail("stream goes on", f"the app has not ended within {seconds:g} s")

    def _not_blocked(self, seconds: float) -> NoReturn:
        self._fail("not blocked", f"no send has been blocked within {seconds:g} s")

    def _findings(self) -> list[StreamFailure]:
        findings = self._exchange.findings
        findings[:] = [one for one in findings if one.bug not in self._unchecked]
        return findings

    def _raise_what_was_found(self) -> None:
        self._findings()
        self._exchange.raise_what_was_found()

    def _add_what_was_found(self, failure: Exception) -> None:
        self._exchange.raise_error()
        for finding in self._findings():
            failure.add_note(f"The stream was wrong, too. {finding}")

    def _fail_if(self, bug: tuple[str, str] | None) -> None:
        if bug is not None:
            self._fail(*bug)

    def _fail(self, bug: str, details: str) -> NoReturn:
        self._exchange.raise_error()
        raise StreamFailure(bug, details, self._exchange.shown())


def _matches(found: str, expected: object) -> bool:
    if isinstance(expected, str):
        return found == expected
    try:
        decoded: object = jsonlib.loads(found)
    except ValueError:
        return False
    return decoded == expected
