"""`CachedLLM`: for classes of which `cached` can make no subclass."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_redis_tiered import CachedLLM, Tiers, cache_of, cached, request_of, uncached
from llamaindex_redis_tiered.llm import CachedFunctionCallingLLM
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.fingerprint import fingerprint
from tests.llamaindex.scripted import Completing, Scripted, ask, texts, user
from tests.servers import RedisServer

EIGHT = [
    f"{twin}{stream}{kind}"
    for twin in ("", "a")
    for stream in ("", "stream_")
    for kind in ("chat", "complete")
]


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture(autouse=True)
async def _closed_after(tiers: Tiers) -> Any:
    yield
    await tiers.aclose()


class Final(Scripted):
    """Wants no subclasses."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError("Final is final")


class Meta(type(Completing)):  # type: ignore[misc]
    def __new__(mcs, name: str, bases: Any, namespace: Any, **kwargs: Any) -> Any:
        if any(isinstance(base, Meta) for base in bases):
            raise RuntimeError("sealed")
        return super().__new__(mcs, name, bases, namespace, **kwargs)


class Sealed(Completing, metaclass=Meta):
    """Its metaclass makes no subclasses."""


@pytest.mark.parametrize("kind", [Final, Sealed], ids=lambda kind: kind.__name__)
def test_a_class_that_resists_is_named(tiers: Tiers, kind: Any) -> None:
    llm = kind()
    with pytest.raises(InvalidInput, match=f"got {kind.__name__} .*CachedLLM.of"):
        cached(llm, tiers)
    assert type(llm) is kind
    fast = CachedLLM.of(llm, tiers)
    for _ in range(2):
        fast.chat([user("hello")])
    assert llm.asked.times == 1


@pytest.mark.parametrize("how", EIGHT)
async def test_the_second_time_nobody_is_asked(tiers: Tiers, how: str) -> None:
    for llm in (Final(), Sealed()):
        fast = CachedLLM.of(llm, tiers)
        first = await ask(fast, how, "how are you today?")
        assert texts(await ask(fast, how, "how are you today?")) == texts(first)
        assert llm.asked.times == 1
        await ask(fast, how, "how are you today?", cache=False)
        assert llm.asked.times == 2


def test_req_01_it_claims_what_the_model_is(tiers: Tiers) -> None:
    calling, plain = CachedLLM.of(Final(), tiers), CachedLLM.of(Sealed(), tiers)
    assert isinstance(calling, FunctionCallingLLM)
    assert isinstance(calling, CachedFunctionCallingLLM)
    assert isinstance(plain, CachedLLM)
    assert not isinstance(plain, FunctionCallingLLM)
    assert calling.metadata == calling.llm.metadata
    assert calling.to_payload() == calling.llm.to_payload()
    assert plain.class_name() == "RedisTieredCachedLLM"


def test_it_shares_answers_with_a_subclass(tiers: Tiers) -> None:
    llm = Scripted()
    wrapped, subclassed = CachedLLM.of(llm, tiers), cached(llm, tiers)
    marks = {fingerprint(request_of(each, "hello")) for each in (llm, wrapped, subclassed)}
    assert len(marks) == 1
    wrapped.chat([user("hello")])
    subclassed.chat([user("hello")])
    assert llm.asked.times == 1


class Verdict(BaseModel):
    """Whether it is good."""

    good: bool


def test_tools_and_structured_output(tiers: Tiers) -> None:
    def say(messages: Any) -> ChatResponse:
        call = ToolCallBlock(tool_call_id="c", tool_name="Verdict", tool_kwargs={"good": True})
        return ChatResponse(message=ChatMessage(role="assistant", blocks=[call]))

    llm = Final(say)
    fast = CachedLLM.of(llm, tiers)
    assert isinstance(fast, FunctionCallingLLM)
    tool = FunctionTool.from_defaults(lambda good: good, name="Verdict", description="x")
    for _ in range(2):
        assert fast.structured_predict(Verdict, PromptTemplate("Is it good?")) == Verdict(good=True)
        assert fast.predict_and_call([tool], "Is it?").response == "True"
    assert llm.asked.times == 2


def test_settings(tiers: Tiers) -> None:
    llm = Sealed(system_prompt="Be kind.")
    try:
        Settings.llm = CachedLLM.of(llm, tiers)
        said = {Settings.llm.predict(PromptTemplate("Say hi")) for _ in range(2)}
    finally:
        Settings._llm = None
    assert said == {"after Be kind.\n\nSay hi"}
    assert llm.asked.times == 1


def test_copies_and_pickles(tiers: Tiers) -> None:
    llm = Completing()
    fast = CachedLLM.of(llm, tiers, ttl=60)
    fast.chat([user("hello")])
    for again in (copy.copy(fast), copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert isinstance(again, CachedLLM)
        times = again.llm.asked.times
        again.chat([user("hello")])
        assert again.llm.asked.times == times
    assert "redis://" not in str(fast.to_dict())
    assert uncached(fast) is llm


def test_without_of_it_has_no_cache() -> None:
    llm = Scripted()
    bare = CachedLLM(llm=llm)
    for _ in range(2):
        assert bare.chat([user("hello")]).message.content == "You said: hello"
    assert llm.asked.times == 2
    with pytest.raises(InvalidInput, match="without a cache"):
        cache_of(bare)
    assert isinstance(pickle.loads(pickle.dumps(CachedLLM(llm=Completing()))), CachedLLM)


def test_arguments_are_checked(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match=r"unknown options \['ttll'\]"):
        CachedLLM.of(Scripted(), tiers, ttll=5)
    with pytest.raises(InvalidInput, match="ttl"):
        CachedLLM.of(Scripted(), tiers, ttl=-5)
    with pytest.raises(InvalidInput, match="llm must be an LLM"):
        CachedLLM.of("gpt", tiers)  # type: ignore[arg-type]
    for twice in (cached(Scripted(), tiers), CachedLLM.of(Scripted(), tiers)):
        with pytest.raises(InvalidInput, match="cached already"):
            CachedLLM.of(twice, tiers)
        with pytest.raises(InvalidInput, match="cached already"):
            cached(twice, tiers)
