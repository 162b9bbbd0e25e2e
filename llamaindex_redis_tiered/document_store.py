"""LlamaIndex's document store on the three tiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import (
    DEFAULT_PERSIST_PATH,
    BaseDocumentStore,
    RefDocInfo,
)

from llamaindex_redis_tiered._documents import Documents, absent, node_name, read_fact
from llamaindex_redis_tiered._store import Configured, perform, tiers_from
from llamaindex_redis_tiered._written import Written
from redis_tiered.checks import integer, text
from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Flow
from redis_tiered.maps.map import Map
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredDocumentStore"]


class RedisTieredDocumentStore(Configured, BaseDocumentStore):
    """Nodes, their hashes and their sources, from process memory, Redis and the durable tier.

        store = RedisTieredDocumentStore()
        pipeline = IngestionPipeline(..., docstore=store, vector_store=RedisTieredVectorStore("handbook"))

    Nodes come back equal, as the class of LlamaIndex that they are of or derive from. Each thing that is
    known of a node is stored by itself and all that one call changes is one transaction, so that
    writers at once lose nothing of each other; without a durable tier it is one step per part of Redis.
    What LlamaIndex's pipeline looks up first and decides by, such as whether a hash is known,
    another process may change before it writes.

    All writes are durable when they return: there is nothing to persist. Every method has an asyncio
    twin that runs in no other thread. It is pickled as its options and its `Tiers`, and with them the
    credentials.

    Different from LlamaIndex's `KVDocumentStore`: setting a hash does not forget the source; a node
    that is added with another source, or none, leaves the one before; a document of which only the
    hash is stored can be deleted; the asyncio methods do the same as the others.

    Args:
        tiers: where documents live and for which tenant; None: `Tiers.default()`.
        name: stores of different names share nothing. 1 to 200 characters.
        compress_from: nodes of at least so many bytes are compressed; None: none are.

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
        self.tiers = tiers_from(tiers)
        self.name = text("name", name, least=1, most=200)
        self._options: dict[str, Any] = {"name": name, "compress_from": compress_from}
        self._map: Map[Any] = Map(
            self.tiers, f"llamaindex-docs:{name}", Written(read_fact), compress_from=compress_from
        )
        self._documents = Documents(self._map)

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredDocumentStore"

    def __repr__(self) -> str:
        return f"RedisTieredDocumentStore({self.tiers!r}, name={self.name!r})"

    def _run(self, flow: Flow[Any]) -> Any:
        return self.tiers.run(flow)

    async def _arun(self, flow: Flow[Any]) -> Any:
        return await perform(self.tiers, "run", flow)

    # Nodes.

    @property
    def docs(self) -> dict[str, BaseNode]:
        """All nodes by their ids, read page by page."""
        found: dict[str, BaseNode] = self._run(self._documents.all_nodes())
        return found

    def add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,
        store_text: bool = True,
    ) -> None:
        """Add nodes in one transaction; one with the same id is replaced.

        Args:
            docs: of the same id the last one is kept.
            allow_update: False: refuse all if a node is there already.
            batch_size: at least 1. All are one transaction, however many that is.
            store_text: False: only their hashes and sources are stored, not the nodes.

        Raises:
            InvalidInput: a node cannot be stored, or is there already; nothing is written.
            TierError: with a durable tier, nothing is written; without one, some may be.
        """
        self._run(self._adding(docs, allow_update, batch_size, store_text))

    async def async_add_documents(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool = True,
        batch_size: int | None = None,
        store_text: bool = True,
    ) -> None:
        """As `add_documents`."""
        await self._arun(self._adding(docs, allow_update, batch_size, store_text))

    def get_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        """A node, as a new object.

        Raises:
            InvalidInput: (a ValueError) there is none and `raise_error` is true, or it is no str.
            TierError: it was not found, and a tier that may have it failed.
        """
        return _found(self._map.get(node_name("doc_id", doc_id)), doc_id, raise_error)

    async def aget_document(self, doc_id: str, raise_error: bool = True) -> BaseNode | None:
        """As `get_document`."""
        name = node_name("doc_id", doc_id)
        return _found(await perform(self._map, "get", name), doc_id, raise_error)

    def get_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        """Nodes in the order of their ids, in one round trip.

        Raises:
            InvalidInput: (a ValueError) one is not there and `raise_error` is true; else it is left
                out.
            TierError: as `get_document`.
        """
        names = _names(node_ids)
        return _all_found(self._map.get_many(names), node_ids, raise_error)

    async def aget_nodes(self, node_ids: list[str], raise_error: bool = True) -> list[BaseNode]:
        """As `get_nodes`."""
        names = _names(node_ids)
        return _all_found(await perform(self._map, "get_many", names), node_ids, raise_error)

    def get_node_dict(self, node_id_dict: dict[int, str]) -> dict[int, BaseNode]:
        """Nodes by the numbers of their ids, in one round trip; all must be there."""
        return dict(zip(node_id_dict, self.get_nodes(list(node_id_dict.values())), strict=True))

    async def aget_node_dict(self, node_id_dict: dict[int, str]) -> dict[int, BaseNode]:
        """As `get_node_dict`."""
        nodes = await self.aget_nodes(list(node_id_dict.values()))
        return dict(zip(node_id_dict, nodes, strict=True))

    def document_exists(self, doc_id: str) -> bool:
        """Whether a node is stored."""
        return self.get_document(doc_id, raise_error=False) is not None

    async def adocument_exists(self, doc_id: str) -> bool:
        """As `document_exists`."""
        return await self.aget_document(doc_id, raise_error=False) is not None

    def delete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """Delete a node and its hash, and its source too if no other node is of it.

        Raises:
            InvalidInput: (a ValueError) there was none and `raise_error` is true.
            TierError: it is not deleted.
        """
        if not self._run(self._documents.delete(doc_id)) and raise_error:
            raise absent(doc_id)

    async def adelete_document(self, doc_id: str, raise_error: bool = True) -> None:
        """As `delete_document`."""
        if not await self._arun(self._documents.delete(doc_id)) and raise_error:
            raise absent(doc_id)

    # Hashes.

    def set_document_hash(self, doc_id: str, doc_hash: str) -> None:
        """Store the hash of a document; what else is known of it stays."""
        self.set_document_hashes({doc_id: doc_hash})

    async def aset_document_hash(self, doc_id: str, doc_hash: str) -> None:
        """As `set_document_hash`."""
        await self.aset_document_hashes({doc_id: doc_hash})

    def set_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        """Store several in one transaction, by the ids of the documents."""
        self._run(self._documents.set_hashes(doc_hashes))

    async def aset_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        """As `set_document_hashes`."""
        await self._arun(self._documents.set_hashes(doc_hashes))

    def get_document_hash(self, doc_id: str) -> str | None:
        """The hash of a document; None: none is stored."""
        return self.get_document_hashes((doc_id,))[0]

    async def aget_document_hash(self, doc_id: str) -> str | None:
        """As `get_document_hash`."""
        return (await self.aget_document_hashes((doc_id,)))[0]

    def get_document_hashes(self, doc_ids: Iterable[str]) -> list[str | None]:
        """The hashes of several documents, in the order of their ids, in one round trip."""
        found: list[str | None] = self._run(self._documents.hashes(_several("doc_ids", doc_ids)))
        return found

    async def aget_document_hashes(self, doc_ids: Iterable[str]) -> list[str | None]:
        """As `get_document_hashes`."""
        flow = self._documents.hashes(_several("doc_ids", doc_ids))
        found: list[str | None] = await self._arun(flow)
        return found

    def get_all_document_hashes(self) -> dict[str, str]:
        """Ids by hashes; of documents with the same hash, the last in the order of ids."""
        found: dict[str, str] = self._run(self._documents.all_hashes())
        return found

    async def aget_all_document_hashes(self) -> dict[str, str]:
        """As `get_all_document_hashes`."""
        found: dict[str, str] = await self._arun(self._documents.all_hashes())
        return found

    # Sources.

    def get_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        """The nodes that are of a source, in the order they were added; None: there are none."""
        found: RefDocInfo | None = self._run(self._documents.info(ref_doc_id))
        return found

    async def aget_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        """As `get_ref_doc_info`."""
        found: RefDocInfo | None = await self._arun(self._documents.info(ref_doc_id))
        return found

    def get_all_ref_doc_info(self) -> dict[str, RefDocInfo]:
        """All sources by their ids."""
        found: dict[str, RefDocInfo] = self._run(self._documents.all_infos())
        return found

    async def aget_all_ref_doc_info(self) -> dict[str, RefDocInfo]:
        """As `get_all_ref_doc_info`."""
        found: dict[str, RefDocInfo] = await self._arun(self._documents.all_infos())
        return found

    def ref_doc_exists(self, ref_doc_id: str) -> bool:
        """Whether a node is of this source."""
        return self.get_ref_doc_info(ref_doc_id) is not None

    async def aref_doc_exists(self, ref_doc_id: str) -> bool:
        """As `ref_doc_exists`."""
        return await self.aget_ref_doc_info(ref_doc_id) is not None

    def delete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """Delete a source and all nodes that are of it, in one transaction.

        Raises:
            InvalidInput: (a ValueError) no node is of it and `raise_error` is true.
            TierError: with a durable tier, nothing is deleted; without one, some may be.
        """
        if not self._run(self._documents.delete_source(ref_doc_id)) and raise_error:
            raise InvalidInput(f"ref_doc_id {ref_doc_id!r:.200} not found")

    async def adelete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        """As `delete_ref_doc`."""
        if not await self._arun(self._documents.delete_source(ref_doc_id)) and raise_error:
            raise InvalidInput(f"ref_doc_id {ref_doc_id!r:.200} not found")

    # Everything.

    def clear(self) -> None:
        """Delete everything in this store, in every process, at once.

        Raises:
            TierError: a tier could not be told.
        """
        self._map.clear()

    async def aclear(self) -> None:
        """As `clear`."""
        await perform(self._map, "clear")

    def persist(
        self,
        persist_path: str = DEFAULT_PERSIST_PATH,
        fs: Any = None,
    ) -> None:
        """Nothing: what was written is durable already."""

    def _adding(
        self,
        docs: Sequence[BaseNode],
        allow_update: bool,
        batch_size: int | None,
        store_text: bool,
    ) -> Flow[None]:
        if batch_size is not None:
            integer("batch_size", batch_size, 1)
        return self._documents.add(_several("docs", docs), allow_update, store_text)


def _several(argument: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidInput(f"{argument} must be several, got {type(given).__name__}")
    return list(given)


def _names(node_ids: Any) -> list[str]:
    return [node_name("node_ids", id) for id in _several("node_ids", node_ids)]


def _found(node: BaseNode | None, doc_id: str, raise_error: bool) -> BaseNode | None:
    if node is None and raise_error:
        raise absent(doc_id)
    return node


def _all_found(
    nodes: Sequence[BaseNode | None], node_ids: Sequence[str], raise_error: bool
) -> list[BaseNode]:
    for node, id in zip(nodes, node_ids, strict=True):
        _found(node, id, raise_error)
    return [node for node in nodes if node is not None]
