"""What is nearest to a vector, among rows that do not change meanwhile."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.vectors.ann import Neighbours
from redis_tiered.vectors.codes import Mask
from redis_tiered.vectors.distances import Product, Scale, close, exact, gathered
from redis_tiered.vectors.document import Metric, Vector
from redis_tiered.vectors.slots import Slots

__all__ = ["View", "candidates", "nearest"]

Chosen = NDArray[np.intp]

# If so many of the rows come into question, or fewer, to gather them costs less than to multiply
# all: measured, for 384 to 1536 dimensions.
_FEW: Final = 0.25


class View(NamedTuple):
    """What a search looks at, as it was when it began.

    Attributes:
        matrix, squares, ids, kept, versions, largest: as of `Rows`.
        used: how many rows there are; others are not to be looked at.
        passing: which come into question; None: all.
        size: how many these are.
        neighbours: of the graph, if there is one.
        product: multiplies.
        slots, ticket: what is to be left at the end, and by which ticket.
    """

    matrix: Vector
    squares: Vector
    ids: list[bytes]
    kept: list[Any]
    versions: NDArray[np.int64]
    largest: float
    used: int
    passing: Mask | None
    size: int
    neighbours: Neighbours | None
    product: Product
    slots: Slots
    ticket: int

    def chosen(self) -> Chosen:
        """The rows that come into question."""
        return np.arange(self.used) if self.passing is None else self.passing.nonzero()[0]


def nearest(
    metric: Metric,
    view: View,
    query: Vector,
    k: int | None,
    max_distance: float | None,
) -> list[tuple[float, bytes, int]]:
    """Distances, ids and rows, in order of (distance, id).

    Args:
        metric: how vectors are compared.
        view: among which.
        query: of norm 1 under "cosine".
        k: how many at most; None: all.
        max_distance: how far at most; None: any.
    """
    if view.size == 0 or (k is not None and k < 1):
        return []
    slots = None
    if k is not None and max_distance is None and view.neighbours is not None:
        slots = view.neighbours.nearest(query, k, view.passing, view.size)
    if slots is None:
        slots = _screened(metric, view, query, k, max_distance)
    return _ranked(metric, view, slots, query, k, max_distance)


def candidates(
    metric: Metric, view: View, query: Vector, k: int | None
) -> tuple[list[int], list[float]]:
    """Rows among which the nearest are, and their distances as `close` computes them."""
    if view.size == 0 or (k is not None and k < 1):
        return [], []
    slots = _screened(metric, view, query, k, None)
    return slots.tolist(), close(view.matrix, slots, query).tolist()


def _screened(
    metric: Metric, view: View, query: Vector, k: int | None, max_distance: float | None
) -> Chosen:
    """Rows among which the nearest are, as far as float32 can tell."""
    scale = Scale(metric, query, view.largest)
    if not scale.usable or (max_distance is None and (k is None or k >= view.size)):
        return view.chosen()
    rows: Chosen | None = None
    norms = view.squares[: view.used]
    if view.passing is not None and view.size <= _FEW * view.used:
        rows = view.chosen()
        products = gathered(view.matrix, rows, query)
        if len(norms):
            norms = norms[rows]
    else:
        products = view.product(view.matrix[: view.used], query)
    scores = scale.scores(products, norms)
    if rows is None and view.passing is not None and view.size < view.used:
        # Arithmetic, as to assign by a mask takes ten times as long.
        penalty = view.passing.astype(np.float32)
        penalty -= 1
        penalty *= -3 * scale.lowest
        scores += penalty
    floor = scale.lowest
    if k is not None and k < view.size:
        place = len(scores) - k
        floor = max(floor, float(np.partition(scores, place)[place]) - 2 * scale.error)
    if max_distance is not None:
        floor = max(floor, scale.floor(max_distance) - scale.error)
    found = (scores >= min(floor, -scale.lowest)).nonzero()[0]
    if k is not None and metric != "cosine" and len(found) > 8 * k + 64:
        # One vector that is much longer than the others makes the bound of all errors wide.
        near, errors = scores[found], scale.errors(norms[found])
        place = len(found) - k
        found = found[near + errors >= np.partition(near - errors, place)[place]]
    return found if rows is None else rows[found]


def _ranked(
    metric: Metric,
    view: View,
    slots: Chosen,
    query: Vector,
    k: int | None,
    max_distance: float | None,
) -> list[tuple[float, bytes, int]]:
    distances = exact(metric, view.matrix, slots, query)
    limit = float("inf") if max_distance is None else max_distance
    if k is not None and k < len(slots):
        limit = min(limit, float(np.partition(distances, k - 1)[k - 1]))
    if limit != float("inf"):
        near = distances <= limit
        slots, distances = slots[near], distances[near]
    found = zip(distances.tolist(), slots.tolist(), strict=True)
    return sorted([(distance, view.ids[slot], slot) for distance, slot in found])[:k]
