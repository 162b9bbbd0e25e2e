"""What was encoded comes back equal, in new objects, with fresh message ids - or is refused."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import json
import os
import pickle
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    RemoveMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from pydantic import BaseModel, Field

from langchain_redis_tiered import _codec, _shapes
from langchain_redis_tiered._codec import decode, encode, recall
from redis_tiered.errors import Uncacheable, Unreadable
from tests.langchain.strategies import chunk_messages, dicts, messages, state, words

# --- random answers --------------------------------------------------------------------------

infos = st.none() | dicts
generations = st.one_of(
    st.builds(Generation, text=words, generation_info=infos),
    st.builds(Generation, text=words),
    st.builds(GenerationChunk, text=words, generation_info=infos),
    st.builds(ChatGeneration, message=messages, generation_info=infos),
    st.builds(ChatGeneration, message=messages),
    st.builds(ChatGenerationChunk, message=chunk_messages, generation_info=infos),
)


def with_the_ids_of(found: list[Generation], original: list[Generation]) -> list[Generation]:
    """A copy whose messages have the first ids again; checks that they had fresh ones."""
    found = copy.deepcopy(found)
    for one, two in zip(found, original, strict=True):
        if isinstance(one, ChatGeneration) and isinstance(two, ChatGeneration):
            if two.message.id is None:
                assert one.message.id is None
            else:
                assert one.message.id != two.message.id
                assert one.message.id is not None
                assert one.message.id.startswith("lc_run--")
                one.message.__dict__["id"] = two.message.id
    return found


def recalled(payload: bytes) -> list[Generation]:
    """What is read the second time, from a mould."""
    recall(payload)
    return recall(payload)


@pytest.mark.parametrize("read", [decode, recalled])
@given(original=st.lists(generations, max_size=3))
@settings(deadline=None, max_examples=100)
def test_what_comes_back_cannot_be_told_from_what_went_in(
    read: Callable[[bytes], list[Generation]], original: list[Generation]
) -> None:
    before = state(original)
    payload = encode(original)
    assert state(original) == before
    found = read(payload)
    assert type(found) is list
    again = with_the_ids_of(found, original)
    assert again == original
    assert state(again) == before
    assert [g.model_dump() for g in again] == [g.model_dump() for g in original]
    assert [repr(g) for g in again] == [repr(g) for g in original]
    assert pickle.loads(pickle.dumps(again)) == original
    for one, two in zip(again, original, strict=True):
        assert one.model_fields_set == two.model_fields_set
        if isinstance(one, ChatGeneration) and isinstance(two, ChatGeneration):
            assert one.message.text == two.message.text
            assert blocks_of(one.message) == blocks_of(two.message)


def blocks_of(message: BaseMessage) -> Any:
    try:  # what core translates, it gives a random id
        return [{**block, "id": None} for block in message.content_blocks]
    except Exception as error:  # core's own translators dislike some random content
        return type(error)


@given(chunk_messages.filter(lambda m: type(m) is AIMessageChunk))
@settings(deadline=None, max_examples=40)
def test_chunks_can_still_be_added(message: AIMessageChunk) -> None:
    plain = AIMessageChunk(content="more", tool_call_chunks=[], usage_metadata=None)
    original = ChatGenerationChunk(message=message)
    [found] = with_the_ids_of(decode(encode([original])), [original])

    def added(chunk: Any) -> Any:
        try:
            return chunk + ChatGenerationChunk(message=plain)
        except (TypeError, ValueError) as error:
            return type(error)

    assert added(found) == added(original)


def test_setting_and_copying_work_as_ever() -> None:
    [found] = decode(encode([ChatGeneration(message=AIMessage("a", id="run-1"))]))
    assert isinstance(found, ChatGeneration)
    # As `BaseChatModel._convert_cached_generations` does.
    found.message = found.message.model_copy(update={"usage_metadata": {"total_cost": 0}})
    found.message.name = "n"
    found.message.other = 1  # type: ignore[attr-defined]
    assert found.message.model_fields_set >= {"name", "other", "content"}
    [again] = decode(encode([found]))
    assert isinstance(again, ChatGeneration)
    assert again.message.usage_metadata == {"total_cost": 0}


@pytest.mark.parametrize("read", [decode, recalled])
def test_every_call_returns_objects_of_its_own(
    read: Callable[[bytes], list[Generation]],
) -> None:
    message = AIMessage(
        [{"type": "text", "text": "a"}],
        tool_calls=[{"name": "f", "args": {"x": [1]}, "id": "c"}],
        response_metadata={"a": {"b": 1}},
        id="run-1",
    )
    payload = encode([ChatGeneration(message=message), ChatGeneration(message=AIMessage("x"))])
    one, two = read(payload), read(payload)
    ids: set[int] = set()

    def collect(value: Any) -> None:
        if isinstance(value, BaseModel):
            assert id(value) not in ids
            ids.add(id(value))
            collect(value.__dict__)
            collect(value.__pydantic_extra__)
            collect(value.__pydantic_fields_set__)
        elif isinstance(value, dict | list | set):
            assert id(value) not in ids
            ids.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                collect(item)

    collect(one)
    collect(two)
    one[0].message.tool_calls.append({})  # type: ignore[attr-defined]
    one[0].message.response_metadata["a"]["b"] = 2  # type: ignore[attr-defined]
    assert read(payload)[0].message.response_metadata == {"a": {"b": 1}}  # type: ignore[attr-defined]


def test_ids_are_unique_in_a_forked_process_too() -> None:
    payload = encode([ChatGeneration(message=AIMessage("x", id="1"))])

    def ids() -> set[str]:
        return {decode(payload)[0].message.id for _ in range(100)}  # type: ignore[attr-defined]

    _codec._ids.reset()
    mine = ids()
    assert len(mine) == 100
    if not hasattr(os, "register_at_fork"):
        return
    # Forking this process with its threads is what a test must not do; its hook can be called.
    count = copy.copy(_codec._ids._count)
    _codec._ids.reset()
    theirs = ids()
    assert next(count) == 100
    assert mine.isdisjoint(theirs)


# --- what is refused -------------------------------------------------------------------------


class Color(enum.StrEnum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Zone(datetime.tzinfo):
    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)


class MyDocument(Document):
    pass


class Record(BaseModel):
    a: int


class MyMessage(AIMessage):
    pass


class MyGeneration(ChatGeneration):
    pass


@pytest.mark.parametrize(
    "value",
    [
        (object(),),
        {Color.RED},
        {1: object()},
        {Color.RED: 2},
        "\ud800",
        {"\ud800": 1},
        datetime.datetime(2020, 1, 1, tzinfo=Zone()),
        MyDocument("x"),
        Document("x", metadata={"a": object()}),
        Document.model_construct(page_content=1, metadata={}),
        range(2),
        Color.RED,
        Text("x"),
        {Text("x"): 1},
        Record(a=1),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_would_come_back_changed_are_refused(value: Any) -> None:
    places = [
        ChatGeneration(message=AIMessage("x", additional_kwargs={"a": [{"b": value}]})),
        ChatGeneration(message=AIMessage("x", response_metadata={"a": value})),
        ChatGeneration(message=AIMessage("x", custom=value)),
        Generation(text="x", generation_info={"a": value}),
    ]
    for generation in places:
        with pytest.raises(Uncacheable) as refused:
            encode([generation])
        assert refused.value.reason == "unserializable_answer"


def test_numbers_that_are_none_come_back_as_such() -> None:
    kept = [float("nan"), float("inf"), -float("inf"), decimal.Decimal("NaN"), -0.0]
    [found] = decode(encode([Generation(text="x", generation_info={"a": kept})]))
    assert found.generation_info is not None
    assert state(found.generation_info["a"]) == state(kept)


def test_sets_come_back_equal() -> None:
    kept = {"s": set(range(100)), "f": frozenset("abc"), "m": {1, "1", (1, 2), None, b"1"}}
    [found] = decode(encode([Generation(text="x", generation_info=kept)]))
    assert found.generation_info == kept


def test_what_is_in_a_tuple_can_still_be_changed_by_its_owner_only() -> None:
    kept = {"a": ([1], {"b": 1}, {1}, Document("x", metadata={"c": [1]}))}
    payload = encode([Generation(text="x", generation_info=kept)])
    for _ in range(3):
        [found] = recall(payload)
        assert found.generation_info == kept
        one, two, three, document = found.generation_info["a"]
        one.append(2)
        two["x"] = 1
        three.add(2)
        document.metadata["c"].append(2)
        document.page_content = "y"


def test_a_tag_of_a_newer_version_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        decode(b'\3[["g","text",{"text":"x","generation_info":{"a":{"\\u0000complex":1}}}]]')


def test_the_refusal_says_where() -> None:
    with pytest.raises(Uncacheable) as refused:
        encode([Generation(text="x", generation_info={"a": [1, {"b": (1, object())}]})])
    assert refused.value.detail == "[0].generation_info['a'][1]['b'][1]: object"


@pytest.mark.parametrize("deeper", [list, dict, tuple])
def test_nesting_is_bounded(deeper: type[Any]) -> None:
    value: Any = []
    value.append(value if deeper is list else deeper([(1, value)]))
    with pytest.raises(Uncacheable):
        encode([Generation(text="x", generation_info={"a": value})])


@pytest.mark.parametrize(
    "generation",
    [
        ChatGeneration(message=MyMessage("x")),
        MyGeneration(message=AIMessage("x")),
        ChatGeneration(message=RemoveMessage(id="x")),
        ChatGeneration.model_construct(message="x", text="x"),
        "text",
        None,
    ],
    ids=repr,
)
def test_other_classes_are_refused(generation: Any) -> None:
    with pytest.raises(Uncacheable):
        encode([generation])


def test_objects_bent_out_of_shape_are_refused() -> None:
    for field, value in [
        ("content", 1),
        ("content", [1]),
        ("tool_calls", [{}]),
        ("tool_calls", [1]),
        ("usage_metadata", {"input_tokens": "1"}),
        ("id", 1),
        ("name", 1),
        ("type", "human"),
        ("unknown", 1),
    ]:
        generation = ChatGeneration(message=AIMessage("x"))
        generation.message.__dict__[field] = value
        with pytest.raises(Uncacheable):
            encode([generation])


# --- structured output -----------------------------------------------------------------------


class Answer(BaseModel):
    at: datetime.date
    number: int = Field(alias="n")


class Lossy(BaseModel):
    secret: int = Field(exclude=True)


class Raising(BaseModel):
    a: int

    def __eq__(self, other: object) -> bool:
        raise RuntimeError


def test_a_parsed_answer_is_stored_as_its_dict() -> None:
    parsed = Answer(at=datetime.date(2020, 1, 2), n=3)
    message = AIMessage("{}", additional_kwargs={"parsed": parsed, "refusal": None})
    [found] = decode(encode([ChatGeneration(message=message)]))
    assert message.additional_kwargs["parsed"] is parsed
    assert isinstance(found, ChatGeneration)
    kept = found.message.additional_kwargs["parsed"]
    assert kept == {"at": "2020-01-02", "n": 3}
    # As `_oai_structured_outputs_parser` (langchain-openai) reads a dict.
    assert Answer(**kept) == parsed


@pytest.mark.parametrize("parsed", [Lossy(secret=1), Raising(a=1)], ids=["lossy", "raising"])
def test_a_parsed_answer_that_would_change_is_refused(parsed: BaseModel) -> None:
    message = AIMessage("{}", additional_kwargs={"parsed": parsed})
    with pytest.raises(Uncacheable):
        encode([ChatGeneration(message=message)])


# --- stored bytes ----------------------------------------------------------------------------

EVERY_KIND = (
    {1: {2}, (1.5, None): frozenset({"a"})},
    float("inf"),
    2**64,
    datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.time(1, 2, tzinfo=datetime.UTC),
    datetime.date(2020, 1, 1),
    datetime.timedelta(seconds=1),
    decimal.Decimal("1.50"),
    uuid.UUID(int=1),
    [Document("text", metadata={"a": (1,)}, id="d")],
)
SAMPLE = [
    ChatGeneration(
        message=AIMessage(
            "hello",
            id="run-1",
            name="n",
            additional_kwargs={"b": b"x", "\0": 1, "odd": EVERY_KIND},
            response_metadata={"finish_reason": "stop"},
            tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            custom=1,
        ),
        generation_info={"a": 1},
    ),
    Generation(text="t"),
    ChatGenerationChunk(message=AIMessageChunk(content=["a", {"type": "text", "text": "b"}])),
]
PAYLOAD = encode(SAMPLE)


def read(payload: bytes) -> None:
    """Unreadable, or a list that is as valid as one LangChain built."""
    try:
        found = decode(payload)
    except Unreadable:
        return
    assert type(found) is list
    for generation in found:
        assert type(generation) in (
            Generation,
            GenerationChunk,
            ChatGeneration,
            ChatGenerationChunk,
        )
        assert isinstance(generation.text, str)
        assert generation.generation_info is None or type(generation.generation_info) is dict
        if isinstance(generation, ChatGeneration):
            message = generation.message
            fields = {name: getattr(message, name) for name in type(message).model_fields}
            for call in fields.get("tool_calls", []):
                for key in call.keys() - {"name", "args", "id", "type"}:
                    del call[key]
            type(message)(**fields)  # its validators agree
        encode(found)


@given(st.binary())
@example(b"")
@example(b"\1")
@example(b"\2[]")
@example(b"\1{}")
@example(b"\1" + b"[" * 5000 + b"]" * 5000)
@example(b"\3" + b"[" * 1000 + b"]" * 1000)
@example(b'\3[["g","text",{"text":{"\\u0000bytes":"?"}}]]')
def test_foreign_bytes(payload: bytes) -> None:
    read(payload)
    for version in (b"\1", b"\3"):
        read(version + payload)


def test_every_truncation_is_unreadable() -> None:
    for end in range(len(PAYLOAD)):
        with pytest.raises(Unreadable):
            decode(PAYLOAD[:end])


def test_every_flipped_bit_is_survived() -> None:
    for at in range(len(PAYLOAD)):
        for bit in range(8):
            read(PAYLOAD[:at] + bytes([PAYLOAD[at] ^ 1 << bit]) + PAYLOAD[at + 1 :])


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, list):
        for i, item in enumerate(value):
            found += paths(item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            found += paths(item, (*path, key))
    return found


CONTENT = orjson.loads(PAYLOAD[1:])
OTHERS: list[Any] = [None, True, 0, -1, 1.5, "", "ai", "c", "x y", [], [[]], {}, {"a": 1}, ["a"]]


@pytest.mark.parametrize("path", paths(CONTENT)[1:], ids=str)
def test_every_value_of_another_type_is_survived(path: tuple[Any, ...]) -> None:
    for other in OTHERS:
        content = copy.deepcopy(CONTENT)
        holder = content
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = other
        read(PAYLOAD[:1] + orjson.dumps(content))
    content = copy.deepcopy(CONTENT)
    holder = content
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    read(PAYLOAD[:1] + orjson.dumps(content))


@pytest.mark.parametrize(
    "content",
    [
        [["c", "message text", {}, ["ai", "content", {"content": 1}, True], None]],
        [["c", "message text", {}, ["ai", "content", {}, True], None]],
        [["c", "message text", {"message": 1}, ["ai", "content", {"content": ""}, True], None]],
        [["c", "message text", {}, ["ai", "content", {"content": "", "id": "x"}, True], None]],
        [["c", "message text", {}, ["ai", "content", {"content": "", "type": "x"}, True], None]],
        [["c", "message text", {}, ["ai", "content x", {"content": ""}, True], None]],
        [["c", "message text", {}, ["ai", "content", {"content": ""}, 1], None]],
        [["c+", "message text", {}, ["ai", "content", {"content": ""}, True], None]],
        [["c", "message text", {}, ["os.system", "content", {"content": ""}, True], None]],
        [["c", "message text", {}, ["function", "content", {"content": "", "name": None}, True]]],
        [["g", "text", {"text": "x"}, 1]],
        [["g", "text", {"text": None}]],
        [["g", "text", {}]],
        [["g", "text", {"text": "x", "generation_info": 1}]],
        [["ai", "content", {"content": ""}, True]],
        {},
        [1],
        [{}],
    ],
    ids=json.dumps,
)
def test_broken_contents_are_unreadable(content: Any) -> None:
    with pytest.raises(Unreadable):
        decode(b"\1" + orjson.dumps(content))


def test_a_field_this_core_does_not_know_makes_it_unreadable() -> None:
    for written in ({"content": "", "newer": 1}, {"newer": 1}):
        message = ["ai", "content", written, False]
        payload = b"\1" + orjson.dumps([["c", "message text", {}, message, None]])
        with pytest.raises(Unreadable):
            decode(payload)


def test_sets_of_names_do_not_pile_up() -> None:
    shape = _shapes.MESSAGES["ai"]
    names = sorted(shape.names)
    for i in range(2000):
        written = " ".join(names * (i + 1))
        message = ["ai", written, {"content": ""}, False]
        decode(b"\1" + orjson.dumps([["c", "message text", {}, message, None]]))
        if len(written) > 10_000:
            break
    assert len(shape.sets) <= 256


def test_the_constructor_stands_in_where_a_class_is_laid_out_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a core that has a field this file does not know."""
    assert all(shape.fast for shape in _shapes.BY_CLASS.values())
    for shape in _shapes.BY_CLASS.values():
        monkeypatch.setattr(shape, "fast", False)
    assert with_the_ids_of(decode(PAYLOAD), SAMPLE) == SAMPLE
