"""The URL of a log in Redis; what is wrong with one is told without what may be secret in it. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from ..._wire.number import whole_number
from .._schemes import REDIS_SCHEMES

_ENCODE = (
    "a # / ? or @ in its user name or password has to be percent-encoded, as "
    "urllib.parse.quote(password, safe='') does"
)


def is_cluster(url: str) -> bool:
    """Whether the URL is that of a cluster."""
    return url.partition("://")[0].endswith("+cluster")


def cluster_urls(url: str) -> list[str]:
    """One URL for each node, all with the same password and options."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    scheme = parts.scheme.removesuffix("+cluster")
    return [
        parts._replace(scheme=scheme, netloc=f"{user}{at}{host}").geturl()
        for host in hosts.split(",")
    ]


def check_url(url: str) -> None:
    """Raise ValueError if the URL can't be understood, without any part of it that may be secret."""
    scheme, colon, _ = url.partition("://")
    if not colon or scheme.lower() not in REDIS_SCHEMES:
        known = ", ".join(f"{each}://" for each in REDIS_SCHEMES)
        found = f", not {scheme!r}" if colon and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else ""
        raise ValueError(f"a log in Redis has a URL that begins with one of {known}{found}")
    wrong = _wrong_in(url)
    # Not within an `except`: what was caught there would be kept with ours, and it quotes the URL.
    if wrong:
        raise ValueError(f"the URL of the log in Redis can't be understood: {wrong}")


def _wrong_in(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{_ENCODE}, and so has a [ or ]"
    beyond = url.partition("://")[2][len(parts.netloc) :]
    if "#" in url or "@" in beyond.partition("?")[0] or "@" in parts.fragment:
        return _ENCODE
    if "@" in parts.query and "@" not in parts.netloc:
        return _ENCODE
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and whole_number(database) is None:
        return "its path is the number of a database: 0, or another one that the server has"
    if is_cluster(url) and not all(urlsplit(each).hostname for each in cluster_urls(url)):
        return "it names no node of the cluster, or one without a host"
    for each in cluster_urls(url) if is_cluster(url) else [url]:
        try:
            port = urlsplit(each).port
        except ValueError:
            port = -1
        if port is not None and not 0 < port < 65_536:
            return f"its port is not a number from 1 to 65535; or {_ENCODE}"
        try:
            pool: Any = ConnectionPool.from_url(each)
            pool.make_connection()
        except (TypeError, ValueError, RedisError, OSError) as error:
            return _option_in(str(error), parts.query)
    return ""


def _option_in(text: str, query: str) -> str:
    for option in parse_qs(query, keep_blank_values=True):
        if option in text:
            return f"it has an option that doesn't exist, or has a wrong value: {option}"
    return "it has an option that doesn't exist, or has a wrong value"
