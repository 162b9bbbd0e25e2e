"""SQL that changes sessions: functions of a `Connection`, the same for SQLite and PostgreSQL.

A change locks the session's row, so that changes of one session come one after another, and gives
the row's state before and after it together with the epoch that holds while it commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Executable,
    bindparam,
    case,
    delete,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from redis_tiered.errors import TierUnavailable
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions import epochs
from redis_tiered.sessions.log import Draft
from redis_tiered.sessions.message import Message, unpack
from redis_tiered.sessions.queries import (
    RECORD,
    as_state,
    folded,
    locked,
    of,
    record_of,
    records_of,
)
from redis_tiered.sessions.record import Record, State
from redis_tiered.tiers.schema import messages, sessions
from redis_tiered.tiers.statements import Prepared

__all__ = [
    "Change",
    "append",
    "append_all",
    "clear",
    "count_again",
    "edit",
    "remove",
    "replace",
    "summarize",
    "touch",
]

_BATCH = 500


def _advance(_: str) -> Executable:
    held = epochs.HELD.cte("held")
    at = sessions.c
    values = {
        "version": at.version + 1,
        "next": at.next + bindparam("added"),
        "status": "active",
        "messages": at.messages + bindparam("shown"),
        "archived": at.archived + bindparam("hidden"),
        "turns": at.turns + bindparam("turned"),
        "tokens": at.tokens + bindparam("spent"),
        "counter": case((at.counter == "", bindparam("counted_by")), else_=at.counter),
        "last_activity": case(
            (at.last_activity > bindparam("now"), at.last_activity), else_=bindparam("now")
        ),
    }
    return (
        update(sessions)
        .where(at.scope == bindparam("in_scope"), at.session == bindparam("in_session"))
        .values(values)
        .returning(*[at[name] for name in State._fields], select(held.c.epoch).scalar_subquery())
    )


def _insert_new(dialect: str) -> Executable:
    made = postgresql.insert(messages) if dialect == "postgresql" else sqlite.insert(messages)
    return made.on_conflict_do_nothing(index_elements=["scope", "session", "id"])


def _insert_session(dialect: str) -> Executable:
    made = postgresql.insert(sessions) if dialect == "postgresql" else sqlite.insert(sessions)
    return made.on_conflict_do_nothing()


_INSERT_SESSION = Prepared(_insert_session)
# An append is these two statements.
_ADVANCE = Prepared(_advance)
_INSERT_NEW = Prepared(_insert_new)
_UPDATE = update(sessions).where(
    sessions.c.scope == bindparam("in_scope"), sessions.c.session == bindparam("in_session")
)


class _Added(NamedTuple):
    """What drafts add to a session's counts."""

    added: int
    shown: int
    hidden: int
    turned: int
    spent: int
    counted_by: str

    @classmethod
    def of(cls, drafts: Sequence[Draft]) -> _Added:
        shown = [draft for draft in drafts if not draft.archived]
        return cls(
            len(drafts),
            len(shown),
            len(drafts) - len(shown),
            sum(draft.message.role == "human" for draft in shown),
            sum(draft.tokens for draft in shown),
            drafts[0].counter if drafts else "",
        )


class Change(NamedTuple):
    """What a unit of work did.

    Attributes:
        before: version of the session before; None: there was no such session.
        state: after it; None: the session is gone, or there never was one.
        epoch: current when it commits.
        records: what was written, or taken away.
    """

    before: int | None
    state: State | None
    epoch: str
    records: tuple[Record, ...] = ()


def append(
    keys: SessionKeys, drafts: Sequence[Draft], fresh: str, now: int
) -> Callable[[Connection], Change]:
    """Write messages at the end of the log; those whose id is there already change nothing.

    Args:
        keys: of the session, made if it is not there.
        drafts: what to write.
        fresh: a new token, for the epoch if there is none yet.
        now: microseconds since 1970.
    """

    def work(connection: Connection) -> Change:
        [change] = append_all([(keys, drafts)], fresh, now)(connection)
        return change

    return work


def append_all(
    batch: Sequence[tuple[SessionKeys, Sequence[Draft]]], fresh: str, now: int
) -> Callable[[Connection], list[Change]]:
    """The same for several sessions, in one transaction."""

    def one(connection: Connection, keys: SessionKeys, drafts: Sequence[Draft]) -> Change:
        added = _Added.of(drafts)
        # Not when it is written: it may have waited in a queue.
        began, active = (drafts[0].created, drafts[-1].created) if drafts else (now // 1000,) * 2
        place = {"in_scope": keys.scope, "in_session": keys.session, "trust": keys.trust}
        values = {**place, **added._asdict(), "now": active}
        row = _ADVANCE(connection, values).first()
        new = row is None
        if new:  # there is no such session, and maybe no epoch
            epochs.hold(connection, keys.trust, fresh)
            _begun(connection, keys, now, began)
            row = _ADVANCE(connection, values).first()
        assert row is not None
        after, held = as_state(row[:-1]), row[-1]
        assert after is not None
        if held is None:
            held = epochs.hold(connection, keys.trust, fresh)
        first = after.next - len(drafts)
        records = [draft.record(first + i) for i, draft in enumerate(drafts)]
        rows = [_row(keys, *pair) for pair in zip(drafts, records, strict=True)]
        if rows and _INSERT_NEW(connection, rows).changed < len(rows):
            written = set(
                connection.execute(
                    select(messages.c.sequence).where(*of(keys), messages.c.sequence >= first)
                ).scalars()
            )
            numbered: list[Record] = []
            for draft, record in zip(drafts, records, strict=True):
                if record.sequence not in written:
                    after = after.counted(
                        draft.message.role, draft.tokens, archived=draft.archived, sign=-1
                    )
                    continue
                # No gaps: a window that is written behind numbers its messages by itself, and who
                # reads on from its oldest asks the log for what is numbered below.
                number = first + len(numbered)
                if number != record.sequence:
                    connection.execute(
                        update(messages)
                        .where(*of(keys), messages.c.sequence == record.sequence)
                        .values(sequence=number)
                    )
                numbered.append(record._replace(sequence=number))
            records = numbered
            after = after._replace(next=first + len(records))
            _store(connection, keys, after)
        return Change(None if new else after.version - 1, after, held, tuple(records))

    return lambda connection: [one(connection, keys, drafts) for keys, drafts in batch]


def replace(
    keys: SessionKeys, drafts: Sequence[Draft], fresh: str, now: int
) -> Callable[[Connection], Change]:
    """Write messages, of different ids, in place of all that there are."""

    def work(connection: Connection) -> Change:
        held = epochs.hold(connection, keys.trust, fresh)
        before, at = _begun(connection, keys, now)
        connection.execute(delete(messages).where(*of(keys)))
        empty = at._replace(
            messages=0, archived=0, turns=0, tokens=0, counter="", summary=None, summarized=0
        )
        after, records = _written(connection, keys, empty, drafts)
        after = after._replace(version=at.version + 1, status="active", last_activity=now // 1000)
        _store(connection, keys, after)
        return Change(before, after, held, records)

    return work


def remove(
    keys: SessionKeys,
    fresh: str,
    now: int,
    *,
    id: str | None = None,
    index: int | None = None,
    oldest: int | None = None,
    among: Collection[str] | None = None,
    archived: bool | None = None,
    archive: bool = False,
) -> Callable[[Connection], Change]:
    """Delete messages, or archive them.

    Args:
        keys, fresh, now: as for `append`.
        id: the message of this id.
        index: the active message at this place, negative from the end.
        oldest: so many active messages, the oldest.
        among: of these, only up to the first whose id is not here.
        archived: if none of these is given, all messages of this kind; None: of both.
        archive: only mark them.

    Raises (from the unit of work):
        TierUnavailable: `"unknown"`: it ran once already and its commit was not confirmed. Made
            again, it would take further messages.
    """
    ran = False

    def chosen() -> Any:
        query = select(*RECORD, messages.c.role, messages.c.id).where(*of(keys))
        if id is not None:
            return query.where(messages.c.id == id.encode())
        if index is not None or oldest is not None:
            query = query.where(messages.c.archived.is_(False))
        elif archived is not None:
            query = query.where(messages.c.archived.is_(archived))
        if index is not None and index < 0:
            return query.order_by(messages.c.sequence.desc()).offset(-index - 1).limit(1)
        query = query.order_by(messages.c.sequence)
        if index is not None:
            return query.offset(index).limit(1)
        return query if oldest is None else query.limit(oldest)

    def work(connection: Connection) -> Change:
        nonlocal ran
        if ran:
            raise TierUnavailable("durable", "unknown", "it may have been done, or not")
        held = epochs.hold(connection, keys.trust, fresh)
        at = locked(connection, keys)
        if at is None:
            return Change(None, None, held)
        found = connection.execute(chosen()).all()
        if among is not None:
            found = list(takewhile(lambda row: bytes(row.id).decode() in among, found))
        records = tuple([record_of(row[:-2]) for row in found])
        if not records:
            return Change(at.version, at, held)
        after = at._replace(version=at.version + 1, last_activity=now // 1000)
        for (*_, role, _), record in zip(found, records, strict=True):
            after = after.counted(role, record.tokens, archived=record.archived, sign=-1)
            if archive:
                after = after.counted(role, record.tokens, archived=True)
        if not (archive or after.messages):
            after = after._replace(summary=None, summarized=0)  # of what nobody shall find again
        numbers = [record.sequence for record in records]
        for start in range(0, len(numbers), _BATCH):
            which = (*of(keys), messages.c.sequence.in_(numbers[start : start + _BATCH]))
            if archive:
                connection.execute(update(messages).where(*which).values(archived=True))
            else:
                connection.execute(delete(messages).where(*which))
        _store(connection, keys, after)
        ran = True
        return Change(at.version, after, held, records)

    return work


def edit(
    keys: SessionKeys, id: str, draft: Draft, fresh: str, now: int
) -> Callable[[Connection], Change]:
    """Put another message of the same id in the place of one; gives it, or nothing if none was."""

    def work(connection: Connection) -> Change:
        held = epochs.hold(connection, keys.trust, fresh)
        at = locked(connection, keys)
        if at is None:
            return Change(None, None, held)
        query = select(*RECORD, messages.c.role).where(*of(keys), messages.c.id == id.encode())
        found = connection.execute(query).first()
        if found is None:
            return Change(at.version, at, held)
        old = record_of(found[:-1])
        record = draft.record(old.sequence)._replace(created=old.created, archived=old.archived)
        after = at.counted(found[-1], old.tokens, archived=old.archived, sign=-1)
        after = after.counted(draft.message.role, draft.tokens, archived=old.archived)
        after = after._replace(version=at.version + 1, last_activity=now // 1000)
        connection.execute(
            update(messages)
            .where(*of(keys), messages.c.sequence == record.sequence)
            .values(_row(keys, draft, record))
        )
        _store(connection, keys, after)
        return Change(at.version, after, held, (record,))

    return work


def touch(
    keys: SessionKeys, change: Callable[[State], State], fresh: str, now: int, *, make: bool
) -> Callable[[Connection], Change]:
    """Change what is known of a session beside its messages.

    Args:
        keys, fresh, now: as for `append`.
        change: gives the state it shall have.
        make: make the session if it is not there.
    """

    def work(connection: Connection) -> Change:
        held = epochs.hold(connection, keys.trust, fresh)
        if make:
            before, at = _begun(connection, keys, now)
        else:
            found = locked(connection, keys)
            if found is None:
                return Change(None, None, held)
            before, at = found.version, found
        after = change(at)._replace(version=at.version + 1, last_activity=now // 1000)
        _store(connection, keys, after)
        return Change(before, after, held)

    return work


def clear(keys: SessionKeys, fresh: str) -> Callable[[Connection], Change]:
    """Delete a session and its log."""

    def work(connection: Connection) -> Change:
        held = epochs.hold(connection, keys.trust, fresh)
        at = locked(connection, keys)
        connection.execute(delete(messages).where(*of(keys)))
        connection.execute(
            delete(sessions).where(
                sessions.c.scope == keys.scope, sessions.c.session == keys.session
            )
        )
        return Change(None if at is None else at.version, None, held)

    return work


def summarize(
    keys: SessionKeys, summary: bytes, since: int, until: int, fresh: str
) -> Callable[[Connection], Change]:
    """Keep a summary of the active messages before sequence `until`, unless one was kept since.

    Args:
        keys, fresh: as for `append`.
        summary: the message.
        since: what the summary that it goes on from reached to.
        until: what this one reaches to.
    """

    def work(connection: Connection) -> Change:
        held = epochs.hold(connection, keys.trust, fresh)
        at = locked(connection, keys)
        if at is None or at.summarized != since or until <= since:
            return Change(None if at is None else at.version, at, held)
        after = at._replace(version=at.version + 1, summary=summary, summarized=until)
        _store(connection, keys, after)
        return Change(at.version, after, held)

    return work


def count_again(
    keys: SessionKeys, counter: str, tokens: Callable[[Message], int], after: int, fresh: str
) -> Callable[[Connection], tuple[Change, int]]:
    """Count a batch of messages that were counted by another counter.

    Args:
        keys, fresh: as for `append`.
        counter: name of the counter.
        tokens: counts.
        after: sequence to begin behind; -1 for the first batch.

    Returns:
        A unit of work that gives the change and the sequence to go on behind; -1: it was the last.
    """

    def work(connection: Connection) -> tuple[Change, int]:
        held = epochs.hold(connection, keys.trust, fresh)
        at = locked(connection, keys)
        if at is None:
            return Change(None, None, held), -1
        found = connection.execute(
            select(*RECORD)
            .where(*of(keys), messages.c.sequence > after, messages.c.counter != counter)
            .order_by(messages.c.sequence)
            .limit(_BATCH)
        )
        records = records_of(found)
        total = at.tokens
        for record in records:
            counted = tokens(unpack(record.value))
            if not record.archived:
                total += counted - record.tokens
            connection.execute(
                update(messages)
                .where(*of(keys), messages.c.sequence == record.sequence)
                .values(tokens=counted, counter=counter)
            )
        last = len(records) < _BATCH
        state = at._replace(
            version=at.version + 1, tokens=total, counter=counter if last else at.counter
        )
        _store(connection, keys, state)
        return Change(at.version, state, held), -1 if last else records[-1].sequence

    return work


def _begun(
    connection: Connection, keys: SessionKeys, now: int, began: int | None = None
) -> tuple[int | None, State]:
    """The session's version and state, locked; it is made, as of `began`, if it is not there."""
    at = locked(connection, keys)
    if at is not None:
        return at.version, at
    # The version of a session that is deleted and made again is never one that it had before.
    began = now // 1000 if began is None else began
    new = State(now, 0, "active", None, b"", 0, 0, 0, 0, "", began, began, None, 0)
    values = {"scope": keys.scope, "session": keys.session, **new._asdict()}
    if _INSERT_SESSION(connection, values).changed == 1:
        return None, new
    at = locked(connection, keys)
    assert at is not None  # somebody else made it while we waited
    return at.version, at


def _written(
    connection: Connection, keys: SessionKeys, at: State, drafts: Sequence[Draft]
) -> tuple[State, tuple[Record, ...]]:
    records = []
    rows = []
    for draft in drafts:
        record = draft.record(at.next)
        records.append(record)
        rows.append(_row(keys, draft, record))
        at = at.counted(draft.message.role, draft.tokens, archived=draft.archived)
        at = at._replace(next=at.next + 1, counter=at.counter or draft.counter)
    if rows:
        _INSERT_NEW(connection, rows)
    return at, tuple(records)


def _row(keys: SessionKeys, draft: Draft, record: Record) -> dict[str, Any]:
    return {
        "scope": keys.scope,
        "session": keys.session,
        "id": draft.message.id.encode(),
        "folded": folded(draft.message.text),
        "role": draft.message.role,
        **record._asdict(),
    }


def _store(connection: Connection, keys: SessionKeys, at: State) -> None:
    connection.execute(
        _UPDATE, {"in_scope": keys.scope, "in_session": keys.session, **at._asdict()}
    )
