"""What a value is on the wire, at the top as within another value. Knows types; knows nothing of JSON text.

- What brings a serializer of its own is left to it, whole: pydantic (models, dataclasses) and msgspec.
- What JSON has no type for but everyone writes the same way is text: `_TEXTS`.
- Mappings and records are objects, sequences and sets are arrays.
- The rest is refused.

Standard library only: other packages' values are known by what they offer.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections import UserString, deque
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from inspect import isawaitable, iscoroutine, isroutine
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import PurePath
from types import FunctionType, GeneratorType, SimpleNamespace
from typing import Any, TypeGuard, cast
from uuid import UUID

BYTES = (bytes, bytearray, memoryview)


def plain(value: object) -> object:
    """Return a value that JSON has, or is nearer to it, in place of one it doesn't have."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, type):
        raise refusal(value)
    if is_record(value):
        own = own_json(value)
        return _record(value) if own is None else json.loads(own)
    if isinstance(value, BYTES):
        return utf_8(value)
    text = text_of(value)
    if text is not None:
        return text
    if is_mapping(value):  # Before arrays: a row may be both.
        row = cast("Any", value)
        return {key: row[key] for key in row.keys()}  # noqa: SIM118  (a row iterates its values)
    if isinstance(value, ARRAYS):
        return list(cast("Any", value))
    if is_listable(value):
        return value.tolist()
    raise refusal(value)


def is_listable(value: object) -> TypeGuard[Any]:
    """
    Whether `value` is a number or an array of numpy or the like.

    Their dates become plain integers that way, so these are none.
    """
    return hasattr(type(value), "tolist") and (
        getattr(getattr(value, "dtype", None), "kind", "") not in _NUMPY_TIMES
    )


def utf_8(value: bytes | bytearray | memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise ValueError(
            f"{type(value).__name__} that are no text (utf-8: {exc.reason} at {exc.start}) are no JSON: "
            "send base64.b64encode(value).decode(), for example."
        ) from None


def own_text(value: object) -> str | None:
    """Return the `str()` of an object if somebody wrote one; Python's own says where it is in memory."""
    kind = type(value)
    if kind.__str__ is object.__str__ and not isinstance(kind.__repr__, FunctionType):
        return None
    text = str(value)
    return None if text.startswith("<") and " at 0x" in text else text


# Text

_PYDANTIC_PACKAGES = {"pydantic", "pydantic_core", "pydantic_extra_types"}


def text_of(value: object) -> str | None:
    """Return the string that stands for `value` in JSON; None: it's no string there."""
    for kind in type(value).__mro__:
        write = _TEXTS.get(kind)
        if write is not None:
            return write(value)
        # Their own types of a value (a URL, a colour, a secret, which shows itself masked).
        if kind.__module__.partition(".")[0] in _PYDANTIC_PACKAGES:
            return str(value)
    return None


def _duration(value: timedelta) -> str:
    """Return ISO 8601's form of a duration, as pydantic and msgspec write it."""
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    hours, seconds = divmod(value.seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    parts = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if seconds or fraction or not (parts or value.days):
        parts += f"{seconds}{fraction}S"
    return f"{sign}P{f'{value.days}D' * bool(value.days)}{'T' * bool(parts)}{parts}"


def _pattern(value: re.Pattern[Any]) -> str:
    source = value.pattern
    return source if isinstance(source, str) else source.decode()


_TEXTS: dict[type, Callable[[Any], str]] = {
    UUID: str,
    Decimal: str,
    PurePath: str,
    UserString: str,
    IPv4Address: str,
    IPv4Interface: str,
    IPv4Network: str,
    IPv6Address: str,
    IPv6Interface: str,
    IPv6Network: str,
    date: lambda value: value.isoformat(),  # A datetime is one, with more to say.
    time: time.isoformat,
    timedelta: _duration,
    re.Pattern: _pattern,
}
ARRAYS = (Sequence, AbstractSet, deque, ValuesView, GeneratorType)
_NUMPY_TIMES = ("m", "M")


# Objects


def is_mapping(value: object) -> bool:
    # What dict() takes for one: rows of databases are not all registered as `Mapping`.
    kind = type(value)
    return isinstance(value, Mapping) or (
        kind is not type and hasattr(kind, "keys") and hasattr(kind, "__getitem__")
    )


# What tells that an object is a record, looked for on its type: a class is no record.
_ATTRS = "__attrs_attrs__"
_DATACLASS = "__dataclass_fields__"
_DUMPS = "model_dump"
_MSGSPEC = "__struct_fields__"
_PYDANTIC = "__pydantic_serializer__"
_RECORDS = (_DATACLASS, _PYDANTIC, _MSGSPEC, _ATTRS, _DUMPS)


def is_record(value: object) -> bool:
    kind = type(value)
    if isinstance(value, type):
        return False  # The metaclass of msgspec.Struct has __struct_fields__ too.
    if kind is SimpleNamespace:
        return True
    return any(hasattr(kind, mark) for mark in _RECORDS) or _is_of_pydantic_1(kind)


def _is_of_pydantic_1(kind: type) -> bool:
    return hasattr(kind, "__config__") and hasattr(kind, "__fields__") and hasattr(kind, "json")


def own_json(value: Any) -> bytes | None:
    """Return the JSON of a record that brings a serializer of its own; None: it has none, or failed."""
    kind = type(value)
    try:
        if hasattr(kind, _PYDANTIC):
            return cast("bytes", value.__pydantic_serializer__.to_json(value))
        if hasattr(kind, _MSGSPEC):
            return cast("bytes", sys.modules["msgspec"].json.encode(value, enc_hook=plain))
    except ValueError:
        # Half a pair of surrogates, which must not end a stream. If it's something else, `_record`
        # fails, too.
        pass
    return None


def _record(value: Any) -> object:
    kind = type(value)
    if hasattr(kind, _PYDANTIC):
        return value.__pydantic_serializer__.to_python(value, mode="json")
    if hasattr(kind, _MSGSPEC):
        return sys.modules["msgspec"].to_builtins(value, enc_hook=plain)
    if _is_of_pydantic_1(kind):
        return json.loads(value.json())
    if hasattr(kind, _DUMPS):
        return value.model_dump(mode="json")
    if hasattr(kind, _DATACLASS):
        # Not asdict(), which copies all that is below, only for it to be walked through again.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(kind, _ATTRS):
        return {field.name: getattr(value, field.name) for field in kind.__attrs_attrs__}
    return dict(vars(value))


def refusal(value: object) -> TypeError:
    kind = (
        f"the class {value.__qualname__}" if isinstance(value, type) else type(value).__qualname__
    )
    return TypeError(f"{kind} is not JSON serializable{_instead_of(value)}")


def _instead_of(value: object) -> str:
    if iscoroutine(value):
        value.close()  # Else Python also says that it was never awaited.
    if isawaitable(value):
        return ": await it, and send what it returns."
    if isinstance(value, type):
        return f": make an object of it, {value.__qualname__}(...)."
    if isroutine(value) or isinstance(value, partial):
        return ": call it, and send what it returns."
    if isinstance(value, AsyncIterable):
        return ": send what it gives, `async for one in it: yield one`."
    if isinstance(value, Iterable):
        return ": send what it gives, `for one in it: yield one`, or make it a list, list(it)."
    return (
        ". Send it as text with str(), or make it a dict, a list, a dataclass, or a pydantic or msgspec "
        "model first; or give the response or the hub a serializer=…, which makes JSON of whatever you "
        "have."
    )
