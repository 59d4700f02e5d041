"""Channels with a type: what is published is validated, and is JSON."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field
from tests.unit.test_publisher import Appender, BlockingLog

from sse_starlette import Channel, Hub, ServerSentEvent

pytestmark = pytest.mark.anyio


class Price(BaseModel):
    symbol: str = Field(alias="sym")
    value: float


@dataclass
class Point:
    x: int


async def published(channel: Channel, event: object) -> list[ServerSentEvent]:
    await channel.publish(event)
    return await channel.history()


@pytest.mark.parametrize(
    ("type_", "event", "sent"),
    [
        (Price, Price(sym="A", value=1), ServerSentEvent('{"sym":"A","value":1.0}')),
        (Price, {"sym": "A", "value": "1.5"}, ServerSentEvent('{"sym":"A","value":1.5}')),
        (
            Price,
            ServerSentEvent({"sym": "A", "value": 1}, event="tick", retry=5, comment="c"),
            ServerSentEvent('{"sym":"A","value":1.0}', event="tick", retry=5, comment="c"),
        ),
        (Price, ServerSentEvent(comment="only this"), ServerSentEvent(comment="only this")),
        (Point, {"x": 1}, ServerSentEvent('{"x":1}')),
        (str, "a\nb", ServerSentEvent('"a\\nb"')),
        (list[int], ["1", 2], ServerSentEvent("[1,2]")),
        (int | None, 3, ServerSentEvent("3")),
    ],
)
async def test_what_is_published_is_validated_and_sent_as_json(
    type_: type[object], event: object, sent: ServerSentEvent
) -> None:
    (found,) = await published(Hub().channel("c", type=type_), event)

    found.id = None
    assert found == sent


@pytest.mark.parametrize(
    "event", [{"event": "tick", "data": {"sym": "A", "value": 1}}, "text", ServerSentEvent("text")]
)
async def test_what_is_not_of_the_type_is_refused_where_it_is_published(event: object) -> None:
    channel: Channel = Hub().channel("prices", type=Price)

    with pytest.raises(ValueError, match="Price") as refused:
        await channel.publish(event)

    assert "ServerSentEvent(data=…, event=…)" in refused.value.__notes__[0]
    with pytest.raises(ValueError, match="Price"):
        channel.publish_nowait(event)
    assert isinstance(channel.publish_threadsafe(event).exception(), ValueError)
    assert channel.head == 0


async def test_the_channel_keeps_its_type_for_all_who_ask_for_it_by_name() -> None:
    hub = Hub()
    kept = hub.channel("prices", type=Price)

    with pytest.raises(ValueError, match="Price"):
        hub.channel("prices").publish_nowait("text")
    with pytest.raises(ValueError, match="has type="):
        hub.channel("prices", type=Point)
    assert kept.head == 0


def test_a_publisher_of_the_same_process_asks_the_type() -> None:
    appender = Appender()
    hub = Hub(BlockingLog(appender))
    kept = hub.channel("prices", type=Price)
    publisher = hub.publisher()

    with pytest.raises(ValueError, match="Price"):
        publisher.publish(kept.name, "text")
    publisher.publish(kept.name, {"sym": "A", "value": 1})
    publisher.publish("other", "text")

    assert [entry.body for _, entry, _ in appender.entries] == [
        b'data: {"sym":"A","value":1.0}\r\n\r\n',
        b"data: text\r\n\r\n",
    ]


async def test_a_snapshot_is_not_of_the_type() -> None:
    channel: Channel[Price] = Hub().channel("prices", type=Price)

    subscription = channel.subscribe(snapshot=lambda: [{"event": "state", "data": [1, 2]}])
    channel.close()

    assert [event.json() async for event in subscription] == [[1, 2]]


def test_a_type_that_can_not_be_validated_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="can't be validated by pydantic"):
        Hub().channel("c", type=Hub)


def test_without_pydantic_the_type_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sse_starlette.channels._typed", raising=False)
    monkeypatch.setitem(sys.modules, "pydantic", None)

    Hub().channel("untyped").publish_nowait("text")
    with pytest.raises(ImportError, match=r"pip install '\.\[fastapi\]'"):
        Hub().channel("c", type=int)
