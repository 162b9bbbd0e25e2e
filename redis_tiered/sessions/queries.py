"""SQL that reads sessions: functions of a `Connection`, the same for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, select, tuple_

from redis_tiered.errors import TierUnavailable
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions.record import Record, State
from redis_tiered.tiers.schema import messages, sessions
from redis_tiered.tiers.statements import Prepared

__all__ = [
    "RECORD",
    "Snapshot",
    "as_state",
    "folded",
    "listing",
    "load",
    "locked",
    "of",
    "page",
    "record_of",
    "records_of",
    "search",
]

_key = and_(sessions.c.scope == bindparam("scope"), sessions.c.session == bindparam("session"))
_state_query = select(*[sessions.c[name] for name in State._fields]).where(_key)
_STATE = Prepared(lambda _: _state_query)
_LOCK = Prepared(lambda _: _state_query.with_for_update())
_VERSION = Prepared(lambda _: select(sessions.c.version).where(_key))
_in_session = and_(
    messages.c.scope == bindparam("scope"), messages.c.session == bindparam("session")
)
RECORD = tuple(messages.c[name] for name in Record._fields)
_NEWEST = Prepared(
    lambda _: (
        select(*RECORD)
        .where(_in_session, messages.c.archived.is_(False))
        .order_by(messages.c.sequence.desc())
        .limit(bindparam("limit"))
    )
)
_FIRST = Prepared(
    lambda _: (
        select(*RECORD, messages.c.role)
        .where(_in_session, messages.c.archived.is_(False))
        .order_by(messages.c.sequence)
        .limit(1)
    )
)


class Snapshot(NamedTuple):
    """A session at one moment.

    Attributes:
        newest: its newest active messages, in order.
        lead: its first active message, if that is a system message.
    """

    state: State
    newest: tuple[Record, ...]
    lead: Record | None


def load(
    keys: SessionKeys, limit: int, *, lock: bool = False
) -> Callable[[Connection], Snapshot | None]:
    """A session with its newest `limit` active messages; None: there is no such session.

    Args:
        keys: of the session.
        limit: how many.
        lock: keep others from changing it meanwhile; then it must run as one that writes.

    Raises (from the unit of work):
        TierUnavailable: `"serialization"`: it changed again and again while it was read.
    """

    def work(connection: Connection) -> Snapshot | None:
        parameters = {"scope": keys.scope, "session": keys.session, "limit": limit}
        query = _LOCK if lock else _STATE
        for _ in range(3):
            at = as_state(query(connection, parameters).first())
            if at is None:
                return None
            newest = records_of(_NEWEST(connection, parameters).rows)[::-1]
            lead = None
            first = _FIRST(connection, parameters).first()
            if first is not None and first[-1] == "system":
                lead = record_of(first[:-1])
            if _VERSION(connection, parameters).first() == (at.version,):
                return Snapshot(at, newest, lead)
        raise TierUnavailable("durable", "serialization")

    return work


def page(
    keys: SessionKeys,
    offset: int,
    limit: int | None,
    *,
    newest: bool,
    archived: bool | None,
    before: int | None = None,
) -> Callable[[Connection], tuple[Record, ...]]:
    """Part of the log, in the order asked for; `before`: only sequences below it."""

    def work(connection: Connection) -> tuple[Record, ...]:
        order = messages.c.sequence.desc() if newest else messages.c.sequence
        query = select(*RECORD).where(*of(keys)).order_by(order)
        if archived is not None:
            query = query.where(messages.c.archived.is_(archived))
        if before is not None:
            query = query.where(messages.c.sequence < before)
        if limit is not None:
            query = query.limit(limit)
        if offset:
            # SQLite knows no OFFSET without LIMIT; SQLAlchemy writes one for it.
            query = query.offset(offset)
        return records_of(connection.execute(query))

    return work


def search(
    keys: SessionKeys, text: str, offset: int, limit: int
) -> Callable[[Connection], tuple[Record, ...]]:
    """Messages whose text holds another, case folded; newest first."""

    def work(connection: Connection) -> tuple[Record, ...]:
        place = func.strpos if connection.dialect.name == "postgresql" else func.instr
        query = (
            select(*RECORD)
            .where(*of(keys), place(messages.c.folded, folded(text)) > 0)
            .order_by(messages.c.sequence.desc())
            .limit(limit)
            .offset(offset)
        )
        return records_of(connection.execute(query))

    return work


def listing(
    scope: str, status: str | None, limit: int, after: tuple[int, str] | None
) -> Callable[[Connection], tuple[tuple[str, State], ...]]:
    """A tenant's sessions, the latest active first; `after`: last activity and id to go on behind."""

    def work(connection: Connection) -> tuple[tuple[str, State], ...]:
        query = select(sessions.c.session, *[sessions.c[name] for name in State._fields]).where(
            sessions.c.scope == scope
        )
        if status is not None:
            query = query.where(sessions.c.status == status)
        if after is not None:
            query = query.where(tuple_(sessions.c.last_activity, sessions.c.session) < after)
        query = query.order_by(sessions.c.last_activity.desc(), sessions.c.session.desc())
        rows = connection.execute(query.limit(limit))
        return tuple((str(row[0]), as_state(row[1:])) for row in rows)  # type: ignore[misc]

    return work


def folded(text: str) -> str:
    """A text as it is searched: case folded; NUL, which PostgreSQL refuses, is another sign."""
    return text.casefold().replace("\0", "\N{REPLACEMENT CHARACTER}")


def of(keys: SessionKeys) -> tuple[ColumnElement[bool], ...]:
    return messages.c.scope == keys.scope, messages.c.session == keys.session


def locked(connection: Connection, keys: SessionKeys) -> State | None:
    return as_state(_LOCK(connection, {"scope": keys.scope, "session": keys.session}).first())


def as_state(row: Any) -> State | None:
    if row is None:
        return None
    at = State(*row)
    return at._replace(
        context=bytes(at.context), summary=None if at.summary is None else bytes(at.summary)
    )


def records_of(rows: Any) -> tuple[Record, ...]:
    return tuple([record_of(row) for row in rows])


def record_of(row: Any) -> Record:
    value, sequence, tokens, counter, created, archived = row
    return Record(bytes(value), sequence, tokens, counter, created, bool(archived))
