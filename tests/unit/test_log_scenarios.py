"""Channels on an event log, whatever happens to it: a table. What its clients are sent, and how often it's read."""

from __future__ import annotations

import pytest
from tests.unit.log_scenarios import LogScenario

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("without_pauses")]

SCENARIOS = {
    # Many processes, one history
    "what one process publishes reaches the clients of all": LogScenario(
        "A B... publish:1 A=1 B=1 A.id=e1.1 B.id=e1.1"
    ),
    "a client that waits for the first event gets it, in whatever process": LogScenario(
        "A A.id=e1.0 say:first A=first"
    ),
    "the log is looked at after it is known to be heard": LogScenario(
        "shut:joining A:e1.0 reads=0 say:missed open:joining A=missed"
    ),
    "what is published during the first look comes once": LogScenario(
        "say:before shut:reading A+ waits:reading say:1,2 open:reading A=1,2"
    ),
    "who comes to another process gets exactly what it missed": LogScenario(
        "A say:1,2 A=1,2 A- say:3,4 A+again... A=1-4 say:5 A=1-5"
    ),
    "who has everything is sent nothing first": LogScenario("say:1,2 A:e1.2 A= say:3 A=3"),
    "what must be read from the log is read": LogScenario("stirs A say:1,2 A=1,2 say:3 A=1-3"),
    "what stirs during a look is looked for once more": LogScenario(
        "stirs A shut:reading say:1 waits:reading say:2 open:reading A=1,2"
    ),
    "a hole in what is heard is filled from the log": LogScenario(
        "A mark deaf say:1,2 hears say:3 A=1-3 reads=1"
    ),
    "what is heard while a hole is filled comes in order": LogScenario(
        "A mark deaf say:1 hears shut:reading say:2 waits:reading say:3,4 open:reading A=1-4 reads=1"
    ),
    "much that is heard while a hole is filled is read": LogScenario(
        "A shut:reading deaf say:1 hears say:2 waits:reading say:3-12 open:reading A=1-12",
        hub={"page": 3},
    ),
    "a first subscriber is told of what was published and is no longer kept": LogScenario(
        "shut:joining A+ publish:0-2 open:joining A=!trimmed", {"history": 1}
    ),
    # The connection
    "what was published while the connection was lost is caught up": LogScenario(
        "A say:1 A=1 away say:2,3 A=1 back A=1-3 say:4 A=1-4"
    ),
    "much that was missed is caught up page by page": LogScenario(
        "A away say:1-22 back A=1-22", hub={"page": 4}
    ),
    "channels that are in step are not read when they are checked": LogScenario(
        "A say:1,2 A=1,2 mark check reads=0"
    ),
    "a check finds that the history was flushed": LogScenario(
        "A say:1,2 A=1,2 flush check A=1,2,!epoch"
    ),
    "a check finds that the history has fallen back": LogScenario(
        "A say:1,2 A=1,2 fall:1 check A=1,2,!epoch"
    ),
    "a check that fails is no news": LogScenario("A cut check mend say:1 A=1"),
    "a connection that died without a word is found out": LogScenario(
        "A deaf say:1,2 A=1,2", hub={"check_every": 0.01}
    ),
    # Publishing
    "publishing does not listen": LogScenario("mark publish:x reads=0 watched="),
    "an event whose answer was lost is published once": LogScenario(
        "A forget publish:1 appended=2 A=1 A.id=e1.1"
    ),
    "publishing bridges a hiccup": LogScenario("A cut publish*:1 appends:4 mend A=1"),
    "a channel is closed after what is being published": LogScenario(
        "A shut:appending publish*:1 publish*:2 waits:appending close* waiting=1 open:appending"
        " A.ends A=1,2 A.id=e1.3"
    ),
    "closing ends the streams of all processes for good": LogScenario(
        "A B... publish:last close... A.ends B.ends A=last B=last A.id=e1.2 B.id=e1.2"
        " A.stays B.stays... late late... close close... added=2"
    ),
    "who comes to a closed channel gets what it lacks and stays away": LogScenario(
        "say:1,2 end A:e1.0 A.ends A=1,2 A.id=e1.3 A.stays"
    ),
    "a channel that was closed is open again when its history was lost": LogScenario(
        "end A A.ends flush publish:1 opened"
    ),
    # Histories that are lost, trimmed or written anew
    "a history that was lost is told once to everyone": LogScenario(
        "A B say:1,2 A=1,2 B=1,2 flush lose epoch=e4 A=1,2,!epoch A.cursor=e4.0"
        " say:3 A=1,2,!epoch,3 B=1,2,!epoch,3 resets=epoch:2"
    ),
    "a new history is known by the first event that is heard of it": LogScenario(
        "A say:1 A=1 flush say:2 A=1,!epoch A.id=e3.1 say:3 A=1,!epoch,3"
    ),
    "who has not taken the old history yet is told and goes on with the new one": LogScenario(
        "A say:1,2 A=1,2 A.sleeps flush say:a,b,c,d epoch=e4 A.looks A=1,2,!epoch A.id=e4.4"
    ),
    "who looks too late at a new history goes on at its end": LogScenario(
        "A A.sleeps flush lose epoch=e2 say:1-5 head=5 A.looks A=!epoch A.id=e2.5", {"history": 2}
    ),
    "who was told has the place that is true in the new history": LogScenario(
        "A flush say:1,2 A=!epoch A- say:3 A+again A=!epoch,3"
    ),
    "what was trimmed while the connection was lost is told and what is left is live": LogScenario(
        "A say:1,2 A=1,2 away say:3-8 trim:5 back A=1,2,!trimmed,6-8 say:9 A=1,2,!trimmed,6-9"
        " resets=trimmed:1 B:e1.5 B=6-9 C:e1.4 C=!trimmed"
    ),
    "when nothing is left of what was missed it is told": LogScenario(
        "A say:1 A=1 away say:2,3 trim:3 back A=1,!trimmed say:4 A=1,!trimmed,4"
    ),
    "when nothing is left of what was missed from the first on it is told": LogScenario(
        "A away say:2,3 trim:3 back A=!trimmed say:4 A=!trimmed,4"
    ),
    "who misses nothing of what was trimmed is not told": LogScenario(
        "A say:1-3 A=1-3 away trim:3 say:4 back A=1-4"
    ),
    "nothing is delivered between a loss and the proof that the history is the same": LogScenario(
        "A say:1,2 A=1,2 shut:reading away fall:1 back waits:reading say:x,y A=1,2"
        " open:reading A=1,2,!epoch"
    ),
    "a history that is written anew while it is read is given up": LogScenario(
        "A say:1 A=1 away say:2-11 shut:reading back waits:reading fall:1 open:reading A~!epoch",
        hub={"page": 3},
    ),
    "a history that is lost while it is read is told": LogScenario(
        "A away say:1-11 shut:reading back waits:reading flush open:reading A~!epoch",
        hub={"page": 3},
    ),
    "a history that is lost while older events are read is told": LogScenario(
        "say:1-3 A deaf flush say:1-5 B:e1.1 B=!epoch"
    ),
    # Letting go
    "a channel that nobody listens to is let go after its linger time": LogScenario(
        "A say:1 A=1 A- later:29 sweep epoch=e1 say:2 later:2 sweep watched= epoch= kept=0"
        " say:3 A+again A=1-3",
        hub={"linger": 30},
    ),
    "a channel with a subscriber is not let go": LogScenario(
        "A later:1000 sweep say:1 A=1", hub={"linger": 0}
    ),
    "a channel that is let go during the first look is left alone": LogScenario(
        "say:1-3 shut:reading A+ waits:reading A- later:1 sweep open:reading epoch= watched=",
        hub={"linger": 0},
    ),
    "a channel that is let go while it catches up is left alone": LogScenario(
        "say:1-3 A shut:reading lose waits:reading A- later:1 sweep open:reading epoch= watched=",
        hub={"linger": 0},
    ),
    "a channel that is let go while older events are read is left alone": LogScenario(
        "say:1-3 A A- shut:reading A:e1.1 waits:reading A- later:1 sweep open:reading"
        " epoch= watched=",
        hub={"linger": 0},
    ),
    # Clients that come back
    "what was read for one is there for the next": LogScenario(
        "say:1-9 A:e1.3 A=4-9 mark B:e1.5 B=6-9 reads=0 C:e1.1 C=2-9 reads=1"
    ),
    "what is published while the history is read follows it once": LogScenario(
        "say:1-5 A shut:reading B:e1.2 waits:reading say:6,7 B= open:reading B=3-7"
    ),
    "what the log no longer has is a gap": LogScenario(
        "say:1-10 trim:5 A:e1.4 A=!trimmed A.id=e1.10 B:e1.5 B=6-10 mark"
        " C:e1.3 C=!trimmed reads=0 resets=trimmed:2"
    ),
    "what is trimmed while it is being read is a gap": LogScenario(
        "say:1-30 A shut:reading B:e1.2 waits:reading trim:15 open:reading B=!trimmed"
        " C:e1.15 C=16-30",
        hub={"page": 10},
    ),
    "a log that has nothing left of it is a gap": LogScenario(
        "say:1-10 trim:10 A:e1.7 A=!trimmed B+replay3 B="
    ),
    "no more is read than `history` says": LogScenario(
        "say:1-30 A:e1.19 A=!trimmed B:e1.20 B=21-30", {"history": 10}
    ),
    "what is forgotten while older events are read is a gap": LogScenario(
        "say:1-10 A shut:reading B:e1.2 waits:reading say:11-25 open:reading B=!trimmed",
        {"history": 10},
    ),
    "a new client has none of the events of the log first": LogScenario(
        "say:1-10 A+replay0 say:11 A=11"
    ),
    "a new client can have the newest events of the log first": LogScenario(
        "say:1-10 A+replay3 say:11 A=8-11"
    ),
    "a new client can have more events first than the log has": LogScenario(
        "say:1-10 A+replay50 say:11 A=1-11"
    ),
    "an id that another process knows already is none from the future": LogScenario(
        "A deaf say:1-3 B:e1.2 B=3"
    ),
    "an epoch that another process knows already is none that is lost": LogScenario(
        "A deaf flush say:1-3 B:e2.1 B=2,3 A=!epoch"
    ),
    "an id from the future leads to one reset": LogScenario(
        "say:1-10 A:e1.11 A=!future say:live A=!future,live resets=future:1"
    ),
    "an id of a lost history leads to one reset": LogScenario(
        "say:1-10 A:00000000.4 A=!epoch say:live A=!epoch,live resets=epoch:1"
    ),
    "an id that is none leads to one reset": LogScenario(
        "say:1-10 A:nonsense A=!unknown say:live A=!unknown,live resets=unknown:1"
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
async def test_what_becomes_of_a_channel(scenario: LogScenario) -> None:
    await scenario.play()


@pytest.mark.parametrize("since", [0, 1, 2, 5], ids="{} newer events".format)
@pytest.mark.parametrize(
    "found_out",
    ["away fall:1 {say} back", "fall:1 {say} {lose}", "deaf fall:1 {say} check {lose} hears"],
    ids=["lost", "heard", "checked"],
)
async def test_a_history_that_was_written_anew_is_given_up(since: int, found_out: str) -> None:
    """A server that took over lacks the newest events, and their numbers are given out again."""
    others = ",".join(f"other{number}" for number in range(since))
    # Where the numbers look fine, the next look finds out.
    looks_fine = since >= 2 if "check" in found_out else since < 2
    script = found_out.format(
        say=f"say:{others}" if since else "", lose="lose" if looks_fine else ""
    )

    await LogScenario(
        f"A say:1-3 A=1-3 {script} A=1-3,!epoch renewed=1 hears say:live A=1-3,!epoch,live"
    ).play()
