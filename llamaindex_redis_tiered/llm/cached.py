"""`cached(llm)`: a model of the same class whose answers come from the tiers.

It is a copy of the model whose class is a subclass of the model's class, made once for each. So it is
accepted wherever the model is, and what the provider's class builds on `chat` and `complete` - tools,
structured output, agents - goes by the cache as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM

from llamaindex_redis_tiered.llm.caching import Caching, with_state
from llamaindex_redis_tiered.llm.models import model_of
from llamaindex_redis_tiered.llm.request import request_from
from llamaindex_redis_tiered.llm.state import State
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.cache import DEFAULT_TTL, LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.llm_cache.stats import Prices
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy

__all__ = ["cache_of", "cached", "checked_model", "request_of", "uncached"]

L = TypeVar("L", bound=LLM)


def cached(
    llm: L,
    tiers: Tiers | None = None,
    *,
    cache: LLMCache | None = None,
    name: str = "default",
    ttl: float | None = DEFAULT_TTL,
    jitter: float = 0.1,
    sliding: bool = False,
    early: float = 0.0,
    single_flight: float = 30.0,
    compress_from: int | None = 4096,
    prices: Prices | None = None,
    store_truncated: bool = False,
    semantic: SemanticPolicy | None = None,
) -> L:
    """The same model, answering from process memory, Redis and the durable tier what it has answered.

        Settings.llm = cached(OpenAI("gpt-4o-mini"))
        agent = FunctionAgent(tools=[...], llm=cached(llm, ttl=3600))

    It is of the model's own class, with its settings and clients, and takes its place everywhere: in
    agents, query engines, workflows, `as_structured_llm`. Whole answers and streams, of `chat` and
    `complete`, sync and async, are kept; a stream only if it was read to its end. A hit is an answer
    of one's own, emits no LLM event, and takes nothing from a rate limiter; see `LLMCacheHitEvent`.

    Requests that a provider would answer alike share an answer: random ids of tool calls, credentials,
    timeouts and retries do not matter; class, address, parameters, messages, tools and tenant do.
    Private attributes are looked at now, not at each call, and objects in them not at all: give models
    that differ in that alone caches of different names. A failing tier is a miss, never an exception. One call:
    `llm.chat(messages, cache=False)`; a block of calls: `redis_tiered.cache_control`.

    Args:
        llm: it is left as it is; a copy is made.
        tiers: where answers live; None: `Tiers.default()`.
        cache: one that other models use, too, as `cache_of` gives it; then no other option is given but
            `store_truncated`.
        name: caches of different names share nothing.
        ttl: seconds an answer stays valid; None: for ever.
        jitter, sliding, early, single_flight, compress_from, prices: see `redis_tiered.LLMCache`.
        store_truncated: store answers that ended at a token limit too. Refusals, errors and empty
            answers are never stored.
        semantic: a `redis_tiered.SemanticPolicy`: a question that is new may be answered by what was
            said to the same question in other words, if it is plain text and no tools are near. Such a
            response tells so: `response.additional_kwargs["redis_tiered"]`. None: never.

    Raises:
        InvalidInput: an argument has the wrong type or range; `llm` is cached already, is a structured
            one, or is of a class that cannot have subclasses: `CachedLLM.of` takes those.
    """
    checked_model(llm)
    options = {
        "name": name,
        "ttl": ttl,
        "jitter": jitter,
        "sliding": sliding,
        "early": early,
        "single_flight": single_flight,
        "compress_from": compress_from,
        "prices": prices,
        "semantic": semantic,
    }
    return with_state(llm, State(llm, tiers, cache, store_truncated, options))  # type: ignore[no-any-return]


def checked_model(llm: object) -> LLM:
    """A model that can be cached.

    Raises:
        InvalidInput: it is none.
    """
    if not isinstance(llm, LLM):
        raise InvalidInput(f"llm must be an LLM of LlamaIndex, got {type(llm).__name__}")
    if isinstance(llm, Caching):
        raise InvalidInput("llm is cached already: give uncached(llm)")
    if isinstance(llm, StructuredLLM):
        raise InvalidInput(
            "llm must be a model, got a StructuredLLM, whose answers are objects of yours: cache the "
            "model in it, cached(llm).as_structured_llm(...)"
        )
    return llm


def uncached(llm: L) -> L:
    """The model without its cache: as it was given to `cached`, with what was changed since.

    Raises:
        InvalidInput: it is not cached.
    """
    _state_of(llm)
    return llm._rt_plain()  # type: ignore[attr-defined, no-any-return]


def cache_of(llm: LLM) -> LLMCache:
    """The cache of a cached model: `stats()`, `clear()`, `delete_tag()`, `feedback()`, `explain()`.

    Raises:
        InvalidInput: it is not cached.
    """
    return _state_of(llm).cache


def request_of(
    llm: LLM, given: Sequence[ChatMessage] | str, *, formatted: bool = False, **options: Any
) -> Request:
    """What a call would be looked up by: `cache_of(llm).delete(request_of(llm, messages))`.

    Args:
        llm: cached or not; it is not called.
        given: messages of a chat, or the prompt of a completion.
        formatted: as `LLM.complete` takes it.
        options: the other arguments of the call.

    Raises:
        InvalidInput: `llm` is no model.
        Uncacheable: the call would not be looked up.
    """
    if not isinstance(llm, LLM):
        raise InvalidInput(f"llm must be an LLM of LlamaIndex, got {type(llm).__name__}")
    options.pop("cache", None)
    endpoint = "complete" if isinstance(given, str) else "chat"
    state = llm._rt_state if isinstance(llm, Caching) else None
    return request_from(
        llm._rt_subject() if isinstance(llm, Caching) else llm,
        endpoint,
        given,
        options,
        formatted=formatted,
        read=model_of if state is None else state.models.of,
    )


def _state_of(llm: object) -> State:
    state = llm._rt_state if isinstance(llm, Caching) else None
    if state is None:
        raise InvalidInput(
            f"llm must be what cached(...) gave, got {type(llm).__name__} without a cache"
        )
    return state
