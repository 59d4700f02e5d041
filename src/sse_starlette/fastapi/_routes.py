"""The route class: makes of an endpoint that streams one that FastAPI calls like any other, and that returns a response.

FastAPI solves the dependencies, validates the request and keeps what was opened for it open until the response has been
sent. The endpoint it sees has the parameters of the one that was written, and one more, for the headers and cookies
that dependencies set.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import sse as fastapi_sse
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from .. import sse
from ._items import StreamType, stream_type
from ._openapi import HEADERS, MEDIA_TYPE, documented
from ._responses import EventSourceResponse, yields

if TYPE_CHECKING:
    from fastapi.exceptions import EndpointContext

__all__ = ["EventSourceRoute"]

_HIDDEN = "sse_starlette_response"
_DUMP = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")


class EventSourceRoute(APIRoute):
    """
    FastAPI's route, for endpoints with `response_class=EventSourceResponse` and all others.

    The `FastAPI` and `APIRouter` of this package have it. Others are given it:
    `APIRouter(route_class=EventSourceRoute)`, `app.router.route_class = EventSourceRoute`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """
        Make a route; the arguments are FastAPI's.

        Raises:
            TypeError: the response class and what the endpoint is annotated to yield don't go together.
        """
        self.stream_type: StreamType | None = None
        """What the endpoint yields; None: it's no stream."""
        response_class: Any = options.get("response_class", JSONResponse)
        if isinstance(response_class, DefaultPlaceholder):
            response_class = response_class.value
        signature = _signature(endpoint)
        _check(endpoint, response_class, signature.return_annotation)
        if _streams(response_class, endpoint):
            if not issubclass(response_class, EventSourceResponse):
                response_class = (
                    EventSourceResponse  # FastAPI's is a mark, and has nothing of its own.
                )
            self.stream_type = _stream_type(path, endpoint, signature, options)
            status_code = options.get("status_code") or 200
            endpoint = _responding(
                endpoint, signature, response_class, int(status_code), self.stream_type
            )
            options |= {
                "response_class": response_class,
                "response_model": None,
                "responses": _responses(
                    options.get("responses"), int(status_code), self.stream_type
                ),
            }
        super().__init__(path, endpoint, **options)


def _streams(response_class: type[Response], endpoint: Any) -> bool:
    if issubclass(response_class, EventSourceResponse):
        return True
    return yields(endpoint) and issubclass(response_class, fastapi_sse.EventSourceResponse)


def _check(endpoint: Any, response_class: type[Response], annotation: Any) -> None:
    """Refuse what would be answered with 200 and nonsense."""
    if issubclass(response_class, (EventSourceResponse, fastapi_sse.EventSourceResponse)):
        return
    name = getattr(endpoint, "__name__", repr(endpoint))
    if issubclass(response_class, sse.EventSourceResponse):
        if yields(endpoint):
            raise TypeError(
                f"{name} yields, and its response_class is that of sse_starlette, which knows nothing of FastAPI's "
                "types. Import it with `from sse_starlette.fastapi import EventSourceResponse`."
            )
        return
    found = stream_type(annotation)
    if found is not None and found[1]:
        raise TypeError(
            f"{name} is annotated to stream events, and its response_class is {response_class.__name__}: add "
            "response_class=EventSourceResponse."
        )


def _signature(endpoint: Callable[..., Any]) -> inspect.Signature:
    """Return the signature, its annotations as values if all of them are known when the program runs."""
    try:
        return inspect.signature(endpoint, eval_str=True)
    except NameError:
        return inspect.signature(endpoint)


def _stream_type(
    path: str, endpoint: Any, signature: inspect.Signature, options: dict[str, Any]
) -> StreamType:
    name = getattr(endpoint, "__name__", repr(endpoint))
    annotations = [one.annotation for one in signature.parameters.values()]
    unknown = [one for one in (*annotations, signature.return_annotation) if isinstance(one, str)]
    if unknown:
        raise TypeError(
            f"{name} has annotations with names that are unknown when the program runs, among {unknown}, so nothing "
            "could be validated: import their types outside of `if TYPE_CHECKING:`, or define them in the module."
        )
    items, events = stream_type(signature.return_annotation) or (None, ())
    model = options.get("response_model")
    if not isinstance(model, DefaultPlaceholder) and "response_model" in options:
        items = model
    code = getattr(inspect.unwrap(endpoint), "__code__", None)
    methods = " ".join(sorted(options.get("methods") or ["GET"]))
    context: EndpointContext = {"function": name, "path": f"{methods} {path}"}
    if code is not None:
        context |= {"file": code.co_filename, "line": code.co_firstlineno}
    return StreamType(
        items,
        events,
        dump={
            option: options[f"response_model_{option}"]
            for option in _DUMP
            if f"response_model_{option}" in options
        },
        context=context,
    )


def _responses(
    given: dict[int | str, dict[str, Any]] | None, status_code: int, stream: StreamType
) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told of responses: the stream, unless the application says something of its own."""
    responses = dict(given or {})
    key: int | str = str(status_code) if str(status_code) in responses else status_code
    own = responses.get(key, {})
    ours: dict[str, Any] = {"headers": HEADERS}
    if "model" not in own and MEDIA_TYPE not in own.get("content", {}):
        ours["model"] = documented(stream)
    responses[key] = {**ours, **own}
    return responses


def _responding(
    endpoint: Callable[..., Any],
    signature: inspect.Signature,
    response_class: type[EventSourceResponse],
    status_code: int,
    stream: StreamType,
) -> Callable[..., Any]:
    """Return an endpoint with the same parameters that returns the response."""
    parameters = list(signature.parameters.values())
    given_name = next((one.name for one in parameters if _is_response(one.annotation)), None)
    if given_name is None:
        added = inspect.Parameter(_HIDDEN, inspect.Parameter.KEYWORD_ONLY, annotation=Response)
        at = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            at -= 1
        parameters.insert(at, added)

    def response_of(source: Any, given: Response) -> Response:
        if isinstance(source, Response):
            if isinstance(source, EventSourceResponse):
                source.stream_type = stream
            return source
        response = response_class(source, given.status_code or status_code)
        response.stream_type = stream
        response.raw_headers.extend(given.raw_headers)
        return response

    def given_in(values: dict[str, Any]) -> Response:
        given: Response = values[given_name] if given_name is not None else values.pop(_HIDDEN)
        return given

    if inspect.iscoroutinefunction(endpoint) or inspect.iscoroutinefunction(
        getattr(type(endpoint), "__call__", None)  # noqa: B004  (what its call does)
    ):

        async def awaiting(**values: Any) -> Response:
            given = given_in(values)
            return response_of(await endpoint(**values), given)

        responding: Callable[..., Any] = awaiting
    elif yields(endpoint):
        # It only makes the generator, which needs no thread.
        async def yielding(**values: Any) -> Response:
            given = given_in(values)
            return response_of(endpoint(**values), given)

        responding = yielding
    else:

        def returning(**values: Any) -> Response:
            given = given_in(values)
            return response_of(endpoint(**values), given)

        responding = returning

    # Not `functools.wraps`: FastAPI would look through it, see the generator function, and stream it itself.
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        if hasattr(endpoint, attribute):
            setattr(responding, attribute, getattr(endpoint, attribute))
    responding.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=inspect.Signature.empty
    )
    return responding


def _is_response(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Response)
