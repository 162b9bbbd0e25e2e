"""Embedders: whatever makes vectors of texts, made alike for the rest of this project.

`as_embedder` takes what LangChain, LlamaIndex and redisvl call an embedding, an `OpenAIEmbedder`
of this project's own, or a function. It imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_tiered.embedders.adapted import NamedEmbedder, as_embedder
from redis_tiered.lazy import lazily

if TYPE_CHECKING:
    from redis_tiered.embedders.cached import CachedEmbedder, cached_embeddings
    from redis_tiered.embedders.openai import OpenAIEmbedder

__all__ = [
    "CachedEmbedder",
    "NamedEmbedder",
    "OpenAIEmbedder",
    "as_embedder",
    "cached_embeddings",
]

_LAZY = {
    "CachedEmbedder": "redis_tiered.embedders.cached",
    "OpenAIEmbedder": "redis_tiered.embedders.openai",
    "cached_embeddings": "redis_tiered.embedders.cached",
}


__getattr__ = lazily(__name__, _LAZY)
