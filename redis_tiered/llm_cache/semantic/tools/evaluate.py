"""Replay what was asked against a policy: what would have been served, and how often wrongly.

Nothing is sent to a model or to Redis. The order of a log is kept, for a cache fills in the order in
which questions come. Next to the policy, with its budget and what it learns on the way, stand two
curves: its decision at fixed thresholds, and a plain threshold of cosine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.decision import Decider, Decision, Options
from redis_tiered.llm_cache.semantic.guard import guard_of
from redis_tiered.llm_cache.semantic.head import Head, shipped_head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.semantic.replay import Question, precision_area, replay
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Point
from redis_tiered.llm_cache.semantic.tools.evaluation import Evaluation
from redis_tiered.llm_cache.semantic.tools.fitting import judge
from redis_tiered.llm_cache.semantic.tools.intervals import interval
from redis_tiered.llm_cache.semantic.tools.log import Log, Pairs, read
from redis_tiered.llm_cache.semantic.tools.logged import GRID
from redis_tiered.llm_cache.semantic.tools.paired import paired, probabilities
from redis_tiered.llm_cache.semantic.tools.sources import Progress, Watch, embedded, fraction, named
from redis_tiered.llm_cache.semantic.tools.sweep import Sweep, Verdict, sweep

__all__ = ["evaluate"]

_COSINES = tuple(round(0.99 - 0.02 * step, 2) for step in range(21))
_LEVELS = GRID[::2]


def evaluate(
    data: object,
    policy: SemanticPolicy | Options | None = None,
    *,
    calibration: Calibration | None = None,
    embeddings: object = None,
    model: str | None = None,
    guard: Any = "default",
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Evaluation:
    """What a policy would have done with a log, or with judged pairs.

    Args:
        data: as for `calibrate`. With pairs there is no neighbourhood, no cache that fills and no
            budget: `a` is asked, `b` is stored, and a calibration from pairs decides, or cosine alone.
        policy: a `SemanticPolicy`, which brings embeddings, guard and calibration along, or the bare
            `Options` of a decision; None: the defaults.
        calibration: head and threshold; None: what comes with this package for the model, if anything.
        embeddings, model, guard: as for `calibrate`.
        confidence: of the intervals.
        seed: of the audits, where the policy names none.
        progress: a function of (prompts done, prompts in all), or True for a bar.

    Raises:
        InvalidInput: an argument, an item or a vector is unusable.
    """
    options = policy if isinstance(policy, Options) else Options()
    if isinstance(policy, SemanticPolicy):
        calibration = calibration or policy.calibration
        options = policy.options(None)
        embeddings = policy.embeddings if embeddings is None else embeddings
        model = policy.model if model is None else model
        veto = policy.make_guard()
    elif policy is None or isinstance(policy, Options):
        veto = guard_of(guard)
    else:
        raise InvalidInput(
            f"policy must be a SemanticPolicy, Options or None, got {type(policy).__name__}"
        )
    if calibration is not None:
        options = replace(options, theta=calibration.theta)
    options = replace(
        options, seed=integer("seed", seed, 0) if options.seed is None else options.seed
    )
    fraction("confidence", confidence)
    known = read(data)
    embedder, name = named(embeddings, model)
    if isinstance(known, Pairs):
        return _of_pairs(known, options, calibration, embedder, name, veto, confidence, progress)
    return _of_log(known, options, calibration, embedder, name, veto, confidence, progress)


class _Counted(Decider):
    """Keeps count of what was decided, and tells how far the replay is."""

    def __init__(
        self, options: Options, guard: Any, head: Head | None, step: Callable[[int], None]
    ) -> None:
        super().__init__(options, guard, head)
        self.reasons: Counter[str] = Counter()
        self._step = step

    def decide(self, prompt: str, neighbours: Sequence[Neighbour]) -> Decision:
        decision = super().decide(prompt, neighbours)
        self.reasons[decision.reason] += 1
        self._step(1)
        return decision


def _of_log(
    log: Log,
    options: Options,
    calibration: Calibration | None,
    embedder: Any,
    name: str,
    veto: Any,
    confidence: float,
    progress: object,
) -> Evaluation:
    head = calibration.head if calibration is not None else shipped_head(name)
    count = len(log.prompts)
    with Watch(progress, "evaluate", (3 if head is None else 4) * count) as watch:
        vectors = embedded(log.prompts, log.embeddings, embedder, watch.step)
        decider = _Counted(options, veto, head, watch.step)
        done = replay(_questions(log, vectors), decider, k=options.k)
        plain = sweep(log, vectors, _by_cosine, _COSINES, k=options.k, step=watch.step)
        levels = None
        if head is not None:
            levels = sweep(
                log,
                vectors,
                judge(veto, head, options),
                _LEVELS,
                k=options.k,
                warmup=options.warmup,
                step=watch.step,
            )
    wrong = done.served & ~done.right
    later = slice(count // 2, None)
    return _result(
        model=name,
        source="log",
        decision=_words(calibration, head, options),
        outcome=(count, int(done.served.sum()), int(wrong.sum())),
        known=log,
        repeated=log.repeated,
        audits=int(done.audit.sum()),
        warm={
            "hit_rate": float(done.served[later].mean()),
            "wrong_per_request": float(wrong[later].mean()),
        },
        p_chr_auc=done.p_chr_auc,
        reasons=decider.reasons,
        options=options,
        theta=decider.theta,
        curve=() if levels is None else _points(levels, confidence),
        baseline=_points(plain, confidence),
        confidence=confidence,
    )


def _questions(log: Log, vectors: NDArray[np.float32]) -> Iterator[Question]:
    for row, vector in enumerate(vectors):
        yield Question(log.prompts[row], vector, log.answers[row], log.scopes[row])


def _by_cosine(_: str, answer: str, near: Sequence[Neighbour]) -> Verdict:
    if not near:
        return Verdict(-1.0, False)
    return Verdict(near[0].cosine, near[0].answer == answer)


def _words(calibration: Calibration | None, head: Head | None, options: Options) -> str:
    if calibration is not None:
        by = f"a calibration of {calibration.created[:10]}, p >= {calibration.theta:.4g} or more"
    elif head is not None:
        by = f"the head that comes with this package for {head.model}"
    else:
        by = "near repeats until a head was learned: none comes with this package for this model"
    return f"{by}; mode {options.mode}"


def _points(found: Sweep, confidence: float) -> tuple[Point, ...]:
    points = []
    for level, threshold in enumerate(found.thresholds):
        served, wrong = found.served[level], int(found.wrong[level].sum())
        low, high = interval(wrong, len(served), confidence)
        points.append(Point(threshold, float(served.mean()), wrong / len(served), low, high))
    return tuple(points)


def _of_pairs(
    pairs: Pairs,
    options: Options,
    calibration: Calibration | None,
    embedder: Any,
    name: str,
    veto: Any,
    confidence: float,
    progress: object,
) -> Evaluation:
    cosines, vetoed = paired(pairs, embedder, veto, "evaluate", progress)
    scores, theta = cosines, options.warmup_cosine
    decision = f"cosine >= {theta:.2f} and the guard: pairs have no neighbourhood"
    if calibration is not None:
        if calibration.source != "pairs":
            raise InvalidInput(
                "calibration must be one from pairs: one from a log looks at neighbours, and pairs "
                "have none"
            )
        scores = probabilities(calibration.head, cosines)
        theta, decision = calibration.theta, _words(calibration, None, options)
    kept = np.where(np.array([reason is not None for reason in vetoed]), -1.0, scores)
    kept = np.where(cosines < options.floor, -1.0, kept)
    served = kept >= theta
    reasons = Counter(f"vetoed: {reason}" for reason in vetoed if reason is not None)
    reasons["served"] = int(served.sum())
    reasons["below_theta"] = len(served) - sum(reasons.values())
    steps = GRID if calibration is not None else _COSINES
    return _result(
        model=name,
        source="pairs",
        decision=decision,
        outcome=(len(served), int(served.sum()), int((served & ~pairs.same).sum())),
        known=pairs,
        repeated=0,
        audits=0,
        warm={},
        p_chr_auc=precision_area(kept, pairs.same),
        reasons=reasons,
        options=options,
        theta=theta,
        curve=_of_scores(kept, pairs.same, steps, confidence),
        baseline=_of_scores(cosines, pairs.same, _COSINES, confidence),
        confidence=confidence,
    )


def _of_scores(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    levels: Sequence[float],
    confidence: float,
) -> tuple[Point, ...]:
    points = []
    for level in levels:
        served = scores >= level
        wrong = int((served & ~same).sum())
        low, high = interval(wrong, len(same), confidence)
        points.append(Point(level, float(served.mean()), wrong / len(same), low, high))
    return tuple(points)


def _result(
    *,
    outcome: tuple[int, int, int],
    known: Log | Pairs,
    options: Options,
    reasons: Counter[str],
    **rest: Any,
) -> Evaluation:
    requests, served, wrong = outcome
    confidence = rest["confidence"]
    warnings = []
    if known.contradicting:
        warnings.append(
            f"{known.contradicting:,} items contradict others ({known.contradiction:.2%}): wrong "
            "answers cannot be told more exactly than that"
        )
    if known.empty:
        warnings.append(f"{known.empty:,} items without text were left out")
    return Evaluation(
        requests=requests,
        served=served,
        wrong=wrong,
        hit_rate=served / requests,
        wrong_per_request=wrong / requests,
        wrong_per_hit=wrong / served if served else 0.0,
        intervals={
            "hit_rate": interval(served, requests, confidence),
            "wrong_per_request": interval(wrong, requests, confidence),
            "wrong_per_hit": interval(wrong, served, confidence),
        },
        reasons=dict(reasons.most_common()),
        max_error=options.max_error,
        warnings=tuple(warnings),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **rest,
    )
