"""`RedisTieredIndexStore` and what LlamaIndex builds on the stores together."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import (
    StorageContext,
    SummaryIndex,
    VectorStoreIndex,
    load_index_from_storage,
    load_indices_from_storage,
)
from llama_index.core.data_structs.data_structs import IndexDict, IndexList
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import Document
from llama_index.core.storage.index_store.types import BaseIndexStore

from llamaindex_redis_tiered import (
    RedisTieredDocumentStore,
    RedisTieredIndexStore,
    RedisTieredKVStore,
    RedisTieredVectorStore,
    Tiers,
)
from redis_tiered.errors import InvalidInput, TierError
from tests.servers import RedisServer

SECRET = "xyzzy-plugh"
Call = Callable[..., Awaitable[Any]]
TWINS = {
    "add_index_struct": "async_add_index_struct",
    "add_index_structs": "async_add_index_structs",
    "index_structs": "async_index_structs",
}


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a store by its sync name, or its async twin."""

    async def sync(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(store, name)(*arguments, **options)

    async def twin(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(store, TWINS.get(name, f"a{name}"))(*arguments, **options)

    return sync if request.param == "sync" else twin


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def context(tiers: Tiers) -> StorageContext:
    return StorageContext.from_defaults(
        docstore=RedisTieredDocumentStore(tiers),
        index_store=RedisTieredIndexStore(tiers),
        vector_store=RedisTieredVectorStore("v", tiers, engine="local"),
    )


def document(id: str, text: str = "") -> Document:
    return Document(id_=id, text=text or f"text of {id}")


async def test_structures_come_and_go(urls: tuple[str, str | None], call: Call) -> None:
    with Tiers(*urls) as tiers:
        store = RedisTieredIndexStore(tiers, compress_from=100)
        assert isinstance(store, BaseIndexStore)
        assert await call(store, "index_structs") == []
        a = IndexDict(index_id="a", summary="s", nodes_dict={"1": "2"})
        b = IndexList(index_id="b/c", nodes=["n"] * 100)
        await call(store, "add_index_struct", a)
        assert await call(store, "get_index_struct") == a
        await call(store, "add_index_structs", [b, a])
        assert await call(store, "index_structs") == [a, b]
        assert await call(store, "get_index_struct", "b/c") == b
        assert await call(store, "get_index_struct", "c") is None
        with pytest.raises(InvalidInput, match="struct_id must say which, there are 2"):
            await call(store, "get_index_struct")
        await call(store, "delete_index_struct", "a")
        await call(store, "delete_index_struct", "a")
        assert await call(store, "index_structs") == [b]


async def test_what_is_refused(tiers: Tiers, call: Call) -> None:
    store = RedisTieredIndexStore(tiers)
    with pytest.raises(InvalidInput, match=r"index_structs\[0\] must be an IndexStruct, got str"):
        await call(store, "add_index_struct", "a")
    with pytest.raises(InvalidInput, match="key must be a str, got int"):
        await call(store, "get_index_struct", 3)
    with pytest.raises(InvalidInput, match="name"):
        RedisTieredIndexStore(tiers, name="")
    with (
        Tiers("redis://127.0.0.1:1/0", "sqlite:////nowhere/at/all.db") as broken,
        pytest.raises(TierError),
    ):
        await call(RedisTieredIndexStore(broken), "index_structs")


def test_a_key_value_store_of_the_same_name_is_another(tiers: Tiers) -> None:
    store = RedisTieredIndexStore(tiers)
    store.add_index_struct(IndexDict(index_id="a"))
    other = RedisTieredKVStore(tiers)
    assert other.get_all("index_store/data") == {}
    other.clear()
    assert len(store.index_structs()) == 1


def test_copies_and_pickles_have_the_same_options(tiers: Tiers) -> None:
    store = RedisTieredIndexStore(tiers, name="n", compress_from=9)
    store.add_index_struct(IndexDict(index_id="a"))
    assert copy.copy(store).tiers is copy.deepcopy(store).tiers is tiers
    other = pickle.loads(pickle.dumps(store))
    with other.tiers:
        assert other.index_structs() == store.index_structs()
        assert other._options == copy.deepcopy(store)._options == store._options


def test_its_words_hold_no_secret() -> None:
    with Tiers(f"redis://:{SECRET}@localhost:1/0") as tiers:
        assert SECRET not in repr(RedisTieredIndexStore(tiers))
    assert RedisTieredIndexStore.class_name() == "RedisTieredIndexStore"


def test_an_index_is_loaded_in_another_process(
    context: StorageContext, tiers: Tiers, tmp_path: Path
) -> None:
    model = MockEmbedding(embed_dim=2)
    index = VectorStoreIndex.from_documents(
        [document("d"), document("e")], storage_context=context, embed_model=model
    )
    summary = SummaryIndex.from_documents([document("f")], storage_context=context)
    context.persist(tmp_path)
    assert not (tmp_path / "docstore.json").exists()
    assert not (tmp_path / "index_store.json").exists()
    with pickle.loads(pickle.dumps(tiers)) as other:
        there = StorageContext.from_defaults(
            docstore=RedisTieredDocumentStore(other),
            index_store=RedisTieredIndexStore(other),
            vector_store=RedisTieredVectorStore("v", other, engine="local"),
        )
        found = load_index_from_storage(there, index_id=index.index_id, embed_model=model)
        texts = {hit.text for hit in found.as_retriever(similarity_top_k=9).retrieve("?")}
        assert texts == {"text of d", "text of e"}
        loaded = load_indices_from_storage(there, [summary.index_id])
        assert [node.text for node in loaded[0].as_retriever().retrieve("?")] == ["text of f"]


async def test_an_index_is_changed(context: StorageContext, call: Call) -> None:
    store = context.docstore
    index = VectorStoreIndex.from_documents(
        [document("d")],
        storage_context=context,
        embed_model=MockEmbedding(embed_dim=2),
        store_nodes_override=True,
    )

    def known() -> dict[str, list[str]]:
        infos = store.get_all_ref_doc_info()
        assert infos is not None
        texts = {id: store.get_nodes(info.node_ids) for id, info in infos.items()}
        return {id: [node.get_content() for node in nodes] for id, nodes in texts.items()}

    await call(index, "insert", document("e"))
    changed = [document("d", "new"), document("e"), document("f")]
    assert await call(index, "refresh_ref_docs", changed) == [True, False, True]
    assert known() == {"d": ["new"], "e": ["text of e"], "f": ["text of f"]}
    found = index.as_retriever(similarity_top_k=9).retrieve("?")
    assert sorted(hit.text for hit in found) == ["new", "text of e", "text of f"]
    await call(index, "delete_ref_doc", "e", delete_from_docstore=True)
    assert known() == {"d": ["new"], "f": ["text of f"]}
    assert len(index.as_retriever(similarity_top_k=9).retrieve("?")) == 2
