"""What OpenAPI documents say of streams, in 3.1 and 3.2."""

# No `from __future__ import annotations`: FastAPI reads annotations that name local values.

import copy
from collections.abc import AsyncIterable
from typing import Annotated, Any

import fastapi
import fastapi.sse
import pytest
from fastapi import Header
from openapi_spec_validator import OpenAPIV31SpecValidator, OpenAPIV32SpecValidator
from pydantic import BaseModel, Field

from sse_starlette import Hub, Subscription
from sse_starlette.fastapi import (
    APIRouter,
    EventSourceResponse,
    FastAPI,
    LastEventID,
    ServerSentEvent,
    Subscribe,
    openapi_with_streams,
)


class Part(BaseModel):
    serial: int = Field(alias="serialNumber")


class Item(BaseModel):
    parts: list[Part]


class Tick(ServerSentEvent[Item], event="tick"):
    """A price has changed."""


class Done(ServerSentEvent, event="done"):
    __doc__ = None


def field(data: dict[str, Any] | None = None, name: str | None = None) -> dict[str, Any]:
    """What is said of an event."""
    text: dict[str, Any] = {"type": "string"}
    if data is not None:
        text |= {"contentMediaType": "application/json", "contentSchema": data}
    event = {"type": "string"} if name is None else {"type": "string", "const": name}
    required = (["data"] if data is not None else []) + (["event"] if name is not None else [])
    return {
        "type": "object",
        "properties": {
            "data": text,
            "event": event,
            "id": {"type": "string"},
            "retry": {"type": "integer", "minimum": 0},
        },
        **({"required": required} if required else {}),
        **({} if name is None else {"title": name}),
    }


ITEM = {"$ref": "#/components/schemas/Item"}
TICK = {**field(ITEM, "tick"), "description": "A price has changed."}


def app_of(annotation: Any, version: str, **options: Any) -> FastAPI:
    app = FastAPI()
    app.openapi_version = version
    router = APIRouter()

    @router.get("/", **{"response_class": EventSourceResponse, **options})
    async def stream() -> annotation:
        yield 1

    app.include_router(router, prefix="/api")
    return app


def checked(document: dict[str, Any]) -> dict[str, Any]:
    validators = {"3.1": OpenAPIV31SpecValidator, "3.2": OpenAPIV32SpecValidator}
    validators[document["openapi"][:3]](document).validate()
    return document


@pytest.mark.parametrize("version", ["3.1.0", "3.2.0"])
@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (None, field()),
        (AsyncIterable[Any], field()),
        (AsyncIterable[Item], field(ITEM)),
        (AsyncIterable[ServerSentEvent], field()),
        (AsyncIterable[ServerSentEvent[Item]], field(ITEM)),
        (AsyncIterable[Tick], TICK),
        (AsyncIterable[Tick | Done], {"oneOf": [TICK, field(None, "done")]}),
        (AsyncIterable[Tick | ServerSentEvent[int]], {"anyOf": [TICK, field({"type": "integer"})]}),
        (AsyncIterable[Tick | Item], {"anyOf": [field(ITEM), TICK]}),
        (Subscription, {"anyOf": [field(), field(None, "reset")]}),
        (Subscription[Item], {"anyOf": [field(ITEM), field(None, "reset")]}),
    ],
)  # fmt: skip
def test_a_stream_is_described_by_its_events(
    annotation: Any, schema: dict[str, Any], version: str
) -> None:
    document = checked(app_of(annotation, version).openapi())

    (media,) = document["paths"]["/api/"]["get"]["responses"]["200"]["content"].items()
    if version == "3.2.0":
        assert media == ("text/event-stream", {"itemSchema": schema})
    else:
        title = "Response 200 Stream  Get"
        array = {"type": "array", "items": schema, "title": title}
        assert media[1]["schema"] | {"title": title} == array
    if "Item" in str(schema):
        part = document["components"]["schemas"]["Part"]
        assert list(part["properties"]) == ["serialNumber"]


def test_the_status_and_the_headers_are_said() -> None:
    app = app_of(
        AsyncIterable[int], "3.1.0", status_code=201, responses={404: {"description": "?"}}
    )

    responses = checked(app.openapi())["paths"]["/api/"]["get"]["responses"]

    assert list(responses) == ["201", "404"]
    headers = responses["201"]["headers"]
    assert {name: one["example"] for name, one in headers.items()} == {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
    assert {one["schema"]["type"] for one in headers.values()} == {"string"}


@pytest.mark.parametrize("key", [200, "200"])
def test_what_the_application_says_itself_stands(key: Any) -> None:
    own = {"description": "Mine", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    app = app_of(AsyncIterable[Item], "3.1.0", responses={key: own})

    response = checked(app.openapi())["paths"]["/api/"]["get"]["responses"]["200"]

    assert response["description"] == "Mine"
    assert response["content"]["text/event-stream"] == {"schema": {"type": "string"}}


def test_where_a_client_may_come_back_is_said() -> None:
    app = FastAPI()

    @app.get("/channel", response_class=EventSourceResponse)
    async def channel(it: Annotated[Subscription[Item], Subscribe(Hub().channel("c"))]) -> Subscription[Item]:  # fmt: skip
        return it

    @app.get("/own", response_class=EventSourceResponse)
    async def own(last: LastEventID) -> AsyncIterable[Item]:
        yield Item(parts=[])

    for path in ("/channel", "/own"):
        parameters = checked(app.openapi())["paths"][path]["get"]["parameters"]
        assert [(one["name"], one["in"], one["required"]) for one in parameters] == [
            ("last_event_id", "query", False),
            ("Last-Event-ID", "header", False),
        ]


def test_streams_of_fastapis_own_are_put_into_the_form_of_the_version_too() -> None:
    app = fastapi.FastAPI()

    @app.get("/", response_class=fastapi.sse.EventSourceResponse)
    async def stream(n: Annotated[int | None, Header()] = None) -> AsyncIterable[Item]:
        yield Item(parts=[])

    theirs = app.openapi()
    before = copy.deepcopy(theirs)
    ours = checked(openapi_with_streams(theirs))

    assert theirs == before
    media = ours["paths"]["/"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert media["schema"]["items"]["properties"]["data"]["contentSchema"] == ITEM
    assert openapi_with_streams({**ours, "openapi": "3.2.0"})["paths"] == theirs["paths"]


def test_the_document_is_made_once_and_again_for_a_new_route() -> None:
    app = app_of(AsyncIterable[Item], "3.2.0")

    first = app.openapi()
    assert app.openapi() is first
    app.get("/new", response_class=EventSourceResponse)(list)

    assert "/new" in checked(app.openapi())["paths"]
