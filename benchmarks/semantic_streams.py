"""How many questions are answered from the cache, and how many of them wrongly.

    python -m benchmarks.semantic_streams [--seeds 0 1 2] [--only hindsight|budgets|box]
    python -m benchmarks.semantic_streams --write-head

Needs the questions of `benchmarks.questions`. Distinct prompts are permuted; the first half may
calibrate, the second half is the stream, at most 8,000 each. A miss is stored. An answer is right if it
is of the prompt's intent. "Other's head" is fitted to the other set only.

hindsight   thresholds of cosine, or of p, swept; hits are read off where the measured error is
            0.5, 1, 2 and 5 % of requests. No threshold of these can be known beforehand.
budgets     `max_error` set beforehand, everything else as it comes: warm-up, audits, learning.
box         no labels, nothing set: the other set's head, at fixed p and with the budget of 1 %.

`--write-head` fits the head that is shipped, to the calibration halves of both sets.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import redis_tiered.llm_cache.semantic as semantic
from benchmarks.questions import MODEL, Questions, intents
from benchmarks.rival_policies import FixedCosine, VCache, run
from redis_tiered.llm_cache.semantic.decision import Decider, Options
from redis_tiered.llm_cache.semantic.features import Features, leading
from redis_tiered.llm_cache.semantic.head import Head, fit_head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.llm_cache.semantic.replay import Question, Replay, replay

SETS = ("banking77", "clinc150")
ERRORS = (0.005, 0.01, 0.02, 0.05)
COSINES = (0.6, 0.65, 0.7, 0.75, 0.8, 0.84, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98)
THETAS = (0.5, 0.65, 0.75, 0.83, 0.88, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995)
_L2 = 1.0 / 0.3
_ROUNDS = 3
_LEAST_FILLED = 0.01


def examples(log: Sequence[Question], seed: int) -> tuple[list[Features], list[bool]]:
    """What a cache would see that is anything between nearly empty and full of half of the log.

    The other half asks. The share of the store that each question sees is log-uniform from 1 %.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(log))
    stored, asked = order[: len(log) // 2], order[len(log) // 2 :]
    vectors = np.array([question.vector for question in log])
    x: list[Features] = []
    y: list[bool] = []
    for at in asked:
        share = np.exp(random.uniform(np.log(_LEAST_FILLED), 0.0))
        there = stored[random.random(len(stored)) < share]
        near = _nearest(log, vectors, there, vectors[at])
        for index, numbers in enumerate(leading(near, range(min(3, len(near))))):
            x.append(numbers)
            y.append(near[index].answer == log[at].answer)
    return x, y


def _nearest(
    log: Sequence[Question],
    vectors: NDArray[np.float32],
    there: NDArray[np.int64],
    vector: NDArray[np.float32],
) -> list[Neighbour]:
    cosines = vectors[there] @ vector
    best = np.argsort(-cosines, kind="stable")[:10]
    return [Neighbour("", float(cosines[row]), log[there[row]].answer, "") for row in best]


def head_of(logs: Iterable[Sequence[Question]]) -> Head:
    """Fitted to several ways of splitting each log."""
    x: list[Features] = []
    y: list[bool] = []
    for log in logs:
        for seed in range(_ROUNDS):
            more_x, more_y = examples(log, seed)
            x += more_x
            y += more_y
    return fit_head(x, y, model=MODEL, l2=_L2, weights=np.full(len(y), 1.0 / _ROUNDS))


def at_error(done: Sequence[Replay], error: float) -> float:
    """Hits per request where a sweep's wrong answers per request reach `error`, interpolated."""
    points = sorted([(0.0, 0.0)] + [(one.wrong_per_request, one.hit_rate) for one in done])
    best = 0.0
    for (low, hits), (high, more) in itertools.pairwise(points):
        if low <= error <= high:
            best = max(best, hits + (more - hits) * (error - low) / max(high - low, 1e-12))
    return best if points[-1][0] >= error else max(best, points[-1][1])


def fixed_head(stream: Sequence[Question], head: Head, theta: float) -> Replay:
    options = Options(max_error=1.0, theta=theta, audit_rate=0.0, learning=False)
    return replay(stream, Decider(options, None, head))


def online(stream: Sequence[Question], head: Head | None, error: float, seed: int) -> Replay:
    return replay(stream, Decider(Options(max_error=error, seed=seed), None, head))


def hindsight(stream: Sequence[Question], heads: Mapping[str, Head]) -> None:
    ways: dict[str, tuple[Sequence[float], Callable[[float], Replay]]] = {
        "fixed cosine": (COSINES, lambda at: run(stream, FixedCosine(at), k=1)),
        "ours, other's head": (THETAS, lambda at: fixed_head(stream, heads["other"], at)),
        "ours, own half's head": (THETAS, lambda at: fixed_head(stream, heads["own"], at)),
    }
    for name, (thresholds, way) in ways.items():
        done = [way(threshold) for threshold in thresholds]
        hits = " / ".join(f"{100 * at_error(done, error):4.1f}" for error in ERRORS)
        area = float(np.mean([one.p_chr_auc for one in done]))
        print(f"  {name:26} {hits}   P-CHR AUC {area:.3f}", flush=True)


def budgets(stream: Sequence[Question], heads: Mapping[str, Head], seed: int) -> None:
    for name, head in (("ours, other's head", heads["other"]), ("ours, no head", None)):
        done = [online(stream, head, error, seed) for error in ERRORS]
        print(f"  {name:26} {_each(done)}   P-CHR AUC {done[1].p_chr_auc:.3f}", flush=True)
    done = [run(stream, VCache(error, seed=seed)) for error in ERRORS]
    print(f"  {'vCache, from its paper':26} {_each(done)}", flush=True)


def _each(done: Sequence[Replay]) -> str:
    return " / ".join(f"{100 * x.hit_rate:4.1f} ({100 * x.wrong_per_request:4.2f})" for x in done)


def box(stream: Sequence[Question], heads: Mapping[str, Head], seed: int) -> None:
    rows = {f"p >= {p}": fixed_head(stream, heads["other"], p) for p in (0.8, 0.85, 0.9, 0.95)}
    rows["budget of 1 %"] = online(stream, heads["other"], 0.01, seed)
    rows["redisvl's cosine, 0.90"] = run(stream, FixedCosine(0.9), k=1)
    for name, one in rows.items():
        hits, wrong = 100 * one.hit_rate, 100 * one.wrong_per_hit
        print(f"  {name:26} hits {hits:4.1f}, wrong of hits {wrong:4.2f}", flush=True)


def write_head(sets: Mapping[str, Questions]) -> None:
    head = head_of([questions.halves(0)[0] for questions in sets.values()])
    place = Path(str(semantic.__file__)).parent / "heads.json"
    rows = [head.as_dict()]
    rows[0]["weights"] = {name: round(w, 4) for name, w in rows[0]["weights"].items()}
    rows[0]["bias"] = round(head.bias, 4)
    place.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"{place}: {rows[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Hits and wrong answers on streams of questions.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=("hindsight", "budgets", "box"))
    parser.add_argument("--write-head", action="store_true")
    given = parser.parse_args()
    sets = {name: intents(name) for name in SETS}
    if given.write_head:
        write_head(sets)
        return
    for seed in given.seeds:
        halves = {name: questions.halves(seed) for name, questions in sets.items()}
        fitted = {name: head_of([log]) for name, (log, _) in halves.items()}
        for name, other in zip(SETS, reversed(SETS), strict=True):
            heads = {"own": fitted[name], "other": fitted[other]}
            stream = halves[name][1]
            print(f"{name}, seed {seed}, {len(stream):,} prompts; hit % at 0.5 / 1 / 2 / 5 %")
            if given.only in (None, "hindsight"):
                hindsight(stream, heads)
            if given.only in (None, "budgets"):
                print("  budget set beforehand; hit % (wrong of requests %)")
                budgets(stream, heads, seed)
            if given.only in (None, "box"):
                print("  out of the box, no labels")
                box(stream, heads, seed)


if __name__ == "__main__":
    main()
