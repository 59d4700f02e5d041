"""Appends to a log in Redis without an event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import NEVER_DECODE
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from ..._wire.cursor import new_epoch
from ._protocol import append_asked, appended_in, new_tags
from ._scripts import APPEND
from ._urls import cluster_urls, is_cluster

if TYPE_CHECKING:
    from ..base import Limits, NewEntry, Position
    from ._faults import Explainer
    from ._protocol import Names


class RedisAppender:
    """A client of redis-py, which any thread may use."""

    def __init__(
        self,
        url: str,
        names: Names,
        faults: Explainer,
        *,
        timeout: float,
    ) -> None:
        """Connect to nothing yet."""
        self._names = names
        self._faults = faults
        self._tags = new_tags()
        self._url = url
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 1),
        }
        self._lock = threading.Lock()
        self._client: Any = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                # A client of a cluster asks for its nodes at once, which may fail.
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> Any:
        options = self._options
        if is_cluster(self._url):
            first, *others = cluster_urls(self._url)
            places = [urlsplit(each) for each in others]
            cluster_node: Any = ClusterNode
            nodes = [cluster_node(str(each.hostname), each.port or 6379) for each in places]
            if nodes:
                options = {**options, "startup_nodes": nodes}
            return RedisCluster.from_url(first, **options)
        return Redis.from_url(self._url, **options)

    def append(self, channel: str, entry: NewEntry, limits: Limits) -> Position:
        keys, arguments = append_asked(self._names, channel, [entry], limits, new_epoch())
        tag = next(self._tags)
        asked = (len(keys), *keys, tag, *arguments)
        raw: dict[str, Any] = {NEVER_DECODE: True}
        try:
            client = self._connected()
            try:
                answer = client.execute_command("EVALSHA", APPEND.sha, *asked, **raw)
            except NoScriptError:
                answer = client.execute_command("EVAL", APPEND.text, *asked, **raw)
            (found,), warning = appended_in(tag, answer, channel, 1)
        except Exception as error:
            told = self._faults.explain(error, channel)
            raise told from told.__cause__
        if warning:
            self._faults.warn(channel, ResponseError(warning))
        if isinstance(found, str):
            raise self._faults.explain(ResponseError(found), channel)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
