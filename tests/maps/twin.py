"""Calls either twin of a map's methods by the name of the blocking one."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from redis_tiered import Map, Tiers

__all__ = ["Bench", "Twin"]


class Bench:
    """Tiers over given servers; a context manager.

    Args:
        redis, durable: URLs.
        loop: None: blocking.
    """

    def __init__(
        self, redis: str, durable: str | None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.redis = redis
        self.durable = durable
        self.loop = loop
        self._made: list[Tiers] = []
        self.tiers = self.more()

    def more(self, **options: Any) -> Tiers:
        """As of another process."""
        self._made.append(Tiers(self.redis, self.durable, **options))
        return self._made[-1]

    def map(self, name: str = "m", *, tiers: Tiers | None = None, **options: Any) -> Twin:
        return Twin((tiers or self.tiers).map(name, **options), self.loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for tiers in self._made:
            if self.loop is not None:
                self.loop.run_until_complete(tiers.aclose())
            tiers.close()


class Twin:
    """A map whose methods are called blocking or in a loop; what they iterate over is a list."""

    def __init__(self, map: Map[Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self.map = map
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        if self.loop is None:
            return getattr(self.map, name)
        method, run = getattr(self.map, "a" + name), self.loop.run_until_complete
        return lambda *args, **options: run(method(*args, **options))

    def items(self, prefix: str = "") -> list[tuple[str, Any]]:
        if self.loop is None:
            return list(self.map.items(prefix))
        return self.loop.run_until_complete(_listed(self.map.aitems(prefix)))

    def names(self, prefix: str = "") -> list[str]:
        if self.loop is None:
            return list(self.map.names(prefix))
        return self.loop.run_until_complete(_listed(self.map.anames(prefix)))


async def _listed(found: Any) -> list[Any]:
    return [item async for item in found]
