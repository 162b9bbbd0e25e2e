"""Filters as SQL over the table `fields`, for SQLite and PostgreSQL.

A condition looks at the rows of one document, by the primary key of `fields`. But a few of the
equalities that all that is looked for must have are found by their hashes; these may name documents
of other collections, and who asks restricts the documents to their own anyway.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Integer,
    Select,
    and_,
    exists,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from redis_tiered.tiers.schema import fields
from redis_tiered.vectors.normal import Joint, Literal, Node, OneOf, normal
from redis_tiered.vectors.terms import Kind, Term, hashed
from redis_tiered.vectors.tree import Filter, Present, Range

__all__ = ["compile"]

_row = fields.alias("field")
_WHOLE: Final[ColumnElement[int]] = literal_column("-1", Integer)
_FIRST: Final[ColumnElement[int]] = literal_column("0", Integer)
_ONE: Final[ColumnElement[int]] = literal_column("1", Integer)
_WIDTH: Final = 32
_LEADING: Final = 4  # found by their hashes: of these the planner can begin with the rarest


class _Place(FunctionElement[int]):
    """Where in bytes other bytes begin, from 1; 0: nowhere."""

    type = Integer()
    inherit_cache = True


@compiles(_Place, "sqlite")
def _place_in_sqlite(element: _Place, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(_Place, "postgresql")
def _place_in_postgresql(element: _Place, compiler: Any, **options: Any) -> str:
    # strpos knows no bytea; qualified, position takes its arguments as any function does.
    return f"pg_catalog.position({compiler.process(element.clauses, **options)})"


class _Group(FunctionElement[bool]):
    """A condition in parentheses that SQLAlchemy does not take away."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self  # on SQLite, a function that stands for a condition becomes "... = 1"


@compiles(_Group)
def _group(element: _Group, compiler: Any, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **options)})"


def compile(filter: Filter, number: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition that a document passes the filter.

    It takes at most three parameters for each comparison of the filter.

    Args:
        filter: any.
        number: the column of the document's number in the statement it is for.
    """
    node = normal(filter)
    if isinstance(node, bool):
        return true() if node else false()
    parts = node.parts if isinstance(node, Joint) and node.every else (node,)
    equalities = [
        (len(part.leaf.terms), at)
        for at, part in enumerate(parts)
        if isinstance(part, Literal) and isinstance(part.leaf, OneOf) and not part.negated
    ]
    leading = frozenset(parts[at] for _, at in sorted(equalities)[:_LEADING])
    return _compiled(node, number, leading)[1]


def _compiled(
    node: Node, number: ColumnElement[int], leading: frozenset[Node]
) -> tuple[int, ColumnElement[bool]]:
    """A condition, and how much of SQLite's parser it takes.

    That parser had a stack of 100 places before SQLite 3.46. What stands in parentheses first in
    a joint takes one of them, what stands later three. And an expression is at most 1000 deep, as
    deep as a joint is long: hence the groups.
    """
    assert not isinstance(node, bool)
    if isinstance(node, Literal):
        return 0, _literal(node, number, node in leading)
    nested: frozenset[Node] = frozenset()
    parts = [
        _compiled(part, number, leading if isinstance(part, Literal) else nested)
        for part in node.parts
    ]
    parts.sort(key=lambda part: part[0], reverse=True)
    join = and_ if node.every else or_
    deep = max(parts[0][0] + 1, parts[1][0] + 3)
    made = [part for _, part in parts]
    if len(made) > _WIDTH:
        groups = range(1, len(made), _WIDTH)
        made[1:] = [_Group(join(*made[at : at + _WIDTH])) for at in groups]
    return deep, join(*made)


def _literal(node: Literal, number: ColumnElement[int], leads: bool) -> ColumnElement[bool]:
    leaf = node.leaf
    conditions = [_row.c.name == leaf.field.encode()]
    element = isinstance(leaf, OneOf) and leaf.element
    conditions.append(_row.c.position >= _FIRST if element else _row.c.position == _WHOLE)
    if isinstance(leaf, OneOf):
        conditions.append(_equal(leaf.terms))
        if leads:
            name = leaf.field.encode()
            hashes = [hashed(name, term, element) for term in leaf.terms]
            return number.in_(select(_row.c.document).where(_row.c.hash.in_(hashes), *conditions))
    elif isinstance(leaf, Range):
        conditions.append(_row.c.kind == _kind(leaf.kind))
        if leaf.low is not None:
            key = leaf.low.key
            conditions.append(_row.c.key > key if leaf.low_open else _row.c.key >= key)
        if leaf.high is not None:
            key = leaf.high.key
            conditions.append(_row.c.key < key if leaf.high_open else _row.c.key <= key)
    elif not isinstance(leaf, Present):
        conditions.append(_row.c.kind == _kind(Kind.TEXT))
        if leaf.needle:
            # UTF-8: a character begins nowhere within another.
            text = func.coalesce(_row.c.folded, _row.c.key) if leaf.fold else _row.c.key
            needle = literal(leaf.needle.encode(), fields.c.key.type)
            conditions.append(_Place(text, needle) > _FIRST)
    one: Select[Any] = select(_ONE).where(_row.c.document == number, *conditions)
    # PostgreSQL would make a join of it, over the rows of all tenants; of hundreds it takes minutes
    # to plan them. It leaves alone what has an OFFSET.
    found = exists(one.correlate_except(_row).limit(_ONE).offset(_FIRST))
    return not_(found) if node.negated else found


def _equal(terms: frozenset[Term]) -> ColumnElement[bool]:
    kinds: defaultdict[str, list[bytes]] = defaultdict(list)
    for kind, key in terms:
        kinds[kind].append(key)
    return or_(
        *[
            and_(
                _row.c.kind == _kind(kind),
                _row.c.key == keys[0] if len(keys) == 1 else _row.c.key.in_(keys),
            )
            for kind, keys in sorted(kinds.items())
        ]
    )


def _kind(kind: str) -> ColumnElement[str]:
    assert kind in Kind.ALL
    return literal_column(f"'{kind}'")
