"""Calibration from judged pairs: a curve over the cosine alone, tested on other components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.decision import Options
from redis_tiered.llm_cache.semantic.features import FEATURES
from redis_tiered.llm_cache.semantic.head import Head
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Metric
from redis_tiered.llm_cache.semantic.tools.choosing import Tally, choose, easiest
from redis_tiered.llm_cache.semantic.tools.fitting import rescaled
from redis_tiered.llm_cache.semantic.tools.intervals import effective
from redis_tiered.llm_cache.semantic.tools.log import Pairs
from redis_tiered.llm_cache.semantic.tools.plan import FEWEST, FIT, Plan, fitted_head, result
from redis_tiered.llm_cache.semantic.tools.sources import Watch, embedded

__all__ = ["from_pairs", "paired", "probabilities"]

_HUGE = 0.25  # share of the pairs that one component may have before it is kept out of the test
_BENDS = (0.8, 0.9, 0.95)
_COSINES = 1 + len(_BENDS)  # so many of the features, the first, are of the cosine alone
_NONE = -1.0


def from_pairs(plan: Plan, pairs: Pairs, embedder: Any, name: str, progress: object) -> Calibration:
    fit, test = _split(plan, pairs)
    count = len(pairs.left)
    independent = effective(np.bincount(pairs.component[test]))
    # were all pairs of components of their own, each new one would add this much
    plan.enough(independent, 1.0 - FIT, "pairs")
    cosines, vetoes = paired(pairs, embedder, plan.guard, "calibrate", progress)
    x = _bends(cosines)
    vetoed = np.array([reason is not None for reason in vetoes])
    fair = fit[~vetoed[fit]]  # what the guard refuses, the head need not know
    if min(pairs.same[fair].sum(), (~pairs.same[fair]).sum()) < FEWEST:
        fair = fit
    head = fitted_head(x[fair], pairs.same[fair].tolist(), name)
    weights = tuple(w if at < _COSINES else 0.0 for at, w in enumerate(head.weights))
    head = Head(name, weights, head.bias, len(fair))
    scores = probabilities(head, cosines)
    scores[(cosines < Options().floor) | vetoed] = _NONE
    levels = _levels(scores[fit])
    tallies = [_counted(plan.metric, pairs, scores, level, test) for level in levels]
    before = [_counted(plan.metric, pairs, scores, level, fit) for level in levels]
    start = 0
    if plan.metric == "hits":
        start = easiest(before, [one.total for one in tallies], plan.target)
    chosen = choose(tallies, plan.target, plan.confidence, start=start)
    if chosen is None:
        raise plan.lacking(tallies[start:], 1.0 / count, "pairs")
    served = scores[test] >= levels[chosen]
    hit_rates = [float((scores[test] >= level).mean()) for level in levels]
    rows = test[scores[test] >= 0.0]
    head, told = rescaled(head, scores[rows], pairs.same[rows])
    return result(
        plan,
        head=head,
        thresholds=[told(level) for level in levels],
        chosen=chosen,
        tallies=tallies,
        hit_rates=hit_rates,
        filled=hit_rates[chosen],
        wrong=int((served & ~pairs.same[test]).sum()),
        expected=sum(1.0 - told(p) for p in scores[test][served].tolist()),
        source="pairs",
        trained_on=len(fit),
        tested_on=len(test),
        unseen={},
    )


def _split(plan: Plan, pairs: Pairs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to fit and to test: whole components, in random order."""
    sizes = np.bincount(pairs.component)
    order = plan.random.permutation(len(sizes))
    largest = int(sizes.argmax())
    if sizes[largest] > _HUGE * len(pairs.left):
        plan.warnings.append(
            f"{sizes[largest]:,} of {len(pairs.left):,} pairs hang together by shared prompts; they "
            "were used for fitting only"
        )
        order = np.concatenate(([largest], order[order != largest]))
    fit = order[np.cumsum(sizes[order]) - sizes[order] < FIT * len(pairs.left)]
    inside = np.isin(pairs.component, fit)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def paired(
    pairs: Pairs, embedder: Any, guard: Any, title: str, progress: object
) -> tuple[NDArray[np.float64], list[str | None]]:
    """The cosine of each pair, and why a guard vetoes it."""
    texts = list(dict.fromkeys((*pairs.left, *pairs.right)))
    with Watch(progress, title, len(texts)) as watch:
        vectors = embedded(texts, None, embedder, watch.step)
    at = {text: row for row, text in enumerate(texts)}
    left = vectors[[at[text] for text in pairs.left]]
    right = vectors[[at[text] for text in pairs.right]]
    vetoes = [
        None if guard is None else guard(a, b) for a, b in zip(pairs.left, pairs.right, strict=True)
    ]
    return np.einsum("ij,ij->i", left, right, dtype=np.float64), vetoes


def _levels(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Thresholds, falling: one after each percent of the pairs that were fitted to."""
    served = np.sort(scores[scores >= 0.0])[::-1]
    every = max(1, len(scores) // 100)
    return tuple(sorted(set(served[every - 1 :: every].tolist()), reverse=True)) or (0.999,)


def _counted(
    metric: Metric,
    pairs: Pairs,
    scores: NDArray[np.float64],
    level: float,
    part: NDArray[np.int64],
) -> Tally:
    """Counts as so many independent observations as there are components, by Kish."""
    served = scores[part] >= level
    counted = part if metric == "requests" else part[served]
    if not len(counted):
        return Tally(0.0, 0.0)
    independent = effective(np.bincount(pairs.component[counted]))
    share = float((served & ~pairs.same[part]).sum()) / len(counted)
    return Tally(share * independent, independent)


def _bends(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features of candidates without a neighbourhood, (candidates, features): cosine only."""
    x = np.zeros((len(cosines), len(FEATURES)))
    x[:, 0] = cosines
    for column, bend in enumerate(_BENDS, 1):
        x[:, column] = np.maximum(0.0, cosines - bend)
    return x


def probabilities(head: Head, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of candidates of which nothing but the cosine is known."""
    return np.array([head.probability(row) for row in _bends(cosines).tolist()])
