"""LlamaIndex's embeddings, cached on the three tiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from llamaindex_redis_tiered._subclass import Subclasses, plain, state_of
from redis_tiered.embedders.cache import QUERY, EmbeddingCache, Source
from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Flow
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    _Base = BaseEmbedding
else:
    _Base = object

__all__ = [
    "RedisTieredEmbeddingsCache",
    "cached_embeddings",
    "embedding_cache_of",
    "uncached_embeddings",
]

E = TypeVar("E", bound=BaseEmbedding)
Vector = list[float]


def cached_embeddings(
    embeddings: E,
    tiers: Tiers | None = None,
    *,
    model: str | None = None,
    query_as_document: bool = False,
    name: str = "default",
    dtype: str = "float32",
    ttl: float | None = None,
    jitter: float = 0.1,
    batch_size: int | None = None,
) -> E:
    """The same embedding model, asked only for what it was never asked before.

        Settings.embed_model = cached_embeddings(OpenAIEmbedding(model="text-embedding-3-small"))

    It is of the model's own class, with its settings and clients. A call, of one text or of thousands,
    costs one batch read and, for what is new, calls of the model and one batch write; what is found
    emits no event and takes nothing from a rate limiter. What one model made is never given for
    another: class, name, dimensions, address and settings are part of the key. A failing tier is a
    miss, never an exception.

    Args:
        embeddings: it is left as it is; a copy is made.
        tiers: where vectors live; None: `Tiers.default()`.
        model: a name in place of what the embeddings tell of their model; needed where they tell none.
        query_as_document: True: a query's vector is that of the same text as a document. Only for
            models that treat both alike, as OpenAI's do.
        name: caches of different names share nothing.
        dtype: "float32" or "float16" (half the memory), of what is stored and returned.
        ttl: seconds that vectors stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        batch_size: texts that are stored at a time, when the model has embedded them; None: all at
            once.

    Raises:
        InvalidInput: an argument has the wrong type or range; nothing names the model; `embeddings` are
            cached already, or of a class that can have no subclass.
    """
    if not isinstance(embeddings, BaseEmbedding):
        raise InvalidInput(
            f"embeddings must be a BaseEmbedding of LlamaIndex, got {type(embeddings).__name__}"
        )
    if isinstance(embeddings, Caching):
        raise InvalidInput("embeddings are cached already: give uncached_embeddings(embeddings)")
    if not isinstance(query_as_document, bool):
        raise InvalidInput(
            f"query_as_document must be a bool, got {type(query_as_document).__name__}"
        )
    Source(embeddings, model).model  # noqa: B018 - raises if nothing names it
    cache = EmbeddingCache(
        Tiers.default() if tiers is None else tiers,
        name=name,
        dtype=dtype,
        ttl=ttl,
        jitter=jitter,
        batch_size=batch_size,
    )
    return _caching(embeddings, State(cache, model, query_as_document))  # type: ignore[no-any-return]


def uncached_embeddings(embeddings: E) -> E:
    """The model without its cache.

    Raises:
        InvalidInput: it is not cached.
    """
    _checked(embeddings)
    return plain(embeddings)  # type: ignore[no-any-return]


def embedding_cache_of(embeddings: BaseEmbedding) -> EmbeddingCache:
    """The cache of a cached model: `stats()`, `clear()`.

    Raises:
        InvalidInput: it is not cached.
    """
    return _checked(embeddings).cache


class State(NamedTuple):
    """What a cached model has beside the model. Copies of a model share it."""

    cache: EmbeddingCache
    model: str | None
    query_as_document: bool


class Caching(_Base):
    """Comes before a model's class among the bases: the six ways to ask it, by way of the cache."""

    __slots__ = ()

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Vector]:
        ask = super().get_text_embedding_batch
        state: State | None = state_of(self)
        if state is None:
            return ask(texts, show_progress, **kwargs)

        def make(missing: list[str]) -> list[Vector]:
            return ask(missing, show_progress, **kwargs)

        rows = state.cache.vectors(texts, make, Source(self, state.model))
        return [row.tolist() for row in rows]

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Vector]:
        ask = super().aget_text_embedding_batch
        state: State | None = state_of(self)
        if state is None:
            return await ask(texts, show_progress, **kwargs)

        async def make(missing: list[str]) -> list[Vector]:
            return await ask(missing, show_progress, **kwargs)

        rows = await state.cache.avectors(texts, make, Source(self, state.model))
        return [row.tolist() for row in rows]

    def get_text_embedding(self, text: str) -> Vector:
        return self._rt_one(text, super().get_text_embedding, {})

    async def aget_text_embedding(self, text: str) -> Vector:
        return await self._rt_aone(text, super().aget_text_embedding, {})

    def get_query_embedding(self, query: str) -> Vector:
        return self._rt_one(query, super().get_query_embedding, self._rt_query())

    async def aget_query_embedding(self, query: str) -> Vector:
        return await self._rt_aone(query, super().aget_query_embedding, self._rt_query())

    def _rt_query(self) -> dict[str, str]:
        state: State | None = state_of(self)
        return {} if state is None or state.query_as_document else {"kind": QUERY}

    def _rt_one(self, text: str, ask: Any, kind: dict[str, str]) -> Vector:
        state: State | None = state_of(self)
        if state is None:
            return ask(text)  # type: ignore[no-any-return]

        def make(missing: list[str]) -> list[Vector]:
            return [ask(each) for each in missing]

        [row] = state.cache.vectors([text], make, Source(self, state.model), **kind)
        return row.tolist()  # type: ignore[no-any-return]

    async def _rt_aone(self, text: str, ask: Any, kind: dict[str, str]) -> Vector:
        state: State | None = state_of(self)
        if state is None:
            return await ask(text)  # type: ignore[no-any-return]

        async def make(missing: list[str]) -> list[Vector]:
            return [await ask(each) for each in missing]

        [row] = await state.cache.avectors([text], make, Source(self, state.model), **kind)
        return row.tolist()  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        state: State | None = state_of(self)
        if state is None:
            return _same, (plain(self),)
        return _caching, (plain(self), state)


_subclasses = Subclasses(
    Caching, "embeddings", "use RedisTieredEmbeddingsCache as its embeddings_cache instead"
)


def _caching(embeddings: BaseEmbedding, state: State) -> Any:
    return _subclasses(embeddings, state)


def _same(embeddings: BaseEmbedding) -> BaseEmbedding:
    return embeddings


def _checked(embeddings: object) -> State:
    state = state_of(embeddings) if isinstance(embeddings, Caching) else None
    if not isinstance(state, State):
        raise InvalidInput(
            "embeddings must be what cached_embeddings(...) gave, got "
            f"{type(embeddings).__name__} without a cache"
        )
    return state


class RedisTieredEmbeddingsCache(BaseKVStore):
    """What LlamaIndex takes as `embeddings_cache`, bound to one embedding model.

        OpenAIEmbedding(model=m, embeddings_cache=RedisTieredEmbeddingsCache(m))

    LlamaIndex's own key is the text alone, so that a second model would be given the first one's
    vectors: the name of the model makes the difference here. LlamaIndex asks for one text at a time,
    and for a query as for a document; `cached_embeddings` does neither, and is to be preferred.

    Only vectors are kept, and no texts: `get_all` has nothing to list.

    Args:
        model: name of the model; with dimensions or settings of its own, another name.
        tiers: where vectors live; None: `Tiers.default()`.
        name, dtype, ttl, jitter: as for `cached_embeddings`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        model: str,
        tiers: Tiers | None = None,
        *,
        name: str = "default",
        dtype: str = "float32",
        ttl: float | None = None,
        jitter: float = 0.1,
    ) -> None:
        if model is None:
            raise InvalidInput("model must be a str, got NoneType")
        self._source = Source(self, model)
        self.cache = EmbeddingCache(
            Tiers.default() if tiers is None else tiers,
            name=name,
            dtype=dtype,
            ttl=ttl,
            jitter=jitter,
        )

    def __repr__(self) -> str:
        return f"RedisTieredEmbeddingsCache({self._source.model!r}, {self.cache!r})"

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep the vector of a text: the one value of `val`."""
        self.put_all([(key, val)], collection)

    async def aput(
        self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION
    ) -> None:
        """As `put`."""
        await self.aput_all([(key, val)], collection)

    def put_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = 1,
    ) -> None:
        """Keep vectors of texts, all in one write; `batch_size` has no meaning here.

        Raises:
            InvalidInput: a value holds no vector. A failing tier is counted, and keeps none.
        """
        self.cache.tiers.run(self._kept(kv_pairs, collection))

    async def aput_all(
        self,
        kv_pairs: Sequence[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = 1,
    ) -> None:
        """As `put_all`."""
        await self.cache.tiers.arun(self._kept(kv_pairs, collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """The vector of a text, in a dict of one value; None: there is none."""
        return _given(self.cache.tiers.run(self._known(key, collection)))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """As `get`."""
        return _given(await self.cache.tiers.arun(self._known(key, collection)))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Not to be had: texts are not kept.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("vectors are kept by digests of their texts: nothing to list")

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """As `get_all`."""
        return self.get_all(collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete the vector of a text; tells whether there was one.

        Raises:
            TierError: a tier could not be told.
        """
        flow = self.cache.forget([key], self._source.model, kind=_kind(collection))
        return self.cache.tiers.run(flow) > 0

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """As `delete`."""
        flow = self.cache.forget([key], self._source.model, kind=_kind(collection))
        return await self.cache.tiers.arun(flow) > 0

    def _known(self, key: str, collection: str) -> Flow[list[Any]]:
        return self.cache.known([key], self._source.model, kind=_kind(collection))

    def _kept(self, pairs: Sequence[tuple[str, dict[str, Any]]], collection: str) -> Flow[None]:
        vectors = []
        for _, value in pairs:
            if not isinstance(value, dict) or len(value) != 1:
                raise InvalidInput(
                    "val must be a dict of one vector, as LlamaIndex gives it, got "
                    f"{type(value).__name__}"
                )
            vectors.append(next(iter(value.values())))
        texts = [key for key, _ in pairs]
        return self.cache.keep(texts, vectors, self._source, kind=_kind(collection))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._source.model, self.cache.tiers, self.cache.options)

    def __deepcopy__(self, memo: dict[int, Any]) -> RedisTieredEmbeddingsCache:
        # Models are copied with their cache; the copy shares its connections and counters.
        return self


def _rebuild(
    kind: type[RedisTieredEmbeddingsCache], model: str, tiers: Tiers, options: dict[str, Any]
) -> RedisTieredEmbeddingsCache:
    return kind(model, tiers, **{name: options[name] for name in options if name != "batch_size"})


def _kind(collection: str) -> str:
    return f"in {collection}"


def _given(rows: list[Any]) -> dict[str, Any] | None:
    return {"vector": rows[0].tolist()} if len(rows[0]) else None
