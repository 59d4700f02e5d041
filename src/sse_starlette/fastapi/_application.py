"""FastAPI's application and router with our route class, for whoever changes nothing but the import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fastapi
from fastapi.routing import APIRoute

from ._openapi import openapi_with_streams
from ._responses import EventSourceResponse, refuse_plain_route
from ._routes import EventSourceRoute

__all__ = ["APIRouter", "FastAPI"]


class APIRouter(fastapi.APIRouter):
    """FastAPI's router, whose routes are `EventSourceRoute`s."""

    if TYPE_CHECKING:
        pass  # The arguments are FastAPI's.
    else:

        def __init__(self, *args: Any, route_class: Any = EventSourceRoute, **kwargs: Any) -> None:
            super().__init__(*args, route_class=route_class, **kwargs)

        def include_router(self, router: fastapi.APIRouter, **kwargs: Any) -> None:
            _refuse_plain_routes(router)
            super().include_router(router, **kwargs)


class FastAPI(fastapi.FastAPI):
    """
    FastAPI's application, whose routes are `EventSourceRoute`s.

    Its OpenAPI document describes event streams in the form of its version: `app.openapi_version = "3.2.0"` has
    `itemSchema`.
    """

    if TYPE_CHECKING:
        pass  # The arguments are FastAPI's.
    else:

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.router.route_class = EventSourceRoute

        def include_router(self, router: fastapi.APIRouter, **kwargs: Any) -> None:
            _refuse_plain_routes(router)
            super().include_router(router, **kwargs)

    _fitted: dict[str, Any] | None = None

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        if document is not self._fitted:
            document = self._fitted = openapi_with_streams(document)
            self.openapi_schema: dict[str, Any] | None = (
                document  # What FastAPI gives out from now on.
            )
        return document


def _refuse_plain_routes(router: fastapi.APIRouter) -> None:
    for route in router.routes:
        if isinstance(route, APIRoute):
            response_class = route.response_class
            kind = getattr(response_class, "value", response_class)
            if isinstance(kind, type) and issubclass(kind, EventSourceResponse):
                refuse_plain_route(route)
