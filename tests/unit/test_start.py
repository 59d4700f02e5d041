"""Where a subscription begins, and which gap its client is told: tables."""

from __future__ import annotations

from typing import Any

import pytest

from sse_starlette.channels._ring import Ring
from sse_starlette.channels._start import Asked, Place, asked_by, offset_after, place
from sse_starlette.errors import HistoryGap

NOW = 1_000.0


def ring(*, head: int = 10, kept: int = 4) -> Ring:
    """A history `e1` of which the events 7 to 10 are kept; each was published a second after the last."""
    made = Ring(events=kept, bytes_=1_000, seconds=None, epoch="e1")
    while made.head < head:
        made.append(b"frame", NOW - 10 + made.head)
    return made


NOTHING = ring(head=0)


@pytest.mark.parametrize(
    ("asked", "others", "found"),
    [
        # With an id.
        (Asked({"e1": 10}), set(), Place(10)),
        (Asked({"e1": 7}), set(), Place(7)),
        (Asked({"e1": 6}), set(), Place(6)),
        (Asked({"e1": 5}), set(), Place(10, "trimmed")),
        (Asked({"e1": 0}), set(), Place(10, "trimmed")),
        (Asked({"e1": 11}), set(), Place(10, "future")),
        (Asked({"e1": 7}, replay=3), set(), Place(7)),
        (Asked(None), set(), Place(10, "unknown")),
        (Asked(None), None, Place(10, "unknown")),
        (Asked({"e0": 7}), set(), Place(10, "epoch")),
        # With an id of other channels: this one has been added.
        (Asked({"e2": 7}), {"e2"}, Place(10, anew=True)),
        (Asked({"e2": 7}, replay=2), {"e2"}, Place(8, anew=True)),
        (Asked({"e2": 7, "e1": 7}), {"e2"}, Place(7)),
        (Asked({"e2": 7, "e3": 1}), {"e4"}, Place(10, "epoch")),
        # Which epochs the others have isn't known yet.
        (Asked({"e2": 7}), None, None),
        (Asked({"e1": 7}), None, Place(7)),
        (Asked({}), None, Place(10, anew=True)),
        # Without one.
        (Asked({}), set(), Place(10, anew=True)),
        (Asked({}, replay=3), set(), Place(7, anew=True)),
        (Asked({}, replay=100), set(), Place(6, anew=True)),
        # After an offset.
        (Asked({}, offset=8), set(), Place(8)),
        (Asked({}, offset=11), set(), Place(10, "future")),
        (Asked({}, offset=0), set(), Place(6, "trimmed")),
        # Since a time: the event with the offset n was published 11 - n seconds ago.
        (Asked({}, seconds_ago=2.5), set(), Place(8)),
        (Asked({}, seconds_ago=0), set(), Place(10)),
        (Asked({}, seconds_ago=-5), set(), Place(10)),
        (Asked({}, seconds_ago=4.5), set(), Place(6)),
        (Asked({}, seconds_ago=5), set(), Place(6, "trimmed")),
    ],
)
def test_where_a_subscription_begins(
    asked: Asked, others: set[str] | None, found: Place | None
) -> None:
    assert place(ring(), "c", asked, others, NOW) == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Asked({}), Place(0, anew=True)),
        (Asked({}, replay=5), Place(0, anew=True)),
        (Asked({}, offset=0), Place(0)),
        (Asked({}, seconds_ago=60), Place(0)),
        (Asked({"e1": 0}), Place(0)),
        (Asked({"e1": 1}), Place(0, "future")),
    ],
)
def test_where_a_subscription_begins_before_the_first_event(asked: Asked, found: Place) -> None:
    assert place(NOTHING, "c", asked, set(), NOW) == found


@pytest.mark.parametrize(
    ("came_with", "options", "asked"),
    [
        (None, {}, Asked({})),
        ("", {}, Asked({})),
        (None, {"replay": 2}, Asked({}, replay=2)),
        (None, {"after": "start"}, Asked({}, offset=0)),
        (None, {"after": 5}, Asked({}, offset=5)),
        (None, {"after": "e1.5"}, Asked({"e1": 5})),
        (None, {"after": "no id"}, Asked(None)),
        (None, {"seconds_ago": 3.0}, Asked({}, seconds_ago=3.0)),
        ("e1.5", {}, Asked({"e1": 5})),
        ("e1.5-e2.1", {}, Asked({"e1": 5, "e2": 1})),
        ("no id", {}, Asked(None)),
        # The id that the client has counts for more.
        ("e1.5", {"after": "e1.7"}, Asked({"e1": 5})),
        ("e1.5", {"after": "start"}, Asked({"e1": 5})),
        ("e1.5", {"seconds_ago": 3.0}, Asked({"e1": 5})),
        ("e1.5", {"replay": 2}, Asked({"e1": 5}, replay=2)),
    ],
)
def test_where_a_client_wants_to_begin(
    came_with: str | None, options: dict[str, Any], asked: Asked
) -> None:
    given = {"after": None, "seconds_ago": None, "replay": 0} | options

    assert asked_by(came_with, **given) == asked


@pytest.mark.parametrize(
    ("after", "offset"), [("start", 0), (0, 0), (10, 10), ("e1.4", 4), ("e2.9-e1.4", 4)]
)
def test_after_which_offset_a_history_is_wanted(after: str | int, offset: int) -> None:
    assert offset_after(after, "c", "e1", 10) == offset


@pytest.mark.parametrize(
    ("after", "reason"),
    [("no id", "unknown"), ("e2.4", "epoch"), (11, "future"), ("e1.11", "future")],
)
def test_a_history_without_such_a_place_says_why(after: str | int, reason: str) -> None:
    with pytest.raises(HistoryGap) as raised:
        offset_after(after, "c", "e1", 10)

    assert (raised.value.channel, raised.value.after, raised.value.reason) == ("c", after, reason)
