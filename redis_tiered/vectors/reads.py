"""SQL that reads collections: functions of a `Connection`, the same for SQLite and PostgreSQL.

Each reads by a single statement, so that what it gives was all there at one moment. What expired
is left out where `now` (milliseconds since 1970) is given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    bindparam,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
)

from redis_tiered.tiers.schema import collections, documents, removals
from redis_tiered.tiers.statements import Prepared
from redis_tiered.vectors.criteria import (
    ROW,
    SHIFT,
    among_ids,
    base,
    criteria,
    given_ids,
    given_numbers,
    row_of,
    selected,
    version_of,
)
from redis_tiered.vectors.document import Removal, Row
from redis_tiered.vectors.filters import Filter

__all__ = [
    "HEAD",
    "Head",
    "News",
    "changes",
    "contents",
    "count",
    "find",
    "found",
    "get",
    "head",
    "page",
    "uses",
    "whole",
]


class Head(NamedTuple):
    """A collection's own row.

    Attributes:
        serial: its number among all collections of the database, never used again.
        dims: length of its vectors.
        metric: how they are compared.
        version: of its latest change; 0: there was none.
        missed: since when (milliseconds since 1970) Redis may lack changes; None: it has them all.
        pruned: who has not seen the changes up to this version cannot catch up by `changes`.
    """

    serial: int
    dims: int
    metric: str
    version: int
    missed: int | None
    pruned: int


class News(NamedTuple):
    """What happened to a collection after a version.

    Attributes:
        changes: in order of version; what was superseded is not there.
        upto: they are all that there are up to this version.
        version: of the latest change.
        complete: False: removals among them are forgotten; start anew.
    """

    changes: list[Row | Removal]
    upto: int
    version: int
    complete: bool


HEAD = tuple(collections.c[name] for name in Head._fields)
_SCOPED = collections.c.scope == bindparam("in_scope")
_HEAD = Prepared(lambda _: select(*HEAD).where(_SCOPED))


def _changes(_: str) -> Executable:
    above = base() + bindparam("after", type_=BigInteger)
    below = base() + literal_column(str(SHIFT))
    at = removals.c
    nothing = [null()] * (len(ROW) - 2)
    written = select(literal_column("0").label("gone"), *ROW)
    parts = [
        written.where(documents.c.number > above, documents.c.number < below),
        select(literal_column("1"), at.number, at.id, *nothing).where(
            at.number > above, at.number < below
        ),
    ]
    part = union_all(*parts).order_by("number").limit(bindparam("most")).subquery("part")
    whole = select(collections.c.version, collections.c.pruned, *part.c)
    return whole.select_from(collections.outerjoin(part, true())).where(_SCOPED).order_by("number")


def _page(vectors: bool, _: str) -> Executable:
    return (
        selected(vectors=vectors)
        .where(
            documents.c.number > base() + bindparam("after", type_=BigInteger),
            documents.c.number < base() + literal_column(str(SHIFT)),
            or_(documents.c.expires.is_(None), documents.c.expires > bindparam("now")),
        )
        .order_by(documents.c.number)
        .limit(bindparam("most"))
    )


def _contents(vectors: bool, dialect: str) -> Executable:
    each: Any
    if dialect == "postgresql":
        each = func.unnest(bindparam("versions"), type_=BigInteger).column_valued("each")
    else:
        each = func.json_each(bindparam("versions")).table_valued("value").c.value
    wanted = select(each + base())
    return selected(vectors=vectors).where(documents.c.number.in_(wanted))


def _by_id(columns: Sequence[Any], nul: bool, dialect: str) -> Executable:
    return select(*columns).where(
        documents.c.scope == bindparam("in_scope"),
        among_ids(dialect, documents.c.id, "ids", nul=nul),
    )


_CHANGES = Prepared(_changes)
_PAGE = {vectors: Prepared(functools.partial(_page, vectors)) for vectors in (False, True)}
_CONTENTS = {vectors: Prepared(functools.partial(_contents, vectors)) for vectors in (False, True)}
_FOUND = {
    nul: Prepared(functools.partial(_by_id, (documents.c.id, documents.c.number), nul))
    for nul in (False, True)
}
_WHOLE = {nul: Prepared(functools.partial(_by_id, ROW, nul)) for nul in (False, True)}
_USES = {
    nul: Prepared(
        functools.partial(_by_id, (documents.c.id, documents.c.uses, documents.c.used), nul)
    )
    for nul in (False, True)
}


def head(scope: str) -> Callable[[Connection], Head | None]:
    """The collection's row; None: there is no such collection."""

    def work(connection: Connection) -> Head | None:
        row = _HEAD(connection, {"in_scope": scope}).first()
        return None if row is None else Head(*row)

    return work


def changes(scope: str, after: int, limit: int) -> Callable[[Connection], News]:
    """The changes after a version, also of documents that expired.

    Args:
        scope: of the collection.
        after: a version that was seen; 0: none was.
        limit: how many changes at most; at least 1.
    """

    def work(connection: Connection) -> News:
        rows = _CHANGES(connection, {"in_scope": scope, "after": after, "most": limit}).rows
        if not rows:
            return News([], after, 0, True)
        made: list[Row | Removal] = []
        for _, _, gone, number, id, *rest in rows:
            if gone:
                made.append(Removal(version_of(number), None if id is None else bytes(id)))
            elif number is not None:
                made.append(row_of((number, id, *rest)))
        version, pruned = rows[0][:2]
        upto = made[-1].version if len(made) == limit else version
        return News(made, upto, version, after >= pruned)

    return work


def page(
    scope: str, after: int, limit: int, *, now: int, vectors: bool = True
) -> Callable[[Connection], list[Row]]:
    """Documents in order of version, those after a version.

    Args:
        scope: of the collection.
        after: the last version of the page before; 0: the first page.
        limit: how many at most; fewer are the last page.
        now: what expired before is left out.
        vectors: whether vectors are wanted; if not, they are empty.
    """

    def work(connection: Connection) -> list[Row]:
        values = {"in_scope": scope, "after": after, "most": limit, "now": now}
        return [row_of(row) for row in _PAGE[vectors](connection, values).rows]

    return work


def contents(
    scope: str, versions: Sequence[int], *, vectors: bool = False
) -> Callable[[Connection], list[Row]]:
    """The documents that were written by these changes, in any order; superseded ones are not
    there."""

    def work(connection: Connection) -> list[Row]:
        values = {
            "in_scope": scope,
            "versions": given_numbers(connection.dialect.name, versions),
        }
        return [row_of(row) for row in _CONTENTS[vectors](connection, values).rows]

    return work


def get(
    scope: str, ids: Sequence[bytes], now: int, *, vectors: bool = True
) -> Callable[[Connection], list[Row]]:
    """Documents by id, in the order of the ids; what is not there is left out."""

    def work(connection: Connection) -> list[Row]:
        conditions = criteria(connection.dialect.name, scope, ids=ids, now=now)
        rows = connection.execute(selected(vectors=vectors).where(*conditions))
        by_id = {row.id: row for row in map(row_of, rows)}
        return [by_id[id] for id in ids if id in by_id]

    return work


def found(scope: str, ids: Sequence[bytes]) -> Callable[[Connection], dict[bytes, int]]:
    """The versions of documents by id, also of those that expired."""

    def work(connection: Connection) -> dict[bytes, int]:
        value, nul = given_ids(connection.dialect.name, ids)
        rows = _FOUND[nul](connection, {"in_scope": scope, "ids": value}).rows
        return {bytes(id): version_of(number) for id, number in rows}

    return work


def whole(scope: str, id: bytes, now: int) -> Callable[[Connection], Row | None]:
    """A document by id, or None; the quick way to one."""

    def work(connection: Connection) -> Row | None:
        value, nul = given_ids(connection.dialect.name, [id])
        found = _WHOLE[nul](connection, {"in_scope": scope, "ids": value}).rows
        row = row_of(found[0]) if found else None
        return None if row is None or (row.expires or now + 1) <= now else row

    return work


def find(
    scope: str,
    where: Filter | None = None,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
    offset: int = 0,
    limit: int | None = None,
    now: int | None = None,
    *,
    vectors: bool = True,
) -> Callable[[Connection], list[Row]]:
    """Documents that satisfy everything given, in order of version.

    Args:
        scope: of the collection.
        where: what metadata must satisfy; None: anything.
        ids, parents: the only ones wanted; None: any.
        offset: how many to leave out first.
        limit: how many at most; None: all.
        now: what expired before is left out; None: nothing is.
        vectors: whether vectors are wanted; if not, they are empty.
    """

    def work(connection: Connection) -> list[Row]:
        conditions = criteria(
            connection.dialect.name, scope, where=where, ids=ids, parents=parents, now=now
        )
        query = selected(vectors=vectors).where(*conditions).order_by(documents.c.number)
        return [row_of(row) for row in connection.execute(query.offset(offset).limit(limit))]

    return work


def count(
    scope: str,
    where: Filter | None = None,
    now: int | None = None,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
) -> Callable[[Connection], int]:
    """How many documents `find` finds."""

    def work(connection: Connection) -> int:
        conditions = criteria(
            connection.dialect.name, scope, where=where, ids=ids, parents=parents, now=now
        )
        query = select(func.count()).select_from(documents).where(*conditions)
        return int(connection.execute(query).scalar_one())

    return work


def uses(
    scope: str, ids: Sequence[bytes]
) -> Callable[[Connection], dict[bytes, tuple[int, int | None]]]:
    """How often documents were used and when last (milliseconds since 1970; None: never)."""

    def work(connection: Connection) -> dict[bytes, tuple[int, int | None]]:
        value, nul = given_ids(connection.dialect.name, ids)
        rows = _USES[nul](connection, {"in_scope": scope, "ids": value}).rows
        return {bytes(id): (count, used) for id, count, used in rows}

    return work
