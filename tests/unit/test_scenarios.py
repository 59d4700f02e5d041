"""What becomes of a stream: a table of what its feed, its client, its server and the clock do."""

from __future__ import annotations

import pytest
from tests.unit.driving import each_way_to_cancel
from tests.unit.hand_fed import MadeUpError, sorry
from tests.unit.scenarios import Scenario

from sse_starlette._stream.options import Patience

pytestmark = pytest.mark.anyio


def no_ping() -> bytes:
    raise MadeUpError


async def no_last_frame(failure: Exception) -> bytes:
    return b""


PINGS = {"ping_interval": 15}
GRACE = {"shutdown_grace_period": 5}
FIRST = {"first_event_timeout": float("inf")}
FIRST_OR_SORRY = {**FIRST, "on_error": sorry}
LIMIT = {"send_timeout": 10}

SCENARIOS = {
    # The way of a frame
    "nothing is sent before the headers have been taken": Scenario(
        "block silent push:1 silent unblock end returns", "1", "end", first=""
    ),
    "frames that are ready while a send is blocked leave in one message": Scenario(
        "+0 block push:2 push:3&push:4 unblock", "1 2 34"
    ),
    "the feed learns of what was sent only when it has been sent": Scenario(
        "sent:1 block push:2 sent:1 unblock sent:2", "1 2"
    ),
    "frames that are ready when the feed ends are sent": Scenario(
        "ready:2&end returns", "1 2", "end"
    ),
    "the feed has closed before the body ends": Scenario("keep end open close returns", "1", "end"),
    # Pings
    "the first ping comes after the interval and then one after each": Scenario(
        "+14.9 = +0.1 =PING +14.9 =PING +0.1", "PING PING", None, PINGS, first=""
    ),
    "no ping while data flows": Scenario(
        "+10 push:2 +10 push:3 +10 push:4 +10", "1 2 3 4", None, PINGS
    ),
    "a ping comes an interval after the last data": Scenario(
        "+10 push:2 +14.9 =1,2 +0.1", "1 2 PING", None, PINGS
    ),
    "the interval may be a fraction of a second": Scenario(
        "+1", "PING PING PING PING", None, {"ping_interval": 0.25}, first=""
    ),
    "interval zero sends no ping and sets no timer": Scenario("+1000000 timers:0", "1"),
    "no ping waits behind a blocked send": Scenario(
        "+0 block push:2 +100 offered:3 unblock =1,2 +15", "1 2 PING", None, PINGS
    ),
    "data that is ready with a ping takes its place": Scenario("ready:2 +15", "1 2", None, PINGS),
    "a ping that falls into a blocked ping is left out": Scenario(
        "+0 block +60 unblock", "1 PING", None, PINGS
    ),
    "a ping that cannot be made ends the stream as an error": Scenario(
        "+15 raises", "1", "error", {**PINGS, "ping_message_factory": no_ping}
    ),
    "no timer is left when the stream has ended": Scenario(
        "waiting:1 leave returns waiting:0", "1", "client", PINGS
    ),
    "a ping waits for the end of an event": Scenario(
        "half +25 =1 whole&push:2 +10 +10 end returns", "1 2 PING", "end", PINGS
    ),
    # The first event
    "the first frame is sent at once after the headers": Scenario(
        "silent push:1 sent:1", "1", None, FIRST, first=""
    ),
    "a frame that is ready from the beginning is not waited for": Scenario("=1", "1", None, FIRST),
    "an error before the first frame leaves before any message": Scenario(
        "fail raises offered:0", "", "error", FIRST_OR_SORRY, first="", complete=False
    ),
    "an error together with the first frame comes after it": Scenario(
        "ready:1&fail returns", "1 SORRY", "error", FIRST_OR_SORRY, first=""
    ),
    "a feed that ends without a frame gives an empty body": Scenario(
        "end returns", "", "end", FIRST, first=""
    ),
    "a client that leaves before the first frame is sent nothing": Scenario(
        "leave returns offered:0", "", "client", FIRST, first=""
    ),
    "a stream that waits for its first event says its headers and farewell": Scenario(
        "silent drain returns", "FAREWELL", "shutdown", FIRST, first=""
    ),
    # Time limits
    "headers that take too long close a feed that has begun": Scenario(
        "block +3 times-out", "", "timeout", {"send_timeout": 3}
    ),
    "a ping that takes too long ends an idle stream": Scenario(
        "+0 block +15 +3 times-out", "1", "timeout", {**PINGS, "send_timeout": 3}
    ),
    "one timer bounds many sends": Scenario(
        "+3 push:2 +3 push:3 +3 push:4 +3 push:5 timers:1 lives", "1 2 3 4 5", None, LIMIT
    ),
    "sends that are each short do not add up": Scenario(
        "+0 block push:2 +9 unblock block push:3 +9 unblock lives", "1 2 3", None, LIMIT
    ),
    "a send has its whole time though the timer was set for an earlier one": Scenario(
        "+8 block push:2 +9.9 lives +0.1 times-out timers:1", "1", "timeout", LIMIT
    ),
    # The client leaves
    "a client that leaves ends an idle stream": Scenario("leave returns", "1", "client"),
    "a client that leaves ends a blocked send": Scenario(
        "block leave returns offered:1", "", "client"
    ),
    "a client that leaves is not sent what the feed says at last": Scenario(
        "last:2 leave returns offered:2", "1", "client"
    ),
    "a client that leaves while the feed closes after its end changes no reason": Scenario(
        "keep ended leave close returns", "1", "end", complete=False
    ),
    # An error
    "an error that is made a last frame goes no further": Scenario(
        "fail returns", "1 SORRY", "error", {"on_error": sorry}
    ),
    "an empty last frame is not sent": Scenario(
        "fail returns", "1", "error", {"on_error": no_last_frame}
    ),
    # A stream that is to end
    "without grace the source is stopped at once and the body completed": Scenario(
        "drain returns told:1", "1 FAREWELL", "shutdown"
    ),
    "frames that are ready leave before the farewell": Scenario(
        "last:3 ready:2&drain returns", "1 23 FAREWELL", "shutdown"
    ),
    "within the grace a source ends by itself and all its events arrive": Scenario(
        "drain +4.9 push:2 running end returns", "1 2 FAREWELL", "shutdown", GRACE
    ),
    "a source that does not end within the grace is stopped then": Scenario(
        "drain +4.9 lives told:1 +0.1 returns", "1 FAREWELL", "shutdown", GRACE
    ),
    "the grace of the request counts for more than that of the response": Scenario(
        "drain:0,60 +59 lives +1 returns", "1 FAREWELL", "shutdown", GRACE
    ),
    "the delay comes before the grace": Scenario(
        "drain:10 +9.9 told:0 +0.1 told:1 +4.9 lives +0.1 returns", "1 FAREWELL", "shutdown", GRACE
    ),
    "the request of a server that goes down does not replace an explicit one": Scenario(
        "drain:10,7 drain:auto +16.9 lives +0.1 returns told:1", "1 FAREWELL", "shutdown"
    ),
    "an explicit request replaces the one before": Scenario(
        "drain:3600,3600 drain:2,5 +2 told:1 drain:1,1 +1.9 lives +0.1 returns told:1",
        "1 FAREWELL",
        "shutdown",
    ),
    "a request that comes within the grace begins it anew and tells nobody again": Scenario(
        "drain +4 drain +4.9 lives +0.1 returns told:1", "1 FAREWELL", "shutdown", GRACE
    ),
    "a request that comes when the stream has ended does nothing": Scenario(
        "end returns drain +5 told:0", "1", "end"
    ),
    "a request to drain that comes after the client has left is ignored": Scenario(
        "leave returns drain:0,0&drain:auto&stop", "1", "client"
    ),
    "a cleanup that takes time is not cut when the stream ends already": Scenario(
        "keep drain&drain +5 waits close returns", "1 FAREWELL", "shutdown"
    ),
    "a client that does not even take the headers holds nobody up for longer than a second": Scenario(
        "block drain +0.9 waits +0.1 returns silent", "", "shutdown", complete=False
    ),
    "a client that stops reading holds nobody up for longer than a second": Scenario(
        "+0 block push:2 drain +0.9 waits +0.1 returns", "1", "shutdown", complete=False
    ),
    "a client that reads again in time gets everything": Scenario(
        "+0 block push:2 drain +0.9 unblock returns", "1 2 FAREWELL", "shutdown"
    ),
    "a stream that ends already is not held up by its client when it is to drain": Scenario(
        "+0 block end drain&drain:auto +1 returns told:0", "1", "end", complete=False
    ),
    "a slow last chunk has its time although the grace is over": Scenario(
        "drain +4.9 block end +0.5 unblock returns", "1", "shutdown", {**GRACE, "farewell": None}
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
async def test_what_becomes_of_a_stream(scenario: Scenario) -> None:
    await scenario.play()


CANCELLED = {
    "a cancelled stream completes its body, without a farewell, and the cancellation goes on": Scenario(
        "cancel cancelled", "1", "cancelled", GRACE
    ),
    "it sends what the feed says at last": Scenario("last:2 cancel cancelled", "1 2", "cancelled"),
    "it waits for the feed to close": Scenario(
        "keep cancel waits close cancelled", "1", "cancelled"
    ),
    "it gives up if its client does not read": Scenario(
        "+0 block push:2 cancel cancelled",
        "1",
        "cancelled",
        {"patience": Patience(cancelled=0)},
        complete=False,
    ),
    "it sends nothing before the first frame": Scenario(
        "cancel cancelled offered:0", "", "cancelled", FIRST, first="", complete=False
    ),
    "within the grace the farewell is let out": Scenario(
        "drain +1 cancel cancelled", "1 FAREWELL", "cancelled", GRACE
    ),
}


@each_way_to_cancel
@pytest.mark.parametrize("scenario", CANCELLED.values(), ids=CANCELLED)
async def test_what_becomes_of_a_stream_that_is_cancelled(scenario: Scenario, way: str) -> None:
    await scenario.play(way)
