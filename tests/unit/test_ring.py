"""What a channel remembers: in order, without a gap, and no more than it may."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_starlette._stream.feed import JOINED_BYTES
from sse_starlette.channels._ring import Ring, with_id


def ring_of(*, events: int = 1_000, bytes_: int = 1 << 30, seconds: float | None = None) -> Ring:
    return Ring(events=events, bytes_=bytes_, seconds=seconds)


def fill(ring: Ring, first: int, last: int, now: float = 0.0) -> None:
    for number in range(first, last + 1):
        assert ring.append(b"%d;" % number, now) == number


def behind(*, head: int, events: int = 1_000, bytes_: int = 1 << 30) -> Ring:
    """The ring of a history that has `head` events already, none of which is here."""
    return Ring(events=events, bytes_=bytes_, seconds=10, epoch="e", head=head)


def kept(ring: Ring) -> list[bytes]:
    return ring.frames(ring.oldest - 1, ring.head)


def test_an_event_is_kept_for_so_many_seconds() -> None:
    ring = ring_of(seconds=10)
    ring.append(b"a", 100.0)
    ring.append(b"b", 105.0)

    ring.expire(110.0)
    assert kept(ring) == [b"a", b"b"]

    ring.expire(110.1)
    assert kept(ring) == [b"b"]

    ring.expire(1_000.0)
    assert kept(ring) == []
    assert (ring.oldest, ring.head, ring.size) == (3, 2, 0)
    assert ring.holds(2)
    assert not ring.holds(1)


@pytest.mark.parametrize(
    ("sizes", "reads"),
    [([JOINED_BYTES // 4] * 10, [4, 8, 10]), ([3 * JOINED_BYTES, 1], [1, 2])],
    ids=["up to about one write", "one frame may be larger"],
)
def test_frames_are_joined(sizes: list[int], reads: list[int]) -> None:
    ring = ring_of()
    for size in sizes:
        ring.append(b"x" * size, 0.0)

    after = 0
    for last in reads:
        assert ring.read(after) == (b"x" * sum(sizes[after:last]), last)
        after = last


def test_the_newest_frame_is_handed_out_without_a_copy() -> None:
    ring = ring_of()
    frame = b"frame" * 100

    ring.append(frame, 0.0)

    assert ring.read(0)[0] is frame


def test_clients_at_the_same_position_share_the_joined_bytes_which_lack_nothing_later() -> None:
    ring = ring_of()
    fill(ring, 1, 3)

    first, _ = ring.read(0)
    second, _ = ring.read(0)
    fill(ring, 4, 4)

    assert first is second
    assert (first, ring.read(0)) == (b"1;2;3;", (b"1;2;3;4;", 4))


def test_joined_bytes_are_kept_for_a_few_positions_only() -> None:
    ring = ring_of(events=5_000)
    frame = b"x" * 1_000
    for _ in range(5_000):
        ring.append(frame, 0.0)

    # Held here, so that no two of them are at the same place in memory.
    joined = [ring.read(after)[0] for after in range(0, 4_000, 10)]

    still_there = [one for one in joined if sys.getrefcount(one) > 3]
    assert 0 < len(still_there) <= 32


@pytest.mark.parametrize("forget", ["events", "bytes", "seconds"])
def test_what_is_forgotten_is_let_go_at_once(forget: str) -> None:
    ring = {
        "events": ring_of(events=2),
        "bytes": ring_of(bytes_=2_000),
        "seconds": ring_of(seconds=10),
    }[forget]
    frame, another = b"a" * 1_000, b"b" * 1_000
    before = sys.getrefcount(frame)
    ring.append(frame, 0.0)
    ring.append(another, 1.0)
    joined, _ = ring.read(0)
    assert (sys.getrefcount(frame), sys.getrefcount(joined)) == (before + 1, 3)

    if forget == "seconds":
        ring.expire(10.5)
    else:
        ring.append(b"c" * 1_000, 10.5)

    assert kept(ring)[0] is another
    assert (sys.getrefcount(frame), sys.getrefcount(joined)) == (before, 2)


def test_a_long_run_needs_no_more_room_than_a_short_one() -> None:
    ring = ring_of(events=100)

    most = 0
    for number in range(20_000):
        ring.append(b"%d" % number, float(number))
        most = max(most, len(ring._frames), len(ring._times))

    assert most <= 200
    assert len(ring) == 100
    assert len(ring._joins) <= 32


def test_a_ring_that_was_emptied_by_time_needs_no_room() -> None:
    ring = ring_of(seconds=1)
    fill(ring, 1, 1_000)

    ring.expire(5.0)

    assert (len(ring), len(ring._frames), len(ring._times)) == (0, 0, 0)
    assert ring.append(b"next", 6.0) == 1_001
    assert ring.read(1_000) == (b"next", 1_001)


# --- What came before


def test_a_ring_may_begin_in_the_middle_of_a_history() -> None:
    ring = behind(head=7)

    assert (len(ring), ring.head, ring.oldest, ring.floor, ring.reach) == (0, 7, 8, 0, 0)
    assert ring.append(b"8;", 0.0) == 8
    assert ring.read(7) == (b"8;", 8)
    assert [offset for offset in range(10) if ring.holds(offset)] == [7, 8]


BEFORE: dict[str, tuple[dict[str, int], str, list[str], str, int]] = {
    "all": ({"head": 4}, "5; 6;", ["3; 4;", "", "2;"], "2; 3; 4; 5; 6;", 0),
    "into an empty ring": ({"head": 4}, "", ["3; 4;"], "3; 4;", 0),
    "as many events": ({"head": 9, "events": 3}, "10;", ["7; 8; 9;", "7;"], "8; 9; 10;", 7),
    "as many bytes": ({"head": 3, "bytes_": 10}, "4444", ["1 22 3333"], "22 3333 4444", 1),
    "the newest, however large": ({"head": 3, "bytes_": 4}, "", ["x large"], "large", 2),
}


@pytest.mark.parametrize(
    ("limits", "appended", "before", "left", "floor"), BEFORE.values(), ids=BEFORE
)
def test_what_came_before_is_put_before_as_far_as_there_is_room_for_it(
    limits: dict[str, int], appended: str, before: list[str], left: str, floor: int
) -> None:
    ring = behind(**limits)
    for frame in appended.encode().split():
        ring.append(frame, 0.0)

    for frames in before:
        ring.prepend(frames.encode().split(), 0.0)

    assert kept(ring) == left.encode().split()
    assert (len(ring), ring.size) == (len(kept(ring)), sum(map(len, kept(ring))))
    assert (ring.head, ring.floor) == (limits["head"] + len(appended.split()), floor)
    assert ring.reach in (0, floor)
    assert ring.read(ring.oldest - 1) == (left.replace(" ", "").encode(), ring.head)
    assert ring.append(b"next", 0.0) == limits["head"] + len(appended.split()) + 1


def test_what_came_before_is_taken_to_be_as_old_as_what_follows_it() -> None:
    ring = behind(head=3)
    ring.append(b"4;", 100.0)

    ring.prepend([b"3;"], 105.0)
    ring.expire(110.1)

    assert kept(ring) == []
    assert ring.floor == 4


def test_what_was_forgotten_makes_room_before_something_is_put_there() -> None:
    ring = behind(head=3)
    ring.append(b"4;", 100.0)
    ring.append(b"5;", 108.0)
    ring.expire(111.0)
    assert ring.oldest == 5

    ring.prepend([b"4;"], 111.0)

    assert kept(ring) == [b"4;", b"5;"]


def test_the_reach_of_a_ring_moves_with_its_head() -> None:
    ring = behind(head=5, events=4)
    assert ring.reach == 1

    fill(ring, 6, 8)

    assert (ring.reach, ring.oldest) == (4, 6)


def test_a_ring_that_skips_has_nothing_before_the_hole() -> None:
    ring = behind(head=2)
    fill(ring, 3, 5)
    ring.read(3)

    ring.skip(9)

    assert (len(ring), ring.size, ring.head, ring.oldest) == (0, 0, 9, 10)
    assert (ring.hole, ring.floor, ring.origin, ring.reach) == (9, 9, 9, 9)
    assert ring.append(b"10;", 0.0) == 10
    assert ring.read(9) == (b"10;", 10)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 40), st.lists(st.integers(-6, 6), max_size=40))
def test_the_ring_is_a_stretch_of_a_history_in_whatever_order_it_is_filled(
    events: int, bytes_: int, steps: list[int]
) -> None:
    history = [b"%d;" % number for number in range(500)]
    ring = behind(head=100, events=events, bytes_=bytes_)

    for step in steps:
        if step > 0:
            for _ in range(step):
                ring.append(history[ring.head + 1], 0.0)
        else:
            ring.prepend(history[ring.oldest + step : ring.oldest], 0.0)
        assert kept(ring) == history[ring.oldest : ring.head + 1]
        assert ring.size == sum(map(len, kept(ring)))
        assert len(ring) <= events
        assert ring.size <= bytes_ or len(ring) == 1
        assert ring.floor <= ring.oldest - 1
        assert ring.reach <= ring.oldest - 1
        if len(ring):
            assert ring.read(ring.oldest - 1)[0] == b"".join(kept(ring))


@settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 400),
    st.none() | st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=250),
    st.data(),
)
def test_the_ring_is_the_end_of_a_list(
    events: int, bytes_: int, seconds: int | None, steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    ring = ring_of(events=events, bytes_=bytes_, seconds=seconds)
    everything: list[tuple[bytes, int]] = []
    oldest = 0  # The index of what is kept first; what was forgotten doesn't come back.
    now = 0

    for number, (size, pause) in enumerate(steps):
        now += pause
        everything.append((str(number).encode().ljust(size, b"."), now))
        ring.append(everything[-1][0], now)
        oldest = max(oldest, len(everything) - events)
        while seconds is not None and everything[oldest][1] < now - seconds:
            oldest += 1
        while sum(len(frame) for frame, _ in everything[oldest:]) > bytes_ and (
            oldest < len(everything) - 1
        ):
            oldest += 1

    frames = [frame for frame, _ in everything]
    assert (ring.head, ring.oldest, len(ring)) == (len(frames), oldest + 1, len(frames) - oldest)
    held = [offset for offset in range(-1, ring.head + 3) if ring.holds(offset)]
    assert held == list(range(oldest, ring.head + 1))
    assert kept(ring) == frames[oldest:]
    assert ring.size == sum(map(len, kept(ring)))
    if len(ring):
        after = data.draw(st.integers(oldest, len(frames) - 1))
        assert ring.read(after) == (b"".join(frames[after:]), len(frames))
        last = data.draw(st.integers(after, len(frames)))
        assert ring.frames(after, last) == frames[after:last]


def test_a_renamed_ring_has_the_same_events_at_the_same_offsets() -> None:
    ring = ring_of(events=2)
    for offset in (1, 2, 3):
        ring.append(with_id("a", offset, b"data: %d\r\n\r\n" % offset), 0.0)

    other = ring.renamed("b")

    assert (other.epoch, other.oldest, other.head) == ("b", 2, 3)
    assert kept(other) == [with_id("b", offset, b"data: %d\r\n\r\n" % offset) for offset in (2, 3)]
