"""What a cached model tells LlamaIndex's instrumentation.

Handlers get them as any other event (`get_dispatcher().add_event_handler(...)`). No text of a request
or an answer is in them.
"""

from __future__ import annotations

import math
from typing import Final

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.events import BaseEvent

from redis_tiered.llm_cache.shelf import Served

__all__ = [
    "LLMCacheHitEvent",
    "LLMCacheMissEvent",
    "LLMCacheStoreEvent",
    "similarity",
    "told",
    "wanted",
]

_dispatcher: Final = get_dispatcher(__name__)


class LLMCacheEvent(BaseEvent):
    """What all events of the cache have.

    Attributes:
        cache_name: of the cache.
        model_name: of the model.
        endpoint: "chat" or "complete".
        streaming: whether the caller asked for a stream.
        key: id of the request, which tells nothing else of it.
    """

    cache_name: str
    model_name: str
    endpoint: str
    streaming: bool
    key: str

    @classmethod
    def class_name(cls) -> str:
        return "LLMCacheEvent"


class LLMCacheHitEvent(LLMCacheEvent):
    """The answer was stored; the provider was not asked.

    Attributes:
        tier: that it came from: "memory", "redis", "durable", "flight", "semantic".
        age: in seconds.
        saved_input_tokens, saved_output_tokens: as the provider counted them; 0: it did not.
        similarity: cosine of the two questions, if it was stored for other words.
    """

    tier: str
    age: float
    saved_input_tokens: int
    saved_output_tokens: int
    similarity: float | None = None

    @classmethod
    def class_name(cls) -> str:
        return "LLMCacheHitEvent"


class LLMCacheMissEvent(LLMCacheEvent):
    """There was no answer; the provider is asked."""

    @classmethod
    def class_name(cls) -> str:
        return "LLMCacheMissEvent"


class LLMCacheStoreEvent(LLMCacheEvent):
    """An answer was given to the tiers.

    Attributes:
        input_tokens, output_tokens: as the provider counted them; 0: it did not.
        size: bytes of the stored answer.
    """

    input_tokens: int
    output_tokens: int
    size: int

    @classmethod
    def class_name(cls) -> str:
        return "LLMCacheStoreEvent"


def wanted() -> bool:
    """Whether anybody listens: without, no event need be made."""
    at = _dispatcher
    while at is not None:
        if any(type(handler) is not NullEventHandler for handler in at.event_handlers):
            return True
        if not at.propagate or at.parent is None:
            return False
        at = at.parent
    return False


def told(event: LLMCacheEvent) -> None:
    _dispatcher.event(event)


def similarity(served: Served | None) -> float | None:
    """For an event; None: unknown."""
    return None if served is None or math.isnan(served.cosine) else served.cosine
