"""Calibration from a log: the earlier part fits, the later part tests, as the live cache would serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.decision import Options
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Metric
from redis_tiered.llm_cache.semantic.tools.choosing import Tally, choose, easiest
from redis_tiered.llm_cache.semantic.tools.fitting import fitted, judge, rescaled
from redis_tiered.llm_cache.semantic.tools.intervals import lower, tail
from redis_tiered.llm_cache.semantic.tools.log import Log
from redis_tiered.llm_cache.semantic.tools.plan import FIT, Plan, result
from redis_tiered.llm_cache.semantic.tools.sources import Watch, embedded
from redis_tiered.llm_cache.semantic.tools.sweep import Sweep, sweep

__all__ = ["GRID", "from_log"]

GRID = (
    0.999, 0.998, 0.996, 0.994, 0.992, 0.99, 0.985, 0.98, 0.975, 0.97, 0.965, 0.96, 0.95, 0.94, 0.93,
    0.92, 0.91, 0.9, 0.885, 0.87, 0.85, 0.825, 0.8, 0.77, 0.74, 0.7, 0.65, 0.6, 0.5,
)  # fmt: skip
_UNSEEN = 0.2  # of the answers, kept from the fit
_SPARSE = 2.0  # prompts per answer under which a neighbourhood says little
_ORDERED = 20  # prompts under which an order means nothing


def from_log(
    plan: Plan,
    log: Log,
    given: NDArray[np.float32] | None,
    embedder: Any,
    name: str,
    progress: object,
) -> Calibration:
    log, given = _in_time(plan, log, given)
    count = len(log.prompts)
    fit = int(count * FIT)
    plan.enough(count - fit, 1.0 - FIT, "prompts")
    late = np.arange(fit, count)
    with Watch(progress, "calibrate", 2 * count + fit + len(late)) as watch:
        vectors = embedded(log.prompts, given, embedder, watch.step)
        kept_back = _unseen(log.answers, plan.random)
        head = fitted(
            log.part(np.arange(fit)),
            vectors[:fit],
            kept_back,
            guard=plan.guard,
            model=name,
            random=plan.random,
        )
        watch.step(fit)
        verdict = judge(plan.guard, head)
        filled = sweep(log, vectors, verdict, GRID, step=watch.step)
        empty = sweep(
            log.part(late), vectors[late], verdict, GRID, warmup=Options().warmup, step=watch.step
        )
    early, filled = filled.part(slice(0, fit)), filled.part(slice(fit, count))
    tallies = [_worse(plan, filled, empty, level) for level in range(len(GRID))]
    start = 0
    if plan.metric == "hits":
        before = [_tally(plan.metric, early, level) for level in range(len(GRID))]
        start = easiest(before, [one.total for one in tallies], plan.target)
    chosen = choose(tallies, plan.target, plan.confidence, start=start)
    if chosen is None:
        raise plan.lacking(tallies[start:], 1.0 / count, "prompts")
    new = np.array([answer in kept_back for answer in log.answers])[late]
    head, told = rescaled(head, *_promises(filled, empty, chosen))
    return result(
        plan,
        head=head,
        thresholds=[told(theta) for theta in filled.thresholds],
        chosen=chosen,
        tallies=tallies,
        hit_rates=[float(row.mean()) for row in empty.served],
        filled=float(filled.served[chosen].mean()),
        wrong=round(tallies[chosen].wrong),
        expected=_expected(plan, filled, empty, chosen, told),
        source="log",
        trained_on=fit,
        tested_on=len(late),
        unseen=_apart(plan, filled, chosen, new),
    )


def _in_time(
    plan: Plan, log: Log, given: NDArray[np.float32] | None
) -> tuple[Log, NDArray[np.float32] | None]:
    """The log as it is; one that is sorted by answer, which no traffic is, is shuffled."""
    count = len(log.prompts)
    answers, counts = np.unique(np.array(log.answers, dtype=object).astype(str), return_counts=True)
    if count / len(answers) < _SPARSE:
        plan.warnings.append(
            f"sparse: {count / len(answers):.1f} prompts per answer; with so few, "
            "neighbours say little and wrong labels weigh much"
        )
    by_chance = float(((counts / count) ** 2).sum())
    follow = sum(a == b for a, b in pairwise(log.answers))
    together = follow / max(1, count - 1)
    if count < _ORDERED or together < max(0.5, 3.0 * by_chance):
        return log, given
    plan.warnings.append(
        f"sorted by answer ({together:.0%} of prompts follow one of the same answer): shuffled"
    )
    order = plan.random.permutation(count)
    return log.part(order), None if given is None else given[order]


def _unseen(answers: Sequence[str], random: np.random.Generator) -> frozenset[str]:
    """A fifth of the answers, none if there are less than ten."""
    distinct = sorted(set(answers))
    if len(distinct) < 10:
        return frozenset()
    return frozenset(random.permutation(distinct)[: int(len(distinct) * _UNSEEN)].tolist())


def _tally(metric: Metric, found: Sweep, level: int) -> Tally:
    served = found.served[level]
    count = len(served) if metric == "requests" else int(served.sum())
    return Tally(float(found.wrong[level].sum()), float(count))


def _worse(plan: Plan, filled: Sweep, empty: Sweep, level: int) -> Tally:
    """Of a filled cache and an empty one, what speaks more against a threshold.

    To reject "wrong too often in either", both must be rejected: no correction is needed.
    """
    found = (_tally(plan.metric, one, level) for one in (filled, empty))
    return max(found, key=lambda one: tail(one.wrong, one.total, plan.target))


def _promises(
    filled: Sweep, empty: Sweep, level: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities of best candidates at one threshold, and whether these were right."""
    p = np.concatenate((filled.score[level], empty.score[level]))
    right = np.concatenate((filled.right[level], empty.right[level]))
    likely = p >= GRID[-1]
    return p[likely], right[likely]


def _expected(
    plan: Plan, filled: Sweep, empty: Sweep, level: int, told: Callable[[float], float]
) -> float:
    """Wrong answers that the probabilities promise, of the cache that speaks more against it."""
    worse = _worse(plan, filled, empty, level)
    one = filled if worse == _tally(plan.metric, filled, level) else empty
    return sum(1.0 - told(p) for p in one.score[level][one.served[level]].tolist())


def _apart(plan: Plan, found: Sweep, chosen: int, new: NDArray[np.bool_]) -> dict[str, int]:
    """What happened to requests whose answer the head never saw."""
    hits, wrong = found.served[chosen][new], found.wrong[chosen][new]
    counts = {"requests": len(hits), "hits": int(hits.sum()), "wrong": int(wrong.sum())}
    tested = counts["requests" if plan.metric == "requests" else "hits"]
    if tested and lower(counts["wrong"], tested, plan.confidence) > plan.target:
        plan.warnings.append(
            f"answers that the head has not seen are wrong more often: {counts['wrong']} of {tested:,} "
            f"{plan.metric}; calibrate again when many new answers have come"
        )
    return counts
