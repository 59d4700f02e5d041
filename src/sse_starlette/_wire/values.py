"""Turns values into JSON, and the data of an event into text. Knows types; knows nothing of events.

One table of types says what a value is on the wire, at the top as within another value:

- What brings a serializer of its own is left to it, whole: pydantic (models, dataclasses) and msgspec.
- What JSON has no type for but everyone writes the same way is text: `_TEXTS`.
- Mappings and records are objects, sequences and sets are arrays.
- The rest is refused.

At the top a string stands without quotes, for the data of an event is text already. Standard library
only: other packages' values are known by what they offer.
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
from inspect import isawaitable, iscoroutine, iscoroutinefunction, isroutine
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
from typing import Any, TypeAlias, TypeGuard, cast
from uuid import UUID

from .._arguments import can_be_called_with

__all__ = ["Serializer", "check_serializer", "data_text", "has_a_text", "to_json"]

Serializer: TypeAlias = Callable[[Any], str | bytes]
"""Makes JSON of a value: `json.dumps`, `orjson.dumps`, `msgspec.json.encode` or one's own."""

_BYTES = (bytes, bytearray, memoryview)


def check_serializer(serializer: object) -> None:
    """
    Make sure that `serializer` can be called with a value and answers at once.

    Raises:
        TypeError: it can't be called, or not with one value, or is async.
    """
    if not callable(serializer):
        name = getattr(serializer, "__name__", None)
        dumps = f", serializer={name}.dumps" if hasattr(serializer, "dumps") else ""
        raise TypeError(
            f"serializer is {type(serializer).__name__}: give a function that makes JSON (str or "
            f"bytes) of a value{dumps}; None takes the one of this package."
        )
    if iscoroutinefunction(serializer) or iscoroutinefunction(type(serializer).__call__):
        raise TypeError(
            f"serializer is the async function {serializer!r}: an event is encoded without waiting. "
            "Give a plain function; what has to be awaited, await in the source."
        )
    if not can_be_called_with(serializer, 1, 1):
        raise TypeError(
            f"serializer is called with the value, and {serializer!r} can't be: give a function of the value."
        )


def data_text(value: object, serializer: Serializer | None = None) -> str:
    """
    Return what the client gets as the data of an event.

    Text and numbers are their `str()`, an `Enum` is its value, bytes are the UTF-8 they hold (wrong
    bytes become U+FFFD), and what JSON writes as a string is that string without quotes. What JSON
    writes otherwise is JSON. An object that has neither is its `str()` if it has one of its own.

    Args:
        value: the data.
        serializer: makes JSON of all that is neither text nor a number here; None: `to_json`.

    Raises:
        TypeError: `value` has no form on the wire, or holds something that has none.
        ValueError: it holds NaN or an infinity, or holds itself.
    """
    if type(value) is not dict and type(value) is not list:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, _BYTES):
            return bytes(value).decode("utf-8", "replace")
        if value is None or isinstance(value, (str, int, float, BaseException)):
            return str(value)
        if isinstance(value, type):
            raise _refusal(value)
        if _is_record(value):
            if serializer is None:
                own = to_json(value)
                return cast("str", json.loads(own)) if own[0] == '"' else own
        else:
            text = _text(value)
            if text is not None:
                return text
            if serializer is None and not isinstance(value, _ARRAYS) and not _is_mapping(value):
                if _is_listable(value):
                    value = value.tolist()
                    return str(value) if isinstance(value, (int, float)) else to_json(value)
                text = _own_text(value)
                if text is None:
                    raise _refusal(value)
                return text
    return to_json(value) if serializer is None else serialized(serializer, value)


def has_a_text(value: object) -> bool:
    """Whether `value` is text, or something whose `str()` a person can read; JSON isn't, here."""
    if isinstance(value, (str, int, float)) or _text(value) is not None:
        return True
    if isinstance(value, (type, *_ARRAYS)) or _is_mapping(value) or _is_record(value):
        return False
    return _own_text(value) is not None


def _own_text(value: object) -> str | None:
    """Return the `str()` of an object if somebody wrote one; Python's own says where it is in memory."""
    kind = type(value)
    if kind.__str__ is object.__str__ and not isinstance(kind.__repr__, FunctionType):
        return None
    text = str(value)
    return None if text.startswith("<") and " at 0x" in text else text


def serialized(serializer: Serializer, value: object) -> str:
    """
    Return the JSON that `serializer` makes of `value`.

    Raises:
        TypeError: it has returned something else than text.
        Exception: what it raises.
    """
    text: object = serializer(value)
    if isinstance(text, _BYTES):
        return bytes(text).decode()
    if isinstance(text, str):
        return text
    if iscoroutine(text):
        text.close()
    raise TypeError(
        f"serializer {serializer!r} has returned {type(text).__name__} for a {type(value).__name__}: "
        "it must return JSON, as str or bytes."
    )


def to_json(value: object) -> str:
    """
    Return `value` as JSON: compact, and without ASCII escapes.

    Raises:
        TypeError: it is or holds something that has no form in JSON.
        ValueError: it holds NaN or an infinity outside of what brings its own serializer, or holds
            itself.
    """
    if type(value) is not dict and type(value) is not list and _is_record(value):
        own = _own_json(value)
        if own is not None:
            return own.decode()
    # Where the application has loaded orjson, that is faster. It writes what we write, but for how
    # a float has its exponent (1e16 for 1e+16, 0.00001 for 1e-05). It refuses more than JSON does
    # (large integers, keys that are no text, lone surrogates), and a null may have been a NaN:
    # then it's the standard library that decides.
    orjson = sys.modules.get("orjson")
    if orjson is not None:
        try:
            option = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
            text: str = orjson.dumps(value, _fragment, option).decode()
        except (AttributeError, TypeError):
            pass  # AttributeError: another thread is still importing it.
        else:
            if "null" not in text:
                return text
    elif type(value) is dict:
        flat = _flat(value)
        if flat is not None:
            return flat
    try:
        try:
            return _encode(value)
        except TypeError:
            # A key that is no text, or something that can be read but once; or there's no way, which
            # is then said.
            return _encode(_builtin(value))
    except ValueError as exc:
        if "JSON compliant" in str(exc):
            raise ValueError(
                f"{exc}: NaN and infinities are no JSON. Send None in their place, or a pydantic or msgspec "
                "model, which write null."
            ) from None
        raise
    except RecursionError:
        raise ValueError(
            f"{type(value).__name__} cannot be sent as JSON: it holds itself, or too many levels"
        ) from None


_keys: dict[str, str] = {}
"""What comes before a value in an object, by its key: most sources have a few."""
_MOST_KEYS = 256


def _flat(value: dict[Any, Any]) -> str | None:
    """
    Return the JSON of an object that holds text and numbers alone; None: it holds something else.

    It's what most events are, and to prepare the standard library's encoder, which is done anew for each
    value, takes longer than to write it down.
    """
    parts = []
    for key, each in value.items():
        if type(key) is not str:
            return None
        before = _keys.get(key)
        if before is None:
            if len(_keys) >= _MOST_KEYS:
                _keys.clear()
            before = _keys[key] = f"{_encode(key)}:"
        kind = type(each)
        if kind is str:
            # isprintable() is false for each control character: it only decides whether to look closer.
            plain = each.isprintable() and '"' not in each and "\\" not in each
            text = f'"{each}"' if plain else _encode(each)
        elif kind is int:
            text = str(each)
        elif kind is float:
            if each - each != 0:
                return None  # NaN or an infinity, which is refused below.
            text = repr(each)
        elif each is None:
            text = "null"
        elif kind is bool:
            text = "true" if each else "false"
        else:
            return None
        parts.append(before + text)
    return "{" + ",".join(parts) + "}"


def _builtin(value: object) -> object:
    """Return `value` made of nothing but what JSON has, keys included."""
    if isinstance(value, Mapping):
        return {_key(key): _builtin(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_builtin(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _builtin(_plain(value))


def _key(key: object) -> str | int | float | None:
    if isinstance(key, Enum):
        key = key.value
    if key is None or isinstance(key, (str, int, float)):
        return key
    if isinstance(key, _BYTES):
        return _utf_8(key)
    if _is_listable(key) and isinstance(number := key.tolist(), (str, int, float)):
        return number
    text = _text(key)
    if text is None:
        raise TypeError(
            f"a key is {type(key).__qualname__}, which is not JSON serializable: a key is text. Make "
            "it one with str()."
        )
    return text


def _plain(value: object) -> object:
    """Return a value that JSON has, or is nearer to it, in place of one it doesn't have."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, type):
        raise _refusal(value)
    if _is_record(value):
        own = _own_json(value)
        return _record(value) if own is None else json.loads(own)
    if isinstance(value, _BYTES):
        return _utf_8(value)
    text = _text(value)
    if text is not None:
        return text
    if _is_mapping(value):  # Before arrays: a row may be both.
        row = cast("Any", value)
        return {key: row[key] for key in row.keys()}  # noqa: SIM118  (a row iterates its values)
    if isinstance(value, _ARRAYS):
        return list(cast("Any", value))
    if _is_listable(value):
        return value.tolist()
    raise _refusal(value)


def _is_listable(value: object) -> TypeGuard[Any]:
    """
    Whether `value` is a number or an array of numpy or the like.

    Their dates become plain integers that way, so these are none.
    """
    return hasattr(type(value), "tolist") and (
        getattr(getattr(value, "dtype", None), "kind", "") not in _NUMPY_TIMES
    )


def _utf_8(value: bytes | bytearray | memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise ValueError(
            f"{type(value).__name__} that are no text (utf-8: {exc.reason} at {exc.start}) are no JSON: "
            "send base64.b64encode(value).decode(), for example."
        ) from None


def _plain_again(value: object) -> object:
    """Do what `_plain` does, but for what can be read once and may be needed twice."""
    if isinstance(value, GeneratorType):
        raise TypeError
    return _plain(value)


def _fragment(value: object) -> object:
    """Do the same for orjson, which takes JSON of others as it is."""
    fragment = getattr(sys.modules["orjson"], "Fragment", None)
    if fragment is not None and _is_record(value):
        own = _own_json(value)
        if own is not None:
            return fragment(own)
    return _plain_again(value)


_encode = json.JSONEncoder(
    ensure_ascii=False,
    # Without a look for circles, which costs a dict for each value: what holds itself ends as
    # RecursionError.
    check_circular=False,
    allow_nan=False,
    separators=(",", ":"),
    default=_plain_again,
).encode


# Text

_PYDANTIC_PACKAGES = {"pydantic", "pydantic_core", "pydantic_extra_types"}


def _text(value: object) -> str | None:
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
_ARRAYS = (Sequence, AbstractSet, deque, ValuesView, GeneratorType)
_NUMPY_TIMES = ("m", "M")


# Objects


def _is_mapping(value: object) -> bool:
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


def _is_record(value: object) -> bool:
    kind = type(value)
    if isinstance(value, type):
        return False  # The metaclass of msgspec.Struct has __struct_fields__ too.
    if kind is SimpleNamespace:
        return True
    return any(hasattr(kind, mark) for mark in _RECORDS) or _is_of_pydantic_1(kind)


def _is_of_pydantic_1(kind: type) -> bool:
    return hasattr(kind, "__config__") and hasattr(kind, "__fields__") and hasattr(kind, "json")


def _own_json(value: Any) -> bytes | None:
    """Return the JSON of a record that brings a serializer of its own; None: it has none, or failed."""
    kind = type(value)
    try:
        if hasattr(kind, _PYDANTIC):
            return cast("bytes", value.__pydantic_serializer__.to_json(value))
        if hasattr(kind, _MSGSPEC):
            return cast("bytes", sys.modules["msgspec"].json.encode(value, enc_hook=_plain))
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
        return sys.modules["msgspec"].to_builtins(value, enc_hook=_plain)
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


def _refusal(value: object) -> TypeError:
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
