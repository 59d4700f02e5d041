"""What redis-py says when something is wrong, and what it means; nothing here ever shows a secret.

A fault passes, or an operator has to mend the server or the hub's URL, or what is stored for one
channel is wrong. Whatever text of the server or the client goes into an error of ours has had the
passwords taken out.
"""

from __future__ import annotations

import re
import ssl
import time
from logging import getLogger
from typing import TYPE_CHECKING, Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    InvalidResponse,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...errors import LogRefused, LogUnavailable
from ._protocol import strange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._protocol import Names

_logger = getLogger("sse_starlette.eventlogs.redis")

FAILURES = (RedisError, RedisClusterException, OSError, ssl.SSLError)

_WARNED_EVERY_SECONDS = 60.0
_OUTAGES = (
    RedisConnectionError,
    RedisTimeoutError,
    OSError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
# What a server says that can't do it now, but may be able to soon. Inside a script Redis 6 puts
# words in front of it.
_NOT_NOW = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|NOREPLICAS|READONLY|TRYAGAIN|UNKILLABLE)\b"
)
# What an operator has to mend: the first that is found counts.
_REMEDIES = (
    (
        r"WRONGPASS|NOAUTH|unauthenticated|invalid (username-)?password|without any password|no password is set",
        "Correct the user name and the password, in the URL of the hub or at the server.",
    ),
    (
        r"NOPERM|has no permissions|can't (run|access)|ACL",
        "Give the user of the hub what it lacks, as ACL SETUSER … +@all ~{PREFIX:* &{PREFIX:* does.",
    ),
    (
        r"DB index is out of range|invalid DB index|SELECT is not allowed",
        "Name a database in the URL that the server has.",
    ),
    (
        r"max number of clients",
        "Raise maxclients at the server, or close connections that nobody needs.",
    ),
    (r"\bOOM\b|maxmemory", "Raise maxmemory, or make room: nothing can be published meanwhile."),
    (r"MISCONF", "See to the disk of the server: it can't save, so it takes no more writes."),
    (r"DENIED|protected mode", "Set a password at the server, or switch its protected mode off."),
    (r"\bMOVED\b|\bASK\b", "The server is part of a cluster: use redis+cluster:// in the URL."),
    (r"SSEFMT", "Update this package, in every process that uses the channel."),
    (
        r"unknown (sub)?command|unknown subcommand|wrong number of arguments",
        "The server must be Redis 5 or newer, with no command renamed or switched off.",
    ),
)
_OF_ONE_CHANNEL = re.compile(
    r"WRONGTYPE|wrong kind of value|user_script|equal or smaller than|not an integer|SSEDATA"
)
_TLS = re.compile(r"\bSSL\b|\bTLS\b|CERTIFICATE|certificate", re.ASCII)


class Secrets:
    """What must not be shown: taken from the options of connections."""

    def __init__(self, options: Iterable[dict[str, Any]]) -> None:
        found = set()
        for each in options:
            for name in ("password", "ssl_password"):
                value = each.get(name)
                if isinstance(value, bytes):
                    value = value.decode("utf-8", "replace")
                if isinstance(value, str) and value:
                    found.add(value)
        self._found = sorted(found, key=len, reverse=True)

    def take_out(self, error: BaseException | None) -> None:
        """Take them out of an error and those that it came of, which are printed with it."""
        while error is not None:
            text = str(error)
            if (clean := self.taken_out(text)) != text:
                error.args = (clean,)
            error = error.__cause__ or error.__context__

    def taken_out(self, text: str) -> str:
        """The text without any of them, and without what was sent."""
        text = re.split(r",? with args beginning with|,? reply: ", text)[0]
        for secret in self._found:
            text = text.replace(secret, "***")
        return text


def explain(
    error: Exception,
    where: str,
    secrets: Secrets,
    *,
    timeout: float,
    channel: str | None = None,
    keys: str = "",
) -> LogUnavailable:
    """
    Make of an error of redis-py what callers are told.

    Args:
        error: the error.
        where: what the log is called.
        secrets: what must not be in it.
        timeout: seconds that an answer may take.
        channel: the channel that it's about, if it's about one.
        keys: what its keys begin with.
    """
    secrets.take_out(error)
    # Where in a script something was refused helps nobody.
    reason = re.split(r",? script: ", str(error))[0] or f"no answer within {timeout:g} s"
    told = _explained(error, reason, where, channel, keys)
    told.__cause__ = error
    return told


def _explained(
    error: Exception, reason: str, where: str, channel: str | None, keys: str
) -> LogUnavailable:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, reason):
            # Other channels are of a format that this version knows.
            return LogRefused(where, reason, remedy, channel if "SSEFMT" in reason else None)
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return LogRefused(where, reason, _REMEDIES[0][1])
    if isinstance(error, ssl.SSLError) or _TLS.search(reason) or _is_of_tls(error):
        return LogRefused(
            where,
            reason,
            "Use rediss:// for a server that speaks TLS and redis:// for one that doesn't, and a "
            "certificate that is trusted here.",
        )
    if isinstance(error, InvalidResponse):
        return LogRefused(
            where,
            reason,
            "What listens there doesn't speak as Redis does: check host and port, and whether it's "
            "rediss:// that is needed.",
        )
    if isinstance(error, _OUTAGES) or _NOT_NOW.search(reason):
        return LogUnavailable(where, reason)
    if channel is not None and _OF_ONE_CHANNEL.search(str(error)):
        return LogRefused(
            where,
            reason,
            f"Remove the keys that begin with {keys}: they hold something else than a channel. Its "
            "clients are told of the gap then.",
            channel,
        )
    return LogRefused(where, reason, "See to the server; what it says is above.")


def _is_of_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_read_only(error: Exception) -> bool:
    """Whether the server has become a replica."""
    return isinstance(error, ReadOnlyError) or "READONLY" in str(error)


class Explainer:
    """Tells callers, and the log of the process, what errors about one log mean."""

    def __init__(self, where: str, secrets: Secrets, names: Names, *, timeout: float) -> None:
        self._where = where
        self._secrets = secrets
        self._names = names
        self._timeout = timeout
        self._warned_at = -_WARNED_EVERY_SECONDS

    def explain(self, error: Exception, channel: str | None = None) -> LogUnavailable:
        """Make of an error what callers are told; of one that nobody expects, too."""
        if not isinstance(error, (*FAILURES, TimeoutError)):
            # redis-py stumbles over an answer of a form that it doesn't expect.
            error = strange(error)
        return explain(
            error,
            self._where,
            self._secrets,
            timeout=self._timeout,
            channel=channel,
            keys="" if channel is None else self._names.base(channel),
        )

    def warn(self, channel: str, error: Exception) -> None:
        """Say once a minute that something was added, but not all that belongs to it was done."""
        now = time.monotonic()
        if now - self._warned_at < _WARNED_EVERY_SECONDS:
            return
        self._warned_at = now
        told = self.explain(error)
        _logger.warning(
            "what is published to channel %r is added to the log at %s, but who listens elsewhere "
            "hears of it late, or the log isn't trimmed: %s. %s",
            channel,
            self._where,
            told.reason,
            told.remedy if isinstance(told, LogRefused) else "",
            extra={"sse_event": "publish_half_done", "sse_channel": channel},
        )
