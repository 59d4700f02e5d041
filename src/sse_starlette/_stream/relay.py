"""The bytes of a source: they pass as they are, cut anywhere, for they may be relayed."""

from __future__ import annotations

import logging

from .._wire.boundary import EventBoundary

_logger = logging.getLogger("sse_starlette.sse")


class Relay:
    """Knows of one source that yields bytes whether an event is unfinished behind them."""

    __slots__ = ("_boundary", "_content", "_sep", "_told")

    def __init__(self, content: object, sep: str) -> None:
        """
        Begin with a source that has made nothing.

        Args:
            content: the source, for what is said in the log.
            sep: what ends a line that it has left open.
        """
        self._content = content
        self._sep = sep
        self._boundary = EventBoundary()
        self._told = False

    @property
    def unfinished(self) -> bool:
        """Whether what comes next would become a part of the event that is there."""
        return self._boundary.unfinished

    def follow(self, chunk: bytes) -> None:
        """Take note of bytes of the source."""
        self._boundary.follow(chunk)

    def finish(self) -> bytes:
        """Return what has to come before something that isn't the source's bytes."""
        if not self._boundary.unfinished:
            return b""
        self.tell()
        return self._boundary.finish(self._sep)

    def tell(self) -> None:
        """Say in the log, once, that an event was left unfinished."""
        if not self._told:
            self._told = True
            _logger.warning(
                "%r has yielded bytes that don't end with a blank line, and then something else, or "
                "nothing: bytes are sent as they are. End an event with a blank line, as in "
                r'`yield b"data: text\n\n"`, or yield its text or a dict instead of bytes.',
                self._content,
                extra={"sse_event": "bytes_unfinished"},
            )
