"""Find a threshold that keeps wrong answers within a target, from what a person knows of their traffic.

A log is replayed as the live cache would serve it. Its earlier part fits the head; the later part, which
the head has not seen, tests thresholds on a cache that the earlier part has filled. The split is by time,
for that is how a calibration is used: the later part has the answers of the earlier one and new ones,
in the proportion in which new ones come, and all of them compete. A split by answer alone would halve
the answers that compete with each other and so promise too much. Instead a fifth of the answers is kept
from the fit, and what happens to questions of these in the test is told apart (`Calibration.unseen`).

Pairs are split by connected component, so that no prompt is in both parts. They have no neighbourhood,
so the head sees cosines only. Pairs of one component may be wrong together: a component counts for one
observation at the worst, and Kish's effective number of components is what bounds are computed from.

A threshold must hold twice: in a cache that begins empty, where answers that are not stored yet make
hits wrong, and in one that the earlier part has filled, where there are most hits. How it is chosen so
that choosing costs nothing: `choosing.py`. Last, the head's probabilities are stretched until they promise
what was seen (`fitting.rescaled`), which changes nothing of what the threshold serves.

What this promises is for requests like those of the log: from the same source, about as many. The
binomial tail is exact for independent requests; those of a replay share a cache and are nearly so.
Against drift it promises nothing; that is what the live cache's audits are for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.guard import guard_of
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Metric
from redis_tiered.llm_cache.semantic.tools.log import Log, read
from redis_tiered.llm_cache.semantic.tools.logged import from_log
from redis_tiered.llm_cache.semantic.tools.paired import from_pairs
from redis_tiered.llm_cache.semantic.tools.plan import Plan
from redis_tiered.llm_cache.semantic.tools.sources import Progress, fraction, guard_name, named

__all__ = ["calibrate"]

_METRICS: tuple[Metric, ...] = ("requests", "hits")


def calibrate(
    data: object,
    target_error: float = 0.01,
    *,
    metric: Metric = "requests",
    embeddings: object = None,
    model: str | None = None,
    guard: Any = "default",
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Calibration:
    """A head and a threshold whose wrong answers stay within a target on data they have not seen.

    Args:
        data: a log: (prompt, answer id) tuples or dicts {"prompt", "answer"}, with "scope" and
            "embedding" if wanted, in the order they were asked; or judged pairs: (a, b, same) tuples or
            dicts {"a", "b", "same"}; or the path of a JSON Lines file of either.
        target_error: wrong answers that may be served, as a share of what `metric` says.
        metric: `"requests"`: of all requests, of which many are not served at all; `"hits"`: of the
            answers served. With pairs, a request is a pair: `a` is asked, `b` is stored.
        embeddings: of the texts; anything that `as_embedder` takes. Not needed if the log has them.
        model: the embedding model's name, where `embeddings` does not tell it.
        guard: as in `SemanticPolicy`; what it vetoes is not served.
        confidence: probability that the bound holds.
        seed: of the random choices: equal data and seed give an equal result.
        progress: a function of (prompts done, prompts in all), or True for a bar.

    Raises:
        InvalidInput: an argument, an item or a vector is unusable, or the data contradict themselves
            more often than the target allows.
        NotEnoughData: no threshold can be proven; it says about how much more is needed.
    """
    plan = Plan(
        target=fraction("target_error", target_error),
        metric=_metric(metric),
        confidence=fraction("confidence", confidence),
        random=np.random.default_rng(integer("seed", seed, 0)),
        guard=guard_of(guard),
        guard_name=guard_name(guard),
    )
    known = read(data)
    plan.consistent(known)
    given = known.embeddings if isinstance(known, Log) else None
    embedder, name = named(embeddings, model)
    if isinstance(known, Log):
        return from_log(plan, known, given, embedder, name, progress)
    return from_pairs(plan, known, embedder, name, progress)


def _metric(metric: str) -> Metric:
    for known in _METRICS:
        if metric == known:
            return known
    raise InvalidInput(f'metric must be "requests" or "hits", got {metric!r:.40}')
