"""`AppStatus`, the switch of sse-starlette 3.x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .streams import State, current_streams, drain_streams, should_exit

if TYPE_CHECKING:
    from collections.abc import Callable


class _AppStatusType(type):
    """Makes an assignment to `AppStatus.should_exit` an order rather than a flag to look at."""

    @property
    def should_exit(cls) -> bool:
        """Whether streams are to end: set by hand, or because their server goes down."""
        return should_exit()

    @should_exit.setter
    def should_exit(cls, value: bool) -> None:
        State.by_hand = bool(value)
        if value:
            drain_streams(current_streams())

    @should_exit.deleter
    def should_exit(cls) -> None:
        State.by_hand = False

    @property
    def enable_automatic_graceful_drain(cls) -> bool:
        """Whether streams end by themselves when the server goes down."""
        return State.automatic

    @enable_automatic_graceful_drain.setter
    def enable_automatic_graceful_drain(cls, value: bool) -> None:
        State.automatic = bool(value)


class AppStatus(metaclass=_AppStatusType):
    """
    The switch of earlier versions, on what `drain` does now.

    Setting `should_exit` to True, from any thread, ends all streams, and those that begin later,
    until it's set back to False. It reads True as well while the server goes down.
    """

    should_exit_event: object = None
    """Without effect; there so that it can be assigned."""
    original_handler: Callable[..., object] | None = None
    """Called by `handle_exit` with its arguments."""

    @staticmethod
    def disable_automatic_graceful_drain() -> None:
        """From now on leave it to `should_exit` or `drain` to end streams: the server waits for it."""
        State.automatic = False

    @staticmethod
    def enable_automatic_graceful_drain_mode() -> None:
        """Let streams end by themselves again when the server goes down."""
        State.automatic = True

    @staticmethod
    def handle_exit(*args: Any, **kwargs: Any) -> None:
        """Do what a signal handler should: set `should_exit`, then call `original_handler`."""
        if State.automatic:
            AppStatus.should_exit = True
        if AppStatus.original_handler is not None:
            AppStatus.original_handler(*args, **kwargs)
