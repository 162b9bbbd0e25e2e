"""redis-tiered for LlamaIndex."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from redis_tiered.errors import MissingExtra

# `llama_index` alone is a namespace that any of its packages makes.
if find_spec("llama_index") is None or find_spec("llama_index.core") is None:
    raise MissingExtra("llamaindex", "llamaindex_redis_tiered")

from llamaindex_redis_tiered.chat_store import RedisTieredChatStore
from llamaindex_redis_tiered.document_store import RedisTieredDocumentStore
from llamaindex_redis_tiered.embeddings import (
    RedisTieredEmbeddingsCache,
    cached_embeddings,
    embedding_cache_of,
    uncached_embeddings,
)
from llamaindex_redis_tiered.index_store import RedisTieredIndexStore
from llamaindex_redis_tiered.kv_store import RedisTieredKVStore
from llamaindex_redis_tiered.llm import (
    CachedLLM,
    LLMCacheHitEvent,
    LLMCacheMissEvent,
    LLMCacheStoreEvent,
    cache_of,
    cached,
    request_of,
    served_of,
    uncached,
)
from llamaindex_redis_tiered.memory_store import RedisTieredMemoryStore
from llamaindex_redis_tiered.vector_store import RedisTieredVectorStore
from redis_tiered.lazy import lazily
from redis_tiered.llm_cache.control import cache_control
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy

__all__ = [
    "CachedLLM",
    "LLMCacheHitEvent",
    "LLMCacheMissEvent",
    "LLMCacheStoreEvent",
    "RedisTieredChatStore",
    "RedisTieredDocumentStore",
    "RedisTieredEmbeddingsCache",
    "RedisTieredIndexStore",
    "RedisTieredKVStore",
    "RedisTieredMemoryStore",
    "RedisTieredVectorStore",
    "SemanticPolicy",
    "Tiers",
    "cache_control",
    "cache_of",
    "cached",
    "cached_embeddings",
    "embedding_cache_of",
    "request_of",
    "served_of",
    "uncached",
    "uncached_embeddings",
]


# Brings what an exact cache has no use for.
_LAZY = {"SemanticPolicy": "redis_tiered.llm_cache.semantic.policy"}


__getattr__ = lazily(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
