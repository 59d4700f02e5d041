"""Publish once, read by many: channels and subscriptions.

A subscription is a feed (`_stream/feed.py`): that's all a response knows of it. What a channel keeps beyond this
process is in `eventlogs`.
"""

from __future__ import annotations

from .._wire.cursor import last_event_id
from ._options import Gap, Preference, Slow
from ._stats import ChannelStats
from .channel import Channel
from .subscription import Subscription

__all__ = [
    "Channel",
    "ChannelStats",
    "Gap",
    "Preference",
    "Slow",
    "Subscription",
    "last_event_id",
]
