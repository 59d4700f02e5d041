"""
The exceptions of this package, one small tree.

    SSEError                    everything below; `except SSEError` catches what only we raise
    ├── ChannelClosed           the channel takes no more events
    ├── HistoryGap              a channel no longer has what came after a position (LookupError)
    ├── LogUnavailable          the log of a hub can't be reached (ConnectionError)
    │   └── LogRefused          it refuses, until an operator has mended something
    ├── PublishQueueFull        more events wait to be published than a hub holds
    ├── RunNotFound             there is no run of this key, or no longer (LookupError)
    ├── SendTimeoutError        a client took longer over one send than it was allowed (TimeoutError)
    └── SubscriberTooSlow       a channel has forgotten the next event of a subscription

A wrong argument is not among them: it raises `TypeError` or `ValueError`, where it was written.
"""

from __future__ import annotations

__all__ = [
    "ChannelClosed",
    "HistoryGap",
    "LogRefused",
    "LogUnavailable",
    "PublishQueueFull",
    "RunNotFound",
    "SSEError",
    "SendTimeoutError",
    "SubscriberTooSlow",
]


class SSEError(Exception):
    """The base of every exception that is this package's own."""


class SendTimeoutError(SSEError, TimeoutError):
    """
    One send took longer than `send_timeout`, so the stream was ended.

    It is raised by `EventSourceResponse` after the source has been closed. The usual cause is a
    client that stopped reading without closing its connection.

    Attributes:
        timeout: the seconds one send was allowed to take; None where they are not known.
    """

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        found = "send_timeout" if self.timeout is None else f"send_timeout={self.timeout:g} s"
        return (
            f"A send took longer than {found} allows: the client has stopped reading, "
            "or is too slow. Raise send_timeout if such clients are to be kept."
        )


class ChannelClosed(SSEError):  # noqa: N818  (it says what it is)
    """
    An event was published to a channel that has been closed.

    Attributes:
        channel: the name of the channel.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(channel)
        self.channel = channel

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r} has been closed for good. Publish before close(), or to a "
            "channel of another name."
        )


class HistoryGap(SSEError, LookupError):  # noqa: N818  (it says what it is)
    """
    What came after a position can't be read any more, or not all of it.

    Attributes:
        channel: the name of the channel.
        after: the position that was asked for.
        reason: why; see `GapReason`.
    """

    def __init__(self, channel: str, after: str | int, reason: str) -> None:
        super().__init__(channel, after, reason)
        self.channel = channel
        self.after = after
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r} doesn't have all that came after {self.after!r} ({self.reason}): ask for "
            "its history without `after`, and take it for the whole state."
        )


class LogUnavailable(SSEError, ConnectionError):  # noqa: N818  (it says what it is)
    """
    The log of a hub (Redis, a file) can't be reached, or doesn't answer in time.

    Raised where an event was published: it may or may not have been added to the log. Publishing it
    again with the same `key` is safe. Streams that are open stay open, and go on when it's back.

    Attributes:
        log: which one, without a password.
        reason: what was found.
    """

    def __init__(self, log: str, reason: str) -> None:
        super().__init__(log, reason)
        self.log = log
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the log at {self.log} can't be reached: {self.reason}. Open streams stay open and go on "
            "when it's back; publish again with the same key=…, or give publish the time to wait."
        )


class LogRefused(LogUnavailable):
    """
    The log of a hub was reached and refuses what it's asked, until somebody mends something there.

    A wrong password, a command that the user may not run, a folder that is missing, a damaged file.
    Publishing raises it at once, since trying again doesn't help; what reads the log goes on trying,
    says so in the log of the process once a minute, and recovers by itself when it's mended. `except
    LogUnavailable` catches it, too.

    Attributes:
        log: which one, without a password.
        reason: what was found.
        remedy: what an operator can do about it.
        channel: the only channel concerned, if others are not: what is stored for it is wrong.
    """

    def __init__(self, log: str, reason: str, remedy: str, channel: str | None = None) -> None:
        super().__init__(log, reason)
        # All of them, so that it can be pickled.
        self.args: tuple[object, ...] = (log, reason, remedy, channel)
        self.remedy = remedy
        self.channel = channel

    def __str__(self) -> str:
        what = "" if self.channel is None else f" for channel {self.channel!r}"
        return f"the log at {self.log} refuses{what}: {self.reason}. {self.remedy}"


class PublishQueueFull(SSEError):  # noqa: N818  (it says what it is)
    """
    An event was not published: too many wait already for their turn to be added to the log.

    Events are published faster than the log takes them, or it's out of reach. Nothing was added.

    Attributes:
        channel: the name of the channel.
        limit: how many events may wait in a process, all channels together.
    """

    def __init__(self, channel: str, limit: int) -> None:
        super().__init__(channel, limit)
        self.channel = channel
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"channel {self.channel!r}: {self.limit:,} events of this process wait to be added to the "
            "log, and that's the limit. Publish more slowly: wait for the outcome of one before the "
            "next, or of a few hundred at a time."
        )


class RunNotFound(SSEError, LookupError):  # noqa: N818  (it says what it is)
    """
    There is no run of this key: none was started, or its `ttl` is over.

    Attributes:
        key: the key of the run.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"there is no run {self.key!r}: none was started, or it ended longer ago than its ttl. Start one with "
            "`await hub.run(key, source)`."
        )


class SubscriberTooSlow(SSEError):  # noqa: N818  (it says what it is)
    """
    A subscription was iterated more slowly than events were published.

    Attributes:
        channels: the names of its channels.
        last_event_id: the id of the last event it got; subscribe with it to learn what is left.
    """

    def __init__(self, channels: list[str], last_event_id: str) -> None:
        super().__init__(channels, last_event_id)
        self.channels = channels
        self.last_event_id = last_event_id

    def __str__(self) -> str:
        return (
            f"channels {self.channels}: the event after {self.last_event_id!r} is no longer kept. "
            'Raise history, or choose slow="reset".'
        )
