"""The messages of a chat model's prompt, as much of them as a provider is sent.

A chat model's prompt is `dumps(messages)`. It holds more than the request: usage, response
metadata and random tool-call ids of earlier answers, which make an identical conversation look
new on every run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical

__all__ = ["Conversation", "conversation_from"]

_NAMESPACE = ["langchain", "schema", "messages"]
# Class and the `type` it always carries. A chunk says the same to a provider as its whole message.
# A class not here (RemoveMessage, a user's own) is kept as it is.
_CLASSES = {
    "AIMessage": ("AIMessage", "ai"),
    "AIMessageChunk": ("AIMessage", "AIMessageChunk"),
    "HumanMessage": ("HumanMessage", "human"),
    "HumanMessageChunk": ("HumanMessage", "HumanMessageChunk"),
    "SystemMessage": ("SystemMessage", "system"),
    "SystemMessageChunk": ("SystemMessage", "SystemMessageChunk"),
    "ToolMessage": ("ToolMessage", "tool"),
    "ToolMessageChunk": ("ToolMessage", "ToolMessageChunk"),
    "FunctionMessage": ("FunctionMessage", "function"),
    "FunctionMessageChunk": ("FunctionMessage", "FunctionMessageChunk"),
    "ChatMessage": ("ChatMessage", "chat"),
    "ChatMessageChunk": ("ChatMessage", "ChatMessageChunk"),
}

# LangChain translates content by these (`AIMessage.content_blocks`).
_METADATA = ("model_provider", "output_version")
# An integration reads these back from earlier answers, but only when it was told to; the model's
# setting is then in the llm_string.
_METADATA_ON_DEMAND = (
    ("use_previous_response_id", "id"),  # langchain-openai sends only what follows that response
    ("reuse_last_container", "container"),  # langchain-anthropic
)
# A refusal is part of an answer's content blocks since langchain-core 1.7.5.
_METADATA_OF_REFUSAL = (
    "stop_reason",
    "stop_details",
    "finish_reason",
    "finish_message",
    "prompt_feedback",
)
_REFUSED = frozenset({"refusal", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST"})
# langchain-aws does not send the reasoning of another family of models.
_REASONING = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})

# Content blocks of an AI message whose ids name a call that the same message makes. Not among
# them: items that a provider keeps, such as `image_generation_call`; their ids are content.
_CALLS = frozenset(
    {
        "tool_call",
        "tool_use",
        "invalid_tool_call",
        "server_tool_call",
        "server_tool_use",
        "mcp_tool_use",
        "function_call",
        "custom_tool_call",
    }
)
_REFERENCES = ("call_id", "tool_use_id", "tool_call_id")
_ID_MAPS = ("__openai_function_call_ids__", "__gemini_function_call_thought_signatures__")
_SIMPLE_ID = re.compile(r"[A-Za-z0-9_.:|-]+")


class Conversation(NamedTuple):
    """A chat prompt without what no provider sees.

    Attributes:
        context: canonical bytes of all messages, without `prompt`.
        prompt: text of the last message if a human wrote it and it is nothing but text.
        turns: how many messages a human wrote.
    """

    context: bytes
    prompt: str | None
    turns: int


def conversation_from(prompt: str, llm_string: str) -> Conversation | None:
    """Read a chat prompt; None if the text is not a JSON list of LangChain messages.

    Raises:
        Uncacheable: `unserializable` for a value that LangChain could only name, not write;
            `too_deep` beyond 254 levels.
    """
    if not (prompt.startswith("[{") and prompt.endswith("]")):
        return None
    try:
        nodes = orjson.loads(prompt)
    except orjson.JSONDecodeError:  # also lone surrogates and NaN: then the text is compared
        return None
    if not _are_messages(nodes):
        return None
    try:
        return _Reading(prompt, llm_string).conversation(nodes)
    except RecursionError:
        raise Uncacheable("too_deep", "messages") from None


def _are_messages(nodes: Any) -> bool:
    """Whether every item is just what `Serializable.to_json` writes for a message."""
    for node in nodes:
        if type(node) is not dict or len(node) != 4 or node.get("lc") != 1:
            return False
        kind, path, fields = node.get("type"), node.get("id"), node.get("kwargs")
        if kind != "constructor":
            if kind == "not_implemented":
                raise Uncacheable("unserializable", "a message")
            return False
        if type(path) is not list or type(fields) is not dict or "content" not in fields:
            return False
    return True


def _holds_wide(value: Any) -> bool:
    """Whether a number may be an integer beyond 64 bits, which orjson reads as a float."""
    kind = type(value)
    if kind is float:
        return bool(abs(value) >= 1 << 63)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return False
    for item in value:  # noqa: SIM110 - any() of a generator takes twice the time
        if type(item) is not str and item is not None and _holds_wide(item):
            return True
    return False


class _Reading:
    """One pass over one prompt."""

    def __init__(self, prompt: str, llm_string: str) -> None:
        self.source = prompt
        self.metadata: tuple[str, ...] = _METADATA
        for setting, key in _METADATA_ON_DEMAND:
            if setting in llm_string:
                self.metadata += (key,)

    def conversation(self, nodes: list[Any]) -> Conversation:
        messages = [self._message(node) for node in nodes]
        wide = any(_holds_wide(fields) for _, fields in messages)
        if wide:
            messages = self._again()
        if '"not_implemented"' in self.source:
            _refuse_placeholders(messages)
        ids = _declared(messages)
        if ids:
            places = [_take_ids(i, kind, fields, ids) for i, (kind, fields) in enumerate(messages)]
            found = _split(messages, [place for place in places if place], wide)
            if not _mentions(found, ids):
                return found
            # The model may see which call a text means: two ids swapped are another question.
            messages = self._again()
        return _split(messages, None, wide)

    def _again(self) -> list[list[Any]]:
        return [self._message(node) for node in json.loads(self.source)]

    def _message(self, node: dict[str, Any]) -> list[Any]:
        """Class and fields of a message; changes `node`."""
        path, fields = node["id"], node["kwargs"]
        if path[:-1] != _NAMESPACE or type(path[-1]) is not str or path[-1] not in _CLASSES:
            return [path, fields]
        kind, type_ = _CLASSES[path[-1]]
        if fields.get("type") == type_:
            del fields["type"]
        if len(fields) == 1:
            return [kind, fields]
        if kind == "AIMessage":
            self._answer(fields)
        elif kind == "ToolMessage":
            fields.pop("artifact", None)  # "not meant to be sent to the model"
            if fields.get("status") == "success":
                del fields["status"]
        self._common(fields)
        return [kind, fields]

    def _answer(self, fields: dict[str, Any]) -> None:
        for key in ("usage_metadata", "tool_call_chunks", "chunk_position"):
            fields.pop(key, None)
        for key in ("tool_calls", "invalid_tool_calls"):
            if not fields.get(key, True):
                del fields[key]
        extra = fields.get("additional_kwargs")
        if type(extra) is dict:
            extra.pop("parsed", None)  # the client's own reading of the content

    def _common(self, fields: dict[str, Any]) -> None:
        fields.pop("id", None)
        if fields.get("name", "") is None:
            del fields["name"]
        if not fields.get("additional_kwargs", True):
            del fields["additional_kwargs"]
        metadata = fields.pop("response_metadata", None)
        if metadata and type(metadata) is dict:
            kept = {key: metadata[key] for key in self.metadata if metadata.get(key) is not None}
            if metadata.get("is_blocked"):  # langchain-google-vertexai skips a blocked answer
                kept["is_blocked"] = True
            if _refused(metadata):
                kept |= {key: metadata[key] for key in _METADATA_OF_REFUSAL if key in metadata}
            if "model_name" in metadata and _reasons(fields["content"]):
                kept["model_name"] = metadata["model_name"]
            if kept:
                fields["response_metadata"] = kept


def _refused(metadata: dict[str, Any]) -> bool:
    feedback = metadata.get("prompt_feedback")
    if type(feedback) is dict and feedback.get("block_reason"):
        return True
    reasons = (metadata.get("stop_reason"), metadata.get("finish_reason"))
    return any(str(reason).rpartition(".")[2] in _REFUSED for reason in reasons)


def _reasons(content: Any) -> bool:
    return type(content) is list and any(
        type(block) is dict and block.get("type") in _REASONING for block in content
    )


def _refuse_placeholders(messages: list[list[Any]]) -> None:
    for i, (_, fields) in enumerate(messages):
        for key, value in fields.items():
            _refuse_placeholder(value, f"messages[{i}].{key}")


def _refuse_placeholder(value: Any, where: str) -> None:
    if type(value) is dict:
        if "__lc_escaped__" in value and len(value) == 1:
            return  # a dict of the user that looks like a node; see langchain_core.load
        if "lc" in value and value.get("type") == "not_implemented":
            raise Uncacheable("unserializable", where[:200])
        for key, item in value.items():
            _refuse_placeholder(item, f"{where}.{key}")
    elif type(value) is list:
        for i, item in enumerate(value):
            _refuse_placeholder(item, f"{where}[{i}]")


def _split(messages: list[list[Any]], places: list[Any] | None, wide: bool) -> Conversation:
    """Take the text out of the last message if that is a human's; say how it was wrapped."""
    wrapped, prompt = "whole", None
    if messages and messages[-1][0] == "HumanMessage":
        fields = messages[-1][1]
        content = fields["content"]
        if type(content) is str:
            wrapped, prompt = "text", content
        elif type(content) is list and len(content) == 1:
            block = content[0]
            if type(block) is dict and block.keys() == {"type", "text"}:
                text = block["text"]
                if block["type"] == "text" and type(text) is str:
                    wrapped, prompt = "block", text
        if prompt is not None:
            del fields["content"]
    content = [wrapped, messages, places]
    turns = sum(kind == "HumanMessage" for kind, _ in messages)
    context = b"w" + canonical(content) if wide else b"n" + _dumped(content)
    return Conversation(context, prompt, turns)


def _dumped(content: Any) -> bytes:
    try:
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # the only values are JSON's own
        raise Uncacheable("too_deep", "messages") from None


# --- tool-call ids ---------------------------------------------------------------------------


def _declared(messages: list[list[Any]]) -> dict[str, int]:
    """Number the ids of tool calls in the order in which AI messages make the calls."""
    ids: dict[str, int] = {}
    for kind, fields in messages:
        if kind == "AIMessage" and (len(fields) > 1 or type(fields["content"]) is list):
            for _, _, call in _calls(fields):
                for key in ("id", "call_id"):
                    id_ = call.get(key)
                    if type(id_) is str and id_:
                        ids.setdefault(id_, len(ids))
            for id_ in _id_map(fields, _ID_MAPS[0]).values():
                if type(id_) is str and id_:
                    ids.setdefault(id_, len(ids))
    return ids


def _calls(fields: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each call an AI message makes, in each of its spellings, with the place it is at."""
    extra = fields.get("additional_kwargs")
    for where, calls in (
        ("tool_calls", fields.get("tool_calls")),
        ("invalid_tool_calls", fields.get("invalid_tool_calls")),
        ("additional_kwargs", extra.get("tool_calls") if type(extra) is dict else None),
    ):
        if calls and type(calls) is list:
            for at, call in enumerate(calls):
                if type(call) is dict:
                    yield where, at, call
    content = fields["content"]
    if type(content) is list:
        for at, block in enumerate(content):
            if type(block) is dict and type(block.get("type")) is str and block["type"] in _CALLS:
                yield "content", at, block


def _id_map(fields: dict[str, Any], name: str) -> dict[str, Any]:
    extra = fields.get("additional_kwargs")
    found = extra.get(name) if type(extra) is dict else None
    return found if type(found) is dict else {}


def _take_ids(i: int, kind: Any, fields: dict[str, Any], ids: dict[str, int]) -> list[Any]:
    """Take every declared id out of a message and say where it was and which one.

    The numbers stand apart from the messages, so no value of a user can look like one.
    """
    places: list[Any] = []
    if kind == "AIMessage":
        for where, at, call in _calls(fields):
            _take_id(call, "id", where, at, ids, places)
        for name in _ID_MAPS:
            _take_map(_id_map(fields, name), name, ids, places)
    elif kind == "ToolMessage":
        _take_id(fields, "tool_call_id", "message", 0, ids, places)
    if type(kind) is str and type(content := fields["content"]) is list:
        for at, block in enumerate(content):
            if type(block) is dict:
                for key in _REFERENCES:
                    _take_id(block, key, "content", at, ids, places)
    return [i, places] if places else []


def _take_id(
    holder: dict[str, Any], key: str, where: str, at: int, ids: dict[str, int], places: list[Any]
) -> None:
    id_ = holder.get(key)
    if type(id_) is str and id_ in ids:
        del holder[key]
        places.append([where, at, key, ids[id_]])


def _take_map(known: dict[str, Any], name: str, ids: dict[str, int], places: list[Any]) -> None:
    """Take declared ids out of a mapping from ids to other ids or to signatures."""
    taken = []
    for id_, value in list(known.items()):
        if id_ in ids and type(value) is str:
            taken.append([ids[id_], ids.get(value, value) if name == _ID_MAPS[0] else value])
            del known[id_]
    if taken:
        places.append([name, sorted(taken)])


def _mentions(found: Conversation, ids: dict[str, int]) -> bool:
    """Whether an id is part of any text: then ids stay as they are, all of them."""
    context, prompt = found.context, found.prompt or ""
    for id_ in ids:
        # One that is not simple may be spelled with escapes inside a JSON text.
        if not _SIMPLE_ID.fullmatch(id_) or id_.encode() in context or id_ in prompt:
            return True
    return False
