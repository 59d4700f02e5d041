"""How a response starts: the headers that are always there, and what can't be true of a stream. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message

__all__ = ["event_stream_headers", "is_event_stream", "sent_headers", "start_message"]

# They speak of one connection, not of the response (RFC 9110, 7.6.1), so they are the server's: with
# HTTP/2 they make a message malformed (RFC 9113, 8.2.2), and a WSGI server refuses them.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Nobody knows how long a stream will be, and what comes with it: a ping, a last event.
_OF_A_WHOLE_BODY = frozenset({"content-length", "content-md5", "content-range", "accept-ranges"})
_NEVER_SENT = frozenset(name.encode() for name in _HOP_BY_HOP | _OF_A_WHOLE_BODY)
_TO_LOOK_AT = _HOP_BY_HOP | _OF_A_WHOLE_BODY | {"content-encoding"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_AS_IT_IS = (b"identity", b"none")


def event_stream_headers(given: Mapping[str, str] | None) -> MutableHeaders:
    """
    Return the headers of a response whose caller wants those `given`, besides its content type.

    What can't be true of a stream is left out: whoever takes over the headers of an upstream response
    takes its `Content-Length` along.

    Raises:
        TypeError: it's no mapping of text to text.
        ValueError: a name or a value can't be sent.
    """
    names = set() if given is None else _checked_names(given)
    headers = MutableHeaders(given)
    if not names.isdisjoint(_TO_LOOK_AT):
        connection = ",".join(headers.getlist("connection"))
        named = {token.strip().lower() for token in connection.split(",")}
        for name in names & (_HOP_BY_HOP | _OF_A_WHOLE_BODY | named):
            del headers[name]
        if not _is_as_it_is(headers.get("content-encoding", "").encode("latin-1")):
            del headers["content-encoding"]
    headers.setdefault("Cache-Control", "no-store")
    headers["Connection"] = "keep-alive"
    headers["X-Accel-Buffering"] = "no"
    return headers


def sent_headers(
    raw_headers: Sequence[tuple[bytes, bytes]], *, without_body: bool = False
) -> list[tuple[bytes, bytes]]:
    """
    Return those of `raw_headers` that go out, whoever has added them.

    Args:
        raw_headers: the headers of the response.
        without_body: whether there's no body that a content type could tell of.
    """
    return [
        (name, value)
        for name, value in raw_headers
        if (lower := name.lower()) not in _NEVER_SENT
        and not (lower == b"content-encoding" and not _is_as_it_is(value))
        and not (without_body and lower == b"content-type")
    ]


def start_message(
    status_code: int, raw_headers: Sequence[tuple[bytes, bytes]], *, over: bool
) -> Message:
    """Return the message that starts the response; `over`: its client is not to come back."""
    return {
        "type": "http.response.start",
        # 204 tells an EventSource not to come back (WHATWG HTML 9.2.2). The other headers stay:
        # without those of CORS it would take it for a failure of the network, and try again.
        "status": 204 if over else status_code,
        "headers": sent_headers(raw_headers, without_body=over),
    }


def is_event_stream(content_type: str | None) -> bool:
    """Whether clients take a body of this type for an event stream."""
    return (content_type or "").partition(";")[0].strip().lower() == "text/event-stream"


def _is_as_it_is(content_encoding: bytes) -> bool:
    # What a stream sends by itself, pings above all, isn't compressed. That nobody is to compress it
    # may well be said.
    return not content_encoding or content_encoding.strip().lower() in _AS_IT_IS


def _checked_names(headers: object) -> set[str]:
    if not isinstance(headers, Mapping):
        raise TypeError(
            f'headers is {type(headers).__name__}: give a mapping of text to text, {{"X-Name": "value"}}.'
        )
    names = set()
    for name, value in headers.items():
        # A value may be a secret, so it isn't shown.
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"headers holds {name!r} with a value of type {type(value).__name__}: names and values "
                "are text. Use str()."
            )
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(
                f"the name of header {name!r} can't be sent: it's made of letters, digits and hyphens."
            )
        names.add(name.lower())
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(
                f"the value of header {name!r} holds a line break or NUL: a header is one line."
            )
        if not value.isascii():
            try:
                value.encode("latin-1")
            except UnicodeEncodeError:
                raise ValueError(
                    f"the value of header {name!r} holds characters that a header can't carry: "
                    "encode it, with urllib.parse.quote() for example."
                ) from None
    return names
