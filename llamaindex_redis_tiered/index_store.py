"""LlamaIndex's index store on the three tiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.data_structs.data_structs import IndexStruct
from llama_index.core.storage.index_store.keyval_index_store import KVIndexStore
from llama_index.core.storage.index_store.types import DEFAULT_PERSIST_PATH
from llama_index.core.storage.index_store.utils import index_struct_to_json

from llamaindex_redis_tiered._store import Configured
from llamaindex_redis_tiered.kv_store import RedisTieredKVStore
from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredIndexStore"]


class _Indices(RedisTieredKVStore):
    """The map that index stores have to themselves."""

    _MAP = "llamaindex-indices"


class RedisTieredIndexStore(Configured, KVIndexStore):
    """What LlamaIndex's indices consist of, from process memory, Redis and the durable tier.

        context = StorageContext.from_defaults(
            docstore=RedisTieredDocumentStore(),
            index_store=RedisTieredIndexStore(),
            vector_store=RedisTieredVectorStore("handbook"),
        )
        index = load_index_from_storage(context)

    An index writes its structure as a whole at each of its changes. Of a `VectorStoreIndex` whose
    vector store keeps the texts there is nothing in it but the id, so that several processes may change
    one; of other indices the last writer's stays.

    All writes are durable when they return: there is nothing to persist. Every method has an asyncio
    twin that runs in no other thread.

    Args:
        tiers: where they live and for which tenant; None: `Tiers.default()`.
        name: stores of different names share nothing. 1 to 200 characters.
        compress_from: structures of at least so many bytes are compressed; None: none are.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        name: str = "default",
        compress_from: int | None = None,
    ) -> None:
        self._options: dict[str, Any] = {"name": name, "compress_from": compress_from}
        self._structs = _Indices(tiers, **self._options)
        super().__init__(self._structs)
        self.tiers = self._structs.tiers
        self.name = name

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredIndexStore"

    def __repr__(self) -> str:
        return f"RedisTieredIndexStore({self.tiers!r}, name={self.name!r})"

    def add_index_struct(self, index_struct: IndexStruct) -> None:
        """Store a structure in place of the one with the same id.

        Raises:
            InvalidInput: not a structure.
            TierError: it is not stored.
        """
        self.add_index_structs((index_struct,))

    async def async_add_index_struct(self, index_struct: IndexStruct) -> None:
        """As `add_index_struct`."""
        await self.async_add_index_structs((index_struct,))

    def add_index_structs(self, index_structs: Sequence[IndexStruct]) -> None:
        """Store several in one transaction."""
        self._structs.put_all(_pairs(index_structs), self._collection)

    async def async_add_index_structs(self, index_structs: Sequence[IndexStruct]) -> None:
        """As `add_index_structs`."""
        await self._structs.aput_all(_pairs(index_structs), self._collection)

    def get_index_struct(self, struct_id: str | None = None) -> IndexStruct | None:
        """A structure; None: there is none of this id.

        Args:
            struct_id: None: the only one.

        Raises:
            InvalidInput: it is None, and there are none or several.
            TierError: a tier failed.
        """
        if struct_id is None:
            return _only(self.index_structs())
        return super().get_index_struct(struct_id)

    async def aget_index_struct(self, struct_id: str | None = None) -> IndexStruct | None:
        """As `get_index_struct`."""
        if struct_id is None:
            return _only(await self.async_index_structs())
        return await super().aget_index_struct(struct_id)

    def persist(
        self,
        persist_path: str = DEFAULT_PERSIST_PATH,
        fs: Any = None,
    ) -> None:
        """Nothing: what was written is durable already."""


def _pairs(index_structs: Sequence[IndexStruct]) -> list[tuple[str, dict[str, Any]]]:
    for i, struct in enumerate(index_structs):
        if not isinstance(struct, IndexStruct):
            raise InvalidInput(
                f"index_structs[{i}] must be an IndexStruct, got {type(struct).__name__}"
            )
    return [(struct.index_id, index_struct_to_json(struct)) for struct in index_structs]


def _only(found: Sequence[IndexStruct]) -> IndexStruct:
    if len(found) != 1:
        raise InvalidInput(f"struct_id must say which, there are {len(found)}")
    return found[0]
