"""LangChain's generations as bytes, and back.

Layout: one format byte, then JSON: a list of generations, each a list of
`[class tag, set fields, fields, message, text]`, the last two only of chat generations. For the
message see `_messages`, for values that JSON has no word for `redis_tiered.values`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.messages import BaseMessage, BaseMessageChunk
from langchain_core.messages.base import TextAccessor
from langchain_core.outputs import Generation

from langchain_redis_tiered._documents import READERS
from langchain_redis_tiered._memo import Memo
from langchain_redis_tiered._messages import MessageWriter, message_from
from langchain_redis_tiered._shapes import BY_CLASS, GENERATIONS, assembled
from redis_tiered.errors import Uncacheable, Unreadable
from redis_tiered.values import FIXED, MALFORMED, CarefulWriter, Refused, copied, loaded

__all__ = ["decode", "encode", "recall"]


def encode(generations: Sequence[Generation]) -> bytes:
    """Serialize an answer, if `decode` will give back just what went in.

    Every message gets a fresh id when it is read: LangGraph's `add_messages` would replace the
    first answer by a second one of the same id.

    Raises:
        Uncacheable: `unserializable_answer`, with the path of a value that would come back
            changed: an enum, a numpy number, a subclass of a message.
    """
    writer = _Writer()
    try:
        return writer.dumped(
            writer.answer(generations), lambda: _CarefulWriter().answer(generations)
        )
    except Refused as refused:
        detail = f"{refused.path}: {refused.what}"
        raise Uncacheable("unserializable_answer", detail[:200]) from None


def decode(payload: bytes) -> list[Generation]:
    """Read an answer; every call returns new objects, since LangChain changes hits in place.

    Raises:
        Unreadable: the bytes are not what `encode` writes.
    """
    try:
        content = loaded(payload, READERS)
        if type(content) is not list:
            raise Unreadable("shape")
        return [_generation(item) for item in content]
    except MALFORMED:
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


_FIXED_FIELDS: Final = FIXED | {TextAccessor}


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
        shape = BY_CLASS.get(type(original))
        if shape is None or not shape.fast:
            return None
        mould = cls()
        state = original.__dict__.copy()
        message = state.pop("message", None)
        mould._message = None if message is None else cls.of(message)
        if message is not None and mould._message is None:
            return None
        mould._named = shape.named and state.pop("id") is not None
        mould._cls = type(original)
        mould._changing = tuple(
            name for name, value in state.items() if type(value) not in _FIXED_FIELDS
        )
        mould._state = original.__dict__ | {name: copied(state[name]) for name in mould._changing}
        if message is not None:
            mould._state["message"] = None
        mould._names = frozenset(original.__pydantic_fields_set__)
        mould._extra = copied(original.__pydantic_extra__)
        return mould

    def cast(self) -> Any:
        state = self._state.copy()
        for name in self._changing:
            state[name] = copied(state[name])
        if self._message is not None:
            state["message"] = self._message.cast()
        if self._named:
            state["id"] = _ids.fresh()
        return assembled(self._cls, state, copied(self._extra), set(self._names))


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


# --- reading ---------------------------------------------------------------------------------


def _generation(written: Any) -> Generation:
    shape = GENERATIONS[written[0]]
    if not shape.holds_message:
        _, names, fields = written
        return shape.build(fields, shape.set_fields(names), None, {})  # type: ignore[no-any-return]
    _, names, fields, message, text = written
    built = message_from(message, _ids.fresh)
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


# --- writing ---------------------------------------------------------------------------------


class _Writer(MessageWriter):
    """Turns generations into JSON's own types and refuses what would not come back the same."""

    def answer(self, generations: Sequence[Generation]) -> list[Any]:
        written: list[Any] = []
        try:
            for generation in generations:
                written.append(self.generation(generation))
        except Refused as refused:
            refused.path = f"[{len(written)}]{refused.path}"
            raise
        return written

    def generation(self, generation: Generation) -> list[Any]:
        shape = self.shape(generation, GENERATIONS)
        state = generation.__dict__
        written = [shape.tag, self.set_fields(generation, shape), self.fields(shape, state)]
        if not shape.holds_message:
            return written
        try:
            message = self.message(state["message"])
        except Refused as refused:
            refused.path = f".message{refused.path}"
            raise
        if shape.tag == "c+" and not message[0].endswith("+"):
            raise Refused(type(state["message"]).__name__, ".message")
        try:
            text = self._text(state["text"], state["message"])
        except Refused as refused:
            refused.path = f".text{refused.path}"
            raise
        return [*written, message, text]

    def _text(self, text: Any, message: BaseMessage) -> Any:
        if type(text) is TextAccessor:
            return None if text == message.content else self.value(str.__str__(text))
        if type(text) is str:
            return [self.value(text)]
        raise Refused(type(text).__name__)


class _CarefulWriter(CarefulWriter, _Writer):
    pass
