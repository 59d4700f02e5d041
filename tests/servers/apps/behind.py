"""The streams behind Starlette's middlewares, one application each: `behind:gzip` and so on."""

from __future__ import annotations

from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from streams import app  # type: ignore[import-not-found,unused-ignore]  # found beside this file


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


async def use_session(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        scope["session"]["seen"] = True
    await app(scope, receive, send)


nothing = app
base_http = BaseHTTPMiddleware(app, dispatch=pass_on)
gzip = GZipMiddleware(app, minimum_size=1)
cors = CORSMiddleware(app, allow_origins=["*"])
session = SessionMiddleware(use_session, secret_key="not much of a secret")
