"""redis-tiered for LangChain."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from redis_tiered.errors import MissingExtra

if find_spec("langchain_core") is None:
    raise MissingExtra("langchain", "langchain_redis_tiered")

from langchain_redis_tiered.byte_store import RedisTieredByteStore
from langchain_redis_tiered.cache import RedisTieredCache
from langchain_redis_tiered.history import RedisTieredChatMessageHistory
from redis_tiered.lazy import lazily
from redis_tiered.llm_cache.control import cache_control
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from langchain_redis_tiered.embeddings import cached_embeddings
    from langchain_redis_tiered.vector_store import RedisTieredVectorStore
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy

__all__ = [
    "RedisTieredByteStore",
    "RedisTieredCache",
    "RedisTieredChatMessageHistory",
    "RedisTieredVectorStore",
    "SemanticPolicy",
    "Tiers",
    "cache_control",
    "cached_embeddings",
]


# They bring numpy, which an exact cache and a history have no use for.
_LAZY = {
    "cached_embeddings": "langchain_redis_tiered.embeddings",
    "RedisTieredVectorStore": "langchain_redis_tiered.vector_store",
    "SemanticPolicy": "redis_tiered.llm_cache.semantic.policy",
}


__getattr__ = lazily(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
