"""Heads: monotone whatever they are fitted to, read back as written, found by model name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.features import FEATURES, features
from redis_tiered.llm_cache.semantic.head import Head, fit_head, rules, shipped_head, sigmoid
from redis_tiered.llm_cache.semantic.neighbour import Neighbour

SIZE = len(FEATURES)


def fitted_to_noise(seed: int, *, against: bool) -> Head:
    """Features of random neighbourhoods; labels at random, or falling with the cosine."""
    random = np.random.default_rng(seed)
    x, y = [], []
    for _ in range(120):
        cosines = np.sort(random.uniform(0.3, 1.0, 6))[::-1]
        near = [Neighbour("", float(c), str(random.integers(3)), "") for c in cosines]
        x.append(features(near, int(random.integers(3))))
        y.append(bool(random.random() < (1.0 - x[-1][0] if against else 0.5)))
    return fit_head(x, [*y[:-2], True, False], model="m", l2=0.1)


HEADS = [
    *(fitted_to_noise(seed, against=against) for seed in range(6) for against in (False, True)),
    shipped_head("all-MiniLM-L6-v2"),
]


@settings(max_examples=300)
@given(
    st.sampled_from(HEADS),
    st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from("ab")), min_size=1, max_size=10),
    st.integers(0, 9),
    st.floats(0.0, 1.0),
)
def test_raising_a_candidates_own_cosine_never_lowers_its_probability(
    head: Head, rows: list[tuple[float, str]], at: int, raised: float
) -> None:
    at %= len(rows)
    mine = rows[at]

    def logit(cosine: float) -> float:
        near = [Neighbour(f"e{i}", c, answer, "") for i, (c, answer) in enumerate(rows) if i != at]
        near.append(Neighbour("mine", cosine, mine[1], ""))
        near.sort(key=lambda one: -one.cosine)
        index = next(i for i, one in enumerate(near) if one.entry == "mine")
        return head.logit(features(near, index))

    low, high = sorted((mine[0], raised))
    assert logit(high) >= logit(low) - 1e-9


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_a_head_keeps_the_rules(head: Head) -> None:
    assert (rules() @ np.array(head.weights)).min() >= 0.0


def test_a_fit_finds_the_weights_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(20_000, SIZE))
    true = np.array([2.0, 0.5, 0.5, 0.5, 1.5, -0.5, 1.0, 0.7, -1.0, -1.2, 0.4])
    y = random.random(len(x)) < 1 / (1 + np.exp(-(x @ true - 0.3)))
    head = fit_head(x, y, model="m", l2=0.01)
    assert head.weights == pytest.approx(true, abs=0.12)
    assert head.bias == pytest.approx(-0.3, abs=0.08)


def test_weighted_examples_count_like_repeated_ones() -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(200, SIZE)), random.random(200) < 0.5
    counts = random.integers(1, 4, 200)
    once = fit_head(x, y, model="m", l2=0.0001, weights=counts)
    often = fit_head(np.repeat(x, counts, axis=0), np.repeat(y, counts), model="m", l2=0.0001)
    assert once.weights == pytest.approx(often.weights, abs=0.02)


def test_a_head_reads_back_as_written() -> None:
    head = HEADS[0]
    assert head is not None
    assert Head.from_dict(json.loads(json.dumps(head.as_dict()))) == head


@pytest.mark.parametrize(
    "broken",
    [
        {"version": 99},
        {"weights": {"cosine": 1.0}},
        {"weights": None},
        {"bias": math.nan},
        {"bias": "high"},
        {"trained_on": None},
    ],
    ids=["version", "few", "none", "nan", "text", "count"],
)
def test_what_is_no_head_is_refused(broken: dict[str, object]) -> None:
    head = HEADS[0]
    assert head is not None
    with pytest.raises(InvalidInput):
        Head.from_dict(head.as_dict() | broken)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, SIZE)), [True] * 4),
        (np.zeros((4, 3)), [True, False] * 2),
        (np.full((4, SIZE), np.nan), [True, False] * 2),
        (np.zeros((4, SIZE)), [True, False]),
        (np.zeros((0, SIZE)), []),
    ],
    ids=["one_class", "few_features", "nan", "few_labels", "empty"],
)
def test_examples_that_cannot_be_fitted_are_refused(x: object, y: object) -> None:
    with pytest.raises(InvalidInput):
        fit_head(x, y, model="m")


@pytest.mark.parametrize(
    "name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", " ALL-minilm-l6-V2 "]
)
def test_a_shipped_head_is_found_by_any_spelling(name: str) -> None:
    assert shipped_head(name) == shipped_head("all-MiniLM-L6-v2") is not None


def test_a_model_without_a_head_has_none() -> None:
    assert shipped_head("text-embedding-3-small") is None


@pytest.mark.parametrize(("logit", "p"), [(0.0, 0.5), (1e300, 1.0), (-1e300, 0.0)])
def test_a_probability_never_overflows(logit: float, p: float) -> None:
    assert sigmoid(logit) == pytest.approx(p, abs=1e-9)


def test_nan_is_never_probable() -> None:
    assert sigmoid(math.nan) == 0.0
