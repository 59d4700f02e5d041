"""Waits for facts of a stream, and says what is wrong with it: first what the app raised, then what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import anyio

from ._failures import StreamFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ._exchange import Exchange
    from ._transport import StreamingASGITransport


class Judge:
    """What a test is told about one stream."""

    exchange: Exchange
    """That of the last connection."""

    def __init__(self, transport: StreamingASGITransport, unchecked: Collection[str]) -> None:
        """
        Be ready for the first exchange.

        Args:
            transport: whose patience and clock count.
            unchecked: names of `CHECKS` that are not to be reported.
        """
        self.unchecked = unchecked
        self._transport = transport

    async def until(
        self,
        fact: Callable[[], object],
        within: float | None,
        otherwise: Callable[[float], NoReturn],
    ) -> None:
        """Wait until `fact` holds, or something was found; `otherwise` says that it doesn't."""
        seconds = self._transport.patience if within is None else within
        with anyio.move_on_after(seconds):
            await self.exchange.changes.until(lambda: fact() or self._findings())
        # What has arrived comes before what is wrong, or a test would depend on who is faster.
        if not fact():
            self.raise_what_was_found()
            otherwise(seconds)

    def nothing_came(self, seconds: float) -> NoReturn:
        """Say that there was no event."""
        if self.exchange.a_peer_is_stalled:
            self.fail(
                "stalled writer",
                f"no event within {seconds:g} s, while another client of this app does not read",
            )
        clock = self._transport.clock
        stands = "" if clock is None else f"; the clock stands at {clock.time():g} s"
        self.fail("no event", f"none within {seconds:g} s{stands}")

    def did_not_end(self, seconds: float) -> NoReturn:
        """Say that the app goes on."""
        socket = self.exchange.socket
        if socket.left:
            self.fail("leaked task", f"the app still runs {seconds:g} s after the client has left")
        if socket.stalled:
            self.fail(
                "stalled writer",
                f"the app has not given up a client that has read nothing for {seconds:g} s",
            )
        self.fail("stream goes on", f"the app has not ended within {seconds:g} s")

    def not_blocked(self, seconds: float) -> NoReturn:
        """Say that no send waits."""
        self.fail("not blocked", f"no send has been blocked within {seconds:g} s")

    def raise_what_was_found(self) -> None:
        """Raise what the app raised, or else what it did wrong; each only once."""
        self._findings()
        self.exchange.raise_what_was_found()

    def add_what_was_found(self, failure: Exception) -> None:
        """Add it to the failure of a test."""
        self.exchange.raise_error()
        for finding in self._findings():
            failure.add_note(f"The stream was wrong, too. {finding}")

    def fail_if(self, bug: tuple[str, str] | None) -> None:
        """Fail with the bug that a check has found, if it has."""
        if bug is not None:
            self.fail(*bug)

    def fail(self, bug: str, details: str) -> NoReturn:
        """Raise what the app raised, or else this bug."""
        self.exchange.raise_error()
        raise StreamFailure(bug, details, self.exchange.shown())

    def _findings(self) -> list[StreamFailure]:
        findings = self.exchange.findings
        findings[:] = [one for one in findings if one.bug not in self.unchecked]
        return findings
