"""SQL that changes collections: functions of a `Connection`, the same for SQLite and PostgreSQL.

A change locks the collection's row, so that versions are in the order in which changes commit, and
gives each document that it writes or takes away a version of its own. `heads` has that row, `reads`
what only reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Executable,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    update,
)

from redis_tiered.errors import InvalidInput
from redis_tiered.tiers.schema import collections, documents, fields, removals
from redis_tiered.tiers.statements import Prepared
from redis_tiered.vectors import bulk, fulltext, pgvector
from redis_tiered.vectors.criteria import (
    SHIFT,
    among_ids,
    among_numbers,
    criteria,
    given_ids,
    given_numbers,
    version_of,
)
from redis_tiered.vectors.document import Draft, Row
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.heads import Held, advance, hold, make, miss, opened, recovered
from redis_tiered.vectors.reads import (
    Head,
    News,
    changes,
    contents,
    count,
    find,
    found,
    get,
    head,
    page,
    uses,
    whole,
)

__all__ = [
    "Change",
    "Head",
    "News",
    "add_uses",
    "amend",
    "changes",
    "contents",
    "count",
    "find",
    "found",
    "get",
    "head",
    "miss",
    "opened",
    "page",
    "prune",
    "recovered",
    "remove",
    "remove_all",
    "upsert",
    "uses",
]


class Change(NamedTuple):
    """What a unit of work did to a collection.

    Attributes:
        before, after: its version before and after; the same: nothing was done.
        rows: documents that were written, of versions `before + 1` to `after` in order.
        removed: ids of documents that were taken away, of the same versions in order.
        everything: whether all documents were taken away, by the one version `after`.
        missed: since when Redis may lack changes; see `Head`.
        index_due: whether an index of vectors is due; yield `Sql(pgvector.index(scope))`.
    """

    before: int
    after: int
    rows: tuple[Row, ...] = ()
    removed: tuple[bytes, ...] = ()
    everything: bool = False
    missed: int | None = None
    index_due: bool = False


def _kept(nul: bool, dialect: str) -> Executable:
    at = documents.c
    return select(at.number, at.id, at.uses, at.used).where(
        at.scope == bindparam("in_scope"), among_ids(dialect, at.id, "ids", nul=nul)
    )


def _among(column: Column[int], dialect: str) -> Executable:
    return delete(column.table).where(among_numbers(dialect, column, "numbers"))


def _used(_: str) -> Executable:
    at, last = documents.c, bindparam("last", type_=BigInteger)
    values = {
        "uses": at.uses + bindparam("more", type_=BigInteger),
        "used": case((at.used > last, at.used), else_=last),
    }
    return (
        update(documents)
        .where(at.scope == bindparam("in_scope"), at.id == bindparam("of_id"))
        .values(values)
    )


_KEPT = {nul: Prepared(functools.partial(_kept, nul)) for nul in (False, True)}
_FORGET = [
    Prepared(functools.partial(_among, column))
    for column in (documents.c.number, fields.c.document)
]
_USED = Prepared(_used)
_NEW = (0, 0, None)


def upsert(
    scope: str,
    drafts: Sequence[Draft],
    dims: int,
    metric: str,
    now: int,
    *,
    indexed: bool = True,
) -> Callable[[Connection], Change]:
    """Write documents; of one whose id is there already only its uses are kept.

    Args:
        scope: of the collection, made if it is not there.
        drafts: of different ids, as `document.drafted` gives them.
        dims, metric: of the collection.
        now: milliseconds since 1970.
        indexed: whether filters and words are to find them.

    Raises (from the unit of work):
        InvalidInput: the collection has other dims or another metric.
    """
    # What takes long is done before the collection is locked.
    terms = _terms(drafts) if indexed else []
    texts = fulltext.prepared([draft.text for draft in drafts]) if indexed else []
    ids = [draft.id for draft in drafts]

    def work(connection: Connection) -> Change:
        held = advance(connection, scope, len(drafts))
        if held is None:
            make(connection, scope, dims, metric, now)
            held = advance(connection, scope, len(drafts))
        assert held is not None
        at = held.head
        if (at.dims, at.metric) != (dims, metric):
            raise InvalidInput(
                f"the collection has vectors of {at.dims} dimensions under metric "
                f'"{at.metric}", got {dims} dimensions under metric "{metric}"'
            )
        before = at.version - len(drafts)
        if not drafts:
            return Change(before, before, missed=at.missed)
        value, nul = given_ids(connection.dialect.name, ids)
        found = _KEPT[nul](connection, {"in_scope": scope, "ids": value}).rows
        kept = {bytes(id): (number, uses, used) for number, id, uses, used in found}
        _forget(connection, held, [number for number, _, _ in kept.values()])
        first = at.serial * SHIFT + before + 1
        rows = [
            (
                number,
                scope,
                draft.id,
                draft.created,
                draft.expires,
                *kept.get(draft.id, _NEW)[1:],
                draft.parent,
                draft.vector,
                draft.metadata,
                draft.text,
                draft.payload,
            )
            for number, draft in enumerate(drafts, first)
        ]
        bulk.insert(connection, documents, rows)
        bulk.insert(
            connection,
            fields,
            [(number, *term) for number, of in enumerate(terms, first) for term in of],
        )
        if indexed:
            fulltext.write(connection, at.serial, first, texts)
        due = False
        if held.side.exists:
            pgvector.write(connection, at.serial, metric, first, drafts)
            due = not held.side.indexed and pgvector.due(connection, at.serial, metric, dims)
        written = tuple(
            [_written(number, draft) for number, draft in enumerate(drafts, before + 1)]
        )
        return Change(before, at.version, written, missed=at.missed, index_due=due)

    return work


def amend(scope: str, id: bytes, metadata: bytes, now: int) -> Callable[[Connection], Change]:
    """Give a document other metadata; nothing is done if it is not there. It is indexed no more.

    Args:
        scope: of the collection.
        id: of the document.
        metadata: encoded.
        now: milliseconds since 1970.
    """

    def work(connection: Connection) -> Change:
        held = hold(connection, scope)
        if held is None:
            return Change(0, 0)
        at = held.head
        row = whole(scope, id, now)(connection)
        if row is None:
            return Change(at.version, at.version, missed=at.missed)
        parts = row.vector, metadata, row.text, row.payload, row.parent
        draft = Draft(row.id, *parts, now, row.expires, {})
        return upsert(scope, [draft], at.dims, at.metric, now, indexed=False)(connection)

    return work


def remove(
    scope: str,
    now: int,
    *,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
    where: Filter | None = None,
    expired_before: int | None = None,
    limit: int,
) -> Callable[[Connection], Change]:
    """Take away documents that satisfy everything given, the oldest first; to be repeated until it
    takes fewer than `limit`.

    Args:
        scope: of the collection.
        now: milliseconds since 1970; what expired before is not there.
        ids, parents: the only ones; None: any.
        where: what metadata must satisfy; None: anything.
        expired_before: instead only what expired until then (milliseconds since 1970).
        limit: how many at most.
    """

    def work(connection: Connection) -> Change:
        held = hold(connection, scope)
        if held is None:
            return Change(0, 0)
        at = held.head
        conditions = criteria(
            connection.dialect.name,
            scope,
            where=where,
            ids=ids,
            parents=parents,
            now=now if expired_before is None else None,
        )
        if expired_before is not None:
            # By its index, which begins with the scope.
            conditions += [documents.c.scope == scope, documents.c.expires <= expired_before]
        chosen = select(documents.c.number, documents.c.id).where(*conditions)
        gone = connection.execute(chosen.order_by(documents.c.number).limit(limit)).all()
        if not gone:
            return Change(at.version, at.version, missed=at.missed)
        advance(connection, scope, len(gone))
        _forget(connection, held, [number for number, _ in gone])
        first = at.serial * SHIFT + at.version + 1
        removed = tuple([bytes(id) for _, id in gone])
        bulk.insert(connection, removals, list(enumerate(removed, first)))
        return Change(at.version, at.version + len(gone), removed=removed, missed=at.missed)

    return work


def remove_all(scope: str, now: int) -> Callable[[Connection], tuple[Change, int]]:
    """Take away all documents; tells also how many there were that had not expired by `now`."""

    def work(connection: Connection) -> tuple[Change, int]:
        if connection.dialect.name == "postgresql":
            # However many there are: it is one transaction.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        held = hold(connection, scope)
        if held is None:
            return Change(0, 0), 0
        at, own = held.head, documents.c
        gone = select(func.count()).where(own.scope == scope, own.expires <= now)
        expired = connection.execute(gone).scalar_one()
        total = _delete_all(connection, own.number, at.serial)
        if not total:
            return Change(at.version, at.version, missed=at.missed), 0
        _delete_all(connection, fields.c.document, at.serial)
        _delete_all(connection, removals.c.number, at.serial)
        fulltext.clear(connection, at.serial)
        pgvector.clear(connection, at.serial, at.dims)
        advance(connection, scope, 1)
        bulk.insert(connection, removals, [(at.serial * SHIFT + at.version + 1, None)])
        # Who comes from before needs none of the removals that were forgotten: it learns that
        # nothing of then is left.
        connection.execute(update(collections).where(collections.c.scope == scope).values(pruned=0))
        change = Change(at.version, at.version + 1, everything=True, missed=at.missed)
        return change, total - expired

    return work


def prune(scope: str, keep: int = 100_000) -> Callable[[Connection], int]:
    """Forget all but the latest removals; tells how many it forgot."""

    def work(connection: Connection) -> int:
        held = hold(connection, scope)
        if held is None:
            return 0
        at = held.head
        own = _own(removals.c.number, at.serial)
        latest = select(removals.c.number).where(own).order_by(removals.c.number.desc())
        last = connection.execute(latest.offset(keep).limit(1)).scalar()
        if last is None:
            return 0
        connection.execute(
            update(collections)
            .where(collections.c.scope == scope)
            .values(pruned=max(at.pruned, version_of(last)))
        )
        return connection.execute(delete(removals).where(own, removals.c.number <= last)).rowcount

    return work


def add_uses(scope: str, used: Mapping[bytes, tuple[int, int]]) -> Callable[[Connection], None]:
    """Count uses: for each id how many more, and when the last was (milliseconds since 1970)."""

    def work(connection: Connection) -> None:
        # Locked, or a document that is written anew meanwhile would lose them.
        if used and hold(connection, scope) is not None:
            _USED(
                connection,
                [
                    {"in_scope": scope, "of_id": id, "more": more, "last": last}
                    for id, (more, last) in used.items()
                ],
            )

    return work


def _terms(drafts: Sequence[Draft]) -> list[list[tuple[Any, ...]]]:
    from redis_tiered.vectors import terms

    return [list(terms.rows(draft.fields)) for draft in drafts]


def _written(version: int, draft: Draft) -> Row:
    return Row(
        version,
        draft.id,
        draft.vector,
        draft.metadata,
        draft.text,
        draft.payload,
        draft.parent,
        draft.expires,
    )


def _forget(connection: Connection, held: Held, numbers: list[int]) -> None:
    if not numbers:
        return
    given = {"numbers": given_numbers(connection.dialect.name, numbers)}
    for statement in _FORGET:
        statement(connection, given)
    fulltext.forget(connection, numbers)
    if held.side.exists:
        pgvector.forget(connection, held.head.serial, numbers)


def _delete_all(connection: Connection, column: Column[int], serial: int) -> int:
    return connection.execute(delete(column.table).where(_own(column, serial))).rowcount


def _own(column: Column[int], serial: int) -> Any:
    return column.between(serial * SHIFT, (serial + 1) * SHIFT - 1)
