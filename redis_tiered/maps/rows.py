"""SQL of maps: functions of a `Connection`, the same for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    LargeBinary,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from redis_tiered.maps.item import LONGEST
from redis_tiered.tiers.schema import items, scopes
from redis_tiered.tiers.scopes import begun
from redis_tiered.tiers.statements import Prepared, insert

__all__ = ["Row", "Written", "page", "purge", "read", "write"]

_SIZES: Final = (1, 16, 128, 1000)
_BATCH: Final = 500


class Row(NamedTuple):
    """A value in the durable tier.

    Attributes:
        name: as it is stored.
        value: sealed.
        revision: of the change that wrote it.
        expires: milliseconds since 1970; 0: never.
    """

    name: bytes
    value: bytes
    revision: int
    expires: int


def _visible(value: ColumnElement[bytes] = items.c.value) -> Select[Any]:
    return (
        select(items.c.name, value, items.c.revision, items.c.expires)
        .join(
            scopes,
            and_(scopes.c.scope == items.c.scope, scopes.c.generation == items.c.generation),
        )
        .where(
            items.c.scope == bindparam("scope"),
            or_(items.c.expires.is_(None), items.c.expires > bindparam("now", type_=BigInteger)),
        )
    )


def _read(size: int) -> Prepared:
    names = [bindparam(f"name{i}", type_=LargeBinary) for i in range(size)]
    return Prepared(lambda _: _visible().where(items.c.name.in_(names)))


# Of a name that is cut, the value knows the rest.
_OF_CUT_NAMES = case(
    (func.length(items.c.name) > literal_column(str(LONGEST)), items.c.value),
    else_=cast(literal_column("''"), LargeBinary),
)


def _page(bounded: bool, values: bool) -> Prepared:
    found = _visible(items.c.value if values else _OF_CUT_NAMES)
    found = found.where(items.c.name > bindparam("after", type_=LargeBinary))
    found = found.where(items.c.name >= bindparam("low", type_=LargeBinary))
    if bounded:
        found = found.where(items.c.name < bindparam("high", type_=LargeBinary))
    return Prepared(lambda _: found.order_by(items.c.name).limit(bindparam("most", type_=Integer)))


def _advance(_: str) -> Executable:
    now = bindparam("now", type_=BigInteger)
    later = case((scopes.c.version >= now, scopes.c.version + 1), else_=now)
    return (
        update(scopes)
        .where(scopes.c.scope == bindparam("of_scope"))
        .values(version=later)
        .returning(scopes.c.version, scopes.c.generation, scopes.c.epoch)
    )


def _put(dialect: str) -> Executable:
    made = insert(dialect, items)
    values = {column.name: bindparam(column.name, type_=column.type) for column in items.c}
    made = made.values(values)
    changed = {
        column.name: made.excluded[column.name] for column in items.c if not column.primary_key
    }
    done: Executable = made.on_conflict_do_update(index_elements=["scope", "name"], set_=changed)
    return done


def _delete(_: str) -> Executable:
    return delete(items).where(
        items.c.scope == bindparam("scope"),
        items.c.name == bindparam("name", type_=LargeBinary),
        items.c.generation == bindparam("generation"),
        or_(items.c.expires.is_(None), items.c.expires > bindparam("now", type_=BigInteger)),
    )


_READ = {size: _read(size) for size in _SIZES}
_PAGE = {
    (bounded, values): _page(bounded, values)
    for bounded in (False, True)
    for values in (False, True)
}
_ADVANCE = Prepared(_advance)
_PUT = Prepared(_put)
_DELETE = Prepared(_delete)


def _row(columns: Sequence[Any]) -> Row:
    name, value, revision, expires = columns
    return Row(bytes(name), bytes(value), int(revision), int(expires or 0))


def read(scope: str, names: Sequence[bytes], now: int) -> Callable[[Connection], dict[bytes, Row]]:
    """The values of those names that have one, at `now` (milliseconds since 1970)."""

    def work(connection: Connection) -> dict[bytes, Row]:
        found: dict[bytes, Row] = {}
        for start in range(0, len(names), _SIZES[-1]):
            chunk = names[start : start + _SIZES[-1]]
            size = next(size for size in _SIZES if size >= len(chunk))
            given: dict[str, Any] = {f"name{i}": chunk[min(i, len(chunk) - 1)] for i in range(size)}
            for columns in _READ[size](connection, given | {"scope": scope, "now": now}).rows:
                row = _row(columns)
                found[row.name] = row
        return found

    return work


def page(
    scope: str,
    low: bytes,
    high: bytes | None,
    after: bytes,
    most: int,
    now: int,
    *,
    values: bool = True,
) -> Callable[[Connection], list[Row]]:
    """Values in the order of their stored names.

    Args:
        scope: of the map.
        low, high: from and before which name; None: to the last.
        after: only names after this one.
        most: how many.
        now: milliseconds since 1970.
        values: False: only of names that are cut, b"" of the others.
    """
    given = {"scope": scope, "now": now, "after": after, "low": low, "high": high, "most": most}
    if high is None:
        del given["high"]
    return lambda connection: [
        _row(columns) for columns in _PAGE[high is not None, values](connection, given).rows
    ]


class Written(NamedTuple):
    """What a change did.

    Attributes:
        revision: of the change.
        deleted: how many values are no more.
        epoch: of the scope when it changed.
    """

    revision: int
    deleted: int
    epoch: str


def write(
    scope: str,
    put: Sequence[tuple[bytes, bytes]],
    remove: Sequence[bytes],
    expires: int,
    now: int,
    fresh: str,
) -> Callable[[Connection], Written]:
    """Put and delete values, all or nothing.

    Changes of a map have revisions in the order in which they commit: each locks the scope.

    Args:
        scope: of the map.
        put: stored names, all different, and sealed values.
        remove: stored names.
        expires: milliseconds since 1970, when what is put ends; 0: never.
        now: microseconds since 1970.
        fresh: a new token, for a scope that is not there yet.
    """

    def work(connection: Connection) -> Written:
        where = {"of_scope": scope, "now": now}
        head = _ADVANCE(connection, where).first()
        if head is None:
            begun(connection, scope, fresh)
            [head] = _ADVANCE(connection, where).rows
        revision, generation = int(head[0]), str(head[1])
        common = {"scope": scope, "generation": generation}
        if put:
            rest = common | {"revision": revision, "expires": expires or None}
            _PUT(connection, [rest | {"name": name, "value": value} for name, value in put])
        deleted = 0
        if remove:
            rest = common | {"now": now // 1000}
            deleted = _DELETE(connection, [rest | {"name": name} for name in remove]).changed
        return Written(revision, deleted, str(head[2]))

    return work


def purge(scope: str, now: int) -> Callable[[Connection], tuple[int, list[bytes]]]:
    """Delete a batch of values that expired or were cleared.

    Returns:
        A unit of work that tells how many it deleted, and the names of the cleared ones; to be
        repeated until it deletes none.
    """

    def work(connection: Connection) -> tuple[int, list[bytes]]:
        # Or a writer of the same rows, in another order, and we would wait for each other.
        locked = select(scopes.c.generation).where(scopes.c.scope == scope).with_for_update()
        current = connection.execute(locked).scalar()
        if current is None:
            return 0, []
        # Three statements, each on an index of its own.
        cleared = [
            *_purge(connection, scope, items.c.generation < current),
            *_purge(connection, scope, items.c.generation > current),
        ]
        expired = list(_purge(connection, scope, items.c.expires <= now))
        return len(cleared) + len(expired), cleared

    return work


def _purge(connection: Connection, scope: str, condition: Any) -> Iterator[bytes]:
    found = select(items.c.name).where(items.c.scope == scope, condition).limit(_BATCH)
    names = [bytes(name) for name in connection.execute(found).scalars()]
    if not names:
        return
    # The condition holds for what is there now: it may have been written anew since it was found.
    gone = (
        delete(items)
        .where(items.c.scope == scope, items.c.name.in_(names), condition)
        .returning(items.c.name)
    )
    for name in connection.execute(gone).scalars():
        yield bytes(name)
