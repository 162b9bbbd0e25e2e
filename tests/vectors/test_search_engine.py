"""The search module's engine against the module itself."""

from __future__ import annotations

import asyncio
import math
import pickle
import secrets
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from redis_tiered import Tiers
from redis_tiered.errors import InvalidInput, MissingExtra, TierReplyError, TierUnavailable
from redis_tiered.flow import Redis
from redis_tiered.keys import Keyspace
from redis_tiered.vectors import scripts
from redis_tiered.vectors.document import METRICS, Document, Metric, Removal, Row, drafted
from redis_tiered.vectors.engine import Answer, Query
from redis_tiered.vectors.filters import Field, Filter
from redis_tiered.vectors.search_engine import SearchEngine, available
from redis_tiered.vectors.search_query import _bare
from redis_tiered.vectors.search_schema import Schema
from redis_tiered.vectors.words import words
from tests.servers import RedisServer
from tests.vectors import strategies

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from redisvl.query.filter import FilterExpression, Geo, GeoRadius, Num, Tag, Text, Timestamp

NOW = 1_800_000_000_000
DAY = 86_400_000


class Shelf:
    """A collection in Redis, written to as the core does it."""

    def __init__(self, tiers: Tiers, **options: Any) -> None:
        self.tiers = tiers
        self.dims = options.pop("dims", 4)
        self.metric: Metric = options.pop("metric", "cosine")
        self.options: dict[str, Any] = {"algorithm": "flat", **options}
        self.keys = Keyspace(tiers.keys.namespace, tiers.keys.tenant).collection(
            secrets.token_hex(4)
        )
        self.engine = self.another()
        self.version = 0
        self.generation = self.begin()
        self.rows: dict[str, Row] = {}

    def another(self, **options: Any) -> SearchEngine:
        """The engine of another process."""
        return SearchEngine(self.keys, self.metric, **{**self.options, **options})

    def begin(self) -> str:
        generation = secrets.token_hex(4)
        self.tiers.run(self.engine.create(generation, self.dims))
        return generation

    def put(self, *documents: Document, expires: int | None = None, generation: str = "") -> None:
        changes: list[Row | Removal] = []
        for draft in drafted(documents, self.dims, self.metric, NOW, expires)[1]:
            changes.append(
                Row(
                    self.version + len(changes) + 1,
                    *(draft.id, draft.vector, draft.metadata, draft.text),
                    *(draft.payload, draft.parent, draft.expires),
                )
            )
        self._apply(changes, generation or self.generation)

    def remove(self, *ids: str) -> None:
        start = self.version + 1
        self._apply(
            [Removal(start + at, id.encode()) for at, id in enumerate(ids)], self.generation
        )

    def _apply(self, changes: Sequence[Row | Removal], generation: str) -> None:
        keys = (self.keys.meta, *self.keys.log(generation), *self.engine.keys(generation))
        layout = self.engine.layout(self.dims)
        for start in range(0, len(changes), 500):
            part = changes[start : start + 500]
            before, after = self.version, part[-1].version
            arguments: list[Any] = ["apply", generation, layout, "1", before, after, "redisvl"]
            for change in part:
                if isinstance(change, Row):
                    there = self.engine.words(change)
                    arguments += ["u", change.id, change.version, change.expires or 0, len(there)]
                    arguments += there
                else:
                    assert change.id is not None
                    arguments += ["r", change.id, change.version, 0, 0]
            script = ("EVAL", scripts.APPLY, len(keys), *keys, *arguments)
            [reply] = self.tiers.run(_redis(script))
            assert reply[0] == b"ok", reply
            self.version = after

    def search(self, vector: Any = None, **criteria: Any) -> Answer:
        answer = self.ask(vector, **criteria)
        assert answer is not None
        return answer

    def ask(self, vector: Any = None, **criteria: Any) -> Answer | None:
        return self.tiers.run(self.engine.search(query(vector, **criteria)))

    def ids(self, vector: Any = None, **criteria: Any) -> list[str]:
        return [found.row.id.decode() for found in self.search(vector, **criteria).found]

    def count(self, **criteria: Any) -> int | None:
        return self.tiers.run(self.engine.count(query(**criteria)))

    def redis(self, *command: Any) -> Any:
        return self.tiers.run(_redis(command))[0]

    def clear(self) -> None:
        self.tiers.run(self.engine.drop(self.generation))
        self.redis("DEL", self.keys.meta)


def _redis(command: tuple[Any, ...]) -> Any:
    return (yield Redis((command,)))


def query(vector: Any = None, **criteria: Any) -> Query:
    given = None if vector is None else np.asarray(vector, np.float32)
    for name in ("ids", "parents"):
        if criteria.get(name) is not None:
            criteria[name] = tuple(id.encode() for id in criteria[name])
    if isinstance(text := criteria.pop("text", None), str):
        criteria["words"] = tuple(words(text))
    return Query(given, **{"now": NOW, **criteria})


@pytest.fixture(scope="module")
def tiers(search_url: str) -> Iterator[Tiers]:
    with Tiers(
        search_url, namespace=f"t{secrets.token_hex(4)}", tenant="t|{x}", redis_timeout=10
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def shelf(tiers: Tiers) -> Iterator[Callable[..., Shelf]]:
    """Makes collections, all of which are gone at the end."""
    made: list[Shelf] = []

    def make(**options: Any) -> Shelf:
        made.append(Shelf(tiers, **options))
        return made[-1]

    yield make
    for one in made:
        one.clear()


def documents(count: int, dims: int, seed: int = 0, **rest: Any) -> list[Document]:
    vectors = np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)
    return [Document(f"d{at}", vector, **rest) for at, vector in enumerate(vectors)]


def distances(metric: Metric, vectors: NDArray[Any], to: NDArray[Any]) -> NDArray[np.float64]:
    """By the definition, in float64."""
    left, right = vectors.astype(np.float64), to.astype(np.float64)
    if metric == "cosine":
        return np.asarray(1 - left @ right / np.linalg.norm(left, axis=1) / np.linalg.norm(right))
    return np.asarray(1 - left @ right if metric == "ip" else np.linalg.norm(left - right, axis=1))


# Vectors.


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("algorithm", ["flat", "hnsw"])
def test_finds_the_nearest(
    shelf: Callable[..., Shelf], metric: Metric, dtype: str, algorithm: str
) -> None:
    options = {"algorithm_options": {"ef_runtime": 300}} if algorithm == "hnsw" else {}
    one = shelf(metric=metric, dtype=dtype, dims=24, algorithm=algorithm, **options)
    stored = documents(300, 24)
    one.put(*stored)
    vectors = np.stack([document.vector for document in stored])
    close = 1e-5 if dtype == "float32" else 0.02
    for seed in range(3):
        asked = np.random.default_rng(100 + seed).normal(size=24).astype(np.float32)
        true = distances(metric, vectors, asked)
        for k in (1, 10, 400):
            answer = one.search(asked, k=k)
            assert answer.generation == one.generation
            assert answer.water == 300
            assert len(answer.found) == min(k, 300) or algorithm == "hnsw"
            values = [found.value for found in answer.found]
            assert values == sorted(values)
            for found in answer.found:
                assert found.value == pytest.approx(true[int(found.row.id[1:])], abs=close)
            if algorithm == "flat":
                assert values == pytest.approx(sorted(true)[:k], abs=close)
        whole = [found.row.id for found in one.search(asked, k=300).found]
        assert [found.row.id for found in one.search(asked, k=5, offset=7).found] == whole[7:12]
        # Within a distance, with and without a number of them.
        edge = float(np.sort(true)[40]) + 1e-9
        margin = [f"d{at}" for at in np.flatnonzero(abs(true - edge) < 2 * close)]
        for limit in (None, 20):
            within = one.ids(asked, k=limit, max_distance=edge)
            wanted = [f"d{at}" for at in np.argsort(true)[:limit] if true[at] <= edge]
            assert set(within) ^ set(wanted) <= set(margin)
            assert algorithm == "hnsw" or len(within) >= (limit or 41 - len(margin))


@pytest.mark.parametrize("k", [None, 3])
def test_a_distance_may_be_zero_or_less(shelf: Callable[..., Shelf], k: int | None) -> None:
    one = shelf(metric="ip", dims=2)
    one.put(*(Document(f"{at}", [at, 0]) for at in range(5)))
    assert one.ids([1, 0], k=k, max_distance=-1) == ["4", "3", "2"]
    assert one.ids([1, 0], k=k, max_distance=-2.5) == ["4"]
    assert one.ids([1, 0], k=k, max_distance=0) == ["4", "3", "2", "1"][:k]
    far = shelf(metric="l2", dims=2)
    far.put(*(Document(f"{at}", [at, 0]) for at in range(5)))
    assert far.ids([1, 0], k=k, max_distance=0) == ["1"]
    assert far.ids([1, 0], k=k, max_distance=1) == ["1", "0", "2"]
    assert far.ids([1, 0], k=k, max_distance=1.999) == ["1", "0", "2"]
    assert [found.value for found in far.search([1, 0], k=k, max_distance=2).found][:3] == [0, 1, 1]
    assert far.ids([1, 0], k=5, max_distance=math.inf) == ["1", "0", "2", "3", "4"]
    assert len(far.ids([1, 0], max_distance=math.inf)) == 5


def test_equal_distances_come_by_id(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    order = np.random.default_rng(1).permutation(100)
    one.put(*(Document(f"{at:03}", [1, 1 + at // 50]) for at in order))
    whole = [f"{at:03}" for at in range(100)]
    for offset in range(0, 100, 7):
        assert one.ids([1, 1], k=7, offset=offset) == whole[offset : offset + 7]
    assert one.ids([1, 1]) == whole


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 1.0, 3e4, 1e30])
def test_a_cosine_knows_no_length(shelf: Callable[..., Shelf], dtype: str, scale: float) -> None:
    one = shelf(dims=3, dtype=dtype)
    base = np.array([[1, 2, 3], [3, 2, 1], [0, 0, 1]])
    stored = (base * scale).astype(np.float32)
    one.put(*(Document(f"{at}", vector) for at, vector in enumerate(stored)))
    true = distances("cosine", stored, stored[0])
    for factor in (1.0, 1e-8):
        asked = (base[0] * factor).astype(np.float32)
        found = one.search(asked, k=3, vectors=True).found
        assert [hit.row.id for hit in found] == [b"0", b"2", b"1"]
        assert [hit.value for hit in found] == pytest.approx(true[[0, 2, 1]], abs=2e-3)
    for hit in found:
        back = np.frombuffer(hit.row.vector, "<f4")
        assert back == pytest.approx(stored[int(hit.row.id)], rel=2e-3)


def test_float16_has_bounds(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2, dtype="float16", metric="ip")
    one.put(Document("most", [65_504, -65_504]))
    with pytest.raises(InvalidInput, match=r"65504 for dtype=\"float16\", got 65536"):
        one.put(Document("more", [65_536, 0]))
    with pytest.raises(InvalidInput, match="65504"):
        one.search([1e9, 0], k=1)


def test_vectors_are_given_only_if_wanted(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 2], "text", {"x": 1}, b"\0payload", "father"))
    for criteria in ({"vector": [1, 0]}, {"text": "text"}, {}):
        [(bare, _)] = one.search(**criteria).found
        [(full, _)] = one.search(**criteria, vectors=True).found
        assert bare == full._replace(vector=b"")
        assert np.frombuffer(full.vector, "<f4").tolist() == [1, 2]
        assert (full.text, full.payload, full.parent) == (b"text", b"\0payload", b"father")
        assert (full.version, full.expires) == (1, None)


# Filters.


@pytest.fixture(scope="module")
def mixed(shelf: Callable[..., Shelf]) -> tuple[Shelf, list[Document]]:
    """Documents of all sorts."""
    one = shelf(dims=3)
    found: dict[str, Document] = {}

    @given(strategies.documents(3))
    @settings(max_examples=200, derandomize=True, database=None)
    def draw(document: Document) -> None:
        found[document.id] = document

    draw()
    one.put(*found.values())
    return one, list(found.values())


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_filters_agree_with_the_predicate(
    mixed: tuple[Shelf, list[Document]], data: st.DataObject
) -> None:
    one, stored = mixed
    where: Filter = data.draw(strategies.filters)
    some = st.none() | st.lists(
        st.sampled_from([d.id for d in stored]) | strategies.ids, max_size=9
    )
    ids = data.draw(some)
    parents = data.draw(
        st.none() | st.lists(st.sampled_from([d.parent for d in stored] + ["?"]), max_size=9)
    )
    parents = parents and [parent for parent in parents if parent]
    wanted = [
        document.id
        for document in stored
        if where.matches(document.metadata)
        and (ids is None or document.id in ids)
        and (parents is None or document.parent in parents)
    ]
    rest = {"where": where, "ids": ids, "parents": parents}
    assert one.ids(**rest) == wanted
    assert one.count(**rest) == len(wanted)
    k, offset = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9))
    assert one.ids(**rest, k=k, offset=offset) == wanted[offset : offset + k]
    asked = [1.0, 2.0, -1.0]
    nearest = one.ids(asked, **rest)
    assert sorted(nearest) == sorted(wanted)
    assert one.ids(asked, **rest, k=k, offset=offset) == nearest[offset : offset + k]
    assert set(one.ids(text="a", **rest)) <= set(wanted)


def test_an_inexact_filter_finds_what_is_far(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    stored = [Document(f"{at}", [1, at / 100], "w", {"t": "x" * (at % 97)}) for at in range(700)]
    one.put(*stored)
    where = Field("t").text("x" * 95)
    wanted = [document.id for document in stored if where.matches(document.metadata)]
    assert len(wanted) == 14
    for k in (1, 3, 14, 20, None):
        assert one.ids([1, 0], where=where, k=k) == wanted[:k]
        assert one.ids(where=where, k=k) == wanted[:k]
        assert one.ids(where=where, k=k, offset=3) == wanted[3:][:k]
        assert set(one.ids(text="w", where=where, k=k)) <= set(wanted)
        assert len(one.ids(text="w", where=where, k=k)) == len(wanted[:k])
    assert one.ids([1, 0], where=where, max_distance=1e-3) == [
        found.row.id.decode()
        for found in one.search([1, 0], where=where, k=20).found
        if found.value <= 1e-3
    ]
    assert one.count(where=where) == 14


def test_a_long_list_is_found_by_each_element(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1)
    one.put(Document("a", [1], "", {"l": list(range(5000))}), Document("b", [1], "", {"l": [-1]}))
    for element in (0, 1023, 1024, 4999):
        assert one.ids(where=Field("l").contains(element)) == ["a"]
    assert one.ids(where=Field("l").any_of(range(-1, 5000))) == ["a", "b"]
    assert one.ids(ids=[f"{at}" for at in range(20_000)] + ["b"]) == ["b"]


def test_nothing_is_wanted(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 0], "a"))
    nothings: list[dict[str, Any]] = [
        {"ids": []},
        {"parents": []},
        {"k": 0},
        {"ids": ["b"]},
        {"parents": ["a"]},
    ]
    for nothing in nothings:
        assert (
            one.ids(**nothing) == one.ids([1, 0], **nothing) == one.ids(text="a", **nothing) == []
        )
    assert one.ids(words=()) == []
    assert one.count(ids=[]) == one.count(parents=["a"]) == 0
    assert one.count(ids=["a"]) == one.count() == 1


def test_long_lists_are_pages(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    stored = [Document(f"d{at}", [1, at], "", {"n": at, "even": at % 2 == 0}) for at in range(2500)]
    one.put(*stored)
    assert one.ids() == [document.id for document in stored]
    assert one.ids(k=1700, offset=500) == [f"d{at}" for at in range(500, 2200)]
    assert one.ids(k=5, offset=2000) == [f"d{at}" for at in range(2000, 2005)]
    assert one.ids(where=Field("even") == True, k=1200)[-1] == "d2398"  # noqa: E712
    assert one.ids([1, 0], k=2500) == one.ids([1, 0]) == [document.id for document in stored]
    one.put(stored[0])
    assert one.ids()[-1] == "d0"
    one.remove("d1", "d2")
    assert one.ids(k=2) == ["d3", "d4"]
    assert one.count() == 2498


# What expires.


def test_what_expired_is_not_there(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    future = int(time.time() * 1000) + DAY
    one.put(Document("mortal", [1, 0], "a", {"t": "a"}), expires=future)
    one.put(Document("b", [1, 1], "a", {"t": "b"}), Document("c", [1, 2], "a"))
    for criteria in ({}, {"where": Field("t").text("") | ~Field("t").present()}):
        for now, there in ((future - 1, ["mortal", "b", "c"]), (future, ["b", "c"])):
            rest = {**criteria, "now": now}
            assert one.ids(**rest) == one.ids([1, 0], **rest) == there
            assert one.ids(**rest, k=2) == one.ids([1, 0], **rest, k=2) == there[:2]
            assert sorted(one.ids(text="a", **rest)) == sorted(there)
            assert one.count(**rest) == len(there)
    assert one.search(k=1, now=NOW - DAY * 365 * 10).found[0].row.expires == future
    # Redis drops it by itself.
    one.put(Document("gone", [1, 0]), expires=int(time.time() * 1000) - 1)
    assert one.ids([1, 0], now=0) == ["mortal", "b", "c"]
    assert [found.row.id for found in _got(one, "gone", "b")] == [b"b"]


# Full text.


def test_full_text_ranks_by_words(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1)
    texts = {
        "twice": "Redis and redis",
        "once": "Redis\nis\ta cache",
        "long": "one two three four five six seven eight nine redis",
        "rare": "the Straße in 東京 naïve",
        "none": "nothing of it",
        "empty": "",
    }
    one.put(*(Document(id, [1], text, {"n": len(text)}) for id, text in texts.items()))
    answer = one.search(text="redis", k=10)
    assert [found.row.id.decode() for found in answer.found] == ["twice", "once", "long"]
    assert all(found.value > 0 for found in answer.found)
    assert one.ids(text="REDIS strasse", k=1) == ["rare"]
    assert one.ids(text="京") == one.ids(text="NAI\u0308VE") == ["rare"]
    assert one.ids(text="cache") == one.ids(text="is") == ["once"]
    assert one.ids(text="unknown") == []
    # Filters leave scores as they are.
    for rest in ({"where": Field("n") < 100}, {"ids": list(texts)}, {"where": ~(Field("n") == 0)}):
        assert one.search(text="redis", **rest).found == answer.found
    assert one.ids(text="redis", where=Field("n") > 20) == ["long"]
    assert one.ids(text="redis", k=1, offset=1) == ["once"]


def test_equal_scores_come_by_id(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1)
    order = np.random.default_rng(1).permutation(60)
    one.put(*(Document(f"{at:03}", [1], "same words") for at in order))
    for offset in range(0, 60, 7):
        wanted = [f"{at:03}" for at in range(60)][offset : offset + 7]
        assert one.ids(text="words", k=7, offset=offset) == wanted


def test_no_word_is_syntax(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1)
    hostile = ["or", "and", "not", "as", "inf", "nan", "ismissing", "isempty", "the", "1e5", "007"]
    hostile += ["-1", "0x1f", "_", "__t", "w", "knn", "null", "x" * 64, "ü" * 64, "क्षत्रिय", "a_b"]
    one.put(*(Document(f"{at}", [1], word) for at, word in enumerate(hostile)))
    for at, word in enumerate(hostile):
        assert one.ids(text=word) == [f"{at}"], word
    one.put(Document("other", [1], "secret"))
    for attack in (
        "x) | @__t:(secret",
        "*",
        "sec*",
        "%secre%",
        "'secret",
        '") | (*',
        "$w1",
        "a=>[KNN",
    ):
        there = "secret" in words(attack)
        assert ("other" in one.ids(text=attack)) == there
    # What nobody would split may also come.
    for word in ("*", ") | *", "secret|x", "$w0", " ", '"', "\\"):
        assert one.ids(words=(word, "nope")) == []


def test_many_words(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1)
    one.put(Document("a", [1], " ".join(f"w{at}" for at in range(20_000))))
    assert one.ids(text="w7 " * 3000) == ["a"]
    assert one.ids(text=" ".join(f"w{at}" for at in range(5000))) == ["a"]


@given(text=st.text(max_size=30), other=st.text(max_size=10))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_word_of_a_text_finds_it(worded: Shelf, text: str, other: str) -> None:
    worded.put(Document("t", [1], text))
    for word in words(text)[:5]:
        assert worded.ids(words=(word,)) == ["t"]
    assert (worded.ids(text=other) == ["t"]) == bool(set(words(other)) & set(words(text)))


@pytest.fixture(scope="module")
def worded(shelf: Callable[..., Shelf]) -> Shelf:
    return shelf(dims=1)


def test_without_contents(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=1, contents=False)
    one.put(Document("a", [1], "text", {"x": 1}, b"payload", "father"))
    [found] = one.search([1], k=1).found
    assert (found.row.text, found.row.payload, found.row.parent) == (b"", b"", b"father")
    there = one.redis("HKEYS", one.keys.documents(one.generation) + b"a")
    assert sorted(there) == [b"__f", b"__m", b"__n", b"__v"]
    with pytest.raises(InvalidInput, match="full text needs texts in Redis"):
        one.search(text="text", k=1)


# Native filters.

FIELDS = {"color": "tag", "year": "numeric", "title": "text", "place": "geo", "weight": "numeric"}


@pytest.fixture(scope="module")
def declared(shelf: Callable[..., Shelf]) -> Shelf:
    one = shelf(dims=1, fields=FIELDS)
    there: dict[str, Mapping[str, Any]] = {
        "red": {"color": "Red", "year": 2020, "title": "A running fox", "place": "13.4,52.5"},
        "two": {"color": ["red", "a,b c"], "year": 2020.5, "weight": 3, "place": " -0.1 , 51.5"},
        "yes": {"color": True, "year": datetime(2024, 1, 2, tzinfo=UTC), "title": ""},
        "day": {"year": date(2024, 1, 2), "color": "", "weight": -1e300},
        # What would keep a whole document out of the index.
        "bad": {"color": 1, "year": "2020", "title": ["x"], "place": "200,100", "weight": math.nan},
        "odd": {"color": ["red", 1], "year": True, "place": "here", "weight": math.inf},
        "big": {"color": "a\x1fred", "year": 10**400, "place": "1,86", "weight": 10**30},
        "not": {"color": None, "year": [2020], "place": "1e3,2"},
        "bare": {},
    }
    one.put(*(Document(id, [1], "", metadata) for id, metadata in there.items()))
    return one


def test_all_documents_are_in_the_index(declared: Shelf) -> None:
    assert declared.count() == 9


@pytest.mark.parametrize(
    ("native", "wanted"),
    [
        (Tag("color") == "red", "red two"),
        (Tag("color") == "a,b c", "two"),
        (Tag("color") == "true", "yes"),
        (Tag("color").is_missing(), "bad odd big not bare"),
        (Tag("color") != "red", "yes day bad odd big not bare"),
        (Num("year") == 2020, "red"),
        (Num("year") >= 2020, "red two yes day"),
        (Num("year") < 2020.25, "red"),
        (Timestamp("year") == datetime(2024, 1, 2, tzinfo=UTC), "yes day"),
        (Timestamp("year") > datetime(2024, 1, 2), ""),
        (Num("weight") == 3, "two"),
        (Num("weight") > 1e29, "big"),
        (Num("weight") < 0, "day"),
        (Text("title") % "runs", "red"),
        (Text("title") == "running fox", "red"),
        (Text("title") % "fo*", "red"),
        (Geo("place") == GeoRadius(13.0, 52.0, 100, "km"), "red"),
        (Geo("place") == GeoRadius(0, 51, 100, "km"), "two"),
        ((Tag("color") == "red") & (Num("year") > 2020), "two"),
        ((Tag("color") == "true") | (Num("year") == 2020), "red yes"),
        (FilterExpression("*"), "red two yes day bad odd big not bare"),
        (Tag("color") == [], "red two yes day bad odd big not bare"),
    ],
)
def test_native_filters(declared: Shelf, native: FilterExpression, wanted: str) -> None:
    assert declared.ids(native=native) == wanted.split(), str(native)
    assert sorted(declared.ids([1], native=native)) == sorted(wanted.split())
    assert declared.count(native=native) == len(wanted.split())
    rest = {"where": Field("year") == 2020, "ids": ["red", "two"]}
    both = ["red"] if "red" in wanted.split() else []
    assert declared.ids(native=native, **rest) == both
    assert declared.ids([1], native=native, **rest) == both
    assert declared.ids([1], native=native, **rest, max_distance=1) == both


HOSTILE_FILTERS = [
    "@color:{red}) | (*",
    "*) | (*",
    ")(",
    "(@color:{red}",
    "@color:{red",
    "@color:red}",
    "@year:[1 2",
    "@year:1 2]",
    '@title:("fox)',
    '"a\\"',
    "'a",
    "w'x",
    '"(" )',
    "@color:{red)}",
    "@color:{red}\\",
    "(\\) | *",
]


@pytest.mark.parametrize("text", HOSTILE_FILTERS)
def test_a_native_filter_cannot_get_out(declared: Shelf, text: str) -> None:
    assert _bare(text) is None
    for criteria in ({}, {"vector": [1]}, {"text": "x"}):
        with pytest.raises(InvalidInput, match="bracket or quote"):
            declared.search(**criteria, native=FilterExpression(text), ids=["bare"], k=3)


@given(st.text(st.sampled_from("()[]{}\"'\\|*@- \n:;=>~%$wacolor"), max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_native_filter_widens_a_query(declared: Shelf, text: str) -> None:
    try:
        found = declared.ids(native=FilterExpression(text or "*"), ids=["bare", "red"], k=100)
    except InvalidInput:
        return
    assert set(found) <= {"bare", "red"}


@pytest.mark.parametrize(
    "text", ['"a ) b"', "'a ( b'", "@y:[(1 (2]", "\\(", "(a (b) {c})", 'a\\"b']
)
def test_what_is_balanced(text: str) -> None:
    assert _bare(text) is not None


@pytest.mark.parametrize(
    ("native", "said"),
    [
        (
            "@color:{red}",
            "must be a Filter of redis_tiered or a FilterExpression of redisvl, got str",
        ),
        (Tag("color"), "got Tag"),
        (7, "got int"),
        (FilterExpression(), "not a whole FilterExpression"),
        ((Tag("color") == "a") & "x", "not a whole FilterExpression"),
        (FilterExpression("@color:{\ud800}"), "not a whole FilterExpression"),
        (Tag("other") == "x", r"field 'other'; fields= declares \['color', 'place'"),
        (Tag("other").is_missing(), "field 'other'"),
        (FilterExpression("@color|other:(x)"), "field 'other'"),
        (FilterExpression("@color:{red}|@__f:{x}"), "field '__f'"),
        (FilterExpression("@color:{"), "bracket or quote"),
        (FilterExpression("@year:{1}=>[KNN 3 @__v $vector]"), "refused by the search module"),
    ],
)
def test_bad_native_filters(declared: Shelf, native: Any, said: str) -> None:
    for ask in (declared.ids, declared.count):
        with pytest.raises(InvalidInput, match=f"filter .*{said}"):
            ask(native=native)
    with pytest.raises(InvalidInput, match=f"filter .*{said}"):
        declared.ids([1], native=native, k=1)


# Arguments.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"algorithm": "ivf"}, "algorithm must be one of .*'flat', 'hnsw', 'svs-vamana'.*'ivf'"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"fields": {"__v": "tag"}}, "name '__v', which is reserved"),
        ({"fields": {"NoIndex": "tag"}}, "name 'NoIndex', which is reserved"),
        ({"fields": {"a b": "tag"}}, "named by letters, digits and underscores"),
        ({"fields": {"": "tag"}}, "named by letters"),
        ({"fields": {1: "tag"}}, "named by letters"),
        ({"fields": {"a": "vector"}}, r"fields\['a'\] must be one of .*'vector'"),
        ({"fields": {"a": None}}, "must be one of"),
        ({"fields": ["a"]}, "fields must be a mapping, got list"),
        ({"fields": {f"f{at}": "tag" for at in range(101)}}, "at most 100"),
        ({"algorithm_options": {"ef": 3}}, "algorithm_options of 'flat' are .*'block_size'"),
        ({"algorithm": "hnsw", "algorithm_options": {"m": 0}}, r"\['m'\] must be from 1 to 512"),
        ({"algorithm": "hnsw", "algorithm_options": {"m": 1.5}}, "must be an int, got float"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    keys = Keyspace("n", "t").collection("c")
    with pytest.raises(InvalidInput, match=said):
        SearchEngine(keys, "cosine", **{"algorithm": "flat", **options})


def test_a_bad_metric() -> None:
    with pytest.raises(InvalidInput, match="metric must be one of"):
        SearchEngine(Keyspace("n", "t").collection("c"), "hamming")  # type: ignore[arg-type]


def test_redisvl_is_imported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, redis_tiered.vectors.search_engine; assert 'redisvl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "redisvl.schema", None)
    with pytest.raises(MissingExtra, match=r"engine=\"redisvl\" needs .*redis-tiered\[search\]"):
        SearchEngine(Keyspace("n", "t").collection("c"), "cosine")


def test_the_layout_says_everything() -> None:
    engine = SearchEngine(
        Keyspace("n", "t").collection("c"),
        "l2",
        algorithm_options={"m": 8, "ef_runtime": 50},
        dtype="float16",
        contents=False,
        fields={"b": "tag", "a": "geo"},
    )
    assert engine.layout(3) == (
        '{"algorithm": "hnsw", "dims": 3, "dtype": "float16", "engine": "redisvl", '
        '"fields": {"a": "geo", "b": "tag"}, "metric": "l2", '
        '"options": {"ef_runtime": 50, "m": 8}, "payload": "durable"}'
    )


def test_options_reach_the_index(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=3, algorithm="hnsw", algorithm_options={"m": 8, "ef_construction": 33})
    info = one.redis("FT.INFO", one.keys.index(one.generation))
    [vector, *_] = dict(zip(info[::2], info[1::2], strict=True))[b"attributes"]
    assert vector[vector.index(b"M") + 1] == 8
    assert vector[vector.index(b"ef_construction") + 1] == 33


# Indexes.


def test_many_may_create_one_index(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2, fields=FIELDS)
    failures: list[Exception] = []

    def create() -> None:
        try:
            one.tiers.run(one.another().create("together", 2))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    one.tiers.run(one.engine.drop("together"))


@pytest.mark.parametrize("algorithm", ["flat", "hnsw"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metric", METRICS)
def test_create_is_idempotent(
    shelf: Callable[..., Shelf], metric: Metric, algorithm: str, dtype: str
) -> None:
    one = shelf(dims=7, algorithm=algorithm, fields=FIELDS, metric=metric, dtype=dtype)
    one.tiers.run(one.engine.create(one.generation, 7))
    one.put(Document("a", range(1, 8)))
    one.tiers.run(one.another().create(one.generation, 7))
    assert one.ids(range(1, 8)) == ["a"]


@pytest.mark.parametrize(
    ("options", "dims", "said"),
    [
        ({}, 3, "another dim 2"),
        ({"algorithm": "hnsw"}, 2, "another algorithm FLAT"),
        ({"dtype": "float16"}, 2, "another data_type FLOAT32"),
        ({"contents": False}, 2, "another fields .*__t"),
        ({"fields": {"x": "tag"}}, 2, "another fields"),
        ({"metric": "l2"}, 2, "another distance_metric COSINE"),
    ],
)
def test_another_index_of_that_name(
    shelf: Callable[..., Shelf], options: dict[str, Any], dims: int, said: str
) -> None:
    one = shelf(dims=2)
    metric = options.pop("metric", "cosine")
    engine = SearchEngine(one.keys, metric, **{"algorithm": "flat", **options})
    with pytest.raises(InvalidInput, match=said):
        one.tiers.run(engine.create(one.generation, dims))


def test_an_algorithm_that_the_server_lacks(tiers: Tiers) -> None:
    keys = tiers.keys.collection("vamana")
    engine = SearchEngine(keys, "cosine", algorithm="svs-vamana")
    said = (
        r"Redis \d\S* cannot make an index with algorithm='svs-vamana', dtype='float32', dims=3: \w"
    )
    try:
        with pytest.raises(InvalidInput, match=said):
            tiers.run(engine.create("g", 3))
    except pytest.fail.Exception:  # it can
        tiers.run(engine.drop("g"))


def test_an_index_needs_the_first_database(search_url: str) -> None:
    if "cluster" in search_url:
        pytest.skip("a cluster has one database")
    with Tiers(search_url.rstrip("/") + "/3", namespace="t") as other:
        engine = SearchEngine(other.keys.collection("c"), "cosine")
        with pytest.raises(InvalidInput, match="db != 0"):
            other.run(engine.create("g", 3))


def test_where_it_is_available(
    tiers: Tiers, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiers.run(available(tiers.keys.collection("c"))) is True
    with Tiers(valkey.url) as plain:
        assert plain.run(available(plain.keys.collection("c"))) is False
    monkeypatch.setattr("redis_tiered.vectors.search_engine.find_spec", lambda name: None)
    assert tiers.run(available(tiers.keys.collection("c"))) is False


def test_drop_leaves_nothing(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(*documents(1200, 2))
    # As if the index had gone before.
    for dropped in (False, True):
        if dropped:
            one.generation = one.begin()
            one.redis("DEL", one.keys.meta)
            one.version = 0
            one.put(*documents(20, 2))
            one.redis("FT.DROPINDEX", one.keys.index(one.generation))
        one.tiers.run(one.engine.drop(one.generation))
        pattern = one.keys.index(one.generation).replace(b"|", b"?") + b"*"
        cursor, left = b"0", []
        while True:
            cursor, keys = one.redis("SCAN", cursor, "MATCH", pattern, "COUNT", 10_000)
            left += keys
            if cursor == b"0":
                break
        assert left == []
        with pytest.raises(TierReplyError, match=r"(?i)unknown index"):
            one.redis("FT.INFO", one.keys.index(one.generation))
        one.tiers.run(one.engine.drop(one.generation))


# Generations.


def test_nothing_is_there_yet(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    for ask in (one.ask, lambda *a, **k: one.count()):
        assert ask([1, 0], k=1) is None
    assert one.ask(ids=[]) is None
    assert one.count(ids=[]) is None
    assert one.tiers.run(one.engine.get([b"a"], vectors=False)) is None


def test_another_generation_is_read(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("old", [1, 0]))
    reader = one.another()
    ask = query([1, 0], k=1)
    first = one.tiers.run(reader.search(ask))
    assert first is not None
    assert [found.row.id for found in first.found] == [b"old"]
    before = one.generation
    one.generation = one.begin()
    one.redis("DEL", one.keys.meta)
    one.version = 0
    one.put(Document("new", [1, 0]), Document("newer", [0, 1]))
    for drop in (False, True):
        if drop:
            one.tiers.run(one.engine.drop(before))
            reader._generation = before
        answer = one.tiers.run(reader.search(ask))
        assert answer is not None
        assert (answer.generation, answer.water) == (one.generation, 2)
        assert [found.row.id for found in answer.found] == [b"new"]
        reader._generation = before
        assert one.tiers.run(reader.count(query())) == 2
        reader._generation = before
        answer = one.tiers.run(reader.get([b"newer", b"old"], vectors=True))
        assert answer is not None
        assert [found.row.id for found in answer.found] == [b"newer"]


def test_generations_may_change_while_one_reads(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    names = [one.generation, one.begin(), one.begin()]
    for name in names:
        one.redis("DEL", one.keys.meta)
        one.version = 0
        one.put(*(Document(f"{at}", [1, at]) for at in range(30)), generation=name)
    stop = threading.Event()
    problems: list[object] = []

    def read() -> None:
        engine = one.another()
        while not stop.is_set():
            try:
                answer = one.tiers.run(engine.search(query([1, 0], k=30)))
                listed = one.tiers.run(
                    engine.search(query(where=Field("x").text("") | ~Field("x").present()))
                )
                if (
                    answer is None
                    or listed is None
                    or len(answer.found) != 30
                    or len(listed.found) != 30
                ):
                    problems.append((answer, listed))
            except TierUnavailable as error:
                if error.kind != "generation":
                    problems.append(error)
            except Exception as error:
                problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(300):
        one.redis("HSET", one.keys.meta, "g", names[turn % 3])
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems
    for name in names[1:]:
        one.tiers.run(one.engine.drop(name))


def test_an_index_that_somebody_dropped(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 0]))
    assert one.ids([1, 0]) == ["a"]
    one.redis("FT.DROPINDEX", one.keys.index(one.generation))
    assert one.ask([1, 0], k=1) is None
    assert one.ask(k=1) is None
    assert one.count() is None
    assert [found.row.id for found in _got(one, "a")] == [b"a"]
    one.version = 0
    one.redis("DEL", one.keys.meta)
    one.generation = one.begin()
    one.put(Document("b", [1, 0]))
    assert one.ids([1, 0]) == ["b"]


@pytest.mark.parametrize(
    "options", [{"contents": False}, {"fields": {"a": "tag"}}, {"dtype": "float16"}]
)
def test_another_layout_is_not_read(shelf: Callable[..., Shelf], options: dict[str, Any]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 0]))
    other = one.another(**options)
    assert one.tiers.run(other.search(query([1, 0], k=1))) is None
    assert one.tiers.run(other.count(query())) is None
    assert one.tiers.run(other.get([b"a"], vectors=False)) is None


def test_a_vector_of_another_length(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 0]))
    with pytest.raises(TierReplyError, match="blob size"):
        one.search([1, 0, 0], k=1)


# Documents.


def _got(one: Shelf, *ids: str, vectors: bool = False) -> Sequence[Any]:
    answer = one.tiers.run(one.engine.get([id.encode() for id in ids], vectors=vectors))
    assert answer is not None
    return answer.found


def test_get(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(Document("a", [1, 0], "x", {"k": [1]}, b"p"), Document("b", [0, 1], parent="a"))
    rows = [found.row for found in _got(one, "b", "none", "a", "b", vectors=True)]
    assert [row.id for row in rows] == [b"b", b"a", b"b"]
    assert math.isnan(_got(one, "a")[0].value)
    assert np.frombuffer(rows[1].vector, "<f4").tolist() == [1, 0]
    assert (rows[0].parent, rows[1].text, rows[1].payload) == (b"a", b"x", b"p")
    assert [found.row.vector for found in _got(one, "a", "b")] == [b"", b""]
    assert _got(one) == []


@given(document=strategies.documents(3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_document_comes_back(hostile: Shelf, document: Document) -> None:
    hostile.put(document)
    _, [draft] = drafted([document], 3, "cosine", NOW, None)
    wanted = (draft.id, draft.metadata, draft.text, draft.payload, draft.parent)
    [(row, _)] = _got(hostile, document.id, vectors=True)
    [(same, _)] = hostile.search(document.vector, ids=[document.id], vectors=True).found
    assert row == same
    assert (row.id, row.metadata, row.text, row.payload, row.parent) == wanted
    assert row.vector == draft.vector
    assert row.version == hostile.version


@pytest.fixture(scope="module")
def hostile(shelf: Callable[..., Shelf]) -> Shelf:
    return shelf(dims=3, fields={"a": "tag", "b": "text", "year": "numeric"})


def test_a_change_replaces_all_of_a_document(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2, fields={"c": "tag"})
    one.put(Document("a", [1, 0], "old", {"c": "x", "n": 1}, parent="p"), expires=NOW * 2)
    one.put(Document("a", [0, 1], "", {}))
    assert one.ids(text="old") == one.ids(parents=["p"]) == one.ids(where=Field("n") == 1) == []
    assert one.ids(native=Tag("c") == "x") == []
    [found] = one.search([0, 1], k=1).found
    assert found.value == pytest.approx(0, abs=1e-6)
    assert (found.row.version, found.row.expires) == (2, None)
    one.remove("a")
    assert one.ids([0, 1]) == []
    assert one.search([0, 1]).water == 3


async def test_asyncio_does_the_same(shelf: Callable[..., Shelf]) -> None:
    one = shelf(dims=2)
    one.put(*documents(50, 2))
    asked = [query([1, at], k=5) for at in range(20)]
    found = await asyncio.gather(*(one.tiers.arun(one.engine.search(each)) for each in asked))
    assert found == [one.tiers.run(one.engine.search(each)) for each in asked]


def test_a_schema_pickles() -> None:
    schema = Schema.checked(
        "ip", algorithm="flat", dtype="float32", contents=True, fields={"a": "tag"}, options=None
    )
    assert pickle.loads(pickle.dumps(schema)) == schema
