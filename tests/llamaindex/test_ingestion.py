"""`IngestionPipeline` on the stores."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document, TransformComponent

from llamaindex_redis_tiered import (
    RedisTieredDocumentStore,
    RedisTieredKVStore,
    RedisTieredVectorStore,
    Tiers,
)
from redis_tiered.errors import TierError
from tests.servers import RedisServer

Run = Callable[..., Awaitable[list[BaseNode]]]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    async def sync(pipeline: IngestionPipeline, *documents: Document, **options: Any) -> Any:
        return pipeline.run(documents=list(documents), **options)

    async def twin(pipeline: IngestionPipeline, *documents: Document, **options: Any) -> Any:
        return await pipeline.arun(documents=list(documents), **options)

    return sync if request.param == "sync" else twin


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


def chunk_id(number: int, node: BaseNode) -> str:
    return f"{node.node_id}/{number}"


def pipeline(
    tiers: Tiers, strategy: str = "upserts", *more: TransformComponent, **options: Any
) -> IngestionPipeline:
    splitter = SentenceSplitter(chunk_size=20, chunk_overlap=0, id_func=chunk_id)
    return IngestionPipeline(
        transformations=[splitter, *more, MockEmbedding(embed_dim=2)],
        docstore=RedisTieredDocumentStore(tiers),
        vector_store=RedisTieredVectorStore("v", tiers, engine="local"),
        docstore_strategy=DocstoreStrategy(strategy),
        **options,
    )


def document(id: str, text: str = "") -> Document:
    return Document(id_=id, text=text or f"text of {id}")


def long(id: str, word: str) -> Document:
    return document(id, " ".join(f"{word} number {i}." for i in range(12)))


def kept(pipeline: IngestionPipeline) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Texts of the document store by id, and chunks of the vector store by source."""
    docstore, vectors = pipeline.docstore, pipeline.vector_store
    assert isinstance(docstore, RedisTieredDocumentStore)
    assert isinstance(vectors, RedisTieredVectorStore)
    docs = docstore.docs
    for id, node in docs.items():
        assert docstore.get_document_hash(id) == node.hash
    assert set(docstore.get_all_document_hashes()) == {node.hash for node in docs.values()}
    chunks: dict[str, set[str]] = {}
    for node in vectors.get_nodes():
        chunks.setdefault(str(node.ref_doc_id), set()).add(node.get_content())
    return {id: node.get_content() for id, node in docs.items()}, chunks


async def test_upserts(tiers: Tiers, run: Run) -> None:
    made = pipeline(tiers)
    assert len(await run(made, document("a"), document("b"))) == 2
    assert await run(made, document("a"), document("b")) == []
    assert len(await run(made, document("a", "new"), document("c"))) == 2
    texts = {"a": "new", "b": "text of b", "c": "text of c"}
    assert kept(made) == (texts, {id: {text} for id, text in texts.items()})
    before = kept(made)[1]
    await run(made, long("a", "many"))
    await run(made, document("a"))
    assert kept(made)[1] == before | {"a": {"text of a"}}


async def test_upserts_and_delete(tiers: Tiers, run: Run) -> None:
    made = pipeline(tiers, "upserts_and_delete")
    await run(made, document("a"), document("b"))
    await run(made, document("b"), document("c"))
    texts = {"b": "text of b", "c": "text of c"}
    assert kept(made) == (texts, {id: {text} for id, text in texts.items()})


async def test_documents_without_text_are_deleted_as_well(tiers: Tiers, run: Run) -> None:
    made = pipeline(tiers, "upserts_and_delete")
    await run(made, document("a"), document("b"), store_doc_text=False)
    await run(made, document("b"), store_doc_text=False)
    assert made.docstore is not None
    assert list(made.docstore.get_all_document_hashes().values()) == ["b"]


async def test_duplicates_only(tiers: Tiers, run: Run) -> None:
    made = pipeline(tiers, "duplicates_only")
    same = document("a", "same")
    assert len(await run(made, same, document("b", "same"), document("c"))) == 2
    assert await run(made, document("b", "same")) == []
    texts = {"a": "same", "c": "text of c"}
    assert kept(made) == (texts, {id: {text} for id, text in texts.items()})


# Pipelines at once.


@pytest.mark.parametrize("strategy", ["upserts", "duplicates_only"])
def test_pipelines_at_once_leave_what_one_does(
    valkey: RedisServer, sqlite_url: str, strategy: str
) -> None:
    documents = [document(f"d{i}", f"text {i}. " * 5) for i in range(20)]
    with Tiers(valkey.url, sqlite_url) as one, Tiers(valkey.url, sqlite_url) as two:
        made = [pipeline(tiers, strategy) for tiers in (one, two, one, two)]
        for word in ["", "new "]:
            given = [document(x.node_id, word + x.get_content()) for x in documents]
            if strategy == "duplicates_only":
                given = [document(word + x.node_id, x.get_content()) for x in given]
            with ThreadPoolExecutor(4) as pool:
                runs = [pool.submit(each.run, documents=given) for each in made]
            for each in runs:
                each.result()
        with Tiers(valkey.url, sqlite_url).tenant("alone") as three:
            alone = pipeline(three, strategy)
            if strategy == "duplicates_only":
                alone.run(documents=documents)
            alone.run(documents=given)
            assert kept(made[0]) == kept(made[1])
            ours, theirs = kept(made[0]), kept(alone)
            assert ours[0] == theirs[0]
            assert ours[1] == theirs[1]


async def test_tasks_at_once_leave_what_one_does(tiers: Tiers) -> None:
    made = [pipeline(tiers) for _ in range(4)]
    for word in ["old", "new"]:
        given = [document(f"d{i}", f"{word} {i}") for i in range(10)]
        await asyncio.gather(*(each.arun(documents=given) for each in made))
    texts = {f"d{i}": f"new {i}" for i in range(10)}
    assert kept(made[0]) == (texts, {id: {text} for id, text in texts.items()})


def test_of_two_versions_at_once_text_and_hash_are_of_one(
    valkey: RedisServer, sqlite_url: str
) -> None:
    with Tiers(valkey.url, sqlite_url) as one, Tiers(valkey.url, sqlite_url) as two:
        made = [pipeline(one), pipeline(two)]
        for i in range(5):
            with ThreadPoolExecutor(2) as pool:
                runs = [
                    pool.submit(each.run, documents=[document("d", f"{i} of {name}")])
                    for each, name in zip(made, "ab", strict=True)
                ]
                for each in runs:
                    each.result()
            texts, _ = kept(made[0])  # it compares them
            assert texts["d"] in {f"{i} of a", f"{i} of b"}


# The cache.


class Counting(TransformComponent):
    """Changes nothing, and counts in which processes it was asked."""

    path: str

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()}\n")
        return nodes


def asked(path: str) -> list[int]:
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [int(line) for line in file]


@pytest.fixture
def counting(tmp_path: Any) -> Counting:
    return Counting(path=str(tmp_path / "asked"))


def cached(store: RedisTieredKVStore, *parts: TransformComponent) -> IngestionPipeline:
    splitter = SentenceSplitter(chunk_size=20, chunk_overlap=0, id_func=chunk_id)
    return IngestionPipeline(
        transformations=[splitter, *parts, MockEmbedding(embed_dim=2)],
        cache=IngestionCache(cache=store),
    )


async def test_a_cache_is_asked_before_a_transformation(
    tiers: Tiers, run: Run, counting: Counting
) -> None:
    store = RedisTieredKVStore(tiers, ttl=60, jitter=0.1, compress_from=100, failures="miss")
    first = await run(cached(store, counting), long("d", "word"))
    again = await run(cached(pickle.loads(pickle.dumps(store)), counting), long("d", "word"))
    assert again == first
    assert len(asked(counting.path)) == 1
    cache = IngestionCache(cache=store)
    cache.clear()
    await run(cached(store, counting), long("d", "word"))
    assert len(asked(counting.path)) == 2
    assert not store.failed


async def test_a_cache_whose_tiers_fail_is_no_cache(run: Run, counting: Counting) -> None:
    with Tiers("redis://127.0.0.1:1/0") as tiers:
        store = RedisTieredKVStore(tiers, failures="miss")
        for _ in range(2):
            assert len(await run(cached(store, counting), document("d"))) == 1
        assert len(asked(counting.path)) == 2
        with pytest.raises(TierError):
            await run(cached(RedisTieredKVStore(tiers), counting), document("d"))


def test_processes_share_the_cache(tiers: Tiers, counting: Counting) -> None:
    store = RedisTieredKVStore(tiers, ttl=60)
    documents = [document("a"), document("b")]
    made = IngestionPipeline(
        # A splitter would ask the network for its tokenizer when it is unpickled.
        transformations=[counting, MockEmbedding(embed_dim=2)],
        cache=IngestionCache(cache=store),
        docstore=RedisTieredDocumentStore(tiers),
        docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
    )
    first = made.run(documents=documents, num_workers=2)
    pids = asked(counting.path)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert made.docstore is not None
    assert set(made.docstore.docs) == {"a", "b"}
    made.docstore = None
    again = [made.run(documents=[each])[0] for each in documents]  # in the batches that they had
    assert again == first
    assert asked(counting.path) == pids
