"""How far vectors are: quickly in float32 with a bound of the error, and exactly.

A search screens all rows by scores in float32, keeps those that rounding may have put in the wrong
order, and computes their distances in float64. So its answer is that of float64.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redis_tiered.vectors.document import Metric, Vector

__all__ = ["Product", "Scale", "close", "exact", "gathered", "squares", "unit"]

Doubles = NDArray[np.float64]
_UNIT: Final = 2.0**-24  # rounding of float32
_TINY: Final = float(np.finfo(np.float32).tiny)  # some kernels take what is below for 0
_HUGE: Final = 1e18  # of a norm: squares of such, times what follows, are no float32
_BLOCK: Final = 1 << 17  # numbers that stay in a core's cache
_UNDIVIDED: Final = 3 << 17  # numbers that OpenBLAS gives to one thread (interface/gemv.c)
_RETRY: Final = 64  # one product of so many is done in the slower way
_CHUNK: Final = 1 << 20


def unit(rows: Vector) -> Vector:
    """Rows divided by their norms; what is all zeros stays so."""
    made = np.empty_like(rows)
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        made[start : start + step] = _directions(rows[start : start + step].astype(np.float64))[0]
    return made


def _directions(rows: Doubles) -> tuple[Doubles, NDArray[np.bool_]]:
    """Rows divided by their norms, in their place; and which have none."""
    norms = np.sqrt(_squares(rows))
    none = norms == 0
    norms[none] = 1
    rows /= norms[:, None]
    return rows, none


def _squares(rows: Doubles) -> Doubles:
    # Not by BLAS, where what comes of a row depends on its place.
    found: Doubles = np.einsum("ij,ij->i", rows, rows)
    return found


def squares(rows: Vector) -> Doubles:
    """Squared norms."""
    made = np.empty(len(rows))
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        made[start : start + step] = _squares(rows[start : start + step].astype(np.float64))
    return made


def exact(metric: Metric, matrix: Vector, slots: NDArray[np.intp], query: Vector) -> Doubles:
    """Distances of some rows, in float64 and in the same way wherever a row lies.

    Under "cosine" half the squared distance of the directions, which is `1 - cosine` and exactly
    0 for equal ones; rows and query need not be quite of norm 1.
    """
    wanted = query.astype(np.float64)[None]
    if metric == "cosine":
        wanted, nowhere = _directions(wanted)
    made = np.empty(len(slots))
    step = max(1, _CHUNK // matrix.shape[1])
    for start in range(0, len(slots), step):
        rows: Doubles = matrix[slots[start : start + step]].astype(np.float64)
        if metric == "ip":
            found = 1 - np.einsum("ij,j->i", rows, wanted[0])
        elif metric == "l2":
            rows -= wanted
            found = np.sqrt(_squares(rows))
        else:
            rows, none = _directions(rows)
            rows -= wanted
            found = _squares(rows) / 2
            found[none | nowhere] = 1  # what has no direction is orthogonal to everything
        made[start : start + step] = found
    return made


def close(matrix: Vector, slots: NDArray[np.intp], query: Vector) -> Doubles:
    """As `exact` under "cosine", where rows and query are of norm 1: in a third of the time, right to
    2e-7."""
    rows = matrix[slots].astype(np.float64)
    # Not by BLAS: see `_squares`.
    found: Doubles = 1 - np.einsum("ij,j->i", rows, query.astype(np.float64))
    return found


def gathered(matrix: Vector, slots: NDArray[np.intp], query: Vector) -> Vector:
    """Products of some rows with a query.

    By blocks that stay in the cache: several times as fast as one copy of all of them.
    """
    made = np.empty(len(slots), np.float32)
    step = max(1, _BLOCK // matrix.shape[1])
    block = np.empty((min(step, len(slots)), matrix.shape[1]), np.float32)
    for start in range(0, len(slots), step):
        part = slots[start : start + step]
        rows = block[: len(part)]
        # "clip" writes straight into `out`; no index is out of bounds.
        np.take(matrix, part, axis=0, out=rows, mode="clip")
        np.dot(rows, query, out=made[start : start + step])
    return made


class Product:
    """A matrix times a query, in whichever way is the faster one here and now.

    BLAS divides a large product among threads. On idle cores that is the faster way; where they are
    busy, or fewer than BLAS believes, as in a container, it waits for threads that do not run:
    15 ms were measured instead of 0.5. Blocks that it does not divide never wait. Both ways are
    timed, and now and then the slower one is tried again. Safe without a lock: to lose a time does
    no harm.
    """

    def __init__(self) -> None:
        self._costs = [0.0, 0.0]  # seconds per number, as of late: whole, in blocks
        self._turn = 0

    def __call__(self, matrix: Vector, query: Vector) -> Vector:
        made: Vector
        if matrix.size <= _UNDIVIDED:
            made = np.dot(matrix, query)
            return made
        self._turn += 1
        way = 0 if self._costs[0] <= self._costs[1] else 1
        if self._turn % _RETRY == 0:
            way = 1 - way
        begun = perf_counter()
        made = _by_blocks(matrix, query) if way else np.dot(matrix, query)
        cost = (perf_counter() - begun) / matrix.size
        known = self._costs[way]
        self._costs[way] = (known or cost) / 2 + cost / 2
        return made


def _by_blocks(matrix: Vector, query: Vector) -> Vector:
    made = np.empty(len(matrix), np.float32)
    step = max(1, _UNDIVIDED // matrix.shape[1])
    for start in range(0, len(matrix), step):
        np.dot(matrix[start : start + step], query, out=made[start : start + step])
    return made


class Scale:
    """Scores of one query: products, or what they say of distances; the higher, the nearer.

    Args:
        query: float32; of norm 1 under "cosine", as the rows.
        largest: no row has a larger norm; not used under "cosine".

    Attributes:
        usable: whether float32 can hold the scores at all.
        lowest: below every score.
    """

    lowest: Final = -1e38

    def __init__(self, metric: Metric, query: Vector, largest: float) -> None:
        self._metric = metric
        # Under "cosine" nothing asks for it.
        known = metric == "cosine"
        self._square = 1.0 if known else float((query.astype(np.float64) ** 2).sum())
        self._norm = self._square**0.5
        self._largest = largest
        self.usable = metric == "cosine" or self._norm + largest < _HUGE
        # A sum of n products in any order errs by n units at most (Higham, Accuracy and
        # Stability of Numerical Algorithms, 3.1); the rest is for what is done before and after.
        self._units = (len(query) + 8) * _UNIT
        self._least = 2 * len(query) * _TINY + 1e-15

    def scores(self, products: Vector, squares: Any) -> Vector:
        """Of products of rows with the query, in their place; `squares`: of the rows' norms."""
        if self._metric == "l2":
            products *= 2
            products -= squares
        return products

    @property
    def error(self) -> float:
        """How much a score may be wrong."""
        return float(self._error(self._largest)) + self._least

    def errors(self, squares: Vector) -> Doubles:
        """The same for rows of these squared norms; under "cosine" use `error`."""
        made: Doubles = self._error(np.sqrt(squares.astype(np.float64))) + self._least
        return made

    def _error(self, norms: Any) -> Any:
        if self._metric == "cosine":
            return self._units
        if self._metric == "ip":
            return self._units * self._norm * norms
        return self._units * (self._norm + norms) ** 2

    def floor(self, distance: float) -> float:
        """The score of a distance."""
        if self._metric != "l2":
            return 1 - distance
        return self._square - distance * distance if distance >= 0 else float("inf")
