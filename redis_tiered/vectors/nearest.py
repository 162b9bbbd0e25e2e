"""Nearest neighbours in the durable tier: by pgvector where it is, else by reading all vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, select

from redis_tiered.tiers.schema import documents
from redis_tiered.vectors import pgvector
from redis_tiered.vectors.criteria import (
    SHIFT,
    among_numbers,
    criteria,
    given_numbers,
    row_of,
    selected,
)
from redis_tiered.vectors.distances import exact
from redis_tiered.vectors.document import Metric, Row, Vector
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.reads import Head

__all__ = ["search"]

_PAGE_BYTES: Final = 2 << 20
_MORE: Final = 16  # pgvector's float32 may have put them in another order

_Near = tuple[float, bytes, int]


def search(
    scope: str,
    head: Head,
    vector: Vector,
    k: int | None,
    where: Filter | None = None,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
    now: int | None = None,
    max_distance: float | None = None,
    *,
    vectors: bool = True,
) -> Callable[[Connection], list[tuple[float, Row]]]:
    """The nearest documents, ties in order of their ids.

    Exact, but where pgvector has an index: what that finds is in the right order, and may lack a
    few. To be yielded as `Sql(search(...))`, without `write`.

    Args:
        scope, head: of the collection.
        vector: float32 of shape `(head.dims,)`.
        k: how many at most; None: all, or all within `max_distance`.
        where: what metadata must satisfy; None: anything.
        ids, parents: the only ones wanted; None: any.
        now: milliseconds since 1970; what expired before is left out.
        max_distance: how far at most, see `Hit`; None: any.
        vectors: whether vectors are wanted; if not, they are empty.

    Returns:
        A unit of work that gives distances (see `Hit`) and documents.
    """
    metric = cast(Metric, head.metric)
    limit = float("inf") if max_distance is None else max_distance

    def work(connection: Connection) -> list[tuple[float, Row]]:
        dialect = connection.dialect.name
        conditions = criteria(
            dialect, scope, where=where, ids=ids, parents=parents, now=now, joined=True
        )
        if k is not None and dialect == "postgresql":
            found = pgvector.candidates(connection, scope, vector, k + _MORE, conditions)
            if found is not None:
                rows = [row_of(row) for row in found]
                distances = _distances(metric, [row.vector for row in rows], vector).tolist()
                near = sorted(zip(distances, [row.id for row in rows], rows, strict=True))
                return [
                    (distance, row if vectors else row._replace(vector=b""))
                    for distance, _, row in near[:k]
                    if distance <= limit
                ]
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        connection.exec_driver_sql(begin if dialect == "postgresql" else "BEGIN")
        try:
            best = _scanned(connection, head.serial, metric, vector, k, limit, conditions)
            return _rows(connection, best, vectors)
        finally:
            if not connection.invalidated:
                connection.exec_driver_sql("ROLLBACK")

    return work


def _distances(metric: Metric, vectors: Sequence[bytes], query: Vector) -> NDArray[np.float64]:
    if not vectors:
        return np.empty(0)
    matrix: Vector = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
    return exact(metric, matrix, np.arange(len(vectors)), query)


def _scanned(
    connection: Connection,
    serial: int,
    metric: Metric,
    query: Vector,
    k: int | None,
    limit: float,
    conditions: Sequence[ColumnElement[bool]],
) -> list[_Near]:
    """All that satisfy the conditions, page by page; the best of them are kept.

    There is one lower bound of the number: SQLite would start each page at the first of two.
    """
    at = documents.c
    size = max(1, _PAGE_BYTES // (4 * len(query)))
    after, end = serial * SHIFT, (serial + 1) * SHIFT
    pages = select(at.number, at.id, at.vector).where(*conditions, at.number < end)
    pages = pages.order_by(at.number).limit(size)
    best: list[_Near] = []
    while True:
        page = connection.execute(pages.where(at.number > after)).all()
        if page:
            after = page[-1][0]
            distances = _distances(metric, [row[2] for row in page], query)
            if k is not None and 0 < k < len(page):
                limit = min(limit, float(np.partition(distances, k - 1)[k - 1]))
            for place in np.flatnonzero(distances <= limit).tolist():
                best.append((float(distances[place]), bytes(page[place][1]), page[place][0]))
            best.sort()
            if k is not None:
                del best[k:]
                limit = best[-1][0] if len(best) == k > 0 else limit
        if len(page) < size:
            return best


def _rows(connection: Connection, best: Sequence[_Near], vectors: bool) -> list[tuple[float, Row]]:
    dialect = connection.dialect.name
    given = given_numbers(dialect, [number for _, _, number in best])
    rows: Any = connection.execute(
        selected(vectors=vectors).where(
            among_numbers(dialect, documents.c.number, "numbers", given)
        )
    )
    by_number = {row[0]: row_of(row) for row in rows}
    return [(distance, by_number[number]) for distance, _, number in best]
