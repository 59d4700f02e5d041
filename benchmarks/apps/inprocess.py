"""Encoding, and a whole response without a server; `python inprocess.py LIBRARY encode` prints JSON.

Or `respond` instead. Runs in the environment of the library. Encoding is counted in events a second of CPU time; a response
in nanoseconds of CPU time for each event of a source that never waits, with a `send` that counts.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

TEXT = "\n".join(
    f"line {number:2d} " + "of a text that is streamed " * 3 + "." * 11 for number in range(20)
)
VALUE = {"symbol": "AAPL", "price": 187.44, "change": 0.12, "open": True}
SECONDS = 0.25
"""How long an encoder is measured, and how often."""
TIMES = 3
EVENTS = 100_000

Encoders = dict[str, Callable[[], bytes]]


def sse_encoders() -> Encoders:
    """Of `sse_starlette`, this one or 3.7.0: what its response calls for each event."""
    from sse_starlette import JSONServerSentEvent, event

    if hasattr(event, "encoder"):
        encode = event.encoder("\r\n")
    else:

        def encode(value: object) -> bytes:
            return event.ensure_bytes(value, "\r\n")

    return {
        "dict": lambda: encode({"event": "tick", "data": "hello world number"}),
        "text": lambda: encode({"data": TEXT}),
        "json": lambda: encode(JSONServerSentEvent(VALUE)),
    }


def fastapi_encoders() -> Encoders:
    """Of FastAPI: what its routing calls for each event, without the validation before it."""
    from fastapi.encoders import jsonable_encoder
    from fastapi.sse import format_sse_event

    return {
        "dict": lambda: format_sse_event(event="tick", data_str="hello world number"),
        "text": lambda: format_sse_event(data_str=TEXT),
        "json": lambda: format_sse_event(data_str=json.dumps(jsonable_encoder(VALUE))),
    }


def litestar_encoders() -> Encoders:
    """Of Litestar, with msgspec for JSON, which it depends on."""
    import msgspec
    from litestar.response.sse import ServerSentEventMessage

    write = msgspec.json.encode
    return {
        "dict": lambda: ServerSentEventMessage(event="tick", data="hello world number").encode(),
        "text": lambda: ServerSentEventMessage(data=TEXT).encode(),
        "json": lambda: ServerSentEventMessage(data=write(VALUE)).encode(),
    }


ENCODERS = {"sse": sse_encoders, "fastapi_sse": fastapi_encoders, "litestar_sse": litestar_encoders}


def events_per_second(encode: Callable[[], bytes]) -> float:
    """The best of a few short runs, in CPU time."""
    best = 0.0
    for _ in range(TIMES):
        events, began = 0, time.process_time()
        while (used := time.process_time() - began) < SECONDS:
            for _ in range(500):
                encode()
            events += 500
        best = max(best, events / used)
    return best


async def respond(app: Any, events: int) -> float:
    """Run one response; return the nanoseconds of CPU time that each event took."""
    sent = 0
    gone = asyncio.Event()

    async def send(message: Any) -> None:
        nonlocal sent
        sent += message.get("body", b"").count(b"data:")
        if message.get("more_body") is False:
            gone.set()  # As servers do: some wait for it.

    asked = False

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/stream",
        "raw_path": b"/stream",
        "root_path": "",
        "query_string": f"n={events}".encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    began = time.process_time()
    await app(scope, receive, send)
    used = time.process_time() - began
    if sent != events:
        raise AssertionError(f"{sent} of {events} events")
    return used / events * 1e9


def main() -> None:
    """Measure what the command line names."""
    library = sys.argv[1]
    result: dict[str, float] = {}
    if sys.argv[2] == "encode":
        for name, encode in ENCODERS[library]().items():
            result[f"encode {name}"] = events_per_second(encode)
        # From now on they are there: our encoder takes what the application has loaded.
        for name in ("msgspec", "orjson") if library == "sse" else ():
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
                result[f"encode json, {name}"] = events_per_second(sse_encoders()["json"])
    else:
        app = importlib.import_module(library).app.app
        events = EVENTS if library != "fastapi_sse" else EVENTS // 4
        result["in process"] = min(uvloop.run(respond(app, events)) for _ in range(TIMES))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
