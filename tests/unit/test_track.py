"""What is done with an entry that was received, and when a history is taken to be another one."""

from __future__ import annotations

import pytest

from sse_starlette.eventlogs._track import Verdict, judge, was_written_anew
from sse_starlette.eventlogs.base import Entry, Page


@pytest.mark.parametrize(
    ("epoch", "offset", "key", "known_key", "verdict"),
    [
        pytest.param("e", 4, "k4", "k3", Verdict.DELIVER, id="the next"),
        pytest.param("e", 4, "k4", None, Verdict.DELIVER, id="the next, after an unknown one"),
        pytest.param("e", 5, "k5", "k3", Verdict.REFRESH, id="one is missing"),
        pytest.param("other", 4, "k4", "k3", Verdict.REFRESH, id="the next of another history"),
        pytest.param("other", 1, "k1", "k3", Verdict.REFRESH, id="the first of another history"),
        pytest.param("e", 3, "k3", "k3", Verdict.IGNORE, id="the newest once more"),
        pytest.param("e", 3, "k3", None, Verdict.IGNORE, id="the newest, whose key isn't known"),
        pytest.param("e", 3, "new", "k3", Verdict.REFRESH, id="another one in its place"),
        pytest.param("e", 2, "k2", "k3", Verdict.IGNORE, id="an older one"),
        pytest.param("e", 2, "new", "k3", Verdict.IGNORE, id="another one in an older one's place"),
    ],
)
def test_a_channel_at_3_takes_the_entry_after_its_head_and_nothing_else(
    epoch: str, offset: int, key: str, known_key: str | None, verdict: Verdict
) -> None:
    assert judge(epoch, Entry(offset, key, b"x"), "e", 3, known_key) is verdict


@pytest.mark.parametrize(
    ("head", "entries", "known_key", "is_another"),
    [
        pytest.param(3, [(3, "k3")], "k3", False, id="the same"),
        pytest.param(4, [(3, "k3"), (4, "k4")], "k3", False, id="the same and one more"),
        pytest.param(2, [(2, "k2")], "k3", True, id="shorter"),
        pytest.param(3, [(3, "new")], "k3", True, id="another newest entry"),
        pytest.param(4, [(3, "new"), (4, "k4")], "k3", True, id="another entry, and one more"),
        pytest.param(3, [(3, "new")], None, False, id="nobody knows what was there"),
        pytest.param(3, [], "k3", False, id="nothing is kept"),
        pytest.param(5, [(5, "k5")], "k3", False, id="the entry was trimmed"),
    ],
)
def test_a_history_differs_from_what_was_handed_out_up_to_3(
    head: int, entries: list[tuple[int, str]], known_key: str | None, is_another: bool
) -> None:
    found = [Entry(offset, key, b"x") for offset, key in entries]

    assert (
        was_written_anew(Page("e", head, closed=False, entries=found), 3, known_key) is is_another
    )
