"""What OpenAPI documents say of an event stream: a schema for each kind of event.

OpenAPI 3.2 has `itemSchema` for streams ("Sequential Media Types", 4.14.4). Before, there was none: a stream is an array
of its events there, which 3.2 has for the same thing.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import core_schema

from ._items import EventType

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

    from ._items import StreamType

__all__ = ["HEADERS", "MEDIA_TYPE", "documented", "openapi_with_streams"]

MEDIA_TYPE = "text/event-stream"

HEADERS = {
    "Cache-Control": {
        "description": "An event stream isn't stored.",
        "schema": {"type": "string"},
        "example": "no-store",
    },
    "X-Accel-Buffering": {
        "description": "Has proxies pass events on at once.",
        "schema": {"type": "string"},
        "example": "no",
    },
}


def documented(stream: StreamType) -> Any:
    """Return a type for FastAPI's `responses={200: {"model": …}}`, whose JSON schema is that of the stream."""
    types = [kind.data for kind in stream.events]
    if stream.items is not None:
        types.insert(0, stream.items)
    return Annotated[list[Any], _Schema(stream, types)]


class _Schema:
    """Has pydantic write the schema of a stream, so that models are among the components of the document."""

    def __init__(self, stream: StreamType, types: list[Any]) -> None:
        self._stream = stream
        self._types = types

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.tuple_schema([handler.generate_schema(one) for one in self._types])

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        data = handler.resolve_ref_schema(handler(schema)).get("prefixItems", [])
        kinds = []
        if self._stream.items is not None:
            kinds.append(_event_schema(EventType(None, self._stream.items), data[0]))
            data = data[1:]
        for kind, one in zip(self._stream.events, data, strict=True):
            kinds.append(_event_schema(kind, one))
        if not kinds:
            kinds.append(_event_schema(EventType(None, Any), {}))
        return {"type": "array", "items": _one_of(kinds)}


def _event_schema(kind: EventType, data: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one event: its fields, in the order in which the standard names them."""
    schema: dict[str, Any] = {"type": "object"}
    if kind.name is not None:
        schema["title"] = kind.name
    if kind.cls is not None and kind.cls.__doc__:
        schema["description"] = cleandoc(kind.cls.__doc__).split("\f")[0].strip()
    required = [] if kind.name is None else ["event"]
    text: dict[str, Any] = {"type": "string"}
    if kind.data is not Any:
        text |= {"contentMediaType": "application/json", "contentSchema": data}
        required.insert(0, "data")
    schema["properties"] = {
        "data": text,
        "event": {"type": "string"}
        if kind.name is None
        else {"type": "string", "const": kind.name},
        "id": {"type": "string"},
        "retry": {"type": "integer", "minimum": 0},
    }
    if required:
        schema["required"] = required
    return schema


def _one_of(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    if len(kinds) == 1:
        return kinds[0]
    told_apart = all("event" in kind.get("required", ()) for kind in kinds)
    return {"oneOf" if told_apart else "anyOf": kinds}


def openapi_with_streams(document: dict[str, Any]) -> dict[str, Any]:
    """
    Return an OpenAPI document with its event streams in the form of its version.

    From 3.2 on that's `itemSchema`, before it's the schema of an array. The `FastAPI` of this package does it by itself;
    this is for whoever makes the document with `fastapi.openapi.utils.get_openapi`.

    Args:
        document: is not changed.
    """
    version = tuple(int(part) for part in document["openapi"].split(".")[:2])
    fitted: dict[str, Any] = _fitted(document, by_item=version >= (3, 2))
    return fitted


def _fitted(node: Any, *, by_item: bool) -> Any:
    if isinstance(node, list):
        return [_fitted(one, by_item=by_item) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _fitted_stream(value, by_item=by_item)
        if key == MEDIA_TYPE and isinstance(value, dict)
        else _fitted(value, by_item=by_item)
        for key, value in node.items()
    }


def _fitted_stream(media: dict[str, Any], *, by_item: bool) -> dict[str, Any]:
    fitted = dict(media)
    if by_item and media.get("schema", {}).get("type") == "array" and "itemSchema" not in media:
        fitted["itemSchema"] = fitted.pop("schema")["items"]
    elif not by_item and "itemSchema" in media:
        fitted["schema"] = {"type": "array", "items": fitted.pop("itemSchema")}
    return fitted
