"""A message of a session comes back equal; what another framework wrote comes as its nearest."""

from __future__ import annotations

import copy
import datetime
import enum
import warnings
from dataclasses import dataclass, replace
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
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

from langchain_redis_tiered import _shapes
from langchain_redis_tiered._messages import FORMAT, from_core, to_core
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.sessions.message import MEDIA, ROLES, Message, ToolCall, checked, pack, unpack
from tests.langchain.strategies import messages, state

CALL = {"name": "f", "args": {"a": [1, {"b": None}], "c": 1.5}, "id": "c1", "type": "tool_call"}


def stored(message: Message) -> Message:
    """As it is read: packed, with an id."""
    if not message.id:
        message = replace(message, id="made-by-the-session")
    return unpack(pack(checked(message, "message")))


def again(message: BaseMessage) -> BaseMessage:
    return from_core(stored(to_core(message, "message")))


@given(messages)
@settings(deadline=None, max_examples=300)
def test_what_comes_back_cannot_be_told_from_what_went_in(original: BaseMessage) -> None:
    before = state(original)
    shared = stored(to_core(original, "message"))
    assert state(original) == before
    found = from_core(shared)
    assert found == original
    assert state(found) == before
    assert found.model_fields_set == original.model_fields_set
    assert (found.id, found.text) == (original.id, original.text)
    # What everybody sees.
    assert shared.role in ROLES
    assert shared.text == original.text
    assert set(shared.media) <= set(MEDIA)
    assert shared.tool_call_id == getattr(original, "tool_call_id", None)
    assert len(shared.tool_calls) == len(getattr(original, "tool_calls", []))
    # A second reading shares nothing with the first.
    assert not {id(v) for v in mutable(from_core(shared))} & {id(v) for v in mutable(found)}


def mutable(value: Any) -> list[Any]:
    if isinstance(value, BaseModel):
        return [value, *mutable(value.__dict__), *mutable(value.__pydantic_extra__)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in mutable(item))]
    if isinstance(value, list | tuple):
        found = [found for item in value for found in mutable(item)]
        return [value, *found] if isinstance(value, list) else found
    return [value] if isinstance(value, set) else []


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (SystemMessage("x"), "system"),
        (HumanMessage("x"), "human"),
        (HumanMessageChunk("x"), "human"),
        (AIMessage("x"), "ai"),
        (AIMessageChunk("x"), "ai"),
        (ToolMessage("x", tool_call_id="c"), "tool"),
        (FunctionMessage("x", name="f"), "tool"),
        (ChatMessage("x", role="user"), "human"),
        (ChatMessage("x", role="assistant"), "ai"),
        (ChatMessage("x", role="developer"), "system"),
        (ChatMessage("x", role="tool"), "tool"),
        (ChatMessage("x", role="critic"), "other"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, BaseMessage) else None,
)
def test_roles(message: BaseMessage, role: str) -> None:
    assert to_core(message, "message").role == role
    assert again(message) == message


def test_the_role_of_a_chat_message_is_its_name_elsewhere() -> None:
    message = to_core(ChatMessage("x", role="critic"), "message")
    assert (message.role, message.name) == ("other", "critic")
    named = ChatMessage("x", role="critic", name="ann")
    assert to_core(named, "message").name == "ann"
    assert state(again(named)) == state(named)


def test_what_everybody_reads_is_not_repeated() -> None:
    message = AIMessage("text of it", tool_calls=[CALL], name="ann", id="m1")
    shared = to_core(message, "message")
    assert shared == Message(
        "ai",
        "text of it",
        "m1",
        "ann",
        (ToolCall("c1", "f", {"a": [1, {"b": None}], "c": 1.5}),),
        format=FORMAT,
        native=shared.native,
    )
    for repeated in (b"text of it", b"args", b"ann", b"m1"):
        assert repeated not in shared.native
    assert len(shared.native) < 50
    tool = to_core(ToolMessage("result", tool_call_id="c-7", name="f"), "message")
    assert (tool.tool_call_id, tool.name) == ("c-7", "f")
    assert b"c-7" not in tool.native


def test_the_messages_own_arguments_are_not_shared() -> None:
    message = AIMessage("", tool_calls=[copy.deepcopy(CALL)])
    shared = to_core(message, "message")
    message.tool_calls[0]["args"]["a"].append(2)
    assert shared.tool_calls[0].arguments == CALL["args"]
    found = from_core(shared)
    assert isinstance(found, AIMessage)
    found.tool_calls[0]["args"]["a"].append(2)
    assert shared.tool_calls[0].arguments == CALL["args"]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ((1, "a"), [1, "a"]),
        ({1: (2,)}, {"1": [2]}),
        (float("nan"), "nan"),
        (datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), "2020-01-02 00:00:00+00:00"),
        ({"\0k": 1}, {"\0k": 1}),
        (2**64, "0x10000000000000000"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, BaseMessage) else None,
)
def test_arguments_that_json_cannot_hold_are_seen_as_nearly_the_same(value: Any, seen: Any) -> None:
    message = AIMessage("", tool_calls=[{"name": "f", "args": {"x": value}, "id": "c"}])
    shared = stored(to_core(message, "message"))
    assert shared.tool_calls == (ToolCall("c", "f", {"x": seen}),)
    assert state(from_core(shared)) == state(message)


def test_calls_that_are_not_plain_come_back_exactly() -> None:
    extra = AIMessage("", tool_calls=[CALL])
    extra.tool_calls[0]["extras"] = {"a": 1}  # type: ignore[typeddict-unknown-key]
    odd = AIMessage("", tool_calls=[CALL])
    odd.tool_calls[0]["args"] = {1: 2}  # type: ignore[dict-item]
    invalid = AIMessage(
        "",
        invalid_tool_calls=[{"name": "f", "args": "{", "id": "c", "error": "e"}],
        additional_kwargs={"tool_calls": [{"id": "c", "function": {"arguments": "{"}}]},
    )
    for message in (extra, odd, invalid):
        assert state(again(message)) == state(message)
    assert to_core(invalid, "message").tool_calls == ()


def test_blocks() -> None:
    message = AIMessage(
        [
            "Look: ",
            {"type": "thinking", "thinking": "first", "signature": "s"},
            {"type": "reasoning", "reasoning": "second"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "third"}]},
            {"type": "text", "text": "a cat"},
            {"type": "image", "base64": "AA==", "mime_type": "image/png"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "video", "url": "https://example.com/a.mp4"},
            {"type": "file", "file_id": "f"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
            {"no": "type"},
            {"type": ["odd"]},
            {"type": "text", "text": None},
            {"type": "reasoning", "summary": [None, {"text": 1}]},
        ]
    )
    shared = to_core(message, "message")
    assert shared.text == message.text == "Look: a cat"
    assert shared.thinking == "first\nsecond\nthird"
    assert shared.media == ("image", "image", "audio", "video", "document")
    assert state(again(message)) == state(message)


def test_reasoning_beside_the_content() -> None:
    message = AIMessage("x", additional_kwargs={"reasoning_content": "because"})
    assert to_core(message, "message").thinking == "because"
    assert again(message) == message


@pytest.mark.parametrize("id_", [None, "", "m1"])
def test_ids(id_: str | None) -> None:
    message = HumanMessage("x", id=id_)
    shared = to_core(message, "message")
    assert shared.id == (id_ or "")
    assert again(message).id == id_


def test_text_taken_from_another_message() -> None:
    message = HumanMessage("x")
    message.content = AIMessage("taken").text
    found = again(message)
    assert found == message
    assert type(found.content) is str


def test_artifacts() -> None:
    documents = [Document("text", metadata={"page": 1, "at": datetime.date(2020, 1, 1)}, id="d")]
    message = ToolMessage("x", tool_call_id="c", artifact=(documents, {"raw": b"\0"}))
    found = again(message)
    assert state(found) == state(message)
    assert type(found.artifact[0][0]) is Document  # type: ignore[attr-defined]


def test_a_structured_output_is_stored_as_its_dict() -> None:
    message = AIMessage("{}", additional_kwargs={"parsed": Record(a=3)})
    assert again(message).additional_kwargs == {"parsed": {"a": 3}}


# --- what is refused -------------------------------------------------------------------------


class MyMessage(HumanMessage):
    pass


class Record(BaseModel):
    a: int = 1


@dataclass
class Data:
    a: int = 1


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "message",
    [MyMessage("x"), RemoveMessage(id="m"), BaseMessage("x", type="my"), "text", {}, None],
)
def test_other_classes_are_refused_by_name(message: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        to_core(message, "messages[3]")
    text = str(refused.value)
    assert text.startswith("messages[3] must be one of LangChain's own AIMessage, ")
    assert text.endswith(f"got {type(message).__name__}")


@pytest.mark.parametrize(
    "value",
    [Record(), Data(), Color.RED, object(), Record, len, range(3)],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused_with_their_path(value: Any) -> None:
    message = ToolMessage("x", tool_call_id="c", artifact=[{"a": (0, value)}])
    with pytest.raises(InvalidInput) as refused:
        to_core(message, "messages[0]")
    assert str(refused.value) == (
        "messages[0].artifact[0]['a'][1] must be made of None, bool, int, float, str, bytes, bytearray, "
        "list, tuple, dict, set, frozenset, datetime, date, time, timedelta, Decimal, UUID, Path "
        "and Document, "
        f"got {type(value).__name__}"
    )


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (
            HumanMessage("x", additional_kwargs={"a": object()}),
            "messages[0].additional_kwargs['a'] ",
        ),
        (HumanMessage("x", response_metadata={1: object()}), "messages[0].response_metadata[1] "),
        (HumanMessage("x", response_metadata={object(): 1}), "messages[0].response_metadata "),
        (HumanMessage("x", custom=object()), "messages[0].model_extra['custom'] "),
        (HumanMessage([{"type": "x", "y": object()}]), "messages[0].content[0]['y'] "),
        (
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": object()}, "id": "c"}]),
            "messages[0].tool_calls[0]['args']['a'] ",
        ),
        (
            ToolMessage("", tool_call_id="c", artifact=Document("x", metadata={"m": object()})),
            "messages[0].artifact.metadata['m'] ",
        ),
        (
            HumanMessage("x", additional_kwargs={"a": "\ud800"}),
            "messages[0].additional_kwargs['a'] ",
        ),
    ],
)
def test_paths(message: BaseMessage, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        to_core(message, "messages[0]")
    assert str(refused.value).startswith(path + "must be ")


@pytest.mark.parametrize(
    ("field", "value"), [("content", 1), ("id", 1), ("name", 1), ("type", "x")]
)
def test_messages_bent_out_of_shape_are_refused(field: str, value: Any) -> None:
    message = HumanMessage("x")
    message.__dict__[field] = value
    with pytest.raises(InvalidInput, match=r"constructor|a str or None"):
        to_core(message, "message")


# --- of another framework, or none -----------------------------------------------------------


@pytest.mark.parametrize("format_", ["", "llamaindex"])
@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (Message("human", "x", "i"), HumanMessage("x", id="i")),
        (Message("human", "x"), HumanMessage("x")),
        (Message("system", "x", "i", name="n"), SystemMessage("x", id="i", name="n")),
        (
            Message(
                "ai", "x", "i", tool_calls=(ToolCall("c", "f", {"a": 1}), ToolCall(None, "g", "{"))
            ),
            AIMessage(
                "x",
                id="i",
                tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}],
                invalid_tool_calls=[{"name": "g", "args": "{", "id": None, "error": None}],
            ),
        ),
        (Message("ai", "x", thinking="hm", media=("image",)), AIMessage("x")),
        (Message("tool", "x", tool_call_id="c"), ToolMessage("x", tool_call_id="c")),
        (Message("tool", "x", name="f"), ToolMessage("x", tool_call_id="", name="f")),
        (Message("other", "x"), ChatMessage("x", role="other")),
        (Message("other", "x", name="critic"), ChatMessage("x", role="critic", name="critic")),
    ],
)
def test_the_nearest(format_: str, shared: Message, expected: BaseMessage) -> None:
    found = from_core(replace(shared, format=format_, native=b"not ours"))
    assert state(found) == state(expected)
    # And it is a message like any other.
    assert state(again(found)) == state(expected)


@given(messages)
@settings(deadline=None, max_examples=50)
def test_every_message_can_be_read_without_its_native_part(original: BaseMessage) -> None:
    found = from_core(replace(to_core(original, "message"), format="", native=b""))
    assert found.text == original.text


# --- stored bytes ----------------------------------------------------------------------------

SAMPLE = to_core(
    AIMessage(
        [{"type": "text", "text": "hello"}],
        id="m1",
        name="n",
        tool_calls=[CALL],
        additional_kwargs={"t": (1, {2: {3}}), "d": Document("x")},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        custom=1,
    ),
    "message",
)
PLAIN = to_core(ToolMessage("hello", tool_call_id="c", artifact={"a": [1]}), "message")


def read(message: Message) -> None:
    """Unreadable, or a message as valid as one LangChain built."""
    try:
        found = from_core(message)
    except Unreadable:
        return
    again(found)
    fields = {name: getattr(found, name) for name in type(found).model_fields}
    for call in fields.get("tool_calls", []):
        for key in call.keys() - {"name", "args", "id", "type"}:
            del call[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        type(found)(**fields)  # its validators agree


@given(st.binary())
@example(b"")
@example(b"\1")
@example(b"\1{}")
@example(b'\1["human","",{},false]')
@example(b'\1["human","content",{},""]')
@example(b'\1["human","content",{},"x"]')
@example(b'\1["function","content",{},false]')
@example(b'\1["tool","content",{},false]')
@example(b'\1["c","text",{},false]')
@example(b"\1" + b"[" * 5000 + b"]" * 5000)
def test_foreign_bytes(native: bytes) -> None:
    for sample in (SAMPLE, PLAIN, Message("human", format=FORMAT)):
        for version in (b"", b"\1", b"\3"):
            read(replace(sample, native=version + native))


@pytest.mark.parametrize("native", [b"", b"\1", b"\2[]", b"\x63[]", SAMPLE.native[:-1]])
def test_unreadable(native: bytes) -> None:
    with pytest.raises(Unreadable):
        from_core(replace(SAMPLE, native=native))


def test_every_flipped_bit_is_survived() -> None:
    for sample in (SAMPLE, PLAIN):
        native = sample.native
        for at in range(len(native)):
            for bit in range(8):
                flipped = native[:at] + bytes([native[at] ^ 1 << bit]) + native[at + 1 :]
                read(replace(sample, native=flipped))


def test_every_value_of_another_type_is_survived() -> None:
    for sample in (SAMPLE, PLAIN):
        content = orjson.loads(sample.native[1:])
        for path in paths(content)[1:]:
            for other in [None, True, 0, 1.5, "", "ai", [], [[]], {}, {"a": 1}, {"\0tuple": []}]:
                changed = copy.deepcopy(content)
                holder = changed
                for step in path[:-1]:
                    holder = holder[step]
                holder[path[-1]] = other
                read(replace(sample, native=sample.native[:1] + orjson.dumps(changed)))


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += paths(value[key], (*path, key))
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"text": 1},
        {"name": 1},
        {"tool_calls": (ToolCall("c", "f", "{"),)},
        {"tool_calls": (ToolCall(1, "f", {}),)},  # type: ignore[arg-type]
        {"tool_calls": 1},
        {"role": "unknown", "format": ""},
        {"text": None, "format": ""},
    ],
)
def test_a_shared_part_of_a_wrong_shape_is_unreadable(change: dict[str, Any]) -> None:
    plain = to_core(AIMessage("x", tool_calls=[CALL], id="m"), "message")
    with pytest.raises(Unreadable):
        from_core(replace(plain, **change))


def test_the_constructor_stands_in_where_a_class_is_laid_out_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a core that has a field this file does not know."""
    expected = [from_core(SAMPLE), from_core(PLAIN)]
    for shape in _shapes.BY_CLASS.values():
        monkeypatch.setattr(shape, "fast", False)
    assert [from_core(SAMPLE), from_core(PLAIN)] == expected
