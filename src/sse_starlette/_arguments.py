"""Checks of what callers pass: the error says in their call what was found and what to write. Pure."""

from __future__ import annotations

from inspect import (
    CO_ASYNC_GENERATOR,
    CO_GENERATOR,
    CO_VARARGS,
    isasyncgenfunction,
    iscoroutine,
    iscoroutinefunction,
    isgeneratorfunction,
    signature,
)
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATORS = CO_GENERATOR | CO_ASYNC_GENERATOR

__all__ = [
    "can_be_called_with",
    "check_callable",
    "check_listener",
    "check_milliseconds",
    "check_seconds",
    "check_status",
    "check_type",
]


def check_seconds(name: str, value: object, advice: str = "") -> None:
    """
    Make sure that `value` is a number of seconds, not below 0; an infinity is one.

    Args:
        name: the argument.
        value: what was passed.
        advice: what the error says besides, if it's a number.

    Raises:
        TypeError: it's no number; a bool isn't one here.
        ValueError: it's below 0, or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {type(value).__name__}: give seconds as a number, {name}=30.")
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0{advice}")


def check_milliseconds(name: str, value: object) -> None:
    """
    Make sure that `value` is a range of milliseconds, the least and the most.

    Raises:
        TypeError: it isn't a pair of ints.
        ValueError: they are below 0, or the wrong way round.
    """
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    ):
        raise TypeError(
            f"{name} is {value!r}: give the least and the most of the milliseconds as ints, "
            f"{name}=(1_000, 5_000)."
        )
    least, most = value
    if not 0 <= least <= most:
        raise ValueError(
            f"{name} must be the least and the most of the milliseconds, got: {value!r}"
        )


def check_type(name: str, value: object, kind: type, example: str) -> None:
    """
    Make sure that `value` is a `kind`.

    Raises:
        TypeError: it isn't; the error shows the `example`.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} is {type(value).__name__}: give a {kind.__name__}, {name}={example}."
        )


def check_status(status_code: object) -> None:
    """
    Make sure that a stream may be sent under this status.

    Raises:
        TypeError: it's no int.
        ValueError: no response has it, or none with a body.
    """
    if isinstance(status_code, bool) or not isinstance(status_code, int):
        raise TypeError(
            f"status_code is {type(status_code).__name__}: give an int, status_code=200."
        )
    if not 200 <= status_code <= 599:  # RFC 9110, 15
        raise ValueError(f"status_code={status_code}: the status of a response is from 200 to 599.")
    if status_code in (204, 205, 304):  # RFC 9110, 15.3.5, 15.3.6, 15.4.5
        raise ValueError(
            f"status_code={status_code}: such a response has no body, so it can't be a stream. Return "
            f"starlette.responses.Response(status_code={status_code}); for an EventSource, 204 means "
            "not to come back."
        )


def check_listener(name: str, value: object) -> None:
    """
    Make sure that `value` names who listens.

    Raises:
        TypeError: it isn't text.
    """
    if not isinstance(value, str):
        # The value may be a whole user, with what nobody is to see.
        raise TypeError(
            f'{name} is {type(value).__name__}: it names who listens, so give text, {name}=f"user:{{user.id}}".'
        )


def check_key(key: object) -> None:
    """Make sure that `key` may stand for an event that is published again."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, got: {key!r} ({type(key).__name__})")
    if not key:
        raise ValueError(
            "key is empty: all events without a key of their own would count as one. Give None, or "
            "a text that is this event's alone."
        )


def check_callable(name: str, value: object, takes: str = "", *, waits: bool) -> None:
    """
    Make sure that `value` can be called when it's time.

    Args:
        name: the argument.
        value: what was passed.
        takes: the one argument that it's called with; empty: none.
        waits: whether what it returns may be awaited.

    Raises:
        TypeError: it can't be called, or not so, is a generator function, or is async and can't be
            waited for.
    """
    if not callable(value):
        advice = "give a function, or None."
        if iscoroutine(value):
            value.close()  # Else Python also says that it was never awaited.
            advice = f"give the function itself, without calling it: {name}={value.__name__}."
        raise TypeError(f"{name} is {type(value).__name__}: {advice}")
    if not can_be_called_with(value, bool(takes), bool(takes)):
        raise TypeError(
            f"{name} is called with {takes or 'no argument'}, and {value!r} can't be: give a function of "
            f"{takes or 'none'}."
        )
    code = getattr(value, "__code__", None)
    if waits and code is not None and not code.co_flags & _GENERATORS:
        return  # The usual function: inspect takes ten times as long.
    if isasyncgenfunction(value) or isgeneratorfunction(value):
        raise TypeError(
            f"{name} is the generator function {value!r}: calling it runs none of it. Give a function "
            "without `yield`."
        )
    if not waits and (iscoroutinefunction(value) or iscoroutinefunction(type(value).__call__)):
        raise TypeError(
            f"{name} is the async function {value!r}: what it returns is used without waiting. Give a plain "
            "function; what has to be awaited, await before, or in the source."
        )


def can_be_called_with(function: Callable[..., object], least: int, most: int) -> bool:
    """Whether `function` can be called with some number of arguments, from `least` to `most`."""
    if type(function) is FunctionType:
        # The usual function; `signature` would take longer than all the rest of a subscription.
        code = function.__code__
        if not code.co_kwonlyargcount:
            required = code.co_argcount - len(function.__defaults__ or ())
            allowed = most if code.co_flags & CO_VARARGS else code.co_argcount
            return required <= most and allowed >= least
    try:
        found = signature(function)
    except (TypeError, ValueError):
        return True  # Some that are written in C don't say.
    for count in range(least, most + 1):
        try:
            found.bind(*range(count))
        except TypeError:
            continue
        return True
    return False
