"""What a test does to one stream, and what it is told about it.

A `Stream` is the client: it may connect several times, one exchange after the other. It has no task
of its own: what arrives is read in the app's `send`, and so has the time at which it was sent.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from ._arrived import Arrived
from ._checks import cacheable, missing_header, refused_by_browsers, unexpected
from ._judge import Judge
from ._transport import exchange_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType
    from typing import Self

    import httpx2

    from ._exchange import Exchange
    from ._parser import Comment, Event
    from ._transport import StreamingASGITransport

PROXY_HEADERS: Mapping[str, str | None] = {
    "content-type": "text/event-stream",
    "x-accel-buffering": "no",
    "content-length": None,
    "content-encoding": None,
}
"""Headers with which a stream gets through proxies; see `Stream.assert_headers`."""


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
        self._arrived = Arrived(last_event_id)
        self.events: list[Event] = self._arrived.events
        """All events that have arrived, whether `next` has returned them or not."""
        self.comments: list[Comment] = self._arrived.comments
        """All comments that have arrived, pings among them."""

        self._transport = transport
        self._client = client
        self._request = request
        self._owned = transport if owned else nullcontext()
        self._judge = Judge(transport, unchecked)
        self._exchange: Exchange

    async def __aenter__(self) -> Self:
        """
        Connect.

        Raises:
            StreamFailure: the response is none that a browser would take.
            Exception: what the app raised.
        """
        await self._owned.__aenter__()
        try:
            await self._connect()
        except BaseException:
            await self._owned.__aexit__(None, None, None)
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
                self._judge.raise_what_was_found()
            elif isinstance(exc_value, Exception):
                self._judge.add_what_was_found(exc_value)
        finally:
            await self._owned.__aexit__(None, None, None)

    @property
    def last_event_id(self) -> str:
        """The cursor: what a browser would come back with."""
        return self._arrived.last_event_id

    @property
    def retry_ms(self) -> int:
        """How long a client waits before it reconnects, in milliseconds: as the server said, or 3000."""
        return self._arrived.retry_ms

    @property
    def ended(self) -> bool:
        """Whether nothing more can arrive: the body is complete, the app has ended, or we have left."""
        return self._exchange.finished

    @property
    def blocked(self) -> bool:
        """Whether a send of the app waits for us to read."""
        return self._exchange.blocked

    async def next(self, *, within: float | None = None) -> Event:
        """
        Wait for the next event; comments and blocks without data are none.

        Raises:
            StreamFailure: none came, or the stream has ended.
            Exception: what the app raised.
        """
        if not await self._has_next(within):
            self._judge.fail("stream ended", "there is no next event")
        return self._arrived.next()

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
        bug = unexpected(found, {"event": event, "data": data, "id": id})
        if bug is not None:
            self._judge.raise_what_was_found()
            self._judge.fail(*bug)
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
        exchange.socket.read_on()
        await self._judge.until(lambda: exchange.over, within, self._judge.did_not_end)
        self._judge.raise_what_was_found()

    async def until_blocked(self, *, within: float | None = None) -> None:
        """
        Wait until a send of the app waits for us to read, which only `stall` or 64 KiB unread cause.

        Raises:
            StreamFailure: `"not blocked"`.
            Exception: what the app raised.
        """
        await self._judge.until(lambda: self.blocked, within, self._judge.not_blocked)

    def leave(self) -> None:
        """Go away without a word, as a browser does whose tab is closed. May be called twice."""
        self._exchange.socket.leave()

    def stall(self) -> None:
        """Read nothing from now on: sends block, as with a socket that is full."""
        self._exchange.socket.stall(stalled=True)

    def resume(self) -> None:
        """Read again. The opposite of `stall`; may be called twice."""
        self._exchange.socket.stall(stalled=False)

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
        self._judge.raise_what_was_found()
        if self._transport.clock is not None:
            await self._transport.clock.advance(self.retry_ms / 1000)
        await self._connect()

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
        self._judge.fail_if(self._arrived.gap_or_duplicate(reset_event))

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
        self._judge.fail_if(self._arrived.wrong_ping(every, tolerance))

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
        self._judge.fail_if(missing_header(headers, expected))
        if expected is PROXY_HEADERS:
            self._judge.fail_if(cacheable(headers.get("cache-control", "")))

    async def _connect(self) -> None:
        """Send the request, and see that the response is one that a browser would take."""
        cursor = self.last_event_id
        response = await self._client.send(self._request(cursor), stream=True)
        self.response = response
        self._exchange = self._judge.exchange = exchange = exchange_of(response)
        self._arrived.connect(exchange)
        bug = refused_by_browsers(response.status_code, response.headers)
        if bug is not None and bug[0] not in self._judge.unchecked:
            # What it says instead is worth showing.
            await exchange.may_raise()
            await exchange.close()
            self._judge.fail(bug[0], f"{bug[1]}: a browser takes nothing else, and gives up")
        exchange.socket.listen(self._arrived.take)

    async def _disconnect(self) -> None:
        exchange = self._exchange
        if exchange.closed:
            return
        if exchange.complete and self._arrived.unfinished:
            exchange.found(
                "unfinished event", "the body ended without the blank line that ends an event"
            )
        await exchange.close()
        await exchange.look_for_what_is_left()

    async def _has_next(self, within: float | None) -> bool:
        unread = self._arrived.unread
        await self._judge.until(lambda: unread or self.ended, within, self._judge.nothing_came)
        if not unread:
            await self._exchange.may_raise()
            self._judge.raise_what_was_found()
        return bool(unread)
