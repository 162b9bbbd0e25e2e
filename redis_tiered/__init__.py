"""One fast, durable memory for LLM applications: process memory, Redis, a durable store.

This package knows no framework; `langchain_redis_tiered` and `llamaindex_redis_tiered` adapt it.
Importing it imports neither a framework, nor SQLAlchemy, nor redis-py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_tiered import errors
from redis_tiered.lazy import lazily
from redis_tiered.llm_cache.control import cache_control

if TYPE_CHECKING:
    from redis_tiered.embedders.cached import cached_embeddings
    from redis_tiered.embedders.openai import OpenAIEmbedder
    from redis_tiered.llm_cache.cache import LLMCache
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
    from redis_tiered.llm_cache.semantic.tools.calibrate import calibrate
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration
    from redis_tiered.llm_cache.semantic.tools.evaluate import evaluate
    from redis_tiered.llm_cache.semantic.tools.evaluation import Evaluation
    from redis_tiered.llm_cache.shelf import Served
    from redis_tiered.llm_cache.stats import Stats
    from redis_tiered.maps.map import Map
    from redis_tiered.sessions.conversation import Window
    from redis_tiered.sessions.message import Message, Stored, ToolCall
    from redis_tiered.sessions.record import SessionInfo
    from redis_tiered.sessions.session import Session
    from redis_tiered.tiers.tiers import Tiers
    from redis_tiered.vectors.collection import Collection, CollectionInfo
    from redis_tiered.vectors.document import Document, Hit
    from redis_tiered.vectors.filters import Field, Filter
    from redis_tiered.vectors.upkeep import Drift, Rebuilt, Usage

__all__ = [
    "Calibration",
    "Collection",
    "CollectionInfo",
    "Document",
    "Drift",
    "Evaluation",
    "Field",
    "Filter",
    "Hit",
    "LLMCache",
    "Map",
    "Message",
    "OpenAIEmbedder",
    "Rebuilt",
    "SemanticPolicy",
    "Served",
    "Session",
    "SessionInfo",
    "Stats",
    "Stored",
    "Tiers",
    "ToolCall",
    "Usage",
    "Window",
    "__version__",
    "cache_control",
    "cached_embeddings",
    "calibrate",
    "errors",
    "evaluate",
]

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "redis_tiered.llm_cache.semantic.tools.calibration",
    "Collection": "redis_tiered.vectors.collection",
    "CollectionInfo": "redis_tiered.vectors.collection",
    "Document": "redis_tiered.vectors.document",
    "Drift": "redis_tiered.vectors.upkeep",
    "Evaluation": "redis_tiered.llm_cache.semantic.tools.evaluation",
    "Field": "redis_tiered.vectors.filters",
    "Filter": "redis_tiered.vectors.filters",
    "Hit": "redis_tiered.vectors.document",
    "Rebuilt": "redis_tiered.vectors.upkeep",
    "Usage": "redis_tiered.vectors.upkeep",
    "LLMCache": "redis_tiered.llm_cache.cache",
    "Map": "redis_tiered.maps.map",
    "SemanticPolicy": "redis_tiered.llm_cache.semantic.policy",
    "Served": "redis_tiered.llm_cache.shelf",
    "Message": "redis_tiered.sessions.message",
    "OpenAIEmbedder": "redis_tiered.embedders.openai",
    "Session": "redis_tiered.sessions.session",
    "SessionInfo": "redis_tiered.sessions.record",
    "Stats": "redis_tiered.llm_cache.stats",
    "Stored": "redis_tiered.sessions.message",
    "Tiers": "redis_tiered.tiers.tiers",
    "ToolCall": "redis_tiered.sessions.message",
    "Window": "redis_tiered.sessions.conversation",
    "cached_embeddings": "redis_tiered.embedders.cached",
    "calibrate": "redis_tiered.llm_cache.semantic.tools.calibrate",
    "evaluate": "redis_tiered.llm_cache.semantic.tools.evaluate",
}


__getattr__ = lazily(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
