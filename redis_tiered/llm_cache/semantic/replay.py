"""Replay a log of questions against a decider, in memory: what the live cache would have done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.neighbour import Neighbour, rounded

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.decision import Decider

__all__ = ["Question", "Replay", "Store", "replay"]


class Question(NamedTuple):
    """One request of a log.

    Attributes:
        prompt: text of its last user turn.
        vector: its embedding, 1-D.
        answer: identity of the answer that is right for it.
        scope: requests of different scopes never share an answer.
    """

    prompt: str
    vector: NDArray[np.float32]
    answer: str
    scope: str = ""


@dataclass(frozen=True)
class Replay:
    """What a replay did; every array has one number per request.

    Attributes:
        p: best candidate's probability, 0.0 where there was none.
        cosine: its cosine, 0.0 where there was none.
        served: the request was answered from the cache.
        right: the best candidate's answer was right, served or not.
        audit: would have been served, was checked instead.
        theta: that was in force.
    """

    p: NDArray[np.float64]
    cosine: NDArray[np.float64]
    served: NDArray[np.bool_]
    right: NDArray[np.bool_]
    audit: NDArray[np.bool_]
    theta: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.p)

    @property
    def hit_rate(self) -> float:
        """Served per request."""
        return float(self.served.mean()) if len(self) else 0.0

    @property
    def wrong_per_request(self) -> float:
        """Wrong answers served per request: what `max_error` bounds."""
        return float((self.served & ~self.right).mean()) if len(self) else 0.0

    @property
    def wrong_per_hit(self) -> float:
        """Wrong answers per answer served."""
        hits = int(self.served.sum())
        return int((self.served & ~self.right).sum()) / hits if hits else 0.0

    @property
    def p_chr_auc(self) -> float:
        """Area under precision against cache-hit ratio, for all thresholds of p.

        Source: the "calibration gap" of semantic caches, arXiv 2606.19719.
        """
        return precision_area(self.p, self.right)


def precision_area(p: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean precision over hit ratios 1/n, 2/n, ... 1, requests taken by falling `p`."""
    if not len(p):
        return 0.0
    order = np.argsort(-p, kind="stable")
    found = np.cumsum(right[order])
    return float((found / np.arange(1, len(p) + 1)).mean())


class Store:
    """Entries of one scope in memory: exact nearest neighbours by cosine.

    Args:
        dims: numbers per vector.
    """

    def __init__(self, dims: int) -> None:
        self._vectors = np.empty((64, dims), dtype=np.float32)
        self._rows: list[tuple[str, str, str]] = []

    def near(self, vector: NDArray[np.float32], k: int) -> list[Neighbour]:
        """The k nearest, highest cosine first, older entries first among equals."""
        count = len(self._rows)
        if not count:
            return []
        cosines = self._vectors[:count] @ vector
        if count > 4 * k:
            rows = np.argpartition(-cosines, k)[:k]
            # those that tie with the last one, so that the oldest of them is taken
            rows = np.flatnonzero(cosines >= cosines[rows].min())
        else:
            rows = np.arange(count)
        rows = rows[np.argsort(-cosines[rows], kind="stable")][:k]
        return [
            Neighbour(entry, float(cosines[row]), answer, prompt)
            for row in rows
            for entry, answer, prompt in (self._rows[row],)
        ]

    def put(self, entry: str, vector: NDArray[np.float32], answer: str, prompt: str) -> None:
        """Add an entry."""
        count = len(self._rows)
        if count == len(self._vectors):
            grown = np.empty((2 * count, self._vectors.shape[1]), dtype=np.float32)
            grown[:count] = self._vectors
            self._vectors = grown
        self._vectors[count] = vector
        self._rows.append((entry, answer, prompt))


def replay(stream: Iterable[Question], decider: Decider, *, k: int = 10) -> Replay:
    """Run a log through a decider and a store that begins empty.

    The order of steps is the live cache's, as `decision.py` writes it down.

    Args:
        stream: requests in the order they came. An exact repeat of a prompt that was stored in its
            scope is the exact cache's business: leave it out.
        decider: is taught by the replay; give it a fresh one.
        k: neighbours per question.

    Raises:
        InvalidInput: a vector is unusable, or has another number of dimensions than the first.
    """
    stores: dict[str, Store] = {}
    rows: list[tuple[float, float, bool, bool, bool, float]] = []
    dims = 0
    for number, question in enumerate(stream):
        vector = rounded(question.vector)
        dims = dims or len(vector)
        if len(vector) != dims:
            raise InvalidInput(
                f"question {number} has a vector of {len(vector)} dimensions, the first has {dims}"
            )
        store = stores.get(question.scope) or stores.setdefault(question.scope, Store(dims))
        near = store.near(vector, k)
        rows.append(_ask(question, near, decider))
        served = rows[-1][2]
        if not served:
            store.put(f"{number:x}", vector, question.answer, question.prompt)
    p, cosine, hit, right, audit, theta = zip(*rows, strict=True) if rows else ((),) * 6
    return Replay(
        p=np.array(p, dtype=np.float64),
        cosine=np.array(cosine, dtype=np.float64),
        served=np.array(hit, dtype=np.bool_),
        right=np.array(right, dtype=np.bool_),
        audit=np.array(audit, dtype=np.bool_),
        theta=np.array(theta, dtype=np.float64),
    )


def _ask(
    question: Question, near: list[Neighbour], decider: Decider
) -> tuple[float, float, bool, bool, bool, float]:
    """Decide, and teach the decider if the request was not served."""
    decision = decider.decide(question.prompt, near)
    right = decision.best is not None and near[decision.best].answer == question.answer
    if decision.chosen is None:
        same = {index: near[index].answer == question.answer for index, _, _ in decision.scored}
        decider.learn(decision, [neighbour.entry for neighbour in near], same)
    return (
        decision.p,
        decision.cosine,
        decision.chosen is not None,
        right,
        decision.audit,
        decision.theta,
    )
