"""The transport: requests, responses, the lifespan of an app, and who is told of what goes wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.kit.apps import HASTE, answering, fail, leave, numbers, sending, tasks_here
from tests.kit.seeded import ending
from tests.kit.seeded.writing import END, START, body

from sse_starlette import EventSourceResponse
from sse_starlette.testing import StreamFailure, StreamingASGITransport, connect
from sse_starlette.testing._clock import settled

pytestmark = pytest.mark.anyio

URL = "http://testserver"


def client_of(app: ASGIApp, timeout: float = 5, **options: Any) -> httpx2.AsyncClient:
    transport = StreamingASGITransport(app, **options)
    return httpx2.AsyncClient(transport=transport, base_url=URL, timeout=timeout)


async def begin(client: httpx2.AsyncClient, path: str = "/") -> httpx2.Response:
    return await client.send(client.build_request("GET", path), stream=True)


# httpx2 leaves the generators below `EventSource` to the garbage collector, and trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_httpx2_reads_an_endless_stream() -> None:
    before = tasks_here()
    app = EventSourceResponse(numbers(3))

    async with client_of(app) as client:
        async with client.sse("/") as source:
            events = aiter(source)
            seen = [(await anext(events)).data for _ in range(3)]
            await events.aclose()  # type: ignore[attr-defined]

        assert seen == ["0", "1", "2"]
        assert not app.active
    await settled()
    assert tasks_here() == before


async def test_transport_serves_requests_that_are_no_streams() -> None:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(f"{request.method} {(await request.body()).decode()}")

    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST", "HEAD"])])
    async with client_of(app) as client:
        posted = await client.post("/", content=b"hello")
        head = await client.head("/")

    assert posted.text == "POST hello"
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_app_is_told_the_version_of_http(version: str) -> None:
    scopes = []

    def answer(request: Request) -> Response:
        scopes.append(request.scope)
        return PlainTextResponse("ok")

    options: dict[str, Any] = {"root_path": "/sub", "client": ("192.0.2.1", 7)}
    async with client_of(answering(answer), http_version=version, **options) as client:
        response = await client.get(f"{URL}:81/sub/path?a=b")

    (scope,) = scopes
    assert response.http_version == f"HTTP/{version}"
    told = {"http_version": version, "path": "/sub/path", "query_string": b"a=b", **options}
    assert scope.items() >= told.items()
    assert scope["server"] == ("testserver", 81)
    assert scope["asgi"].items() >= {"version": "3.0"}.items()
    assert ("connection" in dict(Request(scope).headers)) == (version == "1.1")


async def test_connection_header_is_reported_on_http_2_and_not_that_of_ours() -> None:
    start = {**START, "headers": [*START["headers"], (b"connection", b"keep-alive")]}

    with pytest.raises(StreamFailure, match=r"^forbidden header: connection on HTTP/2"):
        async with connect(sending(start, END), http_version="2"):
            pass
    async with connect(sending(start, END)), connect(EventSourceResponse([]), http_version="2"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http_version": "1"}, "http_version must be"),
        ({"patience": 0}, "patience must be > 0"),
        ({"patience": float("nan")}, "patience must be > 0"),
    ],
)
def test_transport_checks_its_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingASGITransport(sending(), **options)


async def boom(request: Request) -> Response:
    raise KeyError("made up")


@pytest.mark.parametrize(
    "app",
    [sending(then=fail), Starlette(routes=[Route("/", boom)])],
    ids=["before the headers", "answered by a framework"],
)
async def test_error_of_the_app_reaches_the_test_as_it_is(app: ASGIApp) -> None:
    async with client_of(app) as client:
        with pytest.raises(KeyError, match="made up"):
            await client.get("/")
    with pytest.raises(KeyError, match="made up"):
        async with connect(app):
            pass


async def test_error_in_the_middle_of_a_body_comes_after_what_was_sent() -> None:
    app = sending(START, body("data: 1\n\n"), then=fail)

    async with client_of(app) as client, client.stream("GET", "/") as response:
        pieces = response.aiter_raw()
        first = await anext(pieces)
        with pytest.raises(KeyError, match="made up"):
            await anext(pieces)

    assert first == b"data: 1\n\n"


async def test_error_nobody_has_met_is_raised_when_the_response_is_closed() -> None:
    async def fail_at_the_end() -> None:
        await anyio.lowlevel.checkpoint()
        await fail()

    app = sending(START, body("data: 1\n\n"), then=fail_at_the_end)
    async with client_of(app) as client:
        response = await begin(client)
        with pytest.raises(KeyError, match="made up"):
            await response.aclose()


async def test_errors_can_be_left_to_the_server() -> None:
    quiet = partial(client_of, raise_app_exceptions=False)

    async with quiet(sending(then=fail)) as client:
        assert (await client.get("/")).status_code == 500
    async with quiet(sending(START, then=fail)) as client:
        with pytest.raises(httpx2.RemoteProtocolError, match="broke off"):
            await client.get("/")


async def test_app_that_fails_the_test_fails_it() -> None:
    async def judge() -> None:
        pytest.fail("the app says no")

    with pytest.raises(pytest.fail.Exception, match="the app says no"):
        async with connect(sending(START, then=judge)) as stream:
            await stream.next()


@pytest.mark.parametrize(
    ("app", "error", "said"),
    [
        (sending(), StreamFailure, r"unfinished body: .* a response\n\nGET /: no response"),
        (sending(then=anyio.sleep_forever), httpx2.ReadTimeout, "no headers within"),
        (
            sending(START, END, then=anyio.sleep_forever),
            StreamFailure,
            r"leaked task: .* body was complete",
        ),
    ],
    ids=["without a response", "read timeout of httpx2", "no end after the body"],
)
async def test_app_that_does_not_answer_or_end_is_reported(
    app: ASGIApp, error: type[Exception], said: str
) -> None:
    async with client_of(app, timeout=HASTE, patience=HASTE) as client:
        with pytest.raises(error, match=said):
            await client.get("/")


async def test_read_timeout_in_a_body_shows_what_arrived() -> None:
    app = EventSourceResponse(numbers(1))
    async with client_of(app, timeout=4 * HASTE) as client, client.stream("GET", "/") as response:
        with pytest.raises(httpx2.ReadTimeout, match="data: 0"):
            await response.aread()


async def test_app_that_ignores_its_client_leaving_is_cancelled_and_reported() -> None:
    before = tasks_here()
    app = sending(START, then=anyio.sleep_forever)

    with pytest.raises(StreamFailure, match=r"leaked task: the app still ran .* client had left"):
        async with client_of(app, patience=HASTE) as client:
            await begin(client)

    assert tasks_here() == before


async def test_response_may_be_closed_when_its_client_is_closed_already() -> None:
    app = EventSourceResponse(numbers(1))

    async with client_of(app) as client:
        response = await begin(client)
    await response.aclose()

    assert not app.active


async def test_closing_the_transport_ends_every_app() -> None:
    apps = [EventSourceResponse(numbers(1)) for _ in range(3)]
    transport = StreamingASGITransport(answering(lambda request: apps[int(request.url.path[1:])]))

    async with httpx2.AsyncClient(transport=transport, base_url=URL) as client:
        for number in range(3):
            await begin(client, f"/{number}")
        assert all(app.active for app in apps)
    await transport.aclose()

    assert not any(app.active for app in apps)


async def until_it_leaves(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("answers", [True, False], ids=["in its stream", "before an answer"])
async def test_cancelled_test_leaves_no_app_behind(answers: bool) -> None:
    app = EventSourceResponse(numbers(0)) if answers else until_it_leaves
    before = tasks_here()

    with anyio.move_on_after(HASTE) as within:
        async with connect(app) as stream:
            await stream.next()

    assert within.cancelled_caught
    assert tasks_here() == before
    assert not getattr(app, "active", False)


def test_on_asyncio_a_transport_may_be_closed_by_another_task_and_run_of_the_loop() -> None:
    """Fixtures of pytest-asyncio are set up in one and torn down in another."""
    app = EventSourceResponse(numbers(1))
    stream = connect(app)

    async def read() -> str:
        return (await stream.next()).data

    with asyncio.Runner() as runner:
        runner.run(stream.__aenter__())
        data = runner.run(read())
        runner.run(stream.__aexit__(None, None, None))
        left = asyncio.all_tasks(runner.get_loop())

    assert (data, app.active, left) == ("0", False, set())


def test_loop_after_loop_is_the_same() -> None:
    async def use() -> str:
        async with connect(EventSourceResponse(numbers(1))) as stream:
            return (await stream.next()).data

    assert [anyio.run(use, backend=b) for b in ("asyncio", "trio") * 2] == ["0"] * 4


async def test_hook_of_async_generators_is_taken_back() -> None:
    before = sys.get_asyncgen_hooks()

    async with connect(EventSourceResponse(numbers(1))) as outer:
        async with connect(EventSourceResponse(numbers(1))) as inner:
            await inner.next()
        await outer.next()
        during = sys.get_asyncgen_hooks()

    assert sys.get_asyncgen_hooks() == before
    assert during != before


def test_hook_that_another_has_replaced_stays_theirs() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sys.set_asyncgen_hooks(firstiter=seen.append)
        await sending(START, END)(scope, receive, send)

    async def use() -> object:
        async with connect(app):
            pass
        return sys.get_asyncgen_hooks().firstiter

    assert asyncio.run(use()) == seen.append


async def test_breach_of_protocol_raises_in_the_app_too() -> None:
    with pytest.raises(RuntimeError, match=r"expected http.response.start: \{"):
        async with connect(sending(END)):
            pass


def test_app_that_is_cancelled_from_within_is_reported() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def use() -> None:
        async with connect(sending(START, then=give_up)) as stream:
            await stream.next()

    with pytest.raises(StreamFailure, match="the app was cancelled from within"):
        asyncio.run(use())


def test_loop_without_a_hook_of_its_own_is_watched_too() -> None:
    async def use() -> None:
        sys.set_asyncgen_hooks(firstiter=None)
        await leave(ending.with_registry(closes=False), HASTE)

    with pytest.raises(StreamFailure, match="source not closed"):
        asyncio.run(use())


# The lifespan of an app


async def test_lifespan_runs_when_asked_and_hands_its_state_on() -> None:
    told = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        told.append("up")
        yield {"greeting": "hello"}
        told.append("down")

    async def events(request: Request) -> Response:
        return EventSourceResponse([request.state.greeting])

    app = Starlette(routes=[Route("/", events)], lifespan=lifespan)
    async with connect(app, lifespan=True) as stream:
        await stream.expect(data="hello")
        told.append("used")

    assert told == ["up", "used", "down"]


async def test_lifespan_is_a_startup_and_then_a_shutdown() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in ("startup", "shutdown"):
            told.append((await receive())["type"])
            await send({"type": f"lifespan.{step}.complete"})

    async with StreamingASGITransport(app, lifespan=True):
        assert told == ["lifespan.startup"]

    assert told == ["lifespan.startup", "lifespan.shutdown"]


def failing_at(step: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if step == "startup":
            await fail()
        yield
        await fail()

    return Starlette(lifespan=lifespan)


TOLD = sending({"type": "lifespan.startup.failed", "message": "no database"})


@pytest.mark.parametrize(
    ("app", "error", "said"),
    [
        (failing_at("startup"), KeyError, "made up"),
        (failing_at("shutdown"), KeyError, "made up"),
        (TOLD, RuntimeError, "startup failed: .*no database"),
        (sending(), RuntimeError, "lifespan startup failed: it answered None"),
    ],
    ids=["startup", "shutdown", "only said to have failed", "no lifespan"],
)
async def test_lifespan_that_fails_raises_why(
    app: ASGIApp, error: type[Exception], said: str
) -> None:
    before = tasks_here()

    with pytest.raises(error, match=said):
        async with StreamingASGITransport(app, lifespan=True):
            pass

    assert tasks_here() == before


def test_lifespan_that_is_cancelled_from_within_has_failed() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def use() -> None:
        async with StreamingASGITransport(sending(then=give_up), lifespan=True):
            pass

    with pytest.raises(RuntimeError, match="lifespan startup failed"):
        asyncio.run(use())


async def test_startup_that_is_cancelled_leaves_no_task_behind() -> None:
    before = tasks_here()

    with anyio.move_on_after(HASTE) as within:
        async with StreamingASGITransport(sending(then=anyio.sleep_forever), lifespan=True):
            pass

    assert within.cancelled_caught
    assert tasks_here() == before


async def test_lifespan_needs_the_transport_to_be_entered() -> None:
    transport = StreamingASGITransport(sending(START, END), lifespan=True)

    with pytest.raises(RuntimeError, match="enter the transport"):
        await httpx2.AsyncClient(transport=transport).get(URL)
