"""The exceptions: what they are, what they carry, what they say."""

from __future__ import annotations

import pickle

import pytest

from sse_starlette.errors import (
    ChannelClosed,
    LogRefused,
    LogUnavailable,
    PublishQueueFull,
    SendTimeoutError,
    SSEError,
    SubscriberTooSlow,
)


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


def test_a_closed_channel_says_which_one_it_is() -> None:
    error = ChannelClosed("prices")

    assert isinstance(error, SSEError)
    assert error.channel == "prices"
    assert str(error).startswith("channel 'prices' has been closed for good. ")


def test_a_slow_subscriber_says_where_it_stood_and_what_to_do() -> None:
    error = SubscriberTooSlow(["prices", "news"], "ab.7-cd.1")

    assert isinstance(error, SSEError)
    assert (error.channels, error.last_event_id) == (["prices", "news"], "ab.7-cd.1")
    assert str(error).startswith("channels ['prices', 'news']: the event after 'ab.7-cd.1' ")
    assert str(error).endswith('Raise history, or choose slow="reset".')


def test_a_log_out_of_reach_is_a_connection_error_and_says_what_to_do() -> None:
    error = LogUnavailable("redis://example.org:6379/0", "connection refused")

    assert isinstance(error, SSEError)
    assert isinstance(error, ConnectionError)
    assert (error.log, error.reason) == ("redis://example.org:6379/0", "connection refused")
    said = "the log at redis://example.org:6379/0 can't be reached: connection refused. "
    assert str(error).startswith(said)
    assert "the same key" in str(error)


def test_a_log_that_refuses_says_what_an_operator_can_do() -> None:
    error = LogRefused("redis://example.org", "NOPERM", "Give the user its rights.", "prices")

    assert isinstance(error, LogUnavailable)
    assert (error.remedy, error.channel) == ("Give the user its rights.", "prices")
    assert str(error) == (
        "the log at redis://example.org refuses for channel 'prices': NOPERM. "
        "Give the user its rights."
    )
    assert "for channel" not in str(LogRefused("l", "r", "remedy"))


def test_a_full_queue_says_how_much_waits_and_what_to_do() -> None:
    error = PublishQueueFull("prices", 32_768)

    assert isinstance(error, SSEError)
    assert (error.channel, error.limit) == ("prices", 32_768)
    assert str(error).startswith("channel 'prices': 32,768 events of this process wait ")


@pytest.mark.parametrize(
    "error",
    [
        SendTimeoutError(1.5),
        ChannelClosed("c"),
        LogUnavailable("l", "r"),
        LogRefused("l", "r", "m", "c"),
        PublishQueueFull("c", 1),
        SubscriberTooSlow(["c"], "ab.7"),
    ],
)
def test_errors_survive_pickling(error: SSEError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
