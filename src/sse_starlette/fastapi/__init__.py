"""FastAPI's way to write event streams, with everything that is behind them here.

```python
from collections.abc import AsyncIterable

from pydantic import BaseModel
from sse_starlette.fastapi import EventSourceResponse, FastAPI


class Item(BaseModel):
    name: str


app = FastAPI()


@app.get("/items", response_class=EventSourceResponse)
async def items() -> AsyncIterable[Item]:
    yield Item(name="Plumbus")
```

Endpoints are FastAPI's, from dependencies to status codes: this room turns what they yield into events and describes
it for OpenAPI, and leaves all else to FastAPI, by what FastAPI offers for it: a route class, a response class and
dependencies. It knows nothing of channels but how to subscribe. Importing it changes nothing in FastAPI.
"""

try:
    import fastapi as _fastapi
except ImportError as _missing:
    raise ImportError(
        "sse_starlette.fastapi needs the extra `fastapi`. From a checkout: pip install '.[fastapi]'"
    ) from _missing

from ._application import APIRouter, FastAPI
from ._dependencies import LastEventID, Subscribe
from ._events import ServerSentEvent
from ._openapi import openapi_with_streams
from ._responses import EventSourceResponse, ResponseOptions
from ._routes import EventSourceRoute

del _fastapi

__all__ = [
    "APIRouter",
    "EventSourceResponse",
    "EventSourceRoute",
    "FastAPI",
    "LastEventID",
    "ResponseOptions",
    "ServerSentEvent",
    "Subscribe",
    "openapi_with_streams",
]
