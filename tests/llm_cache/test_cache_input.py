"""LLMCache on real servers: bad input, and bytes that are not what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from redis_tiered import LLMCache, Tiers
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from tests.servers import RedisServer

REQUEST = Request(b"model", b"context", "question")


@pytest.fixture
def cache(valkey: RedisServer, sqlite_url: str) -> Iterator[LLMCache]:
    with Tiers(valkey.url, sqlite_url, l1_max_bytes=0) as tiers:
        yield LLMCache(tiers)


@pytest.mark.parametrize("request_", [None, "question", ("p", "c", "q"), 5])
async def test_what_is_no_request_is_refused(cache: LLMCache, request_: Any) -> None:
    for call in (cache.lookup, lambda r: cache.update(r, b"x")):
        with pytest.raises(InvalidInput, match="request must be a Request"):
            call(request_)
    with pytest.raises(InvalidInput, match="request"):
        await cache.alookup(request_)
    with pytest.raises(InvalidInput, match="request"):
        await cache.aupdate(request_, b"x")
    await cache.tiers.aclose()


@pytest.mark.parametrize("payload", [None, "text", 5, b"", bytearray(b"x")])
def test_what_is_no_answer_is_refused(cache: LLMCache, payload: Any) -> None:
    with pytest.raises(InvalidInput, match="payload"):
        cache.update(REQUEST, payload)
    assert cache.lookup(REQUEST) is None


@pytest.mark.parametrize("tokens", [-1, 1.5, True, None, 1 << 63])
def test_tokens_are_a_count(cache: LLMCache, tokens: Any) -> None:
    with pytest.raises(InvalidInput, match="tokens"):
        cache.update(REQUEST, b"answer", tokens=tokens)


@pytest.mark.parametrize("stored", [b"", b"\x01", b"rubbish" * 20, b"\x00" * 40])
def test_what_redis_garbled_is_put_back_from_the_durable_tier(
    cache: LLMCache, valkey: RedisServer, stored: bytes
) -> None:
    cache.update(REQUEST, b"answer")
    with valkey.client() as client:
        [entry] = client.scan_iter("redis-tiered:*{*}")
        assert fingerprint(REQUEST).digest.encode() in entry
        client.hset(entry, "r", stored)
        found = cache.lookup(REQUEST)
        assert found is not None
        assert (found.payload, found.tier) == (b"answer", "durable")
        assert sum(cache.stats().unreadable.values()) == 1
        found = cache.lookup(REQUEST)
        assert found is not None
        assert (found.payload, found.tier) == (b"answer", "redis")


def test_a_key_of_another_type_is_a_miss_in_redis(cache: LLMCache, valkey: RedisServer) -> None:
    cache.update(REQUEST, b"answer")
    with valkey.client() as client:
        [entry] = client.scan_iter("redis-tiered:*{*}")
        client.delete(entry)
        client.set(entry, "a string")
    found = cache.lookup(REQUEST)
    assert found is not None
    assert found.tier == "durable"


def test_large_answers_and_prompts(cache: LLMCache) -> None:
    request = Request(b"model", b"", "q" * 2_000_000)
    cache.update(request, bytes(range(256)) * 40_000)
    found = cache.lookup(request)
    assert found is not None
    assert len(found.payload) == 256 * 40_000
