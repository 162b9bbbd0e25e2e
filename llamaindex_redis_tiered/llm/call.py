"""One call that the cache may answer: what is looked up before the model is asked, and what becomes of
its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatResponse

from llamaindex_redis_tiered._store import called_blocking
from llamaindex_redis_tiered.llm import events
from llamaindex_redis_tiered.llm.codec import Answer, decode, encode
from llamaindex_redis_tiered.llm.outcome import Response, is_empty, objection, usage_of
from llamaindex_redis_tiered.llm.replay import Recorder
from llamaindex_redis_tiered.llm.request import request_from
from llamaindex_redis_tiered.llm.served import mark_served
from llamaindex_redis_tiered.llm.state import State
from redis_tiered.errors import Uncacheable, Unreadable
from redis_tiered.llm_cache.cache import MAX_PAYLOAD, Found
from redis_tiered.llm_cache.control import controlled, current_control
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from redis_tiered.llm_cache.flights import Flight, Owner, on_behalf_of
from redis_tiered.llm_cache.stats import Usage

__all__ = ["Call", "Given", "Verdict"]


class Given(NamedTuple):
    """The arguments of a call.

    Attributes:
        endpoint: "chat" or "complete".
        what: messages or a prompt.
        formatted: as `LLM.complete` takes it.
        options: the others.
    """

    endpoint: str
    what: Any
    formatted: bool
    options: dict[str, Any]

    def to(self, ask: Callable[..., Any]) -> Any:
        # Some classes do not declare it, and would send it on.
        extra = {"formatted": True} if self.formatted else {}
        return ask(self.what, **extra, **self.options)


class Verdict(NamedTuple):
    """What becomes of an answer: stored if there is a payload, else refused for the reason."""

    payload: bytes
    usage: Usage
    reason: str = ""
    detail: str = ""


class Call:
    """One call that the cache may answer.

    Attributes:
        control: what it may do.
        key: id of the request; "": it cannot be looked up.
        asking: what the model is being asked.
    """

    def __init__(
        self, state: State, model: BaseLLM, given: Given, streaming: bool, use: bool
    ) -> None:
        self._state = state
        self._cache = state.cache
        self._endpoint = given.endpoint
        self._streaming = streaming
        self._flight: Flight | None = None
        self._name = ""
        self._request: Request | None = None
        self._uncacheable: Uncacheable | None = None
        control = current_control()
        self.control = control if use else control._replace(read=False, write=False)
        self.key = ""
        self.asking = state.asking
        try:
            self._name = str(model.metadata.model_name)
            self._request = request_from(
                model,
                given.endpoint,
                given.what,
                given.options,
                formatted=given.formatted,
                read=state.models.of,
            )
            self.key = fingerprint(self._request).digest
        except Uncacheable as reason:
            self._uncacheable = reason
        except Exception as error:  # a model's own property, a function that shapes its prompts
            self._uncacheable = Uncacheable("unresolved_parameter", type(error).__name__)

    # Before the model.

    def lookup(self) -> Found | None:
        if self._request is not None:
            try:
                return self._looked_up(self._cache.lookup(self._request))
            except Uncacheable as reason:
                self._uncacheable = reason
        self._cache.refuse(None, *self._why())
        return None

    async def alookup(self) -> Found | None:
        if called_blocking():
            # The loop is of this one call, perhaps: it gets no connections, and must not stand still
            # either, for another of its tasks may be getting the answer that this one waits for.
            with on_behalf_of(asyncio.current_task()):
                return await asyncio.to_thread(self.lookup)
        if self._request is not None:
            try:
                return self._looked_up(await self._cache.alookup(self._request))
            except Uncacheable as reason:
                self._uncacheable = reason
        await self._cache.arefuse(None, *self._why())
        return None

    def _why(self) -> tuple[str, str]:
        reason = self._uncacheable
        assert reason is not None
        self._request = None
        return reason.reason, reason.detail

    def _looked_up(self, found: Found | None) -> Found | None:
        assert self._request is not None
        if found is None:
            self._flight = self._cache.leading(self._request)
        return found

    def opened(self, found: Found | None) -> Answer | None:
        """The stored answer, if it can be given; tells which it was."""
        answer = None
        if found is not None:
            try:
                answer = decode(found.payload)
            except Unreadable as problem:
                self._cache.unreadable(problem.reason)
        if answer is not None and answer.streamed and not self._streaming:
            # A provider tells less with a stream (no usage, no logprobs) than this caller may want.
            assert self._request is not None
            self._cache.abandon(self._request, "streamed", None)
            answer = None
        if answer is None or found is None:
            if self._request is not None and events.wanted():
                events.told(events.LLMCacheMissEvent(**self._about()))
            return None
        usage = self._usage(answer.response)
        self._cache.saved(usage)
        if found.served is not None:
            mark_served(answer.response, found.served)
        if events.wanted():
            events.told(
                events.LLMCacheHitEvent(
                    **self._about(),
                    tier=found.tier,
                    age=found.age,
                    saved_input_tokens=usage.input_tokens,
                    saved_output_tokens=usage.output_tokens,
                    similarity=events.similarity(found.served),
                )
            )
        return answer

    # After it.

    def verdict_on(self, response: Response) -> Verdict | None:
        """Of an answer that was given whole."""
        if self._request is None:
            return None
        return self._verdict(
            response,
            lambda: objection(response) or ("empty" if is_empty(response) else None),
            lambda: encode(response),
        )

    def verdict(self, recorder: Recorder) -> Verdict | None:
        """Of a stream that has ended."""
        if self._request is None:
            return None
        return self._verdict(recorder.response, recorder.objection, recorder.payload)

    def _verdict(
        self,
        response: Response | None,
        objected: Callable[[], str | None],
        encoded: Callable[[], bytes],
    ) -> Verdict:
        try:
            why = objected()
            if why is not None and not (why == "truncated" and self._state.store_truncated):
                return Verdict(b"", Usage(), why, "the model did not give a whole answer")
            payload = encoded()
            if len(payload) > MAX_PAYLOAD:
                return Verdict(b"", Usage(), "too_large", f"{len(payload)} bytes")
            assert response is not None
            return Verdict(payload, self._usage(response))
        except Uncacheable as reason:
            return Verdict(b"", Usage(), reason.reason, reason.detail)
        except Exception as error:  # an object of the provider's own, as or in its answer
            return Verdict(b"", Usage(), "unserializable_answer", type(error).__name__)

    def keep(self, verdict: Verdict | None) -> None:
        """Store the answer, or tell that there is none to be stored."""
        if verdict is None or self._request is None:
            return
        try:
            with controlled(self.control):
                if verdict.payload:
                    tokens = verdict.usage.input_tokens + verdict.usage.output_tokens
                    self._cache.update(self._request, verdict.payload, tokens=tokens)
                else:
                    self._cache.refuse(
                        self._request, verdict.reason, verdict.detail, flight=self._flight
                    )
        except BaseException:
            self.abandon("failed")
            raise
        self._kept(verdict)

    async def akeep(self, verdict: Verdict | None) -> None:
        """As `keep`."""
        if called_blocking():
            # In no thread: those who wait for this answer may have taken all there are.
            self.keep(verdict)
            return
        if verdict is None or self._request is None:
            return
        try:
            with controlled(self.control):
                if verdict.payload:
                    tokens = verdict.usage.input_tokens + verdict.usage.output_tokens
                    await self._cache.aupdate(self._request, verdict.payload, tokens=tokens)
                else:
                    await self._cache.arefuse(
                        self._request, verdict.reason, verdict.detail, flight=self._flight
                    )
        except BaseException:
            self.abandon("failed")
            raise
        self._kept(verdict)

    def _kept(self, verdict: Verdict) -> None:
        if verdict.payload and self.control.write and events.wanted():
            events.told(
                events.LLMCacheStoreEvent(
                    **self._about(),
                    input_tokens=verdict.usage.input_tokens,
                    output_tokens=verdict.usage.output_tokens,
                    size=len(verdict.payload),
                )
            )

    def lasts_as_long_as(self, subject: Any, ended: Callable[[Any], bool]) -> None:
        """Have those who wait go on when this is gone: a stream that was dropped, in whatever thread or
        task."""
        if self._flight is not None:
            self._flight.holder = Owner(subject, ended)

    def unfinished(self) -> None:
        """The caller closed the stream, or dropped it: then this runs wherever garbage is collected,
        where nothing may wait for anything. Who waits for the answer finds the stream gone."""
        if self._request is not None:
            self._cache.abandon(self._request, "unfinished", None)

    def abandon(self, reason: str) -> None:
        """No answer came."""
        if self._request is not None:
            self._cache.abandon(self._request, reason, self._flight)

    def _usage(self, response: Response) -> Usage:
        additional = response.additional_kwargs
        if isinstance(response, ChatResponse) and not additional:
            additional = response.message.additional_kwargs
        return usage_of(self._name, additional, response.raw)

    def _about(self) -> dict[str, Any]:
        return {
            "cache_name": self._cache.name,
            "model_name": self._name,
            "endpoint": self._endpoint,
            "streaming": self._streaming,
            "key": self.key,
        }
