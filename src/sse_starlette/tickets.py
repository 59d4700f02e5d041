"""One-use tickets for clients that can't send a header: a browser's `EventSource`.

Signs and checks them, and remembers which were used; who gets one is the application's affair.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from ._arguments import check_listener, check_seconds, check_type
from ._runtime.workers import warn_of_other_workers
from .errors import HistoryGap
from .hub import own_channel

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from .hub import Hub

__all__ = ["Tickets"]

_PARAMETER = "ticket"
_SHORTEST_SECRET = 16
_LONGEST_SECONDS = 60.0
"""An event log remembers for twice as long which tickets were used."""
_LONGEST_TICKET = 2_048


class Tickets:
    """
    Issues tickets that let one client open one stream, once and soon.

    An `EventSource` sends no header of the application's own, so a token would have to stand in its URL, which ends up
    in the logs of servers and proxies. A ticket may: it's good for seconds, and once.

    ```python
    tickets = Tickets(os.environ["TICKET_SECRET"], hub=hub)


    async def ticket(request):  # asked for with the usual header
        return PlainTextResponse(tickets.issue(request.user.display_name, path="/events"))


    async def events(request):  # new EventSource("/events?ticket=" + ticket)
        listener = await tickets.redeem(request)
        return EventSourceResponse(news.subscribe(request), listener=listener)
    ```

    When its stream ends, an `EventSource` comes back with the same URL and is refused, which ends it for good: the page then
    fetches a new ticket and opens another one, with `&last_event_id=` of the last event it got.
    """

    def __init__(
        self, secret: str | bytes, *, hub: Hub | None = None, seconds: float = 30.0
    ) -> None:
        """
        Issue and redeem tickets with this secret.

        Args:
            secret: what tickets are signed with, the same in all processes; at least 16 bytes, from a
                source of chance (`secrets.token_urlsafe(32)`).
            hub: whose event log remembers for all processes which tickets were used. None, or a hub in
                memory: only this process does, so with several workers a ticket is good once in each.
            seconds: for which a ticket is good; 60 at the most.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        if not isinstance(secret, (str, bytes)):
            raise TypeError(
                f"secret is {type(secret).__name__}: give text or bytes that only your processes know."
            )
        key = secret.encode() if isinstance(secret, str) else secret
        if len(key) < _SHORTEST_SECRET:
            raise ValueError(
                f"secret has {len(key)} bytes: give at least {_SHORTEST_SECRET}, from secrets.token_urlsafe(32)."
            )
        check_seconds("seconds", seconds)
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise ValueError(
                f"seconds must be > 0 and at most {_LONGEST_SECONDS:g}, got: {seconds}"
            )
        self._key = key
        self._seconds = seconds
        self._hub = hub
        # The tickets that were used here, until when they'd be good, and what tells who was first.
        self._used: dict[str, tuple[float, object]] = {}

    def issue(self, listener: str, *, path: str = "") -> str:
        """
        Return a new ticket, which can stand in a URL as it is.

        Args:
            listener: who may listen with it; see `EventSourceResponse`.
            path: the one path that it's good for, as in the URL; empty: any.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        check_listener("listener", listener)
        check_type("path", path, str, 'path="/events"')
        if path and (path[0] != "/" or "?" in path or "#" in path):
            raise ValueError(
                f'path is {path!r}, which is no request\'s: give the path alone, from its slash on, path="/events".'
            )
        good_until = time.time() + self._seconds
        said = json.dumps([listener, path, good_until, secrets.token_urlsafe(16)]).encode()
        ticket = f"{_text(said)}.{_text(self._signature(said))}"
        if len(ticket) > _LONGEST_TICKET:
            raise ValueError(
                f"listener and path are too long for a ticket: {len(listener)} and {len(path)} characters make "
                f"one of {len(ticket)}, of {_LONGEST_TICKET} at the most. Name the listener by a short id."
            )
        return ticket

    async def redeem(self, request: HTTPConnection) -> str:
        """
        Return the listener of the ticket in `request`, in its query as `ticket`; it can't be used again.

        Raises:
            HTTPException: 401: there's no ticket, or it isn't ours, is too old, was used, or is for another path.
            LogUnavailable: whether it was used can't be asked now.
        """
        said = self._said(request.query_params.get(_PARAMETER, ""))
        if said is not None:
            listener, path, good_until, nonce = said
            now = time.time()
            is_good = now < good_until and path in ("", request.url.path)
            is_good = is_good and self._is_first_here(nonce, good_until, now)
            if is_good and await self._is_first(nonce):
                return listener
        raise HTTPException(
            401, "This needs a new ticket, which is good once and for a short time."
        )

    def _said(self, ticket: str) -> tuple[str, str, float, str] | None:
        """What a ticket says, if we have said it."""
        if len(ticket) > _LONGEST_TICKET:
            return None
        body, _, signature = ticket.partition(".")
        try:
            said, signed = _data(body), _data(signature)
        except ValueError:
            return None
        if not hmac.compare_digest(signed, self._signature(said)):
            return None
        listener, path, good_until, nonce = json.loads(said)
        return listener, path, good_until, nonce

    def _signature(self, said: bytes) -> bytes:
        return hmac.digest(self._key, b"sse_starlette ticket\n" + said, hashlib.sha256)

    def _is_first_here(self, nonce: str, good_until: float, now: float) -> bool:
        # They were used in about the order of their age.
        for used, (until, _) in list(self._used.items()):
            if until > now:
                break
            self._used.pop(used, None)
        # Without a lock, for several threads: of all that set a default at once, one has set it.
        claim = good_until, object()
        return self._used.setdefault(nonce, claim) is claim

    async def _is_first(self, nonce: str) -> bool:
        """Whether no other process has redeemed it: of all that say so with one key, the log takes one."""
        if self._hub is None or self._hub.log is None:
            warn_of_other_workers(
                "the tickets that were used are in its memory: each is good once in every worker",
                "Give Tickets a hub that has an event log",
            )
            return True
        channel = own_channel(self._hub, "tickets")
        claim = secrets.token_urlsafe(16)
        offset = int((await channel.publish({"data": claim}, key=nonce)).rpartition(".")[2])
        try:
            found = await channel.history(after=offset - 1, limit=1)
        except HistoryGap:
            return False  # It was used so many tickets ago that the log has nothing of it any more.
        return [event.data for event in found] == [claim]


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _data(text: str) -> bytes:
    return urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
