"""Live figures of this machine behind a login, with FastAPI and HTMX.

Start it with `python examples/dashboard/app.py` and open http://localhost:8000/. The server renders pieces of HTML
and publishes them once, whoever looks; HTMX puts them in their places. Only who is logged in gets the stream, and
logging out ends it in every tab. HTMX and its extension come from a CDN, so the browser needs the internet.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

import uvicorn
from fastapi import Cookie, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from sse_starlette import EventSourceResponse, Hub

HERE = Path(__file__).parent
PASSWORDS = {"ada": "events"}  # Yours are elsewhere, and hashed.
KEPT = 60

hub = Hub()
figures = hub.channel("figures", history=100)
sessions: dict[str, str] = {}
"""Who is logged in, by what the cookie says."""


# --- What is shown --------------------------------------------------------------------

past: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in ("load", "memory", "late")}


def line_of(values: deque[float], top: float) -> str:
    """A line over the last minute, as SVG; `top` fits, and more does too."""
    top = max(top, *values)
    points = " ".join(
        f"{index * 100 / (KEPT - 1):.1f},{30 - 28 * min(1, value / top):.1f}"
        for index, value in enumerate(values, KEPT - len(values))
    )
    return (
        f'<svg viewBox="0 0 100 32" preserveAspectRatio="none"><polyline points="{points}"/></svg>'
    )


def piece(name: str, value: float, shown: str, top: float) -> dict[str, str]:
    past[name].append(value)
    return {"event": name, "data": f"<b>{shown}</b>{line_of(past[name], top)}"}


def memory_used() -> float:
    """Per cent, as Linux says; 0 elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 100 * (1 - kib["MemAvailable"] / kib["MemTotal"])


newest: dict[str, dict[str, str]] = {}


async def measure() -> None:
    while True:
        due = time.monotonic() + 1
        await asyncio.sleep(1)
        late_ms = max(0.0, 1000 * (time.monotonic() - due))  # A timer may be early, too.
        load, memory, cores = os.getloadavg()[0], memory_used(), os.cpu_count() or 1
        looking = figures.stats().subscribers
        for event in (
            piece("load", load, f"{load:.2f}", 2 * cores),
            piece("memory", memory, f"{memory:.0f} %", 100),
            piece("late", late_ms, f"{late_ms:.1f} ms", 20),
            {"event": "looking", "data": f"{looking} connection{'s' * (looking != 1)}"},
        ):
            newest[event["event"]] = event
            await figures.publish(event)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(measure())
    yield
    task.cancel()


# --- Who may see it -------------------------------------------------------------------

app = FastAPI(lifespan=lifespan)
Session = Annotated[str, Cookie()]


@app.get("/")
async def page(session: Session = "") -> FileResponse:
    return FileResponse(HERE / ("page.html" if session in sessions else "login.html"))


@app.post("/login")
async def login(request: Request) -> Response:
    given = parse_qs((await request.body()).decode())
    user, password = (given.get(name, [""])[0] for name in ("user", "password"))
    expected = PASSWORDS.get(user, "")
    if not secrets.compare_digest(password.encode(), expected.encode()) or not expected:
        return RedirectResponse("/?wrong", 303)
    session = secrets.token_urlsafe()
    sessions[session] = user
    answer = RedirectResponse("/", 303)
    # Not for scripts, and not for requests that other sites make. Over TLS: secure=True.
    answer.set_cookie("session", session, httponly=True, samesite="strict")
    return answer


@app.post("/logout")
async def logout(session: Session = "") -> Response:
    sessions.pop(session, None)
    await hub.revoke(session)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie("session")
    return answer


@app.get("/figures")
async def stream(request: Request, session: Session = "") -> EventSourceResponse:
    if session not in sessions:
        raise HTTPException(401, "log in first")
    return EventSourceResponse(
        figures.subscribe(request, snapshot=lambda: list(newest.values())), listener=session
    )


app.mount("/shared", StaticFiles(directory=HERE.parent / "shared"))

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
