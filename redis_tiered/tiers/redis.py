"""L2: blocking and asyncio requests to Redis over connections made by one factory.

Both clients send words and hand back raw RESP2 replies, in one round trip per node. They know
nothing of breakers or retries (those are the drivers'); every failure leaves as a `TierError`.

The blocking client keeps a bounded pool per server; callers wait for a free connection. The asyncio
client belongs to one event loop and keeps a few connections per server on which requests that are
made at the same time travel as one pipeline; a cancelled caller never disturbs the others.
"""

from __future__ import annotations

import threading
from typing import Any

from redis_tiered.endpoint import Address
from redis_tiered.errors import (
    ClosedError,
)
from redis_tiered.flow import Redis
from redis_tiered.tiers.channel import Channels
from redis_tiered.tiers.connections import (
    ConnectionFactory,
    adrive,
    drive,
)
from redis_tiered.tiers.pool import Pool
from redis_tiered.tiers.routing import ClusterRouter

__all__ = ["AsyncRedis", "SyncRedis"]


class SyncRedis:
    """Blocking requests to any topology; thread-safe.

    Args:
        factory: makes the connections.
        max_connections: per server; further callers wait, at most the factory's timeout.
    """

    def __init__(self, factory: ConnectionFactory, max_connections: int) -> None:
        self._factory = factory
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._pools: dict[Address | None, Pool] = {}
        endpoint = factory.endpoint
        self._router = ClusterRouter(endpoint.addresses) if endpoint.topology == "cluster" else None
        self._primary = self._pool(None)

    def execute(self, step: Redis, *, fresh: bool) -> list[Any]:
        """Send a step's commands and return their replies.

        Args:
            step: what to send.
            fresh: trust no connection, slot table or primary's address known from before.

        Raises:
            TierError: the first failure; the other replies were read or the connection dropped.
        """
        if self._router is None:
            return self._primary.execute(step.commands, fresh)
        return drive(self._router.execute(step, fresh=fresh), self._pool)  # type: ignore[no-any-return]

    def primaries(self) -> list[Address | None]:
        """Addresses of all primaries; `[None]` where there is just one."""
        if self._router is None:
            return [None]
        return drive(self._router.primaries(), self._pool)  # type: ignore[no-any-return]

    def close(self) -> None:
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()

    def abandon(self) -> None:
        """After fork: forget sockets that belong to the parent, without a word on the wire."""
        self._lock = threading.Lock()
        self._pools = {}

    def _pool(self, address: Address | None) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(
                    address, Pool(self._factory, address, self._max_connections)
                )
        return pool


class AsyncRedis:
    """Requests to any topology from one event loop.

    Args:
        factory: makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        self._groups: dict[Address | None, Channels] = {}
        self._closed = False
        endpoint = factory.endpoint
        self._router = ClusterRouter(endpoint.addresses) if endpoint.topology == "cluster" else None
        self._primary = self._group(None)

    async def execute(self, step: Redis, *, fresh: bool) -> list[Any]:
        """As `SyncRedis.execute`."""
        if self._router is None:
            return await self._primary.execute(step.commands, fresh)
        return await adrive(self._router.execute(step, fresh=fresh), self._group)  # type: ignore[no-any-return]

    async def close(self) -> None:
        self._closed = True
        for group in self._groups.values():
            await group.close()

    def _group(self, address: Address | None) -> Channels:
        group = self._groups.get(address)
        if group is None:
            if self._closed:
                raise ClosedError("redis", "closed", "this Tiers was closed")
            group = self._groups[address] = Channels(self._factory, address)
        return group
