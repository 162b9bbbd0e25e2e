"""Vectors in PostgreSQL with the extension pgvector: a table per collection beside `documents`.

It is there if the extension was when the collection was made, or last emptied. Under "cosine" it
holds vectors of length 1, so that numbers of any size have products. The table gets an index
(HNSW) when it is worth one: until then writing is far cheaper, and comparing with all is quick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    column,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    table,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import UserDefinedType

from redis_tiered.tiers.schema import collections, documents
from redis_tiered.tiers.statements import Prepared
from redis_tiered.vectors import bulk, distances
from redis_tiered.vectors.criteria import ROW
from redis_tiered.vectors.document import Draft, Vector

__all__ = [
    "INDEX_FROM",
    "Side",
    "candidates",
    "clear",
    "create",
    "due",
    "forget",
    "index",
    "side",
    "write",
]

logger = logging.getLogger(__name__)

_NAME: Final = "redis_tiered_vectors_"
# Documents; fewer are compared in a few milliseconds, and with an index each takes one to be written.
INDEX_FROM: Final = 10_000
_MAX_DIMS: Final = 16_000  # of the type `vector`
_MAX_INDEXED: Final = 2000
_MAX_HALF: Final = 4000  # of an index of numbers of 16 bits, which hold what is at most 1 well
_BLOCK: Final = 500  # rows of one statement: with an index a row takes milliseconds


class Side(NamedTuple):
    """Whether a collection has a table here, and that an index that can be used."""

    exists: bool
    indexed: bool


def side(dialect: str) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """What makes a `Side`, of a row of `collections`."""
    if dialect != "postgresql":
        return null(), null()
    name = literal(_NAME, Text).concat(cast(collections.c.serial, Text))
    indexes = table("pg_index", column("indexrelid"), column("indisvalid"))
    usable = exists(literal_column("1")).where(
        indexes.c.indexrelid == func.to_regclass(name.concat(literal("_hnsw", Text))),
        indexes.c.indisvalid,
    )
    return func.to_regclass(name).is_not(None), usable


_STATE = Prepared(
    lambda dialect: select(
        collections.c.serial, collections.c.dims, collections.c.metric, *side(dialect)
    ).where(collections.c.scope == bindparam("in_scope"))
)


def create(connection: Connection, serial: int, dims: int) -> bool:
    """Make the table of a collection if that is possible.

    Args:
        connection: in a transaction.
        serial: of the collection.
        dims: length of its vectors.
    """
    if connection.dialect.name != "postgresql" or dims > _MAX_DIMS or not _extension(connection):
        return False
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {_NAME}{serial} "
            f"(number BIGINT PRIMARY KEY, vector VECTOR({dims}) NOT NULL)"
        )
    )
    return True


def _extension(connection: Connection) -> bool:
    installed = text("SELECT to_regtype('vector') IS NOT NULL")
    if connection.execute(installed).scalar():
        return True
    if not connection.execute(
        text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    ).first():
        return False
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        logger.warning(
            "PostgreSQL has pgvector, but this user may not enable it (CREATE EXTENSION vector): "
            "searches in the durable tier read all vectors"
        )
        return False
    return bool(connection.execute(installed).scalar())


def write(
    connection: Connection, serial: int, metric: str, first: int, drafts: Sequence[Draft]
) -> None:
    """Write vectors of documents whose numbers follow each other.

    Args:
        connection: in a transaction.
        serial, metric: of the collection.
        first: number of the first.
        drafts: with their vectors.
    """
    matrix: Vector = np.frombuffer(b"".join([draft.vector for draft in drafts]), "<f4")
    matrix = matrix.reshape(len(drafts), -1)
    if metric == "cosine":
        matrix = distances.unit(matrix)
    # Its binary form: the length, 0, and the numbers, big-endian.
    head = matrix.shape[1].to_bytes(2, "big") + b"\0\0"
    width = matrix.shape[1] * 4
    data = matrix.astype(">f4").tobytes()
    for start in range(0, len(drafts), _BLOCK):
        bulk.copy_binary(
            connection,
            f"{_NAME}{serial} (number, vector)",
            [
                (first + at, head + data[at * width : (at + 1) * width])
                for at in range(start, min(start + _BLOCK, len(drafts)))
            ],
        )


def forget(connection: Connection, serial: int, numbers: Sequence[int]) -> None:
    """Delete vectors by number."""
    connection.exec_driver_sql(
        f"DELETE FROM {_NAME}{serial} WHERE number = ANY(%s::bigint[])", (list(numbers),)
    )


def clear(connection: Connection, serial: int, dims: int) -> None:
    """Delete all vectors of a collection, and make its table if there can be one now."""
    if not create(connection, serial, dims):
        return
    try:
        # To empty it at once, and without an index that every later row would have to enter; but
        # not to wait for who reads it, or builds that index.
        with connection.begin_nested():
            connection.execute(text(f"LOCK TABLE {_NAME}{serial} NOWAIT"))
            connection.execute(text(f"DROP INDEX IF EXISTS {_NAME}{serial}_hnsw"))
            connection.execute(text(f"TRUNCATE {_NAME}{serial}"))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        connection.execute(text(f"DELETE FROM {_NAME}{serial}"))


def _operators(metric: str, dims: int) -> tuple[str, str, str] | None:
    """Type, operator and class of operators of an index; None: there can be none."""
    kind = "l2" if metric == "l2" else "ip"
    operator = "<->" if metric == "l2" else "<#>"
    if dims <= _MAX_INDEXED:
        return f"VECTOR({dims})", operator, f"vector_{kind}_ops"
    if dims <= _MAX_HALF and metric == "cosine":
        return f"HALFVEC({dims})", operator, f"halfvec_{kind}_ops"
    return None


def due(connection: Connection, serial: int, metric: str, dims: int) -> bool:
    """Whether a table without an index should get one."""
    if _operators(metric, dims) is None:
        return False
    some = f"SELECT 1 FROM {_NAME}{serial} LIMIT {INDEX_FROM}"
    counted = connection.exec_driver_sql(f"SELECT count(*) FROM ({some}) AS part").scalar_one()
    return bool(counted >= INDEX_FROM)


def index(scope: str) -> Callable[[Connection], bool]:
    """Build a collection's index if it is due; tells whether this call did.

    To be yielded as `Sql(index(scope))`, without `write`: it does not hold up who writes, and what
    does not cannot be in a transaction. It may take minutes, and has no time limit.
    """

    def work(connection: Connection) -> bool:
        if connection.dialect.name != "postgresql":
            return False
        state = _STATE(connection, {"in_scope": scope}).first()
        if state is None:
            return False
        serial, dims, metric, there, indexed = state
        kinds = _operators(metric, dims)
        if not there or indexed or kinds is None or not due(connection, serial, metric, dims):
            return False
        name = f"{_NAME}{serial}"
        if connection.execute(
            text("SELECT 1 FROM pg_stat_progress_create_index WHERE relid = to_regclass(:name)"),
            {"name": name},
        ).first():
            return False
        kind, _, operators = kinds
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SET lock_timeout = 0"))
        try:
            # One that is there is what a process that was killed left behind.
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_hnsw"))
            connection.execute(
                text(
                    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name}_hnsw ON {name} "
                    f"USING hnsw ((vector::{kind}) {operators})"
                )
            )
        finally:
            if not connection.invalidated:
                connection.execute(text("RESET statement_timeout"))
                connection.execute(text("RESET lock_timeout"))
        return True

    return work


class _Type(UserDefinedType[Any]):
    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


def candidates(
    connection: Connection,
    scope: str,
    vector: Vector,
    k: int,
    conditions: Sequence[ColumnElement[bool]],
) -> list[Any] | None:
    """Documents that are among the nearest, a few more than asked for, as rows of `selected`.

    Args:
        connection: not in a transaction.
        scope: of the collection.
        vector: to compare with.
        k: how many are wanted.
        conditions: on `documents`.

    Returns:
        None: there is no table of vectors.
    """
    state = _STATE(connection, {"in_scope": scope}).first()
    if state is None or not state[3]:
        return None
    serial, dims, metric, _, indexed = state
    kind, operator, _ = _operators(metric, dims) or (f"VECTOR({dims})", "<->", "")
    if metric != "l2":
        operator = "<#>"
    if metric == "cosine":
        vector = distances.unit(vector[None])[0]
    side = table(f"{_NAME}{serial}", column("number", BigInteger), column("vector"))
    shown = "[" + ",".join(map(repr, vector.tolist())) + "]"
    distance = cast(side.c.vector, _Type(kind)).op(operator)(
        cast(literal(shown, Text), _Type(kind))
    )
    query = select(*ROW).join(side, side.c.number == documents.c.number).where(*conditions).limit(k)
    connection.exec_driver_sql(
        "BEGIN READ ONLY; SET LOCAL hnsw.iterative_scan = strict_order; "
        f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * k))}"
    )
    try:
        found = list(connection.execute(query.order_by(distance)))
        if indexed and len(found) < k:
            # It looks at so many vectors and no more; few documents satisfy the conditions, so
            # that to compare with all of them is quick.
            exact = distance + literal_column("0")
            found = list(connection.execute(query.order_by(exact)))
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
    return found
