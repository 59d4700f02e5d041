"""
The exceptions of this package, one small tree.

    SSEError                everything below
    └── SendTimeoutError    one send took longer than it was allowed to; also a TimeoutError

A wrong argument is not among them: it raises `TypeError` or `ValueError`, where it was written.
"""

from __future__ import annotations

__all__ = ["SSEError", "SendTimeoutError"]


class SSEError(Exception):
    """The base of every exception that is this package's own."""


class SendTimeoutError(SSEError, TimeoutError):
    """
    One send took longer than `send_timeout`, so the stream was ended.

    It is raised by `EventSourceResponse` after the source has been closed. The usual cause is a
    client that stopped reading without closing its connection.

    Attributes:
        timeout: the seconds one send was allowed to take; None where they are not known.
    """

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        found = "send_timeout" if self.timeout is None else f"send_timeout={self.timeout:g} s"
        return (
            f"A send took longer than {found} allows: the client has stopped reading, "
            "or is too slow. Raise send_timeout if such clients are to be kept."
        )
