"""What may be passed to hubs, channels and subscriptions; what is wrong is said in the call that passes it.

Each check names the argument, what was found and what to write instead. Pure.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING

from .._arguments import can_be_called_with

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_PLAIN_RESULT = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
"""The flags of functions whose call runs nothing yet: what it returns is always true."""


def check_count(name: str, value: object, least: int, wanted: str) -> None:
    """Make sure that `value` is a whole number, `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be {wanted}, as an int, got: {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {wanted}, got: {value}")


def check_seconds(
    name: str, value: object, *, above: float | None = None, unit: str = " seconds"
) -> None:
    """Make sure that `value` is a number of seconds: 0 or more, or more than `above`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, got: {value!r}")
    # Written so that NaN is refused, too.
    if above is None and not value >= 0:
        raise ValueError(f"{name} must be >= 0 seconds, got: {value}")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be > {above:g}{unit}, got: {value}")


def check_flag(name: str, value: object) -> None:
    """Make sure that `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got: {value!r}")


def check_name(name: object) -> None:
    """Make sure that `name` may be that of a channel."""
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a channel must be a str, got: {name!r} ({type(name).__name__})"
        )


def check_function(
    name: str, value: object, takes: str, *, may_wait: bool, limit: int | None = None
) -> None:
    """
    Make sure that `value` can be called with what it will be called with.

    Args:
        name: the argument.
        value: what was passed.
        takes: what it's called with, for the error; empty: nothing.
        may_wait: whether it may be an `async def`, or a generator function.
        limit: how many arguments it may have; None: as many as it's called with.
    """
    least = 1 if takes and limit is None else 0
    limit = least if limit is None else limit
    example = f"a function of {takes}" if takes else "a function"
    if not callable(value):
        advice = ""
        if hasattr(value, "__await__") or hasattr(value, "__aiter__") or hasattr(value, "__next__"):
            advice = ". Pass the function itself, without calling it"
        raise TypeError(f"{name} must be {example}, got: {value!r}{advice}")
    if not may_wait and _runs_later(value):
        raise TypeError(
            f"{name} must be a plain function of {takes}, for its answer is needed at once; {value!r} is "
            "asynchronous, or a generator function, and what a call of it returns is always true. Look up "
            "what it needs before you subscribe, and let it compare."
        )
    if not can_be_called_with(value, least, limit):
        raise TypeError(
            f"{name} is called with {takes or 'no argument'}, and {value!r} can't be: write {example}."
        )


def _runs_later(function: object) -> bool:
    while isinstance(function, partial):
        function = function.func
    if type(function) is FunctionType:
        return bool(function.__code__.co_flags & _NO_PLAIN_RESULT)
    kinds: tuple[Callable[[object], bool], ...] = (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    )
    call = None if isinstance(function, type) else getattr(type(function), "__call__", None)  # noqa: B004  (its function is asked for)
    return any(kind(one) for kind in kinds for one in (function, call))


def required_arguments(function: Callable[..., object]) -> int:
    """How many arguments `function` can't be called without; 0 if it doesn't say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in parameters
    )
