"""Endpoints that yield: what FastAPI does around them, what they may yield, and what is refused where."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

import functools
import importlib
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar, cast

import fastapi
import fastapi.sse
import pytest
from fastapi import BackgroundTasks, Depends, HTTPException, Query, Request, Response, WebSocket
from pydantic import AliasChoices, BaseModel, Field
from starlette.responses import JSONResponse
from tests.unit.driving import drive, until
from tests.unit.fastapi_apps import app_of, ask, data, fired

import sse_starlette
from sse_starlette.fastapi import (
    APIRouter,
    EventSourceResponse,
    EventSourceRoute,
    FastAPI,
    ServerSentEvent,
)

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Item(BaseModel):
    name: str = Field(
        validation_alias=AliasChoices("theName", "name"), serialization_alias="theName"
    )
    note: str | None = None


class Stored:
    """What an ORM returns: attributes, and more than the client is to see."""

    def __init__(self) -> None:
        self.theName = "stored"
        self.note = None
        self.password = "secret"


@dataclass
class Point:
    x: int
    day: date


class Tick(ServerSentEvent[Item], event="tick"):
    """A price has changed."""


class Note(ServerSentEvent[str], event="note"):
    pass


class Renamed(Tick, event="renamed"):
    pass


class Open(ServerSentEvent[T], Generic[T]):
    pass


class Kept(Generic[T]):
    pass


class Both(Kept[str], ServerSentEvent[int]):
    pass


def yielding(annotation: Any, value: object) -> FastAPI:
    async def endpoint():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield value

    if annotation is not None:
        endpoint.__annotations__["return"] = annotation
    return app_of(endpoint)


# --- What is yielded -----------------------------------------------------------------


async def typed() -> AsyncIterable[Item]:
    yield Item(name="a")
    yield {"theName": "b", "note": "n"}  # type: ignore[misc]
    yield Stored()  # type: ignore[misc]


def typed_no_async() -> Iterable[Item]:
    yield Item(name="a", note="n")


ALL = ['{"theName":"a","note":null}', '{"theName":"b","note":"n"}', '{"theName":"stored","note":null}']  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, ALL),
        ({"response_model_exclude_none": True}, ['{"theName":"a"}', '{"theName":"b","note":"n"}', '{"theName":"stored"}']),
        ({"response_model_exclude_unset": True}, ['{"theName":"a"}', '{"theName":"b","note":"n"}', '{"theName":"stored","note":null}']),
        ({"response_model_exclude_defaults": True}, ['{"theName":"a"}', '{"theName":"b","note":"n"}', '{"theName":"stored"}']),
        ({"response_model_by_alias": False}, ['{"name":"a","note":null}', '{"name":"b","note":"n"}', '{"name":"stored","note":null}']),
        ({"response_model_include": {"name"}}, ['{"theName":"a"}', '{"theName":"b"}', '{"theName":"stored"}']),
        ({"response_model_exclude": {"name"}}, ['{"note":null}', '{"note":"n"}', '{"note":null}']),
    ],
)  # fmt: skip
async def test_items_are_validated_and_serialised_as_a_response_model(
    options: dict[str, Any], sent: list[str]
) -> None:
    theirs = fastapi.FastAPI()
    theirs.get("/", response_class=fastapi.sse.EventSourceResponse, **options)(typed)

    assert await data(app_of(typed, **options), "/") == sent == await data(theirs, "/")


async def test_a_response_model_stands_for_what_is_annotated() -> None:
    async def numbers():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield "1"

    assert await data(app_of(numbers, response_model=int), "/") == ["1"]
    assert await data(app_of(numbers), "/") == ['"1"']
    assert await data(app_of(typed_no_async, response_model=None), "/") == [
        '{"theName":"a","note":"n"}'
    ]


@pytest.mark.parametrize(
    ("annotation", "value", "sent"),
    [
        (AsyncIterable[Item | None], None, "null"),
        (AsyncIterator[Item | int], 5, "5"),
        (AsyncIterable[Any], {"a": Decimal("1.5")}, '{"a":1.5}'),
        (AsyncIterable[timedelta], timedelta(seconds=90), '"PT1M30S"'),
        (AsyncIterable[Point], Point(1, date(2030, 1, 2)), '{"x":1,"day":"2030-01-02"}'),
        (AsyncIterable, Item(name="a"), '{"theName":"a","note":null}'),
        (AsyncIterable[Tick], Tick(Item(name="a")), '{"theName":"a","note":null}'),
        (AsyncIterable[Tick | Note], Note("text"), '"text"'),
        (AsyncIterable[Tick | Item], Item(name="a"), '{"theName":"a","note":null}'),
        (AsyncIterable[Renamed], Renamed(Item(name="a")), '{"theName":"a","note":null}'),
        (AsyncIterable[Open[int]], Open("1"), "1"),
        (AsyncIterable[Open[T]], Open("1"), '"1"'),  # type: ignore[valid-type]
        (AsyncIterable[Both], Both("1"), "1"),  # type: ignore[arg-type]
        (AsyncIterable[Annotated[ServerSentEvent[int], "x"]], ServerSentEvent("1"), "1"),
        # By the name, if the event isn't of the class.
        (AsyncIterable[Tick | Note], ServerSentEvent({"theName": "a"}, event="tick"), '{"theName":"a","note":null}'),
        (AsyncIterable[Tick | ServerSentEvent[int]], ServerSentEvent("7", event="other"), "7"),
        (AsyncIterable[ServerSentEvent[Item]], ServerSentEvent({"theName": "a"}), '{"theName":"a","note":null}'),
        (AsyncIterable[sse_starlette.ServerSentEvent[Item]], sse_starlette.ServerSentEvent({"theName": "a"}), '{"theName":"a","note":null}'),
        (AsyncIterable[ServerSentEvent[int]], fastapi.sse.ServerSentEvent(data="7"), "7"),
        (AsyncIterable[ServerSentEvent], ServerSentEvent("7"), '"7"'),
        # Undeclared events are data that nobody validates, as in FastAPI.
        (AsyncIterable[Item], ServerSentEvent("7"), '"7"'),
        (AsyncIterable[Item], fastapi.sse.ServerSentEvent(data="7"), '"7"'),
        (AsyncIterable[ServerSentEvent[int]], ServerSentEvent(raw_data="raw"), "raw"),
        # Events of this package, elsewhere and by other means, go by their own rules.
        (None, sse_starlette.ServerSentEvent("text"), "text"),
        (None, sse_starlette.JSONServerSentEvent("text"), '"text"'),
        (None, b"data: bytes\n\n", "bytes"),
        (AsyncIterable[bytes], b"data: bytes\n\n", "bytes"),
    ],
)  # fmt: skip
async def test_what_may_be_yielded(annotation: Any, value: object, sent: str) -> None:
    assert await data(yielding(annotation, value), "/") == [sent]


async def test_all_fields_of_an_event_are_sent() -> None:
    async def endpoint() -> AsyncIterable[Tick | Note]:
        yield Tick(Item(name="a"), id="1", retry=5, comment="c")
        yield Note(comment="no data")

    response = await ask(app_of(endpoint), "/")

    tick = b': c\r\nid: 1\r\nevent: tick\r\ndata: {"theName":"a","note":null}\r\nretry: 5\r\n\r\n'
    assert response.content == tick + b": no data\r\nevent: note\r\n\r\n"


async def test_an_event_with_a_way_of_its_own_to_encode_is_asked() -> None:
    class Shout(ServerSentEvent[str]):
        def encode(self) -> bytes:
            return f"data: {self.data}!\n\n".encode()

    async def endpoint() -> AsyncIterable[Shout]:
        yield Shout("hey")

    assert await data(app_of(endpoint), "/") == ["hey!"]


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (AsyncIterable[Item], {"name": 5}, "Input should be a valid string"),
        (AsyncIterable[Item], b"bytes", "Input should be"),
        (AsyncIterable[ServerSentEvent[Item]], ServerSentEvent("text"), "Input should be"),
        (AsyncIterable[Tick | Note], ServerSentEvent("text", event="other"), "events named 'tick', 'note'"),
    ],
)  # fmt: skip
async def test_what_is_not_of_the_type_is_refused(
    annotation: Any, value: object, said: str
) -> None:
    app = yielding(annotation, value)

    assert (await ask(app, "/")).status_code == 500
    with pytest.raises(fastapi.exceptions.ResponseValidationError) as refused:
        await ask(app, "/", raising=True)
    assert all("input" in each for each in refused.value.errors())
    for part in (said, "GET /", "test_fastapi_endpoints.py"):
        assert part in str(refused.value)


async def test_a_dict_of_fields_is_data_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def endpoint():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield {"event": "tick", "data": 1}
        yield {"event": "tick", "data": 2}

    one, two = '{"event":"tick","data":1}', '{"event":"tick","data":2}'
    assert await data(app_of(endpoint), "/") == [one, two]
    (record,) = caplog.records
    assert "ServerSentEvent(data" in record.message


# --- What FastAPI does around it ----------------------------------------------------------


async def test_dependencies_hold_until_the_stream_is_over_unless_their_scope_is_the_function() -> (
    None
):
    notes = []

    def noting(name: str) -> Callable[[], Iterator[str]]:
        def dependency() -> Iterator[str]:
            notes.append(f"{name} opens")
            yield name
            notes.append(f"{name} closes")

        return dependency

    async def endpoint(
        held: Annotated[str, Depends(noting("request"))],
        brief: Annotated[str, Depends(noting("function"), scope="function")],
    ) -> AsyncIterable[str]:
        notes.append("first")
        yield held
        yield brief
        notes.append("last")

    assert await data(app_of(endpoint), "/") == ['"request"', '"function"']
    assert notes == ["request opens", "function opens", "function closes", "first", "last", "request closes"]  # fmt: skip


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_exception_before_the_first_event_is_an_ordinary_response(
    asynchronous: bool,
) -> None:
    seen: list[str] = []

    def dependency() -> Iterator[None]:
        try:
            yield
        except HTTPException as exc:
            seen.append(exc.detail)
            raise

    def endpoint(n: Annotated[int, Query()], it: Annotated[None, Depends(dependency)]):  # type: ignore[no-untyped-def]  # noqa: ANN202
        if n:
            raise HTTPException(403, "not for you", headers={"X-Why": "because"})
        yield n

    async def the_same(n: Annotated[int, Query()], it: Annotated[None, Depends(dependency)]):  # type: ignore[no-untyped-def]  # noqa: ANN202
        for each in endpoint(n, it):
            yield each

    app = app_of(the_same if asynchronous else endpoint)

    refused = await ask(app, "/?n=1")
    assert (refused.status_code, refused.json()) == (403, {"detail": "not for you"})
    assert refused.headers["x-why"] == "because"
    assert seen == ["not for you"]
    assert (await ask(app, "/?n=x")).status_code == 422
    assert await data(app, "/?n=0") == ["0"]


async def test_headers_cookies_and_status_of_dependencies_are_those_of_the_stream() -> None:
    def dependency(response: Response) -> None:
        response.headers["X-From"] = "dependency"
        response.set_cookie("seen", "yes")

    async def endpoint(it: Annotated[None, Depends(dependency)]) -> AsyncIterable[int]:
        yield 1

    async def with_response(
        response: Response, it: Annotated[None, Depends(dependency)]
    ) -> AsyncIterable[int]:
        response.status_code = 202
        yield 1

    plain = await ask(app_of(endpoint, status_code=201), "/")
    assert (plain.status_code, plain.headers["x-from"]) == (201, "dependency")
    assert plain.headers["set-cookie"].startswith("seen=yes")
    assert plain.headers["cache-control"] == "no-store"

    chosen = await ask(app_of(with_response), "/")
    # A generator runs when the response has been made: what it sets then comes too late, as in FastAPI.
    assert (chosen.status_code, chosen.headers["x-from"]) == (200, "dependency")


async def test_background_tasks_run_when_the_stream_is_over() -> None:
    notes: list[str] = []

    async def endpoint(tasks: BackgroundTasks) -> AsyncIterable[int]:
        tasks.add_task(notes.append, "background")
        yield 1
        notes.append("over")

    await ask(app_of(endpoint), "/")

    assert notes == ["over", "background"]


async def test_an_endpoint_may_ask_for_the_request_and_read_its_body() -> None:
    async def endpoint(request: Request, name: str, item: Item) -> AsyncIterable[str]:
        yield request.method
        yield name
        yield item.name

    app = FastAPI()
    app.post("/{name}", response_class=EventSourceResponse)(endpoint)

    assert await data(app, "/a", method="POST", json={"theName": "b"}) == ['"POST"', '"a"', '"b"']


async def test_routers_prefixes_and_sub_applications_stream_too() -> None:
    inner = APIRouter(prefix="/inner")
    outer = APIRouter()
    app, sub = FastAPI(), FastAPI()

    @inner.get("/items/{n}", response_class=EventSourceResponse)
    async def items(n: int) -> AsyncIterable[Item]:
        yield Item(name=str(n))

    given = fastapi.APIRouter(route_class=EventSourceRoute)
    given.get("/given", response_class=EventSourceResponse)(typed_no_async)
    outer.include_router(inner, prefix="/outer")
    app.include_router(outer, prefix="/api", tags=["t"])
    sub.include_router(given)
    app.mount("/sub", sub)

    assert await data(app, "/api/outer/inner/items/3") == ['{"theName":"3","note":null}']
    assert await data(app, "/sub/given") == ['{"theName":"a","note":"n"}']


async def test_an_application_of_fastapi_takes_the_route_class() -> None:
    app = fastapi.FastAPI()
    app.router.route_class = EventSourceRoute
    app.get("/", response_class=EventSourceResponse)(typed_no_async)

    assert await data(app, "/") == ['{"theName":"a","note":"n"}']


async def test_other_routes_are_those_of_fastapi() -> None:
    app = FastAPI()

    @app.get("/json")
    async def plain() -> Item:
        return Item(name="a")

    @app.get("/lines")
    async def lines() -> AsyncIterable[int]:
        yield 1

    @app.get("/sync")
    def sync(n: int = 2) -> dict[str, int]:
        return {"n": n}

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None: ...

    assert (await ask(app, "/json")).json() == {"theName": "a", "note": None}
    assert (await ask(app, "/lines")).headers["content-type"] == "application/jsonl"
    assert (await ask(app, "/sync")).json() == {"n": 2}


async def test_what_an_endpoint_returns_is_streamed() -> None:
    async def asynchronous() -> AsyncIterable[Item]:
        return typed()

    def sync() -> list[int]:
        return [1, 2]

    class Called:
        async def __call__(self, n: int = 1) -> AsyncIterable[int]:
            yield n

    class Waiting:
        async def __call__(self) -> AsyncIterable[Item]:
            return typed()

    @functools.wraps(typed)
    def wrapped() -> Any:
        return typed()

    async def response() -> EventSourceResponse:
        return EventSourceResponse([1, "text"])

    async def typed_response() -> AsyncIterable[Item]:
        return cast("AsyncIterable[Item]", EventSourceResponse(typed()))

    async def other(n: int = 0) -> Response:
        return JSONResponse({"n": n})

    called, waiting, part = Called(), Waiting(), functools.partial(typed)
    named = {"name": "n", "operation_id": "n"}
    assert await data(app_of(sync), "/") == ["1", "2"]
    assert await data(app_of(called, **named), "/?n=3") == ["3"]
    assert await data(app_of(response), "/") == ["1", '"text"']
    assert (await ask(app_of(other), "/")).json() == {"n": 0}
    for endpoint in (asynchronous, wrapped, typed_response):
        assert await data(app_of(endpoint), "/") == ALL
    for nameless in (waiting, part):
        assert await data(app_of(nameless, **named), "/") == ALL


async def test_keyword_arguments_of_any_name_stay_the_endpoints() -> None:
    async def endpoint(n: int = 4, **more: Any) -> AsyncIterable[int]:
        yield n

    assert await data(app_of(endpoint), "/?more=1") == ["4"]


async def test_the_source_is_closed_in_its_own_task_when_the_client_leaves() -> None:
    notes: list[str] = []

    async def endpoint() -> AsyncIterable[int]:
        try:
            notes.append("opened")
            while True:
                yield 1
        finally:
            notes.append("closed")

    async with drive(app_of(endpoint)) as exchange:
        await until(lambda: notes)

    assert notes == ["opened", "closed"]
    assert exchange.body  # And the dependencies' stack has been left.


# --- Options -------------------------------------------------------------------------


async def test_a_class_carries_options() -> None:
    async def endpoint() -> AsyncIterable[int]:
        yield 1
        raise ValueError("secret")

    failing = EventSourceResponse.with_options(
        on_error=lambda error: {"event": "error", "data": type(error).__name__}, sep="\n"
    )

    response = await ask(app_of(endpoint, response_class=failing), "/")

    assert response.content == b"data: 1\n\nevent: error\ndata: ValueError\n\n"
    assert issubclass(failing, EventSourceResponse)
    assert failing([]).first_event_timeout == EventSourceResponse([]).first_event_timeout == 3
    assert failing([], sep="\r\n").sep == "\r\n"
    assert failing.with_options(ping=5)([]).ping_interval == 5
    assert failing.with_options(ping=5)([]).sep == "\n"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ping": -1}, ValueError),
        ({"ping": "5"}, TypeError),
        ({"sep": "x"}, ValueError),
        ({"pings": 5}, TypeError),
    ],
)
def test_a_wrong_option_is_refused_where_the_class_is_made(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        EventSourceResponse.with_options(**options)


# --- FastAPI's own names beside ours ---------------------------------------------------------


async def test_the_response_class_of_fastapi_streams_here_as_ours() -> None:
    async def endpoint() -> AsyncIterable[Item | fastapi.sse.ServerSentEvent]:
        yield Item(name="a")
        yield fastapi.sse.ServerSentEvent(data="text", event="e")

    app = app_of(endpoint, response_class=fastapi.sse.EventSourceResponse)

    assert [(one.event, one.data) for one in await fired(app, "/")] == [
        ("message", '{"theName":"a","note":null}'),
        ("e", '"text"'),
    ]
    assert (await ask(app, "/")).headers["cache-control"] == "no-store"


FROM_HERE = r"from sse_starlette\.fastapi import .*EventSourceResponse"


async def of_ours() -> AsyncIterable[ServerSentEvent[Item]]:
    yield ServerSentEvent(Item(name="a"))


async def of_unknown() -> "AsyncIterable[Unknown]":  # type: ignore[name-defined]  # noqa: F821
    yield 1


@pytest.mark.parametrize(
    ("library", "response_class", "endpoint", "said"),
    [
        (fastapi.FastAPI, fastapi.sse.EventSourceResponse, of_ours, FROM_HERE),
        (FastAPI, sse_starlette.EventSourceResponse, typed, FROM_HERE),
        (FastAPI, JSONResponse, of_ours, "add response_class=EventSourceResponse"),
        (FastAPI, EventSourceResponse, of_unknown, "TYPE_CHECKING"),
    ],
    ids=["our event, their machinery", "root class", "events without it", "unknown annotation"],
)
def test_what_does_not_fit_together_is_refused_where_the_route_is_made(
    library: type[fastapi.FastAPI], response_class: Any, endpoint: Callable[..., Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        library().get("/", response_class=response_class)(endpoint)


async def test_the_root_response_may_be_returned() -> None:
    async def endpoint() -> sse_starlette.EventSourceResponse:
        return sse_starlette.EventSourceResponse([{"event": "e", "data": 1}])

    for response_class in (sse_starlette.EventSourceResponse, JSONResponse):
        app = app_of(endpoint, response_class=response_class)
        assert [one.event for one in await fired(app, "/")] == ["e"]


async def test_annotations_may_be_text() -> None:
    async def endpoint(n: "int") -> "AsyncIterable[Item]":
        yield Item(name=str(n))

    assert await data(app_of(endpoint), "/?n=5") == ['{"theName":"5","note":null}']


async def test_what_is_unknown_in_other_endpoints_is_the_affair_of_fastapi() -> None:
    def dependency() -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
        return 5

    app = FastAPI()

    @app.get("/")
    async def endpoint(it: Annotated[int, Depends(dependency)]) -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
        return it

    app.get("/stream", response_class=EventSourceResponse)(typed)

    assert await data(app, "/stream") == ALL


@pytest.mark.parametrize("endpoint", [typed, typed_no_async])
async def test_a_route_of_fastapis_own_class_is_refused_with_the_line_to_write(
    endpoint: Callable[..., Any],
) -> None:
    app = fastapi.FastAPI()
    app.get("/", response_class=EventSourceResponse)(endpoint)

    with pytest.raises(RuntimeError, match=r"from sse_starlette\.fastapi import FastAPI"):
        await ask(app, "/", raising=True)


@pytest.mark.parametrize("kind", [FastAPI, APIRouter])
def test_a_router_with_such_routes_is_refused_where_it_is_included(
    kind: type[FastAPI | APIRouter],
) -> None:
    router = fastapi.APIRouter()
    router.get("/json")(lambda: None)
    router.get("/", response_class=EventSourceResponse)(typed)

    with pytest.raises(RuntimeError, match="route_class=EventSourceRoute"):
        kind().include_router(router, prefix="/p")


async def test_a_plain_route_may_return_our_response() -> None:
    async def endpoint() -> EventSourceResponse:
        return EventSourceResponse(["text"])

    app = fastapi.FastAPI()
    app.get("/", response_class=EventSourceResponse)(endpoint)

    assert await data(app, "/") == ['"text"']


def test_without_fastapi_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    room = {name: one for name, one in sys.modules.items() if "sse_starlette.fastapi" in name}
    for name in room:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)

    with pytest.raises(ImportError, match=r"pip install '\.\[fastapi\]'"):
        importlib.import_module("sse_starlette.fastapi")
