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
from tests.compat.differences import STREAMING_RESPONSE, differs

from sse_starlette import EventSourceResponse, ServerSentEvent, __version__
from sse_starlette.sse import AppStatus, SendTimeoutError, ensure_bytes

IMPORT = differs(
    "An import that changes another library breaks those who change it too; servers are asked in their own ways, and uvicorn isn't the only one."
)
STATUS = differs(
    "Such a response has no body (RFC 9110), so servers broke it off at the first event."
)
NO_SOURCE = differs(
    "3.7.0 answered 200 with an empty body or single letters, which browsers ask for again every few seconds."
)
HEADERS = differs(
    "They can't be true of a stream: with a length that an upstream had, the body breaks at the first ping."
)
MEDIA_TYPE = differs("No client takes a body of an unknown type for an event stream.")
ARGUMENTS = differs(
    "Each stream then ended at its first event, or what became of it was up to the server."
)
TRUE = differs("Whoever writes it means the usual ping, which is what leaving it out gives.")


async def nothing() -> AsyncIterator[str]:
    texts: list[str] = []
    for text in texts:
        yield text


def exit_code_of(program: str) -> int:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def test_every_name_is_where_it_was() -> None:
    program = (
        "from sse_starlette import EventSourceResponse, ServerSentEvent, JSONServerSentEvent, __version__\n"
        "from sse_starlette.sse import EventSourceResponse as one, AppStatus, SendTimeoutError\n"
        "from sse_starlette.sse import ServerSentEvent as two, ensure_bytes\n"
        "from sse_starlette.sse import Content, ContentStream, AsyncContentStream, SyncContentStream\n"
        "from sse_starlette.event import ServerSentEvent as three, JSONServerSentEvent, ensure_bytes\n"
        "assert one is EventSourceResponse and two is three is ServerSentEvent\n"
    )

    assert exit_code_of(program) == 0
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


@pytest.mark.anyio
async def test_every_argument_may_be_positional() -> None:
    background, event = BackgroundTask(sender), anyio.Event()
    response = EventSourceResponse(
        nothing(), 201, {"X-A": "a"}, "text/event-stream", background, 7.5, "\n", ServerSentEvent,
        sender, 3.0, close_handler, event, 2.0, None,
    )  # fmt: skip

    assert response.background is background
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


@STREAMING_RESPONSE
def test_it_is_a_streaming_response() -> None:
    assert isinstance(EventSourceResponse(nothing()), StreamingResponse)


@STREAMING_RESPONSE
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
    assert EventSourceResponse(nothing(), ping=ping).ping_interval == ping


def test_a_wrong_ping_is_refused_when_it_is_assigned() -> None:
    with pytest.raises(ValueError, match=r"^ping interval must be >= 0 \(0 disables ping\)$"):
        EventSourceResponse(nothing()).ping_interval = -1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ping": "15"}, TypeError, "^ping interval must be int or float$"),
        ({"sep": "\n\n"}, ValueError, r"^sep must be one of: \\r\\n, \\r, \\n, got: "),
        ({"shutdown_grace_period": -1}, ValueError, "^shutdown_grace_period must be >= 0$"),
        ({"cleanup_timeout": -1}, ValueError, "^cleanup_timeout must be >= 0$"),
        pytest.param({"ping": True}, TypeError, None, marks=TRUE),
        pytest.param({"status_code": 204}, ValueError, None, marks=STATUS),
        pytest.param({"status_code": 205}, ValueError, None, marks=STATUS),
        pytest.param({"status_code": 304}, ValueError, None, marks=STATUS),
        pytest.param({"status_code": 99}, ValueError, None, marks=STATUS),
        pytest.param({"send_timeout": -1}, ValueError, None, marks=ARGUMENTS),
        pytest.param({"send_timeout": "5"}, TypeError, None, marks=ARGUMENTS),
        pytest.param({"status_code": "200"}, TypeError, None, marks=ARGUMENTS),
        pytest.param({"headers": {"X Name": "a"}}, ValueError, None, marks=ARGUMENTS),
    ],
)
def test_what_no_server_can_use_is_refused(
    options: dict[str, Any], error: type[Exception], message: str | None
) -> None:
    with pytest.raises(error, match=message):
        EventSourceResponse(nothing(), **options)


@NO_SOURCE
@pytest.mark.parametrize("mistake", ["text", b"bytes", {"data": "x"}, None, nothing, object()])
def test_what_is_no_source_is_refused_in_the_call(mistake: Any) -> None:
    with pytest.raises(TypeError):
        EventSourceResponse(mistake)


@HEADERS
def test_headers_that_cannot_be_true_of_a_stream_are_left_out() -> None:
    response = EventSourceResponse(nothing(), headers={"Content-Length": "5", "Upgrade": "h2c"})

    assert not {"content-length", "upgrade"} & {*response.headers}


@MEDIA_TYPE
def test_no_media_type_is_the_usual_one() -> None:
    response = EventSourceResponse(nothing(), media_type=None)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


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
    AppStatus.should_exit_event = None  # Old test suites do.


def test_app_status_handles_exit_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []
    monkeypatch.setattr(AppStatus, "original_handler", lambda *args: called.append(args))

    AppStatus.handle_exit(15, None)

    assert AppStatus.should_exit is True
    assert called == [(15, None)]


@IMPORT
def test_importing_leaves_uvicorn_as_it_is() -> None:
    program = (
        "from uvicorn import Server; before = Server.handle_exit; import sse_starlette\n"
        "assert Server.handle_exit is before"
    )

    assert exit_code_of(program) == 0


def test_a_send_timeout_is_a_timeout_error() -> None:
    assert issubclass(SendTimeoutError, TimeoutError)
    assert ensure_bytes("x", "\n") == b"data: x\n\n"


def test_the_logger_has_its_name_and_can_be_imported() -> None:
    from sse_starlette import sse

    assert "sse_starlette.sse" in logging.Logger.manager.loggerDict
    assert getattr(sse, "logger", None) is logging.getLogger("sse_starlette.sse")
