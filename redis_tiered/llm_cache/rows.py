"""SQL of the LLM cache: functions of a `Connection`, the same for SQLite and PostgreSQL."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    or_,
    select,
    update,
)

from redis_tiered.tiers.schema import entries, records, scopes, tags
from redis_tiered.tiers.scopes import held_generation
from redis_tiered.tiers.statements import Prepared, insert

__all__ = [
    "Row",
    "forget",
    "forget_tag",
    "purge",
    "read",
    "record",
    "rename",
    "save_record",
    "slide",
    "write",
]

_READ = Prepared(
    lambda _: (
        select(entries.c.digest, entries.c.value, entries.c.revision)
        .join(
            scopes,
            and_(scopes.c.scope == entries.c.scope, scopes.c.generation == entries.c.generation),
        )
        .where(
            entries.c.scope == bindparam("scope"),
            entries.c.digest.in_((bindparam("digest"), bindparam("other"))),
            or_(entries.c.expires.is_(None), entries.c.expires > bindparam("now")),
        )
    )
)
_FORGET_TAGS = Prepared(
    lambda _: delete(tags).where(
        tags.c.scope == bindparam("scope"), tags.c.digest == bindparam("digest")
    )
)
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One entry to be written.

    Attributes:
        created, expires: milliseconds since 1970; `expires` None for never.
        revision: microseconds since 1970; more where an entry with a later one is replaced.
    """

    scope: str
    digest: str
    value: bytes
    prompt: bytes | None
    prompt_scope: str
    created: int
    expires: int | None
    revision: int
    tokens: int
    tags: tuple[str, ...] = ()


def read(
    scope: str, digest: str, now: int, *, other: str | None = None
) -> Callable[[Connection], tuple[bytes, int, str] | None]:
    """The stored value of an entry of the current generation that has not expired.

    Args:
        scope: of the cache.
        digest: of the entry.
        now: milliseconds since 1970.
        other: digest of an entry that will do where that one is not there.

    Returns:
        A unit of work that gives value, revision and digest; None: neither is there.
    """

    def work(connection: Connection) -> tuple[bytes, int, str] | None:
        parameters = {
            "scope": scope,
            "digest": digest,
            "other": digest if other is None else other,
            "now": now,
        }
        found = None
        for row in _READ(connection, parameters).rows:
            found = row if found is None or row[0] == digest else found
        return None if found is None else (bytes(found[1]), int(found[2]), str(found[0]))

    return work


def write(row: Row, fresh: str, *, alias: Row | None = None) -> Callable[[Connection], int]:
    """Insert or replace an entry under the current generation.

    Args:
        row: what to write.
        fresh: a new token, for generation and epoch of a scope that is not there yet.
        alias: another entry, which names it; written with it.

    Returns:
        A unit of work that gives the revision under which it was written.
    """
    where, values = _named(row)
    more = None if alias is None else _named(alias)

    def work(connection: Connection) -> int:
        dialect = connection.dialect.name
        generation = held_generation(connection, row.scope, fresh)
        [[written]] = _WRITE_ENTRY(connection, {**values, "generation": generation}).rows
        _FORGET_TAGS(connection, where)
        if row.tags:
            connection.execute(_write_tags(dialect), [{**where, "tag": tag} for tag in row.tags])
        if more is not None:
            _WRITE_ENTRY(connection, {**more[1], "generation": generation})
        return int(written)

    return work


def _named(row: Row) -> tuple[dict[str, str], dict[str, Any]]:
    """Parameters that name an entry, and all of them."""
    where = {"scope": row.scope, "digest": row.digest}
    return where, {
        **where,
        "value": row.value,
        "prompt": row.prompt,
        "prompt_scope": row.prompt_scope,
        "created": row.created,
        "expires": row.expires,
        "revision": row.revision,
        "tokens": row.tokens,
    }


def record(scope: str, name: str) -> Callable[[Connection], bytes | None]:
    """What was saved of a cache under a name."""

    def work(connection: Connection) -> bytes | None:
        where = (records.c.scope == scope, records.c.name == name)
        found = connection.execute(select(records.c.value).where(*where)).scalar()
        return None if found is None else bytes(found)

    return work


def save_record(scope: str, name: str, value: bytes) -> Callable[[Connection], None]:
    """Save something of a cache under a name, in place of what was there."""

    def work(connection: Connection) -> None:
        statement = insert(connection.dialect.name, records).values(
            scope=scope, name=name, version=1, value=value
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["scope", "name"],
                set_={"value": value, "version": records.c.version + 1},
            )
        )

    return work


def slide(
    scope: str, digest: str, value: bytes, created: int, expires: int
) -> Callable[[Connection], None]:
    """Give an entry a later end, unless it was deleted or replaced meanwhile."""

    def work(connection: Connection) -> None:
        connection.execute(
            update(entries)
            .where(
                entries.c.scope == scope,
                entries.c.digest == digest,
                entries.c.created == created,
                entries.c.expires < expires,
            )
            .values(value=value, expires=expires)
        )

    return work


def rename(
    scope: str, digest: str, value: bytes, created: int, expires: int | None
) -> Callable[[Connection], bool]:
    """Put an alias in the place of an entry, which keeps its tags, unless it was deleted or replaced
    meanwhile; the unit of work tells whether it did."""

    def work(connection: Connection) -> bool:
        done = connection.execute(
            update(entries)
            .where(
                entries.c.scope == scope,
                entries.c.digest == digest,
                entries.c.created == created,
            )
            .values(value=value, expires=expires)
        )
        return done.rowcount > 0

    return work


def forget(scope: str, digests: Sequence[str]) -> Callable[[Connection], dict[str, int]]:
    """Delete entries and their tags; the unit of work gives the revisions of those there were."""
    return lambda connection: _delete(connection, scope, digests)


def forget_tag(scope: str, tag: str) -> Callable[[Connection], dict[str, int]]:
    """Delete up to 500 entries with a tag and give their revisions, 0 for a tag that had outlived
    its entry; to be repeated until empty."""

    def work(connection: Connection) -> dict[str, int]:
        found = select(tags.c.digest).where(tags.c.scope == scope, tags.c.tag == tag).limit(_BATCH)
        digests = list(connection.execute(found).scalars())
        return dict.fromkeys(digests, 0) | _delete(connection, scope, digests)

    return work


def purge(scope: str, now: int) -> Callable[[Connection], tuple[int, list[str]]]:
    """Delete a batch of entries that expired or were cleared.

    Returns:
        A unit of work that tells how many it deleted, and the digests of the cleared ones; to be
        repeated until it deletes none.
    """

    def work(connection: Connection) -> tuple[int, list[str]]:
        current = select(scopes.c.generation).where(scopes.c.scope == scope).scalar_subquery()
        # Three statements, each on an index of its own.
        cleared = [
            *_purge(connection, scope, entries.c.generation < current),
            *_purge(connection, scope, entries.c.generation > current),
        ]
        expired = _purge(connection, scope, entries.c.expires <= now)
        return len(cleared) + len(expired), cleared

    return work


def _purge(connection: Connection, scope: str, condition: ColumnElement[bool]) -> list[str]:
    found = select(entries.c.digest).where(entries.c.scope == scope, condition).limit(_BATCH)
    digests = list(connection.execute(found).scalars())
    return list(_delete(connection, scope, digests, condition)) if digests else []


def _delete(
    connection: Connection, scope: str, digests: Sequence[str], *conditions: ColumnElement[bool]
) -> dict[str, int]:
    # The conditions hold for what is there now: on PostgreSQL an entry may have been written anew
    # since it was found. Entries before tags, the order in which they are written.
    rows = connection.execute(
        delete(entries)
        .where(entries.c.scope == scope, entries.c.digest.in_(digests), *conditions)
        .returning(entries.c.digest, entries.c.revision)
    )
    gone = {str(digest): int(revision) for digest, revision in rows}
    without = list(gone) if conditions else digests
    connection.execute(delete(tags).where(tags.c.scope == scope, tags.c.digest.in_(without)))
    return gone


def _write_entry(dialect: str) -> Any:
    statement = insert(dialect, entries)
    changed = {
        column.name: statement.excluded[column.name]
        for column in entries.c
        if not column.primary_key
    }
    later = case(
        (statement.excluded.revision > entries.c.revision, statement.excluded.revision),
        else_=entries.c.revision + 1,
    )
    return statement.on_conflict_do_update(
        index_elements=["scope", "digest"], set_=changed | {"revision": later}
    ).returning(entries.c.revision)


_WRITE_ENTRY = Prepared(_write_entry)


# Built once: building a statement costs more than executing it.
@functools.cache
def _write_tags(dialect: str) -> Any:
    return insert(dialect, tags).on_conflict_do_nothing()
