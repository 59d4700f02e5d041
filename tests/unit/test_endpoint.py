"""A stream as the endpoint of a route: asked for each request, answered without a function route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.unit.driving import drive, http_scope, settled

from sse_starlette import EventSourceEndpoint, EventSourceResponse, Hub

WHO = b"who are you?"


async def numbers(request: Request) -> AsyncIterator[int]:
    for number in range(int(request.query_params["n"])):
        yield number


async def refuse(request: Request) -> None:
    raise HTTPException(401, WHO.decode(), {"WWW-Authenticate": "Bearer"})


def inside_starlette(endpoint: EventSourceEndpoint) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


def alone(endpoint: EventSourceEndpoint) -> EventSourceEndpoint:
    return endpoint


async def redirect(request: Request) -> PlainTextResponse:
    return PlainTextResponse("gone", 410)


async def own(request: Request) -> EventSourceResponse:
    return EventSourceResponse(["own"], status_code=201)


TWO = b"data: 0\r\n\r\ndata: 1\r\n\r\n"
OWN_HEADER = {"headers": {"X-Own": "yes"}}
POST = {"methods": ["post"]}


@pytest.mark.anyio
@pytest.mark.parametrize("way", [alone, inside_starlette])
@pytest.mark.parametrize(
    ("source", "options", "method", "status", "header", "body"),
    [
        pytest.param(numbers, OWN_HEADER, "GET", 200, "x-own: yes", TWO, id="streamed"),
        pytest.param(numbers, {}, "HEAD", 200, "x-accel-buffering: no", b"", id="HEAD"),
        pytest.param(refuse, {}, "GET", 401, "www-authenticate: Bearer", WHO, id="HTTPException"),
        pytest.param(numbers, {}, "POST", 405, "allow: GET, HEAD", None, id="another method"),
        pytest.param(numbers, POST, "POST", 200, "cache-control: no-store", TWO, id="its method"),
        pytest.param(numbers, POST, "GET", 405, "allow: POST", None, id="no method of its own"),
        pytest.param(redirect, {}, "GET", 410, "content-length: 4", b"gone", id="a response"),
        pytest.param(own, {}, "GET", 201, "x-accel-buffering: no", b"data: own\r\n\r\n", id="ours"),
    ],
)
async def test_a_request_is_answered_with_what_the_source_yields_or_as_it_says(
    source: Any,
    options: dict[str, Any],
    method: str,
    status: int,
    header: str,
    body: bytes | None,
    way: Any,
) -> None:
    app = way(EventSourceEndpoint(source, **options))

    async with drive(app, scope=http_scope(method, query_string=b"n=2")) as client:
        await client.returns()

    assert client.status == status
    assert header in [f"{name}: {value}" for name, value in client.headers.items()]
    assert body in (client.body, None)


async def none(request: Request) -> None:
    return None


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "text"),
    [
        (["a list"], {}, TypeError, "source is .*: give a function of one argument"),
        ([lambda: None], {}, TypeError, "give a function of one argument"),
        ([numbers], {"methods": "GET"}, TypeError, r"methods is the text 'GET': give a list"),
        ([numbers], {"pnig": 1}, TypeError, "pnig"),
        ([numbers], {"ping": -1}, ValueError, "ping"),
        ([numbers], {"content": []}, TypeError, "content"),
    ],
    ids=["a list", "no argument", "one method", "unknown", "below 0", "content"],
)
def test_what_is_wrong_is_said_where_the_endpoint_is_made(
    arguments: list[Any], options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        EventSourceEndpoint(*arguments, **options)


def test_a_source_that_was_called_already_is_refused() -> None:
    with pytest.raises(TypeError, match="one argument itself, without calling it"):
        EventSourceEndpoint(none(Request(http_scope())))  # type: ignore[arg-type]


# Channels


@pytest.mark.anyio
@pytest.mark.parametrize("check", [None, none])
async def test_a_hub_has_an_endpoint_for_channels_if_its_check_has_nothing_to_say(
    check: Any,
) -> None:
    hub = Hub()
    prices, news = hub.channel("prices"), hub.channel("news")
    prices.publish_nowait("before")

    async with drive(hub.endpoint("prices", news, replay=1, ping=0, check=check)) as client:
        await client.contains("before")
        await settled()
        news.publish_nowait("after")
        await client.contains("after")

    assert client.status == 200
    assert prices.stats().subscribers == 0


@pytest.mark.anyio
async def test_a_check_may_refuse_a_client() -> None:
    hub = Hub()
    hub.channel("prices")

    async with drive(hub.endpoint("prices", check=refuse)) as client:
        await client.returns()

    assert client.status == 401


@pytest.mark.anyio
@pytest.mark.parametrize("waits", [True, False])
async def test_a_check_may_say_what_a_client_gets(waits: bool) -> None:
    hub = Hub()
    prices = hub.channel("prices")
    ended: list[str] = []

    def options_for(request: Request) -> Mapping[str, Any]:
        user = request.headers["user"]
        return {"filter": lambda event: event.data == user, "on_close": ended.append}

    async def options_after_a_while(request: Request) -> Mapping[str, Any]:
        await anyio.lowlevel.checkpoint()
        return options_for(request)

    app = hub.endpoint("prices", check=options_after_a_while if waits else options_for)
    scope = http_scope(headers=[(b"user", b"me")])
    async with drive(app, scope=scope) as client:
        await client.chunk(0)
        await settled()
        prices.publish_nowait("somebody else")
        prices.publish_nowait("me")
        await client.contains("me")
        client.leave()
        await client.returns()

    assert b"somebody else" not in client.body
    assert ended == ["client"]


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [True, False])
async def test_a_check_that_answers_yes_or_no_lets_nobody_listen(answer: bool) -> None:
    hub = Hub()
    hub.channel("prices")

    def check(request: Request) -> Any:
        return answer

    async with drive(hub.endpoint("prices", check=check)) as client:
        error = await client.raises(TypeError)

    assert "raise HTTPException(403)" in str(error)
    assert client.messages == []


@pytest.mark.parametrize(
    ("channels", "options", "kind", "text"),
    [
        ([], {}, ValueError, "at least one"),
        ([["a", "b"]], {}, TypeError, "list"),
        ([5], {}, TypeError, "int 5"),
        (["a", "a"], {}, ValueError, "different channels"),
        ([str(number) for number in range(201)], {}, ValueError, "200 channels"),
        (["sse_starlette:revoked"], {}, ValueError, "the library's own"),
        (["prices"], {"replay": -1}, ValueError, "replay"),
        (["prices"], {"ping": -1}, ValueError, "ping"),
        (["prices"], {"filtre": None}, TypeError, "filtre"),
        (["prices"], {"check": "user"}, TypeError, "^check is str"),
    ],
    ids=[
        "no channel",
        "a list",
        "a number",
        "twice",
        "too many",
        "reserved",
        "replay",
        "ping",
        "unknown",
        "a check that is text",
    ],
)
def test_what_is_wrong_with_the_endpoint_of_a_hub_is_said_where_it_is_made(
    channels: list[str], options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        Hub().endpoint(*channels, **options)
