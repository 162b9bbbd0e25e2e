"""`RedisTieredVectorStore` and what LlamaIndex builds on it."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import pickle
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.retrievers import VectorIndexRetriever
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    NodeRelationship,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    SimpleVectorStore,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from llamaindex_redis_tiered import RedisTieredMemoryStore, RedisTieredVectorStore, Tiers
from redis_tiered.errors import InvalidInput, TierError
from tests.servers import RedisServer
from tests.waiting import wait_until

SECRET = "xyzzy-plugh"

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def one(tiers: Tiers) -> RedisTieredVectorStore:
    """A store on one pair of servers, searched in this process."""
    return RedisTieredVectorStore("one", tiers, engine="local")


@pytest.fixture(params=["local-none", "local-sqlite", "local-postgres", "redisvl-sqlite"])
def store(request: pytest.FixtureRequest) -> Iterator[RedisTieredVectorStore]:
    """A store on every kind of tiers and both engines."""
    engine, durable = request.param.split("-")
    redis = request.getfixturevalue("search_url" if engine == "redisvl" else "valkey")
    url = None if durable == "none" else request.getfixturevalue(f"{durable}_url")
    where = redis if isinstance(redis, str) else redis.url
    with Tiers(where, url, namespace=f"t{secrets.token_hex(4)}") as tiers:
        store = RedisTieredVectorStore("many", tiers, engine=engine)
        yield store
        store.clear()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a store by its sync name, or its async twin."""

    async def sync(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(store, name)(*arguments, **options)

    async def twin(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        prefix = "async_" if name == "add" else "a"
        return await getattr(store, prefix + name)(*arguments, **options)

    return sync if request.param == "sync" else twin


def node(id: str, *embedding: float, text: str = "", source: str = "", **metadata: Any) -> TextNode:
    made = TextNode(
        id_=id, text=text or f"text of {id}", embedding=list(embedding), metadata=metadata
    )
    if source:
        made.relationships[NodeRelationship.SOURCE] = Document(id_=source).as_related_node_info()
    return made


def bare(node: BaseNode) -> BaseNode:
    return node.model_copy(update={"embedding": None})


def where(key: str, value: Any, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(
        filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))]
    )


# At angles of 0, 30, 60, ... degrees, so that the nearest to (1, 0) come first.
FAN = [
    node(
        str(i),
        float(np.cos(np.pi * i / 6)),
        float(np.sin(np.pi * i / 6)),
        text=f"node {i} is {'even' if i % 2 == 0 else 'odd and rare'}",
        source="left" if i < 3 else "right",
        number=i,
        tags=[f"t{i}", "all"],
    )
    for i in range(6)
]
EAST = [1.0, 0.0]


async def ids(
    call: Call, store: RedisTieredVectorStore, k: int = 10, options: Any = None, **query: Any
) -> list[str]:
    query.setdefault("query_embedding", EAST)
    asked = VectorStoreQuery(similarity_top_k=k, **query)
    result = await call(store, "query", asked, **(options or {}))
    assert isinstance(result, VectorStoreQueryResult)
    assert result.nodes is not None
    assert result.similarities is not None
    assert result.ids is not None
    assert [found.node_id for found in result.nodes] == result.ids
    assert len(result.similarities) == len(result.ids)
    return result.ids


# On all tiers and engines.


async def test_nodes_are_added_found_and_deleted(store: RedisTieredVectorStore, call: Call) -> None:
    assert await call(store, "add", FAN) == ["0", "1", "2", "3", "4", "5"]
    result = await call(store, "query", VectorStoreQuery(EAST, similarity_top_k=2))
    assert result.ids == ["0", "1"]
    assert result.nodes == [bare(FAN[0]), bare(FAN[1])]
    assert result.similarities == pytest.approx([1.0, np.cos(np.pi / 6)], abs=1e-5)
    assert await ids(call, store, 1, filters=where("number", 3, ">=")) == ["3"]
    assert await ids(call, store, doc_ids=["right"]) == ["3", "4", "5"]
    assert await ids(call, store, node_ids=["5", "1", "no"]) == ["1", "5"]
    assert len(await ids(call, store, 3, mode="mmr")) == 3
    await call(store, "delete", "left")
    assert await call(store, "get_nodes") == [bare(each) for each in FAN[3:]]
    await call(store, "delete_nodes", ["3"])
    await call(store, "delete_nodes", filters=where("tags", "t4", "contains"))
    assert await ids(call, store) == ["5"]
    await call(store, "clear")
    assert await ids(call, store) == []


async def test_nodes_are_found_by_text(store: RedisTieredVectorStore, call: Call) -> None:
    await call(store, "add", FAN)
    rare: dict[str, Any] = {"query_str": "rare"}
    if store.tiers.durable is None and store.engine == "local":
        for mode in ("text_search", "sparse", "hybrid"):
            with pytest.raises(InvalidInput, match="full text needs a durable tier"):
                await ids(call, store, mode=mode, **rare)
        return
    for mode in ("text_search", "sparse"):
        found = await ids(call, store, mode=mode, query_embedding=None, **rare)
        assert set(found) == {"1", "3", "5"}
    assert set(await ids(call, store, 3, mode="hybrid", alpha=0.0, **rare)) == {"1", "3", "5"}
    assert await ids(call, store, 3, mode="hybrid", alpha=1.0, **rare) == ["0", "1", "2"]
    # First of one ranking and second of the other, whichever way its equals are ordered.
    assert (await ids(call, store, 1, mode="hybrid", **rare)) == ["1"]


CONDITIONS = [
    ("x", 1, "=="),
    ("x", "a", "!="),
    ("x", 1, ">"),
    ("x", 1.0, ">="),
    ("x", "b", "<"),
    ("x", 2, "<="),
    ("x", ["a", "ab"], "in"),
    ("x", [1, 2], "nin"),
    ("x", "a", "contains"),
    ("x", ["a", "b"], "any"),
    ("x", ["a", "b"], "all"),
    ("x", "A", "text_match"),
    ("x", "A", "text_match_insensitive"),
    ("x", None, "is_empty"),
    ("x", ["a", "b"], "=="),
    ("doc_id", "s", "=="),
    ("ref_doc_id", "None", "=="),
    ("_node_type", "TextNode", "!="),
]
VALUES = [None, True, 1, 2.5, -1, "", "a", "A", "ab", [], ["a"], ["a", "b"], [1], {"a": 1}]


async def test_filters_select_as_llamaindex_does(store: RedisTieredVectorStore, call: Call) -> None:
    nodes: list[BaseNode] = [node(f"v{i}", 1.0, i, x=value) for i, value in enumerate(VALUES)]
    nodes += [node("none", 1.0, 99.0), node("source", 1.0, 98.0, source="s")]
    nodes.append(ImageNode(id_="image", text="i", embedding=[1.0, 97.0]))
    theirs = SimpleVectorStore()
    theirs.add(nodes)
    await call(store, "add", nodes)
    leaves = [MetadataFilters(filters=[_leaf(*each)]) for each in CONDITIONS]
    both = [
        MetadataFilters(filters=[left, right], condition=condition)
        for (left, right), condition in zip(
            itertools.pairwise(leaves), itertools.cycle(FilterCondition), strict=False
        )
    ]
    for filters in [*leaves, *both]:
        found = await call(store, "get_nodes", filters=filters)
        expected = {each.node_id for each in nodes if _holds(theirs, each.node_id, filters)}
        assert {each.node_id for each in found} == expected, filters
        assert set(await ids(call, store, 30, filters=filters)) == expected, filters


def _leaf(key: str, value: Any, operator: str) -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def _holds(store: SimpleVectorStore, id: str, part: MetadataFilter | MetadataFilters) -> bool:
    if isinstance(part, MetadataFilters):
        parts = [_holds(store, id, each) for each in part.filters]
        if part.condition is FilterCondition.NOT:
            return not any(parts)
        return any(parts) if part.condition is FilterCondition.OR else all(parts)
    if isinstance(store.data.metadata_dict[id].get(part.key), dict) and part.operator in (
        FilterOperator.CONTAINS,
        FilterOperator.ANY,
    ):
        return False  # they would look at its keys
    query = VectorStoreQuery([1.0, 0.0], 1, node_ids=[id], filters=MetadataFilters(filters=[part]))
    only = SimpleVectorStore()
    for name in ("embedding_dict", "text_id_to_ref_doc_id", "metadata_dict"):
        getattr(only.data, name)[id] = getattr(store.data, name)[id]
    try:
        return only.query(query).ids == [id]
    except TypeError:
        return False


# Adding.


async def test_ids_are_kept_as_they_are(one: RedisTieredVectorStore, call: Call) -> None:
    given = ["doc-e1", " x ", "a:b*{c}|d", "ключ", "\n", "0", "a" * 1000]
    assert await call(one, "add", [node(id, 1.0, 0.0) for id in given]) == given
    assert [each.node_id for each in await call(one, "get_nodes", given)] == given
    assert await ids(call, one, 1, node_ids=["a:b*{c}|d"]) == ["a:b*{c}|d"]


async def test_nothing_is_added(one: RedisTieredVectorStore, call: Call) -> None:
    assert await call(one, "add", []) == []
    assert await call(one, "get_nodes") == []


async def test_the_last_of_several_with_one_id_is_kept(
    one: RedisTieredVectorStore, call: Call
) -> None:
    nodes = [node("a", 1.0, 0.0, text="old"), node("b", 1.0, 0.0), node("a", 0.0, 1.0, text="new")]
    assert await call(one, "add", nodes) == ["a", "b", "a"]
    found = await call(one, "get_nodes", ["a", "a"], with_embeddings=True)
    assert found == [nodes[2]]
    await call(one, "add", [node("a", 1.0, 0.0, text="newest")])
    assert [each.get_content() for each in await call(one, "get_nodes", ["a"])] == ["newest"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (TextNode(text="a"), r"nodes\[1\]\.embedding"),
        (node("", 1.0, 0.0), r"nodes\[1\]\.id_"),
        (node("b", 1.0, 0.0, k=object()), r"nodes\[1\]\['metadata'\]\['k'\]"),
        (node("b", 1.0), r"nodes\[1\]\.embedding must have 2 dimensions, got 1"),
        (node("b", 0.0, 0.0), r"nodes\[1\]\.embedding is all zeros"),
        (node("b", float("nan"), 0.0), r"nodes\[1\]\.embedding holds NaN"),
        ("text", r"nodes\[1\] must be"),
    ],
)
async def test_after_a_bad_node_nothing_was_added(
    one: RedisTieredVectorStore, call: Call, bad: Any, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await call(one, "add", [node("a", 1.0, 0.0), bad])
    assert await call(one, "get_nodes") == []


async def test_nodes_live_as_long_as_they_are_told(
    tiers: Tiers, one: RedisTieredVectorStore, call: Call
) -> None:
    await call(one, "add", [node("a", 1.0, 0.0)])
    await call(one, "add", [node("b", 1.0, 0.0)], ttl=0.05)
    wait_until(lambda: [each.node_id for each in one.get_nodes()] == ["a"])
    short = RedisTieredVectorStore("one", tiers, engine="local", ttl=0.05)
    await call(short, "add", [node("c", 1.0, 0.0)])
    wait_until(lambda: one.query(VectorStoreQuery(EAST, 9)).ids == ["a"])


# Queries.


async def test_how_many(one: RedisTieredVectorStore, call: Call) -> None:
    await call(one, "add", FAN)
    modes: list[dict[str, Any]] = [
        {"mode": "default"},
        {"mode": "mmr"},
        {"mode": "text_search", "query_str": "node"},
        {"mode": "sparse", "query_str": "node"},
        {"mode": "hybrid", "query_str": "node"},
    ]
    for mode in modes:
        assert [len(await ids(call, one, k, **mode)) for k in (0, 1, 4, 6, 50)] == [0, 1, 4, 6, 6]
    text = {"query_str": "node"}
    assert len(await ids(call, one, 5, mode="sparse", sparse_top_k=2, **text)) == 2
    assert len(await ids(call, one, 1, mode="text_search", sparse_top_k=4, **text)) == 4
    assert len(await ids(call, one, 5, mode="hybrid", hybrid_top_k=2, **text)) == 2
    assert len(await ids(call, one, 1, mode="hybrid", hybrid_top_k=3, **text)) == 3
    assert len(await ids(call, one, 2, mode="hybrid", sparse_top_k=50, **text)) == 2
    assert await ids(call, one, 5, mode="hybrid", hybrid_top_k=0, **text) == []


async def test_restrictions(one: RedisTieredVectorStore, call: Call) -> None:
    await call(one, "add", FAN)
    asked: list[dict[str, Any]] = [
        {"mode": "default"},
        {"mode": "mmr"},
        {"mode": "text_search", "query_str": "node"},
        {"mode": "hybrid", "query_str": "node"},
    ]
    for query in asked:
        for restriction, expected in (
            ({"node_ids": ["2", "4"]}, {"2", "4"}),
            ({"node_ids": []}, {"0", "1", "2", "3", "4", "5"}),
            ({"doc_ids": ["left"]}, {"0", "1", "2"}),
            ({"doc_ids": []}, set()),
            ({"doc_ids": ["left"], "node_ids": ["2", "4"]}, {"2"}),
            ({"filters": where("number", 2, ">")}, {"3", "4", "5"}),
            ({"filters": where("number", 2, ">"), "doc_ids": ["left"]}, set()),
            ({"filters": MetadataFilters(filters=[])}, {"0", "1", "2", "3", "4", "5"}),
        ):
            assert set(await ids(call, one, **query, **restriction)) == expected, restriction


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("cosine", [1.0, 0.6]), ("ip", [10.0, 3.0]), ("l2", [0.5, 1 / (1 + 8**0.5)])],
)
async def test_similarities(tiers: Tiers, call: Call, metric: Any, expected: list[float]) -> None:
    store = RedisTieredVectorStore(metric, tiers, metric=metric, engine="local")
    await call(store, "add", [node("near", 3.0, 0.0), node("far", 3.0 * 0.6, 3.0 * 0.8)])
    if metric == "ip":
        embedding = [10 / 3, (3.0 - 6.0) / 2.4]
    elif metric == "l2":
        embedding = [4.0, 0.0]
        await call(store, "add", [node("far", 2.0, 2.0)])
    else:
        embedding = [2.0, 0.0]
    result = await call(store, "query", VectorStoreQuery(embedding, similarity_top_k=2))
    assert result.ids == ["near", "far"]
    assert result.similarities == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("threshold", "k"), [(0.01, 2), (0.2, 2), (0.5, 2), (None, 2), (0.9, 2), (1.0, 6)]
)
async def test_mmr_chooses_as_llamaindex_does(
    one: RedisTieredVectorStore, call: Call, threshold: float | None, k: int
) -> None:
    # Beyond two, LlamaIndex compares a node with the one chosen last only, not with all of them.
    numbers = np.random.default_rng(7).normal(size=(20, 4))
    await call(one, "add", [node(str(i), *row) for i, row in enumerate(numbers)])
    embedding = [0.3, -0.2, 0.9, 0.1]
    _, expected = get_top_k_mmr_embeddings(
        embedding,
        [list(row) for row in numbers],
        similarity_top_k=k,
        embedding_ids=[str(i) for i in range(20)],
        mmr_threshold=threshold,
    )
    asked: dict[str, Any] = {"query_embedding": embedding, "mode": "mmr"}
    for options in (
        {"mmr_threshold": threshold, "mmr_prefetch_k": 20},
        {"mmr_threshold": threshold, "mmr_prefetch_factor": 100},
    ):
        assert await ids(call, one, k, options, **asked) == expected
    options = {"mmr_prefetch_k": 20, "mmr_threshold": None if threshold is None else 0.1234}
    assert await ids(call, one, k, options, mmr_threshold=threshold, **asked) == expected
    nearest = await ids(call, one, k, query_embedding=embedding)
    assert set(await ids(call, one, k, {"mmr_prefetch_k": 1}, **asked)) == set(nearest)


async def test_embeddings_come_back_if_they_are_asked_for(
    one: RedisTieredVectorStore, call: Call
) -> None:
    given = node("a", 0.5, 0.25)
    await call(one, "add", [given])
    asked = VectorStoreQuery(EAST, 1)
    assert (await call(one, "query", asked)).nodes == [bare(given)]
    assert (await call(one, "query", asked, with_embeddings=True)).nodes == [given]
    asked = VectorStoreQuery(EAST, 1, mode=VectorStoreQueryMode.MMR)
    assert (await call(one, "query", asked, with_embeddings=True)).nodes == [given]
    assert await call(one, "get_nodes", ["a"]) == [bare(given)]
    assert await call(one, "get_nodes", ["a"], with_embeddings=True) == [given]
    assert await call(one, "get_nodes", with_embeddings=True) == [given]


DEFAULT = VectorStoreQueryMode.DEFAULT


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        *(
            ({"mode": mode, "query_str": "a"}, {}, f"query.mode must be one of .*{mode}")
            for mode in VectorStoreQueryMode
            if mode in ("semantic_hybrid", "svm", "logistic_regression", "linear_regression")
        ),
        ({"mode": "nearest"}, {}, "query.mode must be one of .*got 'nearest'"),
        ({"query_embedding": None}, {}, "query.query_embedding must be"),
        ({"query_embedding": None, "mode": "mmr"}, {}, "query.query_embedding must be"),
        (
            {"query_embedding": None, "query_str": "a", "mode": "hybrid"},
            {},
            "query.query_embedding must be",
        ),
        ({"mode": "hybrid"}, {}, "query.query_str must be a str"),
        ({"mode": "sparse"}, {}, "query.query_str must be a str"),
        ({"mode": "text_search"}, {}, "query.query_str must be a str"),
        ({"query_embedding": [1.0]}, {}, "2 dimensions"),
        ({"similarity_top_k": -1}, {}, "query.similarity_top_k must be"),
        ({"similarity_top_k": "1"}, {}, "query.similarity_top_k must be an int"),
        ({"similarity_top_k": None}, {}, "query.similarity_top_k must be an int"),
        ({"mode": "hybrid", "query_str": "a", "hybrid_top_k": -1}, {}, "query.hybrid_top_k"),
        ({"mode": "sparse", "query_str": "a", "sparse_top_k": 1.5}, {}, "query.sparse_top_k"),
        ({"mode": "hybrid", "query_str": "a", "alpha": 2}, {}, "alpha must be"),
        ({"mode": "mmr", "mmr_threshold": 1.5}, {}, "mmr_threshold must be"),
        ({"mode": "mmr"}, {"mmr_threshold": "x"}, "mmr_threshold must be"),
        ({"mode": "mmr"}, {"mmr_prefetch_k": 0}, "mmr_prefetch_k must be"),
        ({"mode": "mmr"}, {"mmr_prefetch_factor": -1}, "mmr_prefetch_factor must be"),
        (
            {"mode": "mmr"},
            {"mmr_prefetch_factor": 2, "mmr_prefetch_k": 9},
            "must not both be given",
        ),
        ({}, {"mmr_threshold": 0.5}, r"unknown arguments \['mmr_threshold'\]"),
        ({}, {"unknown": 1}, r"unknown arguments \['unknown'\]"),
        ({"embedding_field": "other"}, {}, "query.embedding_field must be None"),
        ({"doc_ids": "left"}, {}, "query.doc_ids must be a list"),
        ({"doc_ids": [""]}, {}, r"query.doc_ids\[0\] must have"),
        ({"node_ids": [1]}, {}, r"query.node_ids\[0\] must be a str"),
        ({"filters": {"number": 1}}, {}, "filters must be a MetadataFilters"),
    ],
)
async def test_queries_that_cannot_be(
    one: RedisTieredVectorStore,
    call: Call,
    query: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    await call(one, "add", [node("a", 1.0, 0.0)])
    asked = VectorStoreQuery(**{"query_embedding": EAST, "similarity_top_k": 1, **query})
    with pytest.raises(InvalidInput, match=message):
        await call(one, "query", asked, **options)


# Getting and deleting.


async def test_nodes_are_gotten(one: RedisTieredVectorStore, call: Call) -> None:
    await call(one, "add", FAN)
    for arguments, expected in (
        ((), "012345"),
        ((["4", "no", "1", "4"],), "41"),
        (([],), ""),
        ((None, where("number", 4, ">=")), "45"),
        ((["5", "0"], where("number", 4, ">=")), "5"),
        ((["5", "0"], MetadataFilters(filters=[])), "50"),
    ):
        found = await call(one, "get_nodes", *arguments)
        assert found == [bare(FAN[int(i)]) for i in expected]


async def test_what_was_gotten_is_the_callers(one: RedisTieredVectorStore, call: Call) -> None:
    given = node("a", 1.0, 0.0, tags=["x"], info={"k": [1]})
    await call(one, "add", [given])
    for _ in range(3):
        [first] = await call(one, "get_nodes", ["a"])
        [second] = (await call(one, "query", VectorStoreQuery(EAST, 1))).nodes
        for found in (first, second):
            assert found == bare(given)
            found.metadata["tags"].append("y")
            found.metadata["info"]["k"].clear()


async def test_more_nodes_than_a_page(one: RedisTieredVectorStore, call: Call) -> None:
    many = [node(str(i), 1.0, i) for i in range(250)]
    await call(one, "add", many)
    assert len(await call(one, "get_nodes")) == 250
    await call(one, "delete_nodes", filters=MetadataFilters(filters=[_leaf("x", None, "is_empty")]))
    assert await call(one, "get_nodes") == []


async def test_nodes_are_deleted(one: RedisTieredVectorStore, call: Call) -> None:
    await call(one, "add", FAN)
    await call(one, "delete", "never")
    await call(one, "delete_nodes", [])
    await call(one, "delete_nodes", ["never"])
    await call(one, "delete_nodes", ["0"], where("number", 0, "!="))
    assert len(await call(one, "get_nodes")) == 6
    await call(one, "delete_nodes", ["0", "1"], where("number", 0, "=="))
    await call(one, "delete", "right")
    assert await call(one, "get_nodes") == [bare(FAN[1]), bare(FAN[2])]


async def test_deleting_without_saying_what_is_refused(
    one: RedisTieredVectorStore, call: Call
) -> None:
    await call(one, "add", [node("a", 1.0, 0.0)])
    for name, arguments, options in (
        ("delete", ("",), {}),
        ("delete", (None,), {}),
        ("delete", ("a",), {"unknown": 1}),
        ("delete_nodes", (), {}),
        ("delete_nodes", (None, MetadataFilters(filters=[])), {}),
        ("delete_nodes", ("a",), {}),
        ("add", ([],), {"unknown": 1}),
        ("add", (None,), {}),
        ("get_nodes", ("a",), {}),
    ):
        with pytest.raises(InvalidInput):
            await call(one, name, *arguments, **options)
    assert len(await call(one, "get_nodes")) == 1


async def test_collections_and_tenants_share_nothing(tiers: Tiers, call: Call) -> None:
    stores = [
        RedisTieredVectorStore("a", tiers),
        RedisTieredVectorStore("b", tiers),
        RedisTieredVectorStore("a", tiers.tenant("other")),
    ]
    for number, store in enumerate(stores):
        await call(store, "add", [node("same", 1.0, number, number=number)])
    await call(stores[1], "clear")
    found = [await call(store, "get_nodes") for store in stores]
    assert [[each.metadata["number"] for each in nodes] for nodes in found] == [[0], [], [2]]


# In LlamaIndex.


class WordEmbedding(BaseEmbedding):
    """As many dimensions as words are known; texts are near that share words."""

    def _of(self, text: str) -> list[float]:
        vector = np.full(64, 0.001)
        for word in text.lower().replace(".", " ").split():
            vector[sum(word.encode()) % 64] += 1.0
        return [float(number) for number in vector]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._of(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._of(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._of(text)


EMBEDDING = WordEmbedding()
CATS = Document(id_="cats", text="Cats purr.", metadata={"kind": "animal"})
CARS = Document(id_="cars", text="Cars drive.", metadata={"kind": "thing"})


def index_on(store: RedisTieredVectorStore, documents: Sequence[Document]) -> VectorStoreIndex:
    return VectorStoreIndex.from_documents(
        list(documents),
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=EMBEDDING,
    )


def sources(store: RedisTieredVectorStore) -> list[str | None]:
    return sorted(str(each.ref_doc_id) for each in store.get_nodes())


async def test_an_index(one: RedisTieredVectorStore) -> None:
    index = index_on(one, [CATS, CARS])
    retriever = index.as_retriever(similarity_top_k=1)
    for found in (retriever.retrieve("cats"), await retriever.aretrieve("cats")):
        assert [(each.node.ref_doc_id, each.text) for each in found] == [("cats", "Cats purr.")]
        assert found[0].metadata == {"kind": "animal"}
        assert found[0].score is not None
    filtered = index.as_retriever(filters=where("kind", "thing"))
    assert [each.node.ref_doc_id for each in filtered.retrieve("cats")] == ["cars"]
    among = index.as_retriever(doc_ids=["cars"])
    assert [each.node.ref_doc_id for each in await among.aretrieve("cats")] == ["cars"]
    for mode in ("text_search", "hybrid", "mmr"):
        retriever = index.as_retriever(similarity_top_k=1, vector_store_query_mode=mode)
        for found in (retriever.retrieve("purr"), await retriever.aretrieve("purr")):
            assert [each.node.ref_doc_id for each in found] == ["cats"], mode
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1)
    for response in (engine.query("cats"), await engine.aquery("cats")):
        assert [each.node.ref_doc_id for each in response.source_nodes] == ["cats"]
        assert "Cats purr." in str(response)
    index.insert(Document(id_="cows", text="Cows graze."))
    await index.ainsert(Document(id_="crows", text="Crows fly."))
    index.delete_ref_doc("cars")
    await index.adelete_ref_doc("cows")
    assert sources(one) == ["cats", "crows"]
    [first, _] = one.get_nodes()
    index.delete_nodes([first.node_id])
    assert sources(one) == ["crows"]
    again = VectorStoreIndex.from_vector_store(one, embed_model=EMBEDDING)
    assert [each.text for each in again.as_retriever().retrieve("crows")] == ["Crows fly."]


def test_an_index_that_is_asynchronous_under_a_blocking_call(one: RedisTieredVectorStore) -> None:
    index = VectorStoreIndex.from_documents(
        [CATS, CARS],
        storage_context=StorageContext.from_defaults(vector_store=one),
        embed_model=EMBEDDING,
        use_async=True,
    )
    assert sources(one) == ["cars", "cats"]
    assert index.as_retriever(similarity_top_k=1).retrieve("cars")[0].text == "Cars drive."


def test_documents_are_refreshed(one: RedisTieredVectorStore) -> None:
    context = StorageContext.from_defaults(vector_store=one)
    index = VectorStoreIndex.from_documents(
        [CATS, CARS], storage_context=context, embed_model=EMBEDDING, store_nodes_override=True
    )
    changed = Document(id_="cats", text="Cats sleep.")
    more = Document(id_="cows", text="Cows graze.")
    assert index.refresh_ref_docs([changed, CARS, more]) == [True, False, True]
    texts = sorted(each.get_content() for each in one.get_nodes())
    assert texts == ["Cars drive.", "Cats sleep.", "Cows graze."]
    found = index.as_retriever(similarity_top_k=3).retrieve("cats")
    assert sorted(each.text for each in found) == texts


def test_a_context_is_persisted(one: RedisTieredVectorStore, tmp_path: Path) -> None:
    index = index_on(one, [CATS])
    index.storage_context.persist(tmp_path / "context")
    index.storage_context.persist(str(tmp_path / "context"))
    assert sources(one) == ["cats"]
    again = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=str(tmp_path / "context"), vector_store=one),
        embed_model=EMBEDDING,
    )
    assert [each.text for each in again.as_retriever().retrieve("cats")] == ["Cats purr."]


async def test_other_kinds_of_nodes_in_an_index(one: RedisTieredVectorStore) -> None:
    nodes: list[BaseNode] = [
        TextNode(id_="text", text="A cat."),
        ImageNode(id_="image", text="A cat, painted.", image="aGVsbG8="),
        IndexNode(id_="index", text="All about a cat.", index_id="cats", obj=MockLLM),
    ]
    index = VectorStoreIndex(
        nodes=[nodes[0]],
        storage_context=StorageContext.from_defaults(vector_store=one),
        embed_model=EMBEDDING,
    )
    index.insert_nodes(nodes)  # which takes the object out, as it is not JSON
    found = VectorIndexRetriever(index, similarity_top_k=3).retrieve("cat")
    assert {each.node_id: type(each.node) for each in found} == {
        "text": TextNode,
        "image": ImageNode,
        "index": IndexNode,
    }
    assert {each.node_id: each for each in one.get_nodes()} == {
        each.node_id: each for each in nodes
    }
    # LlamaIndex asks for the nodes that the index itself keeps, if there are any.
    asked = index.as_retriever(similarity_top_k=3)
    assert {each.node_id for each in asked._node_ids and one.get_nodes(asked._node_ids)} == {
        "image",
        "index",
    }


@pytest.mark.parametrize("way", ["run", "arun"])
async def test_a_pipeline_upserts(one: RedisTieredVectorStore, way: str) -> None:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), EMBEDDING],
        docstore=SimpleDocumentStore(),
        vector_store=one,
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )

    async def run(*documents: Document) -> int:
        if way == "run":
            return len(pipeline.run(documents=list(documents)))
        return len(await pipeline.arun(documents=list(documents)))

    long = " ".join(f"Sentence number {i} of a long text." for i in range(40))
    assert await run(CATS, Document(id_="long", text=long)) > 3
    parts = sources(one)
    assert parts.count("cats") == 1
    assert parts.count("long") > 2
    assert await run(CATS, Document(id_="long", text=long)) == 0
    assert sources(one) == parts
    assert await run(CATS, Document(id_="long", text="Now it is short.")) == 1
    assert sources(one) == ["cats", "long"]


async def test_sessions_of_a_memory_block_do_not_see_each_other(
    tiers: Tiers, one: RedisTieredVectorStore
) -> None:
    def memory(session: str) -> Memory:
        return Memory.from_defaults(
            session_id=session,
            chat_store=RedisTieredMemoryStore(tiers),
            token_limit=40,
            chat_history_token_ratio=0.5,
            token_flush_size=10,
            memory_blocks=[
                VectorMemoryBlock(vector_store=one, embed_model=EMBEDDING, similarity_top_k=5)
            ],
        )

    one_memory, other = memory("one"), memory("other")
    for said in ("I like apples", "I live in Rome", "What do I like? " * 3):
        await one_memory.aput(ChatMessage(role="user", content=said))
    other.put(ChatMessage(role="user", content="I like pears, and that is all there is " * 2))
    other.put(ChatMessage(role="user", content="What do I like? " * 3))
    assert {each.metadata["session_id"] for each in one.get_nodes()} == {"one", "other"}
    seen = str([each.content for each in await one_memory.aget()])
    assert "apples" in seen
    assert "pears" not in seen
    seen = str([each.content for each in other.get()])
    assert "pears" in seen
    assert "apples" not in seen


# What it is, and how it is saved.


def test_it_is_what_llamaindex_expects(one: RedisTieredVectorStore) -> None:
    assert isinstance(one, BasePydanticVectorStore)
    assert one.stores_text
    assert one.is_embedding_query
    assert one.class_name() == "RedisTieredVectorStore"
    assert RedisTieredVectorStore.model_json_schema()["properties"]["tiers"]["type"] == "string"
    assert one.client.name == "one"


def test_every_method_has_a_native_twin() -> None:
    for name, method in inspect.getmembers(BasePydanticVectorStore, inspect.iscoroutinefunction):
        own = getattr(RedisTieredVectorStore, name)
        assert inspect.iscoroutinefunction(own), name
        assert own is not method, name


@pytest.mark.parametrize(
    "arguments",
    [
        {"collection": ""},
        {"collection": 1},
        {"tiers": f"redis://:{SECRET}@h"},
        {"dims": 0},
        {"metric": "manhattan"},
        {"engine": "other"},
        {"algorithm": "brute"},
        {"algorithm_options": {"m": "16"}},
        {"dtype": "int8"},
        {"payload": "nowhere"},
        {"ttl": -1},
        {"fields": ["a"]},
        {"track_access": 1},
        {"unknown": 1},
    ],
)
def test_arguments_that_cannot_be(tiers: Tiers, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisTieredVectorStore(**{"tiers": tiers, **arguments})
    assert SECRET not in str(caught.value)
    assert next(iter(arguments)) in str(caught.value)


@pytest.fixture
def secret_tiers(tmp_path: Path) -> Iterator[Tiers]:
    with Tiers(f"redis://{SECRET}:{SECRET}@localhost:1/3", f"sqlite:///{tmp_path}/x.db") as tiers:
        yield tiers


OPTIONS: dict[str, Any] = {
    "collection": "c",
    "dims": 3,
    "metric": "l2",
    "engine": "local",
    "algorithm": "flat",
    "algorithm_options": {"m": 8},
    "dtype": "float16",
    "payload": "durable",
    "ttl": 5.0,
    "fields": {"kind": "tag"},
    "track_access": True,
    "approximate": True,
    "auto_rebuild": False,
}


def test_dumps_hold_no_credentials(secret_tiers: Tiers) -> None:
    store = RedisTieredVectorStore(tiers=secret_tiers)
    for dump in (
        json.dumps(store.to_dict()),
        store.to_json(),
        json.dumps(store.model_dump()),
        store.model_dump_json(),
        json.dumps(RedisTieredVectorStore.model_json_schema()),
        repr(store),
        str(store),
        repr(store.client),
    ):
        assert SECRET not in dump


def test_a_dump_is_loaded_on_the_tiers_it_was_made_on(secret_tiers: Tiers) -> None:
    store = RedisTieredVectorStore(tiers=secret_tiers.tenant("t"), **OPTIONS)
    RedisTieredVectorStore(tiers=secret_tiers)
    for loaded in (
        RedisTieredVectorStore.from_dict(store.to_dict()),
        RedisTieredVectorStore.from_json(store.to_json()),
        RedisTieredVectorStore.model_validate(store.model_dump()),
        RedisTieredVectorStore.model_validate_json(store.model_dump_json()),
    ):
        assert loaded.tiers is store.tiers
        assert loaded.to_dict() == store.to_dict()
        assert {name: getattr(loaded, name) for name in OPTIONS} == OPTIONS
    with Tiers("redis://localhost:1", namespace="elsewhere") as elsewhere:
        dump = RedisTieredVectorStore(tiers=elsewhere).to_dict()
    with pytest.raises(InvalidInput, match="tiers must be open in this process"):
        RedisTieredVectorStore.from_dict(dump)
    assert RedisTieredVectorStore.from_dict(dump, tiers=secret_tiers).tiers is secret_tiers


def test_a_pickle_opens_the_tiers_again(one: RedisTieredVectorStore) -> None:
    one.add([node("a", 1.0, 0.0)])
    loaded = pickle.loads(pickle.dumps(one))
    assert loaded.to_dict() == one.to_dict()
    with loaded.tiers:
        assert loaded.query(VectorStoreQuery(EAST, 1)).ids == ["a"]


def test_copies_share_the_tiers(one: RedisTieredVectorStore) -> None:
    one.add([node("a", 1.0, 0.0)])
    for copied in (copy.copy(one), copy.deepcopy(one), one.model_copy(), one.model_copy(deep=True)):
        assert copied.tiers is one.tiers
        assert copied.get_nodes() == one.get_nodes()


async def test_no_error_holds_credentials(call: Call, secret_tiers: Tiers) -> None:
    with Tiers(f"redis://{SECRET}:{SECRET}@localhost:1") as tiers:
        store = RedisTieredVectorStore(tiers=tiers)
        for name, arguments in (
            ("add", ([node("a", 1.0, 0.0)],)),
            ("query", (VectorStoreQuery(EAST, 1),)),
            ("get_nodes", ()),
            ("delete", ("a",)),
            ("clear", ()),
        ):
            with pytest.raises(TierError) as caught:
                await call(store, name, *arguments)
            assert SECRET not in str(caught.value)
