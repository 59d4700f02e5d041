"""What becomes of a subscription whose next event the channel doesn't have any more: a table."""

from __future__ import annotations

import pytest

from sse_starlette.channels._lag import Lag, on_lag
from sse_starlette.channels._latest import Latest
from sse_starlette.channels._options import Slow
from sse_starlette.channels._ring import Ring


def ring(epoch: str = "e", *, head: int = 10, kept: int = 3, hole: int = 0) -> Ring:
    """A history of ten events of which the last three are kept; `hole`: up to there, what was never here."""
    made = Ring(events=kept, bytes_=1_000, seconds=None, epoch=epoch)
    if hole:
        made.skip(hole)
    while made.head < head:
        made.append(b"frame", 0.0)
    return made


NOW = ring()
WITH_HOLE = ring(head=9, kept=5, hole=6)
LONG_AFTER_HOLE = ring(hole=2)
BEGUN_LATE = ring("new", head=8, kept=5, hole=6)
LATEST = Latest(lambda event: event.data, events=10, bytes_=1_000)
LATEST.remember("a", 4, b"old")
LATEST.remember("b", 7, b"missed")
LATEST.remember("c", 10, b"newest")
MISSED = [(7, b"missed"), (10, b"newest")]


@pytest.mark.parametrize(
    ("slow", "held", "now", "after", "stays", "lag"),
    [
        # Too slow.
        ("disconnect", NOW, NOW, 5, False, Lag("lagging", NOW, 5, ends=True)),
        ("disconnect", NOW, NOW, 5, True, Lag("lagging", NOW, 10, dropped=5)),
        ("reset", NOW, NOW, 5, False, Lag("lagging", NOW, 10, dropped=5)),
        ("latest", NOW, NOW, 5, False, Lag("lagging", NOW, 10, MISSED, dropped=3)),
        ("latest", NOW, NOW, 5, True, Lag("lagging", NOW, 10, MISSED, dropped=3)),
        # Something is missing in the log: nobody was slow.
        ("disconnect", WITH_HOLE, WITH_HOLE, 5, False, Lag("trimmed", WITH_HOLE, 6)),
        ("latest", WITH_HOLE, WITH_HOLE, 5, False, Lag("trimmed", WITH_HOLE, 6)),
        # By now what came first after it isn't kept either.
        ("reset", LONG_AFTER_HOLE, LONG_AFTER_HOLE, 1, False, Lag("trimmed", LONG_AFTER_HOLE, 10)),
        (
            "reset",
            LONG_AFTER_HOLE,
            LONG_AFTER_HOLE,
            2,
            False,
            Lag("lagging", LONG_AFTER_HOLE, 10, dropped=8),
        ),
        # Another history.
        ("disconnect", NOW, BEGUN_LATE, 5, False, Lag("epoch", BEGUN_LATE, 6)),
        ("reset", ring("old"), NOW, 50, False, Lag("epoch", NOW, 10)),
        # None is known any more, or it's known anew: the client may come back with its id.
        ("reset", NOW, ring(""), 5, False, None),
        ("reset", ring(), NOW, 5, False, None),
    ],
)
def test_what_a_subscription_gets_that_lags(
    slow: Slow, held: Ring, now: Ring, after: int, stays: bool, lag: Lag | None
) -> None:
    latest = LATEST if slow == "latest" else None

    assert on_lag(held, now, after, slow=slow, latest=latest, stays=stays) == lag
