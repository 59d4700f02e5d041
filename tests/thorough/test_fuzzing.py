"""Hostile texts through every public door, a few of each; `python -m tests.fuzzing` sends a million."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fuzzing.doors import DOORS, check_odd, cursors, dicts
from tests.fuzzing.inputs import BytePicks, RandomPicks, fields_from, odd_fields_from, text_from
from tests.fuzzing.names import check_names
from tests.servers.redis_servers import RedisServer
from tests.unit.parsers import read_by_the_standard

from sse_starlette import Hub
from sse_starlette._wire import frame
from sse_starlette.eventlogs._schemes import backend_for
from sse_starlette.testing import Event, EventStreamParser, StreamFailure

EVENTS = 200
BYTES = st.binary(max_size=200)


@pytest.fixture(autouse=True)
def without_warnings() -> Iterator[None]:
    """What looks like a mistake is warned of, once for each stream."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.anyio
@pytest.mark.parametrize("door", DOORS)
async def test_no_text_gets_a_field_through_a_door(door: str) -> None:
    picks = RandomPicks(20)

    await DOORS[door]([fields_from(picks) for _ in range(EVENTS)])


@pytest.mark.anyio
async def test_no_id_that_a_client_sends_is_an_error_or_gets_a_field_through() -> None:
    await cursors(RandomPicks(20), EVENTS)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "door",
    [door for door in DOORS if door not in ("JSON event", "name_channels", "publish of bytes")],
)
async def test_doors_notice_what_gets_through(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder that forgets the lone CR, as several have."""
    monkeypatch.setattr(frame, "_lines", lambda text, between: text.replace("\n", between))
    events = [{"data": "a\rid: evil\rb\n"}]

    with pytest.raises(BaseException) as raised:
        await DOORS[door](events)

    assert "AssertionError" in repr(raised.value)


def test_names_of_channels_share_no_key() -> None:
    check_names(RandomPicks(20), 5_000)


@settings(deadline=None)
@given(BYTES)
def test_a_value_of_any_type_is_one_event_or_refused(data: bytes) -> None:
    check_odd(odd_fields_from(BytePicks(data)))


@settings(deadline=None)
@given(BYTES)
def test_generated_fields_stay_their_own(data: bytes) -> None:
    anyio.run(dicts, [fields_from(BytePicks(data))])


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
@example(b"\xef\xbb\xbfdata\r", 3)
@example(b"data: a\r\n\r\ndata\xff: \x00\nid: \x00\n\n", 9)
def test_the_parser_of_the_kit_reads_any_bytes_as_the_standard_does(
    stream: bytes, cut: int
) -> None:
    parser = EventStreamParser(max_event_bytes=1_000)

    items = [*parser.feed(stream[:cut]), *parser.feed(stream[cut:])]

    events = [(item.event, item.data, item.id) for item in items if isinstance(item, Event)]
    assert events == [
        (fired.type, fired.data, fired.last_event_id)
        for fired in read_by_the_standard([stream]).fired
    ]


@given(st.binary(min_size=50))
def test_the_parser_of_the_kit_has_a_limit(stream: bytes) -> None:
    parser = EventStreamParser(max_event_bytes=10)

    with suppress(StreamFailure):
        parser.feed(stream)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.mark.parametrize("log", ["redis", "sqlite"])
def test_channels_of_hostile_names_keep_to_themselves_in_real_logs(
    log: str, redis: RedisServer, tmp_path: Path
) -> None:
    url = redis.url if log == "redis" else f"sqlite:///{tmp_path}/events.db"
    picks = RandomPicks(20)
    names = sorted({text_from(picks) for _ in range(EVENTS)})

    async def look() -> list[Any]:
        backend = backend_for(url)
        async with backend.open():
            return await backend.figures()

    with Hub(url).publisher() as publisher:
        for name in names:
            # The name is the key too, unless it's empty, and in the data.
            publisher.publish(name, {"data": name}, key=name or "empty")
            publisher.publish(name, {"data": name}, key=name or "empty")

    assert [(each.channel, each.head) for each in anyio.run(look)] == [(name, 1) for name in names]
