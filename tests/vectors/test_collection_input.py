"""What a collection refuses, clearly and before anything is written; what it accepts though it is odd."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redis_tiered import Tiers
from redis_tiered.errors import InvalidInput, MissingExtra, SchemaError
from redis_tiered.vectors.collection import Collection
from redis_tiered.vectors.document import Document, Metric
from redis_tiered.vectors.filters import And, Field
from tests.servers import RedisServer
from tests.vectors.twin import Bench, Place, Twin, ids, raw

V = [1.0, 2.0, 3.0]
KINDS = ["sync", "async"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def open_tiers(
    tmp_path_factory: pytest.TempPathFactory, loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[[str, bool], Tiers]]:
    opened: dict[tuple[str, bool], Tiers] = {}
    durable = f"sqlite:///{tmp_path_factory.mktemp('input') / 'durable.db'}"

    def get(url: str, lasts: bool) -> Tiers:
        if (url, lasts) not in opened:
            opened[url, lasts] = Tiers(
                url, durable if lasts else None, redis_timeout=5, durable_timeout=10
            )
        return opened[url, lasts]

    yield get
    for tiers in opened.values():
        loop.run_until_complete(tiers.aclose())


@pytest.fixture(params=[("sqlite", "sync"), ("none", "async")], ids="-".join)
def bench(
    request: pytest.FixtureRequest,
    valkey: RedisServer,
    open_tiers: Callable[[str, bool], Tiers],
    loop: asyncio.AbstractEventLoop,
) -> Bench:
    durable, kind = request.param
    tiers = open_tiers(valkey.url, durable != "none")
    return Bench(tiers, tiers, valkey.url, Place("valkey", durable, "redis", "float32", kind), loop)


@pytest.fixture
def there(bench: Bench) -> Twin:
    """A collection with a document of three dimensions."""
    collection = bench.collection()
    collection.upsert([Document("a", V, "text", {"n": 1})])
    return collection


def unchanged(bench: Bench, collection: Twin) -> None:
    assert ids(collection.find()) == ["a"]
    [document] = collection.get(["a"], with_vectors=True)
    assert (document.vector.tolist(), document.text, document.metadata) == (V, "text", {"n": 1})


class Text(str):
    __slots__ = ()


class Odd:
    pass


# Vectors.

BAD_VECTORS: list[tuple[Any, str]] = [
    ([1.0, 2.0], "3 dimensions, got 2"),
    ([1.0] * 4, "3 dimensions, got 4"),
    ([], "3 dimensions|numbers"),
    (np.zeros(0, np.float32), "3 dimensions, got 0"),
    ([1.0, 2.0, math.nan], "NaN"),
    ([1.0, 2.0, math.inf], "finite"),
    (np.array([1, 2, -np.inf], np.float16), "finite"),
    (np.array([1.0, 2.0, 1e39]), "finite as float32"),
    ([1.0, 2.0, -4e38], "finite as float32"),
    ([0.0, 0.0, 0.0], "zeros"),
    ([0, 0, 0], "zeros"),
    (np.array([1e-60, 0.0, 0.0]), "zeros"),
    ([V, V], "one-dimensional"),
    (np.ones((1, 3)), r"one-dimensional .* shape \(1, 3\)"),
    (np.float32(1), r"one-dimensional .* shape \(\)"),
    (5, "one-dimensional"),
    ("1,2,3", "sequence of numbers, got str"),
    (["1", "2", "3"], "numbers"),
    (b"123", "sequence of numbers, got bytes"),
    (None, "sequence of numbers, got NoneType"),
    ([1.0, None, 2.0], "numbers"),
    ([1.0, "2", 3.0], "numbers"),
    ([1.0, [2.0], 3.0], "numbers"),
    ({0: 1.0}, "sequence of numbers, got dict"),
    ({1.0, 2.0, 3.0}, "numbers"),
    ([True, False, True], "numbers"),
    ([1j, 2j, 3j], "numbers"),
    ([10**400, 1, 1], "numbers"),
    (Odd(), "numbers"),
    (np.array(["2020", "2021", "2022"], "M8[Y]"), "numbers"),
    ((number for number in V), "numbers"),
]


@pytest.mark.parametrize(
    ("vector", "said"), BAD_VECTORS, ids=[f"{i}" for i in range(len(BAD_VECTORS))]
)
def test_vectors_that_are_none(bench: Bench, there: Twin, vector: Any, said: str) -> None:
    before = bench.stored_keys()
    good = Document("b", V)
    with pytest.raises(InvalidInput, match=rf"documents\[1\]\.vector .*{said}"):
        there.upsert([good, Document("c", vector)])
    calls: list[Callable[[], Any]] = [
        lambda: there.search(vector),
        lambda: there.search(vector, 0),
        lambda: there.mmr(vector),
    ]
    if bench.lasts:
        calls.append(lambda: there.hybrid(vector, "text"))
    for call in calls:
        with pytest.raises(InvalidInput, match=rf"\bvector .*{said}"):
            call()
    unchanged(bench, there)
    assert bench.stored_keys() == before


def test_dims_come_with_the_first_vector(bench: Bench) -> None:
    collection = bench.collection()
    with pytest.raises(InvalidInput, match=r"documents\[1\]\.vector must have 3 dimensions, got 2"):
        collection.upsert([Document("a", V), Document("b", [1.0, 2.0])])
    with pytest.raises(InvalidInput, match="1 to 32768"):
        collection.upsert([Document("a", np.ones(32_769))])
    with pytest.raises(InvalidInput, match="1 to 32768"):
        collection.upsert([Document("a", [])])
    assert bench.stored_keys() == set()
    assert collection.count() == 0
    collection.upsert([Document("a", [1.0, 2.0])])
    assert collection.info().dims == 2


def test_dims_that_were_said(bench: Bench) -> None:
    collection = bench.collection(dims=4)
    for call in (lambda: collection.upsert([Document("a", V)]), lambda: collection.search(V)):
        with pytest.raises(InvalidInput, match="must have 4 dimensions, got 3"):
            call()
    assert bench.stored_keys() == set()
    bench.collection().upsert([Document("a", V)])
    with pytest.raises(
        InvalidInput, match="dims must be 3, as the collection was made with, got 4"
    ):
        collection.upsert([Document("b", [1.0] * 4)])
    with pytest.raises(InvalidInput, match="vector must have 3 dimensions, got 4"):
        collection.search([1.0] * 4)
    assert ids(bench.collection().find()) == ["a"]


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_zeros_have_a_place_where_no_direction_is_asked(bench: Bench, metric: Metric) -> None:
    collection = bench.collection(metric=metric)
    collection.upsert([Document("z", [0.0, 0.0]), Document("a", [1.0, 0.0])])
    assert sorted(ids(collection.search([0.0, 0.0]))) == ["a", "z"]
    assert ids(collection.search([0.0, 0.0], 1)) == (["z"] if metric == "l2" else ["a"])
    assert ids(collection.mmr([1.0, 0.0], 2))


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_metric_must_be_that_of_the_collection(bench: Bench, metric: str) -> None:
    bench.collection(metric=metric).upsert([Document("a", V)])
    other = bench.collection(metric="l2" if metric != "l2" else "ip")
    for call in (
        lambda: other.upsert([Document("b", V)]),
        lambda: other.search(V),
        lambda: other.mmr(V),
        lambda: other.delete(["a"]),
        other.delete_all,
        other.info,
    ):
        with pytest.raises((InvalidInput, SchemaError), match=rf"\bmetric\b.*{metric}"):
            call()
    assert ids(bench.collection(metric=metric).find()) == ["a"]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_numbers_that_float16_has_not(bench: Bench, metric: Metric) -> None:
    collection = bench.collection(metric=metric, dtype="float16")
    if metric != "cosine":
        with pytest.raises(InvalidInput, match=r"65504.*float16"):
            collection.upsert([Document("good", [1.0, 0.0]), Document("huge", [1e5, 1.0])])
        assert collection.count() == 0
        return
    given = {"huge": [3e38, 3e38], "tiny": [1e-30, 0.0], "less": [-1e-44, 0.0], "one": [0.5, 1.0]}
    collection.upsert([Document(id, vector) for id, vector in given.items()])
    for id, vector in given.items():
        [hit] = collection.search(vector, 1)
        assert hit.document.id == id
        assert hit.distance == pytest.approx(0, abs=1e-5)
        [document] = collection.get([id], with_vectors=True)
        assert document.vector == pytest.approx(vector, rel=1e-3)
    if bench.lasts:
        assert collection.rebuild().documents == 4


# Documents.


def bad_documents() -> list[tuple[Any, str]]:
    return [
        (None, "documents must be a sequence of Document, got NoneType"),
        ("abc", "documents must be a sequence of Document, got str"),
        (Document("b", V), "documents must be a sequence of Document, got Document"),
        ((Document("b", V) for _ in range(1)), "documents must be a sequence"),
        ({"b": Document("b", V)}, "documents must be a sequence of Document, got dict"),
        ({Odd()}, "documents must be a sequence of Document, got set"),
        (["b"], r"documents\[0\] must be a Document, got str"),
        ([{"id": "b", "vector": V}], r"documents\[0\] must be a Document, got dict"),
        ([None], r"documents\[0\] must be a Document, got NoneType"),
        ([Document(5, V)], r"documents\[0\]\.id must be a str, got int"),  # type: ignore[arg-type]
        ([Document(b"b", V)], r"documents\[0\]\.id must be a str, got bytes"),  # type: ignore[arg-type]
        ([Document(0, V)], r"documents\[0\]\.id must be a str, got int"),  # type: ignore[arg-type]
        ([Document(Text("b"), V)], r"documents\[0\]\.id must be a str, got Text"),
        ([Document("x" * 1025, V)], r"documents\[0\]\.id must have at most 1024 bytes"),
        ([Document("é" * 513, V)], r"documents\[0\]\.id must have at most 1024 bytes, got 1026"),
        ([Document("\ud800", V)], r"documents\[0\]\.id holds a lone surrogate"),
        ([Document("b", V, 5)], r"documents\[0\]\.text must be a str, got int"),  # type: ignore[arg-type]
        ([Document("b", V, None)], r"documents\[0\]\.text must be a str, got NoneType"),  # type: ignore[arg-type]
        ([Document("b", V, "\udfff")], r"documents\[0\]\.text holds a lone surrogate"),
        ([Document("b", V, payload="x")], r"documents\[0\]\.payload must be bytes, got str"),  # type: ignore[arg-type]
        ([Document("b", V, payload=bytearray(2))], r"\.payload must be bytes, got bytearray"),  # type: ignore[arg-type]
        ([Document("b", V, parent=5)], r"documents\[0\]\.parent must be a str, got int"),  # type: ignore[arg-type]
        ([Document("b", V, parent=0)], r"documents\[0\]\.parent must be a str, got int"),  # type: ignore[arg-type]
        ([Document("b", V, parent="\ud800")], r"documents\[0\]\.parent holds a lone surrogate"),
        ([Document("b", V, parent="x" * 1025)], r"documents\[0\]\.parent must have at most 1024"),
        ([Document("b", V, "", None)], r"documents\[0\]\.metadata must be a mapping, got NoneType"),  # type: ignore[arg-type]
        ([Document("b", V, "", [1])], r"documents\[0\]\.metadata must be a mapping, got list"),  # type: ignore[arg-type]
        ([Document("b", V, "", {5: 1})], r"documents\[0\]\.metadata"),  # type: ignore[dict-item]
        ([Document("b", V, "", {"": 1})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"x" * 257: 1})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"\ud800": 1})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"a": "\ud800"})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"a": ["\ud800"]})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"a": Odd()})], r"documents\[0\]\.metadata.*Odd"),
        ([Document("b", V, "", {"a": [1, {"b": Odd()}]})], r"documents\[0\]\.metadata.*Odd"),
        ([Document("b", V, "", {"a": lambda: 1})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"a": 1j})], r"documents\[0\]\.metadata"),
        ([Document("b", V, "", {"a": np.ones(2)})], r"documents\[0\]\.metadata"),
        ([Document("b", V), Document("c", V, "", {"a": Odd()})], r"documents\[1\]\.metadata"),
    ]


@pytest.mark.parametrize("which", range(len(bad_documents())))
def test_documents_that_are_none(bench: Bench, there: Twin, which: int) -> None:
    given, said = bad_documents()[which]
    before = bench.stored_keys()
    with pytest.raises(InvalidInput, match=said):
        there.upsert(given)
    unchanged(bench, there)
    assert bench.stored_keys() == before


def test_a_document_that_is_too_large(bench: Bench, there: Twin) -> None:
    huge = "x" * (40 << 20)
    given = [Document("b", V), Document("c", V, huge, {"a": huge})]
    with pytest.raises(InvalidInput, match=r"documents\[1\] has more than 67108864 bytes"):
        there.upsert(given)
    unchanged(bench, there)


def test_metadata_that_refers_to_itself(bench: Bench, there: Twin) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = [endless]
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    for metadata in (endless, {"a": deep}):
        with pytest.raises(InvalidInput, match=r"documents\[0\]\.metadata"):
            there.upsert([Document("b", V, "", metadata)])
    unchanged(bench, there)


def test_numbers_and_texts_of_numpy_in_metadata(bench: Bench) -> None:
    collection = bench.collection()
    metadata = {
        "i": np.int64(5),
        "f": np.float32(0.5),
        "s": np.str_("text"),
        "b": np.bool_(True),
        "l": [np.int8(1), np.float64(2)],
    }
    collection.upsert([Document("a", V, "", metadata)])
    [found] = collection.get(["a"])
    assert found.metadata == {"i": 5, "f": 0.5, "s": "text", "b": True, "l": [1, 2.0]}
    assert {type(value) for value in found.metadata.values()} == {int, float, str, bool, list}
    assert ids(collection.find((Field("i") == 5) & (Field("s") == "text"))) == ["a"]
    assert ids(collection.search(V, filter=Field("l").contains(2))) == ["a"]


def test_large_documents(bench: Bench) -> None:
    collection = bench.collection()
    text, long = "word " * 600_000, "x" * 1024
    collection.upsert([Document(long, V, text, {"a": "y" * 100_000}, b"z" * 3_000_000, long)])
    [hit] = collection.search(V, filter=Field("a") == "y" * 100_000, ids=[long], parents=[long])
    assert (hit.document.id, hit.document.text, len(hit.document.payload)) == (
        long,
        text,
        3_000_000,
    )
    if bench.lasts:
        assert ids(collection.text_search("word")) == [long]


@pytest.mark.parametrize("given", [[], (), ""])
def test_an_empty_batch(bench: Bench, there: Twin, given: Any) -> None:
    if given == "":
        with pytest.raises(InvalidInput, match="documents"):
            there.upsert(given)
    else:
        assert there.upsert(given) == ()
        assert there.get(given) == ()
        assert there.delete(given) == 0
        assert there.find(ids=given) == ()
        assert there.search(V, ids=given) == ()
        assert there.search(V, parents=given) == ()
        assert there.delete(parents=given) == 0
        assert there.usage(given) == {}
    unchanged(bench, there)


# Arguments of methods.


def test_arguments_of_methods(bench: Bench, there: Twin) -> None:
    before = bench.stored_keys()
    nan = math.nan
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("delete_all", lambda: there.delete()),
        *[
            (said, lambda given=given, call=call: call(given))
            for given, said in [
                ("a", "ids must be a sequence of str, got str"),
                (b"a", "ids must be a sequence of str, got bytes"),
                (5, "ids must be a sequence of str, got int"),
                ({"a"}, "ids must be a sequence of str, got set"),
                ((id for id in "a"), "ids must be a sequence of str, got generator"),
                (["a", 5], r"ids\[1\] must be a str, got int"),
                (["a", None], r"ids\[1\] must be a str, got NoneType"),
                ([""], r"ids\[0\] must have at least 1 char"),
                (["\ud800"], r"ids\[0\] holds a lone surrogate"),
                (["x" * 1025], r"ids\[0\] must have at most 1024 bytes"),
            ]
            for call in (
                there.get,
                there.delete,
                there.usage,
                lambda given: there.find(ids=given),
                lambda given: there.search(V, ids=given),
                lambda given: there.mmr(V, ids=given),
            )
        ],
        ("parents must be a sequence", lambda: there.delete(parents="p")),
        (r"parents\[0\] must be a str", lambda: there.find(parents=[5])),
        (r"parents\[0\] must have", lambda: there.search(V, parents=[""])),
        *[
            ("filter must be a redis_tiered.Filter", lambda given=given, call=call: call(given))
            for given in ("n == 1", {"n": 1}, 5, True, lambda d: True, Field("n"), ["a"])
            for call in (
                lambda given: there.delete(filter=given),
                there.find,
                there.count,
                lambda given: there.search(V, filter=given),
                lambda given: there.mmr(V, filter=given),
            )
        ],
        *[
            (said, lambda given=given, call=call: call(given))
            for given, said in [
                (-1, "k must be from 0 to 100000, got -1"),
                (100_001, "k must be from 0 to 100000"),
                (True, "k must be an int, got bool"),
                (2.0, "k must be an int, got float"),
                ("4", "k must be an int, got str"),
            ]
            for call in (lambda k: there.search(V, k), lambda k: there.mmr(V, k))
        ],
        ("k must be an int, got NoneType", lambda: there.mmr(V, None)),
        ("k=None needs max_distance or min_score", lambda: there.search(V, None)),
        ("fetch_k must be from 0", lambda: there.mmr(V, fetch_k=-1)),
        ("fetch_k must be an int", lambda: there.mmr(V, fetch_k=None)),
        ("lambda_mult must be from 0 to 1", lambda: there.mmr(V, lambda_mult=1.1)),
        ("lambda_mult must be from 0 to 1", lambda: there.mmr(V, lambda_mult=-0.1)),
        ("lambda_mult must be a number", lambda: there.mmr(V, lambda_mult=nan)),
        ("lambda_mult must be a number", lambda: there.mmr(V, lambda_mult="1")),
        ("lambda_mult must be a number", lambda: there.mmr(V, lambda_mult=True)),
        ("lambda_mult must be", lambda: there.mmr(V, lambda_mult=10**400)),
        ("alpha must be from 0 to 1", lambda: there.hybrid(V, "text", alpha=2)),
        ("alpha must be a number", lambda: there.hybrid(V, "text", alpha=None)),
        ("query must be a str, got NoneType", lambda: there.hybrid(V, None)),
        ("fetch_k must be from 1", lambda: there.hybrid(V, "text", fetch_k=0)),
        ("query must be a str, got int", lambda: there.text_search(5)),
        ("query holds a lone surrogate", lambda: there.text_search("\ud800")),
        ("k must be from 0", lambda: there.text_search("text", -1)),
        ("k must be an int", lambda: there.text_search("text", None)),
        ("max_distance must be a number", lambda: there.search(V, max_distance="1")),
        ("max_distance must be a number", lambda: there.search(V, max_distance=nan)),
        ("max_distance must be a number", lambda: there.search(V, max_distance=True)),
        ("max_distance must be a number", lambda: there.search(V, max_distance=10**400)),
        ("min_score must be a number", lambda: there.search(V, min_score=[1])),
        ("min_score must be a number", lambda: there.search(V, min_score=nan)),
        ("max_distance and min_score", lambda: there.search(V, max_distance=1, min_score=1)),
        ("limit must be from 0", lambda: there.find(limit=-1)),
        ("limit must be an int", lambda: there.find(limit=1.0)),
        ("limit must be an int", lambda: there.find(limit=True)),
        ("limit must be from 0", lambda: there.find(limit=1 << 63)),
        ("offset must be from 0", lambda: there.find(offset=-1)),
        ("offset must be an int", lambda: there.find(offset=None)),
        *[
            ("ttl must be", lambda ttl=ttl: there.upsert([Document("b", V)], ttl=ttl))
            for ttl in (0, -1, nan, math.inf, "5", True, 10**12, 10**400)
        ],
        ("progress must be a function", lambda: there.rebuild("bar")),
        ("progress must be a function", lambda: there.rebuild(5)),
    ]
    for said, call in cases:
        with pytest.raises(InvalidInput, match=said):
            call()
    unchanged(bench, there)
    assert bench.stored_keys() == before


def test_the_largest_that_may_be_asked(there: Twin) -> None:
    most = (1 << 63) - 1
    assert len(there.search(V, 100_000)) == 1
    assert len(there.mmr(V, 100_000, fetch_k=100_000)) == 1
    assert len(there.find(limit=most)) == 1
    assert there.find(offset=most) == ()
    assert there.find(limit=5, offset=most) == ()
    assert len(there.search(V, max_distance=1e308)) == 1
    assert there.search(V, max_distance=-math.inf) == ()
    assert there.search(V, min_score=math.inf) == ()
    assert len(there.search(V, min_score=-math.inf)) == 1


def test_filters(bench: Bench, there: Twin) -> None:
    for value in (None, [1], {"a": 1}, b"x", math.nan, Odd()):
        with pytest.raises(InvalidInput, match=r"value for field 'n'|number, str or datetime"):
            there.find(Field("n") < value)
    for value in ("\ud800", Odd(), ["\ud800"]):
        with pytest.raises(InvalidInput):
            there.count(Field("n") == value)
    with pytest.raises(InvalidInput):
        Field("")
    # Another kind matches nothing, and is no error.
    for value in ("1", datetime(2020, 1, 1)):
        assert there.count(Field("n") >= value) == 0
        assert there.search(V, filter=Field("n") <= value) == ()
    assert there.count(And(())) == 1

    def deep() -> Any:
        made: Any = Field("n") == 1
        for _ in range(200):
            made = ~(made & (Field("m") == 2))
        return made

    with pytest.raises(InvalidInput, match="deep"):
        there.search(V, filter=deep())
    unchanged(bench, there)


def test_expressions_of_redisvl_need_its_engine(bench: Bench, there: Twin) -> None:
    pytest.importorskip("redisvl")
    from redisvl.query.filter import Num

    expression = Num("n") == 1
    for call in (
        lambda: there.search(V, filter=expression),
        lambda: there.find(expression),
        lambda: there.count(expression),
        lambda: there.delete(filter=expression),
        lambda: there.delete(["a"], filter=expression),
    ):
        with pytest.raises(InvalidInput, match=r"filter .*redisvl"):
            call()
    unchanged(bench, there)


# Arguments of a collection.


def test_arguments_of_a_collection(bench: Bench) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("metric must be one of", {"metric": "dot"}),
        ("metric must be one of", {"metric": None}),
        ("metric must be one of", {"metric": ["cosine"]}),
        ("engine must be one of", {"engine": "faiss"}),
        ("engine must be one of", {"engine": None}),
        ("algorithm must be one of", {"algorithm": "HNSW"}),
        ("dtype must be one of", {"dtype": "float64"}),
        ("dtype must be one of", {"dtype": np.float32}),
        ("payload must be one of", {"payload": "disk"}),
        ("track_access must be a bool", {"track_access": 1}),
        ("approximate must be a bool", {"approximate": "no"}),
        ("auto_rebuild must be a bool", {"auto_rebuild": None}),
        ("dims must be from 1 to 32768, got 0", {"dims": 0}),
        ("dims must be from 1", {"dims": -5}),
        ("dims must be from 1", {"dims": 32_769}),
        ("dims must be an int", {"dims": "8"}),
        ("dims must be an int", {"dims": True}),
        ("dims must be an int", {"dims": 8.0}),
        ("ttl must be", {"ttl": 0}),
        ("ttl must be", {"ttl": -1.0}),
        ("ttl must be", {"ttl": "1"}),
        ("ttl must be", {"ttl": math.nan}),
        ("algorithm_options must be a mapping", {"algorithm_options": [("m", 1)]}),
        ("algorithm_options must be a mapping", {"algorithm_options": {"m": "16"}}),
        ("algorithm_options must be a mapping", {"algorithm_options": {"m": True}}),
        ("fields must be a mapping", {"fields": ["n"]}),
        ("fields must be a mapping", {"fields": {"n": 5}}),
        ("fields must be a mapping", {"fields": {5: "tag"}}),
    ]
    for said, options in cases:
        with pytest.raises(InvalidInput, match=said):
            bench.collection(**options)
    for name in ("", "x" * 257, 5, None, "\ud800", b"c"):
        with pytest.raises(InvalidInput, match="collection"):
            bench.collection(name)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="tiers must be a Tiers, got str"):
        Collection("redis://localhost", "c")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        bench.collection(wrong=1)
    if not bench.lasts:
        with pytest.raises(InvalidInput, match=r"payload=.durable. needs a durable tier"):
            bench.collection(payload="durable")
    assert bench.stored_keys() == set()


def test_the_search_module_must_be_there_if_it_is_asked_for(bench: Bench) -> None:
    collection = bench.collection(engine="redisvl")
    for call in (
        lambda: collection.upsert([Document("a", V)]),
        lambda: collection.search(V),
        lambda: collection.get(["a"]),
    ):
        with pytest.raises((InvalidInput, MissingExtra), match="redisvl"):
            call()
    assert bench.stored_keys() == set()
    automatic = bench.collection(engine="auto")
    automatic.upsert([Document("a", V)])
    assert automatic.info().engine == "local"
    assert ids(automatic.find()) == ["a"]


def test_text_search_needs_somebody_who_can(bench: Bench, there: Twin) -> None:
    if bench.lasts:
        assert ids(there.text_search("text")) == ["a"]
        return
    for call in (lambda: there.text_search("text"), lambda: there.hybrid(V, "text")):
        with pytest.raises(InvalidInput, match="full text needs a durable tier"):
            call()


def test_what_needs_a_durable_tier(bench: Bench, there: Twin) -> None:
    if bench.lasts:
        assert there.rebuild().documents == 1
        assert there.verify().clean
        return
    for call in (there.rebuild, there.verify, lambda: there.verify(repair=True)):
        with pytest.raises(InvalidInput, match="durable"):
            call()
    unchanged(bench, there)


def test_a_batch_that_is_refused_leaves_nothing(bench: Bench, tmp_path: Path, there: Twin) -> None:
    """Also where it is larger than a transaction, and the last of it is wrong."""
    many = [Document(f"m{i}", V) for i in range(1500)]
    for bad in (Document("x", [1.0]), Document("y", V, "", {"a": Odd()})):
        with pytest.raises(InvalidInput, match=r"documents\[1500\]"):
            there.upsert([*many, bad])
    assert there.count() == 1
    with raw(bench.url) as client:
        generations = [key for key in bench.stored_keys() if key.endswith(b":ids")]
        assert [client.zcard(key) for key in generations] == [1]
