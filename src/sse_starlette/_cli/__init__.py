"""
The commands of `python -m sse_starlette`: reads a stream, examines one, publishes to a hub, shows its figures.

Owns what a terminal shows, and the exit codes. Knows streams as any client does, over HTTP: nothing here is
imported by the rest of the package, and no secret of a URL or a header is ever printed.
"""

from ._arguments import main

__all__ = ["main"]
