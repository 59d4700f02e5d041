"""Jobs in threads, whose progress every browser sees, and which can be cancelled.

Start it with `python examples/jobs/app.py` and open http://localhost:8000/. A job is plain Python that blocks,
in a worker thread; it publishes how far it is. Whoever opens the page gets all jobs as they stand, then each
change; who was cut off gets what was changed meanwhile.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sse_starlette import EventSourceResponse, Hub

HERE = Path(__file__).parent
FILES = ("spring.mov", "summer.mov", "autumn.mov", "winter.mov")
MOST_JOBS = 8

hub = Hub()
progress = hub.channel("progress")


@dataclass
class Job:
    """One piece of work, and how far it is."""

    number: int
    name: str
    state: str = "running"  # or "done", "cancelled", "failed"
    percent: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def event(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in ("number", "name", "state", "percent")}
        return {"event": "job", "data": shown}

    def run(self) -> None:
        """The work: it knows nothing of browsers, and only says how far it is."""
        speed = 0.04 + 0.03 * (self.number % 3)
        while self.percent < 100 and not self.cancelled.is_set():
            time.sleep(speed)
            self.percent += 1
            if self.name == "autumn.mov" and self.percent == 63:
                self.state = "failed"
                break
            progress.publish_nowait(self.event())
        if self.state == "running":
            self.state = "cancelled" if self.cancelled.is_set() else "done"
        progress.publish_nowait(self.event())


jobs: dict[int, Job] = {}


def start(name: str) -> Job:
    number = max(jobs, default=0) + 1
    job = jobs[number] = Job(number, name)
    progress.publish_nowait(job.event())
    threading.Thread(target=job.run, daemon=True).start()
    return job


async def begin(_: Request) -> Response:
    if sum(job.state == "running" for job in jobs.values()) >= MOST_JOBS:
        return Response("too many jobs at once", status_code=429)
    return JSONResponse({"number": start(FILES[len(jobs) % len(FILES)]).number})


async def cancel(request: Request) -> Response:
    job = jobs.get(request.path_params["number"])
    if job is None:
        return Response(status_code=404)
    job.cancelled.set()
    return Response()


async def listen(request: Request) -> EventSourceResponse:
    def all_jobs() -> list[dict[str, Any]]:
        return [job.event() for job in list(jobs.values())[-20:]]

    return EventSourceResponse(progress.subscribe(request, snapshot=all_jobs))


async def page(_: Request) -> FileResponse:
    if not jobs:  # For the first look.
        for name in FILES[:3]:
            start(name)
    return FileResponse(HERE / "page.html")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/listen", listen),
        Route("/jobs", begin, methods=["POST"]),
        Route("/jobs/{number:int}/cancel", cancel, methods=["POST"]),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/sse", StaticFiles(packages=[("sse_starlette", "browser")])),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
