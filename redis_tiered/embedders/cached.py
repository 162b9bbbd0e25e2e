"""An embedder of this project whose vectors are cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis_tiered.embedders.adapted import as_embedder
from redis_tiered.embedders.cache import QUERY, EmbeddingCache, EmbeddingStats, Source
from redis_tiered.embedders.identity import Identity
from redis_tiered.embedders.vectors import Vectors
from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.tiers import Tiers

__all__ = ["CachedEmbedder", "cached_embeddings"]


def cached_embeddings(
    embedder: object, tiers: Tiers | None = None, *, model: str | None = None, **options: Any
) -> CachedEmbedder:
    """An embedder that asks the given one only for what it was never asked before.

    Args:
        embedder: an `OpenAIEmbedder`, any object with `embed(texts)` or `aembed(texts)`, a redisvl
            vectorizer, or a function of a list of texts. Embeddings of LangChain and LlamaIndex have a
            `cached_embeddings` of their own, in the packages for them.
        tiers: where vectors live; None: `Tiers.default()`.
        model: a name in place of the one that the embedder tells; a function has none.
        options: `name`, `dtype`, `ttl`, `jitter`, `batch_size` of `EmbeddingCache`.

    Raises:
        InvalidInput: an argument cannot be used, or nothing names the model.
    """
    if isinstance(embedder, CachedEmbedder):
        raise InvalidInput("embedder is cached already")
    as_embedder(embedder, model=model)  # checked before anything is opened
    cache = EmbeddingCache(Tiers.default() if tiers is None else tiers, **options)
    return CachedEmbedder(embedder, cache, model)


class CachedEmbedder:
    """See `cached_embeddings`.

    Attributes:
        cache: its vectors.
    """

    def __init__(self, embedder: object, cache: EmbeddingCache, model: str | None) -> None:
        self.cache = cache
        self._embedder = as_embedder(embedder, model=model)
        self._given = embedder, model
        self._source = Source(embedder, model)
        # To whom it is given next, it is the embedder that it asks.
        self._identity = Identity(self._embedder, None)

    def __repr__(self) -> str:
        return f"<cached embedder {self.model!r}>"

    @property
    def model(self) -> str:
        return self._identity.model

    @property
    def model_name(self) -> str:
        return self._identity.model_name

    def stats(self) -> EmbeddingStats:
        """What this process did with this object."""
        return self.cache.stats()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One float32 array of one dimension per text, rounded to what is stored.

        Raises:
            InvalidInput: what was given are no texts, or what came are no vectors.
        """
        return self.cache.vectors(texts, self._embedder.embed, self._source, kind=QUERY)

    async def aembed(self, texts: Sequence[str]) -> Vectors:
        """As `embed`."""
        return await self.cache.avectors(texts, self._embedder.aembed, self._source, kind=QUERY)

    def __reduce__(self) -> tuple[Any, ...]:
        embedder, model = self._given
        return type(self), (embedder, self.cache, model)
