"""Publish once, read by many: hubs, channels, subscriptions.

A subscription is a feed (`_stream/feed.py`): that's all a response knows of it. What a channel keeps beyond this
process is in `eventlogs`.
"""

from __future__ import annotations

from .channel import Channel, ChannelStats, Slow, last_event_id
from .hub import Hub
from .subscription import Gap, Subscription

__all__ = ["Channel", "ChannelStats", "Gap", "Hub", "Slow", "Subscription", "last_event_id"]
