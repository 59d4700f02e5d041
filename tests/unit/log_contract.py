"""What every log keeps, whatever it is made of: one suite, for each of them.

A module of tests makes a class of `LogContract`, or of `LogContractOverTime`, which has more tests and
takes longer. It gives it two fixtures: `anyio_backend`, and `make_log`, which returns one more log on
the same store each time, as another process has one.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from tests.unit.driving import SEAT_BELT_SECONDS

from sse_starlette.errors import ChannelClosed
from sse_starlette.eventlogs.base import Backend, Entry, Limits, Listener, Page, Position

MakeLog = Callable[[], Backend]

ALL = Limits(events=1_000, seconds=None, expire=3_600)
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


class Ears(Listener):
    """Notes what a log tells, in its order, and waits for facts."""

    def __init__(self) -> None:
        self.joins: list[str] = []
        self.entries: list[tuple[str, str, Entry]] = []
        self.stirs: list[str] = []
        self.losses: list[Exception] = []
        self._news = anyio.Event()

    def subscribed(self, channel: str) -> None:
        self.joins.append(channel)
        self._news.set()

    def received(self, channel: str, epoch: str, entry: Entry) -> None:
        self.entries.append((channel, epoch, entry))
        self._news.set()

    def notified(self, channel: str) -> None:
        self.stirs.append(channel)
        self._news.set()

    def lost(self, error: Exception) -> None:
        self.losses.append(error)
        self._news.set()

    async def until(self, fact: Callable[[], object]) -> None:
        with anyio.fail_after(SEAT_BELT_SECONDS):
            while not fact():
                self._news = anyio.Event()
                await self._news.wait()

    def has_joined(self, channel: str, times: int = 1) -> bool:
        return self.joins.count(channel) >= times

    def has(self, channel: str, offset: int) -> bool:
        return offset in self.offsets(channel)

    def offsets(self, channel: str) -> list[int]:
        """Of what was heard; what came twice counts once."""
        found = dict.fromkeys(entry.offset for name, _, entry in self.entries if name == channel)
        return list(found)


@asynccontextmanager
async def listening(log: Backend, *channels: str) -> AsyncIterator[Ears]:
    """Listen to these channels, all of them joined; the log is open."""
    ears = Ears()
    async with anyio.create_task_group() as tasks:
        for channel in channels:
            log.watch(channel)
        tasks.start_soon(log.listen, ears)
        await ears.until(lambda: set(ears.joins) >= set(channels))
        yield ears
        tasks.cancel_scope.cancel()


async def append(
    log: Backend, channel: str, body: bytes = b"x", *, key: str | None = None, limits: Limits = ALL
) -> Position:
    key = secrets.token_hex(8) if key is None else key
    return await log.append(channel, body, key=key, key_seconds=120, limits=limits)


async def look(
    log: Backend,
    channel: str,
    after: int = 0,
    upto: int | None = None,
    *,
    most: int = 10_000,
    limits: Limits = ALL,
) -> Page:
    return await log.read(channel, after=after, upto=upto, most=most, limits=limits)


def offsets(page: Page) -> list[int]:
    return [entry.offset for entry in page.entries]


@asynccontextmanager
async def opened(*logs: Backend) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for log in logs:
            await stack.enter_async_context(log.open())
        with anyio.fail_after(SEAT_BELT_SECONDS):
            yield


@pytest.mark.anyio
class LogContract:
    """The suite. Its tests run in a class of each store's own."""

    # --- Appending and reading --------------------------------------------------------

    async def test_offsets_count_from_one_without_a_gap(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            positions = [await append(log, "a", b"%d" % number) for number in range(3)]
            page = await look(log, "a")

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
            empty = await look(log, "a")
            position = await append(other, "a")

        assert (empty.head, empty.closed, empty.entries) == (0, False, [])
        assert position == (empty.epoch, 1)

    async def test_page_has_what_was_asked_for(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            for _ in range(9):
                await append(log, "a")

            assert offsets(await look(log, "a", 4)) == [5, 6, 7, 8, 9]
            assert offsets(await look(log, "a", 4, 6)) == [5, 6]
            assert offsets(await look(log, "a", 4, 8, most=2)) == [5, 6]
            assert offsets(await look(log, "a", 9)) == []
            assert offsets(await look(log, "a", 100)) == []
            page = await look(log, "a", most=0)

        assert (page.head, page.entries) == (9, [])

    async def test_any_bytes_may_be_a_body(self, make_log: MakeLog) -> None:
        log = make_log()
        bodies = [bytes(range(256)), b"\0", b" ", b"1 2 3 4", b"\r\n" * 9, b"x" * 3_000_000]
        async with opened(log), listening(log, "a") as ears:
            for body in bodies:
                await append(log, "a", body)
            page = await look(log, "a")
            await ears.until(lambda: len(ears.entries) + len(ears.stirs) >= len(bodies))

        assert [entry.body for entry in page.entries] == bodies
        # What is too large for that is stirred, and read.
        assert [entry.body for _, _, entry in ears.entries][:5] == bodies[:5]
        assert all(entry == page.entries[entry.offset - 1] for _, _, entry in ears.entries)

    async def test_any_text_may_be_a_name_and_a_key(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log), listening(log, *WEIRD_NAMES) as ears:
            for number, name in enumerate(WEIRD_NAMES):
                for key in WEIRD_NAMES:
                    await append(log, name, b"%d" % number, key=key)
            pages = {name: await look(log, name) for name in WEIRD_NAMES}
            heads = await log.heads(WEIRD_NAMES, expire=60)
            await ears.until(lambda: len(ears.entries) >= len(WEIRD_NAMES) ** 2)

        for number, name in enumerate(WEIRD_NAMES):
            assert [entry.key for entry in pages[name].entries] == WEIRD_NAMES
            assert {entry.body for entry in pages[name].entries} == {b"%d" % number}
            assert heads[name] == (pages[name].epoch, len(WEIRD_NAMES))
            heard = [entry for channel, _, entry in ears.entries if channel == name]
            assert heard == pages[name].entries

    # --- Keys -------------------------------------------------------------------------

    async def test_key_seen_before_appends_nothing(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other):
            first = await append(log, "a", b"once", key="k")
            await append(log, "a", b"next")
            again = await append(other, "a", b"twice", key="k")
            elsewhere = await append(log, "b", key="k")
            page = await look(log, "a")

        assert again == first
        assert elsewhere.offset == 1
        assert page.entries[0] == Entry(1, "k", b"once")
        assert page.head == 2

    async def test_key_is_forgotten_after_its_time(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            offset = 1
            while offset == 1:
                position = await log.append("a", b"x", key="k", key_seconds=0.02, limits=ALL)
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
            page = await look(logs[0], "a")

        assert len(positions) == 20
        assert set(positions) == {(page.epoch, 1)}
        assert page.head == 1

    async def test_append_that_was_cancelled_may_be_repeated(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log), listening(log, "a") as ears:
            for number in range(20):
                with anyio.CancelScope() as given_up:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(partial(append, log, "a", key=f"{number}"))
                        for _ in range(number):
                            await anyio.lowlevel.checkpoint()
                        given_up.cancel()
                await append(log, "a", key=f"{number}")
            page = await look(log, "a")
            await ears.until(lambda: len(ears.offsets("a")) == 20)

        assert [entry.key for entry in page.entries] == [f"{number}" for number in range(20)]
        assert ears.offsets("a") == list(range(1, 21))

    # --- Closing ----------------------------------------------------------------------

    async def test_empty_body_closes_the_channel(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other), listening(other, "a") as ears:
            await append(log, "a", key="before")
            closing = await append(log, "a", b"", key="end")
            page = await look(other, "a")
            await ears.until(lambda: len(ears.entries) == 2)

            assert page.closed
            assert page.head == closing.offset == 2
            assert page.entries[-1] == Entry(2, "end", b"")
            assert ears.entries[-1] == ("a", page.epoch, Entry(2, "end", b""))
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
            empty = await look(log, "600")
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
            kept = await look(log, "a")
            await log.renew("a", first.epoch)
            renewed = await look(log, "a")
            await log.renew("a", first.epoch)
            again = await append(log, "a", b"old", key="k")
            new = await append(log, "a", b"new")
            page = await look(log, "a")
            await log.renew("b", first.epoch)

        assert kept.epoch == first.epoch
        assert renewed.epoch != first.epoch
        assert (renewed.head, renewed.entries) == (0, [])
        # Those who listened have it: it isn't appended once more.
        assert again == first
        assert new == (renewed.epoch, 1)
        assert [entry.body for entry in page.entries] == [b"new"]

    # --- Listening --------------------------------------------------------------------

    async def test_a_time_is_found_without_reading_everything(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            nothing = await log.seek("a", age=60, limits=ALL)
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
                    beginning = await log.seek("a", age=asked - time, limits=ALL)
                    took = anyio.current_time() - asked
                found.append(beginning.offset)
            oldest = await log.seek("a", age=3_600, limits=ALL)
            none = await log.seek("a", age=-3_600, limits=ALL)
            page = await look(log, "a")

        assert nothing == (page.epoch, 0, True)
        assert found == [1, 2, 3, 4, 5]
        assert oldest == (page.epoch, 0, True)
        assert none == (page.epoch, 5, True)

    async def test_what_any_process_appends_is_heard_in_order(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other), listening(log, "a", "b") as ears:
            expected = []
            for number in range(40):
                channel, writer = "ab"[number % 2], [log, other][number // 2 % 2]
                position = await append(writer, channel, b"%d" % number, key=f"{number}")
                entry = Entry(position.offset, f"{number}", b"%d" % number)
                expected.append((channel, position.epoch, entry))
            await append(other, "unwatched")
            for channel in "ab":
                await append(other, channel, key="last")
            await ears.until(
                lambda: [ears.offsets(channel)[-1:] for channel in "ab"] == [[21], [21]]
            )

        for channel in "ab":
            heard = [each for each in ears.entries if each[0] == channel and each[2].key != "last"]
            assert heard == [each for each in expected if each[0] == channel]
        assert not [each for each in ears.entries if each[0] == "unwatched"]
        assert (ears.losses, ears.stirs, sorted(ears.joins)) == ([], [], ["a", "b"])

    async def test_nothing_is_missing_after_joined(self, make_log: MakeLog) -> None:
        """A channel is joined while others append to it."""
        log, other = make_log(), make_log()
        heads_when_joined: dict[str, int] = {}
        heads: dict[str, int] = {}
        names = [f"{number}" for number in range(8)]

        async def publish() -> None:
            while len(heads_when_joined) < len(names):
                for name in names:
                    await append(other, name)

        async with opened(log, other), listening(log) as ears:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                for name in names:
                    log.watch(name)
                    await ears.until(partial(ears.has_joined, name))
                    heads_when_joined[name] = (await look(log, name)).head
            for name in names:
                heads[name] = (await append(other, name)).offset
            await ears.until(
                lambda: all(ears.offsets(name)[-1:] == [heads[name]] for name in names)
            )

        for name, head in heads_when_joined.items():
            assert set(ears.offsets(name)) >= set(range(head + 1, heads[name] + 1))

    async def test_many_writers_at_once(self, make_log: MakeLog) -> None:
        logs = [make_log() for _ in range(3)]

        async def publish(log: Backend, writer: int) -> None:
            for number in range(10):
                await append(log, "a", key=f"{writer}-{number}")

        async with opened(*logs), listening(logs[0], "a") as ears:
            async with anyio.create_task_group() as tasks:
                for writer in range(12):
                    tasks.start_soon(publish, logs[writer % 3], writer)
            page = await look(logs[0], "a")
            await ears.until(lambda: len(ears.offsets("a")) == 120)

        assert offsets(page) == ears.offsets("a") == list(range(1, 121))
        assert len({entry.key for entry in page.entries}) == 120

    async def test_channel_may_be_watched_at_any_time(self, make_log: MakeLog) -> None:
        log = make_log()
        log.watch("a")
        log.watch("a")
        log.unwatch("b")
        async with opened(log), listening(log, "a") as ears:
            log.watch("a")
            log.watch("b")
            await ears.until(lambda: "b" in ears.joins)
            log.unwatch("c")
            log.unwatch("a")
            await append(log, "a")
            await append(log, "b")
            await ears.until(lambda: ears.entries)

            assert ears.joins == ["a", "b"]
            assert ears.offsets("a") == []
            log.watch("a")
            await ears.until(lambda: ears.joins == ["a", "b", "a"])
            await append(log, "a")
            await ears.until(lambda: ears.offsets("a") == [2])

    async def test_channel_that_comes_and_goes_is_joined_in_the_end(
        self, make_log: MakeLog
    ) -> None:
        log = make_log()
        async with opened(log), listening(log) as ears:
            for round_ in range(30):
                for number in range(round_ % 4):
                    (log.watch if number % 2 == 0 else log.unwatch)("a")
                    for _ in range(round_ % 3):
                        await anyio.lowlevel.checkpoint()
                ears.joins.clear()
                log.unwatch("a")
                for _ in range(round_ % 5):
                    await anyio.lowlevel.checkpoint()
                ears.joins.clear()
                log.watch("a")
                await ears.until(lambda: ears.joins)
                heard = (await append(log, "a")).offset
                await ears.until(partial(ears.has, "a", heard))
                await append(log, "b")

        assert ears.losses == []

    async def test_listening_anew_joins_anew(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            for number in range(1, 4):
                async with listening(log, "a") as ears:
                    await append(log, "a")
                    await ears.until(partial(ears.has, "a", number))

                assert ears.joins == ["a"]
                # What was heard before may come again: in a cluster it may still be on its way to the node
                # that is listened to this time.
                assert set(ears.offsets("a")) <= set(range(1, number + 1))

    async def test_log_may_be_opened_again(self, make_log: MakeLog) -> None:
        log = make_log()
        for number in range(1, 4):
            async with opened(log), listening(log, "a") as ears:
                position = await append(log, "a")
                await ears.until(lambda: ears.entries)

            assert position.offset == number

    async def test_log_that_answers_passes_the_check(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            await log.check()

    async def test_log_that_is_not_open_says_so(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            pass

        for use in (log.check, lambda: append(log, "a"), lambda: log.listen(Ears())):
            with pytest.raises(RuntimeError, match="isn't open"):
                await use()


@pytest.mark.anyio
class LogContractOverTime(LogContract):
    """The suite with what can't be shown in no time: how long things are kept."""

    async def test_at_least_so_many_events_are_kept_and_not_many_more(
        self, make_log: MakeLog
    ) -> None:
        log = make_log()
        few = ALL._replace(events=10)
        kept: list[int] = []
        async with opened(log):
            for _ in range(300):
                await append(log, "a", limits=few)
            # What is quite new may be kept in any case.
            while not 0 < len(kept) <= 250:
                for _ in range(32):
                    head = (await append(log, "a", limits=few)).offset
                kept = offsets(await look(log, "a", limits=few))

                assert kept[-10:] == list(range(head - 9, head + 1))
                assert kept == list(range(kept[0], head + 1))
                await anyio.sleep(0.25)

    async def test_a_time_before_all_that_is_kept_is_not_known(self, make_log: MakeLog) -> None:
        log = make_log()
        few = ALL._replace(events=10)
        async with opened(log):
            first = 1
            while first == 1:
                for _ in range(32):
                    await append(log, "a", limits=few)
                first = offsets(await look(log, "a", limits=few))[0]
                await anyio.sleep(0.25)
            found = await log.seek("a", age=3_600, limits=few)

        assert found[1:] == (first - 1, False)

    async def test_of_what_is_too_old_a_time_is_known_that_is_not(self, make_log: MakeLog) -> None:
        log = make_log()
        short = ALL._replace(seconds=0.2)
        async with opened(log):
            for _ in range(3):
                await append(log, "a", limits=short)
            page = await look(log, "a", limits=short)
            while page.entries:
                await anyio.sleep(0.02)
                page = await look(log, "a", limits=short)
            found = await log.seek("a", age=0.1, limits=short)

        assert found == (page.epoch, 3, True)

    async def test_what_is_too_old_is_not_read(self, make_log: MakeLog) -> None:
        log = make_log()
        short = ALL._replace(seconds=0.2)
        async with opened(log):
            for _ in range(40):
                await append(log, "a", limits=short)
            old = await look(log, "a", 3, most=5, limits=short)
            while old.entries:
                await anyio.sleep(0.02)
                old = await look(log, "a", 3, most=5, limits=short)
            page = old
            while not page.entries:  # Unless it has grown old meanwhile, too.
                newest = await append(log, "a", b"new", limits=short)
                page = await look(log, "a", limits=short)

        assert (old.head, old.entries) == (40, [])
        assert page.epoch == old.epoch
        assert {entry.body for entry in page.entries} == {b"new"}
        assert page.entries[-1].offset == newest.offset

    async def test_page_begins_with_what_is_young_enough(self, make_log: MakeLog) -> None:
        """Whoever gets a page without entries would take it that there are none."""
        log = make_log()
        short = ALL._replace(seconds=0.5)
        async with opened(log):
            for _ in range(40):
                await append(log, "a", limits=short)
            await anyio.sleep(0.6)
            kept: list[int] = []
            while not kept:  # Unless it has grown old meanwhile, too.
                newest = await append(log, "a", limits=short)
                kept = offsets(await look(log, "a", 2, most=3, limits=short))

        assert kept[0] > 40
        assert kept[-1] == newest.offset

    async def test_unused_channel_is_forgotten(self, make_log: MakeLog) -> None:
        """A log may keep it for a second longer: it needn't write down each use."""
        log = make_log()
        brief = ALL._replace(expire=0.05)
        async with opened(log):
            before = await append(log, "a", limits=brief)
            page = await look(log, "a", limits=brief)
            while page.epoch == before.epoch:
                await anyio.sleep(1.2)
                page = await look(log, "a", limits=brief)
            await anyio.sleep(1.2)
            heads = await log.heads(["a"], expire=60)

        assert (page.head, page.entries) == (0, [])
        assert heads == {}

    async def test_channel_that_is_looked_at_is_not_forgotten(self, make_log: MakeLog) -> None:
        log = make_log()
        brief = ALL._replace(expire=1)
        async with opened(log):
            looked_in_time = False
            while not looked_in_time:
                before = await append(log, "a", limits=brief)
                looks = [anyio.current_time()]
                for number in range(16):
                    await anyio.sleep(0.1)
                    if number % 2:
                        await log.heads(["a"], expire=1)
                    page = await look(log, "a", limits=brief)
                    looks.append(anyio.current_time())
                looked_in_time = all(b - a < 0.5 for a, b in pairwise(looks))

        assert page.epoch == before.epoch
        assert offsets(page)[-1] == before.offset
