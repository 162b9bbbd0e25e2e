"""LlamaIndex's vector store on the three tiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from pydantic import Field, PrivateAttr

from llamaindex_redis_tiered._filters import filter_from
from llamaindex_redis_tiered._nodes import node_from, stored_from
from llamaindex_redis_tiered._store import PlacedTiers, perform, tiers_from
from redis_tiered.checks import integer, text
from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.vectors.collection import Collection
    from redis_tiered.vectors.document import Document, Hit, Metric

__all__ = ["RedisTieredVectorStore"]

_PREFETCH: Final = 4.0  # candidates per wanted node, as LlamaIndex's other stores have it
_MODES: Final = ("default", "mmr", "text_search", "sparse", "hybrid")
_KWARGS: Final = {
    "default": ("with_embeddings",),
    "mmr": ("with_embeddings", "mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k"),
}


class _Call(NamedTuple):
    """A method of the collection by its blocking name, and what it gets."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class RedisTieredVectorStore(BasePydanticVectorStore):
    """Nodes found by meaning: kept in the durable tier, searched in Redis, with or without a search
    module.

        store = RedisTieredVectorStore("handbook")
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context)

    Nodes come back equal, as the class of LlamaIndex that they are of or derive from, without their
    embedding unless it is asked for. All writes are durable when they return: there is nothing to
    persist. Every method has an asyncio twin that runs in no other thread.

    Query modes are default, mmr, text_search, sparse (the same) and hybrid; others are refused. By
    text is only found what a durable tier or a search module knows.
    Similarities are higher the nearer: the cosine under "cosine", the inner product under "ip",
    `1 / (1 + Euclidean distance)` under "l2"; by text its own score, hybrid the fused ranks.

    Filters mean what they mean to `SimpleVectorStore`, and may be nested: a missing key (or None)
    matches only "!=", "nin" and "is_empty"; `contains`, `any` and `all` look for an element of a list
    or a part of a text; values that cannot be compared do not match; the keys `doc_id`,
    `document_id` and `ref_doc_id` are the source's id ("None": no source) and `_node_type` the
    node's class, whatever the metadata say. Other than there, operators of order take no list, `in`,
    `nin`, `any` and `all` take nothing else, and `contains` does not look for keys of a dict.

    A dump (`to_dict`) says where the nodes are, not how to get in: see `RedisTieredChatStore`.

    Args:
        collection: its name; stores of different names, or tenants, share nothing.
        tiers: where nodes live and for which tenant; None: `Tiers.default()`.
        dims: length of the embeddings; None: that of the first ones.
        ttl: seconds after which a node that was added is gone; None: never.
        metric, engine, algorithm, algorithm_options, dtype, payload, fields, track_access,
            approximate, auto_rebuild: see `redis_tiered.Collection`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    collection: str = Field(description="Name of the collection.")
    tiers: PlacedTiers = Field(
        description="Where nodes live; dumped as its place, without credentials."
    )
    dims: int | None = Field(description="Length of the embeddings; None: of the first ones.")
    metric: Literal["cosine", "ip", "l2"] = Field(description="How embeddings are compared.")
    engine: Literal["auto", "redisvl", "local"] = Field(description="What searches in Redis.")
    algorithm: Literal["hnsw", "flat", "svs-vamana"] = Field(
        description="Index of the search module."
    )
    algorithm_options: dict[str, int] | None = Field(description="Its numbers.")
    dtype: Literal["float32", "float16"] = Field(description="How Redis keeps embeddings.")
    payload: Literal["redis", "durable"] = Field(description="Where texts are read from.")
    ttl: float | None = Field(description="Seconds after which a node is gone; None: never.")
    fields: dict[str, str] | None = Field(description="Fields for filters in redisvl's language.")
    track_access: bool = Field(description="Whether uses of nodes are counted.")
    approximate: bool = Field(description="Whether the local engine may miss neighbours.")
    auto_rebuild: bool = Field(description="Whether a lost index is made anew by itself.")
    _collection: Any = PrivateAttr()

    def __init__(
        self,
        collection: str = "default",
        tiers: Tiers | None = None,
        *,
        dims: int | None = None,
        metric: Metric = "cosine",
        engine: Literal["auto", "redisvl", "local"] = "auto",
        algorithm: Literal["hnsw", "flat", "svs-vamana"] = "hnsw",
        algorithm_options: Mapping[str, int] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        payload: Literal["redis", "durable"] = "redis",
        ttl: float | None = None,
        fields: Mapping[str, str] | None = None,
        track_access: bool = False,
        approximate: bool = False,
        auto_rebuild: bool = True,
        **dumped: Any,
    ) -> None:
        # These are in LlamaIndex's dumps.
        if unknown := sorted(dumped.keys() - {"class_name", "stores_text", "is_embedding_query"}):
            raise InvalidInput(f"unknown arguments {unknown}; accepted: {sorted(_ARGUMENTS)}")
        found = tiers_from(tiers)
        options: dict[str, Any] = {
            "dims": dims,
            "metric": metric,
            "engine": engine,
            "algorithm": algorithm,
            "algorithm_options": algorithm_options,
            "dtype": dtype,
            "payload": payload,
            "ttl": ttl,
            "fields": fields,
            "track_access": track_access,
            "approximate": approximate,
            "auto_rebuild": auto_rebuild,
        }
        made = found.collection(collection, **options)  # no I/O: it refuses what cannot be used
        super().__init__(**{"collection": collection, "tiers": found, **options})
        self._collection = made

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredVectorStore"

    @property
    def client(self) -> Collection:
        """The documents themselves: find, count, rebuild, verify, info, stats, usage."""
        found: Collection = self._collection
        return found

    # Writing.

    def add(
        self, nodes: Sequence[BaseNode], *, ttl: float | None = None, **unknown: Any
    ) -> list[str]:
        """Add nodes; one with the same id is replaced.

        They are written in transactions of a thousand: after an error of a tier, those before it are
        there, and all can be added again.

        Args:
            nodes: with their embeddings; of those with the same id the last one is kept.
            ttl: seconds after which they are gone; None: what the store was made with.

        Returns:
            Their ids, in order.

        Raises:
            InvalidInput: a node has no embedding, or cannot be stored; nothing is written.
            TierError: a tier failed.
        """
        documents = self._documents(nodes, unknown)
        if documents:
            self.client.upsert(documents, ttl=ttl)
        return [document.id for document in documents]

    async def async_add(
        self, nodes: Sequence[BaseNode], *, ttl: float | None = None, **unknown: Any
    ) -> list[str]:
        """As `add`."""
        documents = self._documents(nodes, unknown)
        if documents:
            await perform(self.client, "upsert", documents, ttl=ttl)
        return [document.id for document in documents]

    def delete(self, ref_doc_id: str, **unknown: Any) -> None:
        """Delete the nodes whose source is this document."""
        self.client.delete(parents=_source(ref_doc_id, unknown))

    async def adelete(self, ref_doc_id: str, **unknown: Any) -> None:
        """As `delete`."""
        await perform(self.client, "delete", parents=_source(ref_doc_id, unknown))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **unknown: Any,
    ) -> None:
        """Delete the nodes with these ids that match the filters.

        Raises:
            InvalidInput: neither says which; `clear` deletes all.
        """
        if (where := _deleted(node_ids, filters, unknown)) is not None:
            self.client.delete(**where)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **unknown: Any,
    ) -> None:
        """As `delete_nodes`."""
        if (where := _deleted(node_ids, filters, unknown)) is not None:
            await perform(self.client, "delete", **where)

    def clear(self) -> None:
        """Delete all nodes of the collection."""
        self.client.delete_all()

    async def aclear(self) -> None:
        """As `clear`."""
        await perform(self.client, "delete_all")

    # Reading.

    def get_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        *,
        with_embeddings: bool = False,
    ) -> list[BaseNode]:
        """Nodes with these ids that match the filters; without either, all.

        Args:
            node_ids: ids that are not there are left out; None: any.
            filters: None: any.
            with_embeddings: whether they come with their embeddings, as float32.

        Returns:
            In the order of `node_ids` if there are no filters, else oldest first.
        """
        call = _gotten(node_ids, filters, with_embeddings)
        if call is None:
            return []
        found = getattr(self.client, call.name)(*call.arguments, **call.options)
        return [node_from(document) for document in found]

    async def aget_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        *,
        with_embeddings: bool = False,
    ) -> list[BaseNode]:
        """As `get_nodes`."""
        call = _gotten(node_ids, filters, with_embeddings)
        if call is None:
            return []
        found = await perform(self.client, call.name, *call.arguments, **call.options)
        return [node_from(document) for document in found]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes that answer a query best.

        `doc_ids` restricts it to nodes of these sources. So does `node_ids` to these nodes, but an
        empty list does not: `VectorStoreIndex.as_retriever` gives the ids of the nodes that its
        index itself keeps, which are none, or the images and `IndexNode`s only. Where an index has
        such beside others, `VectorIndexRetriever(index)` looks at all.

        Args:
            query: its `similarity_top_k` is how many at most; `sparse_top_k` goes before it by
                text, `hybrid_top_k` in hybrid mode, where both others then say how deep each of the
                two rankings is looked at. `alpha` is from 0 (text) to 1 (vector), None: 0.5.
            kwargs: `with_embeddings=True`, in modes default and mmr: nodes come with their
                embeddings, as float32. In mode mmr:
                `mmr_threshold`, unless the query has one, from 0 (different from each other) to 1
                (near), default 0.5; `mmr_prefetch_factor`, default 4.0, or `mmr_prefetch_k`: among
                how many nearest nodes it chooses.

        Raises:
            InvalidInput: another mode, or something in the query is missing or cannot be used.
            TierError: a tier failed.
        """
        call = _planned(query, kwargs)
        if call is None:
            return _result(())
        return _result(getattr(self.client, call.name)(*call.arguments, **call.options))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`."""
        call = _planned(query, kwargs)
        if call is None:
            return _result(())
        return _result(await perform(self.client, call.name, *call.arguments, **call.options))

    def _documents(self, nodes: Sequence[BaseNode], unknown: dict[str, Any]) -> list[Document]:
        _refuse(unknown, "ttl")
        if not isinstance(nodes, Sequence):
            raise InvalidInput(f"nodes must be a sequence of nodes, got {type(nodes).__name__}")
        documents: list[Document] = []
        dims = self.dims
        for number, node in enumerate(nodes):
            document = stored_from(node, f"nodes[{number}]", self.metric, dims)
            dims = len(document.vector)
            documents.append(document)
        return documents

    # Saving.

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Nothing: what was written is durable already."""

    def __reduce__(self) -> tuple[Callable[..., RedisTieredVectorStore], tuple[Any, ...]]:
        # A pickle holds the tiers, and with them the credentials.
        return _rebuild, (type(self), {name: getattr(self, name) for name in _ARGUMENTS})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RedisTieredVectorStore:
        return self.__copy__()  # a copy shares the tiers and their connections


_ARGUMENTS: Final = tuple(
    name
    for name in RedisTieredVectorStore.model_fields
    if name not in BasePydanticVectorStore.model_fields
)


def _rebuild(
    kind: type[RedisTieredVectorStore], arguments: dict[str, Any]
) -> RedisTieredVectorStore:
    return kind(**arguments)


def _refuse(unknown: dict[str, Any], *accepted: str) -> None:
    if names := sorted(unknown.keys() - set(accepted)):
        raise InvalidInput(f"unknown arguments {names}; accepted: {sorted(accepted) or 'none'}")


def _source(ref_doc_id: str, unknown: dict[str, Any]) -> list[str]:
    _refuse(unknown)
    return [text("ref_doc_id", ref_doc_id, least=1)]


def _deleted(
    node_ids: list[str] | None, filters: MetadataFilters | None, unknown: dict[str, Any]
) -> dict[str, Any] | None:
    """What to delete; None: nothing."""
    _refuse(unknown)
    where = filter_from(filters)
    if node_ids is None:
        if where is None:
            raise InvalidInput(
                "delete_nodes needs node_ids or filters that are not empty; clear() deletes all"
            )
        return {"filter": where}
    ids = _ids("node_ids", node_ids)
    return {"ids": ids, "filter": where} if ids else None


def _gotten(
    node_ids: list[str] | None, filters: MetadataFilters | None, with_embeddings: bool
) -> _Call | None:
    """How to get nodes; None: there are none."""
    where = filter_from(filters)
    ids = None if node_ids is None else _ids("node_ids", node_ids)
    if ids is not None and not ids:
        return None
    options: dict[str, Any] = {"with_vectors": with_embeddings}
    if ids is not None and where is None:
        return _Call("get", (ids,), options)
    return _Call("find", (where,), {"ids": ids, "limit": None, **options})


def _ids(name: str, given: object) -> list[str]:
    if not isinstance(given, list | tuple | set | frozenset):
        raise InvalidInput(f"{name} must be a list of str or None, got {type(given).__name__}")
    return list(dict.fromkeys(text(f"{name}[{i}]", each, least=1) for i, each in enumerate(given)))


def _planned(query: VectorStoreQuery, kwargs: dict[str, Any]) -> _Call | None:
    """How to answer a query; None: by nothing."""
    if not isinstance(query, VectorStoreQuery):
        raise InvalidInput(f"query must be a VectorStoreQuery, got {type(query).__name__}")
    mode = _mode(query)
    _refuse(kwargs, *_KWARGS.get(mode, ()))
    if query.embedding_field is not None:
        raise InvalidInput("query.embedding_field must be None: a node has one embedding")
    doc_ids = None if query.doc_ids is None else _ids("query.doc_ids", query.doc_ids)
    options: dict[str, Any] = {
        "filter": filter_from(query.filters),
        "ids": _ids("query.node_ids", query.node_ids or ()) or None,
        "parents": doc_ids,
    }
    if "with_embeddings" in kwargs:
        options["with_vectors"] = kwargs["with_embeddings"]
    k = _top_k(query, "similarity_top_k")
    arguments: tuple[Any, ...]
    match mode:
        case "hybrid":
            name, arguments = "hybrid", (_embedding(query, mode), _words(query, mode))
            dense, sparse = k, _top_k(query, "sparse_top_k", k)
            k = _top_k(query, "hybrid_top_k", k)
            options["alpha"] = 0.5 if query.alpha is None else query.alpha
            if not dense == sparse == k:
                options["fetch_k"] = max(dense, sparse, k)
        case "mmr":
            name, arguments = "mmr", (_embedding(query, mode),)
            options |= _mmr(query, k, kwargs)
        case "default":
            name, arguments = "search", (_embedding(query, mode),)
        case _:
            name, arguments = "text_search", (_words(query, mode),)
            k = _top_k(query, "sparse_top_k", k)
    return None if k == 0 or doc_ids == [] else _Call(name, (*arguments, k), options)


def _mode(query: VectorStoreQuery) -> str:
    try:
        mode = VectorStoreQueryMode(query.mode).value
    except ValueError:
        mode = ""
    if mode not in _MODES:
        raise InvalidInput(f"query.mode must be one of {list(_MODES)}, got {query.mode!r:.100}")
    return mode


def _top_k(query: VectorStoreQuery, name: str, default: int = 0) -> int:
    given = getattr(query, name)
    if given is None and name != "similarity_top_k":
        return default
    return integer(f"query.{name}", given, 0)


def _embedding(query: VectorStoreQuery, mode: str) -> Any:
    if query.query_embedding is None:
        raise InvalidInput(
            f"query.query_embedding must be a list of floats in mode {mode!r}, got None"
        )
    return query.query_embedding


def _words(query: VectorStoreQuery, mode: str) -> str:
    if not isinstance(query.query_str, str):
        raise InvalidInput(
            f"query.query_str must be a str in mode {mode!r}, got {type(query.query_str).__name__}"
        )
    return query.query_str


def _mmr(query: VectorStoreQuery, k: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    threshold = query.mmr_threshold
    if threshold is None:
        threshold = kwargs.get("mmr_threshold")
    if threshold is None:
        threshold = 0.5
    _number("mmr_threshold", threshold, 0, 1)
    factor, fetch = kwargs.get("mmr_prefetch_factor"), kwargs.get("mmr_prefetch_k")
    if factor is not None and fetch is not None:
        raise InvalidInput("mmr_prefetch_factor and mmr_prefetch_k must not both be given")
    if fetch is None:
        factor = _PREFETCH if factor is None else factor
        fetch = int(k * _number("mmr_prefetch_factor", factor, 0, 1_000_000))
    else:
        integer("mmr_prefetch_k", fetch, 1)
    return {"fetch_k": max(k, fetch), "lambda_mult": threshold}


def _number(name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidInput(f"{name} must be a number from {least} to {most}, got {value!r:.100}")
    return value


def _result(hits: Sequence[Hit]) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(
        nodes=[node_from(hit.document) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.document.id for hit in hits],
    )
