"""How other semantic caches decide, on the same stream as ours.

    python -m benchmarks.rival_policies VECTORS.npy TEXTS.json [--seed 0] [--limit 8000]

VECTORS.npy holds one row per text, of any length; TEXTS.json is {"texts": [...], "labels": [...]}, in
the same order, where equal labels mean equal answers. Distinct texts are permuted by
`numpy.random.default_rng(seed)`; the second half is the stream.

Fixed thresholds of cosine
    What GPTCache, langchain-redis and redisvl do when nothing is set: the nearest entry is served if it
    is near enough. Their units differ and are brought to cosine here: GPTCache 0.8 of a range of 4,
    which is squared L2 <= 0.8; langchain-redis distance 0.2; redisvl distance 0.1. What is theirs is the
    number alone: no search index, no server, no network takes part.

vCache
    "vCache: Verified Semantic Prompt Caching", arXiv 2502.03771. What this is: the method, written from
    its description. Each entry learns a logistic curve P(its answer is right | cosine) from the
    requests that came nearest to it and were answered by the model. With confidence 1 - eps the curve
    is at least L(s); so the answer is right with at least (1 - eps) L(s), and asking the model with
    probability tau = 1 - delta / (1 - (1 - eps) L(s)) keeps the error within delta; the eps that asks
    least is taken. An entry asks always until it has six observations, and starts with two synthetic
    ones: cosine 0 is wrong, cosine 1 is right. Where the model was asked and the nearest entry's
    answer was right, nothing is stored, so that entries collect observations.
    What this is not: the authors' program. The band is that of the curve's place t = -intercept / slope,
    normal, by the inverse information matrix of a fit with a weak penalty; without the penalty, an entry
    that has seen right answers only has no finite curve. How the authors treat that case decides how soon
    entries serve. Streams are shorter than the 27,000 to 150,000 prompts that the authors use, which is
    hard on a method that learns for each entry.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.decision import Decision
from redis_tiered.llm_cache.semantic.neighbour import Neighbour, rounded
from redis_tiered.llm_cache.semantic.replay import Question, Replay, Store

__all__ = ["DEFAULTS", "FixedCosine", "Rival", "VCache", "run"]

DEFAULTS: Mapping[str, float] = {
    "GPTCache, squared L2 0.8": 0.60,
    "langchain-redis, distance 0.2": 0.80,
    "redisvl, distance 0.1": 0.90,
}
_EPS = np.linspace(0.005, 0.995, 60)
_PENALTY = 1e-3
_Z = np.array([NormalDist().inv_cdf(1.0 - eps) for eps in _EPS])


class Rival(Protocol):
    """What `run` asks; the part of our `Decider` that a replay uses.

    Attributes:
        stores_right: a request is stored although the nearest entry's answer was right.
    """

    stores_right: bool

    def decide(self, prompt: str, neighbours: Sequence[Neighbour]) -> Decision: ...

    def learn(
        self, decision: Decision, entries: Sequence[str], same: Mapping[int, bool]
    ) -> None: ...


def _decision(near: Sequence[Neighbour], p: float, serve: bool, reason: str = "") -> Decision:
    return Decision(
        chosen=0 if serve else None,
        best=0 if near else None,
        p=p,
        cosine=near[0].cosine if near else 0.0,
        margin=0.0,
        theta=0.0,
        reason=reason or ("served" if serve else "below_theta"),
        audit=False,
        scored=((0, (), p),) if near else (),
        vetoes=(),
    )


class FixedCosine:
    """Serve the nearest entry from a cosine on; nothing is learnt."""

    stores_right = True

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def decide(self, prompt: str, neighbours: Sequence[Neighbour]) -> Decision:
        if not neighbours:
            return _decision((), 0.0, False, "no_neighbour")
        cosine = neighbours[0].cosine
        return _decision(neighbours, cosine, cosine >= self.threshold)

    def learn(self, decision: Decision, entries: Sequence[str], same: Mapping[int, bool]) -> None:
        """Nothing."""


class VCache:
    """vCache's policy; see the top of this file.

    Args:
        delta: wrong answers per request that are allowed.
        seed: of the exploration.
        least: observations that an entry needs before it serves.
        stores_right: see `Rival`; the paper's is False.
    """

    def __init__(
        self, delta: float, *, seed: int = 0, least: int = 6, stores_right: bool = False
    ) -> None:
        self.delta = delta
        self.stores_right = stores_right
        self._least = least
        self._random = Random(seed)
        self._seen: dict[str, list[tuple[float, bool]]] = {}
        self._curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def decide(self, prompt: str, neighbours: Sequence[Neighbour]) -> Decision:
        if not neighbours:
            return _decision((), 0.0, False, "no_neighbour")
        entry, cosine = neighbours[0].entry, neighbours[0].cosine
        asks = self._asks(entry, cosine)
        serve = self._random.random() > asks
        return _decision(neighbours, 1.0 - asks, serve, "served" if serve else "explore")

    def _asks(self, entry: str, cosine: float) -> float:
        """Probability that the model is asked."""
        seen = self._seen.get(entry, ())
        if len(seen) < self._least:
            return 1.0
        if entry not in self._curves:
            self._curves[entry] = _fit([*seen, (0.0, False), (1.0, True)])
        weights, covariance = self._curves[entry]
        slope = max(float(weights[1]), 1e-6)
        place = -float(weights[0]) / slope
        change = np.array([-1.0, -place]) / slope
        spread = math.sqrt(float(change @ covariance @ change))
        logits = slope * (cosine - place - _Z * spread)
        least = 1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))
        right = (1.0 - _EPS) * least
        return max(0.0, float((1.0 - self.delta / (1.0 - right)).min()))

    def learn(self, decision: Decision, entries: Sequence[str], same: Mapping[int, bool]) -> None:
        if 0 in same:
            self._seen.setdefault(entries[0], []).append((decision.cosine, same[0]))
            self._curves.pop(entries[0], None)


def _fit(seen: Sequence[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intercept and slope of the most probable curve, and their covariance."""
    x = np.array([(1.0, cosine) for cosine, _ in seen])
    y = np.array([right for _, right in seen], dtype=np.float64)
    penalty = np.diag([_PENALTY, _PENALTY])
    w = np.zeros(2)
    hessian = penalty
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -30.0, 30.0)))
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(hessian, x.T @ (y - p) - penalty @ w)
        w = w + step * min(1.0, 20.0 / max(1e-9, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-6:
            break
    return w, np.linalg.inv(hessian)


def run(stream: Iterable[Question], rival: Rival, *, k: int = 1) -> Replay:
    """Run a stream through a rival and a store that begins empty, as `replay` does with ours."""
    stores: dict[str, Store] = {}
    rows: list[tuple[float, float, bool, bool, bool, float]] = []
    for number, question in enumerate(stream):
        vector = rounded(question.vector)
        store = stores.setdefault(question.scope, Store(len(vector)))
        near = store.near(vector, k)
        decision = rival.decide(question.prompt, near)
        right = bool(near) and near[0].answer == question.answer
        if decision.chosen is None:
            same = {0: right} if near else {}
            rival.learn(decision, [one.entry for one in near], same)
            if rival.stores_right or not right:
                store.put(f"{number:x}", vector, question.answer, question.prompt)
        served = decision.chosen is not None
        rows.append((decision.p, decision.cosine, served, right, False, 0.0))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    kinds = (np.float64, np.float64, np.bool_, np.bool_, np.bool_, np.float64)
    return Replay(
        *(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True))
    )


def _stream(vectors: Path, texts: Path, seed: int, limit: int) -> list[Question]:
    known = json.loads(texts.read_text())
    matrix = np.load(vectors)
    order = np.random.default_rng(seed).permutation(len(matrix))[len(matrix) // 2 :][:limit]
    return [Question(known["texts"][at], matrix[at], str(known["labels"][at])) for at in order]


def main() -> None:
    parser = argparse.ArgumentParser(description="How other semantic caches decide.")
    parser.add_argument("vectors", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=8_000)
    given = parser.parse_args()
    stream = _stream(given.vectors, given.texts, given.seed, given.limit)
    rivals: dict[str, Rival] = {name: FixedCosine(at) for name, at in DEFAULTS.items()}
    for delta in (0.01, 0.02, 0.05, 0.10, 0.20):
        rivals[f"vCache, delta {delta:.1%}"] = VCache(delta, seed=given.seed)
    print(f"{len(stream):,} prompts, seed {given.seed}")
    print(f"{'':<42} hits %  wrong/requests %  wrong/hits %  us each")
    for name, rival in rivals.items():
        begin = time.perf_counter()
        done = run(stream, rival)
        each = (time.perf_counter() - begin) / len(stream) * 1e6
        print(
            f"{name:<42} {100 * done.hit_rate:>6.1f}  {100 * done.wrong_per_request:>16.2f}  "
            f"{100 * done.wrong_per_hit:>12.2f}  {each:>7.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
