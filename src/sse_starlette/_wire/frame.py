"""The fields of one event to bytes: the only place that writes the format. Pure.

The format is that of the WHATWG HTML standard, 9.2 "Server-sent events"; its paragraphs are named
beside the lines that obey them. What a change here must keep:

- No text from outside adds a field or an event: every CR, LF and CRLF in data and comment becomes
  a new line of the same field, and none of them reaches the wire in `id` or `event`.
- Text that UTF-8 cannot carry never ends a stream.
"""

from __future__ import annotations

from enum import Enum

from .doubts import doubt, looks_like_a_frame
from .values import Serializer, data_text, has_a_text

__all__ = [
    "SEPARATORS",
    "check_field",
    "check_fields",
    "check_separator",
    "frame_of",
    "to_utf8",
]

#: What may end a line of an event stream (WHATWG HTML 9.2.5, `end-of-line`).
SEPARATORS = ("\r\n", "\r", "\n")

# A CR or LF would end the line and let the rest of the text become a field of its own; a client
# ignores an id with NUL in it (WHATWG HTML 9.2.6).
_NOT_IN_A_FIELD = {"\r": "CR (U+000D)", "\n": "LF (U+000A)", "\0": "NUL (U+0000)"}
_DELETED = dict.fromkeys(map(ord, _NOT_IN_A_FIELD))
_BYTES = (bytes, bytearray, memoryview)


def check_separator(sep: object) -> None:
    """
    Make sure that lines may end with `sep`.

    Raises:
        ValueError: `sep` isn't one of `SEPARATORS`.
    """
    if not isinstance(sep, str) or sep not in SEPARATORS:
        allowed = ", ".join(repr(one).strip("'") for one in SEPARATORS)
        raise ValueError(f"sep must be one of: {allowed}, got: {sep!r}")


def check_field(name: str, text: str) -> None:
    """
    Make sure that `text` arrives unchanged as the `id` or the `event` of an event.

    Encoding deletes what these fields cannot hold, which keeps a stream alive that is under way.
    Whoever can still refuse does it with this.

    Parameters:
        name: how the error calls the field.
        text: what the field is to hold.

    Raises:
        ValueError: `text` holds CR, LF or NUL.
    """
    for position, character in enumerate(text):
        if character in _NOT_IN_A_FIELD:
            raise ValueError(
                f"{name} holds {_NOT_IN_A_FIELD[character]} at position {position} of {text!r}: "
                f"an event stream cannot carry it there. Remove or replace it."
            )


def frame_of(
    sep: str,
    data: object,
    event: object = None,
    id_: object = None,
    retry: object = None,
    comment: object = None,
    serializer: Serializer | None = None,
) -> bytes:
    """
    Return what goes over the wire for one event, its closing empty line included.

    A field that is None is left out. `sep` has been checked; `serializer` makes JSON of data that is
    neither text nor a number, None: that of this package.

    Raises:
        TypeError, ValueError: a field holds what `ServerSentEvent` would refuse.
    """
    text = ""
    if comment is not None:
        text = f": {_lines(data_text(comment), f'{sep}: ')}{sep}"
    if id_ is not None:
        if type(id_) is not int and (type(id_) is not str or not id_.isprintable()):
            id_ = _field_text("id", id_)
        text = f"{text}id: {id_}{sep}"
    if event is not None:
        if type(event) is not str or not event.isprintable():
            event = _field_text("event", event)
        text = f"{text}event: {event}{sep}"
    if data is not None:
        if type(data) is not str:
            data = data_text(data, serializer)
        if "\n" in data or "\r" in data:
            if looks_like_a_frame(data):
                doubt("frame")
            data = _lines(data, f"{sep}data: ")
        text = f"{text}data: {data}{sep}"
    if retry is not None:
        if type(retry) is not int or retry < 0:
            retry = _check_retry(retry)
        text = f"{text}retry: {retry}{sep}"
    return to_utf8(text + sep)


def to_utf8(text: str) -> bytes:
    """Return the bytes of a text that goes over the wire; what UTF-8 can't carry is replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        # As a browser makes a USVString (Web IDL): by way of UTF-16, where two halves that stand
        # together are one character, and a half that stands alone is replaced.
        utf_16 = text.encode("utf-16-le", "surrogatepass")
        return utf_16.decode("utf-16-le", "replace").encode()


def _lines(text: str, between: str) -> str:
    # Only these three end a line (WHATWG HTML 9.2.5), where str.splitlines() knows eight more and
    # drops the last empty line.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\n", between)


def _field_text(name: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}: give the text that the client is to see, or None.")
    if isinstance(value, _BYTES):
        raise TypeError(
            f"{name} is {type(value).__name__}, not text: decode it first, {name}=value.decode()."
        )
    if not has_a_text(value):
        raise TypeError(
            f"{name} is {type(value).__name__}, which is no text: give the text that the client is to see, "
            "or None."
        )
    return str(value).translate(_DELETED)


def check_fields(event: object, id_: object, retry: object, sep: object) -> None:
    """
    Make sure that the fields of an event, but for its data, can be sent.

    Raises:
        TypeError: `retry` isn't an int, or `event` or `id` is bytes, bool or no text at all.
        ValueError: `retry` is negative, or `sep` ends no line.
    """
    if event is not None and type(event) is not str:
        _field_text("event", event)
    if id_ is not None and type(id_) is not str:
        _field_text("id", id_)
    if retry is not None:
        _check_retry(retry)
    if sep is not None:
        check_separator(sep)


def _check_retry(retry: object) -> int:
    if not isinstance(retry, int) or isinstance(retry, bool):
        # The message is one that programs compare; the traceback shows the note below it.
        error = TypeError("retry argument must be int")
        error.add_note(
            f"It is {retry!r}, {type(retry).__name__}. Give the milliseconds that the client is to wait, "
            "retry=5000, or None."
        )
        raise error
    if retry < 0:
        raise ValueError(f"retry argument must be >= 0 (milliseconds), got: {retry}")
    return int(retry)
