"""redis-tiered for LlamaIndex."""

from __future__ import annotations

from importlib.util import find_spec

from redis_tiered.errors import MissingExtra

# `llama_index` alone is a namespace that any of its packages makes.
if find_spec("llama_index") is None or find_spec("llama_index.core") is None:
    raise MissingExtra("llamaindex", "llamaindex_redis_tiered")

from llamaindex_redis_tiered.chat_store import RedisTieredChatStore
from llamaindex_redis_tiered.memory_store import RedisTieredMemoryStore
from llamaindex_redis_tiered.vector_store import RedisTieredVectorStore
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredChatStore", "RedisTieredMemoryStore", "RedisTieredVectorStore", "Tiers"]
