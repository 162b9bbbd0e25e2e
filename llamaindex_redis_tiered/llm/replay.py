"""A stored answer as a stream, and a stream as an answer to store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
)

from llamaindex_redis_tiered.llm.codec import Answer, encode
from llamaindex_redis_tiered.llm.outcome import Response, is_empty, objection
from redis_tiered.errors import Uncacheable

__all__ = ["Recorder", "pieces", "replayed"]

_SPACE: Final = re.compile(r"\s")
_SHORTEST: Final = 12  # characters of a piece
_MOST: Final = 64  # pieces


def pieces(text: str) -> Iterator[str]:
    """The text in at most 64 pieces, cut before white space where there is any; "" if it is empty."""
    size = max(_SHORTEST, -(-len(text) // _MOST))
    start = 0
    while len(text) - start > size:
        # A longer piece rather than a cut word, but not much longer.
        longest = min(start + 2 * size, len(text))
        space = _SPACE.search(text, start + size, longest)
        end = space.start() if space else len(text) if longest == len(text) else start + size
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _heard(text: str) -> Iterator[tuple[str, str, bool]]:
    """Each piece, what there is with it, and whether it is the last."""
    sofar = ""
    for piece in pieces(text):
        sofar += piece
        yield piece, sofar, len(sofar) == len(text)


def replayed(answer: Answer) -> Iterator[Response]:
    """The answer as a provider would stream it: what came so far, and what is new.

    The last piece is the whole answer, with its tool calls and everything else that was stored.
    """
    response = answer.response
    if isinstance(response, CompletionResponse):
        yield from _completion(response, answer.said)
    else:
        yield from _chat(response, answer)


def _completion(response: CompletionResponse, said: str) -> Iterator[Response]:
    for piece, sofar, last in _heard(said):
        if last:
            response.delta = piece
            yield response
        else:
            yield CompletionResponse(text=sofar, delta=piece)


def _chat(response: ChatResponse, answer: Answer) -> Iterator[Response]:
    message = response.message
    thoughts = [block for block in message.blocks if isinstance(block, ThinkingBlock)]
    thinking = answer.thinking
    if thinking is None and not answer.streamed:
        thinking = "".join(block.content or "" for block in thoughts)
    if thinking:
        for piece, sofar, _ in _heard(thinking):
            yield ChatResponse(
                message=_partial(message, [ThinkingBlock(content=sofar)], ""),
                delta="",
                additional_kwargs={"thinking_delta": piece},
            )
    for piece, sofar, last in _heard(answer.said):
        if last:
            # Said already, in pieces.
            response.additional_kwargs.pop("thinking_delta", None)
            response.delta = piece
            yield response
        else:
            yield ChatResponse(message=_partial(message, thoughts, sofar), delta=piece)


def _partial(message: ChatMessage, thoughts: list[ThinkingBlock], text: str) -> ChatMessage:
    blocks = [*(block.model_copy(deep=True) for block in thoughts), TextBlock(text=text)]
    return ChatMessage(role=message.role, blocks=blocks)


class Recorder:
    """Follows a stream, and has the answer when it ended well."""

    def __init__(self) -> None:
        self._last: Response | None = None
        self._deltas: list[str] = []
        self._thoughts: list[str] = []
        self._objection: str | None = None

    def see(self, chunk: Response) -> None:
        """Before a caller gets it, who may change it."""
        try:
            self._see(chunk)
        except Exception:  # it is none that LlamaIndex knows; the caller shall have it nevertheless
            self._objection = "unserializable_answer"

    def _see(self, chunk: Response) -> None:
        if self._objection is None:
            self._objection = objection(chunk)
        if chunk.delta:
            self._deltas.append(chunk.delta)
        thought = chunk.additional_kwargs.get("thinking_delta")
        if isinstance(thought, str):
            self._thoughts.append(thought)
        self._last = _held(chunk)

    def objection(self) -> str | None:
        """Why the answer should not be stored, or None."""
        if self._objection is not None:
            return self._objection
        return "empty" if self._last is None or is_empty(self._last) else None

    def payload(self) -> bytes:
        """The answer as bytes.

        Raises:
            Uncacheable: as `encode`.
        """
        if self._last is None:
            raise Uncacheable("empty")
        said = "".join(self._deltas) if self._deltas else None
        thinking = "".join(self._thoughts) or None
        return encode(self._last, streamed=True, said=said, thinking=thinking)

    @property
    def response(self) -> Response | None:
        """The last piece as it came."""
        return self._last


def _held(chunk: Response) -> Response:
    held: dict[str, Any] = {"additional_kwargs": dict(chunk.additional_kwargs)}
    if isinstance(chunk, ChatResponse):
        message = chunk.message
        held["message"] = message.model_copy(
            update={
                "blocks": list(message.blocks),
                "additional_kwargs": dict(message.additional_kwargs),
            }
        )
    return chunk.model_copy(update=held)
