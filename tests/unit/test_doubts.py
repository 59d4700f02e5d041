"""What is hardly meant, and that the log says so once for each response."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Iterator

import anyio.lowlevel
import pytest
from tests.unit.driving import drive

from sse_starlette import Channel, EventSourceResponse, ServerSentEvent
from sse_starlette._wire.doubts import _warned_elsewhere, warn_of_doubts
from sse_starlette.event import encode

SAID = {
    "frame": "a str that is a frame",
    "None": "None was given as an event",
}


@pytest.fixture
def nothing_said_elsewhere() -> Iterator[None]:
    before = set(_warned_elsewhere)
    _warned_elsewhere.clear()
    yield
    _warned_elsewhere.clear()
    _warned_elsewhere.extend(before)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("data: hi\n\n", ["frame"]),
        ("data:hi\r\n\r\n", ["frame"]),
        ("data: hi\n", ["frame"]),
        ("event: e\ndata: hi\n\n", ["frame"]),
        ("id: 1\n\n", ["frame"]),
        ("retry: 1\n\n", ["frame"]),
        (": ping\n\n", ["frame"]),
        ("\n    data: hi\n\n", ["frame"]),
        ({"data": "data: hi\n\n", "id": 1}, ["frame"]),
        (ServerSentEvent("data: hi\n\n"), ["frame"]),
        (None, ["None"]),
        ("data: hi", []),
        ("data: X", []),
        ("data: of the day\nand more", []),
        ("hi\n\n", []),
        (b"data: hi\n\n", []),
        ({"data": None}, []),
        ({"retry": 5}, []),
    ],
)
def test_what_is_hardly_meant_is_warned_of_once_in_each_context(
    value: object, found: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def in_a_response() -> list[bytes]:
        warn_of_doubts()
        return [encode(value, "\n"), encode(value, "\n")]

    frames = [contextvars.copy_context().run(in_a_response) for _ in range(2)]

    assert len(caplog.records) == 2 * len(found)
    assert frames == [[encode(value, "\n")] * 2] * 2
    for record in caplog.records[: 2 * len(found)]:
        assert SAID[found[0]] in record.getMessage()


def test_each_kind_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def in_a_response() -> None:
        warn_of_doubts()
        for value in (None, "data: hi\n\n", None, "data: hi\n\n"):
            encode(value, "\n")

    contextvars.copy_context().run(in_a_response)

    assert len(caplog.records) == 2


@pytest.mark.parametrize(("value", "what"), [(None, "None"), ("data: hi\n\n", "frame")])
def test_what_is_published_and_hardly_meant_is_warned_of_once(
    value: object, what: str, nothing_said_elsewhere: None, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "other"):
        channel = Channel(name)
        channel.publish_nowait(value)
        channel.publish_nowait(value)

    (record,) = caplog.records
    assert SAID[what] in record.getMessage()


@pytest.mark.anyio
@pytest.mark.parametrize("pings", [0, 20])
@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
async def test_lines_of_another_stream_that_are_relayed_as_text_are_warned_of(
    ending: str, pings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What `aiter_lines()` of an HTTP client gives has no line ends. It may be silent for long."""

    async def lines() -> AsyncIterator[str]:
        for line in (*([": ping"] * pings), "data: 1", "", "data: 2", ""):
            yield line + ending
            await anyio.lowlevel.checkpoint()

    async with drive(EventSourceResponse(lines())) as exchange:
        await exchange.returns()

    assert b"data: data: 2" in exchange.body
    (record,) = caplog.records
    assert 'lines by `yield f"{line}\\n".encode()`' in record.getMessage()


@pytest.mark.anyio
async def test_a_snapshot_that_is_hardly_meant_is_warned_of_in_each_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel("c")
    channel.close()
    for _ in range(2):
        snapshot = channel.subscribe(snapshot=lambda: "data: hi\n\n")
        async with drive(EventSourceResponse(snapshot)) as exchange:
            await exchange.returns()

    assert [SAID["frame"] in record.getMessage() for record in caplog.records] == [True, True]


@pytest.mark.anyio
async def test_lines_that_are_relayed_as_the_warning_says_arrive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for line in ("data: 1", "", "data: 2", ""):
            yield f"{line}\n".encode()

    async with drive(EventSourceResponse(lines())) as exchange:
        await exchange.returns()

    assert exchange.body == b"data: 1\n\ndata: 2\n\n"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("range_", "said"),
    [
        ((1, 5), "Give shutdown_retry_ms=(1000, 5000) if you meant seconds"),
        ((0, 1), "Give shutdown_retry_ms=(0, 1000) if you meant seconds"),
        ((0, 99), "Give shutdown_retry_ms=(0, 99000) if you meant seconds"),
        ((0, 0), ""),
        ((1, 100), ""),
    ],
)
def test_milliseconds_that_look_like_seconds_are_warned_of(
    range_: tuple[int, int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    EventSourceResponse([], shutdown_retry_ms=range_)

    assert [said in record.getMessage() for record in caplog.records] == [True] * bool(said)
