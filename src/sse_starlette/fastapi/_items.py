"""What an endpoint says that it yields: found in its return annotation, validated and made bytes of.

The rules are FastAPI's: plain items are validated and serialised as by a `response_model`, and are the data of events.
Types are made ready once for each route; what is done for each event is one validation and one serialisation.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin

from fastapi.exceptions import ResponseValidationError
from fastapi.sse import ServerSentEvent as FastAPIEvent
from pydantic import TypeAdapter, ValidationError

from .. import event as events
from .._wire.doubts import doubt
from .._wire.frame import frame_of
from ..channels.subscription import Subscription
from ._events import ServerSentEvent, text_of
from ._json import json_of

if TYPE_CHECKING:
    from fastapi.exceptions import EndpointContext

__all__ = ["EventType", "StreamType", "stream_type"]

_STREAMS = (AsyncIterable, AsyncIterator, AsyncGenerator, Iterable, Iterator, Generator)
_BYTES = (bytes, bytearray, memoryview)
_JSON: TypeAlias = Callable[[object], bytes]
_EVENTS = (events.ServerSentEvent, FastAPIEvent)
_ENCODES = (events.ServerSentEvent.encode, ServerSentEvent.encode)


@dataclass(frozen=True, slots=True)
class EventType:
    """
    One kind of event of a stream.

    Attributes:
        name: what it's named; None: anything.
        data: the type of its data; `Any`: that's not said.
        cls: the class of one's own that says so, if there's one.
    """

    name: str | None
    data: Any
    cls: type | None = None


class StreamType:
    """
    What a stream consists of.

    Attributes:
        items: the type of plain items, which are sent as data; None: there are none, or that's not said.
        events: the kinds of events.
    """

    def __init__(
        self,
        items: Any = None,
        events: tuple[EventType, ...] = (),
        *,
        dump: dict[str, Any] | None = None,
        context: EndpointContext | None = None,
    ) -> None:
        """
        Make the types ready.

        Args:
            items: see above.
            events: see above.
            dump: how data is serialised: what FastAPI has as `response_model_…`.
            context: names the endpoint in errors.

        Raises:
            pydantic.errors.PydanticSchemaGenerationError: pydantic doesn't know such a type.
        """
        self.items: Any = items
        self.events: tuple[EventType, ...] = events
        self._context = context
        self._dump = {"by_alias": True, **(dump or {})}
        self._item_json = None if items in (None, Any) else self._json(items)
        jsons = [(kind, None if kind.data is Any else self._json(kind.data)) for kind in events]
        self._by_class: dict[Any, _JSON | None] = {
            kind.cls: json for kind, json in jsons if kind.cls is not None
        }
        self._by_name: dict[Any, _JSON | None] = {
            kind.name: json for kind, json in jsons if kind.name is not None
        }
        others = [json for kind, json in jsons if kind.name is None]
        self._other = others[0] if others else None
        self._knows_all = not events or bool(others)

    def encoder(self, sep: str, untyped: Callable[[object], bytes]) -> Callable[[object], bytes]:
        """
        Return what makes bytes of what the endpoint yields.

        Args:
            sep: what ends a line.
            untyped: what makes bytes of events that have rules of their own.
        """
        event_frame = partial(self._event_frame, sep, untyped)
        blank = (sep + sep).encode()
        sends_bytes = self.items in (None, *_BYTES)
        json = self._item_json

        def encode(value: object) -> bytes:
            if isinstance(value, _EVENTS):
                return event_frame(value)
            if sends_bytes and isinstance(value, _BYTES):
                return bytes(value)
            if json is not None:
                return b"data: %b%b" % (json(value), blank)
            if type(value) is dict and "data" in value and _KEYS.issuperset(value):
                doubt("fields")
            return b"data: %b%b" % (json_of(value).encode(), blank)

        return encode

    def _event_frame(self, sep: str, untyped: Callable[[object], bytes], event: Any) -> bytes:
        kind = type(event)
        ours = isinstance(event, events.ServerSentEvent)
        if ours and (kind.encode not in _ENCODES or event.channel is not None):
            return untyped(event)  # It has a way of its own, or has been encoded already.
        json = self._by_class.get(kind, _UNKNOWN)
        if json is _UNKNOWN:
            json = self._by_name.get(event.event, _UNKNOWN)
        if json is _UNKNOWN:
            if not self._knows_all and event.data is not None:
                raise self._unknown(event)
            json = self._other
        if json is not None and event.data is not None:
            text: str | None = json(event.data).decode()
        elif ours and not isinstance(event, ServerSentEvent):
            return untyped(event)
        else:
            text = text_of(event)
        return frame_of(sep, text, event.event, event.id, event.retry, event.comment)

    def _json(self, type_: Any) -> _JSON:
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        validate = partial(adapter.validator.validate_python, from_attributes=True)
        to_json: Callable[[object], bytes] = partial(adapter.serializer.to_json, **self._dump)

        def json(value: object) -> bytes:
            try:
                return to_json(validate(value))
            except ValidationError as exc:
                errors = [
                    {**error, "loc": ("response", *error["loc"])}
                    for error in exc.errors(include_url=False)
                ]
                raise ResponseValidationError(
                    errors, body=value, endpoint_ctx=self._context
                ) from None

        return json

    def _unknown(self, event: Any) -> ResponseValidationError:
        names = ", ".join(repr(kind.name) for kind in self.events)
        error = {
            "type": "event_name",
            "loc": ("response", "event"),
            "msg": f"The endpoint says that it yields events named {names}",
            "input": event.event,
        }
        return ResponseValidationError([error], body=event, endpoint_ctx=self._context)


_UNKNOWN: Any = object()
_KEYS = frozenset(("data", "event", "id", "retry", "comment", "sep"))


def stream_type(annotation: Any) -> tuple[Any, tuple[EventType, ...]] | None:
    """
    Return what a return annotation says of plain items and of events; None: it's no stream.

    `AsyncIterable[Item]`, and `Iterable`, `AsyncIterator`, … alike; `Subscription[Item]`.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if Subscription in (annotation, origin):
        data = _known(args[0]) if args else Any
        return None, (EventType(None, data), EventType("reset", Any))
    if origin not in _STREAMS:
        return (None, ()) if annotation in _STREAMS else None
    items: list[Any] = []
    kinds: list[EventType] = []
    for one in _members(args[0]):
        kind = _event_type(one)
        if kind is None:
            items.append(one)
        else:
            kinds.append(kind)
    return (Union[tuple(items)] if items else None), tuple(kinds)  # noqa: UP007  (made of values)


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def _event_type(annotation: Any) -> EventType | None:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type) or not issubclass(cls, _EVENTS):
        return None
    own = issubclass(cls, ServerSentEvent) and cls is not ServerSentEvent
    args = get_args(annotation)
    data = _known(args[0]) if args else _data_of(cls)
    name = cls.event_name if issubclass(cls, ServerSentEvent) else None
    return EventType(name, data, cls if own else None)


def _data_of(cls: type) -> Any:
    """What a class of events says its data is: `class Tick(ServerSentEvent[Price])`."""
    for one in cls.__mro__:
        for base in one.__dict__.get("__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, events.ServerSentEvent):
                return _known(get_args(base)[0])
    return Any


def _known(argument: Any) -> Any:
    return Any if isinstance(argument, TypeVar) else argument
