"""Exact binomial intervals, and the choice of a threshold that rests on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import NotEnoughData
from redis_tiered.llm_cache.semantic.tools.choosing import Tally, choose, easiest, lacking
from redis_tiered.llm_cache.semantic.tools.intervals import (
    beta_cdf,
    effective,
    interval,
    lower,
    needed,
    tail,
    upper,
)

# scipy 1.17: stats.beta.ppf(confidence, k + 1, n - k) and stats.beta.ppf(1 - confidence, k, n - k + 1)
KNOWN = [
    (0, 299, 0.95, 0.009969146792899269, 0.0),
    (1, 10, 0.95, 0.39416330243650466, 0.005116196891823705),
    (3, 500, 0.99, 0.019949168309566646, 0.0008734576171063989),
    (17, 1000, 0.9, 0.02352798717892324, 0.012000367778929148),
    (120, 6542, 0.95, 0.021313579990998466, 0.01569813970190297),
    (2.5, 812.25, 0.95, 0.008635229193032496, 0.0007055283660850053),
]


@pytest.mark.parametrize(("wrong", "count", "confidence", "high", "low"), KNOWN)
def test_bounds_are_those_of_scipy(
    wrong: float, count: float, confidence: float, high: float, low: float
) -> None:
    assert upper(wrong, count, confidence) == pytest.approx(high, rel=1e-9)
    assert lower(wrong, count, confidence) == pytest.approx(low, rel=1e-9)


def test_tails_are_those_of_scipy() -> None:
    assert tail(3, 500, 0.01) == pytest.approx(0.26361558813659336, rel=1e-9)
    assert tail(60, 6500, 0.01) == pytest.approx(0.2922172139632087, rel=1e-9)
    assert beta_cdf(2.5, 7.25, 0.3) == pytest.approx(0.6604822735819071, rel=1e-9)
    assert (beta_cdf(2, 3, 0.0), beta_cdf(2, 3, 1.0)) == (0.0, 1.0)


def test_bounds_hold_when_nothing_or_everything_is_wrong() -> None:
    assert upper(0, 0) == upper(5, 5) == tail(5, 5, 0.3) == 1.0
    assert lower(0, 100) == lower(0, 0) == 0.0
    assert interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.floats(0.5, 0.999))
def test_an_interval_holds_what_was_seen(count: int, share: float, confidence: float) -> None:
    wrong = round(share * count)
    low, high = interval(wrong, count, confidence)
    assert 0.0 <= low <= wrong / count <= high <= 1.0
    assert high >= upper(wrong, count, confidence) - 1e-12


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("count", [20, 150])
def test_a_bound_fails_no_oftener_than_it_says(rate: float, count: int) -> None:
    failing = [
        math.comb(count, wrong) * rate**wrong * (1 - rate) ** (count - wrong)
        for wrong in range(count + 1)
        if upper(wrong, count, 0.95) < rate
    ]
    assert sum(failing) <= 0.05


@given(st.floats(0.002, 0.3), st.floats(0.6, 0.99))
def test_as_many_are_needed_as_just_suffice(target: float, confidence: float) -> None:
    count = needed(target, confidence)
    assert count is not None
    assert upper(0, count, confidence) <= target * (1 + 1e-9)
    assert count == 1 or upper(0, count - 1, confidence) > target


def test_more_are_needed_where_some_are_wrong_and_none_suffice_where_too_many_are() -> None:
    assert needed(0.01) == 299
    some = needed(0.01, 0.95, 0.005)
    assert some is not None
    assert 1_000 < some < 1_300
    assert upper(0.005 * some, some, 0.95) <= 0.01
    assert needed(0.01, 0.95, 0.01) is None


def test_members_of_a_group_count_as_one_at_the_worst() -> None:
    assert effective([1] * 10) == 10
    assert effective([5, 5]) == 2
    assert effective([9, 1]) == pytest.approx(100 / 82)
    assert effective([]) == 0


def test_the_loosest_threshold_before_the_first_failure_is_chosen() -> None:
    tallies = [Tally(0, 400), Tally(0, 400), Tally(20, 400), Tally(0, 400)]
    assert choose(tallies, 0.01, 0.95) == 1
    assert choose(tallies, 0.01, 0.95, start=3) == 3
    assert choose(tallies[2:], 0.01, 0.95) is None


def test_the_sequence_begins_where_other_data_promise_most() -> None:
    seen = [Tally(0, 5), Tally(0, 800), Tally(90, 1000)]
    assert easiest(seen, [600, 900, 1200], 0.02) == 1
    assert easiest(seen, [0, 0, 0], 0.02) == 0


@pytest.mark.parametrize("metric", ["requests", "hits"])
def test_choosing_among_many_thresholds_costs_nothing(metric: str) -> None:
    """What was chosen exceeds the target in at most a share 1 - confidence of the samples."""
    random = np.random.default_rng(3)
    target, confidence, count, samples = 0.05, 0.9, 400, 700
    levels = np.linspace(0.98, 0.3, 35)
    # p is uniform, and the answer is wrong with probability 0.8 (1 - p): the head promises too much
    true_wrong = 0.4 * (1.0 - levels) ** 2
    true = true_wrong if metric == "requests" else true_wrong / (1.0 - levels)
    start = 0 if metric == "requests" else 3
    exceeded = chosen_any = 0
    for _ in range(samples):
        p = random.random(count)
        bad = random.random(count) < 0.8 * (1.0 - p)
        served = p[None, :] >= levels[:, None]
        totals = np.full(len(levels), count) if metric == "requests" else served.sum(axis=1)
        wrong = (served & bad).sum(axis=1)
        tallies = [Tally(float(w), float(n)) for w, n in zip(wrong, totals, strict=True)]
        chosen = choose(tallies, target, confidence, start=start)
        if chosen is not None:
            chosen_any += 1
            exceeded += bool(true[chosen] > target)
    allowed = samples * (1.0 - confidence)
    assert exceeded <= allowed + 3.0 * math.sqrt(allowed * confidence)
    if metric == "requests":
        assert chosen_any == samples


def test_what_is_missing_is_told_in_prompts() -> None:
    error = lacking(Tally(0, 100), 0.01, 0.95, per_unit=0.5, unit="prompts", metric="requests")
    assert error.more == 400
    assert "needs about 400 more prompts" in str(error)
    some = lacking(Tally(2, 400), 0.01, 0.95, per_unit=1.0, unit="pairs", metric="hits")
    assert some.more is not None
    assert 700 <= some.more <= 900
    unlucky = lacking(Tally(1, 20), 0.01, 0.95, per_unit=1.0, unit="pairs", metric="hits")
    assert unlucky.more is not None
    hopeless = lacking(Tally(90, 400), 0.01, 0.95, per_unit=1.0, unit="pairs", metric="hits")
    assert isinstance(hopeless, NotEnoughData)
    assert hopeless.more is None
    nothing = lacking(Tally(0, 0), 0.01, 0.95, per_unit=0.0, unit="prompts", metric="hits")
    assert nothing.more is None
    assert "more pairs of this sort would not change that" in str(hopeless)
