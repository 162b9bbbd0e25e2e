"""LangChain's embeddings, cached on the three tiers."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from redis_tiered.embedders.cache import QUERY, EmbeddingCache, EmbeddingStats, Source
from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.tiers import Tiers

__all__ = ["CachedEmbeddings", "cached_embeddings"]


def cached_embeddings(
    embeddings: Embeddings,
    tiers: Tiers | None = None,
    *,
    model: str | None = None,
    query_as_document: bool = False,
    name: str = "default",
    dtype: str = "float32",
    ttl: float | None = None,
    jitter: float = 0.1,
    batch_size: int | None = None,
) -> CachedEmbeddings:
    """Embeddings that ask the given ones only for what they were never asked before.

        embeddings = cached_embeddings(OpenAIEmbeddings(model="text-embedding-3-small"))

    A call costs one batch read and, for what is new, one call of the model and one batch write. What
    one model made is never given for another: its class, name, dimensions, address and settings are
    part of the key. A failing tier is a miss, never an exception.

    Args:
        embeddings: asked for what no tier has.
        tiers: where vectors live; None: `Tiers.default()`.
        model: a name in place of what the embeddings tell of their model; needed where they tell none.
        query_as_document: True: a query's vector is that of the same text as a document. Only for
            models that treat both alike, as OpenAI's do.
        name: caches of different names share nothing.
        dtype: "float32" or "float16" (half the memory), of what is stored and returned.
        ttl: seconds that vectors stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        batch_size: documents that the model is given at a time, each batch stored when it is there;
            None: all at once.

    Raises:
        InvalidInput: an argument has the wrong type or range, or nothing names the model.
    """
    if not isinstance(embeddings, Embeddings):
        raise InvalidInput(
            f"embeddings must be Embeddings of LangChain, got {type(embeddings).__name__}"
        )
    if isinstance(embeddings, CachedEmbeddings):
        raise InvalidInput("embeddings are cached already")
    if not isinstance(query_as_document, bool):
        raise InvalidInput(
            f"query_as_document must be a bool, got {type(query_as_document).__name__}"
        )
    cache = EmbeddingCache(
        Tiers.default() if tiers is None else tiers,
        name=name,
        dtype=dtype,
        ttl=ttl,
        jitter=jitter,
        batch_size=batch_size,
    )
    return CachedEmbeddings(embeddings, cache, model, query_as_document)


class CachedEmbeddings(Embeddings):
    """See `cached_embeddings`.

    Attributes:
        underlying_embeddings: asked for what no tier has.
        model: the name that was given in place of what they tell of their model; or None.
        cache: where the vectors are.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        cache: EmbeddingCache,
        model: str | None,
        query_as_document: bool,
    ) -> None:
        self.underlying_embeddings = embeddings
        self.model = model
        self.cache = cache
        self._query_as_document = query_as_document
        self._source = Source(embeddings, model)
        self._source.model  # noqa: B018 - raises if nothing names it

    def __repr__(self) -> str:
        return f"CachedEmbeddings({self._source.model!r}, {self.cache!r})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in their order.

        Raises:
            InvalidInput: what was given are no texts, or what the model gave are no vectors.
        """
        rows = self.cache.vectors(texts, self.underlying_embeddings.embed_documents, self._source)
        return [_listed(row) for row in rows]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`."""
        make = self.underlying_embeddings.aembed_documents
        return [_listed(row) for row in await self.cache.avectors(texts, make, self._source)]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query.

        Raises:
            InvalidInput: what was given is no text, or what the model gave is no vector.
        """
        if self._query_as_document:
            return self.embed_documents([text])[0]

        def make(texts: list[str]) -> list[list[float]]:
            return [self.underlying_embeddings.embed_query(each) for each in texts]

        [row] = self.cache.vectors([text], make, self._source, kind=QUERY)
        return _listed(row)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`."""
        if self._query_as_document:
            return (await self.aembed_documents([text]))[0]

        async def make(texts: list[str]) -> list[list[float]]:
            return [await self.underlying_embeddings.aembed_query(each) for each in texts]

        [row] = await self.cache.avectors([text], make, self._source, kind=QUERY)
        return _listed(row)

    def stats(self) -> EmbeddingStats:
        """What this process did with this object."""
        return self.cache.stats()

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.underlying_embeddings, self.cache, self.model, self._query_as_document)
        return type(self), parts


def _listed(row: NDArray[Any]) -> list[float]:
    listed: list[float] = row.tolist()
    return listed
