"""Hashes that a document store looks ahead at: few round trips, and never older than memory is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import Document
from llama_index.core.vector_stores import SimpleVectorStore

from llamaindex_redis_tiered import RedisTieredDocumentStore, Tiers
from llamaindex_redis_tiered import _hashes as module
from redis_tiered.flow import Redis
from redis_tiered.tiers.redis import SyncRedis
from tests.servers import RedisServer
from tests.waiting import wait_until

COUNT = 1000


@pytest.fixture(params=[True, False], ids=["sqlite", "no-durable"])
def tiers(request: pytest.FixtureRequest, valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url if request.param else None) as tiers:
        tiers.setup()
        yield tiers


def documents(version: str = "") -> list[Document]:
    return [Document(id_=f"d{i}", text=f"text {i}, {version}") for i in range(COUNT)]


def pipeline(store: RedisTieredDocumentStore) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[],
        docstore=store,
        vector_store=SimpleVectorStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )


def test_a_pipeline_costs_a_round_trip_per_hundred_documents(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisTieredDocumentStore(tiers)
    store.get_document_hash("connects")
    trips: list[Redis] = []
    execute = SyncRedis.execute

    def counted(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
        trips.append(step)
        return execute(self, step, fresh=fresh)

    monkeypatch.setattr(SyncRedis, "execute", counted)
    for expected in (COUNT, 0):
        trips.clear()
        assert len(pipeline(store).run(documents=documents())) == expected
        # Memory may be told of our own writes a little late, and ask once more.
        assert len(trips) <= COUNT // 100 + 2
    assert len(store.docs) == COUNT


def test_what_is_changed_here_is_known_at_once(tiers: Tiers) -> None:
    store = RedisTieredDocumentStore(tiers)
    store.set_document_hashes({f"d{i}": "a" for i in range(100)})
    for round in range(3):
        for i in range(100):
            assert store.get_document_hash(f"d{i}") == ("a" if round == 0 else f"{round - 1}")
            assert store.get_document_hash("absent") is None
        store.set_document_hash("d3", f"{round}")
        assert store.get_document_hash("d3") == f"{round}"
        store.set_document_hashes({f"d{i}": f"{round}" for i in range(100)})
    store.add_documents([Document(id_="d4", text="new")])
    assert store.get_document_hash("d4") == Document(id_="d4", text="new").hash
    store.delete_document("d4")
    assert store.get_document_hash("d4") is None
    store.clear()
    assert store.get_document_hash("d5") is None


def test_what_another_process_changes_is_known_when_memory_is_told(tiers: Tiers) -> None:
    store = RedisTieredDocumentStore(tiers)
    store.set_document_hashes({"a": "1", "b": "1"})
    for _ in range(20):
        assert store.get_document_hash("c") is None
    assert store._documents._hashes._ahead is not None
    with Tiers.__reduce__(tiers)[0](*tiers.__reduce__()[1]) as others:
        other = RedisTieredDocumentStore(others)
        other.set_document_hash("c", "2")
        wait_until(lambda: store.get_document_hash("c") == "2")
        for _ in range(20):
            store.get_document_hash("d")
        other.delete_document("a")
        wait_until(lambda: store.get_document_hash("a") is None)
        other.clear()
        wait_until(lambda: store.get_document_hash("b") is None)


def test_a_store_of_too_many_is_asked_one_by_one(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    store = RedisTieredDocumentStore(tiers)
    store.set_document_hashes({f"d{i}": f"{i}" for i in range(50)})
    looked: list[Any] = []
    all_of = module.Hashes.all

    def counted(self: module.Hashes, most: int | None = None) -> Any:
        looked.append(most)
        return all_of(self, most)

    monkeypatch.setattr(module.Hashes, "all", counted)
    for i in range(50):
        assert store.get_document_hash(f"d{i}") == f"{i}"
    assert 1 <= len(looked) <= 4


def test_no_tier_to_look_ahead_in_is_none_to_ask(tiers: Tiers, valkey: RedisServer) -> None:
    store = RedisTieredDocumentStore(tiers)
    store.set_document_hashes({"a": "1"})
    valkey.kill()
    for _ in range(20):
        with contextlib.suppress(Exception):
            assert store.get_document_hash("a") == "1"
    if tiers.durable is not None:
        assert store.get_document_hash("a") == "1"
        assert store.get_document_hash("b") is None
