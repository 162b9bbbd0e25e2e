"""LangChain's byte store on the three tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from langchain_core.stores import ByteStore

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput
from redis_tiered.maps.item import MAX_VALUE
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredByteStore"]


class RedisTieredByteStore(ByteStore):
    """Bytes by keys, from process memory, Redis and the durable tier.

        store = RedisTieredByteStore(name="documents")
        retriever = MultiVectorRetriever(vectorstore=..., byte_store=store)

    What was stored is there after Redis is killed, flushed or full. `mget` is one round trip to Redis;
    `mset` and `mdelete` are one transaction each.

    Args:
        tiers: where values live; None: `Tiers.default()`.
        name: stores of different names share nothing.
        ttl: seconds that values stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        compress_from: values of at least so many bytes are compressed; None: none are.
        max_value: most bytes of a value.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        name: str = "default",
        ttl: float | None = None,
        jitter: float = 0.0,
        compress_from: int | None = None,
        max_value: int = MAX_VALUE,
    ) -> None:
        if tiers is not None and not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        text("name", name, least=1)
        self.tiers = Tiers.default() if tiers is None else tiers
        self._options: dict[str, Any] = {
            "name": name,
            "ttl": ttl,
            "jitter": jitter,
            "compress_from": compress_from,
            "max_value": max_value,
        }
        self._map = self.tiers.map(**{**self._options, "name": f"langchain-bytes:{name}"})

    def __repr__(self) -> str:
        return f"RedisTieredByteStore({self.tiers!r}, name={self._options['name']!r})"

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of their keys; None where there is none.

        Raises:
            InvalidInput: not keys.
            TierError: some were not found, and a tier that may have them failed.
        """
        return self._map.get_many(_keys(keys))

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """As `mget`."""
        return await self._map.aget_many(_keys(keys))

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store values; of one key's several the last.

        Raises:
            InvalidInput: a key or value has the wrong type or size; nothing was stored.
            TierError: with a durable tier, nothing was stored; without one, some may be.
        """
        self._map.write(_pairs(key_value_pairs))

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """As `mset`."""
        await self._map.awrite(_pairs(key_value_pairs))

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete values.

        Raises:
            InvalidInput: not keys.
            TierError: as `mset`.
        """
        self._map.write(delete=_keys(keys))

    async def amdelete(self, keys: Sequence[str]) -> None:
        """As `mdelete`."""
        await self._map.awrite(delete=_keys(keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Keys that begin with a prefix, in the order of their UTF-8 bytes, page by page.

        Raises:
            InvalidInput: the prefix is no text.
            TierError: the durable tier failed, or Redis if there is none.
        """
        return self._map.names("" if prefix is None else prefix)

    def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """As `yield_keys`."""
        return self._map.anames("" if prefix is None else prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.tiers, self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> RedisTieredByteStore:
        # What holds a store is copied with it; the copy shares its connections.
        return self


def _rebuild(
    kind: type[RedisTieredByteStore], tiers: Tiers, options: dict[str, Any]
) -> RedisTieredByteStore:
    return kind(tiers, **options)


def _keys(given: Sequence[str]) -> list[str]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidInput(f"keys must be several str, got {type(given).__name__}")
    keys = list(given)
    for i, key in enumerate(keys):
        if not isinstance(key, str):
            raise InvalidInput(f"keys[{i}] must be a str, got {type(key).__name__}")
    return keys


def _pairs(given: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    try:
        return {key: value for key, value in given}  # noqa: C416 - dict() takes bytes for a pair
    except (TypeError, ValueError):
        raise InvalidInput(
            "key_value_pairs must be several pairs of a str and bytes, "
            f"got {type(given).__name__} of something else"
        ) from None
