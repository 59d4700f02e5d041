"""The application that shows a hub: its routes, and who may see what."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from hashlib import sha256
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .._shutdown.streams import current_streams
from ..policy import StreamPolicy
from ..sse import EventSourceResponse
from ._figures import figures_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import HTTPConnection, Request

    from ..channels._stats import HubStats

_EVERY_SECONDS = 1.0
_SHARE = 20
"""Figures that took a while are asked for more rarely: at most one part in so many of the time."""
_MOST_WATCHERS = 50
_WATCH_SECONDS = 3_600.0
_PAGE = Path(__file__).with_name("page.html")
_CLOSED = (
    "Nobody may see these figures. Say who may, in hub.app(allow=…): a function of the request, for example "
    "allow=lambda request: request.user.is_authenticated.\n"
)
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Shown(Protocol):
    """What is shown: a hub."""

    @property
    def log(self) -> str | None:
        """The kind of its event log."""

    def stats(self) -> HubStats:
        """Its figures, on any thread."""

    async def ready(self) -> bool:
        """Whether it can be used."""


def status_app(
    hub: Shown, allow: Callable[[HTTPConnection], bool | Awaitable[bool]] | None
) -> Starlette:
    """Return the application of `hub`; see `Hub.app`."""

    async def is_allowed(connection: HTTPConnection) -> bool:
        if allow is None:
            return False
        outcome = allow(connection)
        return bool(await outcome if isawaitable(outcome) else outcome)

    policy = StreamPolicy(total=_MOST_WATCHERS, max_age=_WATCH_SECONDS, revalidate=is_allowed)

    async def refusal(request: Request) -> Response | None:
        if await is_allowed(request):
            return None
        return PlainTextResponse(
            _CLOSED if allow is None else "Forbidden\n", status_code=403, headers=_PRIVATE
        )

    async def page(request: Request) -> Response:
        text = _PAGE.read_text("utf-8")
        return await refusal(request) or HTMLResponse(text, headers=_page_headers(text))

    async def figures(request: Request) -> Response:
        if (refused := await refusal(request)) is not None:
            return refused
        # In ASCII: the name of a channel may be text that UTF-8 can't carry.
        text = json.dumps(await _figures(hub))
        return Response(text, media_type="application/json", headers=_PRIVATE)

    async def events(request: Request) -> Response:
        return await refusal(request) or EventSourceResponse(_watch(hub), policy=policy)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_PRIVATE)

    async def ready(_: Request) -> Response:
        # What is wrong may name hosts: that's for those who may see the figures.
        is_ready = await hub.ready()
        return JSONResponse(
            {"ready": is_ready}, status_code=200 if is_ready else 503, headers=_PRIVATE
        )

    return Starlette(
        routes=[
            Route("/", page),
            Route("/figures", figures),
            Route("/events", events),
            Route("/health", health),
            Route("/ready", ready),
        ]
    )


def _page_headers(page: str) -> dict[str, str]:
    """Allow the page its own script and style, and nothing else: names of channels may come from anybody."""
    allowed = {}
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        allowed[tag] = b64encode(sha256(text.encode()).digest()).decode()
    return {
        **_PRIVATE,
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}'; "
            "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        ),
        "Referrer-Policy": "no-referrer",
    }


async def _figures(hub: Shown) -> dict[str, Any]:
    # Of many thousand channels they take a while, which the streams of this loop needn't wait for.
    stats = await anyio.to_thread.run_sync(hub.stats)
    return figures_of(stats, hub.log, [stream.listener for stream in current_streams()])


async def _watch(hub: Shown) -> AsyncIterator[dict[str, str]]:
    while True:
        began = time.monotonic()
        yield {"event": "figures", "data": json.dumps(await _figures(hub))}
        await anyio.sleep(max(_EVERY_SECONDS, _SHARE * (time.monotonic() - began)))
