"""
Turns events into bytes. Knows the event-stream format; knows nothing of ASGI, tasks or time.

What a change here must keep:

- Nothing a caller passes in is written to.
- The usual shapes are one f-string behind one look for line breaks: benchmarks watch this file.
- What isn't usual is written by `_wire/frame.py`, which knows the format; what data looks like is `_wire/values.py`'s.
- Standard library only. FastAPI's events are known by what they offer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias
from uuid import UUID

from ._wire.boundary import completed
from ._wire.doubts import doubt
from ._wire.frame import SEPARATORS, check_field, check_fields, check_separator, frame_of
from ._wire.parsing import fields_of, split_frames
from ._wire.values import Serializer, data_text, serialized, to_json

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Type checkers bring it themselves.

    # With its default, `ServerSentEvent` alone stays a complete type.
    DataT_co = TypeVar("DataT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    DataT_co = TypeVar("DataT_co", covariant=True)

__all__ = [
    "SEPARATORS",
    "FieldText",
    "JSONServerSentEvent",
    "Serializer",
    "ServerSentEvent",
    "check_field",
    "check_separator",
    "encode",
    "encoder",
    "ensure_bytes",
    "own_event",
    "parse_frame",
    "split_frames",
]

#: What `id` and `event` are made from: an `Enum` counts as its value, the rest as its `str()`.
FieldText: TypeAlias = str | int | UUID | Enum


class ServerSentEvent(Generic[DataT_co]):
    """
    One event of a stream; `ServerSentEvent[Item]` to type checkers, if its data is an `Item`.

    The fields are plain attributes and may be assigned; what is wrong with them is said by the
    constructor, and by `encode()` for what was assigned later. A field that is None is not sent.
    An event without any field is sent as an empty line, which clients ignore.

    Parameters:
        data: what the client gets as `event.data`. Text and numbers are sent as their `str()`;
            mappings, sequences, sets, dataclasses, pydantic, msgspec and attrs values as compact
            JSON; bytes as the UTF-8 text they are (wrong bytes become U+FFFD); an `Enum` as its
            value; `UUID`, `Decimal`, dates (ISO 8601), durations (ISO 8601), paths and addresses as
            the text that JSON has for them. Any other object is sent as its `str()` if its type
            defines one or a `__repr__`, and refused if not. A line break of any kind (CR, LF, CRLF) reaches the
            client as LF. Without data the client fires no event, and only takes note of `id` and
            `retry`.
        event: the type of the event, "message" for the client when it's left out.
        id: what the client sends as `Last-Event-ID` when it comes back. An empty id makes it
            forget the one it had.
        retry: milliseconds the client waits before it reconnects.
        comment: text for whoever reads the raw stream. Clients ignore it.
        sep: what ends each line: one of `SEPARATORS`. None, the default, takes that of the
            response (CR LF for `encode()` without a response).

    CR, LF and NUL in `event` and `id` are deleted, because the format has no way to carry them.
    In every field a pair of surrogates becomes the character it stands for and a surrogate alone
    becomes U+FFFD, as browsers do it.

    Events are equal if all their fields are, whatever class of event they are.

    Raises:
        TypeError: `retry` isn't an int (a bool isn't one here), or `event` or `id` is bytes, bool or
            something that has no text of its own, such as a list.
        ValueError: `retry` is negative, or `sep` isn't one of `SEPARATORS`.
    """

    DEFAULT_SEPARATOR = "\r\n"

    channel: str | None = None
    """The name of the channel that the event was published to, for those that come from one."""

    data: DataT_co
    _shown: ClassVar[tuple[str, ...]] = ("data", "event", "id", "retry", "comment", "sep")

    def __init__(
        self,
        data: DataT_co | None = None,
        *,
        event: FieldText | None = None,
        id: FieldText | None = None,
        retry: int | None = None,
        comment: str | None = None,
        sep: str | None = None,
    ) -> None:
        if event is not None or id is not None or retry is not None or sep is not None:
            check_fields(event, id, retry, sep)
        self.data = data  # type: ignore[assignment]  # An event without data is one of any type.
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        self.sep = sep

    def encode(self) -> bytes:
        """
        Return the event as it goes over the wire, its closing empty line included.

        Raises:
            TypeError, ValueError: a field holds what the constructor would refuse, or `data`
                holds what JSON cannot say.
        """
        return _event_frame(self, self.DEFAULT_SEPARATOR)

    def json(self) -> Any:
        """Return what a client gets by `JSON.parse(event.data)`; `ValueError`: the data is no JSON."""
        if self.data is None:
            raise ValueError(f"{self!r} has no data.")
        return json.loads(data_text(self.data))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ServerSentEvent):
            return NotImplemented
        if type(self).encode is not type(other).encode:
            return False  # The same fields, sent differently.
        return all(getattr(self, name) == getattr(other, name) for name in _FIELDS)

    def __hash__(self) -> int:
        return hash((self.event, self.id, self.retry, self.comment, self.sep))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        raise TypeError(
            f"{cls.__name__} of sse_starlette is an event, and no field of a model. An endpoint of FastAPI that "
            "yields events: `from sse_starlette.fastapi import EventSourceResponse, FastAPI, ServerSentEvent`."
        )

    def __repr__(self) -> str:
        given = [
            f"{name}={value!r}"
            for name in self._shown
            if (value := getattr(self, name)) is not None
        ]
        return f"{type(self).__name__}({', '.join(given)})"


class JSONServerSentEvent(ServerSentEvent[Any]):
    """
    An event whose data is any JSON value, a string or a number too.

    The value becomes JSON here, not when the event is sent: `data` holds the text from then on,
    and a change to the value afterwards changes nothing. The JSON is compact, with no ASCII
    escapes, and that of this package: a response's `serializer` isn't asked. Beyond what JSON has,
    it takes what `ServerSentEvent` takes as data, but for objects that have only a `str()`. None
    means that there is no data, as for every event.

    Raises:
        TypeError: the value holds something JSON cannot say.
        ValueError: the value holds NaN or an infinity outside of a pydantic or msgspec value, which
            write null; or it holds itself.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        event: FieldText | None = None,
        id: FieldText | None = None,
        retry: int | None = None,
        comment: str | None = None,
        sep: str | None = None,
    ) -> None:
        # Not by way of super().__init__, which takes as long as a small value.
        if event is not None or id is not None or retry is not None or sep is not None:
            check_fields(event, id, retry, sep)
        self.data: Any = None if data is None else to_json(data)
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        self.sep = sep


def encoder(sep: str, serializer: Serializer | None = None) -> Callable[[object], bytes]:
    """
    Return what does what `encode` does with many values for one stream; threads may share it.

    Parameters:
        sep: what ends each line.
        serializer: makes JSON of data that is neither text nor a number. None: the JSON of this
            package.

    Raises:
        ValueError: `sep` isn't one of `SEPARATORS`.
    """
    check_separator(sep)
    return _ENCODERS[sep] if serializer is None else _make_encoder(sep, serializer)


def encode(value: object, sep: str) -> bytes:
    """
    Turn what a source yielded into what goes over the wire.

    - bytes, bytearray, memoryview: taken as they are.
    - an event: its frame, with `sep` unless the event has a `sep` of its own. FastAPI's
      `ServerSentEvent` is an event, too: its `data` is sent as JSON, its `raw_data` as it is.
    - a dict: the fields of an event, named like the parameters of `ServerSentEvent`. A `sep` among
      them gives way to the one asked for.
    - anything else: the data of an event that has no other field. None is the text "None".

    Raises:
        TypeError: a dict has a key that no event has, one of the fields has a wrong type, or the
            data has no form on the wire.
        ValueError: a field holds what `ServerSentEvent` would refuse, the data holds what JSON
            cannot say, or `sep` isn't one of `SEPARATORS`.
    """
    return (_ENCODERS.get(sep) or encoder(sep))(value)


def ensure_bytes(data: Any, sep: str) -> bytes:
    """Do what `encode` does; the name is that of earlier versions."""
    return (_ENCODERS.get(sep) or encoder(sep))(data)


def own_event(value: object, serializer: Serializer | None = None) -> ServerSentEvent | None:
    """
    Return the event that another package's `ServerSentEvent` stands for; None: it's none.

    FastAPI's sends its `data` as JSON, a string too, and its `raw_data` as it is. Those of clients,
    which are relayed, hold text.
    """
    kind = type(value)
    if not any(one.__name__ == "ServerSentEvent" for one in kind.__mro__):
        return None
    if isinstance(value, ServerSentEvent):
        return value
    event: Any = value
    try:
        data, id_ = event.data, event.id
        if hasattr(event, "raw_data"):
            if event.raw_data is not None:
                data = event.raw_data
            elif data is not None:
                data = to_json(data) if serializer is None else serialized(serializer, data)
        elif id_ == "":
            id_ = None  # A client's way to say that there was none; sent, it would make others forget theirs.
        return ServerSentEvent(
            data,
            event=event.event,
            id=id_,
            retry=event.retry,
            comment=getattr(event, "comment", None),
        )
    except AttributeError:
        return None  # Something else under that name.


def parse_frame(frame: bytes) -> ServerSentEvent:
    """
    Return the event that a frame stands for: what `encode` does, the other way.

    Data is text. Fields that no event has are left out (WHATWG HTML 9.2.6).

    Raises:
        ValueError: it isn't one frame: the empty line is missing at its end, or is in its middle.
    """
    fields = fields_of(frame)
    return ServerSentEvent(
        fields.data, event=fields.event, id=fields.id, retry=fields.retry, comment=fields.comment
    )


_BYTES = (bytes, bytearray, memoryview)
_FIELDS = ("data", "event", "id", "retry", "comment", "sep")
_KEYS = frozenset(_FIELDS)
_MOST_HEADS = 64
"""Names of events that an encoder remembers; when there are more, it begins anew."""


def _make_encoder(sep: str, serializer: Serializer | None = None) -> Callable[[object], bytes]:
    blank = sep + sep
    data_ = f"{sep}data: "
    # What comes before the data of an event, by its name: most sources have a few names.
    heads: dict[str, str] = {}

    def learn(event: object) -> None:
        if type(event) is str and event.isprintable():
            if len(heads) >= _MOST_HEADS:
                heads.clear()
            heads[event] = f"event: {event}{data_}"

    def encode_value(value: object) -> bytes:
        if type(value) is dict:
            # The usual dicts: nothing but text in data, event and id, all of it on one line.
            # isprintable() is false for each character that may not be there, and for some that
            # may: it only decides whether to look closer.
            try:
                data = value["data"]
                if type(data) is str and "\n" not in data and "\r" not in data:
                    size = len(value)
                    if size == 1:
                        return f"data: {data}{blank}".encode()
                    event = value.get("event")
                    if size == 2 and type(event) is str:
                        return f"{heads[event]}{data}{blank}".encode()
                    id_ = value.get("id")
                    if type(id_) is int or (type(id_) is str and id_.isprintable()):
                        if size == 2:
                            return f"id: {id_}{data_}{data}{blank}".encode()
                        if size == 3 and type(event) is str:
                            return f"id: {id_}{sep}{heads[event]}{data}{blank}".encode()
            except KeyError:
                learn(value.get("event"))
            except UnicodeEncodeError:
                pass
            return _dict_frame(value, sep, serializer)
        if type(value) is str:
            if "\n" not in value and "\r" not in value:
                try:
                    return f"data: {value}{blank}".encode()
                except UnicodeEncodeError:
                    pass
            return frame_of(sep, value)
        if type(value) is bytes:
            return value
        if isinstance(value, ServerSentEvent):
            # A subclass that has a way of its own to encode is asked.
            if type(value).encode is not ServerSentEvent.encode:
                return completed(value.encode(), sep)
            data = value.data
            if (
                type(data) is str
                and value.event is None
                and value.id is None
                and value.retry is None
                and value.comment is None
                and value.sep is None
                and "\n" not in data
                and "\r" not in data
            ):
                try:
                    return f"data: {data}{blank}".encode()
                except UnicodeEncodeError:
                    pass
            return _event_frame(value, sep, serializer)
        if isinstance(value, dict):
            return _dict_frame(value, sep, serializer)
        if isinstance(value, _BYTES):
            return bytes(value)
        if value is None:
            doubt("None")
            return frame_of(sep, "None")
        event = own_event(value, serializer)
        if event is not None:
            return _event_frame(event, sep, serializer)
        return frame_of(sep, value, serializer=serializer)

    return encode_value


_ENCODERS = {sep: _make_encoder(sep) for sep in SEPARATORS}


def _dict_frame(fields: dict[Any, Any], sep: str, serializer: Serializer | None) -> bytes:
    if not _KEYS.issuperset(fields):
        unknown = ", ".join(repr(key) for key in fields if key not in _FIELDS)
        raise TypeError(
            f"unknown key in a dict that was to be sent as an event: {unknown}. The keys of an "
            f"event are {', '.join(_FIELDS)}. To send the dict itself as data, send "
            "{'data': your_dict} or JSONServerSentEvent(your_dict)."
        )
    get = fields.get
    if (own_sep := get("sep")) is not None:
        check_separator(own_sep)
    return frame_of(
        sep, get("data"), get("event"), get("id"), get("retry"), get("comment"), serializer
    )


def _event_frame(event: ServerSentEvent, sep: str, serializer: Serializer | None = None) -> bytes:
    if event.sep is not None:
        check_separator(event.sep)
        sep = event.sep
    return frame_of(sep, event.data, event.event, event.id, event.retry, event.comment, serializer)


Event: TypeAlias = Any
"""What may be published: whatever a source may yield, without an id of its own."""

_ENCODE = encoder("\r\n")


def encode_body(event: Event, serializer: Serializer | None = None) -> bytes:
    """Encode an event that gets its id from the channel; refuse what would not arrive as it is."""
    encode = _ENCODE if serializer is None else encoder("\r\n", serializer)
    if type(event) is str:  # The usual ones first.
        return encode(event)
    if isinstance(event, dict):
        name = event.get("event")
        plain = name is None or (type(name) is str and name.isprintable())
        if plain and "id" not in event and "sep" not in event:
            return encode(event)
        encode(dict.fromkeys(event))  # Says what is wrong with its keys.
        event = ServerSentEvent(**event)
    elif isinstance(event, (bytes, bytearray, memoryview)):
        event = parse_frame(bytes(event))
    elif not isinstance(event, ServerSentEvent):
        foreign = own_event(event, serializer)
        if foreign is None:
            return encode(event)
        event = foreign
    elif type(event).encode is not ServerSentEvent.encode:
        event = parse_frame(event.encode())  # It has a way of its own.
    if event.id is not None:
        raise ValueError(
            f"the event has the id {event.id!r}: a channel numbers its events itself. Leave it out, "
            "and put an id of your own into the data."
        )
    if event.event is not None:
        check_field("event", str(getattr(event.event, "value", event.event)))
    return encode(
        ServerSentEvent(
            event.data, event=event.event, retry=event.retry, comment=event.comment, sep="\r\n"
        )
    )


def encode_published(event: Event, serializer: Serializer | None = None) -> bytes:
    """Encode an event that a channel or a run is to have; its name can't be `reset`, which is the library's."""
    body = encode_body(event, serializer)
    if b"event: reset" in body and parse_frame(body).event == "reset":
        raise ValueError(
            "`reset` is the event that tells clients of a gap, so none of your own can have that name: choose another one."
        )
    return body
