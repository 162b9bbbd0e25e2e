"""What LangChain's messages and generations are made of: their classes, tags and fields."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from pydantic import BaseModel

from redis_tiered.errors import Unreadable

__all__ = ["BY_CLASS", "GENERATIONS", "MESSAGES", "Shape", "assembled", "is_text_or_none"]

# The slots of a model, set as pydantic's `model_construct` does, but without finding each by name.
_new = object.__new__
_set_state = BaseModel.__dict__["__dict__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__
_set_names = BaseModel.__dict__["__pydantic_fields_set__"].__set__


def assembled(
    cls: type[Any], state: dict[str, Any], extra: dict[str, Any] | None, names: set[str]
) -> Any:
    """An instance with this `__dict__`, `__pydantic_extra__` and `model_fields_set`."""
    made = _new(cls)
    _set_state(made, state)
    _set_extra(made, extra)
    _set_private(made, None)
    _set_names(made, names)
    return made


# --- what each field may hold ----------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return type(value) is str


def is_text_or_none(value: Any) -> bool:
    return value is None or type(value) is str


def _is_dict(value: Any) -> bool:
    return type(value) is dict


def _is_dict_or_none(value: Any) -> bool:
    return value is None or type(value) is dict


def _is_content(value: Any) -> bool:
    if type(value) is str:
        return True
    return type(value) is list and all(type(item) is str or type(item) is dict for item in value)


def _is_anything(value: Any) -> bool:
    return True


def _is_usage(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not dict:
        return False
    if value.keys() == {"total_cost"}:  # what LangChain makes of a hit that had no usage
        return True
    for key in ("input_tokens", "output_tokens", "total_tokens"):
        if type(value.get(key)) is not int:
            return False
    for key in ("input_token_details", "output_token_details"):
        if key in value and not _is_token_details(value[key]):
            return False
    return True


def _is_token_details(value: Any) -> bool:
    return type(value) is dict and all(
        type(value[key]) is int
        for key in ("audio", "cache_creation", "cache_read", "reasoning")
        if key in value
    )


def _calls_of(type_: str, args: Callable[[Any], bool], name: Callable[[Any], bool]) -> Any:
    def are_calls(value: Any) -> bool:
        return type(value) is list and all(
            type(call) is dict
            and name(call["name"])
            and args(call["args"])
            and is_text_or_none(call["id"])
            and call.get("type", type_) == type_
            for call in value
        )

    return are_calls


def _is_position(value: Any) -> bool:
    return value is None or value == "last"


def _is_status(value: Any) -> bool:
    return value in ("success", "error")


_MESSAGE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "content": _is_content,
    "additional_kwargs": _is_dict,
    "response_metadata": _is_dict,
    "name": is_text_or_none,
    "tool_calls": _calls_of("tool_call", _is_dict, _is_text),
    "invalid_tool_calls": _calls_of("invalid_tool_call", is_text_or_none, is_text_or_none),
    "tool_call_chunks": _calls_of("tool_call_chunk", is_text_or_none, is_text_or_none),
    "usage_metadata": _is_usage,
    "chunk_position": _is_position,
    "tool_call_id": _is_text,
    "artifact": _is_anything,
    "status": _is_status,
    "role": _is_text,
}
# A FunctionMessage is never without a name.
_FUNCTION_FIELDS = _MESSAGE_FIELDS | {"name": _is_text}


# --- the classes -----------------------------------------------------------------------------


class Shape:
    """How this version of langchain-core lays out one class, learned from an instance of it.

    Attributes:
        fields: name of each field that is written, and what it may hold.
        empty: `__dict__` of an instance with nothing set, in the order pydantic keeps.
        fast: whether every field is one this file knows, so that filling `__dict__` gives what
            the constructor would. A newer core may add a field; its constructor is then used.
    """

    def __init__(
        self,
        tag: str,
        cls: type[Any],
        sample: BaseModel,
        checks: dict[str, Callable[[Any], bool]],
        unwritten: frozenset[str],
    ) -> None:
        self.tag = tag
        self.cls = cls
        self.type = sample.__dict__["type"]
        names = list(sample.__dict__)
        self.fields = {
            name: checks.get(name, _is_anything) for name in names if name not in unwritten
        }
        self.required = frozenset(
            name
            for name, field in cls.model_fields.items()
            if name in self.fields and field.is_required()
        )
        self.fast = (
            set(names) == set(cls.model_fields)
            and all(name in checks or name in unwritten for name in names)
            and sample.__pydantic_private__ is None
        )
        self.empty = dict(sample.__dict__)
        self.defaults = {
            name: value for name, value in self.empty.items() if name not in self.required
        }
        self.lists = tuple(name for name in names if type(self.empty[name]) is list)
        self.dicts = tuple(name for name in names if type(self.empty[name]) is dict)
        self.names = frozenset(cls.model_fields)
        self.holds_message = "message" in self.names
        self.named = "id" in self.names
        self.sets: dict[str, frozenset[str]] = {}

    def set_fields(self, written: Any) -> set[str]:
        """The `model_fields_set` that was written: names joined by spaces."""
        known = self.sets.get(written)
        if known is None:
            known = frozenset(written.split())
            if not known <= self.names:
                raise Unreadable("fields")
            if len(self.sets) < 256 and len(written) < 1024:  # foreign bytes must not pile up
                self.sets[written] = known
        return set(known)

    def build(
        self, fields: Any, names: set[str], extra: dict[str, Any] | None, own: dict[str, Any]
    ) -> Any:
        """An instance with these fields; not by its constructor, which takes twice as long.

        Args:
            fields: what was written, not yet checked.
            names: the `model_fields_set`.
            extra: the `__pydantic_extra__`.
            own: fields that are not written but made here; right by construction.
        """
        if type(fields) is not dict or not self.required <= fields.keys():
            raise Unreadable("fields")
        checks = self.fields
        for name in fields:
            if not checks[name](fields[name]):
                raise Unreadable("type")
        if self.fast:
            state = {**self.empty, **fields, **own}
            for name in self.lists:
                if name not in fields:
                    state[name] = []
            for name in self.dicts:
                if name not in fields:
                    state[name] = {}
            return assembled(self.cls, state, extra, names)
        made = self.cls(**fields, **own, **(extra or {}))
        made.__dict__.update(fields, **own)  # as stored, whatever validators made of it
        _set_names(made, names)
        return made


def _message_shapes() -> list[Shape]:
    classes: list[tuple[str, type[BaseMessage], dict[str, Any]]] = [
        ("ai", AIMessage, {}),
        ("ai+", AIMessageChunk, {}),
        ("human", HumanMessage, {}),
        ("human+", HumanMessageChunk, {}),
        ("system", SystemMessage, {}),
        ("system+", SystemMessageChunk, {}),
        ("tool", ToolMessage, {"tool_call_id": ""}),
        ("tool+", ToolMessageChunk, {"tool_call_id": ""}),
        ("function", FunctionMessage, {"name": ""}),
        ("function+", FunctionMessageChunk, {"name": ""}),
        ("chat", ChatMessage, {"role": ""}),
        ("chat+", ChatMessageChunk, {"role": ""}),
    ]
    return [
        Shape(
            tag,
            cls,
            cls(content="", **required),
            _FUNCTION_FIELDS if tag.startswith("function") else _MESSAGE_FIELDS,
            frozenset({"type", "id"}),
        )
        for tag, cls, required in classes
    ]


def _generation_shapes() -> list[Shape]:
    checks: dict[str, Callable[[Any], bool]] = {
        "text": _is_text,
        "generation_info": _is_dict_or_none,
    }
    chat = frozenset({"type", "text", "message"})
    return [
        Shape("g", Generation, Generation(text=""), checks, frozenset({"type"})),
        Shape("g+", GenerationChunk, GenerationChunk(text=""), checks, frozenset({"type"})),
        Shape("c", ChatGeneration, ChatGeneration(message=AIMessage("")), checks, chat),
        Shape(
            "c+",
            ChatGenerationChunk,
            ChatGenerationChunk(message=AIMessageChunk(content="")),
            checks,
            chat,
        ),
    ]


MESSAGES: Final = {shape.tag: shape for shape in _message_shapes()}
GENERATIONS: Final = {shape.tag: shape for shape in _generation_shapes()}
BY_CLASS: Final = {
    shape.cls: shape for shape in itertools.chain(MESSAGES.values(), GENERATIONS.values())
}
