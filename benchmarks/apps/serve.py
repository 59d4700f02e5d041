"""Serves an application as a deployment would: uvicorn, one process, uvloop, httptools, no access log.

`python serve.py MODULE PORT`, with the module beside this file.
"""

from __future__ import annotations

import resource
import sys

import uvicorn


def main() -> None:
    """Serve until asked to end."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvicorn.run(
        f"{sys.argv[1]}:app",
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        lifespan="off",
        backlog=4096,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
