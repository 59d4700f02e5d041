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


async def numbers(request: Request) -> AsyncIterator[int]:
    for number in range(int(request.query_params.get("n", "2"))):
        yield number


async def refuse(request: Request) -> None:
    raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})


def inside_starlette(endpoint: EventSourceEndpoint) -> Starlette:
    return Starlette(routes=[Route("/", endpoint)])


def alone(endpoint: EventSourceEndpoint) -> EventSourceEndpoint:
    return endpoint


@pytest.mark.anyio
@pytest.mark.parametrize("way", [alone, inside_starlette])
async def test_what_a_source_yields_for_a_request_is_streamed(way: Any) -> None:
    app = way(EventSourceEndpoint(numbers, headers={"X-Own": "yes"}))

    async with drive(app, scope=http_scope(query_string=b"n=3")) as client:
        await client.returns()

    assert client.status == 200
    assert client.headers["x-own"] == "yes"
    assert client.body == b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.parametrize("way", [alone, inside_starlette])
async def test_an_http_exception_is_answered(way: Any) -> None:
    async with drive(way(EventSourceEndpoint(refuse))) as client:
        await client.returns()

    assert client.status == 401
    assert client.headers["www-authenticate"] == "Bearer"
    assert client.body == b"who are you?"


@pytest.mark.anyio
@pytest.mark.parametrize("way", [alone, inside_starlette])
async def test_other_methods_are_not_allowed(way: Any) -> None:
    async with drive(way(EventSourceEndpoint(numbers)), scope=http_scope("POST")) as client:
        await client.returns()

    assert client.status == 405
    assert client.headers["allow"] == "GET, HEAD"


@pytest.mark.anyio
async def test_methods_can_be_chosen() -> None:
    app = EventSourceEndpoint(numbers, methods=["post"])

    async with drive(app, scope=http_scope("POST")) as client:
        await client.returns()
    async with drive(app) as refused:
        await refused.returns()

    assert client.body.count(b"data:") == 2
    assert refused.headers["allow"] == "POST"


@pytest.mark.anyio
async def test_head_is_answered_without_a_body() -> None:
    async with drive(EventSourceEndpoint(numbers), scope=http_scope("HEAD")) as client:
        await client.returns()

    assert client.status == 200
    assert client.body == b""


@pytest.mark.anyio
async def test_a_source_may_answer_with_a_response_of_its_own() -> None:
    async def away(request: Request) -> PlainTextResponse:
        return PlainTextResponse("gone", 410)

    async def streamed(request: Request) -> EventSourceResponse:
        return EventSourceResponse(["own"], status_code=201)

    async with drive(EventSourceEndpoint(away)) as client:
        await client.returns()
    async with drive(EventSourceEndpoint(streamed)) as other:
        await other.returns()

    assert (client.status, client.body) == (410, b"gone")
    assert (other.status, other.body) == (201, b"data: own\r\n\r\n")


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
async def test_a_hub_has_an_endpoint_for_channels() -> None:
    hub = Hub()
    prices, news = hub.channel("prices"), hub.channel("news")
    prices.publish_nowait("before")

    async with drive(hub.endpoint("prices", news, replay=1, ping=0)) as client:
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
async def test_a_check_that_has_nothing_to_say_lets_the_client_listen() -> None:
    hub = Hub()
    prices = hub.channel("prices")

    async with drive(hub.endpoint("prices", check=none)) as client:
        await client.chunk(0)
        await settled()
        prices.publish_nowait("data")
        await client.contains("data")


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
        (["prices"], {"check": "user"}, TypeError, "check is str"),
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
