"""Clients of redis-py: how ours are made, what those of a user lead to, and a connection to listen on."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from ._faults import FAILURES
from ._urls import cluster_urls, is_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

Client: TypeAlias = "Redis | RedisCluster"


def make_client(url: str, *, timeout: float) -> Client:
    """A client of our own, which connects when it's used."""
    options: dict[str, Any] = {
        # The same with every version of redis-py, and quicker to read.
        "protocol": 2,
        # There's a deadline for the whole of it, and only one clock has to be set then.
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        # For a connection that turns out to be broken when it's used next.
        "retry": Retry(NoBackoff(), 1),
    }
    if not is_cluster(url):
        return Redis.from_url(url, **options)
    first, *others = cluster_urls(url)
    places = [urlsplit(url) for url in others]
    nodes = [ClusterNode(str(each.hostname), each.port or 6379) for each in places]
    return RedisCluster.from_url(first, startup_nodes=nodes, **options)


async def open_connection(client: Client, *, within: float) -> AbstractConnection:
    """Make a connection that nobody else uses, and that never mends itself, in `within` seconds a step."""
    if isinstance(client, Redis):
        pool = client.connection_pool
        return await _connected(pool.connection_class, pool.connection_kwargs, within)
    async with asyncio.timeout(within):
        await client.initialize()
    nodes = client.get_nodes()
    random.shuffle(nodes)
    error: Exception | None = None
    for node in nodes:
        try:
            return await _connected(node.connection_class, node.connection_kwargs, within)
        except FAILURES as caught:
            error = caught
    # None of the nodes we know is there: ask those we began with for others.
    async with asyncio.timeout(within):
        await client.aclose()
    raise error or RedisConnectionError("the cluster has no nodes")


async def _connected(
    kind: Callable[..., Any], given: dict[str, Any], within: float
) -> AbstractConnection:
    # Notices of maintenance need the newer protocol; a server that is gone is noticed anyway.
    options = {name: value for name, value in given.items() if not name.startswith("maint")}
    connection = kind(
        **{
            **options,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": within,
            "health_check_interval": 0,
            "retry": None,
            "retry_on_error": [],
            "retry_on_timeout": False,
        }
    )
    try:
        async with asyncio.timeout(within):
            await connection.connect()
    except BaseException:
        await hang_up(connection)
        raise
    made: AbstractConnection = connection
    return made


async def hang_up(connection: AbstractConnection) -> None:
    """Close a connection, which may have been broken before."""
    with anyio.CancelScope(shield=True), suppress(*FAILURES):
        await connection.disconnect(nowait=True)


def db_of(client: Client) -> int:
    """The number of the database that it uses."""
    if isinstance(client, RedisCluster):
        return 0
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def options_of(client: Client) -> list[dict[str, Any]]:
    """The options of its connections."""
    if isinstance(client, RedisCluster):
        return [client.connection_kwargs]
    found: list[dict[str, Any]] = [client.connection_pool.connection_kwargs]
    sentinels = getattr(client.connection_pool, "sentinel_manager", None)
    others = getattr(sentinels, "sentinels", [])
    return found + [each.connection_pool.connection_kwargs for each in others]


def connections_of(client: Client, *, most: int) -> int:
    """How many it may have at a time, up to `most`; to each node, of a cluster."""
    if isinstance(client, RedisCluster):
        limits = [node.max_connections for node in client.nodes_manager.startup_nodes.values()]
        return max(1, min([most, *limits]))
    return max(1, min(most, client.connection_pool.max_connections))


def place_of(client: Client) -> str:
    """Where a client of the user's own leads to."""
    if isinstance(client, RedisCluster):
        nodes = client.nodes_manager.startup_nodes.values()
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in nodes)
    pool = client.connection_pool
    options = pool.connection_kwargs
    if (service := getattr(pool, "service_name", None)) is not None:
        return f"{service} (by Sentinel)"
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
