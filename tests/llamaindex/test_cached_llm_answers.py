"""Which answers of a cached model are stored, and how they come back."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.callbacks.token_counting import get_tokens_from_response
from llama_index.llms.openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageToolCall
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import BaseModel, ConfigDict

from demo.openai_server import OpenAIServer
from llamaindex_redis_tiered import Tiers, cache_of, cached
from llamaindex_redis_tiered.llm.codec import answer_text, decode, encode
from llamaindex_redis_tiered.llm.outcome import is_empty, objection, usage_of
from llamaindex_redis_tiered.llm.replay import Recorder, pieces, replayed
from redis_tiered.errors import Uncacheable, Unreadable
from redis_tiered.llm_cache.stats import Usage
from tests.llamaindex.scripted import Scripted, ask, texts, user
from tests.servers import RedisServer


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


def said(*blocks: Any, **kwargs: Any) -> ChatResponse:
    """An answer of these blocks; texts are text blocks."""
    made = [TextBlock(text=block) if isinstance(block, str) else block for block in blocks]
    message = ChatMessage(role="assistant", blocks=made, additional_kwargs=kwargs.pop("extra", {}))
    return ChatResponse(message=message, **kwargs)


def through(response: Any, **options: Any) -> Any:
    return decode(encode(response, **options)).response


class Opaque:
    """Such as a message of a protocol: nothing can be said of it."""


class Sent(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    usage: Any = None
    thing: Any = None


SPOKEN = ChatCompletionMessageToolCall.model_validate(
    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 3}
)
PIECE = ChoiceDeltaToolCall.model_validate({"id": "c", "index": 0, "function": {"name": "f"}})


# --- what is stored --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"choices": [{"finish_reason": "length"}]}, "truncated"),
        ({"stop_reason": "max_tokens"}, "truncated"),
        ({"stopReason": "max_tokens"}, "truncated"),
        ({"done_reason": "length"}, "truncated"),
        ({"response": {"status": "incomplete"}}, "truncated"),
        ({"candidates": [{"finish_reason": "FinishReason.MAX_TOKENS"}]}, "truncated"),
        ({"choices": [{"finish_reason": "content_filter"}]}, "refused"),
        ({"choices": [{"message": {"refusal": "No."}}]}, "refused"),
        ({"choices": [{"delta": {"refusal": "No."}}]}, "refused"),
        ({"stop_reason": "refusal"}, "refused"),
        ({"candidates": [{"finish_reason": "SAFETY"}]}, "refused"),
        ({"status": "failed"}, "failed"),
        ({"choices": [{}, {}]}, "several_answers"),
        ({"choices": [{"index": 1, "finish_reason": "stop"}]}, "several_answers"),
        ({"choices": [{"finish_reason": "stop"}]}, None),
        ({"choices": [{"finish_reason": "tool_calls"}]}, None),
        ({"stop_reason": "end_turn"}, None),
        ({"status": "completed"}, None),
        ({"finish_reason": 5, "choices": "x", "response": []}, None),
        (None, None),
        (Opaque(), None),
    ],
    ids=itertools.count(),
)
def test_req_09_what_a_provider_says_of_its_answer(raw: Any, why: str | None) -> None:
    assert objection(said("hi", raw=raw)) == why
    assert objection(CompletionResponse(text="hi", raw=raw)) == why
    if isinstance(raw, dict):
        as_objects = SimpleNamespace(
            **{
                key: [SimpleNamespace(**each) for each in value]
                if isinstance(value, list) and value and isinstance(value[0], dict)
                else value
                for key, value in raw.items()
            }
        )
        assert objection(said("hi", raw=as_objects)) == why


def test_reasons_as_enums_and_elsewhere() -> None:
    class Reason(Enum):
        MAX_TOKENS = 2

    assert (
        objection(said("hi", raw=SimpleNamespace(finish_reason=Reason.MAX_TOKENS))) == "truncated"
    )
    assert objection(said("hi", extra={"stop_reason": "max_tokens"})) == "truncated"
    assert objection(said("hi", additional_kwargs={"finish_reason": "length"})) == "truncated"

    class Failing:
        @property
        def finish_reason(self) -> str:
            raise RuntimeError

    assert objection(said("hi", raw=Failing())) is None


@pytest.mark.parametrize(
    ("response", "empty"),
    [
        (said(), True),
        (said(""), True),
        (said(" \n"), True),
        (said(ThinkingBlock(content="hm")), True),
        (said("", ThinkingBlock(content="hm")), True),
        (said("", ToolCallBlock(tool_name="f", tool_kwargs={})), False),
        (said("", extra={"tool_calls": [SPOKEN]}), False),
        (said(ImageBlock(image=b"x")), False),
        (CompletionResponse(text=""), True),
        (CompletionResponse(text="x"), False),
    ],
    ids=str,
)
def test_req_09_empty_answers(response: Any, empty: bool) -> None:
    assert is_empty(response) == empty


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "complete", "stream_complete"])
@pytest.mark.parametrize("reason", ["content_filter", "length", "stop"])
async def test_req_09_over_http(
    tiers: Tiers, provider: OpenAIServer, how: str, reason: str
) -> None:
    llm = openai(provider)
    async with llm._get_aclient():
        fast = cached(llm, tiers)
        provider.finish_next(reason)
        await ask(fast, how, "hello")
        await ask(fast, how, "hello")
        if how == "complete":
            assert cache_of(fast).stats().misses == provider.calls
    assert provider.calls == (1 if reason == "stop" else 2)
    await tiers.aclose()


async def test_truncated_answers_by_option(tiers: Tiers, provider: OpenAIServer) -> None:
    fast = cached(openai(provider, max_tokens=2), tiers, store_truncated=True)
    for how in ("chat", "stream_complete"):
        first = await ask(fast, how, "hello")
        assert texts(await ask(fast, how, "hello")) == texts(first)
    assert provider.calls == 2


async def test_several_answers_are_not_stored(tiers: Tiers, provider: OpenAIServer) -> None:
    fast = cached(openai(provider), tiers)
    for _ in range(2):
        fast.chat([user("hello")], n=3)
        list(fast.stream_chat([user("hello")], n=3))
    assert provider.calls == 4
    assert cache_of(fast).stats().skipped == {"several_answers": 4}


@pytest.fixture(scope="module")
def _server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def provider(_server: OpenAIServer) -> OpenAIServer:
    _server.reset()
    return _server


def openai(provider: OpenAIServer, **options: Any) -> OpenAI:
    return OpenAI(
        **{"model": "gpt-4o-mini", "api_base": provider.base_url, "api_key": "none", **options}
    )


# --- how it comes back -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        said("hi"),
        said("hi", "there"),
        said(),
        said("", ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={"a": [1, None]})),
        said(ToolCallBlock(tool_call_id=None, tool_name="f", tool_kwargs='{"a": 1')),
        said(ThinkingBlock(content="hm", num_tokens=3, additional_information={"signature": "x"})),
        said(ThinkingBlock(content=None)),
        said(ImageBlock(image=b"\x89PNG")),
        said(ImageBlock(url="http://h/a.png", detail="low")),
        said(AudioBlock(audio=b"x", format="mp3")),
        said(VideoBlock(video=b"x", fps=3)),
        said(DocumentBlock(data=b"x", document_mimetype="text/plain")),
        said(CachePoint(cache_control={"type": "ephemeral"})),
        said(CitableBlock(title="t", source="s", content=[TextBlock(text="x")])),
        said("hi", extra={"data": b"\x00\xff", "tuple": (1, 2), "when": datetime.now(UTC)}),
        said("hi", extra={"\0a": 1, "b": {"\0bytes": "x"}, "big": 1 << 70}),
        said("hi", extra={"tool_calls": [SPOKEN, PIECE]}),
        said("hi", additional_kwargs={"prompt_tokens": 3, "b": b"x"}),
        said("hi", logprobs=[[LogProb(token="a", logprob=-0.5, bytes=[97])], []]),
        said("hi", raw={"id": 1, "usage": {"prompt_tokens": 3}}),
        said("hi", raw=[1, 2]),
        CompletionResponse(text="hi", raw={"a": 1}, additional_kwargs={"n": 1}),
        CompletionResponse(text="", logprobs=[[LogProb(token="a")]]),
    ],
    ids=str,
)
def test_req_07_an_answer_comes_back_equal(response: Any) -> None:
    before = copy.deepcopy(response)
    payload = encode(response)
    back = decode(payload).response
    assert back == before
    assert type(back) is type(before)
    assert response == before
    assert decode(payload).response is not back
    if isinstance(back, ChatResponse):
        assert type(back.message.role) is MessageRole
        assert back.message.model_dump() == before.message.model_dump()
    pickle.dumps(back)


def test_req_07_objects_of_openai_come_back_as_such() -> None:
    back = through(said("", extra={"tool_calls": [SPOKEN, PIECE]})).message.additional_kwargs
    for found, was in zip(back["tool_calls"], [SPOKEN, PIECE], strict=True):
        assert type(found) is type(was)
        assert type(found.function) is type(was.function)
        assert found.model_dump() == was.model_dump()
        assert found.model_dump(exclude_unset=True) == was.model_dump(exclude_unset=True)
    assert back["tool_calls"][0].type == "function"


def test_objects_of_openai_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encode(said("", extra={"tool_calls": [SPOKEN]}))
    monkeypatch.setattr(
        "llamaindex_redis_tiered.llm.codec.import_module",
        lambda name: (_ for _ in ()).throw(ImportError),
    )
    [call] = decode(payload).response.message.additional_kwargs["tool_calls"]
    assert call["function"]["name"] == "f"


@pytest.mark.parametrize(
    "named",
    ["os:system", "openai.types:os", "openai.types.chat:__name__", "openai.typesx:A", "", "x", 5],
    ids=str,
)
def test_no_other_class_is_made(named: Any) -> None:
    payload = encode(said("", extra={"tool_calls": [SPOKEN]}))
    name = b"openai.types.chat.chat_completion_message_function_tool_call:"
    start = payload.index(b'"openai.types')
    end = payload.index(b'"', start + 1) + 1
    assert payload[start + 1 :].startswith(b"openai.types.chat"), name
    forged = payload[:start] + (b"5" if named == 5 else f'"{named}"'.encode()) + payload[end:]
    if named == 5:
        with pytest.raises(Unreadable):
            decode(forged)
        return
    [call] = decode(forged).response.message.additional_kwargs["tool_calls"]
    assert type(call) is dict


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (None, None),
        (Opaque(), None),
        ("text", "text"),
        (5, 5),
        (Sent(usage={"input_tokens": 3}, thing=Opaque()), {"usage": {"input_tokens": 3}}),
        ({"a": 1, "b": Opaque(), 5: 6}, {"a": 1}),
        ({"a": Sent(usage=1)}, {"a": {"usage": 1, "thing": None}}),
        ({"a": np.float32(1)}, {}),
        (Sent(usage=Sent(usage=2)), {"usage": {"usage": 2, "thing": None}, "thing": None}),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ({"\0a": 1}, {"\0a": 1}),
    ],
    ids=itertools.count(),
)
def test_req_06_raw_is_kept_as_far_as_it_can_be(raw: Any, kept: Any) -> None:
    assert through(said("hi", raw=raw)).raw == kept
    assert through(CompletionResponse(text="hi", raw=raw)).raw == kept


def test_req_06_a_raw_that_holds_itself() -> None:
    raw: dict[str, Any] = {"a": 1}
    raw["self"] = raw
    assert through(said("hi", raw=raw)).raw == {"a": 1}


def test_req_06_tokens_can_be_counted() -> None:
    sent = ChatCompletion.model_validate(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini-2024",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "hi"},
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        }
    )
    back = through(said("hi", raw=sent))
    assert back.raw == sent.model_dump()
    assert get_tokens_from_response(back) == (3, 4)
    assert usage_of("m", {}, back.raw) == Usage("gpt-4o-mini-2024", 3, 4)


@pytest.mark.parametrize(
    ("additional", "raw", "usage"),
    [
        ({}, None, Usage("m")),
        ({"prompt_tokens": 3, "completion_tokens": 4}, None, Usage("m", 3, 4)),
        ({}, {"usage": {"input_tokens": 3, "output_tokens": 4}}, Usage("m", 3, 4)),
        ({}, {"usage_metadata": {"prompt_token_count": 3}}, Usage("m", 3, 0)),
        ({}, {"prompt_eval_count": 3, "eval_count": 4, "model": "llama"}, Usage("llama", 3, 4)),
        ({}, {"usage": {"prompt_tokens": "3"}}, Usage("m")),
        ({}, {"usage": {"prompt_tokens": -3}}, Usage("m")),
        ({}, "text", Usage("m")),
        ({"prompt_tokens": 5}, {"usage": None}, Usage("m", 5, 0)),
    ],
    ids=str,
)
def test_usage(additional: Any, raw: Any, usage: Usage) -> None:
    assert usage_of("m", additional, raw) == usage


class Mine(ChatMessage):
    """A user's own."""


@pytest.mark.parametrize(
    ("response", "path"),
    [
        (said("hi", extra={"a": [Opaque()]}), "message.additional_kwargs['a'][0]: Opaque"),
        (said("hi", extra={"a": np.float32(1)}), "message.additional_kwargs['a']: float32"),
        (said("hi", additional_kwargs={"a": Opaque()}), "additional_kwargs['a']: Opaque"),
        (said("\ud800"), "message.blocks[0].text"),
        (CompletionResponse(text="\ud800"), "text"),
        (ChatResponse(message=Mine(content="x")), "message: Mine"),
    ],
    ids=lambda given: "" if not isinstance(given, str) else given,
)
def test_what_cannot_be_stored(tiers: Tiers, response: Any, path: str) -> None:
    with pytest.raises(Uncacheable) as caught:
        encode(response)
    assert caught.value.reason == "unserializable_answer"
    assert path in caught.value.detail
    if isinstance(response, ChatResponse):
        llm = Scripted(lambda messages: response)
        fast = cached(llm, tiers)
        for _ in range(2):
            assert fast.chat([user("hello")]) is response
        assert cache_of(fast).stats().skipped == {"unserializable_answer": 2}


def test_a_file_in_a_block_is_stored_as_its_bytes() -> None:
    block = ImageBlock.model_construct(
        image=io.BytesIO(b"one"), path=None, url=None, image_mimetype=None, detail=None
    )
    response = said("hi")
    response.message.blocks.append(block)
    assert through(response).message.blocks[1] == ImageBlock(image=b"one")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\x01{}",
        b"\x01[]",
        b'\x01["chat",false,[],null,null,{},[null,null]]',
        b'\x01["chat",false,["nobody",[],{}],null,null,{},[null,null]]',
        b'\x01["chat",false,["assistant",[],5],null,null,{},[null,null]]',
        b'\x01["chat",false,["assistant",[["text",{"text":5}]],{}],null,null,{},[null,null]]',
        b'\x01["chat",5,["assistant",[],{}],null,null,{},[null,null]]',
        b'\x01["complete",false,5,null,null,{},[null,null]]',
        b'\x01["complete",false,"x",null,[5],{},[null,null]]',
        b'\x01["complete",false,"x",null,null,5,[null,null]]',
        b'\x01["complete",false,"x",null,null,{},[5,null]]',
        b'\x01["other",false,"x",null,null,{},[null,null]]',
        b"\x07[]",
        b"plain text",
    ],
    ids=repr,
)
def test_foreign_bytes_are_a_miss(tiers: Tiers, payload: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(payload)
    assert answer_text(payload) is None
    if payload:
        from llamaindex_redis_tiered import request_of

        llm = Scripted()
        fast = cached(llm, tiers)
        cache_of(fast).update(request_of(fast, [user("hello")]), payload)
        for _ in range(2):
            assert texts(fast.chat([user("hello")])) == "You said: hello"
        assert llm.asked.times == 1
        assert sum(cache_of(fast).stats().unreadable.values()) == 1


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (said("hi"), "hi"),
        (said("hi", "there"), "hi\nthere"),
        (said("hi", ThinkingBlock(content="hm")), "hi"),
        (said("hi", ToolCallBlock(tool_name="f", tool_kwargs={})), None),
        (said("hi", ImageBlock(image=b"x")), None),
        (said("hi", extra={"tool_calls": [SPOKEN]}), None),
        (said(ThinkingBlock(content="hm")), None),
        (CompletionResponse(text="hi"), "hi"),
    ],
    ids=str,
)
def test_the_text_of_an_answer(response: Any, text: str | None) -> None:
    assert answer_text(encode(response)) == text


# --- streams ---------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=400)


@given(TEXT)
def test_pieces_make_the_text(text: str) -> None:
    found = list(pieces(text))
    assert "".join(found) == text
    assert 1 <= len(found) <= 65
    assert all(found) or text == ""


def test_pieces_of_words_keep_words() -> None:
    text = "These are some words that make a sentence of a usual length."
    first, *others = pieces(text)
    assert others
    assert not any(piece[-1].isspace() for piece in (first, *others))
    assert all(piece[0].isspace() for piece in others)
    assert len(list(pieces("x" * 100_000))) <= 65


BLOCKS = st.lists(
    st.one_of(
        TEXT.map(lambda text: TextBlock(text=text)),
        TEXT.map(lambda text: ThinkingBlock(content=text)),
        st.just(ToolCallBlock(tool_name="f", tool_kwargs={"a": 1})),
    ),
    max_size=4,
)


@given(BLOCKS, st.booleans())
def test_req_02_a_replay_adds_up(blocks: list[Any], streamed: bool) -> None:
    response = said(*blocks, additional_kwargs={"a": 1}, raw={"b": 2})
    chunks = list(replayed(decode(encode(response, streamed=streamed))))
    assert "".join(chunk.delta or "" for chunk in chunks) == (response.message.content or "")
    last = chunks[-1]
    assert isinstance(last, ChatResponse)
    assert (last.message, last.raw) == (response.message, response.raw)
    assert last.additional_kwargs == response.additional_kwargs
    sofar = ""
    for chunk in chunks[:-1]:
        assert isinstance(chunk, ChatResponse)
        sofar += chunk.delta or ""
        assert (chunk.message.content or "") == sofar
        assert chunk.message.role == "assistant"


@given(TEXT)
def test_req_02_a_replay_of_a_completion_adds_up(text: str) -> None:
    sofar = ""
    for chunk in replayed(decode(encode(CompletionResponse(text=text)))):
        sofar += chunk.delta or ""
        assert isinstance(chunk, CompletionResponse)
        assert chunk.text == sofar
    assert sofar == text


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8))
def test_req_02_a_replay_of_a_stream_says_what_it_said(deltas: list[str]) -> None:
    """Even where the text of its last piece is another: as of `MockLLM(max_tokens=...)`."""
    recorder = Recorder()
    for delta in deltas:
        recorder.see(said("the whole of it", delta=delta))
    try:
        chunks = list(replayed(decode(recorder.payload())))
    except Uncacheable:
        assert any("\ud800" <= c <= "\udfff" for delta in deltas for c in delta)
        return
    assert "".join(chunk.delta or "" for chunk in chunks) == ("".join(deltas) or "the whole of it")
    assert texts(chunks) == "the whole of it"


def test_thinking_is_replayed() -> None:
    thought = "I had better think about this for quite a while"
    response = said(ThinkingBlock(content=thought), "Yes.")
    chunks = list(replayed(decode(encode(response))))
    deltas = [chunk.additional_kwargs.get("thinking_delta") for chunk in chunks]
    assert "".join(delta for delta in deltas if delta) == thought
    assert [chunk.delta for chunk in chunks if chunk.delta] == ["Yes."]
    # A stream that told nothing of its thinking while it thought
    silent = list(replayed(decode(encode(response, streamed=True))))
    assert len(silent) == 1
    recorder = Recorder()
    for delta in ("I had", " better"):
        recorder.see(said(delta="", additional_kwargs={"thinking_delta": delta}))
    recorder.see(said(ThinkingBlock(content="I had better"), "Yes.", delta="Yes."))
    again = list(replayed(decode(recorder.payload())))
    told = "".join(chunk.additional_kwargs.get("thinking_delta", "") for chunk in again)
    assert told == "I had better"
    assert texts(again) == "Yes."


def test_a_recorder_keeps_what_was_said_not_what_became_of_it() -> None:
    recorder = Recorder()
    response = said("hi", extra={"a": 1}, additional_kwargs={"b": 2})
    recorder.see(response)
    response.message.blocks.clear()
    response.message.additional_kwargs.clear()
    response.additional_kwargs.clear()
    back = decode(recorder.payload()).response
    assert back == said("hi", extra={"a": 1}, additional_kwargs={"b": 2})


def test_a_recorder_remembers_an_objection() -> None:
    """OpenAI's last piece tells the usage, and no reason any more."""
    recorder = Recorder()
    recorder.see(said("hi", raw={"choices": [{"finish_reason": "length"}]}))
    recorder.see(said("hi", raw={"choices": [], "usage": {}}))
    assert recorder.objection() == "truncated"
    assert Recorder().objection() == "empty"
    with pytest.raises(Uncacheable):
        Recorder().payload()
