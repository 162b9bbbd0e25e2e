"""redis-tiered for LangChain."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from redis_tiered.errors import MissingExtra

if find_spec("langchain_core") is None:
    raise MissingExtra("langchain", "langchain_redis_tiered")

from langchain_redis_tiered.cache import RedisTieredCache
from langchain_redis_tiered.history import RedisTieredChatMessageHistory
from redis_tiered.llm_cache.control import cache_control
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from langchain_redis_tiered.vector_store import RedisTieredVectorStore

__all__ = [
    "RedisTieredCache",
    "RedisTieredChatMessageHistory",
    "RedisTieredVectorStore",
    "Tiers",
    "cache_control",
]


def __getattr__(name: str) -> Any:
    if name != "RedisTieredVectorStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It brings numpy, which a cache and a history have no use for.
    from langchain_redis_tiered.vector_store import RedisTieredVectorStore

    return RedisTieredVectorStore


def __dir__() -> list[str]:
    return sorted(__all__)
