"""What a calibration of a log and one of pairs have in common: what is wanted, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from redis_tiered.errors import InvalidInput, NotEnoughData
from redis_tiered.llm_cache.semantic.head import Head, fit_head
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Metric, Point
from redis_tiered.llm_cache.semantic.tools.choosing import Tally, lacking
from redis_tiered.llm_cache.semantic.tools.intervals import interval, needed, tail, upper
from redis_tiered.llm_cache.semantic.tools.log import Log, Pairs

__all__ = ["FEWEST", "FIT", "Plan", "fitted_head", "result"]

FIT = 0.4  # of a log, or of pairs; the rest tests, for proof needs more than fitting
_FEW = 1_000  # examples under which the penalty is heavier
FEWEST = 5  # examples of each class that a head can be fitted to


@dataclass
class Plan:
    """What is wanted, and the warnings so far."""

    target: float
    metric: Metric
    confidence: float
    random: np.random.Generator
    guard: Any
    guard_name: str

    def __post_init__(self) -> None:
        self.warnings: list[str] = []

    def consistent(self, known: Log | Pairs) -> None:
        """Warn of contradictions; refuse those that the target does not allow."""
        unit = "prompts" if isinstance(known, Log) else "pairs"
        if known.empty:
            self.warnings.append(f"{known.empty:,} items without text were left out")
        if not known.contradicting:
            return
        what = "carry more than one answer" if isinstance(known, Log) else "contradict others"
        examples = "; ".join(f'"{example:.60}"' for example in known.examples)
        said = f"{known.contradicting:,} {unit} ({known.contradiction:.2%}) {what}, as {examples}"
        if known.contradiction > self.target:
            raise InvalidInput(
                f"data contradicts itself: {said}; a target of {self.target:.2%} cannot be "
                f"measured with it. Correct these, or allow more than {known.contradiction:.2%}"
            )
        self.warnings.append(said)

    def enough(self, tested: float, share: float, unit: str) -> None:
        """Refuse at once what could not be proven even if nothing was wrong.

        Args:
            tested: how many independent observations are held out.
            share: how many of them one more of `unit` would add.
        """
        if tested < (needed(self.target, self.confidence) or 0):
            tested = max(tested, 1.0)
            raise self.lacking([Tally(0.0, tested)], share / tested, unit)

    def lacking(self, tallies: Sequence[Tally], share: float, unit: str) -> NotEnoughData:
        """Why no threshold is proven, and what the one that needs least would need.

        Args:
            tallies: of held-out data, at each threshold.
            share: how much of `total` one more of `unit` adds, for each that is there.
        """
        found = [
            lacking(
                tally,
                self.target,
                self.confidence,
                per_unit=share * tally.total,
                unit=unit,
                metric=self.metric,
            )
            for tally in tallies
            # one that is proven, behind one that is not, came too late in the sequence
            if tail(tally.wrong, tally.total, self.target) > 1.0 - self.confidence
        ]
        return min(found, key=lambda error: math.inf if error.more is None else error.more)


def fitted_head(x: Any, y: Sequence[bool], name: str) -> Head:
    right = int(np.sum(y))
    if min(right, len(y) - right) < FEWEST:
        what = "right" if right < FEWEST else "wrong"
        raise NotEnoughData(
            f"there are {right} right and {len(y) - right} wrong examples to learn from; at least "
            f"{FEWEST} {what} ones are needed: prompts that are near each other and have "
            f"{'the same answer' if what == 'right' else 'different answers'}"
        )
    return fit_head(x, y, model=name, l2=1.0 / 0.3 if len(y) >= _FEW else 1.0 / 0.1)


def result(
    plan: Plan,
    *,
    head: Head,
    thresholds: Sequence[float],
    chosen: int,
    tallies: Sequence[Tally],
    hit_rates: Sequence[float],
    filled: float,
    wrong: int,
    expected: float,
    source: str,
    trained_on: int,
    tested_on: int,
    unseen: dict[str, int],
) -> Calibration:
    points = []
    for theta, tally, hit_rate in zip(thresholds, tallies, hit_rates, strict=True):
        low, high = interval(tally.wrong, tally.total, plan.confidence)
        points.append(Point(theta, hit_rate, tally.wrong / max(tally.total, 1e-9), low, high))
    point, tally = points[chosen], tallies[chosen]
    if point.hit_rate < 0.01:
        plan.warnings.append(
            f"only {point.hit_rate:.2%} are served: the embedding model hardly tells right from wrong here"
        )
    return Calibration(
        model=head.model,
        head=head,
        theta=point.theta,
        target_error=plan.target,
        metric=plan.metric,
        confidence=plan.confidence,
        guard=plan.guard_name,
        source=source,
        trained_on=trained_on,
        tested_on=tested_on,
        independent=tally.total,
        hit_rate=point.hit_rate,
        hit_rate_filled=filled,
        wrong=wrong,
        expected=expected,
        wrong_rate=point.rate,
        upper=upper(tally.wrong, tally.total, plan.confidence),
        interval=(point.low, point.high),
        unseen=unseen,
        curve=tuple(points),
        warnings=tuple(plan.warnings),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
