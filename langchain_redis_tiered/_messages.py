"""LangChain's messages as JSON values, and as messages of a session.

Layout: `[class tag, set fields, fields, has an id, [extra fields, set extra fields]]`, the last
only if there are any. Fields at their default are not written. In a session's message, what its
shared part says exactly is not repeated: see `to_core`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.base import TextAccessor
from pydantic import BaseModel

from langchain_redis_tiered._documents import KINDS, READERS, DocumentWriter
from langchain_redis_tiered._shapes import BY_CLASS, MESSAGES, Shape, is_text_or_none
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.sessions.message import Message, ToolCall
from redis_tiered.values import MALFORMED, CarefulWriter, Refused, copied, is_json, loaded, readable

__all__ = ["FORMAT", "MessageWriter", "from_core", "message_from", "to_core"]

FORMAT: Final = "langchain"

_ABSENT: Final = object()
_CALL: Final = ("name", "args", "id", "type")
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "human": "human",
    "user": "human",
    "ai": "ai",
    "assistant": "ai",
    "tool": "tool",
    "function": "tool",
}
_MEDIA: Final = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "document": "document",
    "file": "document",
    "input_file": "document",
    "text-plain": "document",
}


# --- a message of a session ------------------------------------------------------------------


def to_core(message: BaseMessage, where: str) -> Message:
    """A message of a session, from which `from_core` makes an equal one of the same class.

    Args:
        message: of one of LangChain's own classes. Without an id it reads back without one.
        where: what errors call it.

    Raises:
        InvalidInput: a subclass, a `RemoveMessage`, or a value that would come back changed; with
            its path.
    """
    shape = BY_CLASS.get(type(message))
    if shape is None or shape.tag not in MESSAGES:
        raise InvalidInput(
            f"{where} must be one of LangChain's own "
            f"{', '.join(sorted(shape.cls.__name__ for shape in MESSAGES.values()))}; "
            f"got {type(message).__name__}"
        )
    writer = MessageWriter()
    try:
        written = writer.message(message)
        role, text, name, calls, call_id = _shared(shape, written[2], message)
        if message.id == "":
            written[3] = ""
        native = writer.dumped(written, lambda: _CarefulWriter().message(message))
    except Refused as refused:
        raise refused.invalid(where, KINDS) from None
    thinking, media = _attached(message)
    return Message(
        role,
        text,
        message.id or "",
        name,
        calls,
        call_id,
        thinking,
        media,
        FORMAT,
        native,
    )


def from_core(message: Message) -> BaseMessage:
    """The message that `to_core` was given; of another framework's, LangChain's nearest.

    Raises:
        Unreadable: not what `to_core` writes, or written by a newer version.
    """
    try:
        return _restored(message) if message.format == FORMAT else _built(message)
    except MALFORMED:
        raise Unreadable("corrupt") from None


def _shared(
    shape: Shape, fields: dict[str, Any], message: BaseMessage
) -> tuple[str, str, str | None, tuple[ToolCall, ...], str | None]:
    """The shared part; takes from `fields` what it says exactly."""
    content = fields["content"]
    text = fields.pop("content") if type(content) is str else str(message.text)
    role = shape.tag.removesuffix("+")
    if role == "chat":
        role = getattr(message, "role", "")
    role = _ROLES.get(role, "other")
    name = message.name
    if role == "other" and name is None:
        name = getattr(message, "role", "")
        fields["name"] = None
    else:
        fields.pop("name", None)
    calls: tuple[ToolCall, ...] = ()
    exact = True
    if "tool_calls" in shape.fields:
        calls, exact = _calls(getattr(message, "tool_calls", []))
    if exact:
        fields.pop("tool_calls", None)
    return role, text, name, calls, fields.pop("tool_call_id", None)


def _calls(given: list[Any]) -> tuple[tuple[ToolCall, ...], bool]:
    """And whether they tell all there is to tell."""
    calls, exact = [], True
    for call in given:
        arguments = readable(call["args"])
        if tuple(call) != _CALL or not is_json(call["args"]):
            exact = False
        calls.append(ToolCall(call["id"], call["name"], arguments))
    return tuple(calls), exact


def _attached(message: BaseMessage) -> tuple[str, tuple[str, ...]]:
    """The reasoning and the kinds of media, as far as they can be told from the content."""
    thoughts, media = [], []
    if type(message.content) is list:
        for block in message.content:
            if type(block) is not dict:
                continue
            kind = block.get("type")
            if type(kind) is not str:
                continue
            if kind in _MEDIA:
                media.append(_MEDIA[kind])
            elif kind in ("thinking", "reasoning"):
                thoughts += _thoughts(block, kind)
    if type(known := message.additional_kwargs.get("reasoning_content")) is str:
        thoughts.append(known)  # where Ollama, DeepSeek and xAI have it
    return "\n".join(thoughts), tuple(media)


def _thoughts(block: dict[Any, Any], kind: str) -> list[str]:
    if type(text := block.get(kind)) is str:
        return [text]
    found = []
    for name in ("summary", "content"):  # of OpenAI's Responses API
        if type(parts := block.get(name)) is list:
            texts = [part.get("text") for part in parts if type(part) is dict]
            found += [text for text in texts if type(text) is str]
    return found


def _restored(message: Message) -> BaseMessage:
    content = loaded(message.native, READERS)
    tag, _, fields, identified, *_ = content
    shape = MESSAGES[tag]
    if type(fields) is not dict:
        raise Unreadable("shape")
    if "content" not in fields:
        fields["content"] = message.text
    if "name" not in fields:
        fields["name"] = message.name
    if "tool_call_id" in shape.fields and "tool_call_id" not in fields:
        fields["tool_call_id"] = message.tool_call_id
    if "tool_calls" in shape.fields and "tool_calls" not in fields:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    id_ = message.id
    if type(identified) is str and not identified:
        id_, content[3] = "", True
    return message_from(content, lambda: id_)  # type: ignore[no-any-return]


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "name": call.name,
        "args": copied(call.arguments),
        "id": call.id,
        "type": "tool_call",
    }


def _built(message: Message) -> BaseMessage:
    known: dict[str, Any] = {"content": message.text}
    if message.name is not None:
        known["name"] = message.name
    if message.id:
        known["id"] = message.id
    if message.role == "ai":
        calls = [_call(call) for call in message.tool_calls]
        usable = [call for call in calls if type(call["args"]) is dict]
        if usable:
            known["tool_calls"] = usable
        if len(usable) < len(calls):
            known["invalid_tool_calls"] = [
                call | {"type": "invalid_tool_call", "error": None}
                for call in calls
                if type(call["args"]) is not dict
            ]
        return AIMessage(**known)
    if message.role == "human":
        return HumanMessage(**known)
    if message.role == "system":
        return SystemMessage(**known)
    if message.role == "tool":
        return ToolMessage(**known, tool_call_id=message.tool_call_id or "")
    if message.role == "other":
        return ChatMessage(**known, role=message.name or "other")
    raise Unreadable("role")


# --- messages as JSON values -----------------------------------------------------------------


def message_from(written: Any, identify: Callable[[], str]) -> Any:
    """Read what `MessageWriter.message` wrote.

    Args:
        written: not yet checked.
        identify: makes the id, if there was one.

    Raises:
        Unreadable: of a wrong shape; or it is one of `MALFORMED`.
    """
    tag, names, fields, identified, *rest = written
    shape = MESSAGES[tag]
    if type(identified) is not bool:
        raise Unreadable("shape")
    own = {"id": identify()} if identified else {}
    if not rest:
        return shape.build(fields, shape.set_fields(names), {}, own)
    [(extra, named)] = rest
    if type(extra) is not dict or not shape.names.isdisjoint(extra):
        raise Unreadable("shape")
    if type(named) is not list or not extra.keys() >= set(named):
        raise Unreadable("fields")
    if any(type(name) is not str for name in extra):
        raise Unreadable("type")
    return shape.build(fields, shape.set_fields(names) | set(named), extra, own)


class MessageWriter(DocumentWriter):
    """Turns messages into JSON's own types and refuses what would not come back the same."""

    def message(self, message: Any) -> list[Any]:
        """As `message_from` reads it.

        Raises:
            Refused: a class or a value that would not come back the same.
        """
        shape = self.shape(message, MESSAGES)
        state = message.__dict__
        id_ = state.get("id")
        if not is_text_or_none(id_):
            raise Refused(type(id_).__name__, ".id", "a str or None")
        written = [
            shape.tag,
            self.set_fields(message, shape),
            self.fields(shape, state),
            id_ is not None,
        ]
        if extra := message.__pydantic_extra__:
            named = sorted(message.__pydantic_fields_set__ & extra.keys())
            if any(type(name) is not str for name in extra):
                raise Refused("fields", accepted="as its constructor makes it")
            try:
                written.append([self.value(extra), named])
            except Refused as refused:
                refused.path = f".model_extra{refused.path}"
                raise
        return written

    def shape(self, value: Any, shapes: dict[str, Shape]) -> Shape:
        """The shape of an object, which must be as its constructor makes it."""
        # Exact classes: a subclass may carry more than its fields say.
        shape = BY_CLASS.get(type(value))
        if shape is None or shape.tag not in shapes:
            raise Refused(type(value).__name__)
        state = value.__dict__
        if (
            state.get("type") != shape.type
            or value.__pydantic_private__ is not None
            or state.keys() != shape.empty.keys()
        ):
            raise Refused("not as constructed", accepted="as its constructor makes it")
        return shape

    def set_fields(self, value: BaseModel, shape: Shape) -> str:
        """The `model_fields_set` in one word for `Shape.set_fields`."""
        names = value.__pydantic_fields_set__ & shape.names
        if not names | (value.__pydantic_extra__ or {}).keys() >= value.__pydantic_fields_set__:
            raise Refused("fields", accepted="as its constructor makes it")
        return " ".join(sorted(names))

    def fields(self, shape: Shape, state: dict[str, Any]) -> dict[str, Any]:
        """What is not at its default."""
        fields = {}
        for name, check in shape.fields.items():
            value = state[name]
            default = shape.defaults.get(name, _ABSENT)
            if type(value) is type(default) and value == default:
                continue
            try:
                if name == "additional_kwargs" and type(value) is dict and "parsed" in value:
                    value = value | {"parsed": _parsed(value["parsed"])}
                if name == "content" and type(value) is TextAccessor:  # `m.content = other.text`
                    value = str.__str__(value)
                if not _passes(check, value):
                    raise Refused(type(value).__name__, "", "as its constructor makes it")
                fields[name] = self.value(value)
            except Refused as refused:
                refused.path = f".{name}{refused.path}"
                raise
        return fields


class _CarefulWriter(CarefulWriter, MessageWriter):
    pass


def _passes(check: Callable[[Any], bool], value: Any) -> bool:
    try:
        return check(value)
    except LookupError:
        return False


def _parsed(value: Any) -> Any:
    """A structured output as the dict that LangChain's own parser reads as well.

    `_oai_structured_outputs_parser` (langchain-openai) calls `schema(**parsed)` for a dict.
    """
    if not isinstance(value, BaseModel):
        return value
    try:
        dump = value.model_dump(mode="json", by_alias=True, warnings=False)
        same = type(value).model_validate(dump) == value
    except Exception:  # whatever a model's own serializers and validators raise
        same = False
    if not same:
        raise Refused(type(value).__name__, ".parsed")
    return dump
