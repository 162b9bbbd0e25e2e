"""Filters as the compilers take them: negation only of leaves, equalities of a field gathered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

from redis_tiered.vectors.terms import Term
from redis_tiered.vectors.tree import (
    And,
    Element,
    Equal,
    Filter,
    Not,
    Or,
    Present,
    Range,
    Text,
)

__all__ = ["Joint", "Literal", "Node", "OneOf", "normal"]


class OneOf(NamedTuple):
    """The whole value, or an element of it, equals one of the terms; there is at least one."""

    field: str
    terms: frozenset[Term]
    element: bool


class Literal(NamedTuple):
    """A leaf or its complement."""

    leaf: OneOf | Range | Text | Present
    negated: bool


class Joint(NamedTuple):
    """Two or more nodes: all hold, or at least one does."""

    every: bool
    parts: tuple[Node, ...]


Node = Joint | Literal | bool


def normal(filter: Filter, negated: bool = False) -> Node:
    """The same condition; a bool is the whole of it: everything or nothing.

    Args:
        filter: of any shape.
        negated: whether the complement is asked for.
    """
    if isinstance(filter, Not):
        return normal(filter.part, not negated)
    if isinstance(filter, And | Or):
        parts = [normal(part, negated) for part in filter.parts]
        return joint(isinstance(filter, And) != negated, parts)
    if isinstance(filter, Equal | Element):
        terms = frozenset((filter.term,))
        return Literal(OneOf(filter.field, terms, isinstance(filter, Element)), negated)
    return Literal(cast("Range | Text | Present", filter), negated)


def joint(every: bool, parts: Iterable[Node]) -> Node:
    """Nodes joined: constants gone, joints of the same sort flat, equalities of a field one."""
    flat: list[Node] = []
    gathered: dict[tuple[str, bool], set[Term]] = {}
    for part in parts:
        if isinstance(part, bool):
            if part != every:
                return part
            continue
        inner = part.parts if isinstance(part, Joint) and part.every == every else (part,)
        for each in inner:
            # One of these or one of those; neither of these nor of those.
            if isinstance(each, Literal) and isinstance(each.leaf, OneOf) and each.negated == every:
                key = each.leaf.field, each.leaf.element
                gathered.setdefault(key, set()).update(each.leaf.terms)
            else:
                flat.append(each)
    for (field, element), terms in gathered.items():
        flat.append(Literal(OneOf(field, frozenset(terms), element), every))
    different = tuple(dict.fromkeys(flat))
    if len(different) == 1:
        return different[0]
    return Joint(every, different) if different else every
