"""RedisTieredCache under real chains, agents and models, over HTTP."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from demo.openai_server import OpenAIServer
from langchain_redis_tiered import RedisTieredCache, Tiers, cache_control
from redis_tiered.errors import InvalidInput
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_calls_yet(provider: OpenAIServer) -> None:
    provider.reset()


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def cache(tiers: Tiers) -> RedisTieredCache:
    return RedisTieredCache(tiers)


@pytest.fixture
async def _closed_after(tiers: Tiers) -> AsyncIterator[None]:
    yield
    await tiers.aclose()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """ChatOpenAI's own asyncio client outlives the loop it was used in, and then fails."""
    async with httpx.AsyncClient() as client:
        yield client


def chat(provider: OpenAIServer, cache: BaseCache | bool | None, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{
            "model": "gpt-4o-mini",
            "base_url": provider.base_url,
            "api_key": "none",
            "cache": cache,
            **options,
        }
    )


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


class Verdict(BaseModel):
    """Whether a review is good."""

    good: bool
    why: str


def test_a_hit_is_equal_but_has_an_id_of_its_own(
    provider: OpenAIServer, cache: RedisTieredCache
) -> None:
    model = chat(provider, cache)
    first, second, third = (model.invoke("Where is my parcel?") for _ in range(3))
    assert provider.calls == 1
    assert first.content == second.content == third.content
    assert first.response_metadata == second.response_metadata
    assert second.usage_metadata is not None
    assert first.usage_metadata is not None
    assert second.usage_metadata["input_tokens"] == first.usage_metadata["input_tokens"]
    assert len({first.id, second.id, third.id}) == 3


def test_a_chain_and_a_global_cache(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    before = get_llm_cache()
    set_llm_cache(cache)
    try:
        chain = (
            ChatPromptTemplate.from_messages(
                [("system", "Answer as {firm}."), ("human", "{question}")]
            )
            | chat(provider, None)
            | StrOutputParser()
        )
        question = {"firm": "Acme", "question": "Can I send it back?"}
        assert chain.invoke(question) == chain.invoke(question)
        assert provider.calls == 1
        assert chain.invoke({**question, "firm": "Globex"}) != chain.invoke(question)
        assert provider.calls == 2
    finally:
        set_llm_cache(before)


def test_what_the_provider_does_not_see_does_not_matter(
    provider: OpenAIServer, cache: RedisTieredCache
) -> None:
    with httpx.Client() as client:
        models = [
            chat(provider, cache),
            chat(provider, cache, timeout=3),
            chat(provider, cache, max_retries=7),
            chat(provider, cache, http_client=client),
            chat(provider, cache, api_key="another"),
        ]
        answers = {model.invoke("Hello?").content for model in models}
    assert len(answers) == 1
    assert provider.calls == 1
    assert cache.stats().skipped == {}


@pytest.mark.parametrize(
    "options",
    [
        {"model": "gpt-4o"},
        {"temperature": 0.3},
        {"max_tokens": 300},
        {"seed": 4},
        {"logit_bias": {5: 1}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_it_sees_does(
    provider: OpenAIServer, cache: RedisTieredCache, options: dict[str, Any]
) -> None:
    chat(provider, cache).invoke("Hello?")
    chat(provider, cache, **options).invoke("Hello?")
    assert provider.calls == 2


def test_stop_words_and_tools_matter(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    model = chat(provider, cache)
    for _ in range(2):
        model.invoke("Hello?")
        model.invoke("Hello?", stop=["x"])
        model.bind_tools([weather]).invoke("Hello?")
    assert provider.calls == 3


def test_replaying_an_agent_costs_nothing(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    agent = create_agent(chat(provider, cache), [weather])

    def converse() -> list[BaseMessage]:
        messages: list[Any] = []
        for question in (
            "What is the weather in Rome?",
            "And the weather in Oslo?",
            "Thanks, bye.",
        ):
            messages = agent.invoke({"messages": [*messages, HumanMessage(question)]})["messages"]
        return messages

    first = converse()
    calls = provider.calls
    assert calls == 5  # two turns with a tool call each, one without
    for _ in range(3):
        again = converse()
        assert [message.content for message in again] == [message.content for message in first]
        assert len({message.id for message in again}) == len(again)
    assert provider.calls == calls


@pytest.mark.usefixtures("_closed_after")
async def test_replaying_an_agent_costs_nothing_async(
    provider: OpenAIServer, cache: RedisTieredCache, http: httpx.AsyncClient
) -> None:
    agent = create_agent(chat(provider, cache, http_async_client=http), [weather])
    question = {"messages": [HumanMessage("What is the weather in Rome?")]}
    first = await agent.ainvoke(question)
    second = await agent.ainvoke(question)
    assert provider.calls == 2
    assert [m.content for m in first["messages"]] == [m.content for m in second["messages"]]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(provider: OpenAIServer, cache: RedisTieredCache, method: Any) -> None:
    judge = chat(provider, cache).with_structured_output(Verdict, method=method)
    answers = [judge.invoke("The shoes fell apart after a week.") for _ in range(3)]
    assert provider.calls == 1
    assert answers[0] == answers[1] == answers[2]
    assert isinstance(answers[2], Verdict)


def test_a_schema_of_the_same_name_is_another_schema(
    provider: OpenAIServer, cache: RedisTieredCache
) -> None:
    def judge() -> Any:
        class Local(BaseModel):
            good: bool

        return Local

    def other() -> Any:
        class Local(BaseModel):
            stars: int

        Local.__qualname__ = judge_class.__qualname__
        return Local

    judge_class = judge()
    first = chat(provider, cache).with_structured_output(judge_class).invoke("Fine.")
    second = chat(provider, cache).with_structured_output(other()).invoke("Fine.")
    assert provider.calls == 2
    assert type(first) is judge_class
    assert "stars" in type(second).model_fields


def test_a_batch_of_one_question_asks_once(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    provider.latency = 0.2
    try:
        answers = chat(provider, cache).batch(["Same?"] * 12)
    finally:
        provider.latency = 0.0
    assert len({answer.content for answer in answers}) == 1
    assert provider.calls == 1


@pytest.mark.usefixtures("_closed_after")
async def test_an_abatch_of_one_question_asks_once(
    provider: OpenAIServer, cache: RedisTieredCache, http: httpx.AsyncClient
) -> None:
    provider.latency = 0.2
    try:
        answers = await chat(provider, cache, http_async_client=http).abatch(["Same?"] * 50)
    finally:
        provider.latency = 0.0
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.id for answer in answers}) == 50
    assert provider.calls == 1


def test_completion_models(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    model = OpenAI(
        model="gpt-3.5-turbo-instruct",
        base_url=provider.base_url,
        api_key="none",
        cache=cache,
        max_retries=0,
    )
    result = model.generate(["One?", "Two?", "One?"])
    assert len(result.generations) == 3
    before = provider.calls
    again = model.generate(["Two?", "One?", "One?"])
    assert provider.calls == before
    assert again.generations[1][0].text == result.generations[0][0].text

    answers = asyncio.run(model.agenerate(["One?", "Two?"]))
    assert answers.generations[1][0].text == again.generations[0][0].text
    assert provider.calls == before


def test_tenants_share_nothing(provider: OpenAIServer, tiers: Tiers) -> None:
    for name in ("acme", "globex", "acme", "globex"):
        chat(provider, RedisTieredCache(tiers.tenant(name))).invoke("What do I owe?")
    assert provider.calls == 2


def test_names_share_nothing(provider: OpenAIServer, tiers: Tiers) -> None:
    for name in ("faq", "billing", "faq"):
        chat(provider, RedisTieredCache(tiers, name=name)).invoke("What do I owe?")
    assert provider.calls == 2


def test_cache_control_in_a_chain(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | chat(provider, cache) | StrOutputParser()
    ask = {"q": "Is it open?"}
    with cache_control(write=False):
        chain.invoke(ask)
    chain.invoke(ask)
    assert provider.calls == 2
    with cache_control(read=False):
        chain.invoke(ask)
    assert provider.calls == 3
    provider.answer = lambda text: "a new answer"
    try:
        with cache_control(refresh=True, tags=["hours"]):
            assert chain.invoke(ask) == "a new answer"
        assert provider.calls == 4
        assert chain.invoke(ask) == "a new answer"
        assert chain.batch([ask] * 3) == ["a new answer"] * 3
        assert provider.calls == 4
    finally:
        provider.answer = None
    assert cache.delete_tag("hours") == 1
    chain.invoke(ask)
    assert provider.calls == 5


@pytest.mark.usefixtures("_closed_after")
async def test_cache_control_in_an_async_chain(
    provider: OpenAIServer, cache: RedisTieredCache, http: httpx.AsyncClient
) -> None:
    model = chat(provider, cache, http_async_client=http)
    with cache_control(ttl=3600, tags=["a", "b"]):
        await model.abatch(["One?", "Two?"])
    await model.ainvoke("Three?")
    assert await cache.adelete_tag("a") == 2
    await model.abatch(["One?", "Two?", "Three?"])
    assert provider.calls == 5


def test_clear_and_delete(provider: OpenAIServer, cache: RedisTieredCache, tiers: Tiers) -> None:
    elsewhere = RedisTieredCache(tiers.tenant("other"))
    for each in (cache, elsewhere):
        chat(provider, each).invoke("One?")
    cache.clear()
    for each in (cache, elsewhere):
        chat(provider, each).invoke("One?")
    assert provider.calls == 3
    cache.update("p", "l", [Generation(text="x")])
    cache.delete("p", "l")
    assert cache.lookup("p", "l") is None


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_half_answers_are_not_stored(
    provider: OpenAIServer, cache: RedisTieredCache, reason: str
) -> None:
    model = chat(provider, cache)
    provider.finish_next(reason)
    model.invoke("Tell me all.")
    model.invoke("Tell me all.")
    assert provider.calls == 2
    assert sum(cache.stats().skipped.values()) == 1
    model.invoke("Tell me all.")
    assert provider.calls == 2


def test_truncated_answers_are_stored_when_asked_for(provider: OpenAIServer, tiers: Tiers) -> None:
    model = chat(provider, RedisTieredCache(tiers, store_truncated=True))
    provider.finish_next("length")
    model.invoke("Tell me all.")
    model.invoke("Tell me all.")
    assert provider.calls == 1


def test_an_error_of_the_model_is_not_stored_and_blocks_nobody(
    provider: OpenAIServer, cache: RedisTieredCache
) -> None:
    model = chat(provider, cache, max_retries=0)
    provider.fail_next(500)
    with pytest.raises(Exception, match="500"):
        model.invoke("Hello?")
    answers: list[BaseMessage] = []
    # The failed call's thread still lives: only the bound of the wait, or its own next call, helps.
    answers.append(model.invoke("Hello?"))
    assert provider.calls == 2
    thread = threading.Thread(target=lambda: answers.append(model.invoke("Hello?")))
    thread.start()
    thread.join(10)
    assert len(answers) == 2
    assert provider.calls == 2


def test_stats_count_hits_tokens_and_money(provider: OpenAIServer, tiers: Tiers) -> None:
    cache = RedisTieredCache(tiers, prices={"gpt-4o-mini": (1.0, 10.0)})
    model = chat(provider, cache)
    first = model.invoke("What does it cost?")
    model.invoke("What does it cost?")
    model.invoke("What does it cost?")
    usage = first.usage_metadata
    assert usage is not None
    stats = cache.stats()
    assert (sum(stats.hits.values()), stats.misses, stats.updates) == (2, 1, 1)
    assert stats.saved_input_tokens == 2 * usage["input_tokens"]
    assert stats.saved_money == pytest.approx(
        2 * (usage["input_tokens"] * 1.0 + usage["output_tokens"] * 10.0) / 1e6
    )
    total = RedisTieredCache(tiers).stats(total=True)
    cache.stats(total=True)
    total = RedisTieredCache(tiers).stats(total=True)
    assert total.hits == stats.hits


class Picky(BaseChatModel):
    """A model whose answers hold what cannot be stored."""

    calls: list[int] = []  # noqa: RUF012 - a pydantic field

    @property
    def _llm_type(self) -> str:
        return "picky"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls.append(1)
        message = AIMessage("x", additional_kwargs={"handle": object()})
        return ChatResult(generations=[ChatGeneration(message=message)])


def test_what_cannot_round_trip_is_not_stored_and_is_counted(cache: RedisTieredCache) -> None:
    model = Picky(cache=cache)
    model.invoke("Hi")
    model.invoke("Hi")
    assert len(model.calls) == 2
    assert sum(cache.stats().skipped.values()) == 2


def test_the_chain_survives_redis(
    provider: OpenAIServer, tiers: Tiers, valkey: RedisServer
) -> None:
    model = chat(provider, RedisTieredCache(tiers))
    model.invoke([SystemMessage("Be brief."), HumanMessage("Stored?")])
    valkey.kill()
    for _ in range(3):
        model.invoke([SystemMessage("Be brief."), HumanMessage("Stored?")])
    assert provider.calls == 1
    model.invoke("New?")
    model.invoke("New?")
    assert provider.calls == 2


def test_copies_and_pickles(provider: OpenAIServer, cache: RedisTieredCache) -> None:
    model = chat(provider, cache)
    model.invoke("One?")
    copy.deepcopy(model.cache)
    restored = pickle.loads(pickle.dumps(cache))
    with restored.tiers:
        chat(provider, restored).invoke("One?")
    assert provider.calls == 1


def test_bad_arguments() -> None:
    for bad in ("redis://localhost", 5, object()):
        with pytest.raises(InvalidInput, match="tiers"):
            RedisTieredCache(bad)  # type: ignore[arg-type]


def test_arguments_are_checked_before_anything_happens(tmp_path: Path) -> None:
    tiers = Tiers("redis://127.0.0.1:1", f"sqlite:///{tmp_path / 'never.db'}")
    bad: list[dict[str, Any]] = [
        {"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")}, {"ttl": "60"}, {"ttl": True}, {"ttl": 1e12},
        {"jitter": 0.6}, {"jitter": "x"}, {"early": 1}, {"early": -0.1}, {"sliding": 1},
        {"single_flight": -1}, {"single_flight": "x"}, {"compress_from": -1}, {"compress_from": 1.5},
        {"prices": []}, {"prices": {"m": 1}}, {"prices": {"m": (1, -1)}}, {"name": ""}, {"name": 5},
        {"name": "x" * 300}, {"name": "\ud800"}, {"store_truncated": 1},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises(InvalidInput, match=next(iter(options))):
            RedisTieredCache(tiers, **options)
    tiers.close()
    assert list(tmp_path.iterdir()) == []
