"""Whether a model's answer is one: complete, and not a refusal; and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
)

from redis_tiered.llm_cache.outcome import REASON_KEYS, objection_to
from redis_tiered.llm_cache.stats import Usage

__all__ = ["Response", "is_empty", "objection", "usage_of"]

Response = ChatResponse | CompletionResponse

# Where, in what a provider sent, there may be more of it.
_INSIDE: Final = ("response", "message", "delta")
_SEVERAL: Final = ("choices", "candidates")
_INPUT: Final = (
    "prompt_tokens",
    "input_tokens",
    "prompt_token_count",
    "prompt_eval_count",
    "inputTokens",
)
_OUTPUT: Final = (
    "completion_tokens",
    "output_tokens",
    "candidates_token_count",
    "eval_count",
    "outputTokens",
)


def objection(response: Response) -> str | None:
    """Why an answer, or a piece of it, should not be stored: "truncated", "refused", "failed",
    "several_answers"; or None."""
    sources: list[Any] = [response.additional_kwargs, response.raw]
    if isinstance(response, ChatResponse):
        sources.append(response.message.additional_kwargs)
    for source in sources:
        for part in _parts(source, 0):
            found = _objection_in(part)
            if found is not None:
                return found
    return None


def is_empty(response: Response) -> bool:
    """Whether there is nothing in an answer that a caller could use."""
    if isinstance(response, CompletionResponse):
        return not response.text.strip()
    message = response.message
    if message.additional_kwargs.get("tool_calls") or message.additional_kwargs.get(
        "function_call"
    ):
        return False
    return all(
        not block.text.strip() if isinstance(block, TextBlock) else isinstance(block, ThinkingBlock)
        for block in message.blocks
    )


def usage_of(model: str, additional: Mapping[str, Any], raw: Any) -> Usage:
    """What a model call cost, as far as its answer tells.

    Args:
        model: that was asked; the answer may name a version of it.
        additional: `additional_kwargs` of the response.
        raw: what the provider sent, or what is kept of it.
    """
    counts: list[Any] = [_get(raw, "usage"), _get(raw, "usage_metadata"), raw, additional]
    for source in counts:
        spent = [_count(source, keys) for keys in (_INPUT, _OUTPUT)]
        if any(spent):
            named = _get(raw, "model")
            return Usage(named if isinstance(named, str) and named else model, spent[0], spent[1])
    return Usage(model)


def _count(source: Any, keys: tuple[str, ...]) -> int:
    for key in keys:
        value = _get(source, key)
        if type(value) is int and 0 <= value < 1 << 53:
            return value
    return 0


def _parts(source: Any, depth: int) -> Iterator[Any]:
    if source is None or depth > 3:
        return
    yield source
    for key in _INSIDE:
        inside = _get(source, key)
        if inside is not None and not isinstance(inside, str):
            yield from _parts(inside, depth + 1)
    for key in _SEVERAL:
        several = _get(source, key)
        if isinstance(several, list | tuple):
            for each in several:
                yield from _parts(each, depth + 1)


def _objection_in(part: Any) -> str | None:
    if _get(part, "refusal"):
        return "refused"
    for key in _SEVERAL:
        several = _get(part, key)
        if isinstance(several, list | tuple) and len(several) > 1:
            return "several_answers"
    index = _get(part, "index")
    if type(index) is int and index > 0 and _get(part, "finish_reason") is not None:
        return "several_answers"
    for key in REASON_KEYS:
        reason = _get(part, key)
        if isinstance(reason, Enum):
            reason = reason.name
        if isinstance(reason, str):
            found = objection_to(reason.rpartition(".")[2])
            if found is not None:
                return found
    return None


def _get(source: Any, key: str) -> Any:
    if source is None or isinstance(source, str | bytes | int | float | list | tuple):
        return None
    if isinstance(source, Mapping):
        return source.get(key)
    try:
        return getattr(source, key, None)
    except Exception:  # a property of the provider's own that fails
        return None
