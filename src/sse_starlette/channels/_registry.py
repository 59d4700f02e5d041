"""The channels of a hub by name, and for how long a name stands for the same channel.

Any thread may use it. One that the application or a subscription holds on to is never replaced by a namesake.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .._runtime.fork import tell_child
from .._runtime.lock import Lock
from .._wire.cursor import MOST_CHANNELS
from ..eventlogs.base import Limits
from ._linger import FEW, MANY, Lingering
from ._replica import ReplicatedChannel
from .channel import Channel, channel_of, state_of

if TYPE_CHECKING:
    from .._wire.values import Serializer
    from ..event import Event
    from ..eventlogs._replicator import Replicator
    from ._state import ChannelState
    from ._stats import ChannelStats


RESERVED = "sse_starlette:"
"""What the names of channels that are the library's own begin with."""
OF_RUNS = f"{RESERVED}run:"
"""What those of runs begin with: the only ones that are told of among the figures."""


class ChannelRegistry:
    """The channels of one hub."""

    def __init__(
        self, *, linger: float, serializer: Serializer | None, replicator: Replicator | None
    ) -> None:
        """Have no channel yet; the arguments are those of the hub."""
        self._linger = linger
        self._serializer = serializer
        self._replicator = replicator
        self._lock = Lock()
        self._states: weakref.WeakValueDictionary[str, ChannelState] = weakref.WeakValueDictionary()
        self._channels: weakref.WeakValueDictionary[str, Channel] = weakref.WeakValueDictionary()
        self._lingering = Lingering()
        tell_child(self)

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: another thread may have held the lock."""
        self._lock = Lock()

    def channel(self, name: str, options: dict[str, Any]) -> Channel:
        """Return the channel of this name, made with these options of `Hub.channel` if there's none."""
        with self._lock:
            now = time.monotonic()
            self._lingering.release_if_idle(name, now)
            self._lingering.sweep(now, FEW)
            channel, state = self._channels.get(name), self._states.get(name)
            if state is None:
                options = {"linger": self._linger, **options}
                channel = Channel(
                    name, **options, replicator=self._replicator, serializer=self._serializer
                )
                state = self._states[name] = state_of(channel)
            else:
                for option, value in options.items():
                    found = getattr(state.options, option)
                    if found != value:
                        raise ValueError(
                            f"channel {name!r} has {option}={found!r} already, "
                            f"so it can't get {option}={value!r}: give its options in one place, and "
                            "only the name elsewhere."
                        )
                state.touch()
                if channel is None:
                    channel = channel_of(state)
            self._channels[name] = channel
            self._lingering.hold(name, state, now)
            return channel

    def limits_of(self, name: str) -> Limits:
        """How much of this channel the event log is to keep, as far as it has been said here."""
        state = self._states.get(name)
        if isinstance(state, ReplicatedChannel):
            return state.limits
        return Limits(expire=None if self._replicator is None else self._replicator.options.expire)

    def typed(self, name: str, event: Event) -> Event:
        """
        Validate an event that is published to this channel, if the channel has a type.

        Raises:
            ValueError: it isn't of that type, or the channel is one of the library's own.
        """
        check_not_reserved(name)
        state = self._states.get(name)
        return event if state is None or state.typed is None else state.typed(event)

    def states_of(self, channels: Iterable[Channel | str]) -> list[ChannelState]:
        """Return the channels to subscribe to, made if need be; see `Hub.subscribe`."""
        given = [
            self.channel(one, {}) if isinstance(one, str) else one
            for one in checked_channels(channels)
        ]
        _check_different(given)  # One may have been given by its name, too.
        return [state_of(one) for one in given]

    def stats(self) -> dict[str, ChannelStats]:
        """The figures of each channel that has not been forgotten."""
        with self._lock:
            self._lingering.sweep_all(time.monotonic())
            states = dict(self._states.items())
        return {
            name: state.stats()
            for name, state in sorted(states.items())
            if not name.startswith(RESERVED) or name.startswith(OF_RUNS)
        }

    def sweep(self) -> None:
        """Forget channels that have been idle for their linger time; a matter of a millisecond."""
        with self._lock:
            self._lingering.sweep(time.monotonic(), MANY)


def checked_channels(channels: Iterable[Channel | str]) -> list[Channel | str]:
    """
    Return the channels, or names of channels, that one stream is to have.

    Raises:
        TypeError: they are something else.
        ValueError: there's none, or one twice, or more than a stream can have, or a name is one of the library's own.
    """
    if isinstance(channels, (str, Channel)):
        what = "name" if isinstance(channels, str) else "channel"
        raise TypeError(f"channels is one {what}, {channels!r}: give a list, [{channels!r}]")
    if not isinstance(channels, Iterable) or isinstance(channels, (bytes, bytearray)):
        raise TypeError(
            "subscribe needs a list of channels or of their names, got: "
            f"{type(channels).__name__} {channels!r:.80}"
        )
    given = list(channels)
    for one in given:
        if isinstance(one, str):
            check_not_reserved(one)
        if not isinstance(one, (str, Channel)):
            raise TypeError(
                f"a stream needs channels or their names, got: {type(one).__name__} {one!r:.80}"
            )
    if not given:
        raise ValueError("a stream needs different channels, at least one")
    if len(given) > MOST_CHANNELS:
        raise ValueError(
            f"a stream can have {MOST_CHANNELS} channels, got {len(given)}: its ids hold a position for "
            "each, and servers and proxies refuse longer ones when the client comes back. Use several "
            "streams, or one channel for what belongs together, with a filter."
        )
    _check_different(given)
    return given


def _check_different(channels: Sequence[Channel | str]) -> None:
    if len(channels) != len({one if isinstance(one, str) else id(one) for one in channels}):
        names = [one if isinstance(one, str) else one.name for one in channels]
        raise ValueError(f"a stream needs different channels, at least one, got: {names}")


def check_not_reserved(name: object) -> None:
    """
    Make sure that an application may have a channel of this name.

    Raises:
        ValueError: it's one of the library's own.
    """
    if isinstance(name, str) and name.startswith(RESERVED):
        raise ValueError(
            f"channel {name!r}: names that begin with {RESERVED!r} are the library's own. Choose another one, "
            "or refuse it where clients choose."
        )
