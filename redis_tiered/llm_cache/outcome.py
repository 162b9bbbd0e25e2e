"""What a provider's word for the end of an answer means to a cache."""

from __future__ import annotations

from typing import Final

__all__ = ["REASON_KEYS", "objection_to"]

# As OpenAI, Anthropic, Google, Mistral, Cohere, Ollama and Bedrock name them; `status` is of OpenAI's
# Responses API.
REASON_KEYS: Final = ("finish_reason", "stop_reason", "stopReason", "done_reason", "status")
_WORDS: Final = {
    "truncated": (
        *("length", "max_tokens", "max_output_tokens", "model_length", "incomplete", "pause_turn"),
    ),
    "refused": (
        *("content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist"),
        *("prohibited_content", "spii", "guardrail_intervened", "error_toxic"),
    ),
    "failed": ("error", "failed", "cancelled", "other_error", "malformed_function_call"),
}
_MEANING: Final = {word: meaning for meaning, words in _WORDS.items() for word in words}


def objection_to(reason: object) -> str | None:
    """Why an answer that ended so should not be stored: "truncated", "refused", "failed"; or None."""
    return _MEANING.get(reason.lower()) if isinstance(reason, str) else None
