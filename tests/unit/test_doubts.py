"""What is hardly meant, and that the log says so once for each response."""

from __future__ import annotations

import contextvars

import pytest

from sse_starlette import ServerSentEvent
from sse_starlette._doubts import warn_of_doubts
from sse_starlette.event import encode


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
        ({"data": "data: hi\n\n", "id": 1}, ["frame"]),
        (ServerSentEvent("data: hi\n\n"), ["frame"]),
        (None, ["None"]),
        ("data: hi", []),
        ("data: of the day\nand more", []),
        ("hi\n\n", []),
        (b"data: hi\n\n", []),
        ({"data": None}, []),
    ],
)
def test_what_is_hardly_meant_is_warned_of_once_in_each_context(
    value: object, found: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def in_a_response() -> list[bytes]:
        warn_of_doubts()
        return [encode(value, "\n"), encode(value, "\n")]

    frames = [contextvars.copy_context().run(in_a_response) for _ in range(2)]

    assert frames == [[encode(value, "\n")] * 2] * 2
    assert len(caplog.records) == 2 * len(found)
    for record in caplog.records:
        assert ("None was yielded" if found == ["None"] else "a frame") in record.getMessage()


def test_each_kind_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def in_a_response() -> None:
        warn_of_doubts()
        for value in (None, "data: hi\n\n", None, "data: hi\n\n"):
            encode(value, "\n")

    contextvars.copy_context().run(in_a_response)

    assert len(caplog.records) == 2
