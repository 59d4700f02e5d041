"""Who may listen, how many at a time and for how long: one policy for a stream, a route or a whole application.

Counts streams and judges requests; runs no stream. A slot is taken when a response is called and given back when that
call is over, whatever has become of it in between.
"""

from __future__ import annotations

import random
from functools import partial
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from starlette.requests import HTTPConnection

from ._arguments import check_callable, check_listener, check_milliseconds, check_seconds
from ._runtime.fork import tell_child
from ._stream.options import Grant, StreamOptions

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ._stream.lifecycle import CloseReason

__all__ = ["Refusal", "StreamPolicy", "StreamPolicyMiddleware"]

Refusal: TypeAlias = Literal["retry", "reject"]
"""
What a client gets that would be one too many:

- `"retry"`: 200, a `retry:` field, and the end of the stream. A browser's `EventSource` comes back after that
  time; any other status would make it give up for good.
- `"reject"`: 503 if the process has no room, 429 if the listener has none, with `Retry-After`: for clients of an API.
"""

_REJECTED = {"total": 503, "per_listener": 429}
_SAID = {
    503: b"Too many streams are open here. Come back after the time in Retry-After.\n",
    429: b"You have too many streams open. Close one, or come back after the time in Retry-After.\n",
}
_IN_SCOPE = "sse_starlette.policy"
_USUAL_INTERVAL = 15.0
_YOUNGEST = 0.9
"""The least of `max_age` that a stream lives, so that those that began together don't end together."""


class StreamPolicy:
    """
    Limits the streams that it's given to, and says who their listeners are.

    ```python
    policy = StreamPolicy(
        total=5_000,
        per_listener=6,
        listener=lambda request: request.client.host,
        max_age=590,
    )


    async def stream(request):
        return EventSourceResponse(prices.subscribe(request), policy=policy)
    ```

    It may be a module's variable, and be used on any number of loops and threads. What it counts are the
    streams of this process: with four workers, four times as many may be open.
    """

    def __init__(
        self,
        *,
        total: int | None = None,
        per_listener: int | None = None,
        listener: Callable[[HTTPConnection], str | None] | None = None,
        refusal: Refusal = "retry",
        retry_ms: tuple[int, int] = (5_000, 30_000),
        max_age: float | None = None,
        send_timeout: float | None = 30.0,
        revalidate: Callable[[HTTPConnection], Awaitable[bool]] | None = None,
    ) -> None:
        """
        Say what holds for the streams that it's given to.

        Args:
            total: how many of them may be open in this process; None: any number.
            per_listener: how many of them one listener may have open in this process; None: any number. A
                browser opens six to an origin on HTTP/1.1. Who has no name isn't counted by it.
            listener: names who listens, a user, a session or an address, from the request; None, also from that
                function, and an empty name: nobody in particular. A response's own `listener` counts for more.
            refusal: what a client gets that would be one too many; see `Refusal`.
            retry_ms: the least and the most of the milliseconds that such a client is to wait; each draws its
                own.
            max_age: seconds after which a stream ends, for its client to come back: between nine tenths of
                it and all of it, by chance, so that not all come at once. Choose less than a proxy
                allows a connection in all. None: streams of any age.
            send_timeout: seconds that one send may take, where the response says nothing itself; None: any
                time. See `EventSourceResponse`.
            revalidate: an async function, called with the request every ping interval (15 seconds if
                there are no pings) while the stream is open: whether its listener may still listen. If not,
                the stream ends, with the event `revoked`. If it raises, or takes longer than the interval,
                that is an error of the stream. None: who may listen at the beginning may do so to the end.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
        """
        _check_count("total", total)
        _check_count("per_listener", per_listener)
        if refusal not in get_args(Refusal):
            raise ValueError(f"refusal must be one of {get_args(Refusal)}, got: {refusal!r}")
        check_milliseconds("retry_ms", retry_ms)
        if max_age is not None:
            check_seconds("max_age", max_age)
            if max_age == 0:
                raise ValueError(
                    "max_age must be > 0 seconds; None lets streams grow as old as they may"
                )
        if send_timeout is not None:
            check_seconds("send_timeout", send_timeout)
        if listener is not None:
            check_callable("listener", listener, "the request", waits=False)
        if revalidate is not None:
            check_callable("revalidate", revalidate, "the request", waits=True)
        self.total = total
        self.per_listener = per_listener
        self.listener = listener
        self.refusal: Refusal = refusal
        self.retry_ms = retry_ms
        self.max_age = max_age
        self.send_timeout = send_timeout
        self.revalidate = revalidate
        self._slots = Slots()

    def __repr__(self) -> str:
        return (
            f"<StreamPolicy total={self.total} per_listener={self.per_listener} open={self.open}>"
        )

    @property
    def open(self) -> int:
        """How many streams are open now, in this process."""
        return self._slots.taken

    @property
    def refused(self) -> int:
        """How many were refused, since this process began."""
        return self._slots.refused

    def open_of(self, listener: str) -> int:
        """How many streams this listener has open now, in this process."""
        return self._slots.of.get(listener, 0)


class StreamPolicyMiddleware:
    """
    Gives a policy to all streams of an application that have none of their own.

    `app.add_middleware(StreamPolicyMiddleware, policy=policy)`. It does nothing to any other response.
    """

    def __init__(self, app: ASGIApp, policy: StreamPolicy) -> None:
        """
        Wrap `app`.

        Raises:
            TypeError: `policy` is no `StreamPolicy`.
        """
        check_policy(policy)
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with the policy in its scope."""
        if scope["type"] != "lifespan":
            scope = {**scope, _IN_SCOPE: self.policy}
        await self.app(scope, receive, send)


class Slots:
    """How many streams of a policy are open, in all and by listener."""

    __slots__ = ("__weakref__", "lock", "of", "refused", "taken")

    def __init__(self) -> None:
        self.lock: LockType = Lock()
        self.taken: int = 0
        self.refused: int = 0
        self.of: dict[str, int] = {}
        tell_child(self)

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: the streams are the parent's."""
        self.lock = Lock()
        self.taken = self.refused = 0
        self.of = {}

    def take(
        self, listener: str | None, total: int | None, per_listener: int | None
    ) -> Literal["total", "per_listener"] | None:
        """Take a slot; the limit that forbids it, or None if it's taken."""
        with self.lock:
            if total is not None and self.taken >= total:
                self.refused += 1
                return "total"
            if listener is not None:
                open_now = self.of.get(listener, 0)
                if per_listener is not None and open_now >= per_listener:
                    self.refused += 1
                    return "per_listener"
                self.of[listener] = open_now + 1
            self.taken += 1
            return None

    def give_back(self, listener: str | None) -> None:
        """Give one slot back."""
        with self.lock:
            # A child of a fork has forgotten what its parent took, and isn't to count below nothing.
            self.taken = max(self.taken - 1, 0)
            if listener is not None:
                left = self.of.get(listener, 1) - 1
                if left > 0:
                    self.of[listener] = left
                else:
                    self.of.pop(listener, None)


class Admission:
    """What is granted to one request, and the slot that it holds."""

    __slots__ = ("_listener", "_refusal", "_slots", "ending", "options")

    def __init__(self, options: StreamOptions) -> None:
        """Grant what the response asks for."""
        self.options: StreamOptions = options
        """What is granted."""
        self.ending: tuple[Literal["refused"]] | tuple[Literal["error"], Exception] | None = None
        """Why the stream ends before it has begun; None: it doesn't."""
        self._listener = options.who
        # The status of a stream that is refused, and the milliseconds that its client is to wait.
        self._refusal: tuple[int, int] | None = None
        self._slots: Slots | None = None

    def apply(self, policy: StreamPolicy, scope: Scope, *, counts: bool) -> None:
        """Grant what the policy does; see `admit`."""
        request = HTTPConnection(scope)
        options = self.options
        if self._listener is None and policy.listener is not None:
            named = policy.listener(request)
            if named is not None:
                check_listener("listener", named)
            options = options._replace(listener=named)
            self._listener = options.who
        # Chance is no secret here: it only has to differ from stream to stream.
        age = policy.max_age and policy.max_age * random.uniform(_YOUNGEST, 1.0)  # noqa: S311
        self.options = options._replace(
            listener=self._listener,
            send_timeout=policy.send_timeout
            if options.send_timeout is None
            else options.send_timeout,
            grant=Grant(
                max_age=age,
                revalidate=policy.revalidate and partial(policy.revalidate, request),
                revalidate_interval=options.ping_interval or _USUAL_INTERVAL,
                last_words=partial(self._last_words, options.encoder()),
            ),
        )
        if not counts:
            return
        slots = slots_of(policy)
        refused_by = slots.take(self._listener, policy.total, policy.per_listener)
        if refused_by is None:
            self._slots = slots
            return
        self.ending = ("refused",)
        status = 200 if policy.refusal == "retry" else _REJECTED[refused_by]
        self._refusal = (status, random.randint(*policy.retry_ms))  # noqa: S311  (as above)

    def release(self) -> None:
        """Give the slot back, if one was taken. May be called twice."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back(self._listener)

    def start_message(self, start: Message) -> Message:
        """Return the headers of the response, if it's refused those that say so."""
        if self._refusal is None or self._refusal[0] == 200:
            return start
        status, wait = self._refusal
        headers = [(name, value) for name, value in start["headers"] if name != b"content-type"]
        headers += [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"retry-after", b"%d" % ceil(wait / 1_000)),
        ]
        return {**start, "status": status, "headers": headers}

    def _last_words(self, encode: Callable[[object], bytes], _: CloseReason) -> bytes:
        if self._refusal is None:
            return b""
        status, wait = self._refusal
        return encode({"retry": wait}) if status == 200 else _SAID[status]


def slots_of(policy: StreamPolicy) -> Slots:
    """Return what a policy has counted."""
    return policy._slots  # noqa: SLF001  (private to users, not to this module)


def policy_for(scope: Scope, own: StreamPolicy | None) -> StreamPolicy | None:
    """Return the policy of a response: its own, or that of its application."""
    found: StreamPolicy | None = scope.get(_IN_SCOPE) if own is None else own
    return found


def admit(policy: StreamPolicy, scope: Scope, options: StreamOptions, *, counts: bool) -> Admission:
    """
    Judge the request in `scope`; the caller releases what it gets.

    What a function of the policy raises is left in `ending`, so that the source is closed all the same.

    Args:
        policy: by which policy.
        scope: the request.
        options: what the response asks for.
        counts: whether a slot is taken; who asks for the headers alone needs none.
    """
    admission = Admission(options)
    try:
        admission.apply(policy, scope, counts=counts)
    except Exception as exc:
        admission.ending = ("error", exc)
    return admission


def check_policy(policy: object) -> None:
    """
    Make sure that `policy` is one.

    Raises:
        TypeError: it isn't.
    """
    if not isinstance(policy, StreamPolicy):
        raise TypeError(
            f"policy is {type(policy).__name__}: give a StreamPolicy(total=…, per_listener=…, …)."
        )


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {type(value).__name__}: give a number of streams, {name}=100.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 stream, got: {value}; None for any number")
