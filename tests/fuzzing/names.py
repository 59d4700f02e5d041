"""Names of channels in the keys of Redis and in the rows of SQLite: no two share one, whatever they are."""

from __future__ import annotations

import hashlib

from tests.fuzzing.inputs import Picks, text_from

from sse_starlette.eventlogs._stored_text import to_bytes, to_text
from sse_starlette.eventlogs.redis._protocol import Names


def check_names(picks: Picks, count: int) -> None:
    """The keys of a name say it back, and stay in the hash slot that the name has."""
    names = Names("sse", 0)
    for _ in range(count):
        name, key = text_from(picks), text_from(picks)
        assert to_text(to_bytes(name)) == name
        stream, meta = names.keys(name)
        # What gives the name back can't be shared by another one.
        assert names.channel_of(meta) == name
        tag = _hash_tag(meta)
        assert tag == _hash_tag(stream) == _hash_tag(names.marker(name, key))
        assert names.channel_of(names.marker(name, key)) is None
        assert names.channel_of(stream) is None


def _hash_tag(key: bytes) -> bytes:
    """What Redis Cluster takes the slot from: between the first brace and the next closing one."""
    _, _, rest = key.partition(b"{")
    tag, brace, _ = rest.partition(b"}")
    assert brace
    assert tag
    return hashlib.sha256(tag).digest()
