"""Which documents a statement is about, and what it gives of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    LargeBinary,
    ScalarSelect,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from redis_tiered.tiers.schema import collections, documents
from redis_tiered.vectors.document import Row
from redis_tiered.vectors.filters import Filter

__all__ = [
    "ROW",
    "SHIFT",
    "among_ids",
    "among_numbers",
    "base",
    "criteria",
    "given_ids",
    "given_numbers",
    "row_of",
    "selected",
    "version_of",
]

# A change's number is the serial of its collection times this, plus its version.
SHIFT: Final = 1 << 40
ROW: Final = (
    documents.c.number,
    documents.c.id,
    documents.c.vector,
    documents.c.metadata,
    documents.c.text,
    documents.c.payload,
    documents.c.parent,
    documents.c.expires,
)
_NO_VECTOR: Final = cast(literal_column("''"), LargeBinary).label("vector")


def version_of(number: int) -> int:
    """The version in a change's number."""
    return number % SHIFT


def row_of(columns: Sequence[Any]) -> Row:
    """A row from what `selected` gives."""
    number, id, vector, metadata, text, payload, parent, expires = columns
    return Row(
        number % SHIFT,
        bytes(id),
        bytes(vector),
        bytes(metadata),
        bytes(text),
        bytes(payload),
        bytes(parent),
        expires,
    )


def selected(*, vectors: bool = True) -> Select[Any]:
    """Documents as `row_of` reads them; without vectors those are empty."""
    return select(*ROW) if vectors else select(*ROW[:2], _NO_VECTOR, *ROW[3:])


def base(scope: str | None = None) -> ScalarSelect[int]:
    """The number of version 0 of a collection, NULL if there is none.

    Args:
        scope: of the collection; None: parameter `in_scope`.
    """
    if scope is None:
        own: BindParameter[Any] = bindparam("in_scope", type_=Text())
    else:
        own = bindparam("scope", scope, type_=Text(), unique=True)
    number = select(collections.c.serial * literal_column(str(SHIFT)))
    return number.where(collections.c.scope == own).scalar_subquery()


def among_ids(
    dialect: str, column: ColumnElement[bytes], name: str, *, nul: bool = False, value: Any = None
) -> ColumnElement[bool]:
    """Whether an id is among those that `given_ids` made a parameter of.

    Args:
        dialect: "sqlite" or "postgresql".
        column: of ids.
        name: of the parameter.
        nul: as `given_ids` has it.
        value: the same; None: it comes when the statement is executed.
    """
    if dialect == "postgresql":
        return column == any_(_parameter(name, value, ARRAY(LargeBinary)))
    each = func.json_each(_parameter(name, value, Text())).table_valued("value").c.value
    if nul:  # at which JSON in SQLite ends a text; no index knows hexadecimal
        return func.hex(column).in_(select(each))
    return column.in_(select(cast(each, LargeBinary)))


def given_ids(dialect: str, ids: Sequence[bytes]) -> tuple[Any, bool]:
    """Ids as a parameter, and whether the statement must do without SQLite's index."""
    if dialect == "postgresql":
        return list(ids), False
    nul = any(b"\0" in id for id in ids)
    texts = [id.hex().upper() if nul else id.decode() for id in ids]
    return orjson.dumps(texts).decode(), nul


def among_numbers(
    dialect: str, column: ColumnElement[int], name: str, value: Any = None
) -> ColumnElement[bool]:
    """Whether a number is among those that `given_numbers` made a parameter of."""
    if dialect == "postgresql":
        return column == any_(_parameter(name, value, ARRAY(BigInteger)))
    each = func.json_each(_parameter(name, value, Text())).table_valued("value").c.value
    return column.in_(select(each))


def given_numbers(dialect: str, numbers: Sequence[int]) -> Any:
    """Numbers as a parameter."""
    return list(numbers) if dialect == "postgresql" else orjson.dumps(numbers).decode()


def _parameter(name: str, value: Any, kind: Any) -> BindParameter[Any]:
    if value is None:
        return bindparam(name, type_=kind)
    return bindparam(name, value, type_=kind, unique=True)


def criteria(
    dialect: str,
    scope: str,
    *,
    where: Filter | None = None,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
    now: int | None = None,
    joined: bool = False,
) -> list[ColumnElement[bool]]:
    """Conditions on `documents`, all of which must hold.

    Args:
        dialect: "sqlite" or "postgresql".
        scope: of the collection.
        where: what metadata must satisfy; None: anything.
        ids, parents: the only ones wanted; None: any.
        now: milliseconds since 1970; leaves out what expired. None: leaves out nothing.
        joined: the statement itself sees to it that the documents are of this collection: by
            numbers, or by a join with a table that has no others. PostgreSQL would take a second
            condition on numbers for one that leaves few documents.
    """
    found: list[ColumnElement[bool]] = []
    if ids is not None or parents is not None:
        found.append(documents.c.scope == scope)
    elif not joined:
        # In order of number without sorting, and no index is between.
        first = base(scope)
        found.append(documents.c.number > first)
        found.append(documents.c.number < first + literal_column(str(SHIFT)))
    if ids is not None:
        value, nul = given_ids(dialect, ids)
        found.append(among_ids(dialect, documents.c.id, "ids", nul=nul, value=value))
    if parents is not None:
        # Said so, or the index of documents that have a parent is not used.
        found.append(func.length(documents.c.parent) > literal_column("0"))
        value, nul = given_ids(dialect, parents)
        found.append(among_ids(dialect, documents.c.parent, "parents", nul=nul, value=value))
    if now is not None:
        found.append(or_(documents.c.expires.is_(None), documents.c.expires > now))
    if where is not None:
        from redis_tiered.vectors import sql

        found.append(sql.compile(where, documents.c.number))
    return found
