"""Approximate search: how much it finds, and that what it finds is right after changes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from redis_tiered.errors import MissingExtra
from redis_tiered.values import Writer
from redis_tiered.vectors import ann
from redis_tiered.vectors.document import METRICS, Metric
from redis_tiered.vectors.filters import Field
from redis_tiered.vectors.index import Index

pytest.importorskip("faiss")

DIMS, ROWS = 32, 2500
FIELDS = [Writer().dumped({"n": n}) for n in range(10)]


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    centres = np.random.default_rng(7).standard_normal((60, DIMS))
    made = centres[rng.integers(60, size=count)] + 0.3 * rng.standard_normal((count, DIMS))
    return made.astype("f4")


class Pair:
    """An approximate index and an exact one that are told the same."""

    def __init__(self, metric: Metric = "cosine") -> None:
        self.rng = np.random.default_rng(1)
        self.near = Index(DIMS, metric, approximate=True, crossover=ROWS * DIMS // 2)
        self.exact = Index(DIMS, metric)
        self.version = 0

    def put(self, ids: list[int]) -> None:
        vectors = clustered(self.rng, len(ids))
        if self.near.metric == "ip":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.version += 1
        for index in (self.near, self.exact):
            index.put_many(
                [b"%d" % id for id in ids],
                [self.version] * len(ids),
                vectors,
                [FIELDS[id % 10] for id in ids],
                [b""] * len(ids),
                [1000 if id % 50 == 0 else None for id in ids],
            )

    def remove(self, ids: list[int]) -> None:
        self.version += 1
        for id in ids:
            self.near.remove(b"%d" % id, self.version)
            self.exact.remove(b"%d" % id, self.version)

    def recall(self, queries: int = 20, k: int = 10, **options: object) -> float:
        """The share of the nearest that is found; what is found is right."""
        hit = 0
        for query in clustered(np.random.default_rng(5), queries):
            found = self.near.search(query, k, **options)  # type: ignore[arg-type]
            expected = self.exact.search(query, None, **options)  # type: ignore[arg-type]
            assert len(found) == min(k, len(expected))
            assert set(found) <= set(expected)
            assert found == sorted(found, key=lambda each: (each[2], each[0]))
            hit += len(set(found) & set(expected[:k]))
        return hit / (k * queries)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each search that came to a graph, whether it was answered by that."""
    answers: list[bool] = []
    original = ann.Neighbours.nearest

    def nearest(self: ann.Neighbours, *arguments: object) -> object:
        found = original(self, *arguments)  # type: ignore[arg-type]
        answers.append(found is not None)
        return found

    monkeypatch.setattr(ann.Neighbours, "nearest", nearest)
    return answers


@pytest.mark.parametrize("metric", METRICS)
def test_most_of_the_nearest_are_found_before_and_after_changes(
    metric: Metric, asked: list[bool]
) -> None:
    pair = Pair(metric)
    assert not pair.near.needs_build
    pair.put(list(range(ROWS)))
    assert pair.near.needs_build
    assert pair.recall(5) == 1.0  # there is no graph yet
    assert pair.near.build_ann()
    assert not pair.near.needs_build
    assert pair.recall() >= 0.95
    pair.put(list(range(100)))
    pair.remove(list(range(200, 300)))
    pair.put(list(range(ROWS, ROWS + 100)))
    assert not pair.near.needs_build
    assert pair.recall() >= 0.95
    assert pair.recall(where=Field("n") < 8, now=1000) >= 0.95
    assert all(asked)
    pair.put(list(range(300, 500)))
    assert pair.near.needs_build
    assert pair.near.build_ann()
    assert not pair.near.needs_build
    assert pair.recall() >= 0.95
    assert all(asked)


def test_what_was_put_since_is_always_found(asked: list[bool]) -> None:
    pair = Pair("l2")
    pair.put(list(range(ROWS)))
    pair.near.build_ann()
    for i in range(20):
        vector = clustered(pair.rng, 1)[0]
        pair.near.put(b"%d" % i, 10 + i, vector, FIELDS[0])
        assert pair.near.search(vector, 1) == [(b"%d" % i, 10 + i, 0.0)]
        pair.near.remove(b"%d" % i, 100 + i)
        assert pair.near.search(vector, 1)[0][0] != b"%d" % i
    assert asked == [True] * 40


def test_where_few_come_into_question_or_many_are_wanted_the_search_is_exact(
    asked: list[bool],
) -> None:
    pair = Pair()
    pair.put(list(range(ROWS)))
    pair.near.build_ann()
    assert pair.recall(where=Field("n") == 3) == 1.0
    assert pair.recall(ids=[b"%d" % i for i in range(30)]) == 1.0
    assert pair.recall(5, k=1500) == 1.0
    assert not any(asked)
    asked.clear()
    assert pair.recall(5, k=10, max_distance=2.0) == 1.0
    assert not asked


def test_a_graph_is_built_beside_changes() -> None:
    pair = Pair("l2")
    pair.put(list(range(ROWS)))
    built: list[bool] = []
    thread = threading.Thread(target=lambda: built.append(pair.near.build_ann()))
    thread.start()
    changes = 0
    while thread.is_alive() and changes < 200:
        changes += 1
        pair.put([changes, ROWS + changes])
        pair.remove([1000 + changes])
    thread.join()
    assert built == [True]
    assert pair.recall() >= 0.95


def test_a_graph_of_what_was_cleared_or_packed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("l2")
    pair.put(list(range(ROWS)))
    original = ann.Graph.__init__
    meanwhile = [
        lambda: pair.near.build_ann(),  # only one builds
        pair.near.clear,
        lambda: pair.remove(list(range(ROWS - 10))),
    ]

    def slow(self: ann.Graph, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        answers.append(meanwhile.pop(0)())

    monkeypatch.setattr("redis_tiered.vectors.ann.Graph.__init__", slow)
    answers: list[object] = []
    assert pair.near.build_ann()
    assert answers == [False]
    assert not pair.near.build_ann()
    assert len(pair.near) == 0
    assert not pair.near.build_ann()
    pair.put(list(range(ROWS)))
    assert not pair.near.build_ann()
    assert pair.recall(5, k=3) == 1.0
    assert len(pair.near) == 10
    assert not pair.near.needs_build


def test_a_failure_while_building_leaves_things_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    pair.put(list(range(ROWS)))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("redis_tiered.vectors.ann.Graph.__init__", fail)
        with pytest.raises(MemoryError):
            pair.near.build_ann()
    assert pair.near.needs_build
    assert pair.near.build_ann()


def test_the_graph_counts_as_memory() -> None:
    pair = Pair()
    pair.put(list(range(ROWS)))
    before = pair.near.bytes
    pair.near.build_ann()
    assert pair.near.bytes - before > ROWS * (4 * DIMS + 128)


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"approximate search .*redis-tiered\[ann\]"):
        Index(2, "l2", approximate=True)
    index = Index(2, "l2")
    with pytest.raises(MissingExtra):
        index.build_ann()
    index.put(b"a", 1, [1.0, 2.0], FIELDS[0])
    assert index.search([1.0, 2.0], 1) == [(b"a", 1, 0.0)]
