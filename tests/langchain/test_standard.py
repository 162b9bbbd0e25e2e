"""langchain-tests' own cache suites, on every backend of the matrix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from langchain_redis_tiered import RedisTieredCache, Tiers


@pytest.fixture
def tiers(redis_url: str, durable_url: str | None) -> Iterator[Tiers]:
    with Tiers(redis_url, durable_url) as tiers:
        yield tiers


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Tiers]:
    with Tiers.embedded(tmp_path) as tiers:
        yield tiers


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, tiers: Tiers) -> RedisTieredCache:
        return RedisTieredCache(tiers)


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, tiers: Tiers) -> AsyncIterator[RedisTieredCache]:
        yield RedisTieredCache(tiers)
        await tiers.aclose()


class TestSyncEmbedded(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, embedded: Tiers) -> RedisTieredCache:
        return RedisTieredCache(embedded)


class TestAsyncEmbedded(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, embedded: Tiers) -> AsyncIterator[RedisTieredCache]:
        yield RedisTieredCache(embedded)
        await embedded.aclose()
