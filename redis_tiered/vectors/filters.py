"""Filters over the metadata of documents.

    filter = (Field("year") >= 2020) & Field("lang").is_in(["en", "de"]) & ~Field("draft").present()

A filter is a tree of plain data, the same for every engine. What values are equal and in order
says `redis_tiered.vectors.terms`. A comparison is true or false, never unknown: a field that is
missing equals nothing, so that `Field("x") != 1` holds where there is no `x`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.terms import Kind, Term, checked_field, term
from redis_tiered.vectors.tree import (
    And,
    Element,
    Equal,
    Filter,
    Leaf,
    Not,
    Or,
    Present,
    Range,
    Text,
)

__all__ = [
    "And",
    "Element",
    "Equal",
    "Field",
    "Filter",
    "Leaf",
    "Not",
    "Or",
    "Present",
    "Range",
    "Text",
]


class Field:
    """A field of metadata, to be compared with values: each comparison is a `Filter`.

    Comparisons of order (`<`, `between`, ...) hold only for values of the same kind as the bound:
    numbers, texts by code point, datetimes (those without a time zone are in UTC).

    Args:
        name: of the field, 1 to 256 characters.

    Raises:
        InvalidInput: by the methods: metadata cannot hold a value, or it has no order.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = checked_field("Field", name)

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        """Equals; a list: all its elements in order; None: there is no such field."""
        return self._equal(value, "value")

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return ~self._equal(value, "value")

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, value: object) -> Filter:
        return Range(self.name, None, self._bound(value, "value"), False, True)

    def __le__(self, value: object) -> Filter:
        return Range(self.name, None, self._bound(value, "value"))

    def __gt__(self, value: object) -> Filter:
        return Range(self.name, self._bound(value, "value"), None, True)

    def __ge__(self, value: object) -> Filter:
        return Range(self.name, self._bound(value, "value"), None)

    def between(self, low: object, high: object) -> Filter:
        """From `low` to `high`, both included."""
        return Range(self.name, self._bound(low, "low"), self._bound(high, "high"))

    def is_in(self, values: Iterable[object]) -> Filter:
        """Equals one of the values; None among them: or there is no such field."""
        return Or(tuple([self._equal(value, where) for where, value in _listed(values)]))

    def not_in(self, values: Iterable[object]) -> Filter:
        """Equals none of the values."""
        return ~self.is_in(values)

    def contains(self, value: object) -> Filter:
        """Is a list with an element that equals."""
        return self._element(value, "value")

    def any_of(self, values: Iterable[object]) -> Filter:
        """Is a list with at least one of the values."""
        return Or(tuple([self._element(value, where) for where, value in _listed(values)]))

    def all_of(self, values: Iterable[object]) -> Filter:
        """Is a list with each of the values; if there are none, everything."""
        return And(tuple([self._element(value, where) for where, value in _listed(values)]))

    def text(self, needle: str, *, case_sensitive: bool = True) -> Filter:
        """Is a str that has the needle in it."""
        return Text(self.name, needle, not case_sensitive)

    def present(self) -> Filter:
        """Is there and not None."""
        return Present(self.name)

    def is_empty(self) -> Filter:
        """Is missing, None, "" or []."""
        return Or((Not(Present(self.name)), self == "", self == []))

    def __bool__(self) -> bool:
        raise InvalidInput("a Field is neither true nor false: compare it with a value")

    def __repr__(self) -> str:
        return f"Field({self.name!r})"

    def _equal(self, value: object, where: str) -> Filter:
        found = term(value, f"{where} for field {self.name!r}")
        if found is None:
            return Not(Present(self.name))
        return Or(()) if found.equals_nothing else Equal(self.name, found)

    def _element(self, value: object, where: str) -> Filter:
        where = f"{where} for field {self.name!r}"
        found = term(value, where)
        if found is None:
            raise InvalidInput(f"{where} must be what a list's element can equal, got None")
        return Or(()) if found.equals_nothing else Element(self.name, found)

    def _bound(self, value: object, where: str) -> Term:
        where = f"{where} for field {self.name!r}"
        found = term(value, where)
        if found is None or found.kind not in Kind.ORDERED:
            raise InvalidInput(
                f"{where} must be a number, str or datetime, got {type(value).__name__}"
            )
        return found


def _listed(values: object) -> list[tuple[str, object]]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInput(f"values must be an iterable of values, got {type(values).__name__}")
    return [(f"values[{number}]", value) for number, value in enumerate(values)]
