"""How a vector store is searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_redis_tiered._filters import filter_from
from redis_tiered.errors import InvalidInput

if TYPE_CHECKING:
    from redis_tiered.vectors.collection import Collection
    from redis_tiered.vectors.document import Document as CoreDocument
    from redis_tiered.vectors.document import Hit
    from redis_tiered.vectors.filters import Filter

__all__ = ["Scored", "Searches", "Where", "opened", "refuse"]

Where: TypeAlias = "Filter | Mapping[str, Any] | None"  # or a FilterExpression, which has no types
Scored = list[tuple[Document, float]]


class Searches(VectorStore):
    """The searches of a vector store. What a method is given beyond its own arguments are `ids`, to
    look at no others, and for those by similarity `min_score` and `max_distance`.
    """

    _embedding: Embeddings
    _collection: Collection

    def similarity_search(
        self, query: str, k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """The documents nearest to a text, nearest first; see the class for filter and options.

        Raises:
            InvalidInput: an argument cannot be used.
            TierError: no tier can be read.
        """
        found = self.similarity_search_with_score(query, k, filter, **kwargs)
        return _unscored(found)

    async def asimilarity_search(
        self, query: str, k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search`."""
        found = await self.asimilarity_search_with_score(query, k, filter, **kwargs)
        return _unscored(found)

    def similarity_search_with_score(
        self, query: str, k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `similarity_search`, each with its score."""
        options = _restrictions("similarity_search", filter, kwargs, _RANGE)
        vector = self._embedding.embed_query(_query(query))
        return _scored(self._collection.search(vector, k, **options))

    async def asimilarity_search_with_score(
        self, query: str, k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `similarity_search_with_score`."""
        options = _restrictions("similarity_search", filter, kwargs, _RANGE)
        vector = await self._embedding.aembed_query(_query(query))
        return _scored(await self._collection.asearch(vector, k, **options))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search`, for a vector of shape `(dims,)`."""
        found = self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs)
        return _unscored(found)

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search_by_vector`."""
        found = await self.asimilarity_search_with_score_by_vector(embedding, k, filter, **kwargs)
        return _unscored(found)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `similarity_search_by_vector`, each with its score."""
        options = _restrictions("similarity_search_by_vector", filter, kwargs, _RANGE)
        return _scored(self._collection.search(embedding, k, **options))

    async def asimilarity_search_with_score_by_vector(
        self, embedding: list[float], k: int | None = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `similarity_search_with_score_by_vector`."""
        options = _restrictions("similarity_search_by_vector", filter, kwargs, _RANGE)
        return _scored(await self._collection.asearch(embedding, k, **options))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Documents near to a text and unlike each other.

        Args:
            query: what to be near to.
            k: how many.
            fetch_k: how many of the nearest to choose from.
            lambda_mult: from 0, as different as can be, to 1, as near as can be.
            filter: see the class, also for `ids=`.
        """
        found = self.max_marginal_relevance_search_with_score(
            query, k, fetch_k, lambda_mult, filter, **kwargs
        )
        return _unscored(found)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`."""
        found = await self.amax_marginal_relevance_search_with_score(
            query, k, fetch_k, lambda_mult, filter, **kwargs
        )
        return _unscored(found)

    def max_marginal_relevance_search_with_score(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> Scored:
        """As `max_marginal_relevance_search`, each with its score, its nearness alone."""
        options = _restrictions("max_marginal_relevance_search", filter, kwargs)
        vector = self._embedding.embed_query(_query(query))
        return _scored(
            self._collection.mmr(vector, k, fetch_k=fetch_k, lambda_mult=lambda_mult, **options)
        )

    async def amax_marginal_relevance_search_with_score(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> Scored:
        """As `max_marginal_relevance_search_with_score`."""
        options = _restrictions("max_marginal_relevance_search", filter, kwargs)
        vector = await self._embedding.aembed_query(_query(query))
        return _scored(
            await self._collection.ammr(
                vector, k, fetch_k=fetch_k, lambda_mult=lambda_mult, **options
            )
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector of shape `(dims,)`."""
        found = self.max_marginal_relevance_search_with_score_by_vector(
            embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )
        return _unscored(found)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search_by_vector`."""
        found = await self.amax_marginal_relevance_search_with_score_by_vector(
            embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )
        return _unscored(found)

    def max_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> Scored:
        """As `max_marginal_relevance_search_by_vector`, each with its score."""
        options = _restrictions("max_marginal_relevance_search_by_vector", filter, kwargs)
        return _scored(
            self._collection.mmr(embedding, k, fetch_k=fetch_k, lambda_mult=lambda_mult, **options)
        )

    async def amax_marginal_relevance_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where = None,
        **kwargs: Any,
    ) -> Scored:
        """As `max_marginal_relevance_search_with_score_by_vector`."""
        options = _restrictions("max_marginal_relevance_search_by_vector", filter, kwargs)
        return _scored(
            await self._collection.ammr(
                embedding, k, fetch_k=fetch_k, lambda_mult=lambda_mult, **options
            )
        )

    def text_search(
        self, query: str, k: int = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """The documents that full text finds best, best first; nothing is embedded."""
        return _unscored(self.text_search_with_score(query, k, filter, **kwargs))

    async def atext_search(
        self, query: str, k: int = 4, filter: Where = None, **kwargs: Any
    ) -> list[Document]:
        """As `text_search`."""
        return _unscored(await self.atext_search_with_score(query, k, filter, **kwargs))

    def text_search_with_score(
        self, query: str, k: int = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `text_search`, each with its score of full text, which has no upper bound."""
        options = _restrictions("text_search", filter, kwargs)
        return _scored(self._collection.text_search(_query(query), k, **options))

    async def atext_search_with_score(
        self, query: str, k: int = 4, filter: Where = None, **kwargs: Any
    ) -> Scored:
        """As `text_search_with_score`."""
        options = _restrictions("text_search", filter, kwargs)
        return _scored(await self._collection.atext_search(_query(query), k, **options))

    def hybrid_search(
        self,
        query: str,
        k: int = 4,
        filter: Where = None,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The documents that meaning and full text together find best: their ranks are fused.

        Args:
            query: what to look for, both ways.
            k: how many.
            filter: see the class, also for `ids=`.
            alpha: from 0, full text alone, to 1, meaning alone.
            fetch_k: how many of each to fuse; None: what the collection thinks right.
        """
        found = self.hybrid_search_with_score(
            query, k, filter, alpha=alpha, fetch_k=fetch_k, **kwargs
        )
        return _unscored(found)

    async def ahybrid_search(
        self,
        query: str,
        k: int = 4,
        filter: Where = None,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `hybrid_search`."""
        found = await self.ahybrid_search_with_score(
            query, k, filter, alpha=alpha, fetch_k=fetch_k, **kwargs
        )
        return _unscored(found)

    def hybrid_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Where = None,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> Scored:
        """As `hybrid_search`, each with its fused score."""
        options = _restrictions("hybrid_search", filter, kwargs)
        query = _query(query)
        vector = self._embedding.embed_query(query)
        return _scored(
            self._collection.hybrid(vector, query, k, alpha=alpha, fetch_k=fetch_k, **options)
        )

    async def ahybrid_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Where = None,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        **kwargs: Any,
    ) -> Scored:
        """As `hybrid_search_with_score`."""
        options = _restrictions("hybrid_search", filter, kwargs)
        query = _query(query)
        vector = await self._embedding.aembed_query(query)
        return _scored(
            await self._collection.ahybrid(
                vector, query, k, alpha=alpha, fetch_k=fetch_k, **options
            )
        )


# --- arguments and results --------------------------------------------------------------------

_RANGE: Final = ("min_score", "max_distance")


def refuse(method: str, given: Mapping[str, Any], accepted: Sequence[str]) -> None:
    """Nothing that a caller says is passed over."""
    for name in given:
        if name not in accepted:
            also = f"; accepted are also {', '.join(accepted)}" if accepted else ""
            raise InvalidInput(f"{method} takes no argument {name!r}{also}")


def _restrictions(
    method: str, filter: Where, given: dict[str, Any], more: Sequence[str] = ()
) -> dict[str, Any]:
    refuse(method, given, ("ids", *more))
    return {**given, "filter": filter_from(filter)}


def _query(given: object) -> str:
    if not isinstance(given, str):
        raise InvalidInput(f"query must be a str, got {type(given).__name__}")
    return str.__str__(given)  # `message.text` is of a subclass


def opened(document: CoreDocument) -> Document:
    return Document(document.text, id=document.id, metadata=dict(document.metadata))


def _scored(hits: Iterable[Hit]) -> Scored:
    return [(opened(hit.document), hit.score) for hit in hits]


def _unscored(found: Scored) -> list[Document]:
    return [document for document, _ in found]
