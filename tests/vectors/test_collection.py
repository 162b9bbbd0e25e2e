"""A collection over every tier: what each method does, who sees it when, and what is left in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from redis_tiered import Tiers
from redis_tiered.errors import InvalidInput, SchemaError, TierError, TierUnavailable
from redis_tiered.flow import Flow, Sql
from redis_tiered.tiers import schema
from redis_tiered.vectors.document import METRICS, Document, Metric
from redis_tiered.vectors.filters import Field
from tests.servers import PostgresDatabases
from tests.vectors.twin import (
    Bench,
    Model,
    Place,
    distance,
    documents,
    hits,
    ids,
    raw,
    score,
    vectors,
)
from tests.waiting import wait_until

# Not every combination, but every pair of redis, durable, payload, dtype and kind that there is.
PLACES = [
    Place("valkey", "none", "redis", "float32", "sync"),
    Place("valkey", "none", "redis", "float16", "async"),
    Place("valkey", "sqlite", "redis", "float32", "async"),
    Place("valkey", "sqlite", "durable", "float16", "sync"),
    Place("valkey", "postgres", "redis", "float16", "sync"),
    Place("valkey", "postgres", "durable", "float32", "async"),
    Place("cluster", "sqlite", "durable", "float32", "sync"),
    Place("search", "none", "redis", "float32", "async"),
    Place("search", "sqlite", "redis", "float32", "sync"),
    Place("search", "postgres", "durable", "float16", "async"),
]
LASTING = [place for place in PLACES if place.durable != "none"]
SMALL = [PLACES[0], PLACES[2], PLACES[8]]
LOCAL = [PLACES[2], PLACES[3]]
ODD = [
    "{a}",
    "a:b",
    "a%3Ab",
    "%",
    "a\0b",
    "\U0001f600é",
    "a b*?[x]",
    "|@f:{x}",
    "\\",
    '"',
    "A",
    "a",
]
QUERY = vectors(1, seed=99)[0]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def open_tiers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    loop: asyncio.AbstractEventLoop,
) -> Iterator[Callable[..., Tiers]]:
    """Tiers on a Redis and a durable tier, each twice, the same for the whole module."""
    opened: dict[tuple[str, str, int], Tiers] = {}
    urls: dict[str, str | None] = {
        "none": None,
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('collections') / 'durable.db'}",
    }
    made: list[PostgresDatabases] = []

    def get(url: str, durable: str, process: int = 1) -> Tiers:
        if durable not in urls:
            given = os.environ.get("REDIS_TIERED_TEST_POSTGRES_URL")
            server: PostgresDatabases = (
                PostgresDatabases(given) if given else request.getfixturevalue("_postgres")
            )
            urls[durable] = server.create_database()
            made.append(server)
        if (url, durable, process) not in opened:
            opened[url, durable, process] = Tiers(
                url, urls[durable], redis_timeout=5, durable_timeout=10
            )
        return opened[url, durable, process]

    yield get
    for tiers in opened.values():
        loop.run_until_complete(tiers.aclose())
    for server in made:
        server.drop_database(str(urls["postgres"]))


@pytest.fixture
def new_bench(
    request: pytest.FixtureRequest,
    loop: asyncio.AbstractEventLoop,
    open_tiers: Callable[..., Tiers],
) -> Iterator[Callable[[Place], Bench]]:
    made: list[Bench] = []

    def new(place: Place) -> Bench:
        if place.redis == "search":
            url = request.getfixturevalue("search_url")
        elif place.redis == "cluster":
            url = request.getfixturevalue("redis_cluster").url
        else:
            url = request.getfixturevalue("valkey").url
        first, second = (open_tiers(url, place.durable, process) for process in (1, 2))
        made.append(Bench(first, second, url, place, loop))
        return made[-1]

    yield new
    for bench in made:
        if not bench.local:
            bench.lose()


@pytest.fixture(params=PLACES, ids=str)
def bench(request: pytest.FixtureRequest, new_bench: Callable[[Place], Bench]) -> Bench:
    """Every way to have a collection."""
    return new_bench(request.param)


@pytest.fixture(params=LASTING, ids=str)
def lasting(request: pytest.FixtureRequest, new_bench: Callable[[Place], Bench]) -> Bench:
    """Every way to have one with a durable tier."""
    return new_bench(request.param)


@pytest.fixture(params=SMALL, ids=str)
def small(request: pytest.FixtureRequest, new_bench: Callable[[Place], Bench]) -> Bench:
    """For what hardly depends on where it is."""
    return new_bench(request.param)


@pytest.fixture(params=LOCAL, ids=str)
def local(request: pytest.FixtureRequest, new_bench: Callable[[Place], Bench]) -> Bench:
    """For what is spoilt in Redis by hand; sync and async, both payloads."""
    return new_bench(request.param)


def check(collection: Any, model: Model, near: float = 1e-6, *, k: int | None = 5) -> None:
    """Everything that reads agrees with the model."""
    wanted = list(model.held.values())
    assert ids(collection.find(limit=None)) == ids(wanted)
    assert collection.count() == len(wanted)
    assert collection.get([document.id for document in wanted]) == tuple(
        Document(d.id, None, d.text, d.metadata, d.payload, d.parent) for d in wanted
    )
    found = hits(collection.search(QUERY, k))
    expected = model.search(QUERY, k)
    assert [id for _, id in found] == [id for _, id in expected]
    assert [d for d, _ in found] == pytest.approx([d for d, _ in expected], abs=near)


# Writing and reading.


def test_a_collection_that_never_was(bench: Bench) -> None:
    for dims in (None, 8):
        collection = bench.collection(dims=dims)
        assert collection.upsert([]) == ()
        assert collection.get(["x"]) == ()
        assert collection.get([]) == ()
        assert collection.find() == ()
        assert collection.find(Field("a") == 1, ids=["x"], parents=["p"]) == ()
        assert collection.count() == 0
        assert collection.count(Field("a") == 1) == 0
        assert collection.search([1.0] * 8) == ()
        assert collection.search([1.0] * 8, None, max_distance=2.0) == ()
        assert collection.mmr([1.0] * 8) == ()
        if bench.has_text:
            assert collection.text_search("word") == ()
            assert collection.hybrid([1.0] * 8, "word") == ()
        assert collection.delete(["x"]) == 0
        assert collection.delete(filter=Field("a") == 1) == 0
        assert collection.delete(parents=["p"]) == 0
        assert collection.delete_all() == 0
        assert collection.usage(["x"])["x"] == (0, None)
        assert collection.usage([]) == {}
        assert bench.stored_keys() == set()
    info = collection.info()
    assert (info.name, info.dims, info.metric, info.documents) == ("c", None, "cosine", 0)
    assert info.complete
    if bench.lasts:
        assert collection.verify(repair=True).clean
        assert collection.rebuild().documents == 0
    assert bench.stored_keys() == set()


def test_documents_come_back_as_they_were(bench: Bench) -> None:
    numbers = vectors(len(ODD) + 1)
    given = [
        Document(
            odd, numbers[i], f"text {odd}", {odd: odd, "list": [odd, 1, None]}, odd.encode(), odd
        )
        for i, odd in enumerate(ODD)
    ]
    given.append(Document("plain", numbers[-1]))
    collection = bench.collection()
    assert collection.upsert(given) == tuple(ids(given))
    bare = tuple(Document(d.id, None, d.text, d.metadata, d.payload, d.parent) for d in given)
    for reader in (collection, bench.elsewhere()):
        for _ in range(2):  # the second time some of it is in memory
            assert reader.get(ids(given)) == bare
            assert reader.get(ids(given), with_vectors=True) == tuple(given)
            assert reader.find() == bare
            assert reader.find(with_vectors=True) == tuple(given)
            found = reader.search(QUERY, 50)
            assert sorted(ids(found)) == sorted(ids(given))
            assert all(hit.document == bare[given.index(d)] for hit in found for d in given if d.id == hit.document.id)  # fmt: skip
            [first] = reader.search(QUERY, 1, with_vectors=True)
            assert first.document in given
            assert first.document.vector.dtype == np.float32
        assert reader.get(["b", "plain", "\U0001f600é", "plain", "a"]) == tuple(
            bare[ids(given).index(id)] for id in ("plain", "\U0001f600é", "a")
        )
        for odd in ODD:
            assert ids(reader.find(Field(odd) == odd)) == [odd]
            assert ids(reader.find(parents=[odd])) == [odd]
            assert ids(reader.search(QUERY, filter=Field("list").contains(odd))) == [odd]
            assert ids(reader.search(QUERY, ids=[odd, "b"])) == [odd]


def test_ids_are_made_where_none_are_given(small: Bench) -> None:
    collection = small.collection()
    numbers = vectors(3)
    made = collection.upsert(
        [Document(vector=numbers[0]), Document("x", numbers[1]), Document(vector=numbers[2])]
    )
    assert made[1] == "x"
    assert len(set(made)) == 3
    assert all(made)
    assert ids(collection.get(made)) == list(made)
    assert collection.count() == 3
    for number, id in zip(numbers, made, strict=True):
        assert ids(collection.search(number, 1)) == [id]


def test_of_the_same_id_in_one_batch_the_last_counts(bench: Bench) -> None:
    collection, model = bench.collection(), Model("cosine")
    one, two, three = documents(3)
    twice = [one, two, Document("d0", three.vector, "last", {"n": "last"}), three, two]
    assert collection.upsert(twice) == ("d0", "d1", "d0", "d2", "d1")
    model.upsert(twice)
    check(collection, model, bench.near)
    check(bench.elsewhere(), model, bench.near)
    assert collection.get(["d0"])[0].text == "last"


def test_upsert_replaces_everything_of_a_document(bench: Bench) -> None:
    collection, model = bench.collection(), Model("cosine")
    other = bench.elsewhere()
    model.upsert(documents(4))
    collection.upsert(documents(4))
    check(other, model, bench.near)
    new = Document("d1", QUERY, "brandnew", {"m": 5})
    collection.upsert([new])
    model.upsert([new])
    for reader in (collection, other):
        check(reader, model, bench.near)  # `d1` is the youngest now
        assert reader.count(Field("n") == 1) == 0
        assert ids(reader.find(Field("m") == 5)) == ["d1"]
        assert ids(reader.find(parents=["p1"])) == []
        [hit] = reader.search(QUERY, 1)
        assert (hit.document.id, hit.document.text, hit.document.payload) == ("d1", "brandnew", b"")
        assert hit.distance == pytest.approx(0, abs=bench.near)
        if bench.has_text:
            assert ids(reader.text_search("word1")) == []
            assert ids(reader.text_search("brandnew")) == ["d1"]


# Searching.


@pytest.mark.parametrize("metric", METRICS)
def test_search(bench: Bench, metric: Metric) -> None:
    collection, model = bench.collection(metric=metric), Model(metric)
    model.upsert(documents(60))
    collection.upsert(documents(60))
    near = bench.near * 10 if metric == "ip" or not bench.local else bench.near
    for reader in (collection, bench.elsewhere(metric=metric)):
        check(reader, model, near, k=1)
        check(reader, model, near, k=7)
        check(reader, model, near, k=60)
        check(reader, model, near, k=500)
        assert reader.search(QUERY, 0) == ()
        for hit in reader.search(QUERY, 60, with_vectors=True):
            assert hit.distance == pytest.approx(
                distance(metric, hit.document.vector, QUERY), abs=near
            )
            assert hit.score == pytest.approx(score(metric, hit.distance), abs=1e-9)
        everything = model.search(QUERY, None)
        assert len(model.search(QUERY)) == len(reader.search(QUERY)) == 4
        # Bounds between the tenth and the eleventh.
        bound = (everything[9][0] + everything[10][0]) / 2
        ten = [id for _, id in everything[:10]]
        assert ids(reader.search(QUERY, None, max_distance=bound)) == ten
        assert ids(reader.search(QUERY, None, min_score=score(metric, bound))) == ten
        assert ids(reader.search(QUERY, 3, max_distance=bound)) == ten[:3]
        assert ids(reader.search(QUERY, 30, max_distance=bound)) == ten
        assert reader.search(QUERY, None, max_distance=-1e9) == ()
        far = reader.search(QUERY, None, max_distance=float("inf"))
        assert ids(far) == [id for _, id in everything]
        assert reader.search(QUERY, None, min_score=1e9) == ()


def test_what_vectors_may_be(small: Bench) -> None:
    collection = small.collection()
    numbers = [1, -2, 3, 4]
    forms: list[Any] = [
        numbers,
        tuple(numbers),
        [float(number) for number in numbers],
        *(np.array(numbers, kind) for kind in ("i1", "i8", "f2", "f4", ">f4", "f8")),
        np.array([numbers, numbers]).T[:, 0],
        np.array(numbers * 2)[::2] * 0 + numbers,
    ]
    for number, form in enumerate(forms):
        collection.upsert([Document(f"{number}", form)])
        assert len(collection.search(form, 99, max_distance=1e-3)) == number + 1
    for document in collection.get([str(i) for i in range(len(forms))], with_vectors=True):
        assert document.vector.tolist() == numbers


def test_a_vector_that_was_given_is_not_kept(small: Bench) -> None:
    collection = small.collection()
    vector = np.array([1, 0, 0, 0], np.float32)
    metadata = {"a": [1]}
    collection.upsert([Document("x", vector, metadata=metadata)])
    vector[:] = (0, 1, 0, 0)
    metadata["a"].append(2)
    [found] = collection.get(["x"], with_vectors=True)
    assert found.vector.tolist() == [1, 0, 0, 0]
    assert found.metadata == {"a": [1]}
    found.vector[:] = 5  # nobody else has it
    found.metadata["a"].append(3)
    [again] = collection.get(["x"], with_vectors=True)
    assert (again.vector.tolist(), again.metadata) == ([1, 0, 0, 0], {"a": [1]})


@pytest.mark.parametrize("metric", METRICS)
def test_equally_near_ones_come_by_id(bench: Bench, metric: Metric) -> None:
    collection = bench.collection(metric=metric)
    same = vectors(1)[0]
    order = [f"{i:02}" for i in np.random.default_rng(0).permutation(40)]
    collection.upsert([Document(id, same, metadata={"n": int(id)}) for id in order])
    collection.upsert([Document(id, same, metadata={"n": int(id)}) for id in order[:7]])
    for reader in (collection, bench.elsewhere(metric=metric)):
        assert ids(reader.search(same, 5)) == sorted(order)[:5]
        assert ids(reader.search(same, 40)) == sorted(order)
        assert ids(reader.search(same, 4, filter=Field("n") >= 10)) == ["10", "11", "12", "13"]
        assert ids(reader.find(limit=3)) == order[7:10]


def test_restrictions(bench: Bench) -> None:
    collection, model = bench.collection(), Model("cosine")
    model.upsert(documents(40))
    collection.upsert(documents(40))
    some = [f"d{i}" for i in range(0, 40, 3)] + ["nobody", "d0"]
    cases: list[dict[str, Any]] = [
        {"ids": some},
        {"ids": []},
        {"ids": ["nobody"]},
        {"parents": ["p0", "p2", "nobody"]},
        {"parents": []},
        {"filter": Field("colour") == "red"},
        {"filter": (Field("n") > 10) & ~(Field("colour") == "blue")},
        {"filter": Field("n").between(5, 15), "ids": some},
        {"filter": Field("n") < 30, "ids": some, "parents": ["p0"]},
        {"filter": Field("colour").text("RE", case_sensitive=False), "parents": ["p0", "p1"]},
        {"filter": Field("none").present()},
        {"parents": ["p1"], "ids": ["d1", "d2", "d4"]},
    ]
    for reader in (collection, bench.elsewhere()):
        for criteria in cases:
            k = 3 if reader is collection else 50
            found = reader.search(QUERY, k, **criteria)
            assert ids(found) == [id for _, id in model.search(QUERY, k, **criteria)]
            assert ids(reader.find(**criteria)) == ids(model.find(**criteria))
            if set(criteria) == {"filter"}:
                assert reader.count(criteria["filter"]) == len(model.find(**criteria))
            if bench.has_text:
                found = reader.text_search("even", 50, **criteria)
                even = {d.id for d in model.find(**criteria) if "even" in d.text}
                assert set(ids(found)) == even


def test_find_in_pages(bench: Bench) -> None:
    collection = bench.collection()
    collection.upsert(documents(25))
    collection.upsert(documents(3, seed=5))  # `d0` to `d2` are the youngest
    order = [f"d{i}" for i in [*range(3, 25), 0, 1, 2]]
    assert ids(collection.find()) == order
    assert ids(collection.find(limit=7)) == order[:7]
    assert ids(collection.find(limit=7, offset=20)) == order[20:]
    assert ids(collection.find(limit=None, offset=23)) == order[23:]
    assert ids(collection.find(offset=99)) == []
    assert collection.find(limit=0) == ()
    odd = [id for id in order if int(id[1:]) % 2]
    pages = [
        ids(collection.find(Field("n").is_in(range(1, 25, 2)), limit=5, offset=at))
        for at in range(0, 15, 5)
    ]
    assert [id for page in pages for id in page] == odd


def greedy(query: Any, found: list[Document], k: int, weight: float) -> list[str]:
    """Maximal marginal relevance as its authors write it."""

    def like(one: Any, other: Any) -> float:
        return 1 - distance("cosine", one, other)

    chosen: list[Document] = []
    while found and len(chosen) < k:
        best = max(
            found,
            key=lambda d: (
                weight * like(d.vector, query)
                - (1 - weight) * max((like(d.vector, c.vector) for c in chosen), default=0.0)
            ),
        )
        found = [document for document in found if document is not best]
        chosen.append(best)
    return [document.id for document in chosen]


def test_mmr(bench: Bench) -> None:
    collection, model = bench.collection(), Model("cosine")
    model.upsert(documents(30))
    collection.upsert(documents(30))
    near = [model.held[id] for _, id in model.search(QUERY, 20)]
    for reader in (collection, bench.elsewhere()):
        assert ids(reader.mmr(QUERY, 6)) == greedy(QUERY, near, 6, 0.5)
        assert ids(reader.mmr(QUERY, 6, lambda_mult=0.2)) == greedy(QUERY, near, 6, 0.2)
        assert ids(reader.mmr(QUERY, 6, lambda_mult=1)) == ids(near[:6])
        assert ids(reader.mmr(QUERY, 3, fetch_k=3, lambda_mult=0.1)) == greedy(
            QUERY, near[:3], 3, 0.1
        )
        assert set(ids(reader.mmr(QUERY, 5, fetch_k=0))) == set(ids(near[:5]))  # at least k
        assert len(reader.mmr(QUERY, 99)) == 30
        assert reader.mmr(QUERY, 0) == ()
        red = [model.held[id] for _, id in model.search(QUERY, 20, filter=Field("colour") == "red")]
        found = reader.mmr(QUERY, 4, filter=Field("colour") == "red", with_vectors=True)
        assert ids(found) == greedy(QUERY, red, 4, 0.5)
        for hit in found:
            assert hit.distance == pytest.approx(
                distance("cosine", hit.document.vector, QUERY), abs=bench.near
            )
        assert all(hit.document.vector is None for hit in reader.mmr(QUERY, 4))
        assert ids(reader.mmr(QUERY, 4, ids=["d1", "d2"], parents=["p1"])) == ["d1"]


def test_full_text(bench: Bench) -> None:
    collection = bench.collection()
    collection.upsert(
        [
            Document("a", vectors(1)[0], "The quick brown fox", {"n": 1}, b"pay", "p"),
            Document("b", vectors(2)[1], "A lazy dog, and a QUICK one", {"n": 2}),
            Document("c", vectors(3)[2], "Über das Wetter", {"n": 3}),
            Document("d", vectors(4)[3], "", {"n": 4}),
        ]
    )
    if not bench.has_text:
        with pytest.raises(InvalidInput, match="full text"):
            collection.text_search("fox")
        with pytest.raises(InvalidInput, match="full text"):
            collection.hybrid(QUERY, "fox")
        return
    for reader in (collection, bench.elsewhere()):
        [hit] = reader.text_search("fox")
        assert (hit.document.id, hit.document.text) == ("a", "The quick brown fox")
        assert (hit.document.payload, hit.document.parent) == (b"pay", "p")
        assert hit.document.vector is None
        assert hit.score > 0
        assert np.isnan(hit.distance)
        assert sorted(ids(reader.text_search("quick"))) == ["a", "b"]
        assert ids(reader.text_search("quick fox"))[0] == "a"
        assert ids(reader.text_search("quick fox", 1)) == ["a"]
        assert ids(reader.text_search("über")) == ids(reader.text_search("ÜBER")) == ["c"]
        for nothing in ("", " ", "qui", "*", "-fox*", '"', "(", "nobody", "@n:[1 2]|"):
            assert set(ids(reader.text_search(nothing))) <= {"a"}  # by `fox` in `-fox*`
        assert reader.text_search("fox", 0) == ()
        assert ids(reader.text_search("quick", filter=Field("n") > 1)) == ["b"]
        assert ids(reader.text_search("quick", ids=["a"])) == ["a"]
        assert ids(reader.text_search("quick", parents=["p"])) == ["a"]
        scores = [hit.score for hit in reader.text_search("quick brown dog")]
        assert scores == sorted(scores, reverse=True)


def test_hybrid(bench: Bench) -> None:
    if not bench.has_text:
        with pytest.raises(InvalidInput, match="full text"):
            bench.collection().hybrid(QUERY, "word")
        return
    collection, model = bench.collection(), Model("cosine")
    model.upsert(documents(30))
    collection.upsert(documents(30))
    far = model.search(QUERY, None)[-1][1]
    word = model.held[far].text.split()[0]
    for reader in (collection, bench.elsewhere()):
        near = [id for _, id in model.search(QUERY, 20)]
        found = reader.hybrid(QUERY, word, 3)
        # `near[0]` and `far` are both first in one ranking, and in no other.
        assert ids(found) == [*sorted([near[0], far]), near[1]]
        assert [hit.score for hit in found] == pytest.approx([0.5 / 61, 0.5 / 61, 0.5 / 62])
        distances = {hit.document.id: hit.distance for hit in found}
        assert np.isnan(distances[far])
        assert distances[near[0]] == pytest.approx(model.search(QUERY, 1)[0][0], abs=bench.near)
        assert ids(reader.hybrid(QUERY, word, 3, alpha=1)) == near[:3]
        assert ids(reader.hybrid(QUERY, word, 3, alpha=0)) == [far]
        assert ids(reader.hybrid(QUERY, "", 3)) == near[:3]
        assert reader.hybrid(QUERY, word, 0) == ()
        both = reader.hybrid(QUERY, f"{word} {model.held[near[0]].text.split()[0]}", 1, fetch_k=5)
        assert ids(both) == near[:1]
        red = reader.hybrid(QUERY, word, 30, filter=Field("colour") == "red")
        assert set(ids(red)) <= set(ids(model.find(Field("colour") == "red")))


# Deleting.


def test_delete(bench: Bench) -> None:
    collection, other, model = bench.collection(), bench.elsewhere(), Model("cosine")
    model.upsert(documents(40))
    collection.upsert(documents(40))
    check(other, model, bench.near)
    cases: list[dict[str, Any]] = [
        {"ids": ["d3", "nobody", "d4", "d3"]},
        {"ids": []},
        {"ids": ["d3"]},
        {"filter": Field("n") > 35},
        {"filter": Field("n") > 35},
        {"parents": ["p1", "nobody"]},
        {"ids": ["d0", "d2"], "filter": Field("colour") == "red", "parents": ["p0"]},
        {"parents": []},
    ]
    for criteria in cases:
        held = dict(model.held)
        wanted = model.delete(**criteria)
        assert collection.delete(**criteria) == wanted, criteria
        assert collection.get(list(set(held) - set(model.held))) == ()
        check(other, model, bench.near)
        check(collection, model, bench.near)
    with pytest.raises(InvalidInput, match="delete_all"):
        collection.delete()
    again = documents(2)
    collection.upsert(again)
    model.upsert(again)
    check(other, model, bench.near)


def test_delete_all(bench: Bench) -> None:
    collection, other, model = bench.collection(), bench.elsewhere(), Model("cosine")
    collection.upsert(documents(30))
    assert other.count() == 30
    assert len(other.search(QUERY, 99)) == 30
    assert collection.delete_all() == 30
    assert collection.delete_all() == 0
    for reader in (collection, other):
        check(reader, model)
        assert reader.get(["d1"]) == ()
        assert reader.info().dims == 8
        if bench.has_text:
            assert reader.text_search("word1") == ()
    model.upsert(documents(5, first=3))
    other.upsert(documents(5, first=3))
    check(collection, model, bench.near)
    check(other, model, bench.near)
    # Of the generation before nothing is left.
    assert len(bench.generations()) == 1


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is done in parts is done in small parts."""
    monkeypatch.setattr("redis_tiered.vectors.writing._TRANSACTION", 100)
    monkeypatch.setattr("redis_tiered.vectors.place._SCRIPT", 30)
    monkeypatch.setattr("redis_tiered.vectors.place._NEWS", 20)
    monkeypatch.setattr("redis_tiered.vectors.upkeep._PAGE", 50)
    monkeypatch.setattr("redis_tiered.vectors.local_engine._PAGE", 70)


@pytest.mark.usefixtures("pages")
def test_more_than_a_transaction_and_a_page(small: Bench) -> None:
    model = Model("l2")
    many = documents(230, dims=4)
    collection = small.collection(metric="l2")
    assert collection.upsert(many) == tuple(ids(many))
    model.upsert(many)
    query = QUERY[:4]
    for reader in (collection, small.elsewhere(metric="l2")):
        assert reader.count() == 230
        assert ids(reader.find(limit=None)) == ids(many)
        assert ids(reader.find(limit=10, offset=150)) == ids(many)[150:160]
        wanted = [id for _, id in model.search(query, 230)]
        assert ids(reader.search(query, 10)) == wanted[:10]
        assert ids(reader.search(query, None, max_distance=1e9)) == wanted
    assert collection.delete(filter=Field("n") < 225) == 225
    assert ids(collection.find()) == ids(many)[225:]
    left = [id for id in wanted if int(id[1:]) >= 225]
    for reader in (collection, small.elsewhere(metric="l2")):
        assert ids(reader.search(query, 99)) == left
    if small.lasts:
        assert collection.verify().clean


# Expiry.


def gone_for(collection: Any, id: str, *, text: bool) -> bool:
    """Whether nobody sees a document; everybody must agree on it."""
    seen = {
        "get": bool(collection.get([id])),
        "find": id in ids(collection.find(limit=None)),
        "find ids": bool(collection.find(ids=[id])),
        "search": id in ids(collection.search(QUERY, 99)),
        "count": bool(collection.count(Field("id") == id)),
        "text": text and bool(collection.text_search(f"text{id}")),
    }
    return not any(seen.values())


def test_expired_documents_vanish_everywhere(bench: Bench) -> None:
    collection, other = bench.collection(ttl=100.0), bench.elsewhere()
    numbers = vectors(4)

    def document(id: str) -> Document:
        return Document(id, numbers[int(id)], f"text{id}", {"id": id}, parent="p")

    started = time.time()
    collection.upsert([document("0")])  # lives as long as the collection's say
    other.upsert([document("1")])  # for ever
    collection.upsert([document("2"), document("3")], ttl=0.4)
    for reader in (collection, other):
        early = ids(reader.search(QUERY, 9, parents=["p"]))
        assert set(early) == set("0123") or time.time() - started > 0.4
    collection.upsert([document("3")], ttl=50)  # it lives longer now
    for reader in (collection, other):
        wait_until(lambda r=reader: gone_for(r, "2", text=bench.has_text))  # type: ignore[misc]
        assert time.time() - started > 0.4
        assert not gone_for(reader, "3", text=False)
        assert sorted(ids(reader.search(QUERY, 9))) == ["0", "1", "3"]
        assert sorted(ids(reader.find())) == ["0", "1", "3"]
        assert reader.count() == 3
        assert reader.info().documents == 3
        assert sorted(ids(reader.mmr(QUERY, 9))) == ["0", "1", "3"]
        if bench.has_text:
            assert sorted(ids(reader.text_search("text0 text1 text2 text3"))) == ["0", "1", "3"]
    assert collection.delete(["2"]) == 0
    if bench.lasts:
        assert collection.verify().clean
        assert bench.collection().rebuild().documents == 3
        assert gone_for(other, "2", text=True)
    collection.upsert([document("2")])
    for reader in (collection, other):
        assert not gone_for(reader, "2", text=bench.has_text)
        assert sorted(ids(reader.search(QUERY, 9))) == ["0", "1", "2", "3"]
    assert collection.delete_all() == 4


def test_the_sweep_removes_what_expired(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redis_tiered.vectors.shared._SWEEP", 0.1)
    collection = bench.collection(ttl=0.05)
    collection.upsert(documents(3), ttl=100)
    collection.upsert(documents(7, first=3))
    log = collection.collection.tiers.keys.collection("c")

    def left() -> set[int]:
        generation = generation_of(bench, collection)
        with raw(bench.url) as client:
            held = client.zcard(log.log(generation)[1])
            expiring = client.zcard(log.log(generation)[3])
        rows = held
        if bench.lasts:
            rows = count_rows(collection)
        return {held, expiring, rows}

    wait_until(lambda: left() == {3}, timeout=5)
    assert collection.count() == 3
    if bench.local:
        with raw(bench.url) as client:
            for name in log.local(generation_of(bench, collection)):
                assert client.hlen(name) in (0, 3)
    assert ids(bench.elsewhere().find()) == ["d0", "d1", "d2"]
    assert len(bench.elsewhere().search(QUERY, 9)) == 3


def generation_of(bench: Bench, collection: Any) -> str:
    with raw(bench.url) as client:
        found: bytes = client.hget(bench.tiers.keys.collection("c").meta, "g")
    return found.decode()


def count_rows(collection: Any) -> int:
    """Documents in the durable tier, also those that nobody sees any more."""
    scope = collection.collection.tiers.keys.collection("c").scope

    def counted() -> Flow[int]:
        statement = select(func.count()).where(schema.documents.c.scope == scope)
        found: int = yield Sql(lambda connection: connection.execute(statement).scalar_one())
        return found

    return int(collection.collection.tiers.run(counted()))


# Who sees what.


def test_tenants_and_names_do_not_meet(small: Bench) -> None:
    places = [(small.tiers, name) for name in ODD]
    places += [(small.tiers.tenant(f"{small.tiers.keys.tenant}{odd}"), "c") for odd in ODD]
    places += [
        (small.tiers.tenant(f"{small.tiers.keys.tenant}:a"), "b"),
        (small.tiers.tenant(f"{small.tiers.keys.tenant}"), "a:b:c"),
    ]
    collections = [small.collection(name, tiers=tiers) for tiers, name in places]
    for number, collection in enumerate(collections):
        collection.upsert([Document("x", vectors(1)[0], metadata={"n": number})])
    for number, (tiers, name) in enumerate(places):
        for collection in (collections[number], small.collection(name, tiers=tiers)):
            assert collection.count() == 1
            assert collection.get(["x"])[0].metadata == {"n": number}
            [hit] = collection.search(QUERY, 9)
            assert hit.document.metadata == {"n": number}
    collections[0].delete_all()
    collections[1].delete(["x"])
    assert [collection.count() for collection in collections] == [0, 0] + [1] * (len(places) - 2)


def test_another_process_sees_a_write_at_its_next_query(bench: Bench) -> None:
    one, two, model = bench.collection(), bench.elsewhere(), Model("cosine")
    assert two.search(QUERY) == ()  # it knows that there is nothing
    for turn in range(4):
        writer, reader = (one, two) if turn % 2 else (two, one)
        new = documents(5, seed=turn, first=3 * turn)
        writer.upsert(new)
        model.upsert(new)
        check(reader, model, bench.near)
        assert reader.from_redis()
        assert writer.delete([f"d{3 * turn + 1}"]) == model.delete(ids=[f"d{3 * turn + 1}"])
        check(reader, model, bench.near)
        check(writer, model, bench.near)
    assert two.delete(filter=Field("n") < 4) == model.delete(filter=Field("n") < 4)
    check(one, model, bench.near)
    one.delete_all()
    model.held.clear()
    check(two, model)
    model.upsert(documents(2))
    two.upsert(documents(2))
    check(one, model, bench.near)


def test_collections_of_one_name_share_what_they_know(small: Bench) -> None:
    first = small.collection()
    first.upsert(documents(3))
    second = small.collection()
    assert second.count() == 3
    assert second.search(QUERY, 1)
    assert second.stats() == first.stats()
    assert repr(second.collection).startswith("Collection('c', metric='cosine', tiers=Tiers(")


def test_threads_and_tasks(small: Bench) -> None:
    """All at once, and each sees its own writes at once."""
    collection = small.collection().collection
    numbers = vectors(8 * 6)
    barrier = threading.Barrier(8)

    def work(worker: int) -> None:
        barrier.wait()
        for turn in range(6):
            id = f"{worker}-{turn}"
            vector = numbers[6 * worker + turn]
            collection.upsert([Document(id, vector, metadata={"w": worker})])
            assert id in ids(collection.search(vector, 2))
            assert collection.count(Field("w") == worker) == turn + 1
            assert len(collection.search(vector, 99, filter=Field("w") == worker)) == turn + 1
        assert collection.delete([f"{worker}-0"]) == 1
        assert collection.get([f"{worker}-0"]) == ()

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, worker) for worker in range(8)]:
            done.result(60)

    async def task(worker: int) -> None:
        id, vector = f"{worker}-0", numbers[6 * worker]
        await collection.aupsert([Document(id, vector, metadata={"w": worker})])
        assert id in ids(await collection.asearch(vector, 2))
        assert await collection.acount(Field("w") == worker) == 6

    async def tasks() -> None:
        await asyncio.gather(*(task(worker) for worker in range(8)))

    if small.loop is not None:
        small.loop.run_until_complete(tasks())
        assert collection.count() == 48
    else:
        assert collection.count() == 40


def test_a_forked_child_can_search_and_write(small: Bench) -> None:
    collection = small.collection().collection
    collection.upsert(documents(20))
    before = ids(collection.search(QUERY, 5))
    with raw(small.url) as client:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert ids(collection.search(QUERY, 5)) == before
                collection.upsert([Document("child", QUERY)])
                assert ids(collection.search(QUERY, 1)) == ["child"]
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.ping()
    assert ids(collection.search(QUERY, 1)) == ["child"]
    assert collection.count() == 21


# Options that differ.


@pytest.mark.parametrize(
    ("option", "there", "here"),
    [
        ("dtype", "float32", "float16"),
        ("dtype", "float16", "float32"),
        ("payload", "redis", "durable"),
        ("payload", "durable", "redis"),
        ("engine", "local", "redisvl"),
        ("engine", "redisvl", "local"),
        ("algorithm", "flat", "hnsw"),
        ("fields", None, {"n": "numeric"}),
    ],
)
def test_other_options_are_refused_until_a_rebuild(
    new_bench: Callable[[Place], Bench], option: str, there: Any, here: Any
) -> None:
    needs_module = option in ("engine", "algorithm", "fields")
    bench = new_bench(SMALL[2] if needs_module else SMALL[1])
    old, new = ({option: value} for value in (there, here))
    first, model = bench.collection(**old), Model("cosine")
    model.upsert(documents(12))
    first.upsert(documents(12))
    check(first, model, bench.near)
    keys, before = bench.stored_keys(), bench.generations()
    second = bench.elsewhere(**new)
    for refused in (
        lambda: second.search(QUERY),
        lambda: second.get(["d1"]),
        lambda: second.upsert(documents(1, first=50)),
        lambda: second.delete(["d1"]),
        lambda: second.delete(filter=Field("n") == 1),
        second.delete_all,
    ):
        with pytest.raises(SchemaError, match=rf"\b{option}\b.*rebuild\(\)"):
            refused()
    check(first, model, bench.near)
    assert bench.stored_keys() == keys
    assert second.rebuild().documents == 12
    check(second, model, 2e-3)
    assert second.from_redis()
    assert before.isdisjoint(bench.generations())
    with pytest.raises(SchemaError, match=rf"\b{option}\b.*rebuild\(\)"):
        first.search(QUERY)
    # Its writes are not lost, if one is accepted: the other one sees it.
    try:
        first.upsert(documents(1, first=50))
        model.upsert(documents(1, first=50))
    except SchemaError:
        pass
    check(second, model, 2e-3)
    assert bench.collection(**new).verify().clean


def test_without_a_durable_tier_other_options_are_refused(
    new_bench: Callable[[Place], Bench],
) -> None:
    bench = new_bench(PLACES[0])
    bench.collection().upsert(documents(3))
    other = bench.elsewhere(dtype="float16")
    for refused in (
        lambda: other.search(QUERY),
        lambda: other.upsert(documents(1)),
        other.delete_all,
        lambda: other.delete(["d1"]),
    ):
        with pytest.raises(SchemaError, match=r"dtype.*use the same options"):
            refused()
    with pytest.raises(InvalidInput, match="durable"):
        other.rebuild()
    with pytest.raises(InvalidInput, match="durable"):
        other.verify()
    assert bench.collection().count() == 3


# Redis loses what it had.


def test_what_redis_lost_is_served_by_the_durable_tier_until_it_is_back(lasting: Bench) -> None:
    collection, other = lasting.collection(), lasting.elsewhere(auto_rebuild=False)
    model = Model("cosine")
    model.upsert(documents(30))
    collection.upsert(documents(30))
    check(collection, model, lasting.near)
    check(other, model, lasting.near)
    assert lasting.lose() > 0
    before = other.stats()
    check(other, model, lasting.near)
    if lasting.has_text:
        assert ids(other.text_search("word7")) == ["d7"]
    after = other.stats()
    served = "from memory" if lasting.local else "from the durable tier"
    assert after[served] > before.get(served, 0)
    assert after.get("from redis", 0) == before.get("from redis", 0)
    assert lasting.stored_keys() == set()  # nobody rebuilds it yet
    assert not other.info().complete
    check(collection, model, lasting.near)
    wait_until(lambda: collection.stats().get("rebuilt"), what="the rebuild")
    for reader in (collection, other):
        check(reader, model, lasting.near)
        assert reader.from_redis()
        assert reader.info().complete
    assert collection.verify().clean


def test_a_new_process_is_served_by_the_durable_tier(lasting: Bench) -> None:
    lasting.collection().upsert(documents(30))
    model = Model("cosine")
    model.upsert(documents(30))
    lasting.lose()
    reader = lasting.elsewhere(auto_rebuild=False)
    check(reader, model, lasting.near)
    assert reader.stats()["from the durable tier"] == 1
    for criteria in (
        {"filter": Field("n") > 20},
        {"ids": ["d1", "d2", "d1"]},
        {"parents": ["p1"]},
        {"filter": Field("colour") == "red", "parents": ["p0", "p1"], "ids": ["d3", "d4", "d6"]},
    ):
        found = hits(reader.search(QUERY, 3, **criteria))
        wanted = model.search(QUERY, 3, **criteria)  # type: ignore[arg-type]
        assert [id for _, id in found] == [id for _, id in wanted]
    bound = model.search(QUERY, None)[9][0] + 1e-5
    assert len(reader.search(QUERY, None, max_distance=bound)) == 10
    assert len(reader.mmr(QUERY, 6)) == 6
    assert lasting.stored_keys() <= {key for key in lasting.stored_keys() if b":content:" in key}
    assert reader.rebuild().documents == 30
    check(reader, model, lasting.near)
    assert reader.from_redis()


def test_writes_that_redis_misses_are_seen_by_everybody(lasting: Bench) -> None:
    one = lasting.collection(auto_rebuild=False)
    two, model = lasting.elsewhere(auto_rebuild=False), Model("cosine")
    model.upsert(documents(10))
    one.upsert(documents(10))
    check(two, model, lasting.near)
    lasting.lose()
    one.upsert(documents(3, seed=3, first=8))
    model.upsert(documents(3, seed=3, first=8))
    check(two, model, lasting.near)
    check(one, model, lasting.near)
    assert two.delete(["d2"]) == model.delete(ids=["d2"]) == 1
    check(one, model, lasting.near)
    check(two, model, lasting.near)
    assert one.stats()["missed"] == 1
    one.rebuild()
    for reader in (one, two):
        check(reader, model, lasting.near)
        assert reader.from_redis()
    one.upsert(documents(2, seed=4, first=20))
    model.upsert(documents(2, seed=4, first=20))
    check(two, model, lasting.near)


def test_redis_comes_back_with_what_it_had_before(new_bench: Callable[[Place], Bench]) -> None:
    bench = new_bench(LOCAL[0])
    one, two, model = bench.collection(), bench.elsewhere(), Model("cosine")
    first = documents(10)
    one.upsert(first)
    model.upsert(first)
    check(two, model)
    snapshot = bench.dump()
    new = documents(4, seed=1, first=8)
    one.upsert(new)
    model.upsert(new)
    one.delete(["d0"])
    model.delete(ids=["d0"])
    check(two, model)
    bench.load(snapshot)
    check(bench.elsewhere(), model)
    check(two, model)
    check(one, model)
    one.delete_all()
    model.held.clear()
    bench.load(snapshot)
    check(two, model)
    check(one, model)
    one.upsert(new)
    model.upsert(new)
    check(two, model)
    bench.load(snapshot)
    check(two, model)
    assert one.verify(repair=True).repaired
    check(two, model)
    check(one, model)


# Rebuilding and comparing.


@pytest.mark.usefixtures("pages")
def test_rebuild(lasting: Bench) -> None:
    collection, other, model = lasting.collection(), lasting.elsewhere(), Model("cosine")
    many = documents(110)
    collection.upsert(many)
    model.upsert(many)
    model.delete(ids=["d7"])
    collection.delete(["d7"])
    check(other, model, lasting.near)
    told: list[tuple[int, int]] = []
    rebuilt = collection.rebuild(lambda done, total: told.append((done, total)))
    assert (rebuilt.documents, rebuilt.resumed) == (109, 0)
    assert rebuilt.seconds > 0
    assert told == [(50, 109), (100, 109), (109, 109)]
    check(other, model, lasting.near)
    check(collection, model, lasting.near)
    assert other.from_redis()
    assert other.verify().clean
    generations = lasting.generations()
    assert len(generations) == 1
    assert not any(key.endswith((b":build", b":lease")) for key in lasting.stored_keys())


def test_a_bar_shows_a_rebuild(local: Bench) -> None:
    collection = local.collection()
    collection.upsert(documents(30))
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        collection.rebuild(True)
    assert "rebuild" in shown.getvalue()
    assert "30/30" in shown.getvalue()
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        collection.rebuild(False)
    assert shown.getvalue() == ""


@pytest.mark.usefixtures("pages")
def test_a_rebuild_that_was_interrupted_goes_on(local: Bench) -> None:
    collection, model = local.collection(), Model("cosine")
    many = documents(110)
    collection.upsert(many)
    model.upsert(many)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.rebuild(interrupt)
    check(collection, model)
    changed = [*documents(3, seed=7, first=48), *documents(2, first=2000)]
    collection.upsert(changed)
    model.upsert(changed)
    assert collection.delete(["d3", "d90"]) == model.delete(ids=["d3", "d90"])
    rebuilt = collection.rebuild()
    assert rebuilt.resumed == 50
    check(collection, model)
    check(local.elsewhere(), model)
    assert collection.verify().clean
    # Everything went while it was interrupted: it begins anew.
    with pytest.raises(KeyboardInterrupt):
        collection.rebuild(interrupt)
    collection.delete_all()
    collection.upsert(documents(4))
    with pytest.raises(TierUnavailable, match="everything was removed"):
        collection.rebuild()
    assert collection.rebuild()[:2] == (4, 0)
    assert collection.verify().clean


@pytest.mark.usefixtures("pages")
def test_changes_during_a_rebuild(local: Bench) -> None:
    collection, other, model = local.collection(), local.elsewhere().collection, Model("cosine")
    many = documents(110)
    collection.upsert(many)
    model.upsert(many)
    turns = iter(range(100))

    def meanwhile(done: int, total: int) -> None:
        turn = next(turns)
        new = documents(3, seed=turn, first=40 * turn)
        other.upsert(new)
        model.upsert(new)
        gone = [f"d{45 * turn + 5}"]
        assert other.delete(gone) == model.delete(ids=gone)
        assert ids(other.search(QUERY, 3)) == [id for _, id in model.search(QUERY, 3)]
        with pytest.raises(TierUnavailable, match="another process rebuilds"):
            other.rebuild()

    collection.rebuild(meanwhile)
    check(collection, model)
    check(local.elsewhere(), model)
    assert collection.verify().clean


@pytest.mark.usefixtures("pages")
def test_a_rebuild_that_is_cancelled(new_bench: Callable[[Place], Bench]) -> None:
    bench = new_bench(LOCAL[0])
    collection = bench.collection().collection
    many = documents(110)

    async def cancelled() -> None:
        await collection.aupsert(many)
        reached = asyncio.Event()
        task = asyncio.create_task(collection.arebuild(lambda done, total: reached.set()))
        await asyncio.wait_for(reached.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert bench.loop is not None
    bench.loop.run_until_complete(cancelled())
    assert collection.count() == 110
    assert len(collection.search(QUERY, 7)) == 7


def spoil(bench: Bench, how: str) -> tuple[int, int, int]:
    """Do it behind our back; gives the drift: missing, outdated, extra."""
    keys = bench.tiers.keys.collection("c")
    with raw(bench.url) as client:
        generation = client.hget(keys.meta, "g").decode()
        _, by_version, _, _ = keys.log(generation)
        hashes = keys.local(generation)
        if how == "outdated":
            client.zadd(by_version, {b"d3": 1, b"d4": 2})
            return 0, 2, 0
        if how == "extra":
            highest = int(client.hget(keys.meta, "w"))
            client.zadd(by_version, {b"extra": highest})
            for name in hashes:
                if (held := client.hget(name, b"d3")) is not None:
                    client.hset(name, b"extra", highest.to_bytes(8, "big") + held[8:])
            return 0, 0, 1
        if how == "generation":
            client.delete(*keys.log(generation), *hashes)
            return 20, 0, 0
        if how == "ids":
            client.delete(by_version)
            return 20, 0, 0
        client.hdel(hashes[{"vector": 0, "metadata": 1, "contents": 2}[how]], b"d3")
        return 1, 0, 0


@pytest.mark.parametrize(
    "how", ["vector", "metadata", "contents", "outdated", "extra", "generation", "ids"]
)
def test_verify_finds_and_repairs(new_bench: Callable[[Place], Bench], how: str) -> None:
    bench = new_bench(LOCAL[0] if how in ("contents", "outdated") else LOCAL[1])
    collection, other, model = bench.collection(), bench.elsewhere(), Model("cosine")
    model.upsert(documents(20))
    collection.upsert(documents(20))
    check(collection, model)
    assert collection.verify() == (0, 0, 0, (), False)
    wanted = spoil(bench, how)
    drift = collection.verify()
    assert drift[:3] == wanted
    assert not drift.clean
    assert not drift.repaired
    assert len(drift.ids) == sum(wanted)
    # One that reads what is spoilt sees what is right as soon as it is repaired.
    other.search(QUERY, 20)
    drift = collection.verify(repair=True)
    assert drift[:3] == wanted
    assert drift.repaired
    assert collection.verify().clean
    third = bench.elsewhere(auto_rebuild=False)
    for reader in (collection, other, third):
        check(reader, model, k=20)
        check(reader, model, k=1)
        for document in model.held.values():
            [hit] = reader.search(document.vector, 1)
            assert hit.document.id == document.id
            assert hit.distance == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_verify_of_what_redis_lost(local: Bench, rebuilt: bool) -> None:
    collection, model = local.collection(auto_rebuild=False), Model("cosine")
    model.upsert(documents(20))
    collection.upsert(documents(20))
    local.lose()
    if rebuilt:
        local.elsewhere().rebuild()
        assert collection.verify().clean
    else:
        assert collection.verify()[:3] == (20, 0, 0)
        assert collection.verify(repair=True)[:3] == (20, 0, 0)
    assert collection.verify().clean
    check(collection, model)
    assert collection.from_redis()
    assert len(local.generations()) == 1


def test_damaged_values_are_not_given_to_anybody(local: Bench) -> None:
    """Whatever is in Redis, the durable tier knows better."""
    collection, model = local.collection(), Model("cosine")
    model.upsert(documents(6))
    collection.upsert(documents(6))
    keys = local.tiers.keys.collection("c")
    with raw(local.url) as client:
        generation = client.hget(keys.meta, "g").decode()
        metadata = keys.local(generation)[1]
        client.hset(metadata, b"d2", client.hget(metadata, b"d2")[:-3] + b"\xff\xff\xff")
    third = local.elsewhere()
    assert third.get(["d2"])[0].metadata == model.held["d2"].metadata
    check(third, model)
    assert third.stats()["unreadable"] > 0


# What is told.


def test_info_and_stats(bench: Bench) -> None:
    collection = bench.collection(metric="l2")
    assert collection.stats() == {}
    collection.upsert(documents(5))
    collection.search(QUERY)
    info = collection.info()
    assert info[:6] == ("c", bench.options["engine"], 8, "l2", 5, True)
    assert (info.index_bytes > 0) == bench.local
    assert collection.stats() == {"from redis": 1}


def test_usage(bench: Bench) -> None:
    collection, quiet = bench.collection(track_access=True), bench.collection()
    started = time.time() - 0.001
    collection.upsert(documents(5))
    assert collection.usage(["d0"]) == {"d0": (0, None)}
    near = ids(collection.search(QUERY, 2))
    collection.search(QUERY, 1)
    collection.mmr(QUERY, 1)
    collection.get([near[1], "nobody"])
    quiet.search(QUERY, 5)
    quiet.get([near[0]])
    rest = sorted({f"d{i}" for i in range(5)} - set(near))
    for _ in range(2):
        found = collection.usage([*near, *rest, "nobody"])
        assert [found[id].uses for id in near] == [3, 2]
        assert all(started <= (found[id].last_used or 0) <= time.time() for id in near)
        assert {found[id] for id in [*rest, "nobody"]} == {(0, None)}
        collection.collection._shared.flush()
    if bench.lasts:
        assert not {key for key in bench.stored_keys() if key.endswith((b":uses", b":used"))}
        bench.lose()
    collection.search(QUERY, 1)
    assert collection.usage(near[:1])[near[0]].uses == 4
    collection.upsert([Document(near[0], QUERY)])
    assert collection.usage(near[:1])[near[0]].uses == 4


def test_uses_are_written_to_the_durable_tier_in_time(
    new_bench: Callable[[Place], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis_tiered.vectors.shared._FLUSH", 0.02)
    bench = new_bench(LOCAL[0])
    collection = bench.collection(track_access=True)
    collection.upsert(documents(2))
    collection.get(["d0"])

    def written() -> bool:
        waits = any(key.endswith((b":uses", b":used")) for key in bench.stored_keys())
        return not waits and collection.usage(["d0"])["d0"].uses == 1

    # On their way from one to the other they are in neither.
    wait_until(written)


def stopped(flow: Any, at: int, meanwhile: Callable[[], object]) -> Any:
    """A flow; before one of its steps something else is done."""
    step, steps = next(flow), 0
    while True:
        steps += 1
        if steps == at:
            meanwhile()
        try:
            try:
                step = flow.send((yield step))
            except TierError as error:
                step = flow.throw(error)
        except StopIteration as done:
            return done.value


@pytest.mark.parametrize("method", ["get", "search"])
def test_a_question_while_another_generation_takes_over(local: Bench, method: str) -> None:
    collection, other = local.collection().collection, local.elsewhere().collection
    collection.upsert(documents(5))
    other.count()
    asked: dict[str, Callable[[], Any]] = {
        "get": lambda: collection._get(["d1", "d2"], False),
        "search": lambda: collection._search(QUERY, 5, None, None, None, None, None, False),
    }
    wanted = collection.tiers.run(asked[method]())
    for at in range(1, 8):
        found = collection.tiers.run(stopped(asked[method](), at, other.rebuild))
        assert found == wanted


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("place", [PLACES[0], PLACES[2]], ids=str)
def test_the_sweep_spares_what_was_written_again(
    new_bench: Callable[[Place], Bench], place: Place, at: int
) -> None:
    collection = new_bench(place).collection().collection
    collection.upsert([Document("d", QUERY)], ttl=0.001)
    wait_until(lambda: not collection.get(["d"]))
    written: list[str] = []

    def write() -> None:
        written.extend(collection.upsert([Document("d", QUERY, "again")]))

    sweep = collection._writing.remove_expired
    collection.tiers.run(stopped(sweep(), at, write))
    if not written:  # it had fewer steps
        write()
    collection.tiers.run(sweep())
    assert [document.text for document in collection.get(["d"])] == ["again"]
    assert ids(collection.search(QUERY)) == ["d"]
    assert collection.count() == 1


def test_uses_that_cannot_be_written_are_kept(
    new_bench: Callable[[Place], Bench], tmp_path: Path
) -> None:
    bench, file = new_bench(LOCAL[0]), tmp_path / "durable.db"
    with Tiers(bench.url, f"sqlite:///{file}", durable_timeout=0.2) as tiers:
        collection = bench.collection(tiers=tiers, track_access=True).collection
        collection.upsert(documents(2))
        collection.get(["d0", "d1"])
        collection.get(["d0"])
        with contextlib.closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN IMMEDIATE")
            collection._shared.flush()
            other.rollback()
        assert collection.stats()["failed durable.locked"] == 1
        wait_until(lambda: tiers.guards.durable.closed or collection.count())
        for _ in range(2):
            found = collection.usage(["d0", "d1"])
            assert [found[id].uses for id in ("d0", "d1")] == [2, 1]
            collection._shared.flush()
