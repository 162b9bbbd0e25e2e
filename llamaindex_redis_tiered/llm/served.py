"""What a cached answer tells of itself if it was stored for other words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse

from llamaindex_redis_tiered.llm.outcome import Response
from llamaindex_redis_tiered.llm.request import MARK
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.shelf import Served

__all__ = ["mark_served", "served_of"]


def mark_served(response: Response, served: Served) -> None:
    """Have an answer tell that it was stored for other words."""
    response.additional_kwargs[MARK] = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in served._asdict().items()
    }


def served_of(answer: object) -> Served:
    """Why an answer was served to other words than it was stored for, as `LLMCache.feedback` takes it.

    Args:
        answer: a response of a cached model; of a stream its last piece.

    Raises:
        InvalidInput: it was not.
    """
    notes: Any = None
    if isinstance(answer, ChatResponse | CompletionResponse):
        notes = answer.additional_kwargs.get(MARK)
    if not isinstance(notes, Mapping) or set(notes) != set(Served._fields):
        raise InvalidInput(
            "answer must be a response that the cache served to other words than it was stored for, "
            f"got {type(answer).__name__} without such a note"
        )
    given: dict[str, Any] = {
        key: math.nan if value is None else value for key, value in notes.items()
    }
    return Served(**given)
