"""An httpx2 transport that runs an ASGI app in memory and streams what it sends.

Owns the exchanges it has opened: closing a response ends its app, closing the transport ends all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import anyio
import httpx2

from sse_starlette._shutdown.streams import current_streams, drain_streams

from ._clock import Clock, ServedLoop
from ._exchange import Exchange
from ._lifespan import Lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType
    from typing import Self

    from starlette.types import ASGIApp, Scope

PATIENCE = 5.0
"""Seconds, in real time, that something may take which should take none."""

# RFC 9113, 8.2.2; httpx2 sends them, for it takes the connection for HTTP/1.1.
_NOT_ON_HTTP_2 = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})
_EXCHANGE = "sse_starlette.exchange"


class StreamingASGITransport(httpx2.AsyncBaseTransport):
    """
    Lets httpx2 talk to an ASGI app in memory, and hands on each piece of a body when it is sent.

    ```python
    async with httpx2.AsyncClient(transport=StreamingASGITransport(app)) as client:
        async with client.sse("http://testserver/events") as events:
            async for event in events:
                break
    ```

    Works on asyncio and trio. An app is run as a server would run it: in a task of its own, with a
    socket of 64 KiB; it lasts from the request until the response is closed. Closing the response
    tells the app that the client has left, and waits until it has ended. No task outlives the transport.

    What the app raises is raised to the test: by the request if no response has begun, by reading the
    body, or else by closing the response. What it does against the protocol is a `StreamFailure`
    there. httpx2's `read` timeout holds, in real seconds, so that no test hangs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        lifespan: bool = False,
        http_version: str = "1.1",
        clock: Clock | None = None,
        patience: float = PATIENCE,
        raise_app_exceptions: bool = True,
        root_path: str = "",
        client: tuple[str, int] = ("127.0.0.1", 50_000),
    ) -> None:
        """
        Prepare to serve `app`; nothing runs yet.

        Args:
            app: any ASGI app; a response is one too.
            lifespan: whether the app is started up when the transport, or its client, is entered, and
                shut down when it is left.
            http_version: what the app is told: `"1.1"`, `"1.0"`, `"2"` or `"3"`.
            clock: what pings and drain delays go by; None: real time.
            patience: seconds, in real time, that an app has to end once the client has left. Then it
                is cancelled and reported.
            raise_app_exceptions: False: an app that raises becomes a response of status 500, or one
                that breaks off.
            root_path: where the app is mounted.
            client: the address and port that the app sees.

        Raises:
            ValueError: `http_version` is none of these, or `patience` not above 0.
        """
        if http_version not in ("1.0", "1.1", "2", "3"):
            raise ValueError(
                f"http_version must be '1.0', '1.1', '2' or '3', got: {http_version!r}"
            )
        if not patience > 0:
            raise ValueError(f"patience must be > 0 seconds, got: {patience}")
        self.app: ASGIApp = app
        """What is served."""
        self.clock: Clock | None = clock
        """What pings and drain delays go by; None: real time."""
        self.patience: float = patience
        """Seconds, in real time, that an app has to end. May be changed at any time."""
        self._with_lifespan = lifespan
        self._http_version = http_version
        self._raise_app_exceptions = raise_app_exceptions
        self._root_path = root_path
        self._client = client
        self._exchanges: list[Exchange] = []
        self._lifespan: Lifespan | None = None

    async def __aenter__(self) -> Self:
        """
        Start the app up, if `lifespan` was asked for.

        Raises:
            Exception: what the app raised; RuntimeError if it only said that it failed.
        """
        if self._with_lifespan:
            lifespan = Lifespan(self.app, self._loop())
            await lifespan.startup()
            self._lifespan = lifespan
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        End all apps that still run, as if their clients had left, and shut the app down.

        May be called twice. It can't be cancelled, but takes no longer than the `patience`, as long as
        apps can be cancelled.

        Raises:
            Exception: what one of them raised.
            StreamFailure: one of them did not end, or broke the protocol.
        """
        exchanges = list(self._exchanges)
        for exchange in exchanges:
            exchange.socket.leave()
        try:
            for exchange in exchanges:
                await exchange.close()
            for exchange in exchanges:
                exchange.raise_what_was_found()
        finally:
            lifespan, self._lifespan = self._lifespan, None
            if lifespan is not None:
                await lifespan.shutdown()

    def drain(self, grace: float | None = None, spread: float = 0.0) -> None:
        """
        Let the streams of this app end, as they do when their server goes down.

        It's `sse_starlette.drain` for the streams of this transport, whatever else the process
        serves: call, then let the test wait for what it wants to see. Apps that don't use this package
        aren't told, as none is by a real server.

        Args:
            grace: seconds that sources have to end by themselves; None: the `shutdown_grace_period`
                of each response. With a `clock`, on that clock.
            spread: seconds over which the streams begin to end; 0: all at once.
        """
        ours = [
            one
            for one in current_streams()
            if isinstance(one.loop, ServedLoop) and one.loop.server is self
        ]
        drain_streams(ours, grace=grace, spread=spread)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """
        Let the app begin, and wait for its headers.

        If it is cancelled, the app is ended first.

        Raises:
            ReadTimeout: they did not come within the request's `read` timeout.
            StreamFailure: the app ended without a response.
            Exception: what the app raised, before or right after its headers if it's an error's.
        """
        if self._with_lifespan and self._lifespan is None:
            raise RuntimeError("lifespan=True: enter the transport, or the client, first")
        exchange = Exchange(
            self.app,
            self._scope(request),
            cast("httpx2.AsyncByteStream", request.stream),
            self._loop(),
            lambda: self.patience,
            self._exchanges,
            keeps_error=self._raise_app_exceptions,
        )
        read_timeout: float | None = request.extensions.get("timeout", {}).get("read")
        exchange.begin()
        try:
            with anyio.move_on_after(read_timeout) as within:
                await exchange.changes.until(lambda: exchange.start is not None or exchange.over)
            if within.cancelled_caught:
                raise httpx2.ReadTimeout(f"no headers within {read_timeout:g} s", request=request)
            start = exchange.start
            if start is not None and start["status"] >= 500:
                # An app that fails sends that it failed, and then raises why.
                await exchange.may_raise()
                exchange.raise_error()
            if start is None:
                exchange.raise_what_was_found()
        except BaseException:
            await exchange.close()
            raise
        if start is None:
            await exchange.close()
            return httpx2.Response(500)
        return httpx2.Response(
            start["status"],
            headers=list(start.get("headers", [])),
            stream=_Body(exchange, request, read_timeout),
            extensions={
                "http_version": f"HTTP/{self._http_version}".encode(),
                _EXCHANGE: exchange,
            },
        )

    def _loop(self) -> ServedLoop:
        return ServedLoop(self, self.clock)

    def _scope(self, request: httpx2.Request) -> Scope:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        if self._http_version >= "2":
            headers = [(name, value) for name, value in headers if name not in _NOT_ON_HTTP_2]
        scope: dict[str, Any] = {
            "type": "http",
            # What uvicorn says: whoever wants to know that the client has left has to listen.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._http_version,
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "root_path": self._root_path,
            "query_string": request.url.query,
            "headers": headers,
            "client": self._client,
            "server": (request.url.host, request.url.port),
        }
        if self._lifespan is not None:
            scope["state"] = self._lifespan.state.copy()
        return scope


def exchange_of(response: httpx2.Response) -> Exchange:
    """Return the exchange behind a response of this transport."""
    return cast("Exchange", response.extensions[_EXCHANGE])


class _Body(httpx2.AsyncByteStream):
    def __init__(
        self, exchange: Exchange, request: httpx2.Request, read_timeout: float | None
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._read_timeout = read_timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._read()) is not None:
            yield piece

    async def _read(self) -> bytes | None:
        exchange = self._exchange
        with anyio.move_on_after(self._read_timeout):
            piece = await exchange.read()
            if piece is None and exchange.over and not exchange.complete:
                raise httpx2.RemoteProtocolError("the app broke off", request=self._request)
            return piece
        raise httpx2.ReadTimeout(
            f"nothing came within {self._read_timeout:g} s\n\n{exchange.shown()}",
            request=self._request,
        )

    async def aclose(self) -> None:
        await self._exchange.close()
        self._exchange.raise_what_was_found()
