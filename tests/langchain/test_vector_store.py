"""Documents in are documents out and are found, through LangChain's own interfaces."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import VectorStore

import langchain_redis_tiered
from langchain_redis_tiered import RedisTieredVectorStore, Tiers
from langchain_redis_tiered.vector_store import _RELEVANCE
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.filters import Field
from tests.langchain.leftovers import forget
from tests.servers import RedisServer
from tests.values import state
from tests.waiting import await_until

AXES = ["red", "green", "blue", "dark"]
TEXTS = ["red", "green", "red green", "red dark", "blue"]
CALL = Callable[..., Awaitable[Any]]


class Colours(Embeddings):
    """Counts the words it knows; the last axis is always 0.1. Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def vector(self, text: str) -> list[float]:
        return [*(float(text.split().count(axis)) for axis in AXES), 0.1]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.append(("embed_documents", texts))
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(("embed_query", [text]))
        return self.vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.append(("aembed_documents", texts))
        return [self.vector(text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        self.asked.append(("aembed_query", [text]))
        return self.vector(text)


class Twisted(Colours):
    """What it makes of documents is changed before it is given."""

    def __init__(self, twist: Callable[[list[list[float]]], Any]) -> None:
        super().__init__()
        self.twist = twist

    def embed_documents(self, texts: list[str]) -> Any:
        return self.twist(super().embed_documents(texts))

    async def aembed_documents(self, texts: list[str]) -> Any:
        return self.twist(await super().aembed_documents(texts))


@pytest.fixture
async def tiers(valkey: RedisServer, sqlite_url: str) -> AsyncIterator[Tiers]:
    async with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
async def memory(valkey: RedisServer) -> AsyncIterator[Tiers]:
    """Without a durable tier, which takes a while to make."""
    async with Tiers(valkey.url) as tiers:
        yield tiers


@pytest.fixture
def embedding() -> Colours:
    return Colours()


@pytest.fixture
def store(tiers: Tiers, embedding: Colours) -> RedisTieredVectorStore:
    return RedisTieredVectorStore(embedding, "colours", tiers)


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def call(mode: str) -> CALL:
    """Calls a method, or its asyncio twin."""

    async def call(target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if mode == "sync":
            return getattr(target, name)(*args, **kwargs)
        return await getattr(target, f"a{name}")(*args, **kwargs)

    return call


def ids(found: list[Any]) -> list[str]:
    return [(item[0] if isinstance(item, tuple) else item).id for item in found]


METADATA: dict[str, Any] = {
    "text": "ü",
    "none": None,
    "true": True,
    "one": 1,
    "float": 1.0,
    "wide": 2**70,
    "list": ["a", 1, None, [2.0]],
    "dict": {"k": (1, 2)},
    "moment": datetime(2026, 1, 2, 3, tzinfo=UTC),
    "naive": datetime(2026, 1, 2),
    "day": date(2026, 1, 2),
    "bytes": b"\0",
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=7),
    "path": Path("a/b"),
    "a.b $c": "a name",
}


async def test_documents_in_are_documents_out(call: CALL, urls: tuple[str, str | None]) -> None:
    given = [Document("red", metadata=METADATA), Document("green", id="g"), Document("", id="e")]
    before = state(given)
    async with Tiers(*urls) as tiers:
        store = RedisTieredVectorStore(Colours(), "colours", tiers)
        assert await call(store, "similarity_search", "red") == []
        added = await call(store, "add_documents", given)
        assert state(given) == before
        assert added[1:] == ["g", "e"]
        expected = [given[0].model_copy(update={"id": added[0]}), *given[1:]]
        found = await call(store, "get_by_ids", [*reversed(added), "nobody"])
        assert found == expected[::-1]
        assert state(found[-1].metadata) == state(METADATA)
        assert all(type(one) is Document and one.type == "Document" for one in found)
        [(nearest, score)] = await call(store, "similarity_search_with_score", "red", k=1)
        assert nearest == expected[0]
        assert state(nearest.metadata) == state(METADATA)
        assert score == pytest.approx(1)
        assert await call(store, "delete", ["g", "nobody"]) is True
        assert ids(await call(store, "similarity_search", "green")) != []
        assert "g" not in ids(await call(store, "similarity_search", "green"))
        assert await call(store, "delete") is True
        assert await call(store, "similarity_search", "red") == []


# --- ids ------------------------------------------------------------------------------------------


async def test_ids_of_the_call_come_first(call: CALL, store: RedisTieredVectorStore) -> None:
    given = [Document("red", id="a"), Document("green", id="b"), Document("blue")]
    added = await call(store, "add_documents", given, ids=["x", None, None])
    assert added[:2] == ["x", "b"]
    UUID(added[2])
    assert [one.page_content for one in await call(store, "get_by_ids", added)] == [
        "red",
        "green",
        "blue",
    ]
    assert await call(store, "get_by_ids", ["a"]) == []
    assert [one.id for one in given] == ["a", "b", None]


async def test_of_the_same_id_the_last_one_stays(call: CALL, store: RedisTieredVectorStore) -> None:
    assert await call(store, "add_texts", ["red", "blue"], ids=["x", "x"]) == ["x", "x"]
    assert await call(store, "add_texts", ["green"], [{"n": 1}], ids=["y"]) == ["y"]
    assert await call(store, "add_documents", [Document("dark", id="y")]) == ["y"]
    assert sorted(
        [(one.id, one.page_content, one.metadata) for one in store.get_by_ids(["x", "y"])]
    ) == [("x", "blue", {}), ("y", "dark", {})]
    assert store.collection.count() == 2


async def test_anything_that_can_be_iterated_once(
    call: CALL, store: RedisTieredVectorStore, tiers: Tiers
) -> None:
    def each(items: Any) -> Iterator[Any]:
        yield from items

    added = await call(
        store, "add_texts", each(["red", "blue"]), each([{"n": 1}, None]), ids=each(["r", None])
    )
    assert [one.metadata for one in store.get_by_ids(each(added))] == [{"n": 1}, {}]
    added = await call(store, "add_documents", each([Document("dark", id="d")]))
    assert added == ["d"]
    made = await call(
        RedisTieredVectorStore,
        "from_documents",
        each([Document("red", id="f")]),
        Colours(),
        tiers=tiers,
    )
    assert ids(made.get_by_ids(["f"])) == ["f"]


async def test_texts_of_messages(
    call: CALL, store: RedisTieredVectorStore, embedding: Colours
) -> None:
    text = HumanMessage("red").text
    await call(store, "add_texts", [text], ids=["m"])
    [found] = await call(store, "similarity_search", text)
    assert type(found.page_content) is str
    assert [type(one) for _, asked in embedding.asked for one in asked] == [str, str]
    assert ids(await call(store, "text_search", text)) == ["m"]
    assert ids(await call(store, "hybrid_search", text)) == ["m"]


# --- what is refused ------------------------------------------------------------------------------


class Marked(Document):
    mark: int = 0


RED = Document("red")


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "said"),
    [
        ("add_texts", ["red"], {}, "texts must be a list of str, got str"),
        ("add_texts", [None], {}, "texts must be a list of str, got NoneType"),
        ("add_texts", [["red", 1]], {}, r"texts\[1\] must be a str, got int"),
        (
            "add_texts",
            [["red", "blue"], [{}]],
            {},
            "metadatas must be one for each of 2 texts, got 1",
        ),
        ("add_texts", [["red"], [{}, {}]], {}, "metadatas must be one for each of 1 texts, got 2"),
        ("add_texts", [["red"], []], {}, "metadatas must be one for each of 1 texts, got 0"),
        ("add_texts", [["red"], {"a": 1}], {}, "metadatas must be a list of dict, got dict"),
        ("add_texts", [["red"], ["a"]], {}, r"metadatas\[0\] must be a dict or None, got str"),
        ("add_texts", [["red"]], {"ids": []}, "ids must be one for each of 1 documents, got 0"),
        ("add_texts", [["red"]], {"ids": ["a", "b"]}, "ids must be one for each of 1 documents"),
        ("add_texts", [["red"]], {"ids": "a"}, "ids must be a list of str or None, got str"),
        ("add_texts", [["red"]], {"ids": [1]}, r"ids\[0\] must be a str or None, got int"),
        ("add_texts", [["red"]], {"ids": [""]}, r"ids\[0\] must have at least 1 character"),
        ("add_texts", [["red"]], {"ids": ["x" * 1025]}, r"documents\[0\]\.id .* 1024 bytes"),
        ("add_texts", [["red"]], {"ttl": 0}, "ttl must be more than 0"),
        ("add_texts", [["red"]], {"batch_size": 0}, "batch_size must be from 1"),
        ("add_texts", [["red"]], {"tll": 1}, "takes no argument 'tll'"),
        ("add_texts", [["red", "\ud800"]], {}, r"documents\[1\]\.text holds a lone surrogate"),
        ("add_texts", [["red"], [{"f": object()}]], {}, r"documents\[0\]\.metadata.*f.*object"),
        ("add_documents", ["red"], {}, "documents must be a list of Document, got str"),
        ("add_documents", [RED], {}, "documents must be a list of Document, got Document"),
        ("add_documents", [[RED, "red"]], {}, r"documents\[1\] must be a Document, got str"),
        (
            "add_documents",
            [[Document("red", id="")]],
            {},
            r"documents\[0\]\.id must have at least 1",
        ),
        (
            "add_documents",
            [[RED, Marked(page_content="red")]],
            {},
            r"documents\[1\] .* Marked, which has more",
        ),
        ("add_documents", [[RED]], {"id": ["a"]}, "takes no argument 'id'"),
        (
            "add_documents",
            [[RED, Document("red", metadata={"d": [{"x": RED}]})]],
            {},
            r"documents\[1\]\.metadata\['d'\]\[0\]\['x'\] must be made of .*, got Document",
        ),
        ("add_documents", [[Document("red", metadata={1: 2})]], {}, r"documents\[0\]\.metadata"),
        ("add_documents", [[Document("red", metadata={"": 2})]], {}, r"documents\[0\]\.metadata"),
        ("delete", ["a"], {}, "ids must be a list of str, got str"),
        ("delete", [[1]], {}, "must be a str, got int"),
        ("delete", [], {"filter": "a"}, "filter must be None, a redis_tiered Filter"),
        ("delete", [], {"where": {}}, "delete takes no argument 'where'"),
        ("get_by_ids", ["a"], {}, "ids must be a list of str, got str"),
        ("get_by_ids", [None], {}, "ids must be a list of str, got NoneType"),
        ("similarity_search", [1], {}, "query must be a str, got int"),
        ("similarity_search", ["red"], {"filter": lambda one: True}, "filter must be None"),
        (
            "similarity_search",
            ["red"],
            {"score_threshold": 0.5},
            "takes no argument 'score_threshold'; accepted are also ids, min_score, max_distance",
        ),
        ("similarity_search_by_vector", ["red"], {}, "must be a sequence of numbers, got str"),
        ("similarity_search_by_vector", [[1.0]], {}, "must have 5 dimensions, got 1"),
        ("max_marginal_relevance_search", [None], {}, "query must be a str"),
        ("max_marginal_relevance_search", ["red"], {"max_distance": 1}, "accepted are also ids"),
        ("max_marginal_relevance_search_by_vector", [[0.0] * 5], {}, "all zeros"),
        ("text_search", [b"red"], {}, "query must be a str, got bytes"),
        ("text_search", ["red"], {"alpha": 1}, "takes no argument 'alpha'"),
        ("hybrid_search", [["red"]], {}, "query must be a str, got list"),
    ],
)
async def test_misuse_is_refused_before_anything_is_embedded(
    call: CALL,
    memory: Tiers,
    embedding: Colours,
    method: str,
    args: list[Any],
    kwargs: dict[str, Any],
    said: str,
) -> None:
    store = RedisTieredVectorStore(embedding, tiers=memory)
    store.add_texts(["red"], ids=["kept"])
    embedding.asked.clear()
    with pytest.raises(InvalidInput, match=said):
        await call(store, method, *args, **kwargs)
    assert embedding.asked == []
    assert store.collection.count() == 1


@pytest.mark.parametrize(
    ("twist", "said"),
    [
        (lambda made: made[:-1], "a vector for each of 2 texts, got 1 from Twisted"),
        (lambda made: [*made, made[0]], "got 3 from Twisted"),
        (lambda made: [], "got 0"),
        (lambda made: None, "got NoneType from Twisted"),
        (lambda made: "ab", "got str"),
        (lambda made: dict(enumerate(made)), "got dict"),
        (lambda made: [made[0], None], r"documents\[1\]\.vector must be a sequence of numbers"),
        (lambda made: [made[0], "a"], r"documents\[1\]\.vector"),
        (lambda made: [made[0], ["1"] * 5], r"documents\[1\]\.vector"),
        (lambda made: [made[0], [made[1]]], r"documents\[1\]\.vector .* shape \(1, 5\)"),
        (lambda made: [made[0], made[1][:3]], r"documents\[1\]\.vector must have 5 dimensions"),
        (lambda made: [made[0], [math.nan] * 5], r"documents\[1\]\.vector holds NaN"),
        (lambda made: [made[0], [math.inf] * 5], r"documents\[1\]\.vector holds NaN or"),
        (lambda made: [made[0], [0.0] * 5], r"documents\[1\]\.vector is all zeros"),
        (lambda made: [[], []], r"documents\[0\]\.vector must have 1 to 32768"),
    ],
)
async def test_an_embedding_that_gives_rubbish(
    call: CALL, memory: Tiers, twist: Callable[[Any], Any], said: str
) -> None:
    store = RedisTieredVectorStore(Twisted(twist), tiers=memory)
    with pytest.raises(InvalidInput, match=said):
        await call(store, "add_texts", ["red", "blue"], ids=["a", "b"])
    assert store.collection.count() == 0
    assert await call(store, "get_by_ids", ["a", "b"]) == []


async def test_vectors_of_numpy(call: CALL, tiers: Tiers) -> None:
    store = RedisTieredVectorStore(Twisted(lambda made: np.array(made, np.float64)), tiers=tiers)
    await call(store, "add_texts", ["red", "blue"], ids=["r", "b"])
    assert ids(await call(store, "similarity_search_by_vector", np.array([1, 0, 0, 0, 0]))) == [
        "r",
        "b",
    ]


async def test_an_embedding_that_fails(call: CALL, tiers: Tiers) -> None:
    def fail(made: Any) -> Any:
        if made[0][0]:
            return made
        raise ConnectionError("no network")

    store = RedisTieredVectorStore(Twisted(fail), tiers=tiers)
    with pytest.raises(ConnectionError, match="no network"):
        await call(store, "add_texts", ["red", "blue"], batch_size=1)
    assert store.collection.count() == 0


async def test_nothing_to_do_asks_nobody(
    call: CALL, store: RedisTieredVectorStore, embedding: Colours
) -> None:
    assert await call(store, "add_texts", []) == []
    assert await call(store, "add_texts", [], []) == []
    assert await call(store, "add_documents", [], ids=[]) == []
    assert await call(store, "get_by_ids", []) == []
    await call(store, "add_texts", ["red"])
    assert await call(store, "delete", []) is True
    assert store.collection.count() == 1
    assert [name.lstrip("a") for name, _ in embedding.asked] == ["embed_documents"]


async def test_batches_of_the_embedding(
    call: CALL, store: RedisTieredVectorStore, embedding: Colours
) -> None:
    before = store.collection.info()
    await call(store, "add_texts", TEXTS, ids=list("abcde"), batch_size=2)
    assert [texts for _, texts in embedding.asked] == [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
    assert before != store.collection.info()
    assert ids(await call(store, "similarity_search", "blue", k=1)) == ["e"]


async def test_documents_expire(call: CALL, store: RedisTieredVectorStore) -> None:
    await call(store, "add_texts", ["red"], ids=["brief"], ttl=0.05)
    await call(store, "add_documents", [Document("red", id="brief too")], ttl=0.05)
    await call(store, "add_texts", ["red"], ids=["kept"])
    await await_until(lambda: len(store.get_by_ids(["brief", "brief too"])) == 0)
    assert ids(await call(store, "similarity_search", "red")) == ["kept"]


# --- deleting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "left"),
    [
        ([], {}, ""),
        ([None], {}, ""),
        ([["a", "b"]], {}, "cde"),
        ([[]], {}, "abcde"),
        ([[]], {"filter": {"n": {"$gte": 0}}}, "abcde"),
        ([["nobody"]], {}, "abcde"),
        ([], {"filter": {"n": {"$gte": 3}}}, "abc"),
        ([], {"filter": Field("n") == 0}, "bcde"),
        ([["a", "b"]], {"filter": {"n": 1}}, "acde"),
        ([], {"filter": {}}, ""),
        ([], {"filter": {"n": 9}}, "abcde"),
    ],
)
async def test_delete(
    call: CALL, store: RedisTieredVectorStore, args: list[Any], kwargs: dict[str, Any], left: str
) -> None:
    store.add_texts(TEXTS, [{"n": n} for n in range(5)], ids=list("abcde"))
    assert await call(store, "delete", *args, **kwargs) is True
    assert ids(await call(store, "get_by_ids", list("abcde"))) == list(left)
    assert sorted(ids(await call(store, "similarity_search", "red", k=9))) == list(left)


# --- searching ------------------------------------------------------------------------------------


@pytest.fixture
def full(store: RedisTieredVectorStore) -> RedisTieredVectorStore:
    metadatas = [{"n": n, "tags": list(text.split())} for n, text in enumerate(TEXTS)]
    store.add_texts(TEXTS, metadatas, ids=list("abcde"))
    return store


def cosine(one: list[float], other: list[float]) -> float:
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


async def test_search_by_similarity(
    call: CALL, full: RedisTieredVectorStore, embedding: Colours
) -> None:
    vector = embedding.vector("red")
    scores = {
        name: cosine(vector, embedding.vector(text))
        for name, text in zip("abcde", TEXTS, strict=True)
    }
    order = sorted(scores, key=lambda name: (-scores[name], name))
    scored = await call(full, "similarity_search_with_score", "red", k=9)
    assert ids(scored) == order
    assert dict(zip(ids(scored), [s for _, s in scored], strict=True)) == pytest.approx(
        scores, abs=1e-6
    )
    assert await call(full, "similarity_search", "red") == [one for one, _ in scored[:4]]
    assert await call(full, "similarity_search_by_vector", vector, 2) == [d for d, _ in scored[:2]]
    by_vector = await call(full, "similarity_search_with_score_by_vector", vector, k=9)
    assert by_vector == scored
    relevant = await call(full, "similarity_search_with_relevance_scores", "red", k=9)
    assert ids(relevant) == order
    assert all(0 <= score <= 1 for _, score in relevant)
    assert await call(full, "search", "red", "similarity", k=2) == [d for d, _ in scored[:2]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"filter": {"n": {"$gte": 1, "$lt": 4}}}, "cdb"),
        ({"filter": {"tags": "dark"}}, "d"),
        ({"filter": Field("tags").contains("green")}, "cb"),
        ({"filter": {}}, "acdbe"),
        ({"filter": {"n": 9}}, ""),
        ({"ids": ["e", "b", "nobody"]}, "be"),
        ({"ids": ["e", "b"], "filter": {"n": 4}}, "e"),
        ({"ids": []}, ""),
        ({"min_score": 0.6}, "acd"),
        ({"max_distance": 0.1}, "a"),
        ({"k": None, "min_score": -1.0}, "acdbe"),
        ({"k": 1, "filter": {"n": {"$ne": 0}}}, "c"),
    ],
)
async def test_restrictions(
    call: CALL, full: RedisTieredVectorStore, options: dict[str, Any], expected: str
) -> None:
    options = {"k": 9, **options}
    assert ids(await call(full, "similarity_search", "red", **options)) == list(expected)
    scored = await call(full, "similarity_search_with_score", "red", **options)
    assert ids(scored) == list(expected)


@pytest.mark.parametrize(
    "method",
    [
        "similarity_search_with_score",
        "similarity_search_with_relevance_scores",
        "max_marginal_relevance_search",
        "max_marginal_relevance_search_with_score",
        "text_search",
        "text_search_with_score",
        "hybrid_search",
        "hybrid_search_with_score",
    ],
)
async def test_every_search_takes_filters_and_ids(
    call: CALL, full: RedisTieredVectorStore, method: str
) -> None:
    async def found(**options: Any) -> list[str]:
        return sorted(ids(await call(full, method, "red", k=5, **options)))

    assert await found(filter={"$and": [{"tags": "red"}, {"n": {"$gt": 0}}]}) == ["c", "d"]
    assert await found(ids=["a", "c"]) == ["a", "c"]
    assert await found(ids=["a", "c"], filter=~(Field("n") == 0)) == ["c"]


async def test_expressions_of_redisvl(
    call: CALL, search_url: str, sqlite_url: str, embedding: Colours
) -> None:
    query = pytest.importorskip("redisvl.query.filter")
    expression = (query.Tag("first") == "red") & (query.Num("n") > 0)
    namespace = f"lc{secrets.token_hex(4)}"
    async with Tiers(search_url, sqlite_url, namespace=namespace) as tiers:
        store = RedisTieredVectorStore(
            embedding, tiers=tiers, engine="redisvl", fields={"first": "tag", "n": "numeric"}
        )
        try:
            metadatas = [{"n": n, "first": text.split()[0]} for n, text in enumerate(TEXTS)]
            store.add_texts(TEXTS, metadatas, ids=list("abcde"))
            assert ids(await call(store, "similarity_search", "red", filter=expression)) == [
                "c",
                "d",
            ]
            assert ids(await call(store, "text_search", "red", filter=expression)) == ["c", "d"]
            assert await call(store, "delete", filter=expression) is True
            assert ids(await call(store, "get_by_ids", list("abcde"))) == ["a", "b", "e"]
            with pytest.raises(InvalidInput, match="nobody"):
                await call(store, "delete", filter=query.Tag("nobody") == "red")
        finally:
            forget(search_url, namespace)


@pytest.mark.parametrize("name", ["similarity_search", "max_marginal_relevance_search", "delete"])
async def test_the_local_engine_knows_no_expressions(
    call: CALL, full: RedisTieredVectorStore, name: str
) -> None:
    query = pytest.importorskip("redisvl.query.filter")
    args = [] if name == "delete" else ["red"]
    with pytest.raises(InvalidInput, match="redisvl"):
        await call(full, name, *args, filter=query.Tag("first") == "red")
    assert full.collection.count() == len(TEXTS)


async def test_marginal_relevance(
    call: CALL, full: RedisTieredVectorStore, embedding: Colours
) -> None:
    vector = embedding.vector("red")
    nearest = ids(full.similarity_search("red", k=5))
    mmr = "max_marginal_relevance_search"
    assert ids(await call(full, mmr, "red", k=5, lambda_mult=1.0)) == nearest
    assert ids(await call(full, mmr, "red", 2, 2)) == nearest[:2]
    different = ids(await call(full, mmr, "red", k=2, fetch_k=5, lambda_mult=0.0))
    assert different[0] == "a"
    assert different[1] in "be"
    scored = await call(full, f"{mmr}_with_score", "red", k=3)
    every = dict(
        zip(nearest, [s for _, s in full.similarity_search_with_score("red", 5)], strict=True)
    )
    assert {one.id: score for one, score in scored} == pytest.approx(
        {name: every[name] for name in ids(scored)}
    )
    assert await call(full, f"{mmr}_by_vector", vector, k=3) == [one for one, _ in scored]
    assert await call(full, f"{mmr}_with_score_by_vector", vector, k=3) == scored
    assert await call(full, "search", "red", "mmr", k=3) == [one for one, _ in scored]


async def test_full_text_and_both(
    call: CALL, full: RedisTieredVectorStore, embedding: Colours
) -> None:
    embedding.asked.clear()
    assert ids(await call(full, "text_search", "dark")) == ["d"]
    scored = await call(full, "text_search_with_score", "red", k=9)
    assert sorted(ids(scored)) == ["a", "c", "d"]
    assert all(score > 0 for _, score in scored)
    assert embedding.asked == []
    by_meaning = ids(await call(full, "similarity_search", "red dark", k=3))
    assert ids(await call(full, "hybrid_search", "red dark", k=3, alpha=1.0)) == by_meaning
    assert ids(await call(full, "hybrid_search", "dark", k=1, alpha=0.0, fetch_k=5)) == ["d"]
    scored = await call(full, "hybrid_search_with_score", "red dark", k=5)
    assert ids(scored)[0] == "d"
    assert [score for _, score in scored] == sorted((s for _, s in scored), reverse=True)


async def test_what_is_found_is_the_callers(call: CALL, full: RedisTieredVectorStore) -> None:
    for _ in range(2):
        for method, asked in (("similarity_search", "red"), ("get_by_ids", ["a"])):
            found = (await call(full, method, asked))[0]
            assert found == Document("red", id="a", metadata={"n": 0, "tags": ["red"]})
            found.metadata["tags"].append("changed")
            found.metadata["n"] = 7
            found.page_content = "changed"


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
async def test_metrics(call: CALL, tiers: Tiers, metric: Any) -> None:
    embedding = Colours()
    texts = ["red", "red red red", "blue"]
    store = await call(
        RedisTieredVectorStore,
        "from_texts",
        texts,
        embedding,
        ids=list("abc"),
        tiers=tiers,
        metric=metric,
    )
    vector = np.array(embedding.vector("red red"))
    others = [np.array(embedding.vector(text)) for text in texts]
    expected = {
        "cosine": [cosine(list(vector), list(one)) for one in others],
        "ip": [float(vector @ one) for one in others],
        "l2": [1 / (1 + float(np.linalg.norm(vector - one))) for one in others],
    }[metric]
    scored = await call(store, "similarity_search_with_score", "red red")
    assert {one.id: score for one, score in scored} == pytest.approx(
        dict(zip("abc", expected, strict=True)), abs=1e-6
    )
    relevant = await call(store, "similarity_search_with_relevance_scores", "red red")
    assert ids(relevant) == ids(scored)
    assert {one.id: score for one, score in relevant} == pytest.approx(
        {one.id: _RELEVANCE[metric](score) for one, score in scored}
    )


@given(
    st.sampled_from(["cosine", "ip", "l2"]).flatmap(
        lambda metric: st.tuples(
            st.just(metric),
            *[
                {
                    "cosine": st.floats(-1 - 1e-6, 1 + 1e-6),
                    "ip": st.floats(allow_nan=False, allow_infinity=False),
                    "l2": st.floats(0, 1),
                }[metric]
            ]
            * 2,
        )
    )
)
def test_relevance_scores_are_from_0_to_1_and_keep_the_order(
    given: tuple[str, float, float],
) -> None:
    metric, *scores = given
    low, high = (_RELEVANCE[metric](score) for score in sorted(scores))
    assert 0 <= low <= high <= 1


async def test_a_relevance_function_of_ones_own(call: CALL, tiers: Tiers) -> None:
    store = RedisTieredVectorStore(Colours(), tiers=tiers, relevance_score_fn=lambda score: 0.25)
    store.add_texts(["red"])
    [(_, score)] = await call(store, "similarity_search_with_relevance_scores", "red")
    assert score == 0.25


# --- LangChain around it --------------------------------------------------------------------------


async def retrieved(call: CALL, retriever: Any, query: str) -> list[str]:
    return ids(await call(retriever, "invoke", query))


async def test_retrievers(
    call: CALL, full: RedisTieredVectorStore, caplog: pytest.LogCaptureFixture
) -> None:
    plain = full.as_retriever(search_kwargs={"k": 2, "filter": {"tags": "green"}})
    assert await retrieved(call, plain, "red") == ["c", "b"]
    assert plain.tags == ["RedisTieredVectorStore", "Colours"]
    threshold = full.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.6}
    )
    assert await retrieved(call, threshold, "red") == ["a", "c", "d"]
    diverse = full.as_retriever(
        search_type="mmr", search_kwargs={"k": 2, "fetch_k": 5, "lambda_mult": 0.0}
    )
    assert (await retrieved(call, diverse, "red"))[0] == "a"
    with caplog.at_level(logging.ERROR):
        strict = full.as_retriever(
            search_type="similarity_score_threshold", search_kwargs={"score_threshold": 1.0}
        )
        assert await retrieved(call, strict, "dark") == []
    assert await call(plain, "add_documents", [Document("green", id="new")]) == ["new"]


async def test_in_a_chain(call: CALL, full: RedisTieredVectorStore) -> None:
    def joined(documents: list[Document]) -> str:
        return ", ".join(document.page_content for document in documents)

    chain = {
        "context": full.as_retriever(search_kwargs={"k": 2}) | joined,
        "question": RunnablePassthrough(),
    } | ChatPromptTemplate.from_template("{context}: {question}")
    prompt = await call(chain, "invoke", "red")
    assert prompt.to_string() == "Human: red, red green: red"


@pytest.mark.parametrize("cleanup", ["full", "incremental", "scoped_full"])
async def test_indexing(mode: str, store: RedisTieredVectorStore, cleanup: Any) -> None:
    records = InMemoryRecordManager("colours")
    records.create_schema()

    async def run(*documents: Document) -> tuple[int, int, int, int]:
        options: dict[str, Any] = {
            "cleanup": cleanup,
            "source_id_key": "source",
            "key_encoder": "blake2b",
            "batch_size": 2,
        }
        done = (
            index(documents, records, store, **options)
            if mode == "sync"
            else await aindex(documents, records, store, **options)
        )
        return done["num_added"], done["num_updated"], done["num_deleted"], done["num_skipped"]

    def of(text: str, source: str = "one") -> Document:
        return Document(text, metadata={"source": source})

    def texts() -> list[str]:
        return sorted(one.text for one in store.collection.find())

    assert await run(of("red"), of("green"), of("blue", "two")) == (3, 0, 0, 0)
    assert await run(of("red"), of("green"), of("blue", "two")) == (0, 0, 0, 3)
    assert await run(of("red"), of("dark"), of("blue", "two")) == (1, 0, 1, 2)
    assert texts() == ["blue", "dark", "red"]


async def test_asyncio_runs_in_no_other_thread(
    full: RedisTieredVectorStore,
    tiers: Tiers,
    embedding: Colours,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("in an executor")

    embedding.asked.clear()
    monkeypatch.setattr("langchain_core.vectorstores.base.run_in_executor", refuse)
    vector = embedding.vector("red")
    await full.aadd_texts(["red"])
    await full.aadd_documents([Document("blue")])
    for search in ("similarity_search", "max_marginal_relevance_search"):
        await getattr(full, f"a{search}")("red")
        await getattr(full, f"a{search}_with_score")("red")
        await getattr(full, f"a{search}_by_vector")(vector)
        await getattr(full, f"a{search}_with_score_by_vector")(vector)
    await full.asimilarity_search_with_relevance_scores("red")
    await full.atext_search("red")
    await full.ahybrid_search("red")
    await full.asearch("red", "similarity_score_threshold")
    await full.as_retriever().ainvoke("red")
    await full.aget_by_ids(["a"])
    await full.adelete(["a"])
    await full.adelete()
    await RedisTieredVectorStore.afrom_texts(["red"], embedding, tiers=tiers)
    await RedisTieredVectorStore.afrom_documents([Document("red")], embedding, tiers=tiers)
    assert {name for name, _ in embedding.asked} == {"aembed_documents", "aembed_query"}


def test_every_method_of_the_base_class_is_ours() -> None:
    """What the base class would do in an executor, or not at all."""
    inherited = {
        "as_retriever",
        "search",
        "asearch",
        "similarity_search_with_relevance_scores",
        "asimilarity_search_with_relevance_scores",
    }
    ours = {name for kind in RedisTieredVectorStore.__mro__[:2] for name in vars(kind)}
    public = {name for name in vars(VectorStore) if not name.startswith("_")}
    assert public - ours == inherited
    for name in ours:
        if not name.startswith("_") and callable(getattr(RedisTieredVectorStore, name)):
            assert {f"a{name}", name[1:]} & ours, name


# --- making one -----------------------------------------------------------------------------------


async def test_made_from_texts_or_documents(call: CALL, tiers: Tiers) -> None:
    embedding = Colours()
    options: dict[str, Any] = {"tiers": tiers, "collection": "made", "ttl": 60.0, "dims": 5}
    one = await call(
        RedisTieredVectorStore, "from_texts", ["red"], embedding, [{"n": 1}], ids=["a"], **options
    )
    two = await call(
        RedisTieredVectorStore,
        "from_documents",
        [Document("blue", id="x")],
        embedding,
        ids=["b"],
        **options,
    )
    three = await call(
        RedisTieredVectorStore, "from_documents", [Document("dark", id="c")], embedding, **options
    )
    for store in (one, two, three):
        assert store.embeddings is embedding
        assert store.tiers is tiers
        assert ids(await call(store, "get_by_ids", ["c", "b", "a", "x"])) == ["c", "b", "a"]
    other = RedisTieredVectorStore(embedding, "other", tiers)
    assert await call(other, "get_by_ids", ["a"]) == []
    tenant = RedisTieredVectorStore(embedding, "made", tiers.tenant("red"))
    assert await call(tenant, "similarity_search", "red") == []


def test_copies_and_pickles_are_the_same_store(full: RedisTieredVectorStore, tiers: Tiers) -> None:
    for made in (
        copy.copy(full),
        copy.deepcopy(full),
        pickle.loads(pickle.dumps(full)),
    ):
        assert type(made) is RedisTieredVectorStore
        assert repr(made) == repr(full)
        assert ids(made.similarity_search("red", k=1)) == ["a"]
        if made.tiers is not tiers:
            made.tiers.close()


def test_a_repr_tells_no_secret(tmp_path: Path) -> None:
    with Tiers("redis://user:hunter2@localhost:1", f"sqlite:///{tmp_path / 'd.db'}") as tiers:
        shown = repr(RedisTieredVectorStore(Colours(), "colours", tiers))
    assert "hunter2" not in shown
    assert re.match(r"RedisTieredVectorStore\('colours', Tiers\(.*\), embedding=Colours\)", shown)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (["colours"], {}, "embedding must be an Embeddings, got str"),
        ([Colours()], {"collection": 1}, "got int"),
        ([Colours()], {"collection": ""}, "collection|name"),
        ([Colours()], {"tiers": "redis://"}, "tiers must be a Tiers or None, got str"),
        ([Colours()], {"metric": "manhattan"}, "metric"),
        ([Colours()], {"engine": "faiss"}, "engine"),
        ([Colours()], {"dims": 0}, "dims"),
        ([Colours()], {"ttl": -1}, "ttl"),
        ([Colours()], {"relevance_score_fn": 1}, "relevance_score_fn must be a function or None"),
    ],
)
def test_a_store_that_cannot_be(args: list[Any], kwargs: dict[str, Any], said: str) -> None:
    with (
        Tiers("redis://localhost:1") as tiers,
        pytest.raises(InvalidInput, match=said),
    ):
        RedisTieredVectorStore(*args, **{"tiers": tiers, **kwargs})


def test_making_one_connects_to_nothing() -> None:
    with Tiers("redis://localhost:1") as tiers:
        RedisTieredVectorStore(Colours(), "colours", tiers)


def test_it_is_exported() -> None:
    assert "RedisTieredVectorStore" in dir(langchain_redis_tiered)
    assert langchain_redis_tiered.__all__ == sorted(langchain_redis_tiered.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = langchain_redis_tiered.nothing
