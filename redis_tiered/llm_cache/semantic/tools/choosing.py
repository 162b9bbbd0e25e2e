"""Which threshold held-out data allow: the loosest that tests have shown to be within the target.

Fixed-sequence testing (Bauer 1991; for thresholds: "Learn then Test", arXiv 2110.01052). In an order
that was fixed before the held-out data were looked at, each threshold's hypothesis "wrong more often
than the target" is tested by the exact binomial tail at level 1 - confidence; the first that cannot be
rejected ends it, and the last rejected is chosen. To choose wrongly, the first true hypothesis of the
order must be rejected, which happens with at most 1 - confidence: trying many thresholds costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from redis_tiered.errors import NotEnoughData
from redis_tiered.llm_cache.semantic.tools.intervals import lower, needed, tail

__all__ = ["Tally", "choose", "easiest", "lacking"]


class Tally(NamedTuple):
    """What one threshold did.

    Attributes:
        wrong: wrong answers served, of `total`.
        total: requests, or hits; a fraction where what was counted belongs together.
    """

    wrong: float
    total: float


def easiest(seen: Sequence[Tally], totals: Sequence[float], target: float) -> int:
    """Where to begin: the threshold that looks easiest to prove.

    Args:
        seen: of data that `choose` does not see, strictest threshold first.
        totals: of the held-out data; how many of these were wrong is not looked at.
    """
    likely = []
    for one, total in zip(seen, totals, strict=True):
        rate = (one.wrong + 1.0) / (one.total + 1.0)  # what was seen little of is not trusted
        likely.append(tail(rate * total, total, target))
    return likely.index(min(likely))


def choose(
    tallies: Sequence[Tally], target: float, confidence: float, *, start: int = 0
) -> int | None:
    """Index of the loosest threshold that is proven; None: not even the first is.

    Args:
        tallies: of held-out data, strictest threshold first.
        start: where the sequence begins; what comes before is not tried.
    """
    chosen = None
    for index in range(start, len(tallies)):
        if tail(tallies[index].wrong, tallies[index].total, target) > 1.0 - confidence:
            break
        chosen = index
    return chosen


def lacking(
    tally: Tally, target: float, confidence: float, *, per_unit: float, unit: str, metric: str
) -> NotEnoughData:
    """Why nothing was chosen, and how much more would do.

    Args:
        tally: of one threshold.
        per_unit: how much one more prompt or pair adds to `tally.total`, on average.
        unit: `"prompts"` or `"pairs"`.
        metric: `"requests"` or `"hits"`: what `tally.total` counts.
    """
    if not tally.total:
        return NotEnoughData("nothing is near enough to anything to be served at any threshold")
    rate = tally.wrong / tally.total
    if rate >= target:  # it may be bad luck; then the true rate is as low as the data let it be
        rate = lower(tally.wrong, tally.total, confidence)
    wanted = needed(target, confidence, rate)
    what = "held-out requests" if metric == "requests" else "held-out hits"
    seen = f"at the threshold that comes closest, {tally.wrong:.0f} of {tally.total:,.0f} {what} were wrong"
    if wanted is None:
        return NotEnoughData(
            f"no threshold keeps wrong answers within {target:.2%}: {seen}, and more {unit} of this "
            "sort would not change that; allow more errors, or use a better embedding model"
        )
    more = max(1, math.ceil((wanted - tally.total) / max(per_unit, 1e-3)))
    return NotEnoughData(
        f"this cannot show that at most {target:.2%} are wrong, at {confidence:.0%} confidence: "
        f"{seen}, and about {wanted:,} are needed to tell; it needs about {_rounded(more):,} more {unit}",
        _rounded(more),
    )


def _rounded(number: int) -> int:
    """Up, to two digits: more would claim to know."""
    unit = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // unit) * unit
