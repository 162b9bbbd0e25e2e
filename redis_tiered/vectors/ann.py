"""Approximate search by faiss: a graph of neighbours over the rows of an index.

The graph (HNSW) only proposes rows; the index computes their distances exactly. Rows that changed
since it was built are left out of what it proposes, and new ones are compared one by one, so that
an answer is never wrong, it may only lack some that are near.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import MissingExtra
from redis_tiered.vectors.document import Metric, Vector

__all__ = ["CROSSOVER", "Graph", "Neighbours", "require"]

# Numbers in a matrix, from which on a graph is worth its building: there an exact search takes
# 5 ms on two cores, one by the graph 0.1.
CROSSOVER: Final = 38_400_000
_LINKS: Final = 16
_BUILD: Final = 40  # rows that are looked at for the links of one
_SEARCH: Final = 64  # and for a search, at least
_MOST: Final = 1000  # above, an exact search is as fast
_SHARE: Final = 0.5  # of rows that come into question; below, too many proposals are in vain
_BATCH: Final = 1 << 14


def require() -> None:
    """Raises MissingExtra if faiss is not installed."""
    if find_spec("faiss") is None:
        raise MissingExtra("ann", "approximate search")


class Neighbours(NamedTuple):
    """The graph as a search sees it: as it was when that began.

    Attributes:
        rows: the slot of each row of the graph.
        covered: by slot, whether what the graph has of it is what is there.
        fresh: slots of documents that are not covered.
    """

    graph: Any
    rows: NDArray[np.intp]
    covered: NDArray[np.bool_]
    fresh: NDArray[np.intp]

    def nearest(
        self, query: Vector, k: int, passing: NDArray[np.bool_] | None, count: int
    ) -> NDArray[np.intp] | None:
        """Slots among which most of the nearest are.

        Args:
            query: of norm 1 under "cosine".
            k: how many are wanted.
            passing: the slots that come into question; None: all.
            count: how many these are.

        Returns:
            None: an exact search is better.
        """
        faiss: Any = import_module("faiss")
        fresh = self.fresh if passing is None else self.fresh[passing[self.fresh]]
        expected = count - len(fresh)
        if expected < _SHARE * len(self.rows):
            return None
        wanted = min(len(self.rows), ceil(1.2 * k * len(self.rows) / expected) + 8)
        if wanted > _MOST:
            return None
        options = faiss.SearchParametersHNSW(efSearch=max(_SEARCH, 2 * wanted))
        _, labels = self.graph.search(query[None], wanted, params=options)
        slots = self.rows[labels[0][labels[0] >= 0]]
        slots = slots[self.covered[slots]]
        if passing is not None:
            slots = slots[passing[slots]]
        if len(slots) < min(k, expected):
            return None
        return np.concatenate((slots, fresh))


class Graph:
    """A graph of the rows of a matrix, in their slots.

    Args:
        matrix: of rows that do not change, or whose slots are told to `install`.
        slots: its rows that have documents.
        metric: of the index; under "cosine" rows are of norm 1.
    """

    def __init__(self, matrix: Vector, slots: NDArray[np.intp], metric: Metric) -> None:
        faiss: Any = import_module("faiss")
        # Of directions the nearest by angle are the nearest in space, where a graph does better.
        kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
        self._graph: Any = faiss.IndexHNSWFlat(matrix.shape[1], _LINKS, kind)
        self._graph.hnsw.efConstruction = _BUILD
        for start in range(0, len(slots), _BATCH):
            self._graph.add(matrix[slots[start : start + _BATCH]])
        self._rows = slots
        self._covered = np.zeros(0, np.bool_)
        self._count = 0
        self._fresh: set[int] = set()

    def install(self, capacity: int, alive: NDArray[np.bool_], touched: Iterable[int]) -> None:
        """From now on changes are told by `put` and `drop`.

        Args:
            capacity: how many slots there are.
            alive: which of them have documents, from the first on.
            touched: slots that may have changed since the graph was begun.
        """
        self._covered = np.zeros(capacity, np.bool_)
        self._covered[self._rows] = True
        self._covered[list(touched)] = False
        used = len(alive)
        self._covered[:used] &= alive
        self._count = int(np.count_nonzero(self._covered))
        self._fresh = set((alive & ~self._covered[:used]).nonzero()[0].tolist())

    def put(self, slot: int) -> None:
        """There is a new document in a slot."""
        self._fresh.add(slot)

    def drop(self, slot: int) -> None:
        """A slot has no document any more."""
        self._fresh.discard(slot)
        if slot < len(self._covered) and self._covered[slot]:
            self._covered[slot] = False
            self._count -= 1

    def neighbours(self) -> Neighbours:
        """For a search that begins."""
        covered = self._covered
        if self._count < len(self._rows):
            covered = covered.copy()
        fresh = np.fromiter(self._fresh, np.intp, len(self._fresh))
        return Neighbours(self._graph, self._rows, covered, fresh)

    @property
    def changed(self) -> float:
        """Documents that came, or that went, since it was built, as a share of those then."""
        return max(len(self._fresh), len(self._rows) - self._count) / len(self._rows)

    @property
    def bytes(self) -> int:
        links = self._graph.ntotal * (4 * self._graph.d + 8 * _LINKS + 16)
        return int(links) + self._rows.nbytes + self._covered.nbytes + 60 * len(self._fresh)
