"""What programs construct, look at and assign before a response is sent."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import metadata
from typing import Any

import anyio
import pytest
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from sse_starlette import EventSourceResponse, ServerSentEvent, __version__
from sse_starlette.sse import AppStatus, SendTimeoutError, ensure_bytes


async def nothing() -> AsyncIterator[str]:
    texts: list[str] = []
    for text in texts:
        yield text


def test_every_name_is_where_it_was() -> None:
    program = (
        "from sse_starlette import EventSourceResponse, ServerSentEvent, JSONServerSentEvent, __version__\n"
        "from sse_starlette.sse import EventSourceResponse as one, AppStatus, SendTimeoutError\n"
        "from sse_starlette.sse import ServerSentEvent as two, ensure_bytes\n"
        "from sse_starlette.sse import Content, ContentStream, AsyncContentStream, SyncContentStream\n"
        "from sse_starlette.event import ServerSentEvent as three, JSONServerSentEvent, ensure_bytes\n"
        "assert one is EventSourceResponse and two is three is ServerSentEvent\n"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", program], check=False)

    assert done.returncode == 0
    assert int(__version__.split(".")[0]) >= 3


def test_servers_can_be_asked_for_as_extras() -> None:
    extras = metadata("sse-starlette").get_all("Provides-Extra") or []

    assert {"uvicorn", "granian", "daphne", "examples"} <= set(extras)


def test_arguments_have_their_order_and_defaults() -> None:
    parameters = list(inspect.signature(EventSourceResponse.__init__).parameters.values())[1:]

    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [
        ("content", inspect.Parameter.empty),
        ("status_code", 200),
        ("headers", None),
        ("media_type", "text/event-stream"),
        ("background", None),
        ("ping", None),
        ("sep", None),
        ("ping_message_factory", None),
        ("data_sender_callable", None),
        ("send_timeout", None),
        ("client_close_handler_callable", None),
        ("shutdown_event", None),
        ("shutdown_grace_period", 0),
        ("cleanup_timeout", 30.0),
    ]


async def close_handler(message: Any) -> None: ...


async def sender() -> None: ...


def test_every_argument_may_be_positional() -> None:
    async def run() -> EventSourceResponse:
        background, event = BackgroundTask(sender), anyio.Event()
        response = EventSourceResponse(
            nothing(), 201, {"X-A": "a"}, "text/event-stream", background, 7.5, "\n", ServerSentEvent,
            sender, 3.0, close_handler, event, 2.0, None,
        )  # fmt: skip
        assert response.background is background
        return response

    response = anyio.run(run)

    assert response.status_code == 201
    assert response.headers["x-a"] == "a"
    assert (response.ping_interval, response.sep, response.send_timeout) == (7.5, "\n", 3.0)
    assert response.ping_message_factory is ServerSentEvent
    assert response.data_sender_callable is sender
    assert response.client_close_handler_callable is close_handler


def test_headers_can_be_compared_whole() -> None:
    response = EventSourceResponse(0)  # type: ignore[arg-type]

    assert dict(response.headers) == {
        "cache-control": "no-store",
        "connection": "keep-alive",
        "x-accel-buffering": "no",
        "content-type": "text/event-stream; charset=utf-8",
    }


def test_a_callers_cache_control_holds_and_two_headers_are_overruled() -> None:
    given = {
        "Cache-Control": "public, max-age=29",
        "Connection": "close",
        "X-Accel-Buffering": "yes",
    }

    response = EventSourceResponse(nothing(), headers=given)

    assert response.headers["cache-control"] == "public, max-age=29"
    assert response.headers["connection"] == "keep-alive"
    assert response.headers["x-accel-buffering"] == "no"
    assert given["Connection"] == "close"


def test_headers_and_cookies_may_be_added_after_construction() -> None:
    response = EventSourceResponse(nothing())

    response.headers["X-Request-ID"] = "17"
    response.set_cookie("seen", "yes")

    assert response.headers["x-request-id"] == "17"
    assert response.headers["set-cookie"].startswith("seen=yes")


def test_it_is_a_response_of_starlette() -> None:
    response = EventSourceResponse(nothing(), media_type="text/event-stream")

    assert isinstance(response, Response)
    assert response.media_type == "text/event-stream"
    assert response.active is True


def test_it_is_a_streaming_response() -> None:
    assert isinstance(EventSourceResponse(nothing()), StreamingResponse)


def test_the_media_type_is_one_of_the_class() -> None:
    assert EventSourceResponse.media_type == "text/event-stream"


def test_class_attributes_hold_the_defaults() -> None:
    assert EventSourceResponse.DEFAULT_PING_INTERVAL == 15
    assert EventSourceResponse.DEFAULT_SEPARATOR == "\r\n"
    assert EventSourceResponse.DEFAULT_CLEANUP_TIMEOUT == 30.0
    assert EventSourceResponse(nothing()).ping_interval == 15


def test_an_overridden_default_ping_interval_counts() -> None:
    EventSourceResponse.DEFAULT_PING_INTERVAL = 3

    assert EventSourceResponse(nothing()).ping_interval == 3
    assert EventSourceResponse(nothing(), ping=1).ping_interval == 1


def test_a_subclass_has_its_own_defaults_and_arguments() -> None:
    class Ours(EventSourceResponse):
        DEFAULT_PING_INTERVAL = 5
        DEFAULT_SEPARATOR = "\n"

        def __init__(self, content: Any, **options: Any) -> None:
            super().__init__(content, headers={"X-Ours": "yes"}, **options)

    response = Ours(nothing(), status_code=202)

    assert (response.ping_interval, response.sep) == (5, "\n")
    assert (response.status_code, response.headers["x-ours"]) == (202, "yes")


@pytest.mark.parametrize("ping", [0, 1, 0.5, 86_400])
def test_ping_is_any_number_of_seconds(ping: float) -> None:
    response = EventSourceResponse(nothing(), ping=ping)

    assert response.ping_interval == ping


def test_a_wrong_ping_is_refused_when_given_and_when_assigned() -> None:
    response = EventSourceResponse(nothing())

    with pytest.raises(TypeError, match=r"^ping interval must be int or float$"):
        EventSourceResponse(nothing(), ping="15")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ping interval must be >= 0 \(0 disables ping\)$"):
        response.ping_interval = -1


def test_a_wrong_separator_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        EventSourceResponse(nothing(), sep="\n\n")

    assert str(caught.value).startswith("sep must be one of: \\r\\n, \\r, \\n, got: ")


def test_negative_seconds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^shutdown_grace_period must be >= 0$"):
        EventSourceResponse(nothing(), shutdown_grace_period=-1)
    with pytest.raises(ValueError, match=r"^cleanup_timeout must be >= 0$"):
        EventSourceResponse(nothing(), cleanup_timeout=-1)


def test_compression_is_not_implemented() -> None:
    with pytest.raises(NotImplementedError):
        EventSourceResponse(nothing()).enable_compression()


def test_app_status_has_its_switches() -> None:
    assert AppStatus.should_exit is False
    assert AppStatus.enable_automatic_graceful_drain is True

    AppStatus.disable_automatic_graceful_drain()
    assert AppStatus.enable_automatic_graceful_drain is False
    AppStatus.enable_automatic_graceful_drain_mode()
    assert AppStatus.enable_automatic_graceful_drain is True


def test_app_status_handles_exit_by_hand() -> None:
    called: list[tuple[Any, ...]] = []
    before = AppStatus.original_handler
    AppStatus.original_handler = lambda *args: called.append(args)
    try:
        AppStatus.handle_exit(15, None)
    finally:
        AppStatus.original_handler = before

    assert AppStatus.should_exit is True
    assert called == [(15, None)]


def test_old_test_suites_may_assign_the_exit_event() -> None:
    AppStatus.should_exit_event = None


def test_importing_leaves_uvicorn_as_it_is() -> None:
    program = (
        "from uvicorn import Server; before = Server.handle_exit; import sse_starlette\n"
        "assert Server.handle_exit is before"
    )

    done = subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.DEVNULL)

    assert done.returncode == 0


def test_a_send_timeout_is_a_timeout_error() -> None:
    assert issubclass(SendTimeoutError, TimeoutError)
    assert ensure_bytes("x", "\n") == b"data: x\n\n"


def test_the_logger_has_its_name() -> None:
    assert "sse_starlette.sse" in logging.Logger.manager.loggerDict


@pytest.mark.parametrize("status", [204, 205, 304, 99])
def test_a_status_without_a_body_is_refused(status: int) -> None:
    with pytest.raises(ValueError):
        EventSourceResponse(nothing(), status_code=status)


@pytest.mark.parametrize("mistake", ["text", b"bytes", {"data": "x"}, None, nothing, object()])
def test_what_is_no_source_is_refused_in_the_call(mistake: Any) -> None:
    with pytest.raises(TypeError):
        EventSourceResponse(mistake)


def test_headers_that_cannot_be_true_of_a_stream_are_left_out() -> None:
    response = EventSourceResponse(nothing(), headers={"Content-Length": "5", "Upgrade": "h2c"})

    assert "content-length" not in response.headers
    assert "upgrade" not in response.headers


def test_no_media_type_is_the_usual_one() -> None:
    response = EventSourceResponse(nothing(), media_type=None)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("send_timeout", -1, ValueError),
        ("send_timeout", "5", TypeError),
        ("status_code", "200", TypeError),
        ("headers", {"X Name": "a"}, ValueError),
    ],
)
def test_arguments_that_no_server_can_use_are_refused(
    name: str, value: Any, error: type[Exception]
) -> None:
    options: dict[str, Any] = {name: value}

    with pytest.raises(error):
        EventSourceResponse(nothing(), **options)


def test_true_is_no_number_of_seconds() -> None:
    with pytest.raises(TypeError):
        EventSourceResponse(nothing(), ping=True)


def test_the_logger_can_be_imported() -> None:
    from sse_starlette import sse

    assert getattr(sse, "logger", None) is logging.getLogger("sse_starlette.sse")
