"""Publishing from programs without an event loop: Celery, Django, cron, scripts.

It appends to the event log of a hub and listens to nothing. A call blocks its thread, and no other one for
longer than the log takes.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from .._arguments import check_key
from .._runtime.fork import leave_to_parent, tell_child
from .._runtime.lock import Lock
from ..errors import LogRefused, LogUnavailable
from ..event import encode_published
from ._publish_queue import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from .._wire.values import Serializer
    from ..event import Event
    from .base import Backend, BlockingAppender, Limits

__all__ = ["Publisher"]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0


class _Connection:
    """A way to append that threads share: who is the last to use it after it was left closes it."""

    def __init__(self, appender: BlockingAppender) -> None:
        self.appender = appender
        self.users = 0
        self.is_left = False


class Publisher:
    """
    Publishes to the channels of a hub on an event log, from code that can't await; see `Hub.publisher`.

    ```python
    publisher = hub.publisher()
    publisher.publish("prices", {"data": 12.5})
    ```

    Any thread may use it. In the child of a fork it makes a connection of its own. It connects with the
    first event; `close`, or the end of a `with` block, gives the connection back.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        limits_of: Callable[[str], Limits],
        typed: Callable[[str, Event], Event],
        publish_wait: float,
        serializer: Serializer | None,
    ) -> None:
        """Connect to nothing yet; made by `Hub.publisher`."""
        self._backend = backend
        self._limits_of = limits_of
        self._typed = typed
        self._publish_wait = publish_wait
        self._serializer = serializer
        self._lock = Lock()
        self._connection: _Connection | None = None
        tell_child(self)

    def publish(
        self, channel: str, event: Event, *, key: str | None = None, wait: float | None = None
    ) -> str:
        """
        Add `event` to the channel of this name and return its id; everybody who is subscribed gets it.

        Args:
            channel: the name of the channel.
            event: as for `Channel.publish`.
            key: as for `Channel.publish`: an event with a key that was published within the last 120
                seconds, by whoever, is not published again, and its id is returned.
            wait: seconds for which it's tried again while the log is out of reach; 0: not at all.
                None: as the hub's `publish_wait` says.

        Raises:
            ChannelClosed: the channel has been closed.
            LogUnavailable: the log was out of reach all the time; nobody knows whether the event was
                added. With the same `key` it's safe to publish it again.
            LogRefused: an operator has to mend something at the log.
            TypeError, ValueError: as for `Channel.publish`.
        """
        if wait is None:
            wait = self._publish_wait
        elif not wait >= 0:
            raise ValueError(f"wait must be >= 0 seconds, got: {wait}")
        if not isinstance(channel, str):
            raise TypeError(
                f"publish needs the name of a channel, got: {type(channel).__name__}; write "
                "publisher.publish(channel.name, event)"
            )
        if key is not None:
            check_key(key)
        body = encode_published(self._typed(channel, event), self._serializer)
        until = time.monotonic() + wait
        # By its key, for threads add to a channel in any order.
        entry = Writer().entry(body, key, wait)._replace(writer="", turn=0)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                with self._borrowed() as appender:
                    position = appender.append(channel, entry, self._limits_of(channel))
            except LogRefused:
                raise
            except LogUnavailable:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                return f"{position.epoch}.{position.offset}"

    def close(self) -> None:
        """Give the connection back; the next event makes another one. May be called twice.

        What other threads are publishing meanwhile still goes through it, and the last of them closes it.
        """
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            connection.is_left = True
            in_use = connection.users
        if not in_use:
            connection.appender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: the connection is the parent's."""
        leave_to_parent(self._connection)
        self._lock = Lock()
        self._connection = None

    @contextmanager
    def _borrowed(self) -> Iterator[BlockingAppender]:
        """The connection, which isn't closed within the block, whoever calls `close` meanwhile."""
        with self._lock:
            if self._connection is None:
                self._connection = _Connection(self._backend.blocking())
            connection = self._connection
            connection.users += 1
        try:
            yield connection.appender
        finally:
            with self._lock:
                connection.users -= 1
                is_done = connection.is_left and not connection.users
            if is_done:
                connection.appender.close()
