"""Each argument of a response is checked in the call that passes it."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http import HTTPStatus
from itertools import product
from typing import Any

import pytest
from starlette.background import BackgroundTask, BackgroundTasks

from sse_starlette import EventSourceResponse


async def asynchronous(*_: object) -> None:
    raise AssertionError


def plain(*_: object) -> None:
    raise AssertionError


async def async_generator(*_: object) -> AsyncIterator[None]:
    yield


def generator(*_: object) -> Iterator[None]:
    yield


class AsyncCallable:
    async def __call__(self, *_: object) -> None:
        raise AssertionError


def response(**options: Any) -> EventSourceResponse:
    return EventSourceResponse([], **options)


CALLBACKS = ["background", "client_close_handler_callable", "data_sender_callable"]
CALLBACKS += ["on_close", "on_error"]
MAKERS = ["farewell", "ping_message_factory"]
CALLABLE = [*CALLBACKS, "ping_message_factory"]
SECONDS = ["shutdown_grace_period", "cleanup_timeout", "send_timeout", "first_event_timeout"]
ASYNC = [asynchronous, partial(asynchronous, 1), AsyncCallable()]
GENERATORS = [async_generator, generator]
NO_PAIRS = [5, (1,), (1, 2, 3), (1.5, 2), (True, 2), "12"]
NO_EVENTS = [True, "event", object(), threading.Event]
STATUS, RETRY = ["status_code"], ["shutdown_retry_ms"]

# Which arguments, given what, lead to which error.
REFUSED: list[tuple[list[str], list[Any], type[Exception], str]] = [
    (CALLABLE, [3, "on_close", [], True], TypeError, "^{name} is {kind}: give a function"),
    ([*CALLBACKS, *MAKERS], GENERATORS, TypeError, "{name} is the generator function"),
    (MAKERS, ASYNC, TypeError, "{name} is the async function"),
    (["farewell"], [{"unknown": 1}], TypeError, "unknown key in a dict"),
    (["farewell"], [{"retry": -1}], ValueError, "retry argument must be >= 0"),
    (["farewell"], [object()], TypeError, "object is not JSON serializable"),
    (SECONDS, ["30", True, [], b"1"], TypeError, "^{name} is {kind}: give seconds as a"),
    (SECONDS, [-1, -0.1, math.nan, -math.inf], ValueError, "^{name} must be >= 0"),
    (RETRY, NO_PAIRS, TypeError, "{name} .* the least and the most"),
    (RETRY, [(2, 1), (-1, 1)], ValueError, "{name} .* the least and the most"),
    (STATUS, ["200", None, 200.0, True], TypeError, "{name} is {kind}: give an int"),
    (STATUS, [0, 100, 199, 600, -1], ValueError, "the status of a response is from 200 to 599"),
    (STATUS, [204, 205, 304], ValueError, r"has no body.*Response\({name}={value}\)"),
    (["shutdown_event"], NO_EVENTS, TypeError, r"{name} is {kind}: give an anyio.Event\(\)"),
    (["media_type"], [3, b"t"], TypeError, '{name} is {kind}: give a str, {name}="text/event-'),
    (["join_events"], ["no", None], TypeError, "{name} is {kind}: give a bool, {name}=True"),
]


@pytest.mark.parametrize(
    ("names", "values", "error", "said"), REFUSED, ids=[said for *_, said in REFUSED]
)
def test_a_wrong_argument_is_refused_in_the_call_that_passes_it(
    names: list[str], values: list[Any], error: type[Exception], said: str
) -> None:
    for name, value in product(names, values):
        match = said.format(name=name, kind=type(value).__name__, value=value)
        with pytest.raises(error, match=match):
            response(**{name: value})


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (CALLBACKS, [*ASYNC, plain, print, None]),
        (["background"], [BackgroundTasks([BackgroundTask(plain)])]),
        (SECONDS, [0, 0.5, 3, math.inf]),
        (STATUS, [200, 201, 404, 503, HTTPStatus.OK]),
    ],
    ids=[
        "callbacks, plain or async",
        "several tasks",
        "seconds from zero on",
        "status with a body",
    ],
)
def test_other_arguments_are_taken(names: list[str], values: list[Any]) -> None:
    for name, value in product(names, values):
        assert getattr(response(**{name: value}), name) is value


def test_anything_that_can_be_set_is_a_shutdown_event_and_a_range_may_be_of_one() -> None:
    response(shutdown_event=threading.Event(), shutdown_retry_ms=(1, 1))


@pytest.mark.parametrize("name", CALLABLE)
def test_a_coroutine_is_refused_for_the_function_that_made_it(name: str) -> None:
    coroutine = asynchronous()

    with pytest.raises(TypeError, match=f"without calling it: {name}=asynchronous"):
        response(**{name: coroutine})

    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def of_none() -> None:
    raise AssertionError


def of_one(_: object) -> None:
    raise AssertionError


def of_two(_: object, __: object) -> None:
    raise AssertionError


def of_one_at_most(_: object = None) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "takes", "wrong"),
    [
        ("background", "no argument", [of_one, of_two]),
        ("data_sender_callable", "no argument", [of_one, of_two]),
        ("ping_message_factory", "no argument", [of_one, of_two]),
        ("farewell", "no argument", [of_one, of_two]),
        ("client_close_handler_callable", "the server's message", [of_none, of_two]),
        ("on_error", "the exception", [of_none, of_two, BackgroundTask(plain)]),
        ("on_close", "the reason", [of_none, of_two, partial(of_one, 1)]),
        ("serializer", "the value", [of_none, of_two]),
    ],
)
def test_a_callback_that_cannot_be_called_so_is_refused(
    name: str, takes: str, wrong: list[object]
) -> None:
    response(**{name: of_one_at_most})
    for value in wrong:
        with pytest.raises(TypeError, match=f"^{name} is called with {takes}, and .* can't be"):
            response(**{name: value})


@pytest.mark.parametrize("ping", [5_000, 15_000, 600_000])
def test_a_ping_that_looks_like_milliseconds_is_warned_of(
    ping: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert response(ping=ping).ping_interval == ping
    (record,) = caplog.records
    assert f"Give ping={ping / 1_000:g} if you meant milliseconds, 0 for no" in record.getMessage()


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_that_look_like_milliseconds_are_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    response(**{name: 30_000})

    (record,) = caplog.records
    assert record.getMessage() == (
        f"{name}=30000 is 8.3 hours: it counts seconds. Give {name}=30 if you meant milliseconds"
    )


@pytest.mark.parametrize("name", ["ping", *SECONDS])
@pytest.mark.parametrize("value", [0, 15, 3_600, 1_000_000, 1e9, math.inf])
def test_other_seconds_are_not_warned_of(
    name: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    response(**{name: value})

    assert caplog.records == []
