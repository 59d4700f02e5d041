"""What is asked of the server: a few commands at a time, and what waits to be appended in one batch.

A command has a deadline that counts from its turn on. What an answer belongs to is known by a tag: one that
isn't the answer to what was asked has the connections closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.client import NEVER_DECODE
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from ...errors import ChannelClosed, LogRefused
from ..leases import LeaseLostError
from ._clients import connections_of
from ._faults import FAILURES, is_read_only
from ._figures import read_figures
from ._lease_scripts import LOST
from ._protocol import answer_to, appended_in, head_in, new_tags
from ._scripts import APPEND, HEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from ..base import ChannelFigures, Position
    from ._clients import Client
    from ._faults import Explainer
    from ._protocol import Names
    from ._scripts import Script

_TURNS = 4
"""Commands under way at a time. More don't make one server faster, and each costs a connection."""
_REQUESTS_TOGETHER = 64
_BYTES_TOGETHER = 1024 * 1024
_LOOKS = 8
"""In how many parts the time for an answer is counted."""
# A client of the user's own may decode what it reads; bodies are bytes.
_RAW: dict[str, Any] = {NEVER_DECODE: True}


class answer_within:  # noqa: N801  (reads like asyncio.timeout)
    """
    Raise TimeoutError if the block takes longer.

    A part of the time counts anew if the loop was late to look: while a burst of other tasks keeps it busy,
    nobody can tell whether the server has answered.
    """

    __slots__ = ("_deadline", "_due", "_left", "_loop", "_part", "_timer")

    def __init__(self, seconds: float) -> None:
        self._part = seconds / _LOOKS
        self._left = _LOOKS - 1
        self._deadline = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._deadline.__aenter__()
        self._wait()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._deadline.__aexit__(exc_type, exc, traceback)

    def _wait(self) -> None:
        self._due = self._loop.time() + self._part
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if self._loop.time() - self._due <= self._part:
            self._left -= 1
        if self._left >= 0:
            self._wait()
        else:
            self._deadline.reschedule(self._loop.time())


class NotOpenError(RuntimeError):
    """The log is used outside of `open`."""

    def __init__(self) -> None:
        super().__init__("the log isn't open: enter `async with log.open():` first")


class _Request:
    """Entries of a channel that wait to be added, and what was answered."""

    __slots__ = ("answered", "arguments", "keys", "outcome", "script", "size", "tag", "taken")

    def __init__(
        self, script: Script, tag: bytes, keys: list[bytes], arguments: list[Any], size: int
    ) -> None:
        self.script = script
        self.tag = tag
        self.keys = keys
        self.arguments = arguments
        self.size = size
        self.outcome: Any = None
        self.taken = False
        """Whether a turn has it: its outcome comes, and nobody else is to send it."""
        self.answered = asyncio.Event()


class Commands:
    """The commands of one log, on one client, from its opening to its closing."""

    def __init__(self, client: Client, names: Names, faults: Explainer, *, timeout: float) -> None:
        self._client: Client | None = client
        self._names = names
        self._faults = faults
        self._timeout = timeout
        self._turns = asyncio.Semaphore(connections_of(client, most=_TURNS))
        self._waiting: deque[_Request] = deque()
        self._tags = new_tags()

    def close(self) -> None:
        """Ask nothing any more: what still waits for its turn is told so."""
        self._client = None

    @property
    def client(self) -> Client:
        """The client; raises `NotOpenError` once it's closed."""
        if self._client is None:
            raise NotOpenError
        return self._client

    async def append(
        self,
        channel: str,
        keys: list[bytes],
        arguments: list[Any],
        *,
        size: int,
        count: int,
        script: Script = APPEND,
    ) -> tuple[list[Position | ChannelClosed | str], str]:
        """Run `APPEND`, together with what waits for a turn at the same time; see `appended_in`."""
        request = _Request(script, next(self._tags), keys, arguments, size)
        self._waiting.append(request)
        try:
            while not request.taken:
                async with self._turns:
                    if not request.taken:
                        await self._send_waiting()
            # Another's turn may have it, which isn't over yet.
            await request.answered.wait()
        finally:
            if not request.taken:
                self._waiting.remove(request)
        try:
            if isinstance(request.outcome, Exception):
                raise request.outcome
            return appended_in(request.tag, request.outcome, channel, count)
        except Exception as error:
            raise await self._explained(error, channel) from error

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: Any,
        parts: int = 0,
        parse: Callable[[list[Any]], Any] = list,
        channel: str | None = None,
    ) -> Any:
        """Run a script in a turn, and return what `parse` makes of the parts of its answer."""
        tag = next(self._tags)
        asked = (len(keys), *keys, tag, *arguments)
        async with self._turn(channel) as client:
            try:
                answer = await client.execute_command("EVALSHA", script.sha, *asked, **_RAW)
            except NoScriptError:
                answer = await client.execute_command("EVAL", script.text, *asked, **_RAW)
            found = answer_to(tag, answer, parts)
            try:
                return parse(found)
            except Exception as error:
                raise ResponseError("SSEDATA what is stored for it can't be read") from error

    async def look_on(self, channels: Sequence[str] | None) -> list[ChannelFigures]:
        """Ask for the figures of channels, or of all there are, in a turn."""
        async with self._turn() as client:
            return await read_figures(client, self._names, channels)

    async def run_each(
        self,
        script: Script,
        asked: Mapping[str, tuple[Sequence[bytes], Sequence[Any]]],
        *,
        parts: int,
        parse: Callable[[list[Any]], Any],
    ) -> dict[str, Any]:
        """
        Run a script for many channels, in one turn; those whose data can't be read are left out.

        Args:
            script: the script.
            asked: the keys and the arguments of each channel.
            parts: how many an answer has.
            parse: makes of them what is returned.
        """
        async with self._turn() as client:
            requests = [
                _Request(script, next(self._tags), list(keys), list(arguments), 0)
                for keys, arguments in asked.values()
            ]
            answers = await self._send_known(client, requests)
            found: dict[str, Any] = {}
            for channel, request, answer in zip(asked, requests, answers, strict=True):
                if self._is_refused(answer, channel):
                    continue
                found[channel] = parse(answer_to(request.tag, answer, parts))
            return found

    async def find_heads(
        self, channels: Sequence[str], expire: float | None
    ) -> dict[str, Position]:
        """Ask where channels are, in a turn, and prolong their lives."""
        async with self._turn() as client:
            keys = {channel: self._names.keys(channel) for channel in channels}
            pipeline = client.pipeline(transaction=False)
            for _, meta in keys.values():
                pipeline.execute_command("HMGET", meta, *HEAD, **_RAW)
            answers = await pipeline.execute(raise_on_error=False)
            found: dict[str, Position] = {}
            pipeline = client.pipeline(transaction=False)
            for channel, answer in zip(channels, answers, strict=True):
                if self._is_refused(answer, channel):
                    continue
                try:
                    head = head_in(answer, expire)
                except ValueError:
                    continue  # It's told when somebody looks for this one.
                if head is None:
                    continue
                found[channel], lasts = head
                for key in keys[channel]:
                    pipeline.execute_command("PEXPIRE", key, lasts)
            if found:
                await pipeline.execute()
            return found

    def _is_refused(self, answer: object, channel: str) -> bool:
        """Whether this channel is refused, which is told when somebody looks for it alone; raise what else is."""
        if not isinstance(answer, Exception):
            return False
        told = self._faults.explain(answer, channel)
        if isinstance(told, LogRefused) and told.channel is not None:
            return True
        raise answer

    @asynccontextmanager
    async def _turn(self, channel: str | None = None) -> AsyncIterator[Client]:
        """Have a turn; what goes wrong in it is told as what it means."""
        try:
            # The clock of an answer begins when it's our turn to ask.
            async with self._turns, answer_within(self._timeout):
                yield self.client
        except Exception as error:
            raise await self._explained(error, channel) from error

    async def _send_waiting(self) -> None:
        """Send what waits, and note what became of it; in a turn."""
        taken: list[_Request] = []
        size = 0
        while self._waiting and len(taken) < _REQUESTS_TOGETHER and size < _BYTES_TOGETHER:
            request = self._waiting.popleft()
            request.taken = True
            taken.append(request)
            size += request.size
        failed: Exception = RedisConnectionError("the attempt was given up")
        try:
            async with answer_within(self._timeout):
                answers = await self._send_known(self.client, taken)
            for request, answer in zip(taken, answers, strict=True):
                request.outcome = answer
        except Exception as error:
            failed = error
            # The others would each wait for the same.
            taken += self._waiting
            self._waiting.clear()
        finally:
            for request in taken:
                request.taken = True
                if request.outcome is None:
                    request.outcome = failed
                request.answered.set()

    async def _send_known(self, client: Client, requests: Sequence[_Request]) -> list[Any]:
        """Send these, and the texts of those scripts that the server doesn't know."""
        answers = await self._send(client, requests, "EVALSHA")
        unknown = [
            number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)
        ]
        if unknown:
            again = [requests[number] for number in unknown]
            others = await self._send(client, again, "EVAL")
            for number, answer in zip(unknown, others, strict=True):
                answers[number] = answer
        return answers

    async def _send(self, client: Client, requests: Sequence[_Request], command: str) -> list[Any]:
        asked = [
            (
                command,
                each.script.sha if command == "EVALSHA" else each.script.text,
                len(each.keys),
                *each.keys,
                each.tag,
                *each.arguments,
            )
            for each in requests
        ]
        if len(asked) == 1:
            try:
                return [await client.execute_command(*asked[0], **_RAW)]
            except NoScriptError as error:
                return [error]
        pipeline = client.pipeline(transaction=False)
        for each in asked:
            pipeline.execute_command(*each, **_RAW)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def _explained(self, error: Exception, channel: str | None = None) -> Exception:
        """What callers are told of an error; connections that can't be used any more are closed."""
        client = self._client
        if isinstance(error, (NotOpenError, ChannelClosed)):
            return error
        if isinstance(error, ResponseError) and LOST in str(error):
            return LeaseLostError()
        if (
            client is not None
            and isinstance(client, Redis)
            and (
                # A replica: the name may lead to another server by now. Or an answer too many: no answer
                # on that connection is one to what was asked.
                is_read_only(error)
                or not isinstance(error, (*FAILURES, TimeoutError))
                or isinstance(error, InvalidResponse)
            )
        ):
            with suppress(*FAILURES):
                await client.connection_pool.disconnect(inuse_connections=False)
        return self._faults.explain(error, channel)
