"""langchain-tests' own suite of vector stores, on both engines and every durable tier."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_redis_tiered import RedisTieredVectorStore, Tiers
from tests.langchain.leftovers import forget
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def namespace(search_url: str) -> Iterator[str]:
    namespace = f"lc{secrets.token_hex(4)}"
    yield namespace
    forget(search_url, namespace)


class TestLocal(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(
        self, valkey: RedisServer, durable_url: str | None
    ) -> Iterator[RedisTieredVectorStore]:
        with Tiers(valkey.url, durable_url) as tiers:
            yield RedisTieredVectorStore(self.get_embeddings(), tiers=tiers, engine="local")


class TestRedisVL(VectorStoreIntegrationTests):
    @pytest.fixture(params=["no-durable", "sqlite"])
    def vectorstore(
        self, request: pytest.FixtureRequest, search_url: str, namespace: str, sqlite_url: str
    ) -> Iterator[RedisTieredVectorStore]:
        durable = sqlite_url if request.param == "sqlite" else None
        with Tiers(search_url, durable, namespace=namespace) as tiers:
            yield RedisTieredVectorStore(
                self.get_embeddings(), secrets.token_hex(4), tiers, engine="redisvl"
            )
