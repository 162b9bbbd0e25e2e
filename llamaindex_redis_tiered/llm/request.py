"""A call of a LlamaIndex model as a canonical request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from llamaindex_redis_tiered._blocks import settled
from llamaindex_redis_tiered.llm.models import Model, model_of
from llamaindex_redis_tiered.llm.parameters import parameters_of, shaped_by
from llamaindex_redis_tiered.llm.plain import plain
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import Request, Traits, canonical
from redis_tiered.values import Refused

__all__ = ["MARK", "request_from"]

# Where an answer tells that it was stored for other words.
MARK: Final = "redis_tiered"

_TOOL_ROLES: Final = (MessageRole.TOOL, MessageRole.FUNCTION)
_ID_KEYS: Final = ("tool_call_id", "call_id")
# Stands for the prompt while a model's own function shapes it.
_STAND_IN: Final = "\ue000redis-tiered\ue001"


def request_from(
    llm: BaseLLM,
    endpoint: str,
    given: Sequence[ChatMessage] | str,
    arguments: Mapping[str, Any],
    *,
    formatted: bool = False,
    read: Callable[[BaseLLM], Model] = model_of,
) -> Request:
    """What a provider would be asked.

    Left out: who asks and how the provider is reached, random ids of tool calls. Whether the answer
    is wanted in pieces does not matter either.

    Args:
        llm: that would be called.
        endpoint: "chat" or "complete".
        given: messages of a chat, or the prompt.
        arguments: of the call.
        formatted: as `LLM.complete` takes it.
        read: reads the model.

    Raises:
        Uncacheable: it cannot be said what the provider would see.
    """
    parameters = parameters_of(read(llm), f"{endpoint}:{formatted}", arguments)
    if endpoint == "chat":
        if isinstance(given, str) or not all(isinstance(each, ChatMessage) for each in given):
            raise Uncacheable("unresolved_parameter", "messages")
        messages = list(given)
        context, prompt = _Conversation(messages).split()
        turns = sum(message.role == MessageRole.USER for message in messages)
        tools = parameters.tools or _uses_tools(messages)
    else:
        if not isinstance(given, str):
            raise Uncacheable("unresolved_parameter", "prompt")
        context, prompt, turns, tools = b"", str.__str__(given), 1, parameters.tools
    shaped = _shape(llm, endpoint, given, formatted, prompt)
    if shaped is not None:
        text, whole = shaped
        # The prompt as well: a model may not use its function at every endpoint.
        context = canonical([context, text, prompt if whole else None])
        if whole:
            prompt = None
    traits = Traits(max(1, turns), parameters.temperature, tools)
    return Request(parameters.content, context, prompt, traits)


def _shape(
    llm: BaseLLM, endpoint: str, given: Any, formatted: bool, prompt: str | None
) -> tuple[str, bool] | None:
    """What the model's own function makes of the request, and whether that holds the prompt.

    Without the prompt if it is a template, into which another prompt would go unchanged as well.
    """
    function = shaped_by(llm, endpoint, formatted)
    if function is None:
        return None
    text = _shaped(function, given)
    if prompt is None or _STAND_IN in text:
        return text, True
    if endpoint == "chat":
        last = ChatMessage(role=MessageRole.USER, content=_STAND_IN)
        template = _shaped(function, [*given[:-1], last])
    else:
        template = _shaped(function, _STAND_IN)
    if template.count(_STAND_IN) == 1 and template.replace(_STAND_IN, prompt) == text:
        return template, False
    return text, True


def _shaped(function: Any, given: Any) -> str:
    text = function(list(given) if not isinstance(given, str) else given)
    if not isinstance(text, str):
        raise Uncacheable("unresolved_parameter", "the prompt that a model's function makes")
    return text


def _uses_tools(messages: list[ChatMessage]) -> bool:
    """Whether an answer hangs on tools: it has called some, or is told of them in words (ReAct)."""
    if any(message.role in _TOOL_ROLES or _calls(message) for message in messages):
        return True
    told = messages[0].content if messages and messages[0].role != MessageRole.USER else None
    last = messages[-1].content if messages else None
    return bool((told and "Action Input:" in told) or (last and last.startswith("Observation:")))


def _calls(message: ChatMessage) -> bool:
    return "tool_calls" in message.additional_kwargs or any(
        isinstance(block, ToolCallBlock) for block in message.blocks
    )


class _Conversation:
    """One pass over the messages of one request."""

    def __init__(self, messages: list[ChatMessage]) -> None:
        self.messages = messages
        self.plain = [_message(message, i) for i, message in enumerate(messages)]

    def split(self) -> tuple[bytes, str | None]:
        """Canonical bytes of all but the last turn's text, and that text if it is all of the turn."""
        ids = self._declared()
        if ids:
            self._in_order(ids)
            places = [[i, *_take_ids(message, ids)] for i, message in enumerate(self.plain)]
            context, prompt = self._split(places)
            if not any(_mentions(context, prompt, id_) for id_ in ids):
                return context, prompt
            # The model may see which call a text means: two ids swapped are another question.
            self.plain = [_message(message, i) for i, message in enumerate(self.messages)]
        return self._split(None)

    def _split(self, places: list[Any] | None) -> tuple[bytes, str | None]:
        prompt = None
        messages: list[Any] = list(self.plain)
        last = self.messages[-1] if self.messages else None
        if (
            last is not None
            and last.role == MessageRole.USER
            and not messages[-1]["kwargs"]
            and len(last.blocks) == 1
            and type(last.blocks[0]) is TextBlock
        ):
            prompt = str.__str__(last.blocks[0].text)
            messages[-1] = {"role": "user"}
        return canonical([messages, places]), prompt

    def _in_order(self, ids: Mapping[str, int]) -> None:
        """Put the results of calls that were made at once in the order of the calls.

        Each says by its id what it is the result of. Agents of LlamaIndex send them as they came, so
        the same conversation would be another one in each run.
        """
        start = 0
        while start < len(self.plain):
            end = start
            while end < len(self.plain) and self.plain[end]["role"] in ("tool", "function"):
                end += 1
            found = [self.plain[i]["kwargs"].get("tool_call_id") for i in range(start, end)]
            if len(found) > 1 and len({*found}) == len(found) and all(id_ in ids for id_ in found):
                self.plain[start:end] = sorted(
                    self.plain[start:end], key=lambda each: ids[each["kwargs"]["tool_call_id"]]
                )
            start = end + 1

    def _declared(self) -> dict[str, int]:
        """The ids of tool calls, numbered in the order in which the calls are made."""
        ids: dict[str, int] = {}
        for message in self.plain:
            for call in _called(message):
                for key in ("id", *_ID_KEYS):
                    id_ = call.get(key)
                    if type(id_) is str and id_:
                        ids.setdefault(id_, len(ids))
        return ids


def _message(message: ChatMessage, i: int) -> dict[str, Any]:
    where = f"messages[{i}]"
    kwargs = {key: item for key, item in message.additional_kwargs.items() if key != MARK}
    blocks = [_block(block, f"{where}.blocks[{at}]") for at, block in enumerate(message.blocks)]
    return {
        "role": str(MessageRole(message.role).value),
        "blocks": blocks,
        "kwargs": _values(kwargs, f"{where}.additional_kwargs"),
    }


def _block(block: Any, where: str) -> dict[str, Any]:
    if type(block) is TextBlock:
        return {"type": "text", "text": str.__str__(block.text)}
    if not isinstance(block, BaseModel):
        raise Uncacheable("unresolved_parameter", f"{where}: {type(block).__name__}")
    try:
        block = settled(block)
    except Refused:
        pass  # a block of the user's own, by its fields
    fields: dict[str, Any] = {}
    for name, value in {**block.__dict__, **(block.__pydantic_extra__ or {})}.items():
        if name == "path" and value is not None:
            fields[name] = _file(value, f"{where}.path")
        elif isinstance(value, BaseModel) and hasattr(value, "block_type"):
            fields[name] = _block(value, f"{where}.{name}")
        elif isinstance(value, list) and all(hasattr(item, "block_type") for item in value):
            fields[name] = [_block(item, f"{where}.{name}") for item in value]
        elif hasattr(value, "unicode_string"):
            fields[name] = str(value)
        else:
            fields[name] = _values(value, f"{where}.{name}")
    return {"type": type(block).__name__, **fields}


def _file(path: Any, where: str) -> list[str]:
    """A file by what is in it: the provider is sent that."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError, TypeError):
        raise Uncacheable("unreadable_file", where) from None
    return [Path(path).suffix, _hashed(data)]


def _hashed(data: bytes | bytearray) -> str:
    return f"{len(data)}:{blake2b(data, digest_size=16).hexdigest()}"


def _values(value: Any, where: str) -> Any:
    """As `plain`, of a conversation: nothing in it is a credential."""
    if isinstance(value, bytes | bytearray):
        return {"\0hash": _hashed(value)}
    if isinstance(value, dict):
        if any(isinstance(key, str) and key.startswith("\0") for key in value):
            raise Uncacheable("unresolved_parameter", f"{where[:150]}: a key that begins with NUL")
        return {key: _values(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_values(item, where) for item in value]
    if isinstance(value, BaseModel):
        # A tool call of OpenAI's says the same as the dict that a store made of it.
        return _values({**value.__dict__, **(value.__pydantic_extra__ or {})}, where)
    if isinstance(value, str):
        return str.__str__(value)
    return plain(value, where, shown=True)


# --- tool-call ids ---------------------------------------------------------------------------


def _called(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every tool call of a message, in each of its spellings."""
    if message["role"] in ("tool", "function", "user", "system"):
        return
    for block in message["blocks"]:
        if block["type"] == "ToolCallBlock":
            yield block
    calls = message["kwargs"].get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, dict):
                yield call


def _take_ids(message: dict[str, Any], ids: Mapping[str, int]) -> list[Any]:
    """Take every declared id out of a message and say which one it was.

    The numbers stand apart from the messages, so no value of a user can look like one.
    """
    taken: list[Any] = []
    for at, call in enumerate(_called(message)):
        for key in ("id", *_ID_KEYS):
            _take(call, key, at, ids, taken)
    for key in _ID_KEYS:
        _take(message["kwargs"], key, -1, ids, taken)
    return taken


def _take(
    holder: dict[str, Any], key: str, at: int, ids: Mapping[str, int], taken: list[Any]
) -> None:
    id_ = holder.get(key)
    if type(id_) is str and id_ in ids:
        del holder[key]
        taken.append([at, key, ids[id_]])


def _mentions(context: bytes, prompt: str | None, id_: str) -> bool:
    """Whether a text speaks of a call: then ids stay as they are, all of them."""
    plainly = id_.isascii() and id_.isprintable() and '"' not in id_ and "\\" not in id_
    return not plainly or id_.encode() in context or (prompt is not None and id_ in prompt)
