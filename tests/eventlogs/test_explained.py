"""What is told of errors and answers that no server here gives, and what a log does that overrides nothing."""

from __future__ import annotations

import ssl

import pytest
from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.unit.logs import FakeLog

from sse_starlette.errors import ChannelClosed, LogRefused
from sse_starlette.eventlogs.base import Position
from sse_starlette.eventlogs.redis import RedisLog
from sse_starlette.eventlogs.redis._faults import Secrets, explain
from sse_starlette.eventlogs.redis._protocol import answer_to, appended_in

pytestmark = pytest.mark.anyio


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AuthenticationError("no"), "Correct the user name"),
        # To a command of more than three arguments, before it looks for a password.
        (InvalidResponse("Protocol error: unauthenticated multibulk length"), "Correct the user"),
        (ResponseError("Protocol error: unauthenticated bulk length"), "Correct the user name"),
        (ssl.SSLError("no"), "rediss://"),
        (RedisConnectionError("SSL is needed"), "rediss://"),
        (caused(RedisConnectionError("no"), ssl.SSLError("no")), "rediss://"),
        (InvalidResponse("no"), "doesn't speak as Redis does"),
    ],
)
def test_who_has_to_mend_something_is_told_what(error: Exception, remedy: str) -> None:
    told = explain(error, "redis://", Secrets([]), timeout=1)

    assert isinstance(told, LogRefused)
    assert remedy in told.remedy


def test_a_password_given_as_bytes_is_taken_out_too() -> None:
    secrets = Secrets([{"password": b"sesame"}, {"password": b"s\xff"}, {"password": None}])

    assert secrets.taken_out("wrong: sesame, s\ufffd") == "wrong: ***, ***"


def test_secrets_are_in_none_of_the_errors_that_one_came_of() -> None:
    errors = [ValueError(f"{number}: sesame") for number in range(3)]
    errors[0].__cause__, errors[1].__context__ = errors[1], errors[2]

    explain(errors[0], "redis://", Secrets([{"password": "sesame"}]), timeout=1)

    assert [str(error) for error in errors] == ["0: ***", "1: ***", "2: ***"]


def test_an_option_with_a_wrong_value_that_its_error_does_not_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has a wrong value$"):
        RedisLog("rediss://localhost?ssl_cert_reqs=colour")


def test_an_answer_that_redis_py_stumbles_over_is_told_without_what_it_says() -> None:
    told = RedisLog("redis://localhost")._faults.explain(KeyError("made up"))

    assert "an answer of another form" in told.reason
    assert "made up" not in told.reason


@pytest.mark.parametrize("answer", [None, [], [b"other"], [b"tag", 1]])
def test_an_answer_to_something_else_is_refused(answer: object) -> None:
    with pytest.raises(InvalidResponse):
        answer_to(b"tag", answer, 0)


@pytest.mark.parametrize("answer", [None, b"", b"other\n\ne 1", b"tag\n", b"tag\n\ne 1\ne 2"])
def test_what_does_not_answer_an_append_is_refused(answer: object) -> None:
    with pytest.raises(InvalidResponse):
        appended_in(b"tag", answer, "c", 1)


def test_what_became_of_each_entry_is_read_from_one_answer() -> None:
    found, warning = appended_in(b"tag", b"tag\nlate\ne 1\n\n!WRONGTYPE", "c", 3)

    assert found[0] == Position("e", 1)
    assert isinstance(found[1], ChannelClosed)
    assert (found[2], warning) == ("WRONGTYPE", "late")


async def test_log_that_does_not_tell_its_channels_says_so() -> None:
    with pytest.raises(TypeError, match="FakeLog doesn't tell which channels it has"):
        await FakeLog().figures()
