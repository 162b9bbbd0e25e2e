"""What a count of wrong answers says about their rate: exact binomial intervals, and how many are needed.

Clopper and Pearson (1934): the bounds are quantiles of beta distributions, found here by bisection
on the regularised incomplete beta function. They hold at every sample size and at no errors at all,
where a normal approximation would claim certainty. Counts may be fractions, for samples whose
members belong together count for less than as many independent ones (`effective`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["beta_cdf", "effective", "interval", "lower", "needed", "tail", "upper"]

_TINY = 1e-300
_STEPS = 200_000
_MOST = 1 << 40


def beta_cdf(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), a and b > 0, x from 0 to 1.

    Its continued fraction by Lentz's method (Numerical Recipes, 6.4), on the side where it
    converges fast.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c = 1.0
    d = 1.0 / _kept(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _kept(1.0 + even * d)
        c = _kept(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _kept(1.0 + odd * d)
        c = _kept(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < 1e-13:
            break
    return value


def _kept(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def tail(wrong: float, count: float, rate: float) -> float:
    """P(at most `wrong` of `count`) if each is wrong with probability `rate`: the p-value of "more"."""
    if wrong >= count:
        return 1.0
    return 1.0 - beta_cdf(wrong + 1.0, count - wrong, rate)


def upper(wrong: float, count: float, confidence: float = 0.95) -> float:
    """The rate that is exceeded with at most probability 1 - confidence; 1.0 if nothing was counted."""
    if wrong >= count:
        return 1.0
    return _quantile(wrong + 1.0, count - wrong, confidence)


def lower(wrong: float, count: float, confidence: float = 0.95) -> float:
    """The rate that is undercut with at most probability 1 - confidence."""
    if wrong <= 0 or count <= 0:
        return 0.0
    return _quantile(min(wrong, count), max(count - wrong, 0.0) + 1.0, 1.0 - confidence)


def interval(wrong: float, count: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided: half of what may fail on either side."""
    side = (1.0 + confidence) / 2.0
    return lower(wrong, count, side), upper(wrong, count, side)


def _quantile(a: float, b: float, probability: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if high - low <= 1e-12 * high:
            break
        if beta_cdf(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def needed(target: float, confidence: float = 0.95, rate: float = 0.0) -> int | None:
    """How many must be seen until `upper` is at most `target`, if `rate` of them stay wrong.

    None: no number suffices, for the rate is the target or more. With a rate of 0 this is
    ln(1 - confidence) / ln(1 - target), rounded up: 299 for 1 % at 95 %.
    """
    if rate >= target:
        return None
    if rate <= 0.0:
        return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-target) - 1e-9))
    high = 16
    while upper(rate * high, high, confidence) > target:
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        if upper(rate * middle, middle, confidence) > target:
            low = middle
        else:
            high = middle
    return high


def effective(sizes: Iterable[float]) -> float:
    """Kish's effective number of groups, (sum of m)^2 / sum of m^2.

    What members of a group share may make all of them wrong at once; in the worst case a group
    tells as much as one observation. Groups of one count in full.
    """
    total = squares = 0.0
    for size in sizes:
        total += size
        squares += size * size
    return total * total / squares if squares else 0.0
