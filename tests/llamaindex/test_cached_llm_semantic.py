"""`cached(llm, semantic=...)`: answers to the same question in other words."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.tools import FunctionTool

from llamaindex_redis_tiered import (
    CachedLLM,
    Tiers,
    cache_control,
    cache_of,
    cached,
    request_of,
    served_of,
)
from llamaindex_redis_tiered.llm import answer_text
from redis_tiered import LLMCache, SemanticPolicy
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict
from tests.llamaindex.scripted import Completing, Scripted, ask, texts, user
from tests.semantic.toy import Toy
from tests.servers import RedisServer

NEW = "topic1: put in a new way"


class ToyEmbedding(BaseEmbedding):
    """LlamaIndex's interface; can be pickled."""

    model_name: str = "all-MiniLM-L6-v2"

    def _get_query_embedding(self, query: str) -> list[float]:
        return Toy().embed([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_query_embedding(text)


def policy(**options: Any) -> SemanticPolicy:
    given = {"warmup": 0, "audit_rate": 0.0, "engine": "local", **options}
    return SemanticPolicy(ToyEmbedding(), **given)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture(autouse=True)
async def _closed_after(tiers: Tiers) -> Any:
    yield
    await tiers.aclose()


def about(messages: Sequence[ChatMessage]) -> ChatResponse:
    topic = (messages[-1].content or "").partition(":")[0]
    return ChatResponse(message=ChatMessage(role="assistant", content=f"about {topic}"))


class Topical(Completing):
    """Completes with the topic of its prompt."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.asked.note("complete")
        return CompletionResponse(text=f"about {prompt.partition(':')[0]}")


def always(asked: Asked) -> Verdict:
    return Verdict(True, "", None)


@pytest.fixture
def llm() -> Scripted:
    return Scripted(about)


@pytest.fixture
def fast(llm: Scripted, tiers: Tiers) -> Scripted:
    return cached(llm, tiers, jitter=0.0, semantic=policy())


def teach(model: Any, *before: ChatMessage, **options: Any) -> None:
    for topic in range(4):
        for wording in "abc":
            model.chat([*before, user(f"topic{topic}: wording {wording}")], **options)


def note(answer: Any) -> Any:
    last = answer[-1] if isinstance(answer, list) else answer
    return last.additional_kwargs.get("redis_tiered")


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_an_answer_to_other_words_tells_so(llm: Scripted, fast: Scripted, how: str) -> None:
    teach(fast)
    times = llm.asked.times
    first, second = [await ask(fast, how, NEW) for _ in range(2)]
    assert llm.asked.times == times
    assert texts(first) == texts(second) == "about topic1"
    told = note(first)
    assert told["prompt"].startswith("topic1: wording")
    assert told["cosine"] > 0.9
    assert note(second)["entry"] == told["entry"]
    assert note(second)["p"] is None
    assert note(await ask(fast, how, told["prompt"])) is None  # its own words
    assert cache_of(fast).stats().hits["semantic"] == 1


@pytest.mark.parametrize("how", ["complete", "astream_complete"])
async def test_completions(llm: Scripted, fast: Scripted, how: str) -> None:
    for topic in range(4):
        for wording in "abc":
            await ask(fast, how, f"topic{topic}: wording {wording}")
    times = llm.asked.times
    assert texts(await ask(fast, how, NEW)) == "about topic1"
    assert llm.asked.times == times


def test_a_function_that_shapes_prompts_keeps_it_apart(tiers: Tiers) -> None:
    llm = Topical(messages_to_prompt=lambda messages: f"<{messages[-1].content}>")
    fast = cached(llm, tiers, semantic=policy(rules=always))
    teach(fast)
    times = llm.asked.times
    assert note(fast.chat([user(NEW)]))["prompt"].startswith("topic1")
    assert llm.asked.times == times


def test_feedback(llm: Scripted, fast: Scripted) -> None:
    teach(fast)
    answer = fast.chat([user(NEW)])
    cache_of(fast).feedback(served_of(answer), correct=False)
    times = llm.asked.times
    assert note(fast.chat([user(NEW)])) is None
    assert llm.asked.times == times + 1
    assert note(list(fast.stream_chat([user(NEW)]))[-1]) is None


@pytest.mark.parametrize("wrong", [None, "x", ChatMessage("x")], ids=["none", "str", "message"])
def test_feedback_wants_an_answer_with_a_note(fast: Scripted, wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="without such a note"):
        served_of(wrong)
    with pytest.raises(InvalidInput, match="ChatResponse without such a note"):
        served_of(fast.chat([user("hello")]))


def test_explain(fast: Scripted) -> None:
    teach(fast)
    assert "topic1: wording" in str(cache_of(fast).explain(request_of(fast, [user(NEW)])))


def test_only_the_last_turn_may_differ(llm: Scripted, fast: Scripted) -> None:
    before = [
        ChatMessage("be kind", role="system"),
        user("hi"),
        ChatMessage("hi", role="assistant"),
    ]
    teach(fast, *before)
    times = llm.asked.times
    assert note(fast.chat([*before, user(NEW)]))
    assert llm.asked.times == times
    for other in (
        [ChatMessage("be rude", role="system"), *before[1:], user(NEW)],
        [before[0], user("hello"), before[2], user(NEW)],
        [user(NEW)],
    ):
        assert note(fast.chat(other)) is None
    assert note(fast.chat([*before, user(NEW)], temperature=0.9)) is None
    assert llm.asked.times == times + 4


@pytest.mark.parametrize(
    "messages",
    [
        [ChatMessage(blocks=[TextBlock(text=NEW), ImageBlock(image=b"x")])],
        [ChatMessage(blocks=[TextBlock(text=NEW), TextBlock(text="x")])],
        [user(NEW), ChatMessage("x", role="assistant")],
        [user("a"), ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": "c"})],
        [ChatMessage(NEW, additional_kwargs={"name": "me"})],
    ],
    ids=["image", "blocks", "assistant", "tool", "kwargs"],
)
def test_req_08_what_is_not_plain_text_serves_its_own_words_only(
    llm: Scripted, fast: Scripted, messages: list[ChatMessage]
) -> None:
    teach(fast)
    times = llm.asked.times
    for _ in range(2):
        assert note(fast.chat(messages)) is None
    assert llm.asked.times == times + 1


def test_req_08_where_tools_are_near_words_are_its_own(tiers: Tiers) -> None:
    tools = [FunctionTool.from_defaults(lambda city: city, name="weather", description="x")]
    fast = cached(Scripted(about), tiers, semantic=policy())
    for topic in range(4):
        for wording in "abc":
            fast.chat_with_tools(tools, f"topic{topic}: wording {wording}")
    assert note(fast.chat_with_tools(tools, NEW)) is None
    assert cache_of(fast).stats().semantic["skip.tools"] > 0
    react = ChatMessage("To use a tool say\nAction Input: {}", role="system")
    teach(fast, react)
    assert note(fast.chat([react, user(NEW)])) is None


def test_req_08_an_answer_that_calls_a_tool_serves_its_own_words_only(tiers: Tiers) -> None:
    call = ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs={})

    def say(messages: Any) -> ChatResponse:
        blocks = [*about(messages).message.blocks, call]
        return ChatResponse(message=ChatMessage(role="assistant", blocks=blocks))

    fast = cached(Scripted(say), tiers, semantic=policy(rules=always))
    teach(fast)
    assert note(fast.chat([user(NEW)])) is None
    assert cache_of(fast).stats().semantic["not_text"] > 0


def test_what_was_served_is_not_stored_with_its_note(llm: Scripted, fast: Scripted) -> None:
    teach(fast)
    answer = fast.chat([user(NEW)])
    history = [user(NEW), answer.message, user("topic2: wording x")]
    assert "redis_tiered" not in answer.message.additional_kwargs
    fast.chat(history)
    assert note(fast.chat(history)) is None


async def test_many_at_once_in_the_same_new_words(llm: Scripted, fast: Scripted) -> None:
    teach(fast)
    times = llm.asked.times
    answers = await asyncio.gather(*(ask(fast, "astream_chat", NEW) for _ in range(8)))
    assert {texts(answer) for answer in answers} == {"about topic1"}
    assert llm.asked.times == times


def test_control(llm: Scripted, fast: Scripted) -> None:
    teach(fast)
    times = llm.asked.times
    with cache_control(semantic=False):
        assert note(fast.chat([user(NEW)])) is None
    assert note(fast.chat([user(f"{NEW} again")], cache=False)) is None
    assert llm.asked.times == times + 2


def test_copies_pickles_and_other_models(tiers: Tiers, fast: Scripted) -> None:
    teach(fast)
    assert note(copy.deepcopy(fast).chat([user(f"{NEW} 1".replace(" 1", " one"))]))
    shared = cached(Scripted(about), cache=cache_of(fast))
    assert note(shared.chat([user("topic2: in a new way")]))
    wrapped = CachedLLM.of(Completing(), tiers, semantic=policy())
    again = pickle.loads(pickle.dumps(wrapped))
    assert cache_of(again).semantic


def test_a_ready_cache_must_read_these_answers(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="read_answer"):
        cached(Scripted(), cache=LLMCache(tiers, semantic=policy()))
    ready = LLMCache(tiers, name="another", semantic=policy(), read_answer=answer_text)
    fast = cached(Scripted(about), cache=ready)
    teach(fast)
    assert note(fast.chat([user(NEW)]))
