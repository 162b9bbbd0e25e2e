"""The row of a collection in the durable tier: made, locked, marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    bindparam,
    func,
    literal_column,
    select,
    text,
    update,
)

from redis_tiered.tiers.schema import collections
from redis_tiered.tiers.statements import Prepared, insert
from redis_tiered.vectors import pgvector
from redis_tiered.vectors.reads import HEAD, Head, head

__all__ = ["Held", "advance", "hold", "make", "miss", "opened", "recovered"]


class Held(NamedTuple):
    """A collection whose row is locked until the transaction ends."""

    head: Head
    side: pgvector.Side


def _open(dialect: str) -> Executable:
    made: Any = insert(dialect, collections)
    next_serial = select(func.coalesce(func.max(collections.c.serial), 0) + literal_column("1"))
    values = {
        "scope": bindparam("in_scope"),
        "serial": next_serial.scalar_subquery(),
        "dims": bindparam("of_dims"),
        "metric": bindparam("of_metric"),
        "version": literal_column("0"),
        "pruned": literal_column("0"),
        "created": bindparam("now"),
    }
    made = made.values(values).on_conflict_do_nothing()
    return made.returning(collections.c.serial)  # type: ignore[no-any-return]


_SCOPED = collections.c.scope == bindparam("in_scope")
_HOLD = Prepared(
    lambda dialect: select(*HEAD, *pgvector.side(dialect)).where(_SCOPED).with_for_update()
)
_ADVANCE = Prepared(
    lambda dialect: (
        update(collections)
        .where(_SCOPED)
        .values(version=collections.c.version + bindparam("more", type_=BigInteger))
        .returning(*HEAD, *pgvector.side(dialect))
    )
)
_OPEN = Prepared(_open)
# One at a time, or two would take the same serial. The number names our lock among others.
_OPEN_LOCK = text("SELECT pg_advisory_xact_lock(7215604338127115)")


def opened(scope: str, dims: int, metric: str, now: int) -> Callable[[Connection], Head]:
    """The collection's row, made if it is not there; one that is there stays as it is.

    Args:
        scope: of the collection.
        dims, metric: of a new one.
        now: milliseconds since 1970.
    """

    def work(connection: Connection) -> Head:
        there = head(scope)(connection)
        if there is None:
            make(connection, scope, dims, metric, now)
            there = head(scope)(connection)
        assert there is not None
        return there

    return work


def miss(scope: str, now: int) -> Callable[[Connection], None]:
    """Note that Redis may lack changes from now on (milliseconds since 1970), unless that is
    noted already."""
    at = collections.c
    noted = update(collections).where(at.scope == scope, at.missed.is_(None)).values(missed=now)
    return lambda connection: connection.execute(noted).close()


def recovered(scope: str, upto: int) -> Callable[[Connection], None]:
    """Take that back, if there are no changes after version `upto`."""
    at = collections.c
    noted = update(collections).where(at.scope == scope, at.version <= upto).values(missed=None)
    return lambda connection: connection.execute(noted).close()


def make(connection: Connection, scope: str, dims: int, metric: str, now: int) -> None:
    """Make a collection unless it is there; as `opened`."""
    if connection.dialect.name == "postgresql":
        connection.execute(_OPEN_LOCK)
    values = {"in_scope": scope, "of_dims": dims, "of_metric": metric, "now": now}
    made = _OPEN(connection, values).first()
    if made is not None:
        pgvector.create(connection, made[0], dims)


def hold(connection: Connection, scope: str) -> Held | None:
    """Lock a collection's row; None: there is none."""
    return _held(_HOLD(connection, {"in_scope": scope}).first())


def advance(connection: Connection, scope: str, more: int) -> Held | None:
    """Lock it and give it a version that is `more` higher."""
    return _held(_ADVANCE(connection, {"in_scope": scope, "more": more}).first())


def _held(row: Sequence[Any] | None) -> Held | None:
    if row is None:
        return None
    return Held(Head(*row[:-2]), pgvector.Side(bool(row[-2]), bool(row[-1])))
