"""RedisTieredCache with a semantic policy, under chat models, completion models, chains and agents' calls."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.tools import tool

from langchain_redis_tiered import RedisTieredCache, Tiers, cache_control
from redis_tiered import SemanticPolicy
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.cacheable import Asked, CacheRules, Verdict
from tests.semantic.toy import Toy
from tests.servers import RedisServer


class ToyEmbeddings(Embeddings):
    """LangChain's interface; can be pickled."""

    model = "all-MiniLM-L6-v2"

    def embed_query(self, text: str) -> list[float]:
        return Toy().embed([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return Toy().embed(texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToyEmbeddings)

    def __hash__(self) -> int:
        return 1


class Model(BaseChatModel):
    """Says what the topic of the last message is; counts how often it is asked."""

    asked: list[str] = []  # noqa: RUF012 - a field of pydantic's
    call_tool: bool = False
    number: int = 1
    blocks: bool = False

    @property
    def _llm_type(self) -> str:
        return "topics"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=[{"name": each.name, "args": each.args} for each in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[self._say(messages) for _ in range(self.number)])

    def _say(self, messages: list[BaseMessage]) -> ChatGeneration:
        text = messages[-1].text
        self.asked.append(str(text))
        answer: Any = f"about {text.partition(':')[0].lower()}"
        if self.blocks:
            answer = [{"type": "text", "text": answer}]
        calls = [{"name": "f", "args": {}, "id": "1"}] if self.call_tool else []
        return ChatGeneration(message=AIMessage(answer, tool_calls=calls))

    def _stream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        said = self._say(messages).message
        for word in str(said.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))


class Completions(LLM):
    asked: list[str] = []  # noqa: RUF012 - a field of pydantic's

    @property
    def _llm_type(self) -> str:
        return "completions"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        self.asked.append(prompt)
        return f"about {prompt.partition(':')[0].lower()}"


@tool
def lamp(state: str) -> str:
    """Switch a lamp."""
    return state


def policy(**options: Any) -> SemanticPolicy:
    return SemanticPolicy(
        ToyEmbeddings(), **{"warmup": 0, "audit_rate": 0.0, "engine": "local"} | options
    )


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
async def atiers(valkey: RedisServer, sqlite_url: str) -> AsyncIterator[Tiers]:
    async with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def cache(tiers: Tiers) -> RedisTieredCache:
    return RedisTieredCache(tiers, jitter=0.0, semantic=policy())


def teach(model: Any, topics: int = 4, **invoke: Any) -> None:
    for topic in range(topics):
        for wording in "abc":
            model.invoke(f"topic{topic}: wording {wording}", **invoke)


def note(answer: BaseMessage) -> Any:
    return answer.response_metadata.get("redis_tiered")


def test_an_answer_to_other_words_tells_so(cache: RedisTieredCache) -> None:
    model = Model(cache=cache)
    teach(model)
    model.asked.clear()
    first, second = (model.invoke("topic1: put in a new way") for _ in range(2))
    assert model.asked == []
    assert first.content == second.content == "about topic1"
    assert first.id != second.id
    told = note(first)
    assert told["prompt"].startswith("topic1: wording")
    assert told["cosine"] > 0.9
    assert 0.9 <= told["p"] <= 1.0
    assert note(second)["entry"] == told["entry"]
    assert note(second)["p"] is None
    assert note(model.invoke(told["prompt"])) is None  # its own words
    stats = cache.stats()
    assert stats.hits["semantic"] == 1
    assert stats.semantic["served"] == 1


async def test_the_same_with_asyncio(atiers: Tiers) -> None:
    cache = RedisTieredCache(atiers, semantic=policy())
    model = Model(cache=cache)
    for topic in range(4):
        for wording in "abc":
            await model.ainvoke(f"topic{topic}: wording {wording}")
    model.asked.clear()
    answer = await model.ainvoke("topic1: put in a new way")
    assert model.asked == []
    assert note(answer)["prompt"].startswith("topic1: wording")
    await cache.afeedback(answer, correct=False)
    assert cache.stats().semantic["feedback.wrong"] == 1


def test_feedback_forgets(cache: RedisTieredCache) -> None:
    model = Model(cache=cache)
    teach(model)
    answer = model.invoke("topic1: put in a new way")
    cache.feedback(pickle.loads(pickle.dumps(answer)), correct=True)
    cache.feedback(answer, correct=False)
    again = model.invoke("topic1: put in a new way")
    assert note(again) is None or note(again)["entry"] != note(answer)["entry"]
    assert cache.stats().semantic["feedback.wrong"] == 1
    assert cache.stats().semantic["feedback.right"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        AIMessage("x"),
        AIMessage("x", response_metadata={"redis_tiered": {"asked": "a"}}),
        AIMessage("x", response_metadata={"redis_tiered": 3}),
        Generation(text="x"),
        "x",
        None,
    ],
    ids=["no note", "part of a note", "no mapping", "generation", "text", "none"],
)
def test_feedback_wants_an_answer_with_a_note(cache: RedisTieredCache, answer: Any) -> None:
    with pytest.raises(InvalidInput, match="answer must be"):
        cache.feedback(answer, correct=True)


def test_a_note_that_was_tampered_with_is_refused(cache: RedisTieredCache) -> None:
    model = Model(cache=cache)
    teach(model, topics=2)
    names = ("asked", "entry", "model", "prompt", "p", "cosine")
    given = note(model.invoke("topic1: put in a new way"))
    spoilt: list[dict[str, Any]] = [
        dict.fromkeys(names, value)
        for value in (None, 3, "*", "{x}", ["a"], "x" * 100_000, "a\0b", "\ud800")
    ]
    spoilt += [
        {**given, "p": 7.0},
        {**given, "p": None, "model": "m"},
        {**given, "entry": "0" * 31},
    ]
    for notes in spoilt:
        answer = AIMessage("x", response_metadata={"redis_tiered": notes})
        with pytest.raises(InvalidInput):
            cache.feedback(answer, correct=False)
    unknown = AIMessage("x", response_metadata={"redis_tiered": {**given, "entry": "0" * 32}})
    cache.feedback(unknown, correct=True)
    model.asked.clear()
    teach(model, topics=2)
    assert model.asked == []


class Spy(RedisTieredCache):
    """Knows what LangChain looked up."""

    llm_string = ""

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        self.llm_string = llm_string
        return super().lookup(prompt, llm_string)


def test_explain_says_it_in_words(tiers: Tiers) -> None:
    cache = Spy(tiers, semantic=policy())
    model = Completions(cache=cache)
    teach(model)
    llm_string = cache.llm_string
    told = cache.explain("topic1: put in a new way", llm_string)
    assert told.outcome == "served"
    assert "topic1: wording" in str(told)
    assert cache.explain("topic1: wording a", llm_string).outcome == "exact"
    assert str(cache.explain("topic1: put in a new way"))


def test_completion_models(cache: RedisTieredCache) -> None:
    model = Completions(cache=cache)
    teach(model)
    model.asked.clear()
    assert model.invoke("topic1: put in a new way") == "about topic1"
    result = model.generate(["topic2: put in a new way", "topic9: of no kind"])
    [[served], [fresh]] = result.generations
    assert model.asked == ["topic9: of no kind"]
    assert (served.generation_info or {})["redis_tiered"]["prompt"].startswith("topic2: wording")
    assert "redis_tiered" not in (fresh.generation_info or {})
    cache.feedback(served, correct=False)


def test_only_the_last_turn_may_differ(cache: RedisTieredCache) -> None:
    model = Model(cache=cache)

    def conversation(system: str, earlier: str, prompt: str) -> list[BaseMessage]:
        return [SystemMessage(system), HumanMessage(earlier), AIMessage("ok"), HumanMessage(prompt)]

    for topic in range(4):
        for wording in "abc":
            model.invoke(conversation("be kind", "hello", f"topic{topic}: wording {wording}"))
    model.asked.clear()
    assert note(model.invoke(conversation("be kind", "hello", "topic1: put in a new way")))
    assert model.asked == []
    others: list[Callable[[], BaseMessage]] = [
        lambda: model.invoke(conversation("be brief", "hello", "topic1: put in a new way")),
        lambda: model.invoke(conversation("be kind", "hello!!", "topic1: put in a new way")),
        lambda: model.invoke("topic1: put in a new way"),
        lambda: model.invoke(
            conversation("be kind", "hello", "topic1: put in a new way"), stop=["x"]
        ),
        lambda: model.bind_tools([lamp]).invoke(
            conversation("be kind", "hello", "topic1: put in a new way")
        ),
    ]
    for number, other in enumerate(others, 1):
        assert note(other()) is None, number
        assert len(model.asked) >= number, number


def test_what_does_not_end_in_a_user_s_text_is_answered_by_itself_only(
    cache: RedisTieredCache,
) -> None:
    model = Model(cache=cache)
    teach(model)
    model.asked.clear()
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for messages in (
        [
            HumanMessage("topic1: x"),
            call,
            ToolMessage("topic1: put in a new way", tool_call_id="1"),
        ],
        [HumanMessage([{"type": "text", "text": "topic1: put in a new way"}, picture])],
        [HumanMessage("topic1: wording a"), AIMessage("topic1: prefill")],
    ):
        assert note(model.invoke(messages)) is None
        assert note(model.invoke(messages)) is None
    assert len(model.asked) == 3


def always(asked: Asked) -> Verdict:
    return Verdict(True, "", None)


@pytest.mark.parametrize("rules", [None, always], ids=["default", "always"])
def test_calls_of_tools_serve_their_own_words_only(tiers: Tiers, rules: Any) -> None:
    cache = RedisTieredCache(tiers, semantic=policy(rules=rules))
    model = Model(cache=cache, call_tool=True)
    bound = model.bind_tools([lamp])
    for wording in "abc":
        for topic in range(3):
            bound.invoke(f"topic{topic}: wording {wording}")
    model.asked.clear()
    answer = bound.invoke("topic1: put in a new way")
    assert note(answer) is None
    assert len(model.asked) == 1
    assert bound.invoke("topic1: wording a").tool_calls
    assert len(model.asked) == 1


def test_an_answer_that_becomes_a_call_serves_no_other_words(tiers: Tiers) -> None:
    cache = RedisTieredCache(tiers, semantic=policy(rules=CacheRules(tools="allow")))
    model = Model(cache=cache)
    teach(model)
    model.call_tool = True
    with cache_control(refresh=True):
        for wording in "abc":
            model.invoke(f"topic1: wording {wording}")
    model.call_tool = False
    answer = model.invoke("topic1: put in a new way")
    assert note(answer) is None
    assert not answer.tool_calls


def test_several_generations_serve_their_own_words_only(cache: RedisTieredCache) -> None:
    model = Model(cache=cache, number=2)
    for wording in "abc":
        for topic in range(3):
            model.generate([[HumanMessage(f"topic{topic}: wording {wording}")]])
    model.asked.clear()
    [[one, two]] = model.generate([[HumanMessage("topic1: wording a")]]).generations
    assert model.asked == []
    assert note(one.message) is note(two.message) is None  # type: ignore[attr-defined]
    model.generate([[HumanMessage("topic1: put in a new way")]])
    assert len(model.asked) == 2
    assert cache.stats().semantic["not_text"] == 10


def test_text_in_blocks_is_text(cache: RedisTieredCache) -> None:
    model = Model(cache=cache, blocks=True)
    teach(model)
    model.asked.clear()
    answer = model.invoke("topic1: put in a new way")
    assert note(answer)
    assert answer.content == [{"type": "text", "text": "about topic1"}]
    assert model.asked == []


def test_streams(cache: RedisTieredCache) -> None:
    """LangChain asks no cache for a stream; what one changes nothing of what is stored."""
    model = Model(cache=cache)
    teach(model)
    model.asked.clear()
    whole = "".join(str(chunk.content) for chunk in model.stream("topic1: put in a new way"))
    assert whole.split() == ["about", "topic1"]
    assert len(model.asked) == 1
    assert note(model.invoke("topic1: put in a new way"))
    assert len(model.asked) == 1


def test_what_was_served_is_not_kept_with_its_note(cache: RedisTieredCache) -> None:
    """An answer that a user stores again, or puts into a conversation, is not taken for served."""
    model = Model(cache=cache)
    teach(model)
    answer = model.invoke("topic1: put in a new way")
    later = [HumanMessage("topic1: put in a new way"), answer, HumanMessage("topic2: and this")]
    plain = [later[0], AIMessage(answer.content), later[2]]
    model.invoke(later)
    model.asked.clear()
    model.invoke(plain)
    assert model.asked == []


async def test_many_at_once_in_the_same_new_words(atiers: Tiers) -> None:
    cache = RedisTieredCache(atiers, semantic=policy())
    model = Model(cache=cache)
    for topic in range(4):
        for wording in "abc":
            await model.ainvoke(f"topic{topic}: wording {wording}")
    model.asked.clear()
    answers = await asyncio.gather(*(model.ainvoke("topic1: put in a new way") for _ in range(30)))
    assert model.asked == []
    assert {answer.content for answer in answers} == {"about topic1"}
    assert all(note(answer) for answer in answers)
    assert len({answer.id for answer in answers}) == 30
    assert cache.stats().semantic["served"] == 1


def test_copies(tiers: Tiers, cache: RedisTieredCache) -> None:
    model = Model(cache=cache)
    teach(model)
    assert copy.deepcopy(cache) is cache
    assert copy.deepcopy(model).cache is cache
    there = pickle.loads(pickle.dumps(cache))
    with there.tiers:
        other = Model(cache=there)
        assert note(other.invoke("topic1: put in a new way"))
        assert other.asked == []


def test_a_cache_without_a_policy_serves_none_of_it(tiers: Tiers, cache: RedisTieredCache) -> None:
    model, plain = Model(cache=cache), Model(cache=RedisTieredCache(tiers))
    teach(model)
    assert note(model.invoke("topic1: put in a new way"))
    answer = plain.invoke("topic1: put in a new way")
    assert note(answer) is None
    assert plain.asked == ["topic1: put in a new way"]
    with pytest.raises(InvalidInput, match="no semantic part"):
        plain.cache.explain("x")  # type: ignore[union-attr]
    with cache_control(semantic=False):
        assert note(model.invoke("topic2: put in a new way")) is None
