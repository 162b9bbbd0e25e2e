"""What LangChain's answers are to the semantic cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.caches import BaseCache
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import RunnableBinding

from langchain_redis_tiered._codec import decode
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.llm_cache.shelf import Served

__all__ = ["answer_text", "looked_up_by", "mark_served", "served_of"]

_MARK: Final = "redis_tiered"


def answer_text(payload: bytes) -> str | None:
    """The text of an answer that is nothing but text; None: it calls tools, or is several."""
    try:
        generations = decode(payload)
    except Unreadable:
        return None
    if len(generations) != 1:
        return None
    [generation] = generations
    if not isinstance(generation, ChatGeneration):
        return generation.text
    message = generation.message
    if not isinstance(message, AIMessage) or message.tool_calls or message.invalid_tool_calls:
        return None
    if any(message.additional_kwargs.get(key) for key in ("tool_calls", "function_call")):
        return None
    if isinstance(message.content, str):
        return message.content
    if all(isinstance(block, dict) and block.get("type") == "text" for block in message.content):
        return str(message.text)
    return None


def mark_served(generations: Sequence[Generation], served: Served) -> None:
    """Have each answer tell that it was stored for other words."""
    told = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in served._asdict().items()
    }
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            generation.message.response_metadata[_MARK] = dict(told)
        else:
            generation.generation_info = {**(generation.generation_info or {}), _MARK: dict(told)}


def served_of(answer: object) -> Served:
    """What `mark_served` noted.

    Raises:
        InvalidInput: nothing was noted.
    """
    notes: Any = None
    if isinstance(answer, ChatGeneration):
        answer = answer.message
    if isinstance(answer, BaseMessage):
        notes = answer.response_metadata.get(_MARK)
    elif isinstance(answer, Generation):
        notes = (answer.generation_info or {}).get(_MARK)
    if not isinstance(notes, Mapping) or set(notes) != set(Served._fields):
        raise InvalidInput(
            "answer must be a message or generation that the cache served to other words than it was "
            f"stored for, got {type(answer).__name__} without such a note"
        )
    given: dict[str, Any] = {
        key: math.nan if value is None else value for key, value in notes.items()
    }
    return Served(**given)


def looked_up_by(model: object, given: Any) -> tuple[str, str]:
    """What LangChain looks up when a model is invoked: prompt and llm_string. The model is not called.

    Args:
        model: a chat model or LLM, with whatever is bound to it.
        given: what it would be invoked with.

    Raises:
        InvalidInput: it is no model, or it consults no cache.
    """
    probe = _Probe()
    asked = _with_cache(model, probe)
    asked.invoke(given, config={"callbacks": []})
    if probe.seen is None:
        raise InvalidInput("model consults no cache when it is invoked with this")
    return probe.seen


def _with_cache(model: object, cache: BaseCache) -> Any:
    if isinstance(model, RunnableBinding):
        return model.model_copy(update={"bound": _with_cache(model.bound, cache)})
    if isinstance(model, BaseLanguageModel):
        return model.model_copy(update={"cache": cache})
    raise InvalidInput(
        f"model must be a chat model or LLM of LangChain, got {type(model).__name__}"
    )


class _Probe(BaseCache):
    """Notes what it is asked, and has an answer to everything."""

    def __init__(self) -> None:
        self.seen: tuple[str, str] | None = None

    def lookup(self, prompt: str, llm_string: str) -> list[Generation]:
        self.seen = prompt, llm_string
        return [ChatGeneration(message=AIMessage("."))]

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Nothing is kept."""

    def clear(self, **kwargs: Any) -> None:
        """Nothing is kept."""
