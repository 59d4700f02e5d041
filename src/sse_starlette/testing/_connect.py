"""Opens a stream of an ASGI app in memory, as a browser opens one: what it asks for, and by which transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from ._failures import CHECKS
from ._stream import Stream
from ._transport import PATIENCE, StreamingASGITransport

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp

    from ._clock import Clock

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
