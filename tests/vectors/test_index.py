"""The index in memory: its answers against float64 by brute force, and threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.values import Writer
from redis_tiered.vectors import distances
from redis_tiered.vectors.document import METRICS, Metric
from redis_tiered.vectors.filters import Field, Filter
from redis_tiered.vectors.index import Index
from redis_tiered.vectors.slots import Slots
from redis_tiered.vectors.tree import And
from tests.vectors.strategies import filters, leaves, metadata

EMPTY = Writer().dumped({})
Found = list[tuple[bytes, int, float]]


def encoded(fields: Mapping[str, Any]) -> bytes:
    writer = Writer()
    return writer.dumped(writer.value(dict(fields)))


class Held(NamedTuple):
    version: int
    vector: np.ndarray
    fields: Mapping[str, Any]
    parent: bytes
    expires: int | None


class Reference:
    """What an index must know and answer, in the plainest way."""

    def __init__(self, dims: int, metric: Metric) -> None:
        self.dims = dims
        self.metric = metric
        self.held: dict[bytes, Held] = {}
        self.removed: dict[bytes, int] = {}

    def put(self, id: bytes, held: Held) -> None:
        old = self.held.get(id)
        if (old is None or held.version >= old.version) and held.version > self.removed.get(id, -1):
            self.held[id] = held

    def remove(self, id: bytes, version: int) -> None:
        if id not in self.held or version >= self.held[id].version:
            self.held.pop(id, None)
            self.removed[id] = max(version, self.removed.get(id, -1))

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(float), b.astype(float)
        if self.metric == "l2":
            return float(np.sqrt(((a - b) ** 2).sum()))
        if self.metric == "ip":
            return float(1 - (a * b).sum())
        norms = np.sqrt((a * a).sum() * (b * b).sum())
        return float(1 - (a * b).sum() / norms) if norms else 1.0

    def search(
        self,
        query: np.ndarray,
        k: int | None,
        *,
        where: Filter | None = None,
        ids: list[bytes] | None = None,
        parents: list[bytes] | None = None,
        now: int = 0,
        max_distance: float | None = None,
    ) -> Found:
        found = [
            (self.distance(held.vector, query), id, held.version)
            for id, held in self.held.items()
            if (where is None or where.matches(held.fields))
            and (ids is None or id in ids)
            and (parents is None or held.parent in parents)
            and (held.expires is None or held.expires > now)
        ]
        near = [each for each in sorted(found) if max_distance is None or each[0] <= max_distance]
        return [(id, version, distance) for distance, id, version in near[:k]]


# Of few whole numbers there are many ties, and they are the same in every way of calculating.
whole = st.integers(-2, 2).map(float)
ids = st.sampled_from([b"a", b"b", b"c", b"\xff", b"aa", *(b"%d" % i for i in range(20))])
parents = st.sampled_from([b"", b"p", b"q"])
ends = st.none() | st.integers(1, 5)


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, list[tuple[Any, ...]]]:
    dims = draw(st.integers(1, 3))
    vectors = st.lists(whole, min_size=dims, max_size=dims).map(lambda row: np.array(row, "f4"))
    held = st.builds(Held, st.integers(1, 9), vectors, metadata, parents, ends)
    return dims, draw(
        st.lists(
            st.tuples(st.just("put"), ids, held)
            | st.tuples(st.just("put_many"), st.lists(st.tuples(ids, held), max_size=30))
            | st.tuples(st.just("remove"), ids, st.integers(1, 9))
            | st.tuples(st.just("remove all"), st.integers(1, 9))
            | st.tuples(
                st.just("search"),
                vectors,
                st.none() | st.integers(0, 30),
                st.fixed_dictionaries(
                    {},
                    optional={
                        "where": leaves() | filters,
                        "ids": st.lists(ids, max_size=3),
                        "parents": st.lists(parents, max_size=2),
                        "now": st.integers(0, 5),
                        "max_distance": st.sampled_from([-1.0, 0.0, 1.0, 2.5, 1e300, float("inf")]),
                    },
                ),
            ),
            max_size=12,
        )
    )


def same(found: Found, expected: Found, tolerance: float) -> None:
    """Exactly, or with distances that are wrong by as little as rounding, and ties in any order."""
    if not tolerance:
        assert found == expected
        return
    assert len(found) == len(expected)
    assert found == sorted(found, key=lambda hit: (hit[2], hit[0]))
    assert [hit[2] for hit in found] == pytest.approx([hit[2] for hit in expected], abs=tolerance)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60)
@given(program=programs())
def test_it_answers_as_brute_force_does(
    metric: Metric, program: tuple[int, list[tuple[Any, ...]]]
) -> None:
    dims, steps = program
    index, reference = Index(dims, metric), Reference(dims, metric)
    for name, *arguments in steps:
        if name == "put":
            id, held = arguments
            index.put(
                id, held.version, held.vector, encoded(held.fields), held.parent, held.expires
            )
            reference.put(id, held)
        elif name == "put_many":
            [rows] = arguments
            index.put_many(
                [id for id, _ in rows],
                [held.version for _, held in rows],
                np.array([held.vector for _, held in rows], "f4").reshape(len(rows), dims),
                [encoded(held.fields) for _, held in rows],
                [held.parent for _, held in rows],
                [held.expires for _, held in rows],
            )
            for id, held in rows:
                reference.put(id, held)
        elif name == "remove":
            index.remove(*arguments)
            reference.remove(*arguments)
        elif name == "remove all":
            for id in list(reference.held):
                index.remove(id, arguments[0])
                reference.remove(id, arguments[0])
        else:
            query, k, options = arguments
            found, expected = (
                index.search(query, k, **options),
                reference.search(query, k, **options),
            )
            # Cosines have roots in them; a limit then may fall to this side or that.
            if metric != "cosine" or options.get("max_distance") not in (0.0, 1.0):
                same(found, expected, 1e-6 if metric == "cosine" else 0)
            options.pop("max_distance", None)
            listed = reference.search(query, None, **options)
            assert sorted(index.listed(**options)) == sorted((id, v) for id, v, _ in listed)
            assert index.count(**options) == len(listed)
        assert len(index) == len(reference.held)
        assert all(index.version_of(id) == held.version for id, held in reference.held.items())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("share", [None, 0.9, 0.05])
def test_nothing_near_is_missed(metric: Metric, scale: float, share: float | None) -> None:
    """More rows than fit into a block, some longer by far, some the same, some taken away."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((1500, 90)).astype("f4") * np.float32(scale)
    vectors[::50] *= 100
    vectors[1::7] = vectors[1]
    index, reference = Index(90, metric), Reference(90, metric)
    where = None if share is None else Field("x") < share
    for i, vector in enumerate(vectors):
        fields = {"x": i * 7919 % 1500 / 1500}
        index.put(b"%d" % i, i, vector, encoded(fields))
        reference.put(b"%d" % i, Held(i, vector, fields, b"", None))
    for i in range(0, 1500, 11):
        index.remove(b"%d" % i, 5000)
        reference.remove(b"%d" % i, 5000)
    for query in (vectors[1], vectors[4], -vectors[1], vectors[2] * np.float32(3)):
        for k in (1, 10, 400):
            found = index.search(query, k, where=where)
            expected = reference.search(query, k, where=where)
            assert len(found) == len(expected)
            # To a normalised row of float32, or in another order of addition.
            distances = np.array([hit[2] for hit in expected])
            error = 1e-7 if metric == "cosine" else 1e-13 * np.abs(distances).max()
            assert np.abs(distances - [hit[2] for hit in found]).max() <= error
            assert found == sorted(found, key=lambda hit: (hit[2], hit[0]))
        last = reference.search(query, 20, where=where)[-1][2]
        far = last + abs(last) * 1e-6 + 1e-6
        within = {hit[0] for hit in index.search(query, None, where=where, max_distance=far)}
        assert within >= {hit[0] for hit in index.search(query, 20, where=where)}
        assert within == {
            hit[0] for hit in reference.search(query, None, where=where, max_distance=far)
        }


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_are_in_order_of_their_ids_wherever_they_lie(metric: Metric) -> None:
    rng = np.random.default_rng(1)
    for dims in (1, 2, 7, 33, 100, 1537):
        index = Index(dims, metric)
        one = rng.standard_normal(dims).astype("f4")
        for i in rng.permutation(50).tolist():
            index.put(b"%02d" % i, 1, one, EMPTY)
            index.put(b"x%02d" % i, 1, rng.standard_normal(dims).astype("f4"), EMPTY)
        query = rng.standard_normal(dims).astype("f4")
        found = [id for id, _, _ in index.search(query, 100) if not id.startswith(b"x")]
        assert found == [b"%02d" % i for i in range(50)]
        found = index.search(one, 20)
        assert (
            metric == "ip"
            or dims == 1
            or [id for id, _, _ in found] == [b"%02d" % i for i in range(20)]
        )


def test_a_vector_has_no_distance_to_itself() -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 384)).astype("f4")
    for metric in ("cosine", "l2"):
        index = Index(384, metric)
        for i, vector in enumerate(vectors):
            index.put(b"%d" % i, 1, vector, EMPTY)
        for i, vector in enumerate(vectors):
            assert index.search(vector, 1) == [(b"%d" % i, 1, 0.0)]


def test_numbers_that_float32_cannot_square_are_compared_too() -> None:
    for metric in METRICS:
        index = Index(2, metric)
        for i, row in enumerate(
            [[3e38, 3e38], [3e38, 2.9e38], [1e-40, 0.0], [1.0, 0.0], [0.0, 1.0]]
        ):
            index.put(b"%d" % i, 1, row, EMPTY)
        nearest = [id for id, _, _ in index.search([1e38, 1e38], 2)]
        assert nearest == {"cosine": [b"0", b"1"], "ip": [b"0", b"1"], "l2": [b"2", b"3"]}[metric]


def test_older_changes_are_ignored() -> None:
    index = Index(1, "l2")
    index.put(b"a", 5, [1.0], EMPTY)
    index.put(b"a", 4, [2.0], EMPTY)
    index.remove(b"a", 4)
    assert index.search([0.0], 9) == [(b"a", 5, 1.0)]
    index.put(b"a", 5, [3.0], EMPTY)
    assert index.search([0.0], 9) == [(b"a", 5, 3.0)]
    index.remove(b"a", 7)
    index.remove(b"b", 3)
    index.put(b"a", 6, [1.0], EMPTY)  # read before it was removed, and put after that
    index.put(b"b", 2, [1.0], EMPTY)
    assert len(index) == 0
    assert b"a" not in index
    index.put(b"a", 8, [1.0], EMPTY)
    assert b"a" in index
    assert (index.version_of(b"a"), index.version_of(b"b")) == (8, None)
    index.clear()
    index.put(b"b", 1, [1.0], EMPTY)
    assert index.search([1.0], 9) == [(b"b", 1, 0.0)]


def test_of_a_document_twice_in_one_call_the_last_counts() -> None:
    index = Index(1, "l2")
    index.put_many(
        [b"a", b"a", b"a"], [1, 3, 2], [[1], [3], [2]], [EMPTY] * 3, [b""] * 3, [None] * 3
    )
    assert index.search([0.0], 9) == [(b"a", 3, 3.0)]


def test_what_expires_is_not_found() -> None:
    index = Index(1, "l2")
    for i in range(5):
        index.put(b"%d" % i, 1, [float(i)], EMPTY, b"", None if i == 4 else 100 + i)
    assert [id for id, _, _ in index.search([0.0], 9, now=101)] == [b"2", b"3", b"4"]
    assert index.count(now=103) == 1
    assert index.count(now=100) == 4
    index.remove(b"0", 1)
    index.remove(b"1", 1)
    assert index.count(now=101) == 3


def test_listed_is_in_order_of_versions() -> None:
    index = Index(1, "l2")
    for version, id in ((3, b"a"), (1, b"c"), (2, b"b"), (7, b"c")):
        index.put(id, version, [1.0], encoded({"id": id.decode()}), id)
    assert index.listed() == [(b"b", 2), (b"a", 3), (b"c", 7)]
    assert index.listed(where=Field("id") > "a", ids=[b"a", b"c", b"z"]) == [(b"c", 7)]
    assert index.listed(parents=[b"a", b"b", b"z"]) == [(b"b", 2), (b"a", 3)]


def test_vectors_are_given_back() -> None:
    index = Index(2, "cosine")
    index.put(b"a", 1, [3.0, 4.0], EMPTY)
    assert index.vectors([b"a", b"z"]).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    index = Index(2, "ip")
    index.put(b"a", 1, [3.0, 4.0], EMPTY)
    assert index.vectors([b"a", b"a"]).tolist() == [[3, 4], [3, 4]]
    assert index.vectors([]).shape == (0, 2)


@pytest.mark.parametrize("metric", METRICS)
def test_what_has_no_direction_does_no_harm(metric: Metric) -> None:
    index = Index(2, metric)
    index.put(b"a", 1, [0.0, 0.0], EMPTY)
    index.put(b"b", 1, [1.0, 0.0], EMPTY)
    assert [hit[2] for hit in index.search([0.0, 0.0], 2)] == [[1, 1], [1, 1], [0, 1]][
        METRICS.index(metric)
    ]


def test_memory_shrinks_with_the_documents() -> None:
    index = Index(200, "l2")
    empty = index.bytes
    for i in range(2000):
        index.put(b"%d" % i, i, np.full(200, i), encoded({"n": i % 100}), b"p%d" % (i % 50))
    assert index.count(where=Field("n") < 10, parents=[b"p5"]) == 20
    full = index.bytes
    assert full > 2000 * 200 * 4
    for i in range(1990):
        index.remove(b"%d" % i, 5000)
    assert index.bytes < full / 3
    assert index.count(where=Field("n") >= 95, parents=[b"p47", b"p48"]) == 2
    assert [id for id, _, _ in index.search(np.full(200, 1995.0), 1)] == [b"1995"]
    index.clear()
    assert index.bytes == empty


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="metric"):
        Index(2, "manhattan")  # type: ignore[arg-type]
    index = Index(2, "l2")
    with pytest.raises(InvalidInput, match=r"vectors must have shape \(1, 2\), got \(1, 3\)"):
        index.put(b"a", 1, [1, 2, 3], EMPTY)
    with pytest.raises(InvalidInput, match="as many"):
        index.put_many([b"a"], [1], [[1, 2]], [], [b""], [None])
    with pytest.raises(InvalidInput, match=r"vector must have shape \(2,\)"):
        index.search([1.0], 1)
    assert len(index) == 0


def test_searches_see_whole_documents_while_others_change_them() -> None:
    """Each vector is its version in every place: a torn or mixed up row has another distance."""
    index = Index(64, "l2")
    stop = threading.Event()
    errors: list[BaseException] = []
    counter = iter(range(1, 10**9))
    lock = threading.Lock()

    def change(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                with lock:
                    version = next(counter)
                    id = b"%d" % rng.integers(200)
                    if rng.random() < 0.3:
                        index.remove(id, version)
                    else:
                        vector = np.full(64, version % 1000, "f4")
                        index.put(
                            id, version, vector, encoded({"n": version % 10}), b"%d" % (version % 3)
                        )
                if rng.random() < 0.001:
                    for each in range(200):
                        with lock:
                            index.remove(b"%d" % each, next(counter))
        except BaseException as error:
            errors.append(error)

    def search() -> None:
        try:
            while not stop.is_set():
                for where in (None, Field("n") < 3, Field("n") != 5):
                    found = index.search(np.zeros(64), 300, where=where)
                    assert len({id for id, _, _ in found}) == len(found)
                    for _, version, distance in found:
                        assert distance == version % 1000 * 8
                        assert where is None or where.matches({"n": version % 10})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(seed,)) for seed in range(2)]
    threads += [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(1 for _ in index.listed(where=And(()))) == len(index)


def test_a_product_is_made_in_the_way_that_takes_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((3001, 200), dtype="f4")
    query = rng.standard_normal(200, dtype="f4")
    times = iter([0, 9, *([0, 1] * 62), 0, 9, *([0, 1] * 63), *([0, 0.01] * 128)])
    monkeypatch.setattr(distances, "perf_counter", lambda: next(times))
    ways: list[str] = []
    blocks = distances._by_blocks
    monkeypatch.setattr(distances, "_by_blocks", lambda *a: (ways.append("b"), blocks(*a))[1])
    product = distances.Product()
    for turn in range(1, 129):
        assert np.abs(product(matrix, query) - matrix.astype(float) @ query).max() < 1e-4
        if len(ways) < turn:
            ways.append("w")
    assert "".join(ways) == "w" + "b" * 62 + "w" + "b" * 63 + "w"


def test_a_row_that_is_read_is_not_given_out() -> None:
    slots = Slots()
    assert [slots.take() for _ in range(3)] == [0, 1, 2]
    slots.give(1)
    assert slots.take() == 1
    first = slots.enter()
    slots.give(0)
    second = slots.enter()
    slots.give(2)
    assert slots.take() == 3
    slots.leave(first)
    assert slots.take() == 0  # the second began after that was left
    assert slots.take() == 4
    slots.leave(second)
    third = slots.enter()
    assert slots.take() == 2
    slots.leave(third)
    assert slots.used == 5
