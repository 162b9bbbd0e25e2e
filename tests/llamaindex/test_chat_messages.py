"""LlamaIndex's messages: what goes in comes out, and other frameworks can read it."""

from __future__ import annotations

import dataclasses
import io
from collections import UserDict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.schema import ImageDocument
from openai.types.chat import ChatCompletionMessageToolCall
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import AnyUrl, HttpUrl

from llamaindex_redis_tiered._messages import FORMAT, from_core, opened, to_core
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.sessions.message import Message, ToolCall, checked, pack, unpack

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


def stored(message: ChatMessage) -> Message:
    """As it comes back from a log."""
    written = checked(to_core(message, "message"), "message")
    return unpack(pack(dataclasses.replace(written, id="1")))


def round_trip(message: ChatMessage) -> ChatMessage:
    return from_core(stored(message))


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types at every depth: 1 == True == 1.0 is not enough."""
    if type(one) is not type(other):
        return False
    if hasattr(type(one), "model_fields"):
        return one.__dict__.keys() == other.__dict__.keys() and all(
            alike(one.__dict__[name], other.__dict__[name]) for name in one.__dict__
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


# Every message.

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
optional_text = st.none() | text
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
python_values = st.recursive(
    json_values
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-3))]))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.builds(Path, st.sampled_from(["a", "/b/c.txt"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(text | st.just("\0bytes") | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
kwargs = st.dictionaries(
    text | st.sampled_from(["tool_call_id", "name", "tool_calls"]), python_values, max_size=3
)
urls = st.sampled_from(
    ["http://a.b/c.png", "data:image/png;base64,AAAA", "https://ü.example/ß?q=1#f"]
)
paths = st.sampled_from([Path(__file__)])
data = st.none() | st.binary(max_size=16)
text_blocks = st.builds(TextBlock, text=text)
image_blocks = st.builds(
    ImageBlock,
    image=data,
    url=st.none() | urls | urls.map(AnyUrl),
    path=st.none() | paths,
    image_mimetype=optional_text,
    detail=optional_text,
)
document_blocks = st.builds(
    DocumentBlock,
    data=data,
    path=st.none() | paths | st.just("elsewhere.pdf"),
    url=st.none() | urls,
    title=optional_text,
    document_mimetype=optional_text,
)
call_blocks = st.builds(
    ToolCallBlock,
    tool_call_id=optional_text,
    tool_name=text,
    tool_kwargs=text | st.dictionaries(text, json_values, max_size=3) | kwargs,
)
blocks = st.one_of(
    text_blocks,
    image_blocks,
    document_blocks,
    call_blocks,
    st.builds(AudioBlock, audio=data, url=st.none() | urls, format=optional_text),
    st.builds(
        VideoBlock,
        video=data,
        url=st.none() | urls,
        video_mimetype=optional_text,
        detail=optional_text,
        fps=st.none() | st.integers(0, 99),
    ),
    st.builds(CachePoint, cache_control=st.builds(CacheControl, type=text, ttl=text)),
    st.builds(
        CitableBlock,
        title=text,
        source=text,
        content=text | st.lists(text_blocks | image_blocks | document_blocks, max_size=3),
    ),
    st.builds(
        CitationBlock,
        cited_content=text_blocks | image_blocks,
        source=text,
        title=text,
        additional_location_info=st.dictionaries(text, st.integers(), max_size=2),
    ),
    st.builds(
        ThinkingBlock,
        content=optional_text,
        num_tokens=st.none() | st.integers(0, 9),
        additional_information=st.just({}) | kwargs,
    ),
)
messages = st.builds(
    ChatMessage,
    role=st.sampled_from(MessageRole),
    blocks=st.lists(blocks, max_size=4),
    additional_kwargs=st.just({}) | kwargs,
)


@settings(max_examples=400, deadline=None)
@given(messages)
def test_every_message_comes_back_as_it_was(message: ChatMessage) -> None:
    before = message.model_copy(deep=True)
    back = round_trip(message)
    assert back == message == before
    assert alike(back, message)
    assert back.content == message.content


def test_every_block_of_core_is_known() -> None:
    kinds = {kind.__name__ for kind in ContentBlock.__origin__.__args__}
    assert kinds == {
        "AudioBlock",
        "CachePoint",
        "CitableBlock",
        "CitationBlock",
        "DocumentBlock",
        "ImageBlock",
        "TextBlock",
        "ThinkingBlock",
        "ToolCallBlock",
        "VideoBlock",
    }


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(content="hello"),
        ChatMessage(content=""),
        ChatMessage(role="system", content="be kind"),
        ChatMessage(
            role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={"a": [1]})]
        ),
        ChatMessage(
            role="assistant",
            blocks=[TextBlock(text="one moment"), ToolCallBlock(tool_name="f", tool_kwargs="{")],
        ),
        ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "c1"}),
        ChatMessage(role="tool", content="3", additional_kwargs={"tool_call_id": "c", "name": "f"}),
    ],
    ids=lambda message: f"{message.role.value}-{message.content}",
)
def test_what_all_frameworks_share_is_not_stored_twice(message: ChatMessage) -> None:
    written = stored(message)
    assert written.native == b""
    assert written.format == FORMAT
    assert from_core(written) == message


def test_blocks_refer_to_the_shared_part() -> None:
    long = "x" * 1000
    message = ChatMessage(
        role="assistant",
        blocks=[
            ThinkingBlock(content="y" * 1000),
            TextBlock(text=long),
            ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"z": long}),
        ],
    )
    written = stored(message)
    assert len(written.native) < 100
    assert from_core(written) == message


def test_reading_twice_shares_nothing() -> None:
    written = stored(ChatMessage(blocks=[ToolCallBlock(tool_name="f", tool_kwargs={"a": [1]})]))
    first = from_core(written)
    first.blocks[0].tool_kwargs["a"].append(2)
    first.additional_kwargs["b"] = 1
    assert from_core(written).blocks[0].tool_kwargs == {"a": [1]}
    assert from_core(written).additional_kwargs == {}


# What others see of it.


@pytest.mark.parametrize(
    ("role", "shared"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "human"),
        ("assistant", "ai"),
        ("chatbot", "ai"),
        ("model", "ai"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_roles(role: str, shared: str) -> None:
    message = ChatMessage(role=role, content="x")
    assert stored(message).role == shared
    assert round_trip(message) == message


def test_text_thinking_and_media_are_shared() -> None:
    message = ChatMessage(
        blocks=[
            TextBlock(text="one"),
            ImageBlock(image=PNG),
            ThinkingBlock(content="hm"),
            TextBlock(text="two"),
            DocumentBlock(data=b"%PDF"),
            CitableBlock(title="t", source="s", content=[ImageBlock(image=PNG)]),
            AudioBlock(audio=b"a"),
            VideoBlock(video=b"v"),
        ]
    )
    written = stored(message)
    assert written.text == message.content == "one\ntwo"
    assert written.thinking == "hm"
    assert written.media == ("image", "document", "image", "audio", "video")


def test_tool_calls_are_shared() -> None:
    calls = [
        ToolCallBlock(
            tool_call_id="1", tool_name="f", tool_kwargs={"x": (1, b"b"), "when": date(2026, 1, 2)}
        ),
        ToolCallBlock(tool_name="g", tool_kwargs="not json"),
    ]
    message = ChatMessage(role="assistant", blocks=calls)
    written = stored(message)
    assert written.tool_calls == (
        ToolCall("1", "f", {"x": [1, "Yg=="], "when": "2026-01-02"}),
        ToolCall(None, "g", "not json"),
    )
    assert from_core(written) == message


OPENAI_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'},
}


@pytest.mark.parametrize(
    "call",
    [
        OPENAI_CALL,
        ChatCompletionMessageToolCall.model_validate(OPENAI_CALL),
        ChatCompletionMessageToolCall.construct(**OPENAI_CALL),
        ChoiceDeltaToolCall.model_validate({"index": 0} | OPENAI_CALL),
    ],
    ids=["dict", "model", "constructed", "delta"],
)
def test_tool_calls_of_openai_are_stored_and_shared(call: Any) -> None:
    message = ChatMessage(role="assistant", content=None, additional_kwargs={"tool_calls": [call]})
    written = stored(message)
    assert written.tool_calls == (ToolCall("call_1", "add", {"a": 1, "b": 2}),)
    [back] = from_core(written).additional_kwargs["tool_calls"]
    assert type(back) is dict
    assert back["function"] == OPENAI_CALL["function"]


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({"name": "f", "arguments": '{"a": '}, ToolCall(None, "f", '{"a": ')),
        ({"name": "f", "arguments": "[1]"}, ToolCall(None, "f", "[1]")),
        ({"name": "f", "arguments": {"a": 1}}, ToolCall(None, "f", {"a": 1})),
        ({"name": "f"}, ToolCall(None, "f", "")),
        ({"name": None}, None),
        ("f", None),
    ],
)
def test_odd_tool_calls_of_openai(given: Any, shared: ToolCall | None) -> None:
    message = ChatMessage(additional_kwargs={"tool_calls": [{"function": given}]})
    assert stored(message).tool_calls == (() if shared is None else (shared,))
    assert round_trip(message) == message


def test_blocks_are_asked_for_tool_calls_first() -> None:
    message = ChatMessage(
        role="assistant",
        blocks=[ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs={})],
        additional_kwargs={"tool_calls": [OPENAI_CALL]},
    )
    assert stored(message).tool_calls == (ToolCall("call_1", "add", {}),)
    assert round_trip(message) == message


# Of another framework.


@pytest.mark.parametrize("format_", ["", "langchain", "another"])
def test_messages_of_another_framework(format_: str) -> None:
    native = b"\x01whatever" if format_ else b""
    call = ToolCall("1", "f", {"a": 1})
    for message, expected in [
        (Message("system", "s"), ChatMessage(role="system", content="s")),
        (Message("human", "h"), ChatMessage(content="h")),
        (
            Message("human", "h", name="Ann"),
            ChatMessage(content="h", additional_kwargs={"name": "Ann"}),
        ),
        (Message("other", "o"), ChatMessage(content="o")),
        (Message("ai", ""), ChatMessage(role="assistant", content="")),
        (
            Message("ai", "a", thinking="hm", media=("image",)),
            ChatMessage(role="assistant", content="a"),
        ),
        (
            Message("ai", "", tool_calls=(call,)),
            ChatMessage(
                role="assistant",
                blocks=[ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"a": 1})],
            ),
        ),
        (
            Message("ai", "a", tool_calls=(call, ToolCall(None, "g", "{"))),
            ChatMessage(
                role="assistant",
                blocks=[
                    TextBlock(text="a"),
                    ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"a": 1}),
                    ToolCallBlock(tool_name="g", tool_kwargs="{"),
                ],
            ),
        ),
        (
            Message("tool", "3", name="f", tool_call_id="1"),
            ChatMessage(
                role="tool", content="3", additional_kwargs={"tool_call_id": "1", "name": "f"}
            ),
        ),
    ]:
        message = dataclasses.replace(message, format=format_, native=native)
        assert from_core(message) == expected
        assert round_trip(from_core(message)) == expected


# Values in `additional_kwargs` and in blocks.


class Color(StrEnum):
    RED = "red"


def test_values_that_json_has_no_word_for() -> None:
    values = {
        "bytes": b"\xff",
        "bytearray": bytearray(b"x"),
        "tuple": (1, (2,)),
        "set": {1, 2},
        "frozenset": frozenset({"a"}),
        "naive": datetime(2026, 1, 2, 3, 4, 5, 6),
        "aware": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        "folded": datetime(2026, 1, 2, fold=1),
        "time": time(1, 2, 3, 4),
        "date": date(2026, 1, 2),
        "delta": timedelta(days=-1, microseconds=3),
        "decimal": Decimal("1.10"),
        "uuid": UUID(int=7),
        "path": Path("/a/b"),
        "big": 1 << 100,
        "long": 1 << 100_000,
        "infinite": float("-inf"),
        "url": HttpUrl("http://a.b/"),
        "block": TextBlock(text="x"),
        "\0bytes": "a tag of ours",
        "keys": {1: "a number", None: 0, ("a", 1): "a tuple"},
    }
    message = ChatMessage(additional_kwargs=values)
    back = round_trip(message)
    assert alike(back.additional_kwargs, values)
    assert back.additional_kwargs["folded"].fold == 1


def test_a_member_of_an_enum_comes_back_as_its_text() -> None:
    message = ChatMessage(additional_kwargs={"color": Color.RED})
    back = round_trip(message)
    assert back == message
    assert type(back.additional_kwargs["color"]) is str


def test_a_url_of_a_narrower_class() -> None:
    message = ChatMessage(blocks=[ImageBlock(url=HttpUrl("http://a.b/c.png"))])
    assert alike(round_trip(message), message)


def test_a_file_that_is_gone_is_no_hindrance(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    message = ChatMessage(blocks=[ImageBlock(path=file)])
    written = stored(message)
    file.unlink()
    assert from_core(written) == message


def test_old_image_documents_do_not_multiply() -> None:
    message = ChatMessage(content="x", additional_kwargs={"images": [ImageDocument(image="aGk=")]})
    assert len(message.blocks) == 2
    assert round_trip(message).blocks == message.blocks
    assert round_trip(round_trip(message)).blocks == message.blocks


@pytest.mark.parametrize(
    ("kind", "field"),
    [(ImageBlock, "image"), (AudioBlock, "audio"), (VideoBlock, "video"), (DocumentBlock, "data")],
)
def test_an_open_file_is_stored_as_its_bytes(kind: Any, field: str) -> None:
    file = io.BytesIO(PNG)
    file.seek(3)
    block = kind(**{field: PNG})
    if kind is DocumentBlock:  # core cannot make one of an open file and guess its type
        message = ChatMessage(blocks=[kind(data=file, document_mimetype=block.document_mimetype)])
    else:
        message = ChatMessage(blocks=[kind(**{field: file})])
    assert round_trip(message) == ChatMessage(blocks=[block])
    assert message.blocks[0].__dict__[field] is file
    assert file.tell() == 3
    nested = CitableBlock(
        title="t", source="s", content=message.blocks if kind in (ImageBlock, DocumentBlock) else []
    )
    assert round_trip(ChatMessage(blocks=[nested])).blocks[0].content in ([block], [])


class Unseekable(io.BytesIO):
    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("a pipe")


def closed() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


@pytest.mark.parametrize("file", [io.StringIO("x"), Unseekable(b"x"), closed()], ids=type)
def test_files_that_cannot_be_read_again_are_refused(file: Any) -> None:
    message = ChatMessage(content="x")
    message.blocks.append(ImageBlock.model_construct(image=file))
    with pytest.raises(
        InvalidInput, match=r"^messages\[4\]\.blocks\[1\]\.image must be bytes or a "
    ):
        to_core(message, "messages[4]")


# What is refused.


class OwnMessage(ChatMessage):
    pass


class Zone(tzinfo):
    pass


class OwnBlock(TextBlock):
    pass


def changed(**fields: Any) -> ChatMessage:
    message = ChatMessage(content="x")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def deep(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


looped: list[Any] = []
looped.append(looped)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("text", "message must be a ChatMessage, got str"),
        (None, "message must be a ChatMessage, got NoneType"),
        ({"role": "user"}, "message must be a ChatMessage, got dict"),
        (OwnMessage(content="x"), "message must be a ChatMessage, got OwnMessage"),
        (changed(role="king"), "message.role must be one of .*, got 'king'"),
        (changed(blocks=None), "message.blocks must be a list, got NoneType"),
        (changed(blocks=["x"]), r"message.blocks\[0\] must be one of TextBlock, .*, got str"),
        (changed(blocks=[OwnBlock(text="x")]), "got OwnBlock"),
        (changed(blocks=[CacheControl(type="x")]), "got CacheControl"),
        (
            changed(blocks=[TextBlock.model_construct(text=5)]),
            r"message.blocks\[0\].text must be what TextBlock declares, got int",
        ),
        (
            changed(blocks=[TextBlock(text="\ud800")]),
            r"blocks\[0\].text must be text .*, got a lone surrogate",
        ),
        (changed(additional_kwargs=None), "message.additional_kwargs must be a dict"),
        (changed(additional_kwargs=UserDict()), "must be a dict, got UserDict"),
        (
            changed(additional_kwargs={"a": [0, object()]}),
            r"message.additional_kwargs\['a'\]\[1\] must be made of .*, got object",
        ),
        (changed(additional_kwargs={"a": print}), "got builtin_function_or_method"),
        (
            changed(additional_kwargs={"a": "\ud800"}),
            r"\['a'\] must be text .*, got a lone surrogate",
        ),
        (changed(additional_kwargs={"\ud800": 1}), "got a key with a lone surrogate"),
        (
            changed(additional_kwargs={object(): 1}),
            "message.additional_kwargs must be made of .*, got key of object",
        ),
        (
            changed(additional_kwargs={"a": datetime(2026, 1, 1, tzinfo=Zone())}),
            "got datetime with a Zone",
        ),
        (changed(additional_kwargs={"a": deep(300)}), "nested at most 200 levels"),
        (changed(additional_kwargs={"a": looped}), "nested at most 200 levels"),
    ],
)
def test_what_cannot_be_stored_is_refused(message: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        to_core(message, "message")


def test_what_nests_as_deep_as_allowed_comes_back() -> None:
    value: Any = 1
    for _ in range(60):
        value = {("key", 1): value}
    message = ChatMessage(additional_kwargs={"a": value})
    assert round_trip(message) == message


# Bytes that are not ours.

WRITTEN = Message("human", "x", format=FORMAT, tool_calls=(ToolCall("1", "f", {}),))


@pytest.mark.parametrize(
    "native",
    [
        b"\x02{}",
        b"\x01",
        b"\x01{",
        b"\x01[]",
        b"\x01\xff",
        *(
            b"\x03" + orjson.dumps(native)
            for native in (
                {"role": "king"},
                {"role": 5},
                {"blocks": 5},
                {"blocks": [["text"]]},
                {"blocks": [["text", {}]]},
                {"blocks": [["text", {"text": 5}]]},
                {"blocks": [["unknown", {}]]},
                {"blocks": [["builtins.eval", {"text": "1"}]]},
                {"blocks": [["image", 0]]},
                {"blocks": [["tool_call", 1]]},
                {"blocks": [["tool_call", -1]]},
                {"blocks": [["tool_call", True]]},
                {"blocks": [[[], {}]]},
                {"blocks": [["image", {"image": "text"}]]},
                {"blocks": [["image", {"image": {"\0bytes": "!"}}]]},
                {"blocks": [["image", {"url": {"\0url": ["HttpUrl", "no url"]}}]]},
                {"blocks": [["image", {"url": {"\0url": ["os.system", "http://a.b"]}}]]},
                {"blocks": [["citable", {"title": "", "source": "", "content": ["x"]}]]},
                {"kwargs": []},
                {"kwargs": {"\0unknown": 1}},
                {"kwargs": {"a": {"\0datetime": "x"}}},
                {"kwargs": {"a": {"\0block": 5}}},
                {"kwargs": {"a": {"\0block": ["text", {}]}}},
            )
        ),
    ],
)
def test_foreign_bytes_are_unreadable(native: bytes, caplog: pytest.LogCaptureFixture) -> None:
    message = dataclasses.replace(WRITTEN, native=native)
    with pytest.raises(Unreadable):
        from_core(message)
    # A conversation is still one.
    assert opened(message) == from_core(WRITTEN)
    assert "unreadable" in caplog.text


@settings(max_examples=200, deadline=None)
@given(messages, st.data())
def test_damaged_bytes_never_raise_anything_else(message: ChatMessage, draw: st.DataObject) -> None:
    written = to_core(message, "message")
    native = bytearray(written.native or b"\x03{}")
    for _ in range(draw.draw(st.integers(1, 3))):
        native[draw.draw(st.integers(0, len(native) - 1))] = draw.draw(st.integers(0, 255))
    try:
        assert type(from_core(dataclasses.replace(written, native=bytes(native)))) is ChatMessage
    except Unreadable:
        pass
