"""LangChain's vector store on the three tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_redis_tiered._batch import Batch, listed
from langchain_redis_tiered._filters import filter_from
from langchain_redis_tiered._searches import Searches, Where, opened, refuse
from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.vectors.collection import Collection
    from redis_tiered.vectors.document import Metric

__all__ = ["RedisTieredVectorStore"]


class RedisTieredVectorStore(Searches):
    """Documents found by meaning: kept in the durable tier, searched in Redis, with or without a
    search module.

        store = RedisTieredVectorStore(OpenAIEmbeddings(), "handbook")
        store.add_documents(documents)
        store.similarity_search("holidays", k=3, filter={"year": {"$gte": 2020}})

    Documents come back as they were added, metadata with its types, and always with an id. Every
    method has an asyncio twin that runs in no other thread, apart from what the embedding does.

    `filter` is a `redis_tiered` filter, such as `Field("year") >= 2020`; a dict in MongoDB's style
    ($eq $ne $gt $gte $lt $lte $between $in $nin $all $exists $contains $icontains $not $and $or
    $nor), where equality also looks at the elements of a list; or, on the engine redisvl, an
    expression of redisvl over declared `fields`. Every search also takes `ids=`, to look at no
    others; those by similarity take `min_score=` and `max_distance=`, and `k=None` with one of them
    for everything within. What a search does not know it refuses.

    Scores are higher the nearer: the cosine under "cosine", the inner product under "ip",
    `1 / (1 + Euclidean distance)` under "l2". Relevance scores lie in 0 to 1: the cosine, with 0
    for what points the other way; `(1 + s / (1 + |s|)) / 2` of an inner product s, so that 0 gives
    0.5; the score itself under "l2".

    Args:
        embedding: makes the vectors.
        collection: its name; stores of different names, or tenants, share nothing.
        tiers: where it lives and for which tenant; None: `Tiers.default()`.
        dims: length of the vectors; None: that of the first ones.
        metric, engine, algorithm, algorithm_options, dtype, payload, ttl, fields, track_access,
            approximate, auto_rebuild: see `redis_tiered.Collection`.
        relevance_score_fn: makes relevance scores of scores; None: as above.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        embedding: Embeddings,
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
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> None:
        if not isinstance(embedding, Embeddings):
            raise InvalidInput(f"embedding must be an Embeddings, got {type(embedding).__name__}")
        if tiers is not None and not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        if relevance_score_fn is not None and not callable(relevance_score_fn):
            raise InvalidInput(
                "relevance_score_fn must be a function or None, got "
                f"{type(relevance_score_fn).__name__}"
            )
        self._embedding = embedding
        self._tiers = Tiers.default() if tiers is None else tiers
        self._name = collection
        self._options: dict[str, Any] = {
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
        self._collection = self._tiers.collection(collection, **self._options)
        self._relevance = _RELEVANCE[metric] if relevance_score_fn is None else relevance_score_fn
        self._options["relevance_score_fn"] = relevance_score_fn

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    @property
    def tiers(self) -> Tiers:
        return self._tiers

    @property
    def collection(self) -> Collection:
        """The documents themselves: find, count, rebuild, verify, info, stats, usage."""
        return self._collection

    def __repr__(self) -> str:
        return (
            f"RedisTieredVectorStore({self._name!r}, {self._tiers!r}, "
            f"embedding={type(self._embedding).__name__})"
        )

    def __reduce__(self) -> tuple[Callable[..., RedisTieredVectorStore], tuple[Any, ...]]:
        return _rebuild, (type(self), self._embedding, self._name, self._tiers, self._options)

    # --- writing ------------------------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store, and texts added to it; see `add_texts`.

        Args:
            kwargs: the arguments of the store.
        """
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """As `from_texts`."""
        store = cls(embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        embedding: Embeddings,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store, and documents added to it; see `add_documents`.

        Args:
            kwargs: the arguments of the store.
        """
        store = cls(embedding, **kwargs)
        store.add_documents(documents, ids=ids)
        return store

    @classmethod
    async def afrom_documents(
        cls,
        documents: Iterable[Document],
        embedding: Embeddings,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """As `from_documents`."""
        store = cls(embedding, **kwargs)
        await store.aadd_documents(documents, ids=ids)
        return store

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        ttl: float | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add documents, or replace those of the same id, durable tier first.

        Of documents with the same id the last one stays.

        Args:
            documents: what to add; not changed.
            ids: one for each document, before its own; where both are None, one is made.
            ttl: seconds until they expire; None: that of the store.
            batch_size: how many texts the embedding is given at a time; None: all.

        Returns:
            The id of each document.

        Raises:
            InvalidInput: one cannot be stored as it is, found before anything is embedded; or the
                embedding did not give a usable vector for each. Nothing was written.
            TierError: a tier failed, maybe after some thousands were stored; it may be done again.
        """
        refuse("add_documents", kwargs, ())
        return self._add(Batch.of_documents(documents, ids, ttl, batch_size))

    async def aadd_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        ttl: float | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_documents`."""
        refuse("aadd_documents", kwargs, ())
        return await self._aadd(Batch.of_documents(documents, ids, ttl, batch_size))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        ttl: float | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, or replace those of the same id; see `add_documents`.

        Args:
            texts: what to add.
            metadatas: one for each text, where None is an empty one.
            ids, ttl, batch_size: see `add_documents`.
        """
        refuse("add_texts", kwargs, ())
        return self._add(Batch.of_texts(texts, metadatas, ids, ttl, batch_size))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        ttl: float | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_texts`."""
        refuse("aadd_texts", kwargs, ())
        return await self._aadd(Batch.of_texts(texts, metadatas, ids, ttl, batch_size))

    def _add(self, batch: Batch) -> list[str]:
        for texts in batch.texts():
            batch.embedded(self._embedding, texts, self._embedding.embed_documents(texts))
        if batch.ids:
            self._collection.upsert(batch.documents(), ttl=batch.ttl)
        return batch.ids

    async def _aadd(self, batch: Batch) -> list[str]:
        for texts in batch.texts():
            batch.embedded(self._embedding, texts, await self._embedding.aembed_documents(texts))
        if batch.ids:
            await self._collection.aupsert(batch.documents(), ttl=batch.ttl)
        return batch.ids

    def delete(
        self, ids: Iterable[str] | None = None, *, filter: Where = None, **kwargs: Any
    ) -> bool:
        """Delete documents, durable tier first; those that are not there are no error.

        Args:
            ids: which; None: all, or all that the filter matches.
            filter: only what it matches.

        Returns:
            True.

        Raises:
            InvalidInput: an argument cannot be used; nothing was deleted.
            TierError: a tier failed; nothing was acknowledged, and it may be done again.
        """
        which, where = _criteria("delete", ids, filter, kwargs)
        if which is None and where is None:
            self._collection.delete_all()
        elif which != []:
            self._collection.delete(which, filter=where)
        return True

    async def adelete(
        self, ids: Iterable[str] | None = None, *, filter: Where = None, **kwargs: Any
    ) -> bool:
        """As `delete`."""
        which, where = _criteria("adelete", ids, filter, kwargs)
        if which is None and where is None:
            await self._collection.adelete_all()
        elif which != []:
            await self._collection.adelete(which, filter=where)
        return True

    # --- reading ------------------------------------------------------------------------------

    def get_by_ids(self, ids: Iterable[str], /) -> list[Document]:
        """Documents in the order of their ids, without those that are not there.

        Raises:
            TierError: no tier can be read.
        """
        return [opened(found) for found in self._collection.get(listed("ids", ids, "str"))]

    async def aget_by_ids(self, ids: Iterable[str], /) -> list[Document]:
        """As `get_by_ids`."""
        found = await self._collection.aget(listed("ids", ids, "str"))
        return [opened(document) for document in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self._relevance


def _rebuild(
    kind: type[RedisTieredVectorStore],
    embedding: Embeddings,
    collection: str,
    tiers: Tiers,
    options: dict[str, Any],
) -> RedisTieredVectorStore:
    return kind(embedding, collection, tiers, **options)


# --- scores from 0 to 1, the higher the nearer ------------------------------------------------


def _of_cosine(score: float) -> float:
    return min(max(score, 0.0), 1.0)  # rounding may take it beyond


def _of_inner_product(score: float) -> float:
    # Monotone for vectors of any length; a sigmoid is 1 to a double from 37 on.
    return (1.0 + score / (1.0 + abs(score))) / 2.0


def _of_euclidean(score: float) -> float:
    return score


_RELEVANCE: Final[dict[str, Callable[[float], float]]] = {
    "cosine": _of_cosine,
    "ip": _of_inner_product,
    "l2": _of_euclidean,
}


def _criteria(
    method: str, ids: Iterable[str] | None, filter: Where, given: Mapping[str, Any]
) -> tuple[list[str] | None, Any]:
    refuse(method, given, ())
    return None if ids is None else listed("ids", ids, "str"), filter_from(filter)
