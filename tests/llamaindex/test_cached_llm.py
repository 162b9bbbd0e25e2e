"""`cached(llm)`: what it is, and the eight ways to ask it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel

import llamaindex_redis_tiered
from demo.openai_server import OpenAIServer
from llamaindex_redis_tiered import (
    LLMCacheHitEvent,
    LLMCacheMissEvent,
    LLMCacheStoreEvent,
    Tiers,
    cache_control,
    cache_of,
    cached,
    request_of,
    uncached,
)
from redis_tiered import LLMCache, SemanticPolicy
from redis_tiered.errors import InvalidInput, Uncacheable
from tests.llamaindex.scripted import Completing, Scripted, ask, texts, user
from tests.servers import RedisServer

CHAT = ["chat", "achat", "stream_chat", "astream_chat"]
COMPLETE = ["complete", "acomplete", "stream_complete", "astream_complete"]
EIGHT = [*CHAT, *COMPLETE]
SECRET = "sk-xyzzy-plugh"


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


@pytest.fixture(autouse=True)
async def _closed_after(tiers: Tiers) -> Any:
    yield
    await tiers.aclose()


def openai(provider: OpenAIServer, **options: Any) -> OpenAI:
    given = {"model": "gpt-4o-mini", "api_base": provider.base_url, "api_key": SECRET}
    return OpenAI(**{**given, **options})


class Heard(BaseEventHandler):
    """Every event there is."""

    events: list[Any] = []  # noqa: RUF012 - a field of pydantic's

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.class_name() for event in self.events]


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


class Verdict(BaseModel):
    """Whether a review is good."""

    good: bool
    why: str


# --- the eight ways --------------------------------------------------------------------------


@pytest.mark.parametrize("how", EIGHT)
async def test_the_second_time_nobody_is_asked(tiers: Tiers, how: str) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    first = await ask(fast, how, "how are you today, my dear friend?")
    again = await ask(fast, how, "how are you today, my dear friend?")
    assert llm.asked.how == [how]
    assert texts(first) == texts(again) == "You said: how are you today, my dear friend?"
    stats = cache_of(fast).stats()
    assert (stats.misses, stats.updates, sum(stats.hits.values())) == (1, 1, 1)


@pytest.mark.parametrize("how", [how for how in EIGHT if "stream" in how])
async def test_req_02_a_stream_comes_in_pieces_that_add_up(tiers: Tiers, how: str) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    for _ in range(2):
        chunks = await ask(fast, how, "a long question that takes many words to be asked")
        said = ""
        for chunk in chunks:
            said += chunk.delta
            assert texts(chunk) == said
        assert len(chunks) > 2
    assert llm.asked.times == 1


@pytest.mark.parametrize("how", [*CHAT[:1], *CHAT[2:]])
async def test_what_was_given_whole_is_given_in_any_way(tiers: Tiers, how: str) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    await ask(fast, "achat", "hello")
    assert texts(await ask(fast, how, "hello")) == "You said: hello"
    assert llm.asked.times == 1


async def test_what_was_streamed_is_asked_for_again_by_who_wants_it_whole(tiers: Tiers) -> None:
    """A stream tells less: no usage, no log probabilities."""
    llm = Scripted()
    fast = cached(llm, tiers)
    await ask(fast, "stream_chat", "hello")
    for how in ("chat", "achat", "stream_chat", "chat"):
        await ask(fast, how, "hello")
    assert llm.asked.how == ["stream_chat", "chat"]
    assert cache_of(fast).stats().skipped == {"streamed": 1}


async def test_req_03_endpoints_are_kept_apart(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    for _ in range(2):
        fast.chat([user("hello")])
        fast.complete("hello")
        fast.complete("hello", formatted=True)
    assert llm.asked.times == 3


@pytest.mark.parametrize("how", ["chat", "stream_chat", "achat", "astream_chat"])
async def test_req_04_nested_calls_are_cached_once(tiers: Tiers, how: str) -> None:
    llm = Completing()
    fast = cached(llm, tiers)
    for _ in range(2):
        answer = await ask(fast, how, "hello")
        assert texts(answer).startswith("after user: hello")
    assert llm.asked.times == 1
    stats = cache_of(fast).stats()
    assert (stats.updates, stats.misses) == (1, 1)


async def test_req_04_another_call_between_two_pieces_is_not_nested(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    for _ in range(2):
        for _ in fast.stream_chat([user("one two three")]):
            fast.chat([user("meanwhile")])
        async for _ in await fast.astream_chat([user("one two")]):
            await fast.achat([user("meanwhile, too")])
    assert sorted(llm.asked.how) == ["achat", "astream_chat", "chat", "stream_chat"]


def test_req_04_a_call_of_another_model_is_cached_on_its_own(tiers: Tiers) -> None:
    inner = Scripted(model="inner")
    fast_inner = cached(inner, tiers)

    def say(messages: Any) -> ChatResponse:
        return fast_inner.chat([user("a part of it")])

    fast = cached(Scripted(say), tiers)
    fast.chat([user("one")])
    fast.chat([user("two")])
    assert inner.asked.times == 1


def test_req_05_a_hit_is_a_copy(tiers: Tiers) -> None:
    def say(messages: Any) -> ChatResponse:
        message = ChatMessage(role="assistant", content="hi", additional_kwargs={"a": [1]})
        return ChatResponse(message=message, raw={"b": [2]}, additional_kwargs={"c": [3]})

    fast = cached(Scripted(say), tiers)
    for _ in range(3):
        response = fast.chat([user("hello")])
        assert response.message.additional_kwargs == {"a": [1]}
        assert response.message.blocks == [TextBlock(text="hi")]
        assert (response.raw, response.additional_kwargs) == ({"b": [2]}, {"c": [3]})
        response.message.additional_kwargs["a"].append(9)
        response.message.blocks.clear()
        response.raw["b"].append(9)
        response.additional_kwargs["c"].append(9)


def test_req_05_what_is_changed_in_a_stream_is_not_stored(tiers: Tiers) -> None:
    fast = cached(Scripted(), tiers)
    for _ in range(2):
        for chunk in fast.stream_chat([user("hello there")]):
            assert chunk.message.content.startswith("You")
            chunk.message.blocks.clear()
            chunk.message.additional_kwargs["x"] = 1


# --- a model of the same class ---------------------------------------------------------------


def test_req_01_it_is_what_the_model_is(tiers: Tiers, provider: OpenAIServer) -> None:
    for llm in (openai(provider), MockLLM(), Scripted()):
        fast = cached(llm, tiers)
        assert isinstance(fast, type(llm))
        assert isinstance(fast, FunctionCallingLLM) == isinstance(llm, FunctionCallingLLM)
        assert fast.class_name() == llm.class_name()
        assert fast.metadata == llm.metadata
        assert type(fast).__name__ == type(llm).__name__
        assert type(fast) is type(cached(llm, tiers, name="another"))


def test_settings_and_clients_are_kept(tiers: Tiers, provider: OpenAIServer) -> None:
    llm = openai(provider, temperature=0.3, max_tokens=17)
    client = llm._get_client()
    fast = cached(llm, tiers)
    assert (fast.temperature, fast.max_tokens, fast.api_key) == (0.3, 17, SECRET)
    assert fast._get_client() is client
    fast.temperature = 0.9
    assert llm.temperature == 0.3


def test_settings_llm(tiers: Tiers) -> None:
    llm = Scripted()
    try:
        Settings.llm = cached(llm, tiers)
        for _ in range(2):
            assert Settings.llm.predict(PromptTemplate("Say {x}"), x="hi") == "You said: Say hi"
        assert llm.asked.times == 1
    finally:
        Settings._llm = None


def test_a_dump_tells_nothing_of_the_tiers(
    tiers: Tiers, provider: OpenAIServer, valkey: RedisServer
) -> None:
    llm = openai(provider)
    fast = cached(llm, tiers)
    assert fast.to_dict() == llm.to_dict()
    assert fast.model_dump() == llm.model_dump()
    assert fast.model_dump_json() == llm.model_dump_json()
    assert fast.to_payload() == llm.to_payload()
    assert repr(fast) == repr(llm)
    assert SECRET not in repr(cache_of(fast))


def test_the_class_can_be_called_for_a_model_without_a_cache(tiers: Tiers) -> None:
    llm = Scripted()
    made = type(cached(llm, tiers))(model="new")
    assert made.chat([user("hello")]).message.content == "You said: hello"
    with pytest.raises(InvalidInput, match="without a cache"):
        cache_of(made)


def test_copies_share_the_cache(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    copies = [copy.copy(fast), fast.model_copy(), copy.deepcopy(fast)]
    for each in [fast, *copies]:
        each.chat([user("hello")])
        assert cache_of(each) is cache_of(fast)
    assert llm.asked.times == 1
    warm = fast.model_copy(update={"temperature": 0.7})
    warm.chat([user("hello")])
    assert llm.asked.times == 2


def test_pickles(tiers: Tiers, provider: OpenAIServer) -> None:
    fast = cached(openai(provider), tiers, ttl=60)
    fast.chat([user("hello")])  # now it has a client, which cannot be pickled
    again = pickle.loads(pickle.dumps(fast))
    assert isinstance(again, OpenAI)
    again.chat([user("hello")])
    assert provider.calls == 1
    shared = cached(openai(provider), cache=cache_of(fast))
    assert isinstance(pickle.loads(pickle.dumps(shared)), OpenAI)


def test_a_cache_of_unknown_making_cannot_be_pickled(tiers: Tiers) -> None:
    fast = cached(Completing(), cache=LLMCache(tiers))
    with pytest.raises(InvalidInput, match="cannot be pickled"):
        pickle.dumps(fast)


def test_uncached_gives_the_plain_one(tiers: Tiers) -> None:
    for llm in (Scripted(), MockLLM(max_tokens=3)):
        plain = uncached(cached(llm, tiers))
        assert type(plain) is type(llm)
        assert plain == llm
        with pytest.raises(InvalidInput, match="cached"):
            uncached(plain)
        with pytest.raises(InvalidInput, match="cached"):
            cache_of(plain)


def test_the_default_tiers(monkeypatch: pytest.MonkeyPatch, tiers: Tiers) -> None:
    monkeypatch.setattr(Tiers, "default", classmethod(lambda cls: tiers))
    assert cache_of(cached(Scripted())).tiers is tiers


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tiers": "redis://localhost"}, "tiers must be a Tiers or None, got str"),
        ({"ttl": -1}, "ttl"),
        ({"jitter": 3}, "jitter"),
        ({"store_truncated": 1}, "store_truncated must be a bool, got int"),
        ({"semantic": 3}, "semantic must be a SemanticPolicy"),
        ({"cache": 3}, "cache must be an LLMCache or None, got int"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_arguments_are_checked(tiers: Tiers, options: dict[str, Any], match: str) -> None:
    given = {} if "cache" in options else {"tiers": tiers}
    with pytest.raises(InvalidInput, match=match):
        cached(Scripted(), **{**given, **options})


def test_a_ready_cache_takes_no_options(tiers: Tiers) -> None:
    cache = LLMCache(tiers)
    for options in ({"tiers": tiers}, {"ttl": 5}, {"name": "x"}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            cached(Scripted(), cache=cache, **options)  # type: ignore[arg-type]
    assert cache_of(cached(Scripted(), cache=cache, store_truncated=True)) is cache


def test_a_ready_cache_is_shared(tiers: Tiers) -> None:
    one, other = Scripted(), Scripted()
    cache = LLMCache(tiers)
    cached(one, cache=cache).chat([user("hello")])
    cached(other, cache=cache).chat([user("hello")])
    assert (one.asked.times, other.asked.times) == (1, 0)
    assert cache.stats().hits


def test_what_is_no_model_is_refused(tiers: Tiers) -> None:
    for wrong in (None, "gpt-4", object(), Scripted):
        with pytest.raises(InvalidInput, match="llm must be an LLM of LlamaIndex"):
            cached(wrong, tiers)  # type: ignore[type-var]
        with pytest.raises(InvalidInput, match="llm must be an LLM of LlamaIndex"):
            request_of(wrong, "x")  # type: ignore[arg-type]


def test_twice_cached_is_refused(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="cached already"):
        cached(cached(Scripted(), tiers), tiers)


def test_a_structured_model_is_refused(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match=r"cached\(llm\)\.as_structured_llm"):
        cached(Scripted().as_structured_llm(Verdict), tiers)


def test_cache_is_a_bool(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="cache must be a bool, got str"):
        cached(Scripted(), tiers).chat([user("hello")], cache="no")


# --- control ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EIGHT)
async def test_req_11_one_call_without_the_cache(tiers: Tiers, how: str) -> None:
    """`Scripted` asserts that it does not see the argument."""
    llm = Scripted()
    fast = cached(llm, tiers)
    await ask(fast, how, "hello", cache=False)
    assert cache_of(fast).stats().updates == 0
    await ask(fast, how, "hello")
    await ask(fast, how, "hello", cache=True)
    assert llm.asked.times == 2
    await ask(fast, how, "hello", cache=False)
    assert llm.asked.times == 3


def test_req_11_without_the_cache_nested_calls_are_without_it(tiers: Tiers) -> None:
    llm = Completing()
    fast = cached(llm, tiers)
    for _ in range(2):
        fast.chat([user("hello")], cache=False)
    assert llm.asked.times == 2
    assert cache_of(fast).stats().updates == 0


async def test_req_11_cache_control(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    with cache_control(write=False):
        fast.chat([user("hello")])
    with cache_control(tags=["greeting"]):
        fast.chat([user("hello")])
    assert llm.asked.times == 2
    with cache_control(refresh=True):
        await fast.achat([user("hello")])
    assert llm.asked.times == 3
    with cache_control(read=False, write=False):
        fast.chat([user("hello")])
    assert llm.asked.times == 4
    with cache_control(tags=["greeting"]):
        fast.complete("hello")
    assert cache_of(fast).delete_tag("greeting") == 2


def test_req_11_a_stream_goes_by_the_block_it_began_in(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    with cache_control(tags=["greeting"]):
        chunks = fast.stream_chat([user("hello")])
    list(chunks)
    assert cache_of(fast).delete_tag("greeting") == 1
    with cache_control(write=False):
        chunks = fast.stream_chat([user("hello")])
    list(chunks)
    assert cache_of(fast).stats().updates == 1


def test_req_11_ttl_name_and_tenant(tiers: Tiers) -> None:
    llm = Scripted()
    for fast in (
        cached(llm, tiers),
        cached(llm, tiers, name="another"),
        cached(llm, tiers.tenant("another")),
    ):
        for _ in range(2):
            fast.chat([user("hello")])
    assert llm.asked.times == 3
    with pytest.raises(InvalidInput):
        cached(llm, tiers, ttl=0)


def test_one_request_can_be_deleted(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    fast.chat([user("hello")], temperature=0.5)
    fast.complete("hello")
    cache_of(fast).delete(request_of(fast, [user("hello")], temperature=0.5))
    cache_of(fast).delete(request_of(llm, "hello"))  # that of the plain model is the same
    fast.chat([user("hello")], temperature=0.5)
    fast.complete("hello")
    assert llm.asked.times == 4


# --- events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EIGHT)
async def test_req_10_a_hit_emits_events_of_its_own_only(
    tiers: Tiers, heard: Heard, how: str
) -> None:
    def say(messages: Any) -> ChatResponse:
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
        message = ChatMessage(role="assistant", content="a plain answer")
        return ChatResponse(message=message, raw={"usage": usage})

    fast = cached(Scripted(say), tiers)
    await ask(fast, how, "a secret question")
    miss = [name for name in heard.names() if name.startswith("LLMCache")]
    assert miss == ["LLMCacheMissEvent", "LLMCacheStoreEvent"]
    assert any(name.startswith("LLMC") and "Start" in name for name in heard.names())
    store = heard.events[heard.names().index("LLMCacheStoreEvent")]
    assert isinstance(store, LLMCacheStoreEvent)
    assert (store.input_tokens, store.output_tokens) == (11, 5)
    assert store.size > 0
    heard.events.clear()
    await ask(fast, how, "a secret question")
    [hit] = heard.events
    assert isinstance(hit, LLMCacheHitEvent)
    assert (hit.saved_input_tokens, hit.saved_output_tokens) == (11, 5)
    assert hit.tier in ("memory", "redis")
    assert hit.endpoint == how.removeprefix("a").removeprefix("stream_")
    assert hit.streaming == ("stream" in how)
    assert hit.age >= 0
    assert (hit.key, hit.cache_name, hit.model_name) == (store.key, "default", "scripted")
    assert "question" not in hit.model_dump_json()
    stats = cache_of(fast).stats()
    assert (stats.saved_input_tokens, stats.saved_output_tokens) == (11, 5)


def test_req_10_no_event_is_made_where_nobody_listens(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LLMCacheMissEvent, "__init__", None)
    cached(Scripted(), tiers).chat([user("hello")])


def test_req_06_token_counters_count_a_hit_as_nothing(tiers: Tiers, provider: OpenAIServer) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    fast = cached(openai(provider, callback_manager=CallbackManager([counter])), tiers)
    fast.chat([user("hello")])
    counted = counter.total_llm_token_count
    assert counted > 0
    response = fast.chat([user("hello")])
    assert counter.total_llm_token_count == counted
    assert isinstance(response.raw, dict)
    assert response.raw["usage"]["prompt_tokens"] > 0


def test_a_rate_limiter_is_left_alone_by_hits(tiers: Tiers) -> None:
    class Limiter:
        taken = 0

        def acquire(self, *args: Any) -> None:
            Limiter.taken += 1

    fast = cached(Scripted(rate_limiter=Limiter()), tiers)
    for _ in range(3):
        fast.chat([user("hello")])
    assert Limiter.taken == 1


def test_prices(tiers: Tiers, provider: OpenAIServer) -> None:
    fast = cached(openai(provider), tiers, prices={"gpt-4o-mini": (1e6, 1e6)})
    first = fast.chat([user("hello")])
    fast.chat([user("hello")])
    assert cache_of(fast).stats().saved_money == first.additional_kwargs["total_tokens"]


# --- packaging -------------------------------------------------------------------------------


def test_exports() -> None:
    for name in llamaindex_redis_tiered.__all__:
        assert getattr(llamaindex_redis_tiered, name) is not None
    assert llamaindex_redis_tiered.SemanticPolicy is SemanticPolicy
    with pytest.raises(AttributeError):
        _ = llamaindex_redis_tiered.nothing


def test_importing_does_not_import_what_is_not_needed() -> None:
    code = (
        "import sys, llamaindex_redis_tiered as p; p.cached; "
        "wrong = {'openai', 'llama_index.llms.openai', 'redis_tiered.llm_cache.semantic.semantic'}"
        " & set(sys.modules); assert not wrong, wrong"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_uncacheable_requests_can_be_told(tiers: Tiers) -> None:
    block = ImageBlock.model_construct(path=Path("/no/such/file.png"))
    image = ChatMessage(role="user", blocks=[TextBlock(text="See this")])
    image.blocks.append(block)
    with pytest.raises(Uncacheable, match="unreadable_file"):
        request_of(Scripted(), [image])


async def test_two_event_loops(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    await fast.achat([user("hello")])

    async def there() -> Any:
        try:
            return [await fast.achat([user("hello")]), await ask(fast, "astream_chat", "hello")]
        finally:
            await tiers.aclose()

    whole, chunks = await asyncio.to_thread(asyncio.run, there())
    assert texts(whole) == texts(chunks) == "You said: hello"
    assert llm.asked.times == 1
