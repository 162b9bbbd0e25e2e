"""LlamaIndex's models with a cache: `cached(llm)`."""

from __future__ import annotations

from llamaindex_redis_tiered.llm.cached import cache_of, cached, request_of, uncached
from llamaindex_redis_tiered.llm.codec import answer_text
from llamaindex_redis_tiered.llm.events import (
    LLMCacheHitEvent,
    LLMCacheMissEvent,
    LLMCacheStoreEvent,
)
from llamaindex_redis_tiered.llm.served import served_of
from llamaindex_redis_tiered.llm.wrapper import CachedFunctionCallingLLM, CachedLLM

__all__ = [
    "CachedFunctionCallingLLM",
    "CachedLLM",
    "LLMCacheHitEvent",
    "LLMCacheMissEvent",
    "LLMCacheStoreEvent",
    "answer_text",
    "cache_of",
    "cached",
    "request_of",
    "served_of",
    "uncached",
]
