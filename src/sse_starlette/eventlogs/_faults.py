"""What is wrong with an event log, and when to say so.

Pure but for the clock and the logger. A fault is noted as often as it's met and logged once a minute;
it's forgotten when the same thing has worked again.
"""

from __future__ import annotations

import logging
import time

from ..errors import LogRefused, LogUnavailable

logger = logging.getLogger("sse_starlette.hub")

_SAID_EVERY_SECONDS = 60.0
_UNEXPECTED = {
    "listen": "the log can't be listened to",
    "read": "channel %r can't be read from its log",
    "append": "channel %r can't be published to on its log",
    "": "what keeps the channels in step with their log has failed",
}


class Faults:
    """The faults of one event log, by what was tried: `"listen"`, `"read"`, `"append"`, `"check"`, `"positions"`."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str | None], Exception] = {}
        self._said: dict[tuple[str, str | None], float] = {}

    def note(self, tried: str, error: Exception, channel: str | None = None) -> None:
        """Remember that this has failed, and say so if it hasn't been said within the last minute.

        Args:
            tried: what was tried.
            error: what came of it.
            channel: for which channel; it's remembered as a fault of the whole log nevertheless, if
                the error says that an operator has to mend the log, or that it's out of reach.
        """
        if isinstance(error, LogUnavailable):
            channel = error.channel if isinstance(error, LogRefused) else None
        fault = (tried, channel)
        self._faults[fault] = error
        if isinstance(error, LogUnavailable) and not isinstance(error, LogRefused):
            return  # It passes, and whoever listens has said it.
        now = time.monotonic()
        # What is refused is refused to all: it's said once, whoever meets it first.
        said = ("refused", channel) if isinstance(error, LogRefused) else fault
        if now - self._said.get(said, -_SAID_EVERY_SECONDS) < _SAID_EVERY_SECONDS:
            return
        self._said[said] = now
        if isinstance(error, LogRefused):
            logger.error(
                "%s (tried again until it's mended)",
                error,
                extra={"sse_event": "log_refused", "sse_channel": channel},
            )
        else:
            said_as = _UNEXPECTED.get(tried, _UNEXPECTED[""])
            logger.error(
                said_as,
                *([channel] if "%r" in said_as else []),
                exc_info=error,
                extra={"sse_event": "log_failed", "sse_channel": channel, "sse_tried": tried},
            )

    def mended(self, tried: str, channel: str | None = None) -> None:
        """Forget what was wrong with this."""
        if not self._faults:
            return
        for fault in ((tried, None), (tried, channel)):
            self._faults.pop(fault, None)

    def remind(self) -> None:
        """Say again what is still wrong, if it's time."""
        for (tried, channel), error in list(self._faults.items()):
            self.note(tried, error, channel)

    def clear(self) -> None:
        """Forget everything."""
        self._faults.clear()
        self._said.clear()

    @property
    def reason(self) -> str:
        """What is wrong now, in words; empty: nothing is known to be."""
        # The whole log comes before a channel.
        found = min(self._faults, key=lambda fault: (fault[1] is not None, fault[0]), default=None)
        return "" if found is None else str(self._faults[found])
