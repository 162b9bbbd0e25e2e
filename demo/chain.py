"""The chain that the demo serves its users with, and a clock around its cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI

from langchain_redis_tiered import RedisTieredCache
from redis_tiered.llm_cache.cache import Found

__all__ = ["NotedCache", "Notes", "make_chain", "take_notes"]


def make_chain(
    model: str, cache: RedisTieredCache, port: int | None
) -> Runnable[dict[str, str], str]:
    """A prompt, a model, a parser. Nothing in it knows of tiers, but for `cache=`.

    Args:
        model: its name.
        cache: where its answers are kept.
        port: of the model's server on this machine; None: the real API.
    """
    local: dict[str, Any] = {}
    if port is not None:
        # One URL for all tenants: their requests do not tell who is asking.
        local = {
            "base_url": "http://models.example/v1",
            "api_key": "none",
            "http_client": httpx.Client(transport=_Gateway(port)),
            "http_async_client": httpx.AsyncClient(transport=_AsyncGateway(port)),
        }
    prompt = ChatPromptTemplate.from_messages([("system", "{rules}"), ("human", "{question}")])
    return prompt | ChatOpenAI(model=model, cache=cache, **local) | StrOutputParser()


@dataclass
class Notes:
    """What is learned about one request on its way through the chain.

    Attributes:
        tier: "memory", "redis", "durable", "flight", or "model" where the model was called.
        lookup: seconds spent in the cache's lookup.
        tokens: input and output tokens of the model call, if there was one.
    """

    tier: str = "model"
    lookup: float = 0.0
    tokens: tuple[int, int] = (0, 0)


_notes: ContextVar[Notes] = ContextVar("notes")


def take_notes() -> Notes:
    """New notes, on the request that this thread or task makes next."""
    notes = Notes()
    _notes.set(notes)
    return notes


class NotedCache(RedisTieredCache):
    """The cache, with a clock around its lookups."""

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        began = time.perf_counter()
        found = super().lookup(prompt, llm_string)
        _notes.get().lookup = time.perf_counter() - began
        return found

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        began = time.perf_counter()
        found = await super().alookup(prompt, llm_string)
        _notes.get().lookup = time.perf_counter() - began
        return found

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        _notes.get().tokens = _tokens(return_val)
        super().update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        _notes.get().tokens = _tokens(return_val)
        await super().aupdate(prompt, llm_string, return_val)

    def _opened(self, found: Found | None) -> list[Generation] | None:
        if found is not None:
            _notes.get().tier = found.tier
        return super()._opened(found)


def _tokens(generations: Sequence[Generation]) -> tuple[int, int]:
    for generation in generations:
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if isinstance(message, AIMessage) and message.usage_metadata:
            usage = message.usage_metadata
            return usage["input_tokens"], usage["output_tokens"]
    return 0, 0


class _Gateway(httpx.HTTPTransport):
    """Sends everything to one port of this machine, whatever the URL."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return super().handle_request(request)


class _AsyncGateway(httpx.AsyncHTTPTransport):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await super().handle_async_request(request)
