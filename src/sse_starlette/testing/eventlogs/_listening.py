"""What those who follow a log are told: all that is appended, by whoever it is, and in its order."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from ...eventlogs.base import Backend, Entry
from ._driving import MakeLog, RecordingListener, append, listening, offsets, opened, read


@pytest.mark.anyio
class ListeningContract:
    """Watching, listening, opening."""

    async def test_what_any_process_appends_is_heard_in_order(self, make_log: MakeLog) -> None:
        log, other = make_log(), make_log()
        async with opened(log, other), listening(log, "a", "b") as listener:
            expected = []
            for number in range(40):
                channel, writer = "ab"[number % 2], [log, other][number // 2 % 2]
                position = await append(writer, channel, b"%d" % number, key=f"{number}")
                entry = Entry(position.offset, f"{number}", b"%d" % number)
                expected.append((channel, position.epoch, entry))
            await append(other, "unwatched")
            for channel in "ab":
                await append(other, channel, key="last")
            await listener.until(
                lambda: [listener.offsets(channel)[-1:] for channel in "ab"] == [[21], [21]]
            )

        for channel in "ab":
            heard = [
                each for each in listener.entries if each[0] == channel and each[2].key != "last"
            ]
            assert heard == [each for each in expected if each[0] == channel]
        assert not [each for each in listener.entries if each[0] == "unwatched"]
        assert (listener.losses, listener.notifications, sorted(listener.subscriptions)) == (
            [],
            [],
            ["a", "b"],
        )

    async def test_nothing_is_missing_after_subscribed(self, make_log: MakeLog) -> None:
        """A channel is watched while others append to it."""
        log, other = make_log(), make_log()
        heads_when_subscribed: dict[str, int] = {}
        heads: dict[str, int] = {}
        names = [f"{number}" for number in range(8)]

        async def publish() -> None:
            while len(heads_when_subscribed) < len(names):
                for name in names:
                    await append(other, name)

        async with opened(log, other), listening(log) as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                for name in names:
                    log.watch(name)
                    await listener.until(partial(listener.has_subscribed, name))
                    heads_when_subscribed[name] = (await read(log, name)).head
            for name in names:
                heads[name] = (await append(other, name)).offset
            await listener.until(
                lambda: all(listener.offsets(name)[-1:] == [heads[name]] for name in names)
            )

        for name, head in heads_when_subscribed.items():
            assert set(listener.offsets(name)) >= set(range(head + 1, heads[name] + 1))

    async def test_many_writers_at_once(self, make_log: MakeLog) -> None:
        logs = [make_log() for _ in range(3)]

        async def publish(log: Backend, writer: int) -> None:
            for number in range(10):
                await append(log, "a", key=f"{writer}-{number}")

        async with opened(*logs), listening(logs[0], "a") as listener:
            async with anyio.create_task_group() as tasks:
                for writer in range(12):
                    tasks.start_soon(publish, logs[writer % 3], writer)
            page = await read(logs[0], "a")
            await listener.until(lambda: len(listener.offsets("a")) == 120)

        assert offsets(page) == listener.offsets("a") == list(range(1, 121))
        assert len({entry.key for entry in page.entries}) == 120

    async def test_channel_may_be_watched_at_any_time(self, make_log: MakeLog) -> None:
        log = make_log()
        log.watch("a")
        log.watch("a")
        log.unwatch("b")
        async with opened(log), listening(log, "a") as listener:
            log.watch("a")
            log.watch("b")
            await listener.until(lambda: "b" in listener.subscriptions)
            log.unwatch("c")
            log.unwatch("a")
            await append(log, "a")
            await append(log, "b")
            await listener.until(lambda: listener.entries)

            assert listener.subscriptions == ["a", "b"]
            assert listener.offsets("a") == []
            log.watch("a")
            await listener.until(lambda: listener.subscriptions == ["a", "b", "a"])
            await append(log, "a")
            await listener.until(lambda: listener.offsets("a") == [2])

    async def test_channel_that_comes_and_goes_is_subscribed_to_in_the_end(
        self, make_log: MakeLog
    ) -> None:
        log = make_log()
        async with opened(log), listening(log) as listener:
            for round_ in range(30):
                for number in range(round_ % 4):
                    (log.watch if number % 2 == 0 else log.unwatch)("a")
                    for _ in range(round_ % 3):
                        await anyio.lowlevel.checkpoint()
                listener.subscriptions.clear()
                log.unwatch("a")
                for _ in range(round_ % 5):
                    await anyio.lowlevel.checkpoint()
                listener.subscriptions.clear()
                log.watch("a")
                await listener.until(lambda: listener.subscriptions)
                heard = (await append(log, "a")).offset
                await listener.until(partial(listener.has, "a", heard))
                await append(log, "b")

        assert listener.losses == []

    async def test_listening_again_subscribes_again(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            for number in range(1, 4):
                async with listening(log, "a") as listener:
                    await append(log, "a")
                    await listener.until(partial(listener.has, "a", number))

                assert listener.subscriptions == ["a"]
                # What was heard before may come again: in a cluster it may still be on its way to the node
                # that is listened to this time.
                assert set(listener.offsets("a")) <= set(range(1, number + 1))

    async def test_log_may_be_opened_again(self, make_log: MakeLog) -> None:
        log = make_log()
        for number in range(1, 4):
            async with opened(log), listening(log, "a") as listener:
                position = await append(log, "a")
                await listener.until(lambda: listener.entries)

            assert position.offset == number

    async def test_log_that_answers_passes_the_check(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            await log.check()

    async def test_log_that_is_not_open_says_so(self, make_log: MakeLog) -> None:
        log = make_log()
        async with opened(log):
            pass

        for use in (log.check, lambda: append(log, "a"), lambda: log.listen(RecordingListener())):
            with pytest.raises(RuntimeError, match="isn't open"):
                await use()
