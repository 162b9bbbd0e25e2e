"""Random messages of every class, with every kind of value in them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from langchain_core.documents import Document
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

from tests.values import containers, keys, scalars, state, words

__all__ = ["chunk_messages", "dicts", "messages", "state", "words"]

MEDIA_BLOCKS: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    {"type": "thinking", "thinking": "hm", "signature": "x"},
]

counts = st.integers(0, 10**6)
values = st.recursive(
    scalars | st.binary(max_size=4).map(bytearray),
    lambda inner: (
        containers(inner)
        | st.builds(
            lambda text, metadata, kwargs: Document(text, metadata=metadata, **kwargs),
            words,
            st.dictionaries(keys, inner, max_size=2),
            st.sampled_from([{}, {"id": "d"}, {"id": None}, {"type": "Document"}]),
        )
    ),
    max_leaves=6,
)
dicts = st.dictionaries(words, values, max_size=3)
arguments = st.dictionaries(words, st.none() | st.booleans() | counts | words, max_size=3)
blocks = st.lists(
    words
    | st.builds(lambda text: {"type": "text", "text": text}, words)
    | st.builds(lambda text: {"text": text}, words)
    | dicts.filter(lambda block: "type" not in block and "text" not in block)
    | st.sampled_from(MEDIA_BLOCKS),
    max_size=3,
)
contents = words | blocks
usages = st.none() | st.builds(
    lambda i, o, details: {
        "input_tokens": i,
        "output_tokens": o,
        "total_tokens": i + o,
        **details,
    },
    counts,
    counts,
    st.sampled_from([{}, {"input_token_details": {"cache_read": 1}, "output_token_details": {}}]),
)
names = st.none() | words


def calls_with(args: st.SearchStrategy[dict[Any, Any]]) -> st.SearchStrategy[list[Any]]:
    return st.lists(
        st.builds(lambda n, a, i: {"name": n, "args": a, "id": i}, words, args, names), max_size=2
    )


invalid_calls = st.lists(
    st.builds(lambda n, a, i: {"name": n, "args": a, "id": i, "error": None}, names, names, names),
    max_size=2,
)
chunks = st.lists(
    st.builds(
        lambda n, a, i, x: {"name": n, "args": a, "id": i, "index": x},
        names,
        st.sampled_from(["", "{", '{"a": 1}', "[1]", None]),
        names,
        st.none() | counts,
    ),
    max_size=2,
)
common = {
    "content": contents,
    "additional_kwargs": dicts,
    "response_metadata": dicts,
    "name": names,
    "id": names,
}
some = {"additional_kwargs", "response_metadata", "name", "id"}


def made(cls: type[BaseMessage], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Messages of a class with some of its fields set."""
    required = {k: v for k, v in fields.items() if k in ("tool_call_id", "role", "name")}
    optional = {k: v for k, v in (common | fields).items() if k not in required}
    required["content"] = optional.pop("content")
    optional["custom_field"] = values
    return st.fixed_dictionaries(required, optional=optional).map(lambda kwargs: cls(**kwargs))


ai = {
    "tool_calls": calls_with(arguments | dicts),
    "invalid_tool_calls": invalid_calls,
    "usage_metadata": usages,
}
tool = {"tool_call_id": words, "artifact": values, "status": st.sampled_from(["success", "error"])}
chunk_messages = st.one_of(
    made(AIMessageChunk, usage_metadata=usages, tool_call_chunks=chunks),
    # Its constructor turns the arguments into JSON.
    made(
        AIMessageChunk,
        **ai | {"tool_calls": calls_with(arguments)},
        chunk_position=st.sampled_from([None, "last"]),
    ),
    made(HumanMessageChunk),
    made(SystemMessageChunk),
    made(ToolMessageChunk, **tool),
    made(FunctionMessageChunk, name=words),
    made(ChatMessageChunk, role=words),
)
messages = st.one_of(
    made(AIMessage, **ai),
    made(HumanMessage),
    made(SystemMessage),
    made(ToolMessage, **tool),
    made(FunctionMessage, name=words),
    made(ChatMessage, role=words),
    chunk_messages,
)
