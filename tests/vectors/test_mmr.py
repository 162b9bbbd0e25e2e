"""Maximal marginal relevance against its definition and against LangChain's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from redis_tiered.vectors.mmr import mmr

NUMBERS = st.integers(-3, 3).map(float) | st.floats(-10, 10, width=32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A query and vectors, among them zeros and vectors that are there more than once."""
    dims = draw(st.integers(1, 5))
    some = draw(arrays.arrays(np.float32, (draw(st.integers(1, 5)), dims), elements=NUMBERS))
    which = draw(st.lists(st.integers(0, len(some) - 1), max_size=12))
    return draw(arrays.arrays(np.float32, dims, elements=NUMBERS)), some[which]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    norms = np.sqrt((a * a).sum()), np.sqrt((b * b).sum())
    # In the order of operations of the code, so that the same ties are found.
    return float((a / (norms[0] or 1) * (b / (norms[1] or 1))).sum())


def by_definition(query: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> list[int]:
    chosen: list[int] = []
    for _ in range(min(k, len(vectors))):
        best, best_worth = -1, -np.inf
        for i in range(len(vectors)):
            if i in chosen:
                continue
            relevance = cosine(vectors[i], query)
            redundancy = max((cosine(vectors[i], vectors[j]) for j in chosen), default=0.0)
            worth = weight * relevance - (1 - weight) * redundancy if chosen else relevance
            if worth > best_worth:
                best, best_worth = i, worth
        chosen.append(best)
    return chosen


@given(cases(), st.integers(0, 14), st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1))
def test_it_is_the_definition(case: tuple[np.ndarray, np.ndarray], k: int, weight: float) -> None:
    query, vectors = case
    assert mmr(query, vectors, k, weight) == by_definition(query, vectors, k, weight)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_it_is_what_langchain_has(weight: float) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 8))
    query = rng.standard_normal(8)
    theirs = maximal_marginal_relevance(query, vectors.tolist(), weight, 20)
    assert mmr(query, vectors, 20, weight) == theirs


def test_only_relevance_is_the_order_of_similarity() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [1, 0.2]])
    assert mmr([1, 0], vectors, 4, 1.0) == [0, 1, 3, 2]


def test_the_first_is_the_most_relevant_even_if_relevance_does_not_count() -> None:
    assert mmr([1, 0], np.array([[0, 1], [1, 0], [-1, 0]]), 2, 0.0) == [1, 2]


def test_a_copy_comes_last() -> None:
    assert mmr([1, 0], np.array([[1, 0], [1, 0], [0.5, 0.5]]), 3, 0.4) == [0, 2, 1]


def test_of_nothing_nothing_is_chosen() -> None:
    assert mmr([1.0, 0.0], np.zeros((0, 2)), 3, 0.5) == []
    assert mmr([1.0, 0.0], np.ones((2, 2)), 0, 0.5) == []


def test_zeros_are_like_nothing() -> None:
    assert mmr([0, 0], np.array([[0, 0], [1, 0]]), 2, 0.5) == [0, 1]
