"""Which epoch of the sessions' windows is current, as the durable tier keeps it.

See `redis_tiered.sessions.trust` for what an epoch is.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, select, update

from redis_tiered.sessions.trust import UNADOPTED
from redis_tiered.tiers.schema import scopes
from redis_tiered.tiers.scopes import begun
from redis_tiered.tiers.statements import Prepared

__all__ = ["HELD", "adopt", "distrust", "epoch", "hold"]

_epoch_query = select(scopes.c.epoch).where(scopes.c.scope == bindparam("trust"))
_EPOCH = Prepared(lambda _: _epoch_query)
_LOCK_EPOCH = Prepared(lambda _: _epoch_query.with_for_update())
# For other statements: nobody changes it before they commit.
HELD = _epoch_query.with_for_update(read=True)
_HOLD_EPOCH = Prepared(lambda _: HELD)


def epoch(trust: str) -> Callable[[Connection], str | None]:
    """The current epoch; None: there is none yet."""

    def work(connection: Connection) -> str | None:
        found = _EPOCH(connection, {"trust": trust}).first()
        return None if found is None else str(found[0])

    return work


def adopt(trust: str, ended: str, servers: str) -> Callable[[Connection], str]:
    """Begin to use these servers if `ended` is still the epoch; gives the one that is now."""

    def work(connection: Connection) -> str:
        found = hold(connection, trust, ended, exclusively=True)
        if found == ended:
            found = found.removeprefix(UNADOPTED) + servers
            connection.execute(update(scopes).where(scopes.c.scope == trust).values(epoch=found))
        return found

    return work


def distrust(trust: str, fresh: str) -> Callable[[Connection], str]:
    """Make every window in Redis unreachable, unless nobody uses any; gives the epoch that is now."""

    def work(connection: Connection) -> str:
        found = hold(connection, trust, fresh, exclusively=True)
        if not found.startswith(UNADOPTED):
            found = UNADOPTED + fresh
            connection.execute(update(scopes).where(scopes.c.scope == trust).values(epoch=found))
        return found

    return work


def hold(connection: Connection, trust: str, fresh: str, *, exclusively: bool = False) -> str:
    """The epoch, which nobody changes before we commit."""
    query = _LOCK_EPOCH if exclusively else _HOLD_EPOCH
    found = query(connection, {"trust": trust}).first()
    if found is None:
        begun(connection, trust, fresh)
        [found] = query(connection, {"trust": trust}).rows
    return str(found[0])
