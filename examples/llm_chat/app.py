"""An answer of a language model that survives the page it was asked on.

Start it with `python examples/llm_chat/app.py` and open http://localhost:8000/. Ask something, load the page again
in the middle of the answer, open a second tab, stop it. Each answer is made once, whoever reads it; the page counts
its tokens, and says so if one should be missing or come twice.

The model is a stand-in that says the same each time; a real one is a line in `answer`. With a URL of Redis or SQLite
in `HUB_URL`, such as `sqlite:///answers.db`, any number of processes can be asked; and when the one that makes an
answer dies, its readers are told.

This machine alone can reach it; with `EXAMPLE_HOST=0.0.0.0` in the environment, a phone can too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial
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
LONGEST_QUESTION = 500

hub = Hub(os.environ.get("HUB_URL"))


async def model(question: str) -> AsyncIterator[str]:
    """The stand-in: tokens that come one by one, and for the same question always the same."""
    text = (
        f"You asked: {question}\n\n"
        "I am no language model, only a function that counts words for you, but I take my time as one does. "
        "Load this page again while I speak: I go on, and you will find me where I am, not where you left. "
        "Open it in a second tab, and both of you read the same answer, made once. "
        "Stop me, and I am silent for everyone. "
        "Should the process that I live in die, you will be told, and need not wait for me.\n\n"
        "That is all I have to say."
    )
    for number, word in enumerate(text.split(" ")):
        await asyncio.sleep(0.05 + 0.02 * (number % 4))
        yield word if number == 0 else f" {word}"


async def answer(question: str) -> AsyncIterator[dict[str, Any]]:
    # Of a real one: `async for token in client.responses.create(…, stream=True)`.
    number = 0
    async for token in model(question):
        yield {"event": "token", "data": {"number": number, "text": token}}
        number += 1


async def ask(request: Request) -> Response:
    """Start the answer; who asks again, as after an error of the network, gets the same one."""
    question = str((await request.json())["question"]).strip()[:LONGEST_QUESTION]
    if not question:
        return Response("ask something", status_code=422)
    run = await hub.run(
        request.path_params["key"],
        partial(answer, question),
        end_event={"event": "done", "data": ""},
        on_abandon="cancel",  # No model talks to an empty room ...
        abandon_after=60,  # ... but a tunnel may be long.
    )
    return JSONResponse({"started": run.started})


async def read(request: Request) -> Response:
    """The answer, from its beginning or from where the page was; 204, which keeps it away, if there's none."""
    run = await hub.find_run(request.path_params["key"])
    if run is None:
        return Response(status_code=204)
    return EventSourceResponse(run.subscribe(request))


async def stop(request: Request) -> Response:
    run = await hub.find_run(request.path_params["key"])
    if run is not None:
        await run.stop()
    return Response(status_code=204)


async def page(_: Request) -> FileResponse:
    return FileResponse(HERE / "page.html")


app = Starlette(
    routes=[
        Route("/", page),
        Route("/answers/{key}", ask, methods=["POST"]),
        Route("/answers/{key}", read),
        Route("/answers/{key}/stop", stop, methods=["POST"]),
        Mount("/shared", StaticFiles(directory=HERE.parent / "shared")),
        Mount("/sse", StaticFiles(packages=[("sse_starlette", "browser")])),
    ],
    lifespan=hub.lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host=os.environ.get("EXAMPLE_HOST", "127.0.0.1"), port=8000, log_level="info")
