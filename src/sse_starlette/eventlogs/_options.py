"""How a hub keeps to its event log: for how long, how often, how much at a time. Values, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What a hub was asked for, see `Hub`, and what it does by itself; times in seconds."""

    publish_wait: float = 5.0
    """For so long publishing is tried again, where nothing else is said."""
    expire: float | None = None
    """After so long the log may forget a channel that nobody uses; None: nobody has said."""
    check_every: float = 30.0
    """Between two looks at where the channels are."""

    read_pauses: tuple[float, float] = (0.05, 2.0)
    """The first and the longest before a channel is read again that couldn't be; each is twice the one before."""
    publish_pauses: tuple[float, float] = (0.05, 2.0)
    """The same before something is appended again."""
    listen_again: float = 2.0
    """Before the log is listened to again."""
    sweep_every: float = 1.0
    """Between two looks for channels that nobody needs any more."""
    last_appends: float = 2.0
    """For so long the end of the lifespan waits for what is still to be appended."""
    page: int = 500
    """Entries that are read at a time."""
    queue_limit: int = 32_768
    """Events of a process that may wait for their turn, all channels together."""
