"""LangChain's generations as bytes, and back.

Layout: one format byte, then JSON: a list of generations, each a list of
`[class tag, set fields, fields, message]`; a message is `[class tag, set fields, fields, extra
fields]`. Fields at their default are not written. Nothing in the bytes names code: a tag is
looked up in a table here.
"""

from __future__ import annotations

import itertools
import math
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
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
from langchain_core.messages.base import TextAccessor
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from pydantic import BaseModel

from langchain_redis_tiered._memo import Memo
from redis_tiered.errors import Uncacheable, Unreadable

__all__ = ["decode", "encode", "recall"]

_PLAIN: Final = 1  # JSON as it is
_TAGGED: Final = 2  # some keys are escaped, some values are bytes
_BYTES: Final = "\0bytes"
_MAX_DEPTH: Final = 100
_ABSENT: Final = object()

# The slots of a model, set as pydantic's `model_construct` does, but without finding each by name.
_new = object.__new__
_set_state = BaseModel.__dict__["__dict__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__
_set_names = BaseModel.__dict__["__pydantic_fields_set__"].__set__


def encode(generations: Sequence[Generation]) -> bytes:
    """Serialize an answer, if `decode` will give back just what went in.

    Every message gets a fresh id when it is read: LangGraph's `add_messages` would replace the
    first answer by a second one of the same id.

    Raises:
        Uncacheable: `unserializable_answer`, with the path of a value that would come back
            changed: a tuple, a datetime, NaN, a subclass of a message.
    """
    writer = _Writer()
    content = [writer.generation(item, f"[{i}]") for i, item in enumerate(generations)]
    try:
        data = orjson.dumps(content)
    except orjson.JSONEncodeError as error:  # a lone surrogate
        raise Uncacheable("unserializable_answer", str(error)) from None
    return bytes((_TAGGED if writer.tagged else _PLAIN,)) + data


def decode(payload: bytes) -> list[Generation]:
    """Read an answer; every call returns new objects, since LangChain changes hits in place.

    Raises:
        Unreadable: the bytes are not what `encode` writes.
    """
    try:
        if payload[0] == _PLAIN:
            content = orjson.loads(memoryview(payload)[1:])
        elif payload[0] == _TAGGED:
            content = _untagged(orjson.loads(memoryview(payload)[1:]))
        else:
            raise Unreadable("format")
        if type(content) is not list:
            raise Unreadable("shape")
        return [_generation(item) for item in content]
    # What unpacking, lookups and pydantic (ValidationError is a ValueError) say of a wrong shape.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise Unreadable("corrupt") from None


def recall(payload: bytes, *, keep: bool = True) -> list[Generation]:
    """As `decode`, at a third of its cost for an answer that was kept before.

    What was read is kept as a mould: classes, fields, and copies of all that LangChain may change.

    Args:
        payload: what `encode` wrote.
        keep: make a mould if there is none.

    Raises:
        Unreadable: as `decode`.
    """
    moulds = _moulds.get(payload)
    if moulds is not None:
        return [mould.cast() for mould in moulds]
    generations = decode(payload)
    if keep:
        made = tuple(_Mould.of(generation) for generation in generations)
        whole = tuple(mould for mould in made if mould is not None)
        if len(whole) == len(made):
            _moulds.put(payload, whole)
    return generations


class _Mould:
    """Makes objects equal to the one it was made of, that share nothing which can change."""

    __slots__ = ("_changing", "_cls", "_extra", "_message", "_named", "_names", "_state")

    _cls: type[Any]
    _state: dict[str, Any]
    _changing: tuple[str, ...]
    _message: _Mould | None
    _named: bool
    _names: frozenset[str]
    _extra: Any

    @classmethod
    def of(cls, original: Any) -> _Mould | None:
        """None if this version of langchain-core lays the class out in a way not known here."""
        shape = _BY_CLASS.get(type(original))
        if shape is None or not shape.fast:
            return None
        mould = cls()
        state = dict(original.__dict__)
        message = state.pop("message", None)
        mould._message = None if message is None else cls.of(message)
        if message is not None and mould._message is None:
            return None
        mould._named = shape.named and state.pop("id") is not None
        mould._cls = type(original)
        mould._changing = tuple(
            name for name, value in state.items() if type(value) in (dict, list)
        )
        mould._state = {name: _copy(value) for name, value in original.__dict__.items()}
        if message is not None:
            mould._state["message"] = None
        mould._names = frozenset(original.__pydantic_fields_set__)
        mould._extra = _copy(original.__pydantic_extra__)
        return mould

    def cast(self) -> Any:
        state = self._state.copy()
        for name in self._changing:
            state[name] = _copy(state[name])
        if self._message is not None:
            state["message"] = self._message.cast()
        if self._named:
            state["id"] = _ids.fresh()
        made = _new(self._cls)
        _set_state(made, state)
        _set_extra(made, _copy(self._extra))
        _set_private(made, None)
        _set_names(made, set(self._names))
        return made


def _copy(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()} if value else {}
    if kind is list:
        return [_copy(item) for item in value] if value else []
    return value


_moulds: Memo[bytes, tuple[_Mould, ...]] = Memo(
    entries=1024, weight=16 << 20, weigh=lambda payload, moulds: 4 * len(payload)
)


# --- fresh ids -------------------------------------------------------------------------------


class _Ids:
    """Unique message ids: random per process, counted within it. LangChain's prefix for its own."""

    def __init__(self) -> None:
        self.reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self._prefix = f"lc_run--{os.urandom(12).hex()}-"
        self._count = itertools.count()

    def fresh(self) -> str:
        return f"{self._prefix}{next(self._count):x}"


_ids = _Ids()


# --- what each field may hold ----------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_text_or_none(value: Any) -> bool:
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
            and _is_text_or_none(call["id"])
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
    "name": _is_text_or_none,
    "tool_calls": _calls_of("tool_call", _is_dict, _is_text),
    "invalid_tool_calls": _calls_of("invalid_tool_call", _is_text_or_none, _is_text_or_none),
    "tool_call_chunks": _calls_of("tool_call_chunk", _is_text_or_none, _is_text_or_none),
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


class _Shape:
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
            made = _new(self.cls)
            _set_state(made, state)
            _set_extra(made, extra)
            _set_private(made, None)
        else:
            made = self.cls(**fields, **own, **(extra or {}))
            made.__dict__.update(fields, **own)  # as stored, whatever validators made of it
        _set_names(made, names)
        return made


def _message_shapes() -> list[_Shape]:
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
        _Shape(
            tag,
            cls,
            cls(content="", **required),
            _FUNCTION_FIELDS if tag.startswith("function") else _MESSAGE_FIELDS,
            frozenset({"type", "id"}),
        )
        for tag, cls, required in classes
    ]


def _generation_shapes() -> list[_Shape]:
    checks: dict[str, Callable[[Any], bool]] = {
        "text": _is_text,
        "generation_info": _is_dict_or_none,
    }
    chat = frozenset({"type", "text", "message"})
    return [
        _Shape("g", Generation, Generation(text=""), checks, frozenset({"type"})),
        _Shape("g+", GenerationChunk, GenerationChunk(text=""), checks, frozenset({"type"})),
        _Shape("c", ChatGeneration, ChatGeneration(message=AIMessage("")), checks, chat),
        _Shape(
            "c+",
            ChatGenerationChunk,
            ChatGenerationChunk(message=AIMessageChunk(content="")),
            checks,
            chat,
        ),
    ]


_MESSAGES: Final = {shape.tag: shape for shape in _message_shapes()}
_GENERATIONS: Final = {shape.tag: shape for shape in _generation_shapes()}
_BY_CLASS: Final = {
    shape.cls: shape for shape in itertools.chain(_MESSAGES.values(), _GENERATIONS.values())
}


# --- reading ---------------------------------------------------------------------------------


def _generation(written: Any) -> Generation:
    shape = _GENERATIONS[written[0]]
    if not shape.holds_message:
        _, names, fields = written
        return shape.build(fields, shape.set_fields(names), None, {})  # type: ignore[no-any-return]
    _, names, fields, message, text = written
    built = _message(message)
    if shape.tag == "c+" and not isinstance(built, BaseMessageChunk):
        raise Unreadable("shape")
    # The validator of ChatGeneration makes `text` a TextAccessor; None says it is the content.
    if text is None:
        text = built.content
    if type(text) is str:
        text = TextAccessor(text)
    else:
        [text] = text
        if type(text) is not str:
            raise Unreadable("type")
    own = {"text": text, "message": built}
    return shape.build(fields, shape.set_fields(names), None, own)  # type: ignore[no-any-return]


def _message(written: Any) -> Any:
    tag, names, fields, identified, *rest = written
    shape = _MESSAGES[tag]
    if type(identified) is not bool:
        raise Unreadable("shape")
    own = {"id": _ids.fresh()} if identified else {}
    if not rest:
        return shape.build(fields, shape.set_fields(names), {}, own)
    [(extra, named)] = rest
    if type(extra) is not dict or not shape.names.isdisjoint(extra):
        raise Unreadable("shape")
    if type(named) is not list or not extra.keys() >= set(named):
        raise Unreadable("fields")
    return shape.build(fields, shape.set_fields(names) | set(named), extra, own)


def _untagged(value: Any) -> Any:
    if type(value) is list:
        return [_untagged(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1 and _BYTES in value:
        return b64decode(value[_BYTES], validate=True)
    return {
        key[1:] if key.startswith("\0") else key: _untagged(item) for key, item in value.items()
    }


# --- writing ---------------------------------------------------------------------------------


class _Writer:
    """Turns objects into JSON's own types and refuses what would not come back the same."""

    def __init__(self) -> None:
        self.tagged = False

    def generation(self, generation: Generation, where: str) -> list[Any]:
        shape = self._shape(generation, _GENERATIONS, where)
        state = generation.__dict__
        written = [
            shape.tag,
            self._set_fields(generation, shape, where),
            self._fields(shape, state, where),
        ]
        if shape.tag in ("g", "g+"):
            return written
        message = self._message(state["message"], f"{where}.message")
        if shape.tag == "c+" and not message[0].endswith("+"):
            raise _unserializable(f"{where}.message")
        return [*written, message, self._text(state["text"], state["message"], where)]

    def _text(self, text: Any, message: BaseMessage, where: str) -> Any:
        if type(text) is TextAccessor:
            return None if text == message.content else str.__str__(text)
        if type(text) is str:
            return [text]
        raise _unserializable(f"{where}.text")

    def _message(self, message: Any, where: str) -> list[Any]:
        shape = self._shape(message, _MESSAGES, where)
        state = message.__dict__
        id_ = state.get("id")
        if not _is_text_or_none(id_):
            raise _unserializable(f"{where}.id")
        written = [
            shape.tag,
            self._set_fields(message, shape, where),
            self._fields(shape, state, where),
            id_ is not None,
        ]
        if extra := message.__pydantic_extra__:
            named = sorted(message.__pydantic_fields_set__ & extra.keys())
            written.append([self._value(extra, f"{where}.extra", 0), named])
        return written

    def _shape(self, value: Any, shapes: dict[str, _Shape], where: str) -> _Shape:
        # Exact classes: a subclass may carry more than its fields say.
        shape = _BY_CLASS.get(type(value))
        if shape is None or shape.tag not in shapes:
            raise _unserializable(f"{where}: {type(value).__name__}")
        if value.__dict__.get("type") != shape.type or value.__pydantic_private__ is not None:
            raise _unserializable(f"{where}: not as constructed")
        if value.__dict__.keys() != shape.empty.keys():
            raise _unserializable(f"{where}: fields")
        return shape

    def _set_fields(self, value: BaseModel, shape: _Shape, where: str) -> str:
        names = value.__pydantic_fields_set__ & shape.names
        if not names | (value.__pydantic_extra__ or {}).keys() >= value.__pydantic_fields_set__:
            raise _unserializable(f"{where}: fields")
        return " ".join(sorted(names))

    def _fields(self, shape: _Shape, state: dict[str, Any], where: str) -> dict[str, Any]:
        fields = {}
        for name, check in shape.fields.items():
            value = state[name]
            default = shape.defaults.get(name, _ABSENT)
            if type(value) is type(default) and value == default:
                continue
            if name == "additional_kwargs" and type(value) is dict and "parsed" in value:
                value = value | {"parsed": _parsed(value["parsed"], f"{where}.{name}.parsed")}
            try:
                right = check(value)
            except LookupError:
                right = False
            if not right:
                raise _unserializable(f"{where}.{name}")
            fields[name] = self._value(value, f"{where}.{name}", 0)
        return fields

    def _value(self, value: Any, where: str, depth: int) -> Any:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if kind is int:
            if -(1 << 63) <= value < 1 << 64:
                return value
        elif kind is float:
            if math.isfinite(value):
                return value
        elif kind is bytes:
            self.tagged = True
            return {_BYTES: b64encode(value).decode()}
        elif depth > _MAX_DEPTH:
            pass
        elif kind is list:
            return [self._value(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
        elif kind is dict:
            return self._dict(value, where, depth)
        raise _unserializable(f"{where}: {kind.__name__}")

    def _dict(self, value: dict[Any, Any], where: str, depth: int) -> dict[str, Any]:
        written = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _unserializable(f"{where}: key of {type(key).__name__}")
            written[key] = self._value(item, f"{where}.{key}", depth + 1)
        if any(key.startswith("\0") for key in value):
            # Our tag begins with NUL; a user's key that does too gets one more.
            self.tagged = True
            written = {
                "\0" + key if key.startswith("\0") else key: item for key, item in written.items()
            }
        return written


def _parsed(value: Any, where: str) -> Any:
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
        raise _unserializable(f"{where}: {type(value).__name__}")
    return dump


def _unserializable(where: str) -> Uncacheable:
    return Uncacheable("unserializable_answer", where[:200])
