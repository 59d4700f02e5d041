"""The page of a hub: who sees what of it, and what it shows."""

from __future__ import annotations

import json
import os
import re
from dataclasses import fields
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from tests.unit.driving import Exchange, StillLoop, drive, http_scope
from tests.unit.logs import FakeLog, FakeStore
from tests.unit.replicating import FakeClient, one
from tests.unit.subscribing import streaming

from sse_starlette import Hub
from sse_starlette._runtime.loop import loop_override
from sse_starlette.channels._stats import ChannelStats, HubStats
from sse_starlette.status._figures import MOST_CHANNELS, figures_of

pytestmark = pytest.mark.anyio


def everybody(request: HTTPConnection) -> bool:
    return True


async def get(app: Any, path: str, **scope: Any) -> Exchange:
    async with drive(app, scope=http_scope(path=path, **scope)) as exchange:
        await exchange.returns()
    return exchange


@pytest.mark.parametrize("path", ["/", "/figures", "/events"])
async def test_figures_are_shown_to_nobody_until_it_is_said_to_whom(path: str) -> None:
    answer = await get(Hub().app(), path)

    assert answer.status == 403
    assert b"hub.app(allow=" in answer.body


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("path", ["/", "/figures"])
async def test_figures_are_shown_to_those_who_may_see_them(path: str, is_async: bool) -> None:
    def plain(request: HTTPConnection) -> bool:
        return request.headers.get("user") == "operator"

    async def waits(request: HTTPConnection) -> bool:
        await anyio.lowlevel.checkpoint()
        return plain(request)

    app = Hub().app(allow=waits if is_async else plain)

    shown = await get(app, path, headers=[(b"user", b"operator")])
    assert (shown.status, shown.headers["cache-control"]) == (200, "no-store")
    refused = await get(app, path, headers=[(b"user", b"guest")])
    assert (refused.status, refused.body) == (403, b"Forbidden\n")


def test_what_cannot_say_who_may_see_it_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="allow is bool"):
        Hub().app(allow=True)  # type: ignore[arg-type]


async def test_probes_are_answered_to_everybody_and_tell_no_figures(
    store: FakeStore, log: FakeLog
) -> None:
    async with one(log) as hub:
        app = hub.app()
        assert (await get(app, "/health")).body == b"ok\n"
        ready = await get(app, "/ready")
        assert (ready.status, json.loads(ready.body)) == (200, {"ready": True})
        store.down = True
        unready = await get(app, "/ready")
        assert (unready.status, json.loads(unready.body)) == (503, {"ready": False})
        assert (await get(app, "/health")).status == 200


async def test_figures_tell_of_channels_streams_and_listeners() -> None:
    hub = Hub()
    channel = hub.channel("news")
    async with (
        streaming(channel.subscribe(), listener="ann") as first,
        streaming(channel.subscribe()) as second,
    ):
        channel.publish_nowait("hello")
        for exchange in (first, second):
            await exchange.contains("hello")
        found = json.loads((await get(hub.app(allow=everybody), "/figures")).body)

    assert found["streams"] == {"open": 2, "nameless": 1, "listeners": 1, "most": [["ann", 1]]}
    assert found["process"]["pid"] == os.getpid()
    assert found["log"]["kind"] is None
    assert (found["totals"]["subscribers"], found["totals"]["delivered"]) == (2, 2)
    (shown,) = found["channels"]
    assert (shown["name"], shown["published"], shown["lag"]) == ("news", 1, 0)
    # By these names the page and whoever reads the figures finds them.
    assert {*shown} - {"name"} == {each.name for each in fields(ChannelStats)}
    assert {*found["totals"]} - {"channels"} < {*shown}


async def test_figures_of_an_event_log_tell_what_is_wrong(store: FakeStore, log: FakeLog) -> None:
    async with one(log) as hub:
        await FakeClient(hub.channel("c").subscribe()).begun()
        log.go_away()
        found = json.loads((await get(hub.app(allow=everybody), "/figures")).body)

    told = {name: found["log"][name] for name in ("kind", "connected", "losses", "catch_ups")}
    assert told == {"kind": "FakeLog", "connected": False, "losses": 1, "catch_ups": 0}


async def test_live_figures_are_an_event_stream_that_ends_when_they_may_not_be_seen_any_more() -> (
    None
):
    loop = StillLoop()
    loop_override.set(loop)
    allowed = True

    async def still(request: HTTPConnection) -> bool:
        return allowed

    app = Hub().app(allow=still)
    async with drive(app, scope=http_scope(path="/events")) as exchange:
        await exchange.contains("event: figures")
        text = exchange.body.decode()
        totals = json.loads(text.partition("data: ")[2].splitlines()[0])["totals"]
        assert {*totals.values()} == {0}
        allowed = False
        await loop.advance(15)
        await exchange.returns()

    assert exchange.body.endswith(b"event: revoked\r\ndata: revoked\r\n\r\n")


async def test_live_figures_come_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_starlette.status._app._EVERY_SECONDS", 0.0)
    monkeypatch.setattr("sse_starlette.status._app._SHARE", 0)
    app = Hub().app(allow=everybody)
    async with drive(app, scope=http_scope(path="/events")) as exchange:
        await exchange.until(lambda: exchange.body.count(b"event: figures") >= 3)


async def test_page_may_run_its_own_script_and_nothing_else() -> None:
    app = Starlette(routes=[Mount("/status", Hub().app(allow=everybody))])
    answer = await get(app, "/status/")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    # What it asks for is beside it, wherever it's mounted.
    assert b'new EventSource("events")' in answer.body
    # Names of channels may come from anybody.
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write", answer.body)


def test_only_the_largest_channels_are_shown_and_all_are_counted() -> None:
    stats = [
        ChannelStats(n, 1, 2, 3, 4, {"epoch": 5}, 6, 7, 8, 9) for n in range(MOST_CHANNELS + 5)
    ]
    channels = {f"channel {number}": one for number, one in enumerate(stats)}
    found = figures_of(HubStats(channels), None, [])

    assert len(found["channels"]) == MOST_CHANNELS
    assert found["channels"][0]["subscribers"] == MOST_CHANNELS + 4
    assert found["totals"]["channels"] == MOST_CHANNELS + 5
    assert found["totals"]["dropped"] == 3 * (MOST_CHANNELS + 5)


async def test_figures_of_a_channel_of_any_name_are_shown() -> None:
    hub = Hub()
    hub.channel("\ud800")

    answer = await get(hub.app(allow=everybody), "/figures")

    assert answer.status == 200
    assert json.loads(answer.body)["channels"]
