"""What was seen of a stream, and what is found in it: what doctor hands from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ._advice import servers_in
from ._client import Exchange


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    """It works, and will hurt one day."""
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was found; `code` is its name for programs."""

    code: str
    level: Level
    text: str


@dataclass(frozen=True)
class Facts:
    """What was seen of a stream, from all sides at once."""

    url: str
    watched: float
    """Seconds."""
    plain: Exchange
    """Asked for without compression."""
    compressed: Exchange
    """Asked for as browsers do, who take any compression."""
    head: Exchange
    again: Exchange | None = None
    """Asked for once more, with `resumed_from` as the last id."""
    resumed_from: str = ""
    direct: Exchange | None = None
    """Asked for past the proxies."""
    to_garbage: bytes = b""
    origin: str | None = None

    @property
    def servers(self) -> list[str]:
        """The servers that show."""
        seen = (self.plain, self.compressed, self.head, self.again)
        return servers_in(
            [each.headers for each in seen if each is not None and each.status is not None],
            self.to_garbage,
        )
