"""One log against many thresholds at once: what a cache that never learns would have served at each.

Each threshold has a cache of its own that begins empty: a request that it serves is not stored, so a
looser threshold makes a sparser cache. That is what a live cache does, and what a table of
similarities of all prompts would miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.llm_cache.semantic.tools.log import Log

__all__ = ["Judge", "Sweep", "Verdict", "neighbourhoods", "sweep"]

_BLOCK = 256  # prompts whose similarities are computed together
_DEEP = 96  # neighbours among which a threshold's own are looked for first


class Verdict(NamedTuple):
    """The best candidate of a question, or none.

    Attributes:
        score: what thresholds are compared with; -1.0: there is no candidate that may be served.
        right: its answer is the question's.
        warm: it is near enough to be served in the first lookups, too.
    """

    score: float
    right: bool
    warm: bool = True


Judge = Callable[[str, str, Sequence[Neighbour]], Verdict]
"""(prompt, its answer, its neighbours) -> verdict."""


@dataclass(frozen=True)
class Sweep:
    """What each threshold did with each request; all arrays have shape (thresholds, requests).

    Attributes:
        thresholds: falling.
        served: answered from the cache.
        right: the best candidate was right, served or not.
        score: the best candidate's.
    """

    thresholds: tuple[float, ...]
    served: NDArray[np.bool_]
    right: NDArray[np.bool_]
    score: NDArray[np.float64]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Served, and not right."""
        return self.served & ~self.right

    def part(self, requests: slice) -> Sweep:
        """Of some of the requests."""
        return Sweep(
            self.thresholds,
            self.served[:, requests],
            self.right[:, requests],
            self.score[:, requests],
        )


def sweep(
    log: Log,
    vectors: NDArray[np.float32],
    judge: Judge,
    thresholds: Sequence[float],
    *,
    k: int = 10,
    warmup: int = 0,
    step: Callable[[int], None] | None = None,
) -> Sweep:
    """Run a log, in its order, through one cache per threshold.

    Args:
        vectors: (prompts, dims), as `neighbour.rounded` makes them.
        judge: of the best candidate; it may know nothing but its arguments.
        thresholds: a verdict is served from this score on.
        warmup: in so many first requests only verdicts that are `warm` are served.
        step: told how many requests were done since it was last called.

    Time grows with the square of the log: 13,000 prompts of 384 dimensions take some ten seconds.
    """
    count = len(log.prompts)
    levels = tuple(sorted(thresholds, reverse=True))
    shape = (len(levels), count)
    served = np.zeros(shape, dtype=np.bool_)
    right = np.zeros(shape, dtype=np.bool_)
    score = np.full(shape, -1.0)
    scopes = np.unique(np.array(log.scopes, dtype=object).astype(str), return_inverse=True)[1]
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        cosines = vectors[begin:end] @ vectors[:end].T
        cosines[scopes[begin:end, None] != scopes[None, :end]] = -np.inf
        for row in range(begin, end):
            known: dict[bytes, Verdict] = {}
            met: dict[int, Neighbour] = {}
            finder = _Finder(cosines[row - begin, :row], k)
            for level, threshold in enumerate(levels):
                chosen = finder.among(~served[level, :row])
                verdict = known.get(chosen.tobytes())
                if verdict is None:
                    near = _neighbours(log, chosen, finder.cosines, met=met)
                    verdict = judge(log.prompts[row], log.answers[row], near)
                    known[chosen.tobytes()] = verdict
                right[level, row], score[level, row] = verdict.right, verdict.score
                served[level, row] = verdict.score >= threshold and (verdict.warm or row >= warmup)
        if step is not None:
            step(end - begin)
    return Sweep(levels, served, right, score)


class _Finder:
    """The nearest of a question among those that a threshold has stored, older first among equals."""

    def __init__(self, cosines: NDArray[np.float32], k: int) -> None:
        self.cosines = cosines
        self._k = k
        self._deep = _first(cosines, _DEEP)
        self._all = len(self._deep) == int(np.isfinite(cosines).sum())

    def among(self, stored: NDArray[np.bool_]) -> NDArray[np.int64]:
        found = self._deep[stored[self._deep]][: self._k]
        if len(found) == self._k or self._all:
            return found
        rows = np.flatnonzero(stored)
        return rows[_first(self.cosines[rows], self._k)]


def _first(cosines: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the k highest, falling; among equals the first. -inf is left out."""
    if len(cosines) > 2 * k:
        least = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
        rows = np.flatnonzero(cosines >= least)
    else:
        rows = np.arange(len(cosines))
    rows = rows[np.argsort(-cosines[rows], kind="stable")][:k]
    return rows[np.isfinite(cosines[rows])]


def neighbourhoods(
    log: Log,
    vectors: NDArray[np.float32],
    queries: NDArray[np.int64],
    store: NDArray[np.int64],
    *,
    least: float,
    random: np.random.Generator,
    k: int = 10,
) -> Iterator[tuple[int, list[Neighbour]]]:
    """Each query with its nearest in a random share, `least` to 1, of the store: a cache fills up.

    A query that is in the store does not find itself.
    """
    scopes = np.unique(np.array(log.scopes, dtype=object).astype(str), return_inverse=True)[1]
    for begin in range(0, len(queries), _BLOCK):
        block = queries[begin : begin + _BLOCK]
        cosines = vectors[block] @ vectors[store].T
        share = least + (1.0 - least) * random.random(len(block))
        absent = random.random(cosines.shape, dtype=np.float32) > share[:, None]
        absent |= scopes[block, None] != scopes[None, store]
        cosines[absent | (block[:, None] == store[None, :])] = -np.inf
        for query, row in zip(block, cosines, strict=True):
            chosen = _first(row, k)
            yield int(query), _neighbours(log, chosen, row, store)


def _neighbours(
    log: Log,
    chosen: NDArray[np.int64],
    cosines: NDArray[np.float32],
    store: NDArray[np.int64] | None = None,
    met: dict[int, Neighbour] | None = None,
) -> list[Neighbour]:
    known = {} if met is None else met
    found = []
    for at in chosen.tolist():
        one = known.get(at)
        if one is None:
            row = at if store is None else int(store[at])
            one = Neighbour(f"{row:x}", float(cosines[at]), log.answers[row], log.prompts[row])
            known[at] = one
        found.append(one)
    return found
