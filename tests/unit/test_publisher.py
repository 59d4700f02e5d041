"""Publishing without an event loop: keys, errors, attempts, and whose connection it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.logs import FakeLog

from sse_starlette.errors import LogRefused, LogUnavailable
from sse_starlette.event import ServerSentEvent
from sse_starlette.eventlogs.base import BlockingAppender, Limits, NewEntry, Position
from sse_starlette.eventlogs.publisher import Publisher
from sse_starlette.hub import Hub


class Appender:
    """Notes what is appended, and fails as often as the test says."""

    publisher: Publisher

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.entries: list[tuple[str, NewEntry, Limits]] = []
        self.closed = 0

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        self.entries.append((channel, entry, limits))
        if self.errors:
            raise self.errors.pop(0)
        return Position("e", len(self.entries))

    def close(self) -> None:
        self.closed += 1


class BlockingLog(FakeLog):
    def __init__(self, appender: Appender) -> None:
        super().__init__()
        self.appender = appender
        self.opened_ways = 0

    def blocking(self) -> BlockingAppender:
        self.opened_ways += 1
        return self.appender


class SlowAppender(Appender):
    """Has another thread give the connection back in the middle of an append."""

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        with ThreadPoolExecutor(1) as thread:
            for _ in range(2):
                thread.submit(self.publisher.close).result()
        assert self.closed == len(self.entries)
        return super().append(channel, entry, limits)


def test_a_connection_in_use_is_closed_by_the_last_of_its_users() -> None:
    appender = SlowAppender()
    log = BlockingLog(appender)
    appender.publisher = publisher = Hub(log).publisher()

    for number in (1, 2):
        publisher.publish("c", "x")
        assert (appender.closed, log.opened_ways) == (number, number)
    publisher.close()
    assert appender.closed == 2


def test_the_name_of_the_librarys_own_event_is_refused() -> None:
    publisher = Hub(BlockingLog(Appender())).publisher()

    for event in ({"event": "reset"}, ServerSentEvent("x", event="reset"), b"event: reset\n\n"):
        with pytest.raises(ValueError, match="tells clients of a gap"):
            publisher.publish("c", event)


AWAY = LogUnavailable("fake://", "cut off")


def test_an_event_is_encoded_as_publish_does_and_limits_are_those_of_the_channel() -> None:
    appender = Appender()
    hub = Hub(BlockingLog(appender), expire=900)
    kept = hub.channel("c", history=7)

    with hub.publisher() as publisher:
        ids = [publisher.publish("c", {"data": {"n": 1}}, key="k"), publisher.publish("d", "x")]

    assert ids == ["e.1", "e.2"]
    (name, entry, limits), (_, other, others) = appender.entries
    assert (name, limits.events, others) == (kept.name, 7, Limits(expire=900))
    assert entry == NewEntry(b'data: {"n":1}\r\n\r\n', "k", 120)
    assert other.key not in ("", "k")
    assert appender.closed == 1


def test_an_attempt_that_fails_is_repeated_with_the_same_key() -> None:
    appender = Appender(AWAY, AWAY)

    assert Hub(BlockingLog(appender)).publisher().publish("c", "x") == "e.3"
    assert len({entry.key for _, entry, _ in appender.entries}) == 1


def test_an_attempt_that_fails_is_not_repeated_where_nobody_waits() -> None:
    appender = Appender(AWAY, AWAY)
    publisher = Hub(BlockingLog(appender), publish_wait=0).publisher()

    for wait in (None, 0):
        with pytest.raises(LogUnavailable):
            publisher.publish("c", "x", wait=wait)
    assert len(appender.entries) == 2


def test_what_is_refused_is_raised_at_once() -> None:
    appender = Appender(LogRefused("fake://", "NOPERM", "Give the user its rights."))

    with pytest.raises(LogRefused):
        Hub(BlockingLog(appender)).publisher().publish("c", "x")
    assert len(appender.entries) == 1


@pytest.mark.parametrize(
    ("channel", "options", "error", "said"),
    [
        (5, {}, TypeError, "the name of a channel, got: int"),
        (Hub().channel("c"), {}, TypeError, r"publisher\.publish\(channel\.name, event\)"),
        ("sse_starlette:revoked", {}, ValueError, "are the library's own"),
        ("c", {"wait": -1}, ValueError, "wait must be >= 0 seconds, got: -1"),
        ("c", {"event": {"id": "1", "data": "x"}}, ValueError, "id"),
        ("c", {"key": ""}, ValueError, "key is empty"),
        ("c", {"key": 5}, TypeError, "key must be a str"),
    ],
)
def test_wrong_arguments_are_refused(
    channel: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Hub(BlockingLog(Appender())).publisher().publish(channel, **{"event": "x", **options})


def test_a_child_of_a_fork_leaves_the_connection_to_its_parent() -> None:
    appender = Appender()
    log = BlockingLog(appender)
    publisher = Hub(log).publisher()
    publisher.publish("c", "x")

    publisher.after_fork()
    publisher.publish("c", "x")

    assert (log.opened_ways, appender.closed) == (2, 0)


def test_it_may_be_closed_before_it_was_used_and_used_after() -> None:
    publisher = Hub(BlockingLog(Appender())).publisher()
    publisher.close()
    assert publisher.publish("c", "x") == "e.1"


def test_what_has_no_way_without_a_loop_says_so() -> None:
    with pytest.raises(RuntimeError, match="a hub in memory has its clients in its own process"):
        Hub().publisher()
    with pytest.raises(TypeError, match="FakeLog can't be published to without an event loop"):
        Hub(FakeLog()).publisher().publish("c", "x")
