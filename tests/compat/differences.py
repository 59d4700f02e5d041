"""
What differs from sse-starlette 3.7.0 on purpose: a mark for the tests that show it, with the reason.

On 3.7.0 each of these tests has to fail, and all others have to pass. `docs/migrating.md` gives the same reasons.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest

INCUMBENT = version("sse-starlette").startswith("3.")
REASONS: set[str] = set()


def differs(reason: str) -> pytest.MarkDecorator:
    REASONS.add(reason)
    return pytest.mark.xfail(INCUMBENT, reason=reason, strict=True)


COMPLETED = differs(
    "Without it a client can't tell a stream that ended from a connection that broke, and HTTP clients raise an error of their own."
)
STREAMING_RESPONSE = differs(
    "Middleware and type checkers know a stream by that class, and FastAPI reads the content type for OpenAPI from the class."
)
