"""Each argument of a response is checked in the call that passes it."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http import HTTPStatus
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


CALLBACKS = [
    "background",
    "client_close_handler_callable",
    "data_sender_callable",
    "on_close",
    "on_error",
]
MAKERS = ["farewell", "ping_message_factory"]


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(
    "value",
    [asynchronous, plain, partial(asynchronous, 1), AsyncCallable(), print, None],
)
def test_a_callback_may_be_plain_or_async(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}

    assert getattr(EventSourceResponse([], **options), name) is value


@pytest.mark.parametrize("name", [*CALLBACKS, "ping_message_factory"])
@pytest.mark.parametrize("value", [3, "on_close", [], True])
def test_what_cannot_be_called_is_refused(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(TypeError, match=f"^{name} is {type(value).__name__}: give a function"):
        EventSourceResponse([], **options)


@pytest.mark.parametrize("name", [*CALLBACKS, "ping_message_factory"])
def test_a_coroutine_is_refused_for_the_function_that_made_it(name: str) -> None:
    coroutine = asynchronous()
    options: dict[str, Any] = {name: coroutine}

    with pytest.raises(TypeError, match=f"without calling it: {name}=asynchronous"):
        EventSourceResponse([], **options)

    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@pytest.mark.parametrize("name", [*CALLBACKS, *MAKERS])
@pytest.mark.parametrize("value", [async_generator, generator])
def test_a_generator_function_is_no_callback(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(TypeError, match=f"{name} is the generator function"):
        EventSourceResponse([], **options)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", [asynchronous, partial(asynchronous, 1), AsyncCallable()])
def test_what_makes_an_event_without_waiting_must_not_be_async(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(TypeError, match=f"{name} is the async function"):
        EventSourceResponse([], **options)


def test_background_tasks_may_be_several() -> None:
    EventSourceResponse([], background=BackgroundTasks([BackgroundTask(plain)]))


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
    EventSourceResponse([], **{name: of_one_at_most})  # type: ignore[arg-type]
    for value in wrong:
        options: dict[str, Any] = {name: value}
        with pytest.raises(TypeError, match=f"^{name} is called with {takes}, and .* can't be"):
            EventSourceResponse([], **options)


@pytest.mark.parametrize(
    ("farewell", "error"),
    [({"unknown": 1}, TypeError), ({"retry": -1}, ValueError), (object(), TypeError)],
)
def test_a_farewell_that_cannot_be_sent_is_refused(
    farewell: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        EventSourceResponse([], farewell=farewell)


SECONDS = ["shutdown_grace_period", "cleanup_timeout", "send_timeout", "first_event_timeout"]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["30", True, [], b"1"])
def test_seconds_that_are_no_number_are_refused(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(TypeError, match=f"^{name} is {type(value).__name__}: give seconds as a"):
        EventSourceResponse([], **options)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [-1, -0.1, math.nan, -math.inf])
def test_seconds_below_zero_are_refused(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be >= 0"):
        EventSourceResponse([], **options)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 0.5, 3, math.inf])
def test_seconds_may_be_any_number_from_zero_on(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}

    assert getattr(EventSourceResponse([], **options), name) == value


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (5, TypeError),
        ((1,), TypeError),
        ((1, 2, 3), TypeError),
        ((1.5, 2), TypeError),
        ((True, 2), TypeError),
        ("12", TypeError),
        ((2, 1), ValueError),
        ((-1, 1), ValueError),
    ],
)
def test_a_range_of_milliseconds_is_two_ints_in_their_order(
    value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"shutdown_retry_ms .* the least and the most"):
        EventSourceResponse([], shutdown_retry_ms=value)

    EventSourceResponse([], shutdown_retry_ms=(1, 1))


@pytest.mark.parametrize("status", ["200", None, 200.0, True])
def test_a_status_that_is_no_int_is_refused(status: Any) -> None:
    with pytest.raises(TypeError, match=f"status_code is {type(status).__name__}: give an int"):
        EventSourceResponse([], status_code=status)


@pytest.mark.parametrize("status", [0, 100, 199, 600, -1])
def test_a_status_that_ends_no_exchange_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="the status of a response is from 200 to 599"):
        EventSourceResponse([], status_code=status)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=rf"has no body.*Response\(status_code={status}\)"):
        EventSourceResponse([], status_code=status)


@pytest.mark.parametrize("status", [200, 201, 404, 503, HTTPStatus.OK])
def test_other_statuses_are_taken(status: int) -> None:
    assert EventSourceResponse([], status_code=status).status_code == status


@pytest.mark.parametrize("event", [True, "event", object(), threading.Event])
def test_a_shutdown_event_that_cannot_be_set_is_refused(event: Any) -> None:
    with pytest.raises(TypeError, match=r"shutdown_event is \w+: give an anyio.Event\(\)"):
        EventSourceResponse([], shutdown_event=event)


def test_anything_that_can_be_set_is_a_shutdown_event() -> None:
    EventSourceResponse([], shutdown_event=threading.Event())  # type: ignore[arg-type]


@pytest.mark.parametrize("ping", [5_000, 15_000, 600_000])
def test_a_ping_that_looks_like_milliseconds_is_warned_of(
    ping: float, caplog: pytest.LogCaptureFixture
) -> None:
    response = EventSourceResponse([], ping=ping)

    assert response.ping_interval == ping
    (record,) = caplog.records
    assert f"Give ping={ping / 1_000:g} if you meant milliseconds, 0 for no" in record.getMessage()


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_that_look_like_milliseconds_are_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {name: 30_000}
    EventSourceResponse([], **options)

    (record,) = caplog.records
    assert record.getMessage() == (
        f"{name}=30000 is 8.3 hours: it counts seconds. Give {name}=30 if you meant milliseconds"
    )


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 3_600, 1_000_000, math.inf])
def test_other_seconds_are_not_warned_of(
    name: str, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {name: value}
    EventSourceResponse([], **options)

    assert caplog.records == []


@pytest.mark.parametrize("ping", [0, 15, 3_600, 1_000_000, 1e9, math.inf])
def test_other_pings_are_not_warned_of(ping: float, caplog: pytest.LogCaptureFixture) -> None:
    EventSourceResponse([], ping=ping)

    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("media_type", 3, 'media_type is int: give a str, media_type="text/event-stream".'),
        ("media_type", b"text/event-stream", "media_type is bytes: give a str"),
        ("join_events", "no", "join_events is str: give a bool, join_events=True."),
        ("join_events", None, "join_events is NoneType: give a bool"),
    ],
)
def test_an_argument_of_another_type_is_refused(name: str, value: object, text: str) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(TypeError) as caught:
        EventSourceResponse([], **options)

    assert str(caught.value).startswith(text)
