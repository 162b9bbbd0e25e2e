"""Embedders: whatever makes vectors of texts, made alike for the rest of this project.

`as_embedder` takes what LangChain, LlamaIndex and redisvl call an embedding, an `OpenAIEmbedder`
of this project's own, or a function. It imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis_tiered.embedders.adapted import NamedEmbedder, as_embedder

if TYPE_CHECKING:
    from redis_tiered.embedders.openai import OpenAIEmbedder

__all__ = ["NamedEmbedder", "OpenAIEmbedder", "as_embedder"]


def __getattr__(name: str) -> Any:
    if name == "OpenAIEmbedder":
        from redis_tiered.embedders.openai import OpenAIEmbedder

        return OpenAIEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
