"""A head from a log: fitted to neighbourhoods as a live cache has them, its promises set right.

A cache does not store what it serves, so it is sparser than any share of the log. A first head is
fitted to random shares of the log; the cache that this head makes is where the second one learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.decision import Decider, Decision, Options
from redis_tiered.llm_cache.semantic.head import Head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.llm_cache.semantic.tools.log import Log
from redis_tiered.llm_cache.semantic.tools.plan import fitted_head
from redis_tiered.llm_cache.semantic.tools.sweep import Judge, Verdict, neighbourhoods, sweep

__all__ = ["fitted", "judge", "rescaled"]

_EXAMPLES = 6_000  # questions at most that the head is fitted to
_SERVING = (0.97, 0.9)  # thresholds of the caches in which the second head learns
_ORDERS = 2  # in which they are filled
_TRUST = 8.0  # how firmly a head is taken at its word, in the weight of observations
_NONE = -1.0


def fitted(
    log: Log,
    vectors: NDArray[np.float32],
    kept_back: frozenset[str],
    *,
    guard: Any,
    model: str,
    random: np.random.Generator,
) -> Head:
    """Fit a head.

    Args:
        kept_back: answers that no example may be of.

    Raises:
        NotEnoughData: there are hardly any right or wrong examples.
    """
    rows = np.sort(random.permutation(len(log.prompts))[:_EXAMPLES])
    log, vectors = log.part(rows), vectors[rows]
    noted = _Examples(kept_back)
    decide = _decisions(guard, None, Options())
    every = np.arange(len(rows))
    for row, near in neighbourhoods(log, vectors, every, every, least=0.05, random=random):
        noted(log.answers[row], near, decide(log.prompts[row], near))
    head = fitted_head(noted.x, noted.y, model)
    noted = _Examples(kept_back)
    for _ in range(_ORDERS):
        order = random.permutation(len(rows))
        sweep(log.part(order), vectors[order], judge(guard, head, None, noted), _SERVING)
    return fitted_head(noted.x, noted.y, model)


class _Examples:
    """Features of candidates, and whether their answers were right."""

    def __init__(self, kept_back: frozenset[str]) -> None:
        self._kept_back = kept_back
        self.x: list[Sequence[float]] = []
        self.y: list[bool] = []

    def __call__(self, answer: str, near: Sequence[Neighbour], decision: Decision) -> None:
        if answer in self._kept_back:
            return
        for index, numbers, _ in decision.scored:
            if near[index].answer not in self._kept_back:
                self.x.append(numbers)
                self.y.append(near[index].answer == answer)


def _decisions(
    guard: Any, head: Head | None, options: Options
) -> Callable[[str, Sequence[Neighbour]], Decision]:
    """The live cache's decision, taught nothing and without budget, audits and warm-up."""
    bare = replace(
        options,
        mode="shadow",
        max_error=1.0,
        audit_rate=0.0,
        warmup=0,
        theta=None,
        learning=False,
    )
    return Decider(bare, guard, head).decide


def judge(
    guard: Any,
    head: Head,
    options: Options | None = None,
    examples: Callable[[str, Sequence[Neighbour], Decision], None] | None = None,
) -> Judge:
    """What `sweep` asks: the live cache's decision, with its probability as the score.

    Args:
        examples: shown each answer with the neighbourhood that was found and the decision.
    """
    options = options or Options()
    decide = _decisions(guard, head, options)
    warm = options.warmup_cosine

    def verdict(prompt: str, answer: str, near: Sequence[Neighbour]) -> Verdict:
        decision = decide(prompt, near)
        if examples is not None:
            examples(answer, near, decision)
        if decision.best is None or decision.reason in ("below_floor", "lone_answer"):
            return Verdict(_NONE, False)
        right = near[decision.best].answer == answer
        return Verdict(decision.p, right, decision.cosine >= warm)

    return verdict


def rescaled(
    head: Head, p: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[Head, Callable[[float], float]]:
    """A head that promises what was seen, and what becomes of a probability of the old one.

    Platt's scaling: logits are stretched and shifted, so the order of probabilities, and with it all
    that a threshold serves, stays what it was. Little evidence leaves the head as it is.

    Args:
        p: what the head promised for the best candidates of requests.
        right: whether they were right.
    """
    logits = np.log(p / np.maximum(1.0 - p, 1e-12))
    x = np.column_stack((logits, np.ones(len(p))))
    before = np.array([1.0, 0.0])
    prior = np.diag([_TRUST, _TRUST])
    w = before.copy()
    for _ in range(30):
        promised = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -30.0, 30.0)))
        curvature = (x * (promised * (1.0 - promised))[:, None]).T @ x + prior
        step = np.linalg.solve(curvature, x.T @ (right - promised) - prior @ (w - before))
        w = w + step
        if float(np.abs(step).max()) < 1e-8:
            break
    stretch, shift = float(np.clip(w[0], 0.3, 3.0)), float(np.clip(w[1], -5.0, 5.0))
    weights = tuple(weight * stretch for weight in head.weights)
    scaled = replace(head, weights=weights, bias=head.bias * stretch + shift)

    def told(probability: float) -> float:
        logit = math.log(probability / (1.0 - probability)) * stretch + shift
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))

    return scaled, told
