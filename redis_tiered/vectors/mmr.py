"""Maximal marginal relevance: results that are near the query and unlike each other.

Carbonell and Goldstein, The use of MMR, diversity-based reranking (SIGIR 1998), with cosines for
both, under any metric, as LangChain has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["mmr"]


def mmr(query: ArrayLike, vectors: ArrayLike, k: int, lambda_mult: float = 0.5) -> list[int]:
    """The greedy choice: first what is most relevant, then each time what has the highest
    `lambda_mult * relevance - (1 - lambda_mult) * redundancy`.

    Relevance is the cosine with the query, redundancy the highest cosine with what was chosen
    before. Of equals the first is chosen.

    Args:
        query: of shape `(dims,)`.
        vectors: of shape `(n, dims)`, nearest first; a vector of zeros is like nothing.
        k: how many to choose, at most.
        lambda_mult: from 0, as unlike as can be, to 1, only relevance.

    Returns:
        Indices of `vectors`, in the order of choice.
    """
    rows = _directions(np.asarray(vectors, np.float64))
    count = min(k, len(rows))
    if count <= 0:
        return []
    relevance = _dots(rows, _directions(np.asarray(query, np.float64)[None])[0])
    gain = lambda_mult * relevance
    redundancy = np.full(len(rows), -np.inf)
    chosen = [int(relevance.argmax())]
    while len(chosen) < count:
        np.maximum(redundancy, _dots(rows, rows[chosen[-1]]), out=redundancy)
        worth = gain - (1 - lambda_mult) * redundancy
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    return chosen


def _directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    directions: NDArray[np.float64] = rows / norms
    return directions


def _dots(rows: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal rows get equal sums here, wherever they lie; not so from a product of BLAS.
    dots: NDArray[np.float64] = (rows * other).sum(axis=1)
    return dots
