"""Generations that outlive their requests: started once, read by whoever asks for them, ended for certain.

A run is a channel (`channels`) whose only publisher holds a lease (`eventlogs/leases.py`). This room owns the
producer, the lease's renewal, and the watch over runs whose producers are elsewhere; it refuses to know how
events are delivered, and where channels and leases are kept.
"""

from __future__ import annotations

from ._options import RunArguments, RunEnd, RunStatus
from .run import Run

__all__ = ["Run", "RunArguments", "RunEnd", "RunStatus"]
