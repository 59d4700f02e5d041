"""Knows when the server goes down, and lets the streams of this process end.

No server tells its applications in time: uvicorn and granian wait for open streams for ever,
hypercorn cuts them after a while. So hooks are installed where each of them passes on its way down, when
the first stream begins and never at import, and uninstalled when the last one ends:

- `uvicorn`, `hypercorn`: a method of the server's own;
- `signals`: SIGTERM and SIGINT, behind the handler that is there: granian, daphne and others.

A server that needs another hook gets a module of its own here, and a line in `HOOKS`. Nothing polls, and
nothing is remembered of a server that has stopped.
"""

from __future__ import annotations

from . import hypercorn, signals, uvicorn
from .app_status import AppStatus
from .streams import drain, install_with_streams, stream_begins, stream_ended

__all__ = ["AppStatus", "drain", "stream_begins", "stream_ended"]

HOOKS = (*uvicorn.HOOKS, *hypercorn.HOOKS, *signals.HOOKS)
"""In the order in which they are installed: a signal is passed on to what was there first."""

install_with_streams(HOOKS)
