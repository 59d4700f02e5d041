"""What a log keeps: offsets, entries, keys, the end of a channel, its history, and times."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ...errors import ChannelClosed
from ...eventlogs.base import Backend, Entry, Position
from ._driving import KEEP_ALL, MakeLog, append, listening, offsets, opened, read

WEIRD_NAMES = [
    "",
    " ",
    "a:b",
    "{a}",
    "}a",
    "a}:s",
    "{}",
    "%7D",
    "naïve/\N{SNOWMAN}?*[x]",
    "NUL\0 and\r\nlines",
    "half of a pair \ud83d",
    "'); DROP TABLE entries; --",
    "long" * 1_000,
]


@pytest.mark.anyio
class KeepingContract:
    """Appending, reading and finding."""

    # --- Appending and reading --------------------------------------------------------

    async def test_offsets_count_from_one_without_a_gap(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            positions = [await append(log, "a", b"%d" % number) for number in range(3)]
            page = await read(log, "a")

        assert [position.offset for position in positions] == [1, 2, 3]
        assert {position.epoch for position in positions} == {page.epoch}
        assert (page.head, page.closed) == (3, False)
        assert [(entry.offset, entry.body) for entry in page.entries] == [
            (1, b"0"),
            (2, b"1"),
            (3, b"2"),
        ]

    async def test_channels_know_nothing_of_each_other(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            first = await append(log, "a")
            second = await append(log, "b")

        assert (first.offset, second.offset) == (1, 1)
        assert first.epoch != second.epoch

    async def test_epoch_exists_from_the_first_look_on(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other):
            empty = await read(log, "a")
            position = await append(other, "a")

        assert (empty.head, empty.closed, empty.entries) == (0, False, [])
        assert position == (empty.epoch, 1)

    async def test_page_has_what_was_asked_for(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            for _ in range(9):
                await append(log, "a")

            assert offsets(await read(log, "a", 4)) == [5, 6, 7, 8, 9]
            assert offsets(await read(log, "a", 4, 6)) == [5, 6]
            assert offsets(await read(log, "a", 4, 8, limit=2)) == [5, 6]
            assert offsets(await read(log, "a", 9)) == []
            assert offsets(await read(log, "a", 100)) == []
            page = await read(log, "a", limit=0)

        assert (page.head, page.entries) == (9, [])

    async def test_any_bytes_may_be_a_body(self, make_log: MakeLog) -> None:
        log = make_log()
        bodies = [bytes(range(256)), b"\0", b" ", b"1 2 3 4", b"\r\n" * 9, b"x" * 3_000_000]
        async with opened(log), listening(log, "a") as listener:
            for body in bodies:
                await append(log, "a", body)
            page = await read(log, "a")
            await listener.until(
                lambda: len(listener.entries) + len(listener.notifications) >= len(bodies)
            )

        assert [entry.body for entry in page.entries] == bodies
        # What is too large for that is notified of, and read.
        assert [entry.body for _, _, entry in listener.entries][:5] == bodies[:5]
        assert all(entry == page.entries[entry.offset - 1] for _, _, entry in listener.entries)

    async def test_any_text_may_be_a_name_and_a_key(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log), listening(log, *WEIRD_NAMES) as listener:
            for number, name in enumerate(WEIRD_NAMES):
                for key in WEIRD_NAMES:
                    await append(log, name, b"%d" % number, key=key)
            pages = {name: await read(log, name) for name in WEIRD_NAMES}
            heads = await log.heads(WEIRD_NAMES, expire=60)
            await listener.until(lambda: len(listener.entries) >= len(WEIRD_NAMES) ** 2)

        for number, name in enumerate(WEIRD_NAMES):
            assert [entry.key for entry in pages[name].entries] == WEIRD_NAMES
            assert {entry.body for entry in pages[name].entries} == {b"%d" % number}
            assert heads[name] == (pages[name].epoch, len(WEIRD_NAMES))
            heard = [entry for channel, _, entry in listener.entries if channel == name]
            assert heard == pages[name].entries

    # --- Keys -------------------------------------------------------------------------

    async def test_key_seen_before_appends_nothing(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other):
            first = await append(log, "a", b"once", key="k")
            await append(log, "a", b"next")
            again = await append(other, "a", b"twice", key="k")
            elsewhere = await append(log, "b", key="k")
            page = await read(log, "a")

        assert again == first
        assert elsewhere.offset == 1
        assert page.entries[0] == Entry(1, "k", b"once")
        assert page.head == 2

    async def test_key_is_forgotten_after_its_time(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            offset = 1
            while offset == 1:
                position = await log.append("a", b"x", key="k", key_seconds=0.02, limits=KEEP_ALL)
                offset = position.offset
                await anyio.sleep(0.005)

        assert offset == 2

    async def test_many_with_the_same_key_at_once_append_one(self, make_log: MakeLog) -> None:
        logs = [make_log(), make_log()]
        positions: list[Position] = []

        async def publish(log: Backend) -> None:
            positions.append(await append(log, "a", key="k"))

        async with opened(*logs):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(publish, logs[number % 2])
            page = await read(logs[0], "a")

        assert len(positions) == 20
        assert set(positions) == {(page.epoch, 1)}
        assert page.head == 1

    async def test_append_that_was_cancelled_may_be_repeated(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log), listening(log, "a") as listener:
            for number in range(20):
                with anyio.CancelScope() as given_up:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(partial(append, log, "a", key=f"{number}"))
                        for _ in range(number):
                            await anyio.lowlevel.checkpoint()
                        given_up.cancel()
                await append(log, "a", key=f"{number}")
            page = await read(log, "a")
            await listener.until(lambda: len(listener.offsets("a")) == 20)

        assert [entry.key for entry in page.entries] == [f"{number}" for number in range(20)]
        assert listener.offsets("a") == list(range(1, 21))

    # --- Closing ----------------------------------------------------------------------

    async def test_empty_body_closes_the_channel(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other), listening(other, "a") as listener:
            await append(log, "a", key="before")
            closing = await append(log, "a", b"", key="end")
            page = await read(other, "a")
            await listener.until(lambda: len(listener.entries) == 2)

            assert page.closed
            assert page.head == closing.offset == 2
            assert page.entries[-1] == Entry(2, "end", b"")
            assert listener.entries[-1] == ("a", page.epoch, Entry(2, "end", b""))
            with pytest.raises(ChannelClosed, match="'a' has been closed"):
                await append(other, "a")
            with pytest.raises(ChannelClosed):
                await append(other, "a", b"")
            # Whoever doesn't know what became of theirs is told.
            assert await append(other, "a", key="before") == (page.epoch, 1)
            assert await append(other, "a", b"", key="end") == (page.epoch, 2)

    # --- Heads and histories ----------------------------------------------------------

    async def test_heads_are_told_of_channels_that_exist(self, make_log: MakeLog) -> None:
        log = make_log()
        names = [f"{number}" for number in range(700)]
        async with opened(log):
            empty = await read(log, "600")
            position = await append(log, "3")
            heads = await log.heads(names, expire=60)
            nothing = await log.heads([], expire=60)

        assert heads == {"3": position, "600": (empty.epoch, 0)}
        assert nothing == {}

    async def test_history_is_renewed_if_it_is_still_that_one(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            first = await append(log, "a", b"old", key="k")
            await log.renew("a", "another")
            kept = await read(log, "a")
            await log.renew("a", first.epoch)
            renewed = await read(log, "a")
            await log.renew("a", first.epoch)
            again = await append(log, "a", b"old", key="k")
            new = await append(log, "a", b"new")
            page = await read(log, "a")
            await log.renew("b", first.epoch)

        assert kept.epoch == first.epoch
        assert renewed.epoch != first.epoch
        assert (renewed.head, renewed.entries) == (0, [])
        # Those who listened have it: it isn't appended once more.
        assert again == first
        assert new == (renewed.epoch, 1)
        assert [entry.body for entry in page.entries] == [b"new"]

    async def test_a_time_is_found_without_reading_everything(self, make_log: MakeLog) -> None:
        log = make_log()
        if not log.keeps_times:
            with pytest.raises(TypeError, match="keeps no times"):
                await log.seek("a", age=60, limits=KEEP_ALL)
            return
        async with opened(log):
            nothing = await log.seek("a", age=60, limits=KEEP_ALL)
            # None that is asked for is nearer to an entry than half of this.
            pause = 0.02
            times: list[float] = []
            for _ in range(5):
                await append(log, "a")
                await anyio.sleep(pause)
                times.append(anyio.current_time() - pause / 2)
                await anyio.sleep(pause)
            found: list[int] = []
            for time in times:
                took = pause
                while took >= pause / 2:  # The question must not take as long as that.
                    asked = anyio.current_time()
                    beginning = await log.seek("a", age=asked - time, limits=KEEP_ALL)
                    took = anyio.current_time() - asked
                found.append(beginning.offset)
            oldest = await log.seek("a", age=3_600, limits=KEEP_ALL)
            none = await log.seek("a", age=-3_600, limits=KEEP_ALL)
            page = await read(log, "a")

        assert nothing == (page.epoch, 0, True)
        assert found == [1, 2, 3, 4, 5]
        assert oldest == (page.epoch, 0, True)
        assert none == (page.epoch, 5, True)
