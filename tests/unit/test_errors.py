"""The exceptions: what they are, what they carry, what they say."""

from __future__ import annotations

import pickle

import pytest

from sse_starlette.errors import SendTimeoutError, SSEError


def test_a_send_timeout_is_a_timeout_and_ours() -> None:
    assert issubclass(SendTimeoutError, TimeoutError)
    assert issubclass(SendTimeoutError, SSEError)


@pytest.mark.parametrize(
    ("error", "timeout", "beginning"),
    [
        (SendTimeoutError(0.5), 0.5, "A send took longer than send_timeout=0.5 s allows: "),
        (SendTimeoutError(30), 30, "A send took longer than send_timeout=30 s allows: "),
        (SendTimeoutError(), None, "A send took longer than send_timeout allows: "),
    ],
)
def test_a_send_timeout_says_what_was_allowed(
    error: SendTimeoutError, timeout: float | None, beginning: str
) -> None:
    assert error.timeout == timeout
    assert str(error).startswith(beginning)


def test_a_send_timeout_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SendTimeoutError(1.5)))

    assert type(error) is SendTimeoutError
    assert error.timeout == 1.5
