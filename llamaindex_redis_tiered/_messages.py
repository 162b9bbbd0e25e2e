"""LlamaIndex's messages as the project's own, and back.

What the shared part of a `Message` gives back exactly is not repeated in `native`. The rest is
`{"role": ..., "blocks": [...], "kwargs": {...}}` as `redis_tiered.values` writes it, each item only
where it differs from what the shared part makes. Among the blocks `["text", 0]`, `["thinking", 0]` and
`["tool_call", i]` stand for the shared text, the shared thinking and a shared tool call.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Final, cast

import orjson
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from llamaindex_redis_tiered._blocks import (
    KINDS,
    MEDIA,
    READERS,
    BlockWriter,
    block_from,
    new,
    settled,
)
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.sessions.message import Message, ToolCall
from redis_tiered.values import MALFORMED, Refused, is_json, loaded, readable

__all__ = ["FORMAT", "from_core", "opened", "to_core"]

logger = logging.getLogger("redis_tiered")

FORMAT: Final = "llamaindex"

_TO_ROLE: Final = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "human",
    MessageRole.ASSISTANT: "ai",
    MessageRole.CHATBOT: "ai",
    MessageRole.MODEL: "ai",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
_FROM_ROLE: Final = {
    "system": MessageRole.SYSTEM,
    "human": MessageRole.USER,
    "ai": MessageRole.ASSISTANT,
    "tool": MessageRole.TOOL,
}


def to_core(message: ChatMessage, where: str) -> Message:
    """A message that `from_core` makes an equal one of.

    Three things come back as what they equal or hold: a pydantic model in `additional_kwargs`
    (OpenAI's tool calls) as the dict of its dump, as after LlamaIndex's own serialization; an open
    file in a block as its bytes, as if the block had been made of them; a `str` enum as a `str`.

    Args:
        message: a `ChatMessage` with blocks of LlamaIndex's own classes.
        where: what to call it in an error.

    Raises:
        InvalidInput: not such a message, or a value in it cannot be stored; names its path.
    """
    if type(message) is not ChatMessage:
        raise InvalidInput(f"{where} must be a ChatMessage, got {type(message).__name__}")
    role = _role(message.role, f"{where}.role")
    kwargs = _exactly(dict, message.additional_kwargs, f"{where}.additional_kwargs")
    given = _exactly(list, message.blocks, f"{where}.blocks")
    writer = BlockWriter()
    blocks: list[Any] = []
    written: list[Any] = []
    place = ""
    try:
        for i, block in enumerate(given):
            place = f".blocks[{i}]"
            blocks.append(settled(block))
            written.append(writer.block(blocks[i]))
        place = ".additional_kwargs"
        written_kwargs = writer.value(kwargs)
    except Refused as refused:
        raise refused.invalid(f"{where}{place}", KINDS) from None
    shared = _shared(_TO_ROLE[role], blocks, written_kwargs)
    plain = _plain(shared)
    native: dict[str, Any] = {}
    if role is not plain.role:
        native["role"] = role.value
    if blocks != plain.blocks:
        native["blocks"] = _referring(blocks, written)
    if kwargs != plain.additional_kwargs:
        native["kwargs"] = written_kwargs
    if not native:
        return shared
    return dataclasses.replace(shared, native=writer.dumped(native))


def from_core(message: Message) -> ChatMessage:
    """Restore a message; of another framework's, make one of what all frameworks share.

    A message of another framework becomes text and tool calls that LlamaIndex's models can send
    on. Its thinking (which a provider only takes back with its own signature) and its attachments
    are left out.

    Raises:
        Unreadable: `native` is not what `to_core` writes.
    """
    plain = _plain(message)
    if message.format != FORMAT or not message.native:
        return plain
    try:
        native = loaded(message.native, READERS)
        if type(native) is not dict:
            raise Unreadable("shape")
        if "role" in native:
            plain.role = MessageRole(native["role"])
        if "blocks" in native:
            plain.blocks = [_restored(tag, item, message) for tag, item in native["blocks"]]
        if "kwargs" in native:
            plain.additional_kwargs = native["kwargs"]
            if type(plain.additional_kwargs) is not dict:
                raise Unreadable("shape")
    except MALFORMED:
        raise Unreadable("corrupt") from None
    return plain


def opened(message: Message) -> ChatMessage:
    """As `from_core`; one whose `native` cannot be read here is made of the shared part, and logged."""
    try:
        return from_core(message)
    except Unreadable as problem:
        logger.warning(
            "message %r: what only LlamaIndex reads is unreadable (%s); its text and tool calls "
            "are used",
            message.id,
            problem.reason,
        )
        return _plain(message)


def _shared(role: str, blocks: list[Any], kwargs: dict[str, Any]) -> Message:
    texts = [block.text for block in blocks if type(block) is TextBlock]
    thoughts = [block.content for block in blocks if type(block) is ThinkingBlock]
    return Message(
        role,
        "\n".join(texts),
        name=_text_or_none(kwargs.get("name")),
        tool_calls=_calls(blocks, kwargs),
        tool_call_id=_text_or_none(kwargs.get("tool_call_id")) if role == "tool" else None,
        thinking="\n".join(thought for thought in thoughts if thought),
        media=tuple(_media(blocks)),
        format=FORMAT,
    )


def _plain(message: Message) -> ChatMessage:
    """What the shared part alone makes."""
    blocks: list[Any] = [_call_block(call) for call in message.tool_calls]
    if message.text or not blocks:
        blocks.insert(0, new(TextBlock, text=message.text))
    kwargs: dict[str, Any] = {}
    if message.role == "tool" and message.tool_call_id is not None:
        kwargs["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        kwargs["name"] = message.name
    role = _FROM_ROLE.get(message.role, MessageRole.USER)
    return cast(ChatMessage, new(ChatMessage, role=role, additional_kwargs=kwargs, blocks=blocks))


def _call_block(call: ToolCall) -> Any:
    return new(
        ToolCallBlock,
        tool_call_id=call.id,
        tool_name=call.name,
        tool_kwargs=readable(call.arguments),  # a copy: frameworks change what they are given
    )


def _referring(blocks: list[Any], written: list[Any]) -> list[Any]:
    """As written, but what is in the shared part as a reference to it."""
    kinds = [type(block) for block in blocks]
    references, calls = [], 0
    for block, kind, full in zip(blocks, kinds, written, strict=True):
        tag, fields = full
        reference = None
        if kind is ToolCallBlock:
            if type(block.tool_kwargs) is str or is_json(block.tool_kwargs):
                reference = calls
            calls += 1
        elif kinds.count(kind) == 1 and (
            kind is TextBlock
            or (kind is ThinkingBlock and block.content and fields.keys() == {"content"})
        ):
            reference = 0
        references.append(full if reference is None else [tag, reference])
    return references


def _restored(tag: str, item: Any, shared: Message) -> Any:
    if type(item) is int and item >= 0:
        if tag == "text":
            return new(TextBlock, text=shared.text)
        if tag == "thinking":
            return new(ThinkingBlock, content=shared.thinking)
        if tag == "tool_call":
            return _call_block(shared.tool_calls[item])
    return block_from([tag, item])


def _calls(blocks: list[Any], kwargs: dict[str, Any]) -> tuple[ToolCall, ...]:
    """Of the blocks; if there are none, of OpenAI's `additional_kwargs["tool_calls"]`."""
    calls = [block for block in blocks if type(block) is ToolCallBlock]
    if calls:
        return tuple(
            ToolCall(call.tool_call_id, call.tool_name, readable(call.tool_kwargs))
            for call in calls
        )
    items = kwargs.get("tool_calls")
    found = [_openai_call(item) for item in items] if type(items) is list else []
    return tuple(call for call in found if call is not None)


def _openai_call(item: Any) -> ToolCall | None:
    function = item.get("function") if type(item) is dict else None
    if type(function) is not dict or type(function.get("name")) is not str:
        return None
    arguments = function.get("arguments")
    if type(arguments) is str:
        try:
            parsed = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            parsed = None  # as a model that was cut off leaves it
        arguments = parsed if type(parsed) is dict else arguments
    elif type(arguments) is not dict:
        arguments = ""
    return ToolCall(_text_or_none(item.get("id")), function["name"], arguments)


def _media(blocks: list[Any]) -> list[str]:
    kinds = []
    for block in blocks:
        if type(block) is CitableBlock:
            kinds += _media(block.content)
        elif type(block) is CitationBlock:
            kinds += _media([block.cited_content])
        elif type(block) in MEDIA:
            kinds.append(MEDIA[type(block)])
    return kinds


def _role(value: Any, where: str) -> MessageRole:
    try:
        return MessageRole(value)
    except ValueError:
        accepted = [role.value for role in MessageRole]
        raise InvalidInput(f"{where} must be one of {accepted}, got {value!r:.100}") from None


def _exactly(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"{where} must be a {kind.__name__}, got {type(value).__name__}")
    return value


def _text_or_none(value: Any) -> str | None:
    return value if type(value) is str else None
