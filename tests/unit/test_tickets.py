"""A ticket lets one client open one stream, once and soon."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from tests.unit.driving import http_scope
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import running

from sse_starlette import Hub
from sse_starlette.errors import LogUnavailable
from sse_starlette.hub import own_channel
from sse_starlette.tickets import Tickets

pytestmark = pytest.mark.anyio
SECRET = "a secret that only we know"


def asking(ticket: str, path: str = "/events") -> Request:
    query = f"ticket={quote(ticket)}".encode() if ticket else b""
    return Request(http_scope(path=path, query_string=query))


async def is_refused(tickets: Tickets, request: Request) -> bool:
    with pytest.raises(HTTPException) as refusal:
        await tickets.redeem(request)
    return refusal.value.status_code == 401


async def test_ticket_names_its_listener_once() -> None:
    tickets = Tickets(SECRET)
    ticket = tickets.issue("Änn ✓")

    assert await tickets.redeem(asking(ticket)) == "Änn ✓"
    assert await is_refused(tickets, asking(ticket))
    assert await tickets.redeem(asking(tickets.issue("bob"))) == "bob"


async def test_ticket_is_for_its_path_alone() -> None:
    tickets = Tickets(SECRET)
    ticket = tickets.issue("ann", path="/events")

    assert await is_refused(tickets, asking(ticket, "/admin"))
    assert await tickets.redeem(asking(ticket)) == "ann"


async def test_ticket_is_good_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = Tickets(SECRET, seconds=5)
    ticket, used = tickets.issue("ann"), tickets.issue("bob")
    await tickets.redeem(asking(used))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6)

    assert await is_refused(tickets, asking(ticket))
    assert await is_refused(tickets, asking(used))
    await tickets.redeem(asking(tickets.issue("ann")))
    assert len(tickets._used) == 1


@pytest.mark.parametrize(
    "wrong",
    ["", "x", "x.y", "é.é", ".", "a" * 5_000, "W10.W10", "====.===="],
    ids=lambda text: text[:9],
)
async def test_what_is_no_ticket_of_ours_is_refused(wrong: str) -> None:
    tickets = Tickets(SECRET)

    assert await is_refused(tickets, asking(wrong))
    assert await is_refused(tickets, asking(Tickets(b"x" * 16).issue("ann")))
    body, _, signature = tickets.issue("ann").partition(".")
    assert await is_refused(tickets, asking(f"{body}x.{signature}"))
    assert await is_refused(tickets, asking(f"{body[:-1]}.{signature}"))


async def test_ticket_is_good_once_in_all_processes_that_share_an_event_log(
    store: FakeStore, log: FakeLog
) -> None:
    async with running(log, FakeLog(store)) as hubs:
        processes = [Tickets(SECRET, hub=hub) for hub in hubs]
        for first, second in (processes, processes[::-1]):
            ticket = first.issue("ann")
            assert await second.redeem(asking(ticket)) == "ann"
            assert await is_refused(first, asking(ticket))
            assert await is_refused(second, asking(ticket))
        assert hubs[0].stats().channels == {}


async def test_ticket_stays_used_when_the_log_has_forgotten_it(
    store: FakeStore, log: FakeLog
) -> None:
    async with running(log, FakeLog(store)) as (hub, other):
        ticket = Tickets(SECRET, hub=hub).issue("ann")
        await Tickets(SECRET, hub=hub).redeem(asking(ticket))
        channel = own_channel(hub, "tickets")
        for number in range(channel._state.options.history + 1):
            await channel.publish({"data": number})

        assert await is_refused(Tickets(SECRET, hub=other), asking(ticket))


@pytest.mark.parametrize(
    ("listener", "path"), [("x" * 1_500, ""), ("名" * 300, ""), ("x", "/" * 1_500)]
)
def test_ticket_that_could_not_be_redeemed_is_not_issued(listener: str, path: str) -> None:
    with pytest.raises(
        ValueError, match=r"too long for a ticket: .* Name the listener by a short id"
    ):
        Tickets(SECRET).issue(listener, path=path)


async def test_nobody_is_let_in_while_the_event_log_is_out_of_reach(
    store: FakeStore, log: FakeLog
) -> None:
    async with running(log, publish_wait=0) as (hub,):
        tickets = Tickets(SECRET, hub=hub)
        store.down = True
        with pytest.raises(LogUnavailable):
            await tickets.redeem(asking(tickets.issue("ann")))
        store.down = False


async def test_hub_in_memory_has_nobody_to_share_with() -> None:
    tickets = Tickets(SECRET, hub=Hub())

    assert await tickets.redeem(asking(tickets.issue("ann"))) == "ann"


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ({"secret": "short"}, ValueError, "at least 16"),
        ({"secret": None}, TypeError, "secret is NoneType"),
        ({"secret": SECRET, "seconds": 61}, ValueError, "at most 60"),
        ({"secret": SECRET, "seconds": 0}, ValueError, "> 0"),
        ({"secret": SECRET, "seconds": "5"}, TypeError, "seconds is str"),
    ],
    ids=str,
)
def test_wrong_argument_is_refused_where_it_is_written(
    arguments: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as refusal:
        Tickets(**arguments)
    assert SECRET not in str(refusal.value)
    with pytest.raises(TypeError, match="listener is int"):
        Tickets(SECRET).issue(17)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["events", "https://example.org/events", "/events?x=1", "/events#x"]
)
def test_path_that_no_request_has_is_refused_where_it_is_written(path: str) -> None:
    with pytest.raises(ValueError, match="no request's"):
        Tickets(SECRET).issue("ann", path=path)
    with pytest.raises(TypeError, match="path is NoneType"):
        Tickets(SECRET).issue("ann", path=None)  # type: ignore[arg-type]
