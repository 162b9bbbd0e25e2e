"""LangChain's LLM cache on the three tiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_redis_tiered._codec import encode, recall
from langchain_redis_tiered._outcome import objection
from langchain_redis_tiered._request import request_from
from langchain_redis_tiered._semantic import answer_text, looked_up_by, mark_served, served_of
from redis_tiered.errors import InvalidInput, Uncacheable, Unreadable
from redis_tiered.llm_cache.cache import DEFAULT_TTL, MAX_PAYLOAD, Found, LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.llm_cache.stats import Prices, Stats, Usage
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.explanation import Explanation
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration

__all__ = ["RedisTieredCache"]


class RedisTieredCache(BaseCache):
    """LLM answers from process memory, Redis and the durable tier.

        from langchain_core.globals import set_llm_cache
        set_llm_cache(RedisTieredCache())                     # every model
        model = ChatOpenAI(..., cache=RedisTieredCache())     # or one

    Requests that a provider would answer alike share an answer: message ids, usage, random ids of
    tool calls, timeouts and retries do not matter; model, parameters, tools, output schema and
    tenant do. A hit is a new list with new message ids. Identical calls made at the same time, in
    threads, tasks or processes, ask the model once. A failing tier is a miss, never an exception.

    With `semantic` a question that is new may be answered by what was said to the same question in
    other words. Such a message tells so: `response_metadata["redis_tiered"]`.

    Args:
        tiers: where answers live; None: `Tiers.default()`.
        name: caches of different names share nothing.
        ttl: seconds an answer stays valid; None: for ever.
        jitter, sliding, early, single_flight, compress_from, prices: see
            `redis_tiered.LLMCache`.
        store_truncated: store answers that ended at a token limit too. Refusals, errors and empty
            answers are never stored.
        semantic: a `redis_tiered.SemanticPolicy`; None: a question is answered by its own words only.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
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
    ) -> None:
        if not isinstance(store_truncated, bool):
            raise InvalidInput(
                f"store_truncated must be a bool, got {type(store_truncated).__name__}"
            )
        if tiers is not None and not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        self._store_truncated = store_truncated
        self._options: dict[str, Any] = {
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
        self._cache = LLMCache(
            Tiers.default() if tiers is None else tiers, read_answer=answer_text, **self._options
        )
        self._options["store_truncated"] = store_truncated

    @property
    def tiers(self) -> Tiers:
        return self._cache.tiers

    def __repr__(self) -> str:
        return f"RedisTieredCache({self.tiers!r}, name={self._cache.name!r})"

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The stored generations, each time newly made; None: ask the model."""
        try:
            return self._opened(self._cache.lookup(request_from(prompt, llm_string)))
        except Uncacheable as reason:
            self._cache.refuse(None, reason.reason, reason.detail)
            return None

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """As `lookup`."""
        try:
            return self._opened(await self._cache.alookup(request_from(prompt, llm_string)))
        except Uncacheable as reason:
            await self._cache.arefuse(None, reason.reason, reason.detail)
            return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store generations, durable tier first."""
        request = _cacheable(prompt, llm_string)
        if request is None:
            return
        try:
            payload = self._payload(return_val)
        except Uncacheable as reason:
            self._cache.refuse(request, reason.reason, reason.detail)
        else:
            self._cache.update(request, payload, tokens=_tokens(return_val))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """As `update`."""
        request = _cacheable(prompt, llm_string)
        if request is None:
            return
        try:
            payload = self._payload(return_val)
        except Uncacheable as reason:
            await self._cache.arefuse(request, reason.reason, reason.detail)
        else:
            await self._cache.aupdate(request, payload, tokens=_tokens(return_val))

    def clear(self, **kwargs: Any) -> None:
        """Forget every answer of this cache and tenant, in every process; see `LLMCache.clear`.

        Raises:
            TierError: a tier could not be told.
        """
        self._cache.clear()

    async def aclear(self, **kwargs: Any) -> None:
        """As `clear`."""
        await self._cache.aclear()

    def delete(self, prompt: str, llm_string: str) -> None:
        """Forget one answer, given what LangChain would look it up by.

        Raises:
            TierError: a tier could not be told.
        """
        request = _cacheable(prompt, llm_string)
        if request is not None:
            self._cache.delete(request)

    async def adelete(self, prompt: str, llm_string: str) -> None:
        """As `delete`."""
        request = _cacheable(prompt, llm_string)
        if request is not None:
            await self._cache.adelete(request)

    def delete_tag(self, tag: str) -> int:
        """Forget what was stored under `cache_control(tags=[tag])`; returns how many answers.

        Raises:
            InvalidInput: not a usable tag.
            TierError: a tier could not be told.
        """
        return self._cache.delete_tag(tag)

    async def adelete_tag(self, tag: str) -> int:
        """As `delete_tag`."""
        return await self._cache.adelete_tag(tag)

    def feedback(self, answer: BaseMessage | Generation, *, correct: bool) -> None:
        """Tell whether an answer that the cache gave was right; see `LLMCache.feedback`.

        Args:
            answer: as the model or chain returned it.
            correct: whether it was right.

        Raises:
            InvalidInput: the answer is not one that was stored for other words, or the cache has no
                semantic part.
            TierError: a tier could not be told.
        """
        self._cache.feedback(served_of(answer), correct=correct)

    async def afeedback(self, answer: BaseMessage | Generation, *, correct: bool) -> None:
        """As `feedback`."""
        await self._cache.afeedback(served_of(answer), correct=correct)

    def adopt(self, calibration: Calibration) -> None:
        """Decide by a calibration from now on; see `LLMCache.adopt`."""
        self._cache.adopt(calibration)

    async def aadopt(self, calibration: Calibration) -> None:
        """As `adopt`."""
        await self._cache.aadopt(calibration)

    def explain(
        self, prompt: Any, llm_string: str | None = None, *, model: object = None
    ) -> Explanation:
        """What a lookup would do now, and why, in words: `print(cache.explain("...", model=model))`.

        Args:
            prompt: what the model would be invoked with; or, with `llm_string`, what LangChain would
                look up; or a question alone, as if it were all there is to a request.
            llm_string: as LangChain makes it.
            model: the chat model or LLM that would be asked. It is not called.

        Raises:
            InvalidInput: the cache has no semantic part, or an argument cannot be used.
            Uncacheable: the two do not say what the provider would see.
            TierError: a tier that must be asked failed.
        """
        return self._cache.explain(_asked(prompt, llm_string, model))

    async def aexplain(
        self, prompt: Any, llm_string: str | None = None, *, model: object = None
    ) -> Explanation:
        """As `explain`."""
        return await self._cache.aexplain(_asked(prompt, llm_string, model))

    def semantic_report(self) -> dict[str, Any]:
        """What the semantic part decided and learnt; see `LLMCache.semantic_report`."""
        return self._cache.semantic_report()

    async def asemantic_report(self) -> dict[str, Any]:
        """As `semantic_report`."""
        return await self._cache.asemantic_report()

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait for what is compared in the background; see `LLMCache.settle`."""
        return self._cache.settle(timeout)

    def stats(self, *, total: bool = False) -> Stats:
        """What this process did with this cache or, with `total`, what all processes did.

        Raises:
            TierError: `total` was asked and Redis failed.
        """
        return self._cache.stats(total=total)

    async def astats(self, *, total: bool = False) -> Stats:
        """As `stats`."""
        return await self._cache.astats(total=total)

    def _payload(self, generations: Sequence[Generation]) -> bytes:
        reason = objection(generations)
        if reason is not None and not (reason == "truncated" and self._store_truncated):
            raise Uncacheable(reason, "the model did not give a whole answer")
        payload = encode(generations)
        if len(payload) > MAX_PAYLOAD:
            raise Uncacheable("too_large", f"{len(payload)} bytes")
        return payload

    def _opened(self, found: Found | None) -> list[Generation] | None:
        if found is None:
            return None
        try:
            # What is in memory is asked for again and again.
            generations = recall(found.payload, keep=found.tier == "memory")
        except Unreadable as problem:
            self._cache.unreadable(problem.reason)
            return None
        self._cache.saved(_usage(generations))
        if found.served is not None:
            mark_served(generations, found.served)
        return generations

    def __reduce__(self) -> tuple[Callable[..., RedisTieredCache], tuple[Any, ...]]:
        return _rebuild, (type(self), self.tiers, self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> RedisTieredCache:
        # Models are deep-copied with their cache; the copy shares its connections and counters.
        return self


def _rebuild(
    kind: type[RedisTieredCache], tiers: Tiers, options: dict[str, Any]
) -> RedisTieredCache:
    return kind(tiers, **options)


def _asked(prompt: Any, llm_string: str | None, model: object) -> Request | str:
    if model is not None:
        if llm_string is not None:
            raise InvalidInput("give model or llm_string, not both")
        prompt, llm_string = looked_up_by(model, prompt)
    elif llm_string is None and not isinstance(prompt, str):
        raise InvalidInput(f"prompt must be a str, got {type(prompt).__name__}; or give the model")
    return str(prompt) if llm_string is None else request_from(prompt, llm_string)


def _cacheable(prompt: str, llm_string: str) -> Request | None:
    try:
        return request_from(prompt, llm_string)
    except Uncacheable:
        return None  # counted when it was looked up


def _usage(generations: Sequence[Generation]) -> Usage:
    """What the model call cost, as far as the first message tells."""
    for generation in generations:
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if isinstance(message, AIMessage) and message.usage_metadata:
            model = message.response_metadata.get("model_name", "")
            usage = message.usage_metadata
            return Usage(str(model), int(usage["input_tokens"]), int(usage["output_tokens"]))
    return Usage()


def _tokens(generations: Sequence[Generation]) -> int:
    usage = _usage(generations)
    return usage.input_tokens + usage.output_tokens
