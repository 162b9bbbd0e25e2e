"""Whether a model's answer is one: complete, and not a refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation

from redis_tiered.llm_cache.outcome import REASON_KEYS, objection_to

__all__ = ["objection"]


def objection(generations: Sequence[Generation]) -> str | None:
    """Why an answer should not be stored: "truncated", "refused", "failed", "empty"; or None."""
    if not generations:
        return "empty"
    for generation in generations:
        for source in _sources(generation):
            found = _objection_in(source)
            if found is not None:
                return found
        if isinstance(generation, ChatGeneration) and _declines(generation.message):
            return "refused"
    return None


def _sources(generation: Generation) -> list[Mapping[str, Any]]:
    sources: list[Mapping[str, Any]] = []
    if generation.generation_info:
        sources.append(generation.generation_info)
    if isinstance(generation, ChatGeneration):
        sources.append(generation.message.response_metadata)
    return sources


def _objection_in(source: Mapping[str, Any]) -> str | None:
    for key in REASON_KEYS:
        found = objection_to(source.get(key))
        if found is not None:
            return found
    return None


def _declines(message: BaseMessage) -> bool:
    if message.additional_kwargs.get("refusal"):
        return True
    content = message.content
    return isinstance(content, list) and any(
        isinstance(block, dict) and (block.get("type") == "refusal" or _is_wrapped_refusal(block))
        for block in content
    )


def _is_wrapped_refusal(block: Mapping[str, Any]) -> bool:
    # langchain-core's standard content wraps what it has no block for
    value = block.get("value")
    return (
        block.get("type") == "non_standard"
        and isinstance(value, dict)
        and value.get("type") == "refusal"
    )
