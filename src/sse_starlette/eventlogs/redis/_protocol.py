"""What the scripts are asked, and what they have answered: names of keys, arguments, answers.

Pure. The names of all keys of a channel share a hash tag, so that one script may use them on a cluster.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any

from redis.exceptions import InvalidResponse

from ...errors import ChannelClosed
from .._stored_text import to_bytes, to_text
from ..base import (
    DEFAULT_EXPIRE,
    Beginning,
    Entry,
    Limits,
    NewEntry,
    Page,
    Position,
    checked_epoch,
    last_stretch,
)
from ._scripts import HEAD, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_PUBLISHED = 256 * 1024
"""
Bytes of a body that is still sent to those who listen; a larger one they read from the log.

Redis cuts off a listener for which 32 MiB are waiting, so a few of the largest would do.
"""


class Names:
    """What the things of a channel are called in Redis."""

    def __init__(self, prefix: str, db: int) -> None:
        self._prefix = prefix
        # Who publishes in one database is heard in all of them.
        self._topic = f":p{db}"
        self.of = lru_cache(maxsize=1024)(self._of)
        """The stream, the hash and the topic of a channel."""

    def _of(self, channel: str) -> tuple[bytes, bytes, bytes]:
        return *self.keys(channel), self.topic(channel)

    def base(self, channel: str) -> str:
        """What all keys of a channel begin with."""
        # Only the brace of ours may close the hash tag.
        escaped = channel.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{{{self._prefix}:{escaped}}}"

    def keys(self, channel: str) -> tuple[bytes, bytes]:
        """The stream, and the hash that says where the channel is."""
        base = to_bytes(self.base(channel))
        return base + b":s", base + b":m"

    def pattern(self) -> bytes:
        """What the hashes of all channels match, for SCAN."""
        # What isn't a letter may mean something in a pattern.
        prefix = re.sub(r"([^\w])", r"\\\1", self._prefix)
        return to_bytes(f"{{{prefix}:*}}:m")

    def channel_of(self, key: bytes | str) -> str | None:
        """Whose hash it is; None: no channel's. A client may have decoded it."""
        text = key if isinstance(key, str) else to_text(key)
        start, end = f"{{{self._prefix}:", "}:m"
        escaped = text.removeprefix(start).removesuffix(end)
        if text != f"{start}{escaped}{end}" or "{" in escaped or "}" in escaped:
            return None  # What remembers a key may look like it.
        return escaped.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")

    def probe(self) -> tuple[bytes, bytes, bytes]:
        """Keys that are of no channel: a stream, a hash and a string."""
        base = to_bytes(self.base("")) + b":check:"
        return base + b"s", base + b"m", base + b"k"

    def marker(self, channel: str, key: str) -> bytes:
        """What remembers a key that something was appended with."""
        return to_bytes(f"{self.base(channel)}:k:{key}")

    def topic(self, channel: str) -> bytes:
        """Where one hears of what is appended."""
        return to_bytes(self.base(channel) + self._topic)


@lru_cache(maxsize=256)
def limits_asked(limits: Limits) -> bytes:
    """The limits as the scripts want them: what somebody has given of them."""
    given = (
        limits.events,
        limits.bytes,
        None if limits.seconds is None else milliseconds(limits.seconds),
        None if limits.expire is None else milliseconds(limits.expire),
    )
    return " ".join("" if n is None else f"{n}" for n in given).encode()


def append_asked(
    names: Names, channel: str, entries: Sequence[NewEntry], limits: Limits, new_epoch: str
) -> tuple[list[bytes], list[Any]]:
    """The keys and the arguments of `APPEND`, without the tag. The entries are of one writer."""
    stream, meta, topic = names.of(channel)
    keys = [stream, meta]
    writer = next((f"w:{entry.writer}" for entry in entries if entry.writer), "")
    arguments: list[Any] = [new_epoch, limits_asked(limits), topic, LARGEST_PUBLISHED, writer]
    for entry in entries:
        if entry.writer:
            remembered = b"%d" % entry.turn
        else:
            keys.append(names.marker(channel, entry.key))
            remembered = b"/%d" % milliseconds(entry.key_seconds)
        arguments += [entry.body, to_bytes(entry.key), remembered]
    return keys, arguments


def new_tags() -> Iterator[bytes]:
    """What answers are recognized by; any thread may take the next one."""
    return map(b"%x".__mod__, count(random.getrandbits(48)))


def strange(answer: object) -> InvalidResponse:
    """The error of an answer that isn't one to what was asked."""
    return InvalidResponse(f"an answer of another form than expected ({type(answer).__name__})")


def answer_to(tag: bytes, answer: Any, parts: int) -> list[Any]:
    """What a script has answered, without its tag; the answer to something else is refused."""
    if not isinstance(answer, list) or len(answer) != parts + 1 or answer[0] != tag:
        raise strange(answer)
    return answer[1:]


def appended_in(
    tag: bytes, answer: Any, channel: str, count: int
) -> tuple[list[Position | ChannelClosed | str], str]:
    """
    What `APPEND` has answered.

    Returns:
        What became of each entry: its position, that the channel was closed, or what was refused. And
        what was refused beside that, if anything.
    """
    if not isinstance(answer, bytes):
        raise strange(answer)
    told, *results = answer.split(b"\n")
    if told != tag or len(results) != count + 1:
        raise strange(answer)
    warning = results.pop(0).decode("utf-8", "replace")
    found: list[Position | ChannelClosed | str] = []
    for result in results:
        if result == b"":
            found.append(ChannelClosed(channel))
        elif result == b"?" or result[:1] == b"!":
            found.append(result[1:].decode("utf-8", "replace"))
        else:
            epoch, offset = result.split()
            found.append(Position(epoch.decode(), int(offset)))
    return found, warning


def head_in(answer: object, expire: float | None) -> tuple[Position, int] | None:
    """
    What the fields of `HEAD` say; None: there is no such channel. ValueError: they can't be read.

    Args:
        answer: the fields.
        expire: seconds after which the channel may be forgotten; None: as somebody has said.

    Returns:
        Where it is, and the ms that its keys live from now on.
    """
    if not isinstance(answer, list) or len(answer) != len(HEAD):
        raise strange(answer)
    epoch, offset, state, kept = answer
    if epoch is None:
        return None
    if state is not None:
        kept = state.rpartition(b" ")[2]
    lasts = int(kept or milliseconds(DEFAULT_EXPIRE)) if expire is None else milliseconds(expire)
    return Position(checked_epoch(epoch), int(offset or 0)), lasts + 1_000


def beginning_in(parts: list[Any]) -> Beginning:
    """What `SEEK` has found."""
    epoch, offset, complete = parts
    return Beginning(epoch.decode(), int(offset), bool(complete))


def page_in(parts: list[Any]) -> Page:
    """What `READ` has found."""
    epoch, head, closed, found = parts
    entries = [
        Entry(int(id_.partition(b"-")[0]), to_text(key), body) for id_, (_, key, _, body) in found
    ]
    return Page(epoch.decode(), int(head), bool(closed), last_stretch(entries))
