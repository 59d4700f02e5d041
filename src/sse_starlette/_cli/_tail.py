"""`tail`: reads a stream as a client does that comes back, and shows what comes."""

from __future__ import annotations

import json
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2

from .._stream.headers import is_event_stream
from .._wire.number import whole_number
from ..testing import Comment, Cursor, Event, EventStreamParser, StreamFailure
from ._advice import STATUS_HINTS, in_plain_words
from ._client import new_client
from ._shown import printable, shown_url
from ._tally import Tally, latency_of, shown_ms

if TYPE_CHECKING:
    from ..testing import Parsed
    from ._client import Target
    from ._terminal import Terminal

LONGEST_PAUSE = 30.0
LONGEST_ASKED_PAUSE = 3600
MOST_REDIRECTS = 10


@dataclass(frozen=True)
class TailOptions:
    """How a stream is shown."""

    last_event_id: str = ""
    once: bool = False
    """Whether to stop at the end of the first connection."""
    count: int | None = None
    """Events after which to stop."""
    comments: bool = False
    as_json: bool = False
    latency: str | None = None
    """The field of the data that says when it was made."""
    retry: float = 3.0
    """Seconds before it comes back, as browsers do if the server says nothing."""
    first_pause: float = 1.0
    """Seconds before it comes back after an error, at least."""


def _asked_pause(retry_after: str) -> float:
    """Seconds that a server asks for: Retry-After, a number or a date (RFC 9110 10.2.3); 0: none."""
    seconds = whole_number(retry_after.strip())
    if seconds is not None:
        return seconds
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0
    # Without a zone it's in UTC, as all dates of HTTP.
    return max(until.replace(tzinfo=until.tzinfo or UTC).timestamp() - time.time(), 0)


class _StopError(Exception):
    """There's nothing more to read; the exit code, and why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Tail:
    """A stream that is being followed."""

    def __init__(self, target: Target, options: TailOptions, terminal: Terminal) -> None:
        self._target = target
        self._options = options
        self._terminal = terminal
        self._last_event_id = options.last_event_id
        self._retry = options.retry
        self._pause = options.first_pause
        self._tally = Tally()
        self._connections = 0
        self._began = self._last_at = time.monotonic()
        self._redirects = 0

    async def run(self, transport: httpx2.AsyncBaseTransport | None = None) -> int:
        """Follow the stream until it's over for good, or cancelled; the exit code."""
        try:
            async with new_client(self._target, transport) as client:
                while True:
                    pause = await self._connect(client)
                    await anyio.sleep(pause)
        except _StopError as stop:
            if str(stop):
                self._terminal.say(f"== {stop}")
            return stop.code
        finally:
            seconds = time.monotonic() - self._began
            if self._connections:
                told = self._tally.summary(connections=self._connections, seconds=seconds)
                self._terminal.say(f"== {told}")

    async def _connect(self, client: httpx2.AsyncClient) -> float:
        """Read one connection to its end; the seconds to wait before the next."""
        headers = [("Accept", "text/event-stream"), ("Cache-Control", "no-store")]
        if self._last_event_id:
            # A header is Latin-1 or UTF-8; ids are sent as UTF-8 (WHATWG HTML 9.2.3).
            headers.append(("Last-Event-ID", self._last_event_id))
        sent = [
            (name.encode(), value.encode("utf-8", "surrogateescape"))
            for name, value in (*headers, *self._target.headers)
        ]
        try:
            async with client.stream(
                self._target.method, self._target.url, headers=sent, content=self._target.body
            ) as response:
                pause = self._judge(response)
                return await self._read(response) if pause is None else pause
        except httpx2.RequestError as exc:
            why = printable(str(exc)) or type(exc).__name__
            if not self._connections:
                raise _StopError(
                    1, f"no connection to {shown_url(self._target.url)}: {in_plain_words(why)}"
                ) from exc
            return self._again(f"the connection broke: {why}")
        except StreamFailure as exc:
            raise _StopError(1, f"the stream can't be read: {exc.details}") from exc

    def _judge(self, response: httpx2.Response) -> float | None:
        """None: read it. Else the seconds after which to ask again."""
        status = response.status_code
        if status == httpx2.codes.NO_CONTENT:
            raise _StopError(0, "204: the stream is over, and a browser would not come back")
        if response.has_redirect_location:
            self._follow(response)
            return 0.0
        if status == httpx2.codes.TOO_MANY_REQUESTS or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            if self._options.once:
                hint = STATUS_HINTS.get(status, "an EventSource gives up for good at this")
                raise _StopError(1, f"{status} {response.reason_phrase}: {hint}")
            asked = _asked_pause(response.headers.get("retry-after", ""))
            return self._again(
                f"{status} {response.reason_phrase}; a browser would give up here",
                at_least=min(asked, LONGEST_ASKED_PAUSE),
            )
        if status != httpx2.codes.OK:
            hint = STATUS_HINTS.get(status, "")
            told = f"{status} {response.reason_phrase}: that is no stream"
            raise _StopError(1, f"{told}; {hint}" if hint else told)
        content_type = response.headers.get("content-type")
        if not is_event_stream(content_type):
            found = "no content type" if content_type is None else printable(content_type)
            raise _StopError(1, f"{found}, which is not text/event-stream: that is no event stream")
        self._redirects = 0
        self._connections += 1
        where = f" after {printable(self._last_event_id)}" if self._last_event_id else ""
        self._terminal.say(f"== connected{where}, {response.http_version}")
        return None

    def _follow(self, response: httpx2.Response) -> None:
        url = urljoin(self._target.url, response.headers["location"])
        self._redirects += 1
        if self._redirects > MOST_REDIRECTS:
            raise _StopError(1, f"{MOST_REDIRECTS} redirects, the last one to {shown_url(url)}")
        # What was given for one server, a token above all, is not for another one.
        if urlsplit(url)[:2] != urlsplit(self._target.url)[:2]:
            raise _StopError(
                1, f"{response.status_code}: moved to {shown_url(url)}, another server: ask there"
            )
        self._terminal.say(f"== {response.status_code}: moved to {shown_url(url)}")
        keeps = response.status_code in {307, 308}
        self._target = replace(
            self._target,
            url=url,
            method=self._target.method if keeps else "GET",
            body=self._target.body if keeps else None,
        )

    async def _read(self, response: httpx2.Response) -> float:
        parser = EventStreamParser(
            last_event_id=self._last_event_id, max_event_bytes=self._target.most_event_bytes
        )
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                for item in parser.feed(piece):
                    self._show(item)
                    if not isinstance(item, Comment):
                        self._last_event_id = item.id
                    if self._tally.events == self._options.count:
                        raise _StopError(0, "")
                self._pause = self._options.first_pause
                if parser.retry_ms is not None:
                    self._retry = parser.retry_ms / 1000
        if self._options.once:
            raise _StopError(0, "the stream has ended")
        self._terminal.say(f"== the stream has ended; coming back in {self._retry:g} s")
        return self._retry

    def _again(self, why: str, at_least: float = 0) -> float:
        if self._options.once:
            raise _StopError(1, why)
        pause = max(self._retry, self._pause) * random.uniform(0.8, 1.2)  # noqa: S311  (not a secret)
        pause = max(pause, at_least)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._terminal.say(f"== {why}; again in {pause:.1f} s")
        return pause

    def _show(self, item: Parsed) -> None:
        now, at = time.time(), time.monotonic()
        latency = latency_of(item, self._options.latency, now)
        if latency is not None:
            self._tally.latencies.append(latency)
        remark = self._tally.take(item)
        if isinstance(item, Event) or self._options.comments:
            since, self._last_at = at - self._last_at, at
            show = self._as_json if self._options.as_json else self._as_text
            self._terminal.result(show(item, now, since, latency, remark))

    def _as_json(
        self, item: Parsed, now: float, since: float, latency: float | None, remark: str
    ) -> str:
        found: dict[str, object] = {"at": datetime.fromtimestamp(now, UTC).isoformat()}
        if isinstance(item, Event):
            found |= {"event": item.event, "data": item.data}
            found |= {"id": item.id} if item.own_id else {}
        elif isinstance(item, Cursor):
            found["id"] = item.id
        else:
            found["comment"] = item.text
        found["since"] = round(since, 6)
        found |= {"latency": round(latency, 6)} if latency is not None else {}
        found |= {"remark": remark} if remark else {}
        return json.dumps(found)

    def _as_text(
        self, item: Parsed, now: float, since: float, latency: float | None, remark: str
    ) -> str:
        parts = [datetime.fromtimestamp(now).astimezone().strftime("%H:%M:%S.%f")[:-3]]
        parts.append(f"+{since:.3f}s")
        if latency is not None:
            parts.append(f"({shown_ms(latency)})")
        if isinstance(item, Event):
            parts.append(printable(item.event))
            parts += [f"id={printable(item.id)}"] if item.own_id else []
            parts += [printable(item.data)]
        elif isinstance(item, Cursor):
            parts.append(f"id={printable(item.id)}")
        else:
            parts.append(f":{printable(item.text)}")
        parts += [f"<- {remark}"] if remark else []
        return " ".join(parts)
