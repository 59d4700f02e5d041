"""What this process knows of a run. A value that changes, nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..channels.channel import Channel
    from ..eventlogs.leases import Lease
    from ._options import RunNote
    from ._producer import Producer
    from ._rules import Sighting


class RunEntry:
    """What this process knows of a run; on the loop of the hub's lifespan."""

    def __init__(self, key: str, channel: Channel, note: RunNote) -> None:
        self.key = key
        self.channel = channel
        self.note = note
        self.producer: Producer | None = None
        """Its producer, if that's here; it may be over."""
        self.restarter: Callable[[Lease | None], Awaitable[object]] | None = None
        """Starts it again in place of a lease, if it turns out to be lost already."""
        self.replacing: bool = False
        """Whether it's being ended or started again in place of a producer that is lost."""
        self.sighting: Sighting | None = None
        """What was seen of its lease at the last look."""
        self.token: int = 0
        """That of its lease when it was last seen in a call; 0: it wasn't."""
        self.ended: bool = False
        """Whether it's known to have ended."""
        self.used: float = time.monotonic()
        """When somebody has used it last."""

    @property
    def name(self) -> str:
        """The name of its channel."""
        return self.channel.name

    @property
    def made_here(self) -> bool:
        """Whether its producer is here and may still append."""
        return self.producer is not None and not self.producer.over.is_set()

    def touch(self) -> None:
        """Count as used now; any thread may call this."""
        self.used = time.monotonic()
