"""The eleven numbers of a neighbourhood, checked against their definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.llm_cache.semantic.features import FEATURES, features, leading
from redis_tiered.llm_cache.semantic.neighbour import Neighbour

COSINES = st.floats(-1.0, 1.0, width=32)
HOODS = st.lists(st.tuples(COSINES, st.sampled_from("abc")), min_size=1, max_size=10).map(
    lambda rows: hood(*sorted(rows, reverse=True))
)


def hood(*rows: tuple[float, str]) -> list[Neighbour]:
    return [Neighbour(f"e{at}", cosine, answer, "") for at, (cosine, answer) in enumerate(rows)]


def named(neighbours: list[Neighbour], index: int) -> dict[str, float]:
    return dict(zip(FEATURES, features(neighbours, index), strict=True))


def defined(neighbours: list[Neighbour], index: int) -> dict[str, float]:
    """Slowly, straight from the definition."""
    mine, rest = neighbours[index], [one for at, one in enumerate(neighbours) if at != index]
    c, first = mine.cosine, neighbours[0].cosine
    others = [one.cosine for one in neighbours if one.answer != mine.answer]
    fallback = c - rest[-1].cosine + 0.05 if rest else 0.05
    weights = [math.exp(25 * (one.cosine - first)) for one in neighbours]
    own = [one.answer == mine.answer for one in neighbours]
    return {
        "cosine": c,
        "over80": max(0.0, c - 0.8),
        "over90": max(0.0, c - 0.9),
        "over95": max(0.0, c - 0.95),
        "margin": c - max(others) if others else fallback,
        "no_other": float(not others),
        "share": sum(w for w, yes in zip(weights, own, strict=True) if yes) / sum(weights),
        "agree": sum(own) / len(own),
        "top1": c - first,
        "gap": first - neighbours[1].cosine if rest else 0.3,
        "density": rest[-1].cosine if rest else 0.0,
    }


@given(HOODS, st.integers(0, 9))
def test_every_number_is_as_defined(neighbours: list[Neighbour], index: int) -> None:
    index %= len(neighbours)
    assert named(neighbours, index) == pytest.approx(defined(neighbours, index), abs=1e-9)


@given(HOODS)
def test_several_candidates_get_what_each_gets_alone(neighbours: list[Neighbour]) -> None:
    every = range(len(neighbours))
    assert leading(neighbours, every) == [features(neighbours, index) for index in every]


def test_a_candidate_between_two_answers() -> None:
    near = hood((0.93, "a"), (0.90, "b"), (0.60, "a"))
    found = named(near, 0)
    assert found["margin"] == pytest.approx(0.03)
    assert found["agree"] == pytest.approx(2 / 3)
    assert found["over90"] == pytest.approx(0.03)
    assert found["gap"] == pytest.approx(0.03)
    assert found["no_other"] == 0.0
    assert named(near, 1)["margin"] == pytest.approx(-0.03)


def test_a_candidate_alone() -> None:
    assert named(hood((0.7, "a")), 0) | {"cosine": 0.7} == {
        "cosine": 0.7,
        "over80": 0.0,
        "over90": 0.0,
        "over95": 0.0,
        "margin": 0.05,
        "no_other": 1.0,
        "share": 1.0,
        "agree": 1.0,
        "top1": 0.0,
        "gap": 0.3,
        "density": 0.0,
    }
