"""The figures of a hub and of the streams of its process, as JSON has them. Values, nothing else."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..channels._stats import ChannelStats, HubStats

MOST_CHANNELS = 200
MOST_LISTENERS = 20
_BEGAN = time.monotonic()


def figures_of(stats: HubStats, log: str | None, listeners: Iterable[str | None]) -> dict[str, Any]:
    """
    Return all there is to show.

    Args:
        stats: of the hub.
        log: the kind of its event log.
        listeners: of each open stream of this process, who listens.
    """
    named: Counter[str | None] = Counter(listeners)
    streams = named.total()
    nameless = named.pop(None, 0)
    channels = stats.channels
    # Those that want to be looked at first: with trouble, then with many subscribers.
    shown = sorted(channels, key=lambda name: (-channels[name].subscribers, name))[:MOST_CHANNELS]
    all_ = channels.values()
    return {
        "time": time.time(),
        "process": {
            "pid": os.getpid(),
            "seconds": round(time.monotonic() - _BEGAN, 1),
            "version": __version__,
        },
        "log": {
            "kind": log,
            "connected": stats.connected,
            "reason": stats.reason,
            "losses": stats.losses,
            "catch_ups": stats.catch_ups,
        },
        "streams": {
            "open": streams,
            "nameless": nameless,
            "listeners": len(named),
            "most": [list(one) for one in named.most_common(MOST_LISTENERS)],
        },
        "totals": {
            "channels": len(channels),
            "subscribers": stats.subscribers,
            "published": stats.published,
            "delivered": stats.delivered,
            "dropped": sum(one.dropped for one in all_),
            "disconnected": sum(one.disconnected for one in all_),
            "resets": sum(sum(one.resets.values()) for one in all_),
            "failures": sum(one.failures for one in all_),
            "lag": max((one.lag for one in all_), default=0),
            "kept_bytes": sum(one.kept_bytes for one in all_),
        },
        "channels": [{"name": name, **_of_channel(channels[name])} for name in shown],
    }


def _of_channel(one: ChannelStats) -> dict[str, Any]:
    return {
        "subscribers": one.subscribers,
        "published": one.published,
        "delivered": one.delivered,
        "dropped": one.dropped,
        "disconnected": one.disconnected,
        "resets": dict(one.resets),
        "lag": one.lag,
        "kept_events": one.kept_events,
        "kept_bytes": one.kept_bytes,
        "failures": one.failures,
    }
