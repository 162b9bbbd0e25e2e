"""SQL of scopes: which of a scope's rows count, and under which epoch Redis has them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, select, update

from redis_tiered.tiers.schema import scopes
from redis_tiered.tiers.statements import Prepared, insert

__all__ = ["begun", "ensure", "epoch", "held_generation", "new_epoch", "new_generation"]

_GENERATION = select(scopes.c.generation).where(scopes.c.scope == bindparam("scope"))
_HOLD_GENERATION = Prepared(lambda _: _GENERATION.with_for_update(read=True))
_EPOCH = select(scopes.c.epoch).where(scopes.c.scope == bindparam("scope"))
_MAKE = Prepared(
    lambda dialect: (
        insert(dialect, scopes)
        .values({name: bindparam(name) for name in ("scope", "generation", "epoch")})
        .on_conflict_do_nothing()
    )
)


def epoch(scope: str) -> Callable[[Connection], str | None]:
    """The scope's epoch; None: it has never been used."""
    return lambda connection: connection.execute(_EPOCH, {"scope": scope}).scalar()


def ensure(scope: str, fresh: str) -> Callable[[Connection], str]:
    """The scope's epoch; it is made if it is not there."""

    def work(connection: Connection) -> str:
        held_generation(connection, scope, fresh)
        return str(connection.execute(_EPOCH, {"scope": scope}).scalar())

    return work


def new_epoch(scope: str, fresh: str) -> Callable[[Connection], None]:
    """Make everything in Redis unreachable, for it may be older than what is here."""

    def work(connection: Connection) -> None:
        connection.execute(update(scopes).where(scopes.c.scope == scope).values(epoch=fresh))

    return work


def new_generation(scope: str, fresh: str) -> Callable[[Connection], None]:
    """Make everything stored so far unreachable, here and in Redis."""

    def work(connection: Connection) -> None:
        begun(connection, scope, fresh)
        connection.execute(
            update(scopes).where(scopes.c.scope == scope).values(epoch=fresh, generation=fresh)
        )

    return work


def begun(connection: Connection, scope: str, fresh: str) -> None:
    """Make the scope if it is not there. It is not held: two who hold it, and then both change it,
    would wait for each other."""
    _MAKE(connection, {"scope": scope, "generation": fresh, "epoch": fresh})


def held_generation(connection: Connection, scope: str, fresh: str) -> str:
    """The generation of rows that count, which cannot change before this transaction ends.

    Args:
        connection: in a transaction that writes.
        scope: made if it is not there.
        fresh: a new token, then its generation and epoch.
    """
    # A clear that commits while we write must not leave our row in the new generation: on
    # PostgreSQL the scope is held until we commit; SQLite has one writer at a time anyway.
    found = _HOLD_GENERATION(connection, {"scope": scope}).first()
    if found is None:
        begun(connection, scope, fresh)
        [found] = _HOLD_GENERATION(connection, {"scope": scope}).rows
    return str(found[0])
