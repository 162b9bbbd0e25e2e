"""Answers of LlamaIndex's models as bytes, and back.

Layout: as `redis_tiered.values` writes it, a list `[kind, streamed, answer, raw, logprobs, kwargs,
said]`. Kind is "chat" or "complete"; the answer of a chat is `[role, blocks, kwargs]`, of a completion
its text. `said` is what a stream said in its deltas, where that is not the text of the answer, and what
it thought aloud: `[text or None, thinking or None]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from llamaindex_redis_tiered._blocks import READERS, BlockWriter, block_from, new, settled
from llamaindex_redis_tiered.llm.outcome import Response
from redis_tiered.errors import Uncacheable, Unreadable
from redis_tiered.values import MALFORMED, Reader, Refused, loaded

__all__ = ["Answer", "answer_text", "decode", "encode"]

_OPENAI: Final = "openai.types."


class Answer(NamedTuple):
    """A stored answer, all of it newly made.

    Attributes:
        response: without a delta.
        streamed: whether it was given in pieces: a provider then tells less about it.
        said: what its deltas made together.
        thinking: what its deltas told of its thinking; None: nothing.
    """

    response: Response
    streamed: bool
    said: str
    thinking: str | None


def encode(
    response: Response,
    *,
    streamed: bool = False,
    said: str | None = None,
    thinking: str | None = None,
) -> bytes:
    """Serialize an answer, if `decode` will give back what went in.

    Of `raw` is kept what can be: a model of the provider's as a dict, an opaque object not at all.

    Args:
        response: the whole answer, or the last piece of a stream.
        streamed: it is such a piece.
        said: all its deltas together.
        thinking: the same of its thinking.

    Raises:
        Uncacheable: `unserializable_answer`, with the path of a value that would not come back.
    """
    writer = _Writer()
    text = text_of(response)
    place = ""
    try:
        if isinstance(response, ChatResponse):
            place = "message"
            kind, answer = "chat", writer.message(response.message)
        else:
            place = "text"
            kind, answer = "complete", writer.value(response.text)
        place = "additional_kwargs"
        kwargs = writer.value(dict(response.additional_kwargs))
        place = "logprobs"
        logprobs = writer.value(_logprobs_of(response.logprobs))
        raw = _kept(response.raw, writer)
        deltas = [None if said is None or said == text else writer.value(said), thinking]
        place = ""
        return writer.dumped([kind, streamed, answer, raw, logprobs, kwargs, deltas])
    except Refused as refused:
        detail = f"{place}{refused.path}: {refused.what}"
        raise Uncacheable("unserializable_answer", detail[:200]) from None


def decode(payload: bytes) -> Answer:
    """Read an answer; every call returns new objects, since LlamaIndex changes hits in place.

    Raises:
        Unreadable: the bytes are not what `encode` writes.
    """
    try:
        content = loaded(payload, _READERS)
        kind, streamed, answer, raw, logprobs, kwargs, (said, thinking) = content
        if type(kwargs) is not dict or type(streamed) is not bool:
            raise Unreadable("shape")
        if not isinstance(said, str | None) or not isinstance(thinking, str | None):
            raise Unreadable("shape")
        restored = _logprobs_from(logprobs)
        response: Response
        if kind == "chat":
            message = _message_from(answer)
            response = ChatResponse.model_construct(
                message=message, raw=raw, delta=None, logprobs=restored, additional_kwargs=kwargs
            )
        elif kind == "complete" and type(answer) is str:
            response = CompletionResponse.model_construct(
                text=answer, raw=raw, delta=None, logprobs=restored, additional_kwargs=kwargs
            )
        else:
            raise Unreadable("shape")
    except MALFORMED:
        raise Unreadable("corrupt") from None
    return Answer(response, streamed, text_of(response) if said is None else said, thinking)


def answer_text(payload: bytes) -> str | None:
    """The text of an answer that is nothing but text; None: it calls tools, or shows something."""
    try:
        response = decode(payload).response
    except Unreadable:
        return None
    if isinstance(response, CompletionResponse):
        return response.text
    message = response.message
    if any(message.additional_kwargs.get(key) for key in ("tool_calls", "function_call")):
        return None
    if any(isinstance(block, ToolCallBlock) for block in message.blocks):
        return None
    texts = [block.text for block in message.blocks if isinstance(block, TextBlock)]
    return "\n".join(texts) if texts and _only_said(message) else None


def _only_said(message: ChatMessage) -> bool:
    return all(block.block_type in ("text", "thinking") for block in message.blocks)


def text_of(response: Response) -> str:
    """What a caller reads."""
    if isinstance(response, CompletionResponse):
        return response.text
    return response.message.content or ""


# --- writing ---------------------------------------------------------------------------------


class _Writer(BlockWriter):
    """Knows the models of OpenAI's client as well: its tool calls stand in messages as they are."""

    def message(self, message: ChatMessage) -> list[Any]:
        if type(message) is not ChatMessage:
            raise Refused(type(message).__name__, accepted="a ChatMessage")
        role = MessageRole(message.role).value
        blocks: list[Any] = []
        for i, block in enumerate(message.blocks):
            try:
                blocks.append(self.block(settled(block)))
            except Refused as refused:
                refused.path = f".blocks[{i}]{refused.path}"
                raise
        try:
            return [role, blocks, self.value(message.additional_kwargs)]
        except Refused as refused:
            refused.path = f".additional_kwargs{refused.path}"
            raise

    def other(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, BaseModel) and kind.__module__.startswith(_OPENAI):
            named = f"{kind.__module__}:{kind.__name__}"
            if _openai_class(named) is kind:
                state = {**value.__dict__, **(value.__pydantic_extra__ or {})}
                names = sorted(value.__pydantic_fields_set__)
                return {"\0openai": [named, self.value(state, depth + 2), names]}
        return super().other(value, depth)


def _kept(raw: Any, writer: _Writer) -> Any:
    """What can be kept of `raw`: a dict of JSON and plain values, or None."""
    if isinstance(raw, BaseModel):
        try:
            raw = raw.model_dump(warnings=False)
        except Exception:  # whatever a provider's own serializers raise
            raw = dict(raw.__dict__)
    elif raw is not None and not isinstance(raw, dict | list | str | int | float | bool):
        try:
            raw = dict(raw)
        except (TypeError, ValueError):
            return None
    if not isinstance(raw, dict):
        return _written(raw, writer)
    kept = {}
    for key, value in raw.items():
        written = _written(value, writer)
        if type(key) is str and (written is not None or value is None):
            kept["\0" + key if key.startswith("\0") else key] = written
            if key.startswith("\0"):
                writer.tagged = True
    return kept


def _written(value: Any, writer: _Writer) -> Any:
    """As JSON, dumped whatever it is; None: it cannot be."""
    try:
        return BlockWriter.value(writer, _dumped(value))
    except (Refused, RecursionError):
        return None


def _dumped(value: Any) -> Any:
    if isinstance(value, BaseModel):
        try:
            return value.model_dump(warnings=False)
        except Exception:  # as above
            return {key: _dumped(item) for key, item in value.__dict__.items()}
    if isinstance(value, Mapping):
        return {key: _dumped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_dumped(item) for item in value]
    return value


def _logprobs_of(logprobs: Any) -> Any:
    if logprobs is None:
        return None
    return [[[each.token, each.logprob, each.bytes] for each in several] for several in logprobs]


# --- reading ---------------------------------------------------------------------------------


def _message_from(written: Any) -> ChatMessage:
    role, blocks, kwargs = written
    if type(kwargs) is not dict:
        raise Unreadable("shape")
    message: ChatMessage = new(
        ChatMessage,
        role=MessageRole(role),
        additional_kwargs=kwargs,
        blocks=[block_from(block) for block in blocks],
    )
    return message


def _logprobs_from(written: Any) -> list[list[LogProb]] | None:
    if written is None:
        return None
    return [
        [LogProb(token=token, logprob=logprob, bytes=data) for token, logprob, data in several]
        for several in written
    ]


def _openai_class(named: str) -> Any:
    """A model class of OpenAI's client by module and name; None: there is no such."""
    module, _, name = named.partition(":")
    if not module.startswith(_OPENAI) or not name.isidentifier():
        return None
    try:
        kind = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _openai_from(written: Any) -> Any:
    """Where the client is not installed, or has the class no more, a dict like that of a dump."""
    named, state, names = written
    if type(named) is not str or type(state) is not dict:
        raise Unreadable("shape")
    kind = _openai_class(named)
    if kind is None:
        return state
    made = kind.model_construct(**state)
    object.__setattr__(made, "__pydantic_fields_set__", set(names))
    return made


_READERS: Final[dict[str, Reader]] = READERS | {"\0openai": _openai_from}
