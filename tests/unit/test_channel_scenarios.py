"""What the clients of channels are sent, come what may: a table."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.channel_scenarios import ChannelScenario
from tests.unit.following import FakeClock, ManualLoop
from tests.unit.subscribing import even, key

LATEST: dict[str, Any] = {"slow": "latest", "latest_by": key}

SCENARIOS = {
    # Where a subscription begins
    "a new client gets what is published from now on": ChannelScenario("a+1-3 A a+4,5 A=4,5"),
    "who got nothing and was cut gets exactly what it missed": ChannelScenario(
        "a+1-7 A A= A- a+8-10 A+ A=8-10"
    ),
    "who comes back gets what it missed at the first look": ChannelScenario(
        "a+1-20 A:a.4 A.has_work=False A> A.data=5-20 A.id=a.20 A.blocks=16 A=5-20"
    ),
    "who has everything is sent nothing first": ChannelScenario(
        "a+1-3 A:a.3 A* A.ping A.blocks=0 a+4 A=4 A.id=a.4"
    ),
    "the last position to be resumed is the one before the oldest kept": ChannelScenario(
        "a+1-5 A:a.2 A=3-5 a.resets=", history=3
    ),
    "an id of several channels is good for each of them": ChannelScenario(
        "a+1-5 A:00000000.7-a.3 A=4,5"
    ),
    "an empty id is that of a new client": ChannelScenario("a+1,2 A: A= a.resets="),
    "who comes back gets no replay": ChannelScenario(
        "a+1-5 A:a.5 A= A.blocks=0 B:nonsense B=!unknown", replay=3
    ),
    "replayed events come before the live ones": ChannelScenario(
        "a+1-5 A a+6,7 A> A.id=a.0 A.blocks=1 A=1-7", replay=5
    ),
    # What is kept
    "no more events are kept than history says": ChannelScenario(
        "a+1-10 a.kept_events=3 a.published=10", history=3
    ),
    "an event is kept no longer than history_seconds says": ChannelScenario(
        "a+1,2 +30 a+3 +31 a.kept_events=1 A:a.2 A=3 B:a.1 B=!trimmed"
        " +30 a.kept_events=0 C:a.3 C= C.blocks=0",
        history_seconds=60,
    ),
    # Clients that read too slowly
    "a slow client is disconnected by default": ChannelScenario(
        "A A* a+1,2 A=1,2 a+3-6 A=1,2 A.ended=True A.close_reason=lagging A.error=None"
        " a.disconnected=1 A- A+ A=1,2,!trimmed",
        history=3,
    ),
    "a client may be as far behind as events are kept": ChannelScenario(
        "A A* a+1-3 A=1-3", history=3
    ),
    "a slow client can be told and go on": ChannelScenario(
        "A A* a+1 A=1 a+2-6 A=1,!lagging A.id=a.6 a+7,8 A=1,!lagging,7,8"
        " a.dropped=5 a.delivered=3 a.disconnected=0 a.resets=lagging:1",
        history=3,
        slow="reset",
    ),
    "each gap is told once": ChannelScenario(
        "A:nonsense A* a+1-3 A* a+4-6 A* a+7-9 A=!unknown,!lagging,!lagging,!lagging A.blocks=4",
        history=2,
        slow="reset",
    ),
    "a slow client can have the newest event of every key": ChannelScenario(
        "a+z0 A A* a+a1,b2,c3,a4,b5,b6 A> A.data=!lagging,c3,a4,b6 A.id=a.7"
        " a+c7 A=!lagging,c3,a4,b6,c7 a.dropped=3 a.delivered=4 a.resets=lagging:1",
        history=3,
        **LATEST,
    ),
    "the newest events are filtered too": ChannelScenario(
        "A A* a+a1,b2,a3,c4,b5 A=!lagging,a3 A.id=a.5 a.delivered=1",
        history=3,
        filter=lambda event: event.event == "a",
        **LATEST,
    ),
    "a filter that raises at the newest events leaves them out": ChannelScenario(
        "A A* a+a1,b2,a3 A=!lagging a.failures=2 A.ended=False",
        history=2,
        filter=lambda event: 1 / 0,
        **LATEST,
    ),
    "the newest event is kept of as many keys as history says": ChannelScenario(
        "A A* a+a1,b1,c1,d1,e1,f1,g1,b1 A=!lagging,f1,g1,b1", history=3, **LATEST
    ),
    "what happened is counted": ChannelScenario(
        "A B a+1-2 A* a+3-4 A* a+5-6 A* a+7-8 A* a.subscribers=2 a.published=8 a.delivered=8"
        " a.lag=8 a.dropped=0 a.kept_events=5 a.kept_bytes=135"
        " B* a.lag=0 a.dropped=8 a.delivered=8 a.resets=lagging:1 A- A- a.subscribers=1"
        " C:nonsense C* D:00000000.1 D* a.resets=lagging:1,unknown:1,epoch:1",
        history=5,
        slow="reset",
    ),
    # Filters
    "what a filter leaves out makes no gap": ChannelScenario(
        "A a+1-5 A=2,4 a.delivered=2 A- a+6,7 A+ A=2,4,6", filter=even
    ),
    "a client whose filter takes nothing does not fall behind": ChannelScenario(
        "A A* a+1-10 A* a+11-20 A* a+21-30 A= A.ended=False A.blocks=1"
        " A.ping A.id=a.30 A.ping A.blocks=2 A- a+31 A+ A=31",
        history=10,
        filter=lambda event: event.data == "31",
    ),
    "where blocks of an id alone are unwanted there are none": ChannelScenario(
        "A A* a+1,2 A=1 A.ping A.id=a.1 A.blocks=1",
        filter=lambda event: event.data != "2",
        id_blocks=False,
    ),
    # Several channels on one stream
    "one cursor holds the position in each channel": ChannelScenario(
        "a+1,2 A A> A.id=a.2-b.0 b+4 a+3 A=3,4 A.id=a.3-b.1 a.delivered=1 b.delivered=1"
    ),
    "one stream has the events of all its channels in the order of each": ChannelScenario(
        "A/ab a+1 c+101 b+11 a+2,3 A* b+12 c+102 a+4 b+13 A=1-3,11,4,12,13"
    ),
    "who comes back gets what it missed in each channel": ChannelScenario(
        "A a+1 b+11 A* A- A.id=a.1-b.1 a+2 b+12,13 A+ A=1,11,2,12,13 B/ba:a.1-b.1 B=12,13,2"
    ),
    "only the channel that was lost is reset": ChannelScenario(
        "b+10 A A* A- a+1 lose:b A+ b+11 A=!b:epoch,1,11 a.resets= b.resets=epoch:1"
    ),
    "a channel that the id does not name begins anew by itself": ChannelScenario(
        "a+1-3 b+4-6 c+7-9 A/abc:a.3-b.3 A=8,9 B/ac:a.3-b.3 B=8,9", replay=2
    ),
    "a history that was lost is told beside a channel that was added": ChannelScenario(
        "A/ab A* A- lose:b A+/abc A=!b:epoch"
    ),
    "an id that is none leads to one reset for all channels": ChannelScenario(
        "b+1 A:nonsense A=!a:unknown&b:unknown A.id=a.0-b.1 A.blocks=1"
    ),
    "the newest events of one channel move no position in another": ChannelScenario(
        "a+1-7 A A* b+x1,y2,x3 A> A.data=!b:lagging,y2,x3 A.id=a.7-b.3", b={"history": 2, **LATEST}
    ),
    "what is ready in one channel goes out before the gap in another": ChannelScenario(
        "A A* a+1 b+11-13 A> A.data=1 A.id=a.1-b.0 A=1,!b:lagging A.id=a.1-b.3",
        b={"history": 2, "slow": "reset"},
    ),
    "a channel that has news is not behind because another one is": ChannelScenario(
        "A A> a+1-5 b+11 A=!lagging,11 b.resets=", history=2, slow="reset"
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_what_clients_are_sent(
    scenario: ChannelScenario, loop: ManualLoop, clock: FakeClock
) -> None:
    scenario.play(clock)


@pytest.mark.parametrize(("replay", "first"), [(0, 6), (1, 5), (3, 3), (4, 3), (10**30, 3)])
def test_a_new_client_can_have_the_newest_events_first(
    replay: int, first: int, loop: ManualLoop, clock: FakeClock
) -> None:
    script = f"a+1-5 A A> A.id=a.{first - 1} A.blocks=1 A* a+6 A={first}-6"
    ChannelScenario(script, history=3, replay=replay).play(clock)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        pytest.param("nonsense", "unknown", id="malformed"),
        pytest.param("x" * 1_000_000, "unknown", id="a megabyte"),
        pytest.param("b.2", "epoch", id="another channel"),
        pytest.param("b.2-00000000.3", "epoch", id="other channels"),
        pytest.param("a.6", "future", id="the future"),
        pytest.param("a.0", "trimmed", id="before all"),
        pytest.param("b.2-a.1", "trimmed", id="trimmed away, of several"),
    ],
)
def test_an_id_that_can_not_be_resumed_leads_to_one_reset_and_then_live(
    asked: str, reason: str, loop: ManualLoop, clock: FakeClock
) -> None:
    """Which ids these are is said by test_cursor.py and test_start.py."""
    script = (
        f"a+1-5 b+11-13 A/a:{asked} A=!{reason} A.id=a.5 A.blocks=1 a+6,7 b+14 A=!{reason},6,7"
        f" a.resets={reason}:1 A- A+/a A=!{reason},6,7 A.blocks=3"
    )
    ChannelScenario(script, history=3).play(clock)
