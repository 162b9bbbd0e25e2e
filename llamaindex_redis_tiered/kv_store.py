"""LlamaIndex's key-value store on the three tiers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

from llama_index.core.storage.kvstore.types import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_COLLECTION,
    BaseKVStore,
)

from llamaindex_redis_tiered._store import Configured, perform, tiers_from
from llamaindex_redis_tiered._written import Written, dict_from, dumped_dict
from redis_tiered.checks import integer, text
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.maps.map import MAX_NAME, MAX_VALUE, Map
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredKVStore"]

logger = logging.getLogger("redis_tiered")

_PAGE: Final = 500


class RedisTieredKVStore(Configured, BaseKVStore):
    """Dicts by collection and key, from process memory, Redis and the durable tier.

        store = RedisTieredKVStore(ttl=86_400, compress_from=1024, failures="miss")
        pipeline = IngestionPipeline(..., cache=IngestionCache(cache=store))

    What was put is there after Redis is killed, flushed or full. Each value has a key of its own in
    Redis, so a cluster spreads a collection over its nodes. Several are read in one round trip and
    written in one transaction. Every method has an asyncio twin that runs in no other thread, but
    LlamaIndex's `IngestionCache` has none: `IngestionPipeline.arun` waits for it on the loop.

    Values come back equal: what JSON has a word for, tuples, sets, bytes, datetimes and other types of
    Python's; members of enums that are texts come back as their text, numbers of numpy as Python's.
    Anything else is refused. Keys and collections are any text, empty ones too, of 1 MiB together.

    As `embeddings_cache` of an embedding model, give each model a store of another name: LlamaIndex's
    key is the text alone.

    It is pickled, for `IngestionPipeline.run(num_workers=2)`, as its options and its `Tiers`, and with
    them the credentials.

    Args:
        tiers: where values live and for which tenant; None: `Tiers.default()`.
        name: stores of different names share nothing. 1 to 200 characters.
        ttl: seconds that values stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        compress_from: values of at least so many bytes are compressed; None: none are.
        max_value: most bytes of a value, as JSON and before compression.
        failures: "raise", or "miss" for a cache, whose failure must not be its user's: where a tier
            fails, nothing is found, and what cannot be stored is not. Both are counted in `failed`,
            and logged once.

    Attributes:
        failed: how often something was swallowed by "miss", by `"reading"`, `"writing"` and `"value"`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    _MAP: ClassVar[str] = "llamaindex-kv"

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        name: str = "default",
        ttl: float | None = None,
        jitter: float = 0.0,
        compress_from: int | None = None,
        max_value: int = MAX_VALUE,
        failures: Literal["raise", "miss"] = "raise",
    ) -> None:
        if failures not in ("raise", "miss"):
            raise InvalidInput(f'failures must be "raise" or "miss", got {failures!r:.100}')
        self.tiers = tiers_from(tiers)
        self.name = text("name", name, least=1, most=200)
        self.failed: Counter[str] = Counter()
        self._miss = failures == "miss"
        kept = {"ttl": ttl, "jitter": jitter, "compress_from": compress_from}
        self._options: dict[str, Any] = {"name": name, **kept, "max_value": max_value}
        self._map: Map[Any] = Map(
            self.tiers,
            f"{self._MAP}:{name}",
            Written(dict_from),
            ttl=ttl,
            jitter=jitter,
            compress_from=compress_from,
            max_value=max_value,
        )
        self._options["failures"] = failures

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredKVStore"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tiers!r}, name={self.name!r})"

    # Writing.

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value in place of the one before.

        Raises:
            InvalidInput: an argument has the wrong type or size, or `val` holds what would not come
                back equal.
            TierError: it is not stored.
        """
        with self._swallowing("writing"):
            self._map.write(self._one(key, val, collection))

    async def aput(
        self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION
    ) -> None:
        """As `put`."""
        with self._swallowing("writing"):
            await perform(self._map, "write", self._one(key, val, collection))

    def put_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store several values; of one key's several the last.

        Args:
            kv_pairs: keys and values.
            collection: of all of them.
            batch_size: at least 1. All are one transaction, however many that is.

        Raises:
            InvalidInput: as `put`; nothing is stored.
            TierError: with a durable tier, nothing is stored; without one, some may be.
        """
        with self._swallowing("writing"):
            self._map.write(self._all(kv_pairs, collection, batch_size))

    async def aput_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """As `put_all`."""
        with self._swallowing("writing"):
            await perform(self._map, "write", self._all(kv_pairs, collection, batch_size))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value; tells whether there was one."""
        return self.delete_many((key,), collection) > 0

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """As `delete`."""
        return await self.adelete_many((key,), collection) > 0

    def delete_many(self, keys: Iterable[str], collection: str = DEFAULT_COLLECTION) -> int:
        """Delete several values in one transaction; tells how many there were."""
        names = _names(keys, collection)
        with self._swallowing("writing"):
            return self._map.write(delete=names)
        return 0

    async def adelete_many(self, keys: Iterable[str], collection: str = DEFAULT_COLLECTION) -> int:
        """As `delete_many`."""
        names = _names(keys, collection)
        with self._swallowing("writing"):
            return int(await perform(self._map, "write", delete=names))
        return 0

    def clear(self) -> None:
        """Delete every value of all collections, in every process, at once.

        Raises:
            TierError: a tier could not be told, also under "miss".
        """
        self._map.clear()

    async def aclear(self) -> None:
        """As `clear`."""
        await perform(self._map, "clear")

    # Reading.

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """A value, as a new object; None: there is none.

        Raises:
            InvalidInput: an argument has the wrong type or size.
            TierError: it was not found, and a tier that may have it failed.
        """
        return self.get_many((key,), collection)[0]

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """As `get`."""
        return (await self.aget_many((key,), collection))[0]

    def get_many(
        self, keys: Iterable[str], collection: str = DEFAULT_COLLECTION
    ) -> list[dict[str, Any] | None]:
        """Values in the order of their keys; None where there is none."""
        names = _names(keys, collection)
        with self._swallowing("reading"):
            return self._map.get_many(names)
        return [None] * len(names)

    async def aget_many(
        self, keys: Iterable[str], collection: str = DEFAULT_COLLECTION
    ) -> list[dict[str, Any] | None]:
        """As `get_many`."""
        names = _names(keys, collection)
        with self._swallowing("reading"):
            found: list[dict[str, Any] | None] = await perform(self._map, "get_many", names)
            return found
        return [None] * len(names)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """All values of a collection by their keys, in the order of these, page by page.

        Raises:
            InvalidInput: not a collection.
            TierError: the durable tier failed, or Redis if there is none.
        """
        prefix = _prefix(collection)
        with self._swallowing("reading"):
            return {name[len(prefix) :]: value for name, value in self._map.items(prefix)}
        return {}

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """As `get_all`."""
        prefix = _prefix(collection)
        with self._swallowing("reading"):
            found: dict[str, dict[str, Any]] = {}
            after: str | None = None
            while True:
                page = await perform(self._map, "page", prefix, after=after, limit=_PAGE)
                found |= {name[len(prefix) :]: value for name, value in page}
                if len(page) < _PAGE:
                    return found
                after = page[-1][0]
        return {}

    # Helpers.

    def _one(self, key: str, val: object, collection: str) -> dict[str, bytes]:
        return self._encoded([("key", key, "val", val)], collection)

    def _all(self, kv_pairs: object, collection: str, batch_size: object) -> dict[str, bytes]:
        integer("batch_size", batch_size, 1)
        if isinstance(kv_pairs, str | bytes) or not isinstance(kv_pairs, Iterable):
            raise InvalidInput(f"kv_pairs must be several pairs, got {type(kv_pairs).__name__}")
        given = []
        for i, pair in enumerate(kv_pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InvalidInput(
                    f"kv_pairs[{i}] must be a pair of a str and a dict, got {type(pair).__name__}"
                )
            given.append((f"kv_pairs[{i}][0]", pair[0], f"kv_pairs[{i}][1]", pair[1]))
        return self._encoded(given, collection)

    def _encoded(
        self, given: Sequence[tuple[str, Any, str, Any]], collection: str
    ) -> dict[str, bytes]:
        """Names and bytes, of keys and values after what to call them in an error."""
        prefix = _prefix(collection)
        written: dict[str, bytes] = {}
        for key_place, key, place, value in given:
            name = _name(prefix, key, key_place)
            try:
                data = dumped_dict(place, value)
                if len(data) > self._map_limit:
                    raise InvalidInput(
                        f"{place} must have at most {self._map_limit} bytes as JSON, got {len(data)}"
                    )
            except InvalidInput as error:
                self._swallow("value", error)
            else:
                written[name] = data
        return written

    @property
    def _map_limit(self) -> int:
        limit: int = self._options["max_value"]
        return limit

    @contextmanager
    def _swallowing(self, what: str) -> Iterator[None]:
        try:
            yield
        except TierError as error:
            self._swallow(what, error)

    def _swallow(self, what: str, error: Exception) -> None:
        if not self._miss:
            raise error
        if not self.failed[what]:
            logger.warning("%s of %r failed, as if nothing were there: %s", what, self, error)
        self.failed[what] += 1


def _prefix(collection: object) -> str:
    """What the names of a collection begin with: no two collections and keys make one name."""
    return quote(text("collection", collection), safe="") + "/"


def _name(prefix: str, key: object, where: str) -> str:
    name = prefix + text(where, key)
    if len(name) > MAX_NAME // 4 and len(name.encode()) > MAX_NAME:
        raise InvalidInput(
            f"{where} and its collection must have at most {MAX_NAME} bytes, got {len(name.encode())}"
        )
    return name


def _names(keys: object, collection: object) -> list[str]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise InvalidInput(f"keys must be several str, got {type(keys).__name__}")
    prefix = _prefix(collection)
    return [_name(prefix, key, "key") for key in keys]
