"""Which event log a URL leads to: by its scheme, one of ours or one that another package has registered.

An entry point of the group `sse_starlette.eventlogs` is named as a scheme and stands for a callable that is
given the URL and returns a `Backend`. Ours are registered, too, for those who list them, but are found
without metadata: a copy of this package among the sources of another has none.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import TYPE_CHECKING

from .base import Backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

GROUP = "sse_starlette.eventlogs"
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
OURS = {
    **dict.fromkeys(REDIS_SCHEMES, ("redis", "RedisLog")),
    "sqlite": ("sqlite", "SQLiteLog"),
}
"""The module and the class of each scheme of ours."""


def backend_for(log: object) -> Backend:
    """
    The backend that a hub was given, or given the URL of.

    Raises:
        TypeError: it's something else.
        ValueError: there's no log for the URL.
        ImportError: what the log needs isn't installed, or can't be loaded.
    """
    if isinstance(log, Backend):
        return log
    if not isinstance(log, str):
        found = f"{type(log).__module__}.{type(log).__qualname__}"
        way = "Hub(log) takes a URL, a Backend or nothing"
        if type(log).__module__.partition(".")[0] == "redis":
            way = (
                "for a client of redis.asyncio, write Hub(RedisLog(client)) with RedisLog from "
                "sse_starlette.eventlogs.redis; otherwise give Hub the URL"
            )
        elif isinstance(log, os.PathLike):
            way = "for a file, write Hub(f'sqlite:///{path}')"
        raise TypeError(f"Hub was given a {found}: {way}.")
    scheme, colon, _ = log.partition("://")
    if colon and scheme in OURS:
        return _ours(scheme)(log)
    from importlib.metadata import entry_points  # noqa: PLC0415  (10 ms that hardly anyone needs)

    points = entry_points(group=GROUP)
    if colon and (named := [point for point in points if point.name == scheme]):
        return _registered(named, scheme, log)
    # The rest may have a password.
    known = colon and scheme.isascii() and scheme.replace("+", "").isalnum()
    found = repr(scheme + colon) if known else "a URL without a scheme"
    if re.fullmatch(r"[a-z0-9.-]*(:\d+)?", log):
        found = repr(log)
    *others, last = [f"{each}://" for each in dict.fromkeys([*OURS, *sorted(points.names)])]
    raise ValueError(
        f"there's no log for {found}: give Hub a URL that begins with {', '.join(others)} or {last}, "
        "a Backend, or nothing."
    )


def _ours(scheme: str) -> Callable[[str], Backend]:
    module, name = OURS[scheme]
    try:
        found = import_module(f".{module}", __package__)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "redis":
            raise
        raise ImportError(
            f"Hub({scheme + '://…'!r}) needs the client of Redis, the extra `redis`. "
            "From a checkout: pip install '.[redis]'"
        ) from exc
    make: Callable[[str], Backend] = getattr(found, name)
    return make


def _registered(points: list[EntryPoint], scheme: str, url: str) -> Backend:
    places = {
        point.value: f"{point.value} of {point.dist.name if point.dist else 'a package'}"
        for point in points
    }
    if len(places) > 1:
        raise ValueError(
            f"more than one log is registered for {scheme}://, {' and '.join(places.values())}: "
            "uninstall the others, or give Hub the Backend that is meant."
        )
    (place,) = places.values()
    try:
        make = points[0].load()
    except (ImportError, AttributeError) as exc:
        raise ImportError(f"the log for {scheme}://, {place}, can't be loaded: {exc}") from exc
    made = make(url)
    if not isinstance(made, Backend):
        found = f"{type(made).__module__}.{type(made).__qualname__}"
        raise TypeError(f"the log for {scheme}://, {place}, is a {found} and not a Backend.")
    return made
