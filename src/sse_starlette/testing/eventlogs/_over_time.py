"""What a log forgets, and when. Waits for it: half a minute in all."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

from ._driving import KEEP_ALL, MakeLog, append, offsets, opened, read


@pytest.mark.anyio
class OverTimeContract:
    """Limits of numbers, of age, and of unused channels."""

    async def test_at_least_so_many_events_are_kept_and_not_many_more(
        self, make_log: MakeLog
    ) -> None:
        log = make_log()
        few = KEEP_ALL._replace(events=10)
        kept: list[int] = []
        async with opened(log):
            for _ in range(300):
                await append(log, "a", limits=few)
            # What is quite new may be kept in any case.
            while not 0 < len(kept) <= 250:
                for _ in range(32):
                    head = (await append(log, "a", limits=few)).offset
                kept = offsets(await read(log, "a", limits=few))

                assert kept[-10:] == list(range(head - 9, head + 1))
                assert kept == list(range(kept[0], head + 1))
                await anyio.sleep(0.25)

    async def test_a_time_before_all_that_is_kept_is_not_known(self, make_log: MakeLog) -> None:
        log = make_log()
        few = KEEP_ALL._replace(events=10)
        async with opened(log):
            first = 1
            while first == 1:
                for _ in range(32):
                    await append(log, "a", limits=few)
                first = offsets(await read(log, "a", limits=few))[0]
                await anyio.sleep(0.25)
            found = await log.seek("a", age=3_600, limits=few)

        assert found[1:] == (first - 1, False)

    async def test_of_what_is_too_old_a_time_is_known_that_is_not(self, make_log: MakeLog) -> None:
        log = make_log()
        short = KEEP_ALL._replace(seconds=0.2)
        async with opened(log):
            for _ in range(3):
                await append(log, "a", limits=short)
            page = await read(log, "a", limits=short)
            while page.entries:
                await anyio.sleep(0.02)
                page = await read(log, "a", limits=short)
            found = await log.seek("a", age=0.1, limits=short)

        assert found == (page.epoch, 3, True)

    async def test_what_is_too_old_is_not_read(self, make_log: MakeLog) -> None:
        log = make_log()
        short = KEEP_ALL._replace(seconds=0.2)
        async with opened(log):
            for _ in range(40):
                await append(log, "a", limits=short)
            old = await read(log, "a", 3, limit=5, limits=short)
            while old.entries:
                await anyio.sleep(0.02)
                old = await read(log, "a", 3, limit=5, limits=short)
            page = old
            while not page.entries:  # Unless it has grown old meanwhile, too.
                newest = await append(log, "a", b"new", limits=short)
                page = await read(log, "a", limits=short)

        assert (old.head, old.entries) == (40, [])
        assert page.epoch == old.epoch
        assert {entry.body for entry in page.entries} == {b"new"}
        assert page.entries[-1].offset == newest.offset

    async def test_page_begins_with_what_is_young_enough(self, make_log: MakeLog) -> None:
        """Whoever gets a page without entries would take it that there are none."""
        log = make_log()
        short = KEEP_ALL._replace(seconds=0.5)
        async with opened(log):
            for _ in range(40):
                await append(log, "a", limits=short)
            await anyio.sleep(0.6)
            kept: list[int] = []
            while not kept:  # Unless it has grown old meanwhile, too.
                newest = await append(log, "a", limits=short)
                kept = offsets(await read(log, "a", 2, limit=3, limits=short))

        assert kept[0] > 40
        assert kept[-1] == newest.offset

    async def test_unused_channel_is_forgotten(self, make_log: MakeLog) -> None:
        """A log may keep it for a second longer: it needn't write down each use."""
        log = make_log()
        brief = KEEP_ALL._replace(expire=0.05)
        async with opened(log):
            before = await append(log, "a", limits=brief)
            page = await read(log, "a", limits=brief)
            while page.epoch == before.epoch:
                await anyio.sleep(1.2)
                page = await read(log, "a", limits=brief)
            await anyio.sleep(1.2)
            heads = await log.heads(["a"], expire=60)

        assert (page.head, page.entries) == (0, [])
        assert heads == {}

    async def test_channel_that_is_looked_at_is_not_forgotten(self, make_log: MakeLog) -> None:
        log = make_log()
        brief = KEEP_ALL._replace(expire=1)
        async with opened(log):
            looked_in_time = False
            while not looked_in_time:
                before = await append(log, "a", limits=brief)
                looks = [anyio.current_time()]
                for number in range(16):
                    await anyio.sleep(0.1)
                    if number % 2:
                        await log.heads(["a"], expire=1)
                    page = await read(log, "a", limits=brief)
                    looks.append(anyio.current_time())
                looked_in_time = all(b - a < 0.5 for a, b in pairwise(looks))

        assert page.epoch == before.epoch
        assert offsets(page)[-1] == before.offset
