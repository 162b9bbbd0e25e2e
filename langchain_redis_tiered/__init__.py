"""redis-tiered for LangChain."""

from __future__ import annotations

from importlib.util import find_spec

from redis_tiered.errors import MissingExtra

if find_spec("langchain_core") is None:
    raise MissingExtra("langchain", "langchain_redis_tiered")

from langchain_redis_tiered.cache import RedisTieredCache
from langchain_redis_tiered.history import RedisTieredChatMessageHistory
from redis_tiered.llm_cache.control import cache_control
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredCache", "RedisTieredChatMessageHistory", "Tiers", "cache_control"]
