"""Turns values into JSON, and the data of an event into text. Knows nothing of events.

What a value is, is said by `kinds.py`. At the top a string stands without quotes, for the data of an event is text
already. Encoders that the application has loaded (orjson, msgspec) are used where they write what we write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from inspect import iscoroutine, iscoroutinefunction
from types import GeneratorType
from typing import Any, TypeAlias, cast

from .._arguments import can_be_called_with
from .kinds import (
    ARRAYS,
    BYTES,
    is_listable,
    is_mapping,
    is_record,
    own_json,
    own_text,
    plain,
    refusal,
    text_of,
    utf_8,
)

__all__ = ["Serializer", "check_serializer", "data_text", "has_a_text", "to_json"]

Serializer: TypeAlias = Callable[[Any], str | bytes]
"""Makes JSON of a value: `json.dumps`, `orjson.dumps`, `msgspec.json.encode` or one's own."""


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
        if isinstance(value, BYTES):
            return bytes(value).decode("utf-8", "replace")
        if value is None or isinstance(value, (str, int, float, BaseException)):
            return str(value)
        if isinstance(value, type):
            raise refusal(value)
        if is_record(value):
            if serializer is None:
                own = to_json(value)
                return cast("str", json.loads(own)) if own[0] == '"' else own
        else:
            text = text_of(value)
            if text is not None:
                return text
            if serializer is None and not isinstance(value, ARRAYS) and not is_mapping(value):
                if is_listable(value):
                    value = value.tolist()
                    return str(value) if isinstance(value, (int, float)) else to_json(value)
                text = own_text(value)
                if text is None:
                    raise refusal(value)
                return text
    return to_json(value) if serializer is None else serialized(serializer, value)


def has_a_text(value: object) -> bool:
    """Whether `value` is text, or something whose `str()` a person can read; JSON isn't, here."""
    if isinstance(value, (str, int, float)) or text_of(value) is not None:
        return True
    if isinstance(value, (type, *ARRAYS)) or is_mapping(value) or is_record(value):
        return False
    return own_text(value) is not None


def serialized(serializer: Serializer, value: object) -> str:
    """
    Return the JSON that `serializer` makes of `value`.

    Raises:
        TypeError: it has returned something else than text.
        Exception: what it raises.
    """
    text: object = serializer(value)
    if isinstance(text, BYTES):
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
    if type(value) is not dict and type(value) is not list and is_record(value):
        own = own_json(value)
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
        flat = _by_msgspec(value) if "msgspec" in sys.modules else None
        if flat is None:
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


def _by_msgspec(value: dict[Any, Any]) -> str | None:
    """
    Return the JSON of an object that holds text and numbers alone, by msgspec; None: it can't be said so.

    Of those it writes what we write, but for the exponent of a float, as orjson. Dates and bytes are others.
    """
    for key, each in value.items():
        kind = type(each)
        # Of these there are few, so this is quicker than to look into a set.
        if type(key) is not str or not (
            kind is str or kind is float or kind is int or kind is bool or each is None
        ):
            return None
    try:
        text: str = sys.modules["msgspec"].json.encode(value).decode()
    except (AttributeError, ValueError, OverflowError):
        return None  # Another thread is importing it; half a pair of surrogates; a large integer.
    return text if "null" not in text else None  # It may have been a NaN.


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
    return _builtin(plain(value))


def _key(key: object) -> str | int | float | None:
    if isinstance(key, Enum):
        key = key.value
    if key is None or isinstance(key, (str, int, float)):
        return key
    if isinstance(key, BYTES):
        return utf_8(key)
    if is_listable(key) and isinstance(number := key.tolist(), (str, int, float)):
        return number
    text = text_of(key)
    if text is None:
        raise TypeError(
            f"a key is {type(key).__qualname__}, which is not JSON serializable: a key is text. Make "
            "it one with str()."
        )
    return text


def _plain_again(value: object) -> object:
    """Do what `plain` does, but for what can be read once and may be needed twice."""
    if isinstance(value, GeneratorType):
        raise TypeError
    return plain(value)


def _fragment(value: object) -> object:
    """Do the same for orjson, which takes JSON of others as it is."""
    fragment = getattr(sys.modules["orjson"], "Fragment", None)
    if fragment is not None and is_record(value):
        own = own_json(value)
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
